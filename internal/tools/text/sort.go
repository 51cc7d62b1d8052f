package text

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func sortCommands() []tools.Command {
	return []tools.Command{
		{Name: "sort", Opts: "b/ignore-leading-blanks d/dictionary-order f/ignore-case g/general-numeric-sort h/human-numeric-sort i/ignore-nonprinting M/month-sort n/numeric-sort R/random-sort r/reverse V/version-sort c/check? C m/merge s/stable u/unique z/zero-terminated k/key: t/field-separator: o/output: T/temporary-directory: S/buffer-size: parallel:", Synopsis: "[FILE]...", Bad: 2, Run: sortLines},
		{Name: "shuf", Opts: "n/head-count: e/echo i/input-range: z/zero-terminated", Synopsis: "[FILE]", Run: shuf},
	}
}

// sortKey is one -k: from field.char up to field.char, counted from 1; 0 is the end.
type sortKey struct {
	field, char, endField, endChar int
	opts                           string
	endBlanks                      bool
}

func parseKey(s string) (k sortKey, err error) {
	pos := func(s string) (field, char int, opts string, err error) {
		i := strings.IndexFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
		if i >= 0 {
			s, opts = s[:i], s[i:]
		}
		f, c, dot := strings.Cut(s, ".")
		field, err = strconv.Atoi(f)
		if err == nil && dot {
			char, err = strconv.Atoi(c)
		}
		if strings.Trim(opts, "bdfghiMnRrV") != "" {
			err = errors.New("unknown letter")
		}
		return field, char, opts, err
	}
	from, to, hasEnd := strings.Cut(s, ",")
	if k.field, k.char, k.opts, err = pos(from); err == nil && hasEnd {
		var o string
		k.endField, k.endChar, o, err = pos(to)
		k.endBlanks = strings.Contains(o, "b")
		k.opts += o
		if err == nil && !strings.Contains(from, "b") && k.endBlanks {
			k.opts = strings.ReplaceAll(k.opts, "b", "")
		}
	}
	if err != nil {
		return k, fmt.Errorf("invalid number at field start: invalid count at start of '%s'", s)
	}
	if k.field == 0 {
		return k, fmt.Errorf("-: invalid field specification '%s': field number is zero", s)
	}
	return k, nil
}

// fields gives the begins and ends of the fields of a line. Without a separator a field
// has the blanks before it.
func fields(l []byte, sep string) [][2]int {
	var out [][2]int
	if sep != "" {
		at := 0
		for i, c := range l {
			if c == sep[0] {
				out = append(out, [2]int{at, i})
				at = i + 1
			}
		}
		return append(out, [2]int{at, len(l)})
	}
	blank := func(c byte) bool { return c == ' ' || c == '\t' }
	for at := 0; at < len(l); {
		i := at
		for i < len(l) && blank(l[i]) {
			i++
		}
		for i < len(l) && !blank(l[i]) {
			i++
		}
		out = append(out, [2]int{at, i})
		at = i
	}
	return out
}

func (k sortKey) of(l []byte, sep string) []byte {
	if k.field == 0 {
		return l
	}
	f := fields(l, sep)
	at := func(field, char int, blanks bool) int {
		if field > len(f) {
			return len(l)
		}
		i := f[field-1][0]
		for blanks && i < len(l) && (l[i] == ' ' || l[i] == '\t') {
			i++
		}
		return min(i+char, len(l))
	}
	begin := at(k.field, max(k.char-1, 0), strings.Contains(k.opts, "b"))
	end := len(l)
	switch {
	case k.endField > 0 && k.endChar == 0 && k.endField <= len(f):
		end = f[k.endField-1][1]
	case k.endField > 0 && k.endChar > 0:
		end = at(k.endField, k.endChar, k.endBlanks)
	}
	return l[min(begin, end):end]
}

// compare compares two keys by the option letters.
func compare(a, b []byte, opts string) int {
	if strings.ContainsAny(opts, "b") || strings.ContainsAny(opts, "nhgM") {
		a, b = bytes.TrimLeft(a, " \t"), bytes.TrimLeft(b, " \t")
	}
	r := 0
	switch {
	case strings.Contains(opts, "n"):
		r = tools.Numeric(a, b)
	case strings.Contains(opts, "h"):
		r = cmp.Or(cmp.Compare(magnitude(a), magnitude(b)), tools.Numeric(a, b))
	case strings.Contains(opts, "g"):
		r = cmp.Compare(float(a), float(b))
	case strings.Contains(opts, "M"):
		r = cmp.Compare(month(a), month(b))
	case strings.Contains(opts, "V"):
		r = tools.Version(string(a), string(b))
	case strings.ContainsAny(opts, "fdi"):
		r = bytes.Compare(folded(a, opts), folded(b, opts))
	default:
		r = bytes.Compare(a, b)
	}
	if strings.Contains(opts, "r") {
		return -r
	}
	return r
}

func folded(a []byte, opts string) []byte {
	out := make([]byte, 0, len(a))
	for _, c := range a {
		if strings.Contains(opts, "d") && !isAlpha(c) && !isDigit(c) && c != ' ' && c != '\t' || strings.Contains(opts, "i") && (c < 32 || c > 126) {
			continue
		}
		if strings.Contains(opts, "f") && c >= 'a' && c <= 'z' {
			c -= 32
		}
		out = append(out, c)
	}
	return out
}

