package text

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// ranges reads "1,3-5,7-,-2".
func ranges(list string) (func(int) bool, error) {
	type span struct{ a, b int }
	var ss []span
	for _, p := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		a, b, isRange := strings.Cut(p, "-")
		sp := span{1, 1 << 30}
		var err1, err2 error
		if a != "" {
			sp.a, err1 = strconv.Atoi(a)
		}
		if !isRange {
			sp.b = sp.a
		} else if b != "" {
			sp.b, err2 = strconv.Atoi(b)
		}
		switch {
		case errors.Join(err1, err2) != nil || a == "" && b == "":
			return nil, fmt.Errorf("invalid field value '%s'", p)
		case sp.a < 1:
			return nil, errors.New("fields are numbered from 1")
		case sp.b < sp.a:
			return nil, errors.New("invalid decreasing range")
		}
		ss = append(ss, sp)
	}
	if ss == nil {
		return nil, errors.New("fields are numbered from 1")
	}
	return func(n int) bool {
		for _, s := range ss {
			if n >= s.a && n <= s.b {
				return true
			}
		}
		return false
	}, nil
}

func cut(e *tools.Env) error {
	var which []string
	for _, o := range []string{"b", "c", "f"} {
		if e.On(o) {
			which = append(which, o)
		}
	}
	delim := e.Or("d", "\t")
	switch {
	case len(which) == 0:
		return tools.Usage("you must specify a list of bytes, characters, or fields")
	case len(which) > 1:
		return tools.Usage("only one type of list may be specified")
	case len(delim) > 1:
		return tools.Usage("the delimiter must be a single character")
	case which[0] != "f" && e.On("d", "s"):
		return tools.Usage("an input delimiter may be specified only when operating on fields")
	case delim == "":
		delim = "\x00"
	}
	in, err := ranges(e.Val(which[0]))
	if err != nil {
		return tools.Usage("%v", err)
	}
	want := func(i int) bool { return in(i+1) != e.On("complement") }
	end := e.End("z")
	return e.Each(func(_ string, r io.Reader) error {
		for l, err := range tools.Lines(r, end) {
			if err != nil {
				return err
			}
			l = tools.Chomp(l, end)
			if which[0] == "f" {
				cutFields(e, l, delim, end, want)
			} else {
				cutBytes(e, l, end, want)
			}
		}
		return nil
	})
}

func cutBytes(e *tools.Env, l []byte, end byte, want func(int) bool) {
	sep, gap, any := e.Val("output-delimiter"), false, false
	for i, c := range l {
		if !want(i) {
			gap = true
			continue
		}
		if any && gap {
			e.Out.WriteString(sep)
		}
		e.Out.WriteByte(c)
		any, gap = true, false
	}
	e.Out.WriteByte(end)
}

func cutFields(e *tools.Env, l []byte, delim string, end byte, want func(int) bool) {
	parts := strings.Split(string(l), delim)
	if len(parts) == 1 {
		if !e.On("s") {
			e.Printf("%s%c", l, end)
		}
		return
	}
	var out []string
	for i, p := range parts {
		if want(i) {
			out = append(out, p)
		}
	}
	e.Printf("%s%c", strings.Join(out, e.Or("output-delimiter", delim)), end)
}

var classes = map[string]func(c byte) bool{
	"alnum": func(c byte) bool { return isAlpha(c) || isDigit(c) }, "alpha": isAlpha, "digit": isDigit,
	"blank": func(c byte) bool { return c == ' ' || c == '\t' }, "cntrl": func(c byte) bool { return c < 32 || c == 127 },
	"graph": func(c byte) bool { return c > 32 && c < 127 }, "print": func(c byte) bool { return c >= 32 && c < 127 },
	"lower": func(c byte) bool { return c >= 'a' && c <= 'z' }, "upper": func(c byte) bool { return c >= 'A' && c <= 'Z' },
	"punct": func(c byte) bool { return c > 32 && c < 127 && !isAlpha(c) && !isDigit(c) },
	"space": func(c byte) bool { return c == ' ' || c >= 9 && c <= 13 },
	"xdigit": func(c byte) bool {
		return isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
	},
}