// magnitude is the rank of a number's suffix, with its sign.
func magnitude(a []byte) int {
	neg, w, r := tools.Number(a)
	if len(w)+len(r) == 0 {
		return 0
	}
	i := bytes.IndexFunc(bytes.TrimPrefix(a, []byte("-")), func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	n := 0
	if i >= 0 {
		n = strings.IndexByte("KMGTPEZY", strings.ToUpper(string(bytes.TrimPrefix(a, []byte("-"))[i : i+1]))[0]) + 1
	}
	if neg {
		return -n
	}
	return n
}

func float(a []byte) float64 {
	for n := len(a); n > 0; n-- {
		if f, err := strconv.ParseFloat(string(a[:n]), 64); err == nil {
			return f
		}
		if i, err := strconv.ParseInt(string(a[:n]), 0, 64); err == nil {
			return float64(i)
		}
	}
	return math.Inf(-1)
}

func month(a []byte) int {
	if len(a) < 3 {
		return -1
	}
	return strings.Index("JANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC", strings.ToUpper(string(a[:3])))
}

// sorter is one run of sort.
type sorter struct {
	*tools.Env
	keys   []sortKey
	global string
	sep    string
	end    byte
	lines  [][]byte
}

func (s *sorter) options() error {
	for _, o := range s.All() {
		if len(o.Name) == 1 && strings.Contains("bdfghiMnRrV", o.Name) {
			s.global += o.Name
		}
	}
	for _, v := range s.Vals("k") {
		k, err := parseKey(v)
		if err != nil {
			return err
		}
		if k.opts == "" {
			k.opts = s.global
		}
		s.keys = append(s.keys, k)
	}
	if s.keys == nil {
		s.keys = []sortKey{{opts: s.global}}
	}
	if s.sep = s.Val("t"); s.sep == `\0` {
		s.sep = "\x00"
	}
	if s.On("t") && len(s.sep) != 1 {
		return fmt.Errorf("multi-character tab '%s'", s.sep)
	}
	return nil
}

func (s *sorter) byKeys(a, b []byte) int {
	for _, k := range s.keys {
		if r := compare(k.of(a, s.sep), k.of(b, s.sep), k.opts); r != 0 {
			return r
		}
	}
	return 0
}

// order compares by the keys and then, unless -s or -u was given, by the whole line.
func (s *sorter) order(a, b []byte) int {
	r := s.byKeys(a, b)
	switch {
	case r != 0 || s.On("s", "u"):
		return r
	case strings.Contains(s.global, "r"):
		return bytes.Compare(b, a)
	}
	return bytes.Compare(a, b)
}

func (s *sorter) read() error {
	err := s.Each(func(_ string, r io.Reader) error {
		b, err := io.ReadAll(r)
		if len(b) > 0 {
			s.lines = slices.AppendSeq(s.lines, bytes.SplitSeq(bytes.TrimSuffix(b, []byte{s.end}), []byte{s.end}))
		}
		return err
	})
	if s.Failed() {
		return tools.Status(2)
	}
	return err
}

// check finds the first line that is out of order.
func (s *sorter) check() error {
	for i := 1; i < len(s.lines); i++ {
		if r := s.order(s.lines[i-1], s.lines[i]); r > 0 || r == 0 && s.On("u") {
			if s.On("c") {
				fmt.Fprintf(s.Err, "sort: %s:%d: disorder: %s\n", append(s.Args, "-")[0], i+1, s.lines[i])
			}
			return tools.Status(1)
		}
	}
	return nil
}

func sortLines(e *tools.Env) error {
	s := &sorter{Env: e, end: e.End("z")}
	if err := s.options(); err != nil {
		return err
	}
	if err := s.read(); err != nil {
		return err
	}
	switch {
	case e.On("c", "C"):
		return s.check()
	case strings.Contains(s.global, "R"):
		rand.Shuffle(len(s.lines), func(i, j int) { s.lines[i], s.lines[j] = s.lines[j], s.lines[i] })
	default:
		slices.SortStableFunc(s.lines, s.order)
	}
	if e.On("u") {
		s.lines = slices.CompactFunc(s.lines, func(a, b []byte) bool { return s.byKeys(a, b) == 0 })
	}
	var w io.Writer = e.Out
	if o := e.Val("o"); o != "" {
		f, err := os.Create(o)
		if err != nil {
			return fmt.Errorf("open failed: %s: %s", o, tools.Cause(err))
		}
		b := bufio.NewWriter(f)
		defer f.Close()
		defer b.Flush()
		w = b
	}
	for _, l := range s.lines {
		if _, err := w.Write(append(l[:len(l):len(l)], s.end)); err != nil {
			return err
		}
	}
	return nil
}

func shuf(e *tools.Env) error {
	end := e.End("z")
	var lines [][]byte
	switch {
	case e.On("e"):
		for _, a := range e.Args {
			lines = append(lines, []byte(a))
		}
	case e.On("i"):
		a, b, _ := strings.Cut(e.Val("i"), "-")
		from, err := strconv.Atoi(a)
		to, err2 := strconv.Atoi(b)
		if err != nil || err2 != nil || to < from {
			return fmt.Errorf("invalid input range: '%s'", e.Val("i"))
		}
		for i := from; i <= to; i++ {
			lines = append(lines, strconv.AppendInt(nil, int64(i), 10))
		}
	default:
		err := e.Each(func(_ string, r io.Reader) error {
			for l, err := range tools.Lines(r, end) {
				if err != nil {
					return err
				}
				lines = append(lines, bytes.Clone(tools.Chomp(l, end)))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	n, err := e.Int("n", len(lines))
	if err != nil {
		return err
	}
	rand.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	for _, l := range lines[:min(n, len(lines))] {
		e.Printf("%s%c", l, end)
	}
	return nil
}