func isAlpha(c byte) bool { return tools.IsAlpha(c) }
func isDigit(c byte) bool { return tools.IsDigit(c) }

// set reads a set of tr: characters, escapes, ranges, classes, [x*n]. fill is the length
// that [x*] grows to.
func set(s string, fill int) ([]byte, error) {
	var out []byte
	star := -1
	var pad byte
	for i := 0; i < len(s); {
		if strings.HasPrefix(s[i:], "[:") {
			if j := strings.Index(s[i:], ":]"); j > 0 {
				in, ok := classes[s[i+2:i+j]]
				if !ok {
					return nil, fmt.Errorf("invalid character class '%s'", s[i+2:i+j])
				}
				for c := range 256 {
					if in(byte(c)) {
						out = append(out, byte(c))
					}
				}
				i += j + 2
				continue
			}
		}
		if c, n, length := repeated(s[i:]); length > 0 {
			if n == 0 {
				star, pad = len(out), c
			}
			out = append(out, bytes.Repeat([]byte{c}, n)...)
			i += length
			continue
		}
		c, n := escape(s[i:])
		i += n
		if i+1 < len(s) && s[i] == '-' {
			to, n := escape(s[i+1:])
			if to < c {
				return nil, fmt.Errorf("range-endpoints of '%c-%c' are in reverse collating sequence order", c, to)
			}
			for x := int(c); x <= int(to); x++ {
				out = append(out, byte(x))
			}
			i += 1 + n
			continue
		}
		out = append(out, c)
	}
	if star >= 0 {
		out = append(out[:star:star], append(bytes.Repeat([]byte{pad}, max(0, fill-len(out))), out[star:]...)...)
	}
	return out, nil
}

// repeated reads "[x*n]"; length is 0 where s does not begin with it.
func repeated(s string) (c byte, n, length int) {
	if len(s) < 4 || s[0] != '[' {
		return 0, 0, 0
	}
	c, k := escape(s[1:])
	j := strings.IndexByte(s[k:], ']') + k
	if s[1+k] != '*' || j < 2+k {
		return 0, 0, 0
	}
	v, err := strconv.ParseInt("0"+s[2+k:j], 0, 32)
	if err != nil {
		return 0, 0, 0
	}
	return c, int(v), j + 1
}

// escape reads one character, which may be an escape, and the number of bytes it has.
func escape(s string) (byte, int) {
	if s[0] != '\\' || len(s) == 1 {
		return s[0], 1
	}
	if i := strings.IndexByte(`\abfnrtv`, s[1]); i >= 0 {
		return "\\\a\b\f\n\r\t\v"[i], 2
	}
	n := 1
	for n < len(s) && n < 4 && s[n] >= '0' && s[n] <= '7' {
		n++
	}
	if n > 1 {
		v, _ := strconv.ParseUint(s[1:n], 8, 16) // only octal digits
		return byte(v), n
	}
	return s[1], 2
}

// trTable is what tr does with each byte.
type trTable struct {
	to           [256]byte
	drop, squash [256]bool
}

func newTable(e *tools.Env) (*trTable, error) {
	t := &trTable{}
	for i := range t.to {
		t.to[i] = byte(i)
	}
	one, err := set(e.Args[0], 0)
	if err != nil {
		return nil, err
	}
	if e.On("c") {
		all := t.to[:]
		one = slices.DeleteFunc(slices.Clone(all), func(c byte) bool { return bytes.IndexByte(one, c) >= 0 })
	}
	last := one
	if len(e.Args) == 2 {
		two, err := set(e.Args[1], len(one))
		if err != nil {
			return nil, err
		}
		if len(two) == 0 && !e.On("d") {
			return nil, errors.New("when not truncating set1, string2 must be non-empty")
		}
		last = two
		for i, c := range one {
			if !e.On("d") && (i < len(two) || !e.On("t")) {
				t.to[c] = two[min(i, len(two)-1)]
			}
		}
	}
	for _, c := range one {
		t.drop[c] = e.On("d")
	}
	for _, c := range last {
		t.squash[c] = e.On("s")
	}
	return t, nil
}

func tr(e *tools.Env) error {
	least, most := 2, 2
	switch del, squeeze := e.On("d"), e.On("s"); {
	case del && !squeeze:
		least, most = 1, 1
	case squeeze && !del:
		least = 1
	}
	if err := e.Need(least, most); err != nil {
		return err
	}
	t, err := newTable(e)
	if err != nil {
		return err
	}
	br := bufio.NewReaderSize(e.In, 1<<16)
	for before := -1; ; {
		c, err := br.ReadByte()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read error: %s", tools.Cause(err))
		}
		if t.drop[c] {
			continue
		}
		if c = t.to[c]; t.squash[c] && int(c) == before {
			continue
		}
		before = int(c)
		if err := e.Out.WriteByte(c); err != nil {
			return nil // reported at the end
		}
	}
}

func uniq(e *tools.Env) error {
	if err := e.Need(0, 2); err != nil {
		return err
	}
	fields, err := e.Int("f", 0)
	chars, err2 := e.Int("s", 0)
	width, err3 := e.Int("w", 1<<30)
	if err := errors.Join(err, err2, err3); err != nil {
		return err
	}
	end := e.End("z")
	key := func(l []byte) []byte {
		k := l
		for range fields {
			k = bytes.TrimLeft(k, " \t")
			if i := bytes.IndexAny(k, " \t"); i >= 0 {
				k = k[i:]
			} else {
				k = nil
			}
		}
		k = k[min(chars, len(k)):]
		k = k[:min(width, len(k))]
		if e.On("i") {
			k = bytes.ToLower(k)
		}
		return k
	}
	var w io.Writer = e.Out
	if len(e.Args) == 2 {
		f, err := os.Create(e.Args[1])
		if err != nil {
			return fmt.Errorf("%s: %s", e.Args[1], tools.Cause(err))
		}
		defer f.Close()
		w = f
		e.Args = e.Args[:1]
	}
	var group [][]byte
	flush := func() {
		n := len(group)
		if n == 0 || n > 1 && e.On("u") || n == 1 && e.On("d", "D") {
			return
		}
		out := group[:1]
		if e.On("D") {
			out = group
		}
		for _, l := range out {
			if e.On("c") {
				fmt.Fprintf(w, "%7d ", n)
			}
			fmt.Fprintf(w, "%s%c", l, end)
		}
	}
	err = e.Each(func(_ string, r io.Reader) error {
		for l, err := range tools.Lines(r, end) {
			if err != nil {
				return err
			}
			l = bytes.Clone(tools.Chomp(l, end))
			if len(group) > 0 && !bytes.Equal(key(group[0]), key(l)) {
				flush()
				group = group[:0]
			}
			group = append(group, l)
		}
		return nil
	})
	flush()
	return err
}

// commFile is one of comm's files, with its current line.
type commFile struct {
	r            *bufio.Reader
	line         string
	ok, disorder bool
	end          byte
}

func (f *commFile) next() {
	before, had := f.line, f.ok
	s, err := f.r.ReadString(f.end)
	f.line, f.ok = strings.TrimSuffix(s, string(f.end)), err == nil || s != ""
	f.disorder = f.disorder || f.ok && had && f.line < before
}

func comm(e *tools.Env) error {
	if err := e.Need(2, 2); err != nil {
		return err
	}
	var fs [2]*commFile
	for i := range fs {
		f, err := e.Open(e.Args[i])
		if err != nil {
			return err
		}
		defer f.Close()
		fs[i] = &commFile{r: bufio.NewReader(f), end: e.End("z")}
		fs[i].next()
	}
	tab := e.Or("output-delimiter", "\t")
	put := func(column int, s string) {
		if e.On(strconv.Itoa(column)) {
			return
		}
		for c := 1; c < column; c++ {
			if !e.On(strconv.Itoa(c)) {
				e.Out.WriteString(tab)
			}
		}
		e.Printf("%s%c", s, e.End("z"))
	}
	a, b := fs[0], fs[1]
	unpaired := false
	for a.ok || b.ok {
		switch {
		case !b.ok || a.ok && a.line < b.line:
			put(1, a.line)
			unpaired = true
			a.next()
		case !a.ok || b.line < a.line:
			put(2, b.line)
			unpaired = true
			b.next()
		default:
			put(3, a.line)
			a.next()
			b.next()
		}
	}
	if unpaired && (a.disorder || b.disorder) && !e.On("nocheck-order") {
		return errors.New("input is not in sorted order")
	}
	return nil
}

// pieces makes the files of split, one after the other.
type pieces struct {
	*tools.Env
	prefix string
	width  int
	n      int
}

func (p *pieces) name() (string, error) {
	digits, base := "abcdefghijklmnopqrstuvwxyz", 26
	if p.On("d") {
		digits, base = "0123456789", 10
	}
	suffix, n := "", p.n
	for len(suffix) < p.width {
		suffix, n = digits[n%base:n%base+1]+suffix, n/base
	}
	if p.n++; n > 0 {
		return "", errors.New("output file suffixes exhausted")
	}
	return p.prefix + suffix + p.Val("additional-suffix"), nil
}

func (p *pieces) write(r io.Reader) error {
	name, err := p.name()
	if err != nil {
		return err
	}
	if p.On("verbose") {
		p.Printf("creating file '%s'\n", name)
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

func split(e *tools.Env) error {
	if err := e.Need(0, 2); err != nil {
		return err
	}
	args := append(e.Args, []string{"-", "x"}[min(len(e.Args), 2):]...)
	width, err := e.Int("a", 2)
	if err != nil {
		return err
	}
	p := &pieces{Env: e, prefix: args[1], width: width}
	r, err := e.Open(args[0])
	if err != nil {
		return fmt.Errorf("cannot open %w", err)
	}
	defer r.Close()
	br := bufio.NewReaderSize(r, 1<<16)
	o, ok := e.Last("b", "l", "n")
	if !ok {
		o.Name, o.Value = "l", "1000"
	}
	n, err := tools.Size(o.Value)
	if err != nil || n < 1 {
		return fmt.Errorf("invalid number of lines, bytes or chunks: '%s'", o.Value)
	}
	if f, ok := tools.File(r); o.Name == "n" && ok {
		st, err := f.Stat()
		if err != nil {
			return err
		}
		for i := range n {
			size := st.Size() / n
			if i == n-1 {
				size += st.Size() % n
			}
			if err := p.write(io.LimitReader(br, size)); err != nil {
				return err
			}
		}
		return nil
	}
	for {
		if _, err := br.Peek(1); errors.Is(err, io.EOF) {
			return nil
		}
		var part io.Reader = io.LimitReader(br, n)
		if o.Name == "l" {
			part = &firstLines{br, n}
		}
		if err := p.write(part); err != nil {
			return err
		}
	}
}

// firstLines reads the next n lines.
type firstLines struct {
	r *bufio.Reader
	n int64
}

func (f *firstLines) Read(p []byte) (int, error) {
	if f.n == 0 {
		return 0, io.EOF
	}
	if _, err := f.r.Peek(1); err != nil {
		return 0, err
	}
	b, err := f.r.Peek(max(1, min(f.r.Buffered(), len(p))))
	if err != nil {
		return 0, err
	}
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		b = b[:i+1]
		f.n--
	}
	return f.r.Read(p[:len(b)])
}
