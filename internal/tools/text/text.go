// Package text has the commands that read text or bytes and print some of it.
package text

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// Commands are the commands of this package.
func Commands() []tools.Command {
	return slices.Concat(textCommands(), sortCommands(), grepCommands(), sedCommands(), printCommands(), dumpCommands(), sumCommands(), diffCommands(), awkCommands(), bcCommands())
}

func textCommands() []tools.Command {
	return []tools.Command{
		{Name: "cat", Opts: "n/number b/number-nonblank s/squeeze-blank E/show-ends T/show-tabs v/show-nonprinting A/show-all e t u", Synopsis: "[FILE]...", Run: cat},
		{Name: "tac", Opts: "s/separator:", Synopsis: "[FILE]...", Run: tac},
		{Name: "rev", Opts: "", Synopsis: "[FILE]...", Run: rev},
		{Name: "head", Opts: "n/lines: c/bytes: q/quiet/silent v/verbose z/zero-terminated 0", Synopsis: "[FILE]...", Run: head},
		{Name: "tail", Opts: "n/lines: c/bytes: q/quiet/silent v/verbose z/zero-terminated f/follow? F retry s/sleep-interval: pid: 0", Synopsis: "[FILE]...", Run: tail},
		{Name: "wc", Opts: "l/lines w/words c/bytes m/chars L/max-line-length", Synopsis: "[FILE]...", Run: wc},
		{Name: "tee", Opts: "a/append i/ignore-interrupts p", Synopsis: "[FILE]...", Run: tee},
		{Name: "nl", Opts: "b/body-numbering: n/number-format: s/number-separator: v/starting-line-number: w/number-width: i/line-increment:", Synopsis: "[FILE]...", Run: nl},
		{Name: "paste", Opts: "d/delimiters: s/serial z/zero-terminated", Synopsis: "[FILE]...", Run: paste},
		{Name: "fold", Opts: "w/width: s/spaces b/bytes 0", Synopsis: "[FILE]...", Run: fold},
		{Name: "expand", Opts: "t/tabs: i/initial", Synopsis: "[FILE]...", Run: expand},
		{Name: "column", Opts: "t/table s/separator: o/output-separator:", Synopsis: "[FILE]...", Run: column},
		{Name: "cut", Opts: "b/bytes: c/characters: f/fields: d/delimiter: s/only-delimited n complement output-delimiter: z/zero-terminated", Synopsis: "OPTION... [FILE]...", Run: cut},
		{Name: "tr", Opts: "+c/C/complement d/delete s/squeeze-repeats t/truncate-set1", Synopsis: "SET1 [SET2]", Run: tr},
		{Name: "uniq", Opts: "c/count d/repeated D u/unique i/ignore-case f/skip-fields: s/skip-chars: w/check-chars: z/zero-terminated", Synopsis: "[INPUT [OUTPUT]]", Run: uniq},
		{Name: "comm", Opts: "1 2 3 output-delimiter: nocheck-order check-order z/zero-terminated", Synopsis: "FILE1 FILE2", Run: comm},
		{Name: "split", Opts: "b/bytes: l/lines: n/number: d/numeric-suffixes a/suffix-length: additional-suffix: verbose", Synopsis: "[FILE [PREFIX]]", Run: split},
	}
}

func cat(e *tools.Env) error {
	show := e.On("v", "A", "e", "t")
	ends, tabs := e.On("E", "A", "e"), e.On("T", "A", "t")
	if !show && !ends && !tabs && !e.On("n", "b", "s") {
		return e.Each(func(_ string, r io.Reader) error { return e.Copy(r) })
	}
	n, blanks, begin := 0, 0, true
	return e.Each(func(_ string, r io.Reader) error {
		for l, err := range tools.Lines(r, '\n') {
			if err != nil {
				return err
			}
			empty := len(l) == 1 && l[0] == '\n' && begin
			if empty {
				blanks++
			} else {
				blanks = 0
			}
			if e.On("s") && blanks > 1 {
				continue
			}
			if begin && (e.On("b") && !empty || e.On("n") && !e.On("b")) {
				n++
				e.Printf("%6d\t", n)
			}
			text := tools.Chomp(l, '\n')
			begin = len(text) < len(l)
			visible(e.Out, text, show, tabs)
			if begin && ends {
				e.Out.WriteByte('$')
			}
			if begin {
				e.Out.WriteByte('\n')
			}
		}
		return nil
	})
}

// visible prints a line with ^X and M-X for what is not printed, as cat -v does.
func visible(w *bufio.Writer, text []byte, show, tabs bool) {
	for _, c := range text {
		if c == '\t' {
			if tabs {
				w.WriteString("^I")
			} else {
				w.WriteByte(c)
			}
			continue
		}
		if show && c >= 128 {
			w.WriteString("M-")
			c -= 128
		}
		switch {
		case show && c < 32:
			w.Write([]byte{'^', c + 64})
		case show && c == 127:
			w.WriteString("^?")
		default:
			w.WriteByte(c)
		}
	}
}

func tac(e *tools.Env) error {
	sep := []byte(e.Or("s", "\n"))
	return e.Each(func(_ string, r io.Reader) error {
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		parts := bytes.SplitAfter(b, sep)
		for _, p := range slices.Backward(parts) {
			e.Out.Write(p)
		}
		return nil
	})
}

func rev(e *tools.Env) error {
	return each(e, func(l []byte) {
		r := []rune(string(l))
		if !utf8.Valid(l) {
			slices.Reverse(l)
			e.Out.Write(l)
			return
		}
		slices.Reverse(r)
		e.Out.WriteString(string(r))
	})
}

// each calls fn for each line of the operands without its newline, and prints the newline
// if there was one.
func each(e *tools.Env, fn func([]byte)) error {
	return e.Each(func(_ string, r io.Reader) error {
		for l, err := range tools.Lines(r, '\n') {
			if err != nil {
				return err
			}
			t := tools.Chomp(l, '\n')
			fn(t)
			if len(t) < len(l) {
				e.Out.WriteByte('\n')
			}
		}
		return nil
	})
}

// count reads the number of head and tail: "-n -5", "-c 1K", "-20".
func count(e *tools.Env) (n int64, bytes bool, sign byte, err error) {
	o, ok := e.Last("n", "c", "0")
	if !ok {
		o.Value = "10"
	}
	v := strings.TrimPrefix(o.Value, " ")
	if v != "" && (v[0] == '-' || v[0] == '+') {
		sign, v = v[0], v[1:]
	}
	if n, err = tools.Size(v); err != nil {
		what := "lines"
		if o.Name == "c" {
			what = "bytes"
		}
		return 0, false, 0, fmt.Errorf("invalid number of %s: '%s'", what, o.Value)
	}
	return n, o.Name == "c", sign, nil
}

// headings prints the name of each file before it where there are several.
func headings(e *tools.Env) func(name string) {
	first := true
	return func(name string) {
		if e.On("q") || len(e.Args) < 2 && !e.On("v") {
			return
		}
		if name == "-" {
			name = "standard input"
		}
		if !first {
			e.Out.WriteByte('\n')
		}
		first = false
		e.Printf("==> %s <==\n", name)
	}
}

func head(e *tools.Env) error {
	n, isBytes, sign, err := count(e)
	if err != nil {
		return err
	}
	title, end := headings(e), e.End("z")
	return e.Each(func(name string, r io.Reader) error {
		title(name)
		if isBytes && sign != '-' {
			_, err := io.Copy(e.Out, io.LimitReader(r, n))
			return err
		}
		if isBytes {
			b, err := io.ReadAll(r)
			e.Out.Write(b[:max(0, int64(len(b))-n)])
			return err
		}
		if n == 0 && sign != '-' {
			return nil
		}
		var kept [][]byte
		i := int64(0)
		for l, err := range tools.Lines(r, end) {
			if err != nil {
				return err
			}
			i++
			if sign != '-' {
				e.Out.Write(l)
				if i == n {
					return nil
				}
				continue
			}
			if kept = append(kept, bytes.Clone(l)); int64(len(kept)) > n {
				e.Out.Write(kept[0])
				kept = kept[1:]
			}
		}
		return nil
	})
}

func tail(e *tools.Env) error {
	n, isBytes, sign, err := count(e)
	if err != nil {
		return err
	}
	title := headings(e)
	err = e.Each(func(name string, r io.Reader) error {
		title(name)
		return last(e, r, n, isBytes, sign == '+')
	})
	if err == nil && e.On("f", "F") {
		return follow(e)
	}
	return err
}

// last prints the last n lines or bytes of r; with from, those from number n on.
func last(e *tools.Env, r io.Reader, n int64, isBytes, from bool) error {
	if from && isBytes {
		if _, err := io.CopyN(io.Discard, r, max(n-1, 0)); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		return e.Copy(r)
	}
	end := e.End("z")
	if isBytes {
		if f, ok := tools.File(r); ok {
			if size, err := f.Seek(0, io.SeekEnd); err == nil {
				_, err = f.Seek(max(0, size-n), io.SeekStart)
				if err != nil {
					return err
				}
			}
		}
		b, err := io.ReadAll(r)
		e.Out.Write(b[max(0, int64(len(b))-n):])
		return err
	}
	// A log of gigabytes is read from its end.
	if f, ok := tools.File(r); ok && !from {
		if size, err := f.Seek(0, io.SeekEnd); err == nil {
			off, err := startOfLast(f, size, n, end)
			if err != nil {
				return err
			}
			if _, err := f.Seek(off, io.SeekStart); err != nil {
				return err
			}
			return e.Copy(f)
		}
	}
	return lastLines(e, r, n, from)
}

func lastLines(e *tools.Env, r io.Reader, n int64, from bool) error {
	var kept [][]byte
	i := int64(0)
	for l, err := range tools.Lines(r, e.End("z")) {
		if err != nil {
			return err
		}
		i++
		switch {
		case from && i >= n:
			e.Out.Write(l)
		case !from:
			if kept = append(kept, bytes.Clone(l)); int64(len(kept)) > n {
				kept = kept[1:]
			}
		}
	}
	for _, l := range kept {
		e.Out.Write(l)
	}
	return nil
}

func startOfLast(f io.ReaderAt, size, n int64, end byte) (int64, error) {
	if n == 0 {
		return size, nil
	}
	buf := make([]byte, 1<<16)
	for off := size; off > 0; {
		step := min(off, int64(len(buf)))
		off -= step
		if _, err := f.ReadAt(buf[:step], off); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for i := step - 1; i >= 0; i-- {
			if buf[i] != end || off+i == size-1 {
				continue
			}
			if n--; n <= 0 {
				return off + i + 1, nil
			}
		}
	}
	return 0, nil
}

// follow prints what is appended to the operands until it is interrupted; with -F also
// after a file was replaced.
func follow(e *tools.Env) error {
	seconds, err := strconv.ParseFloat(e.Or("s", "1"), 64)
	if err != nil {
		return fmt.Errorf("invalid number of seconds: '%s'", e.Val("s"))
	}
	pid, err := e.Int("pid", 0)
	if err != nil {
		return err
	}
	fs := make([]*os.File, len(e.Args))
	for i, n := range e.Args {
		f, err := os.Open(n)
		if err != nil {
			continue
		}
		if _, err := f.Seek(0, io.SeekEnd); err != nil {
			return err
		}
		fs[i] = f
	}
	title := headings(e)
	shown := len(e.Args) - 1
	for {
		for i, f := range fs {
			if e.On("F") {
				f = reopen(e.Args[i], f)
				fs[i] = f
			}
			if f == nil {
				continue
			}
			b, err := io.ReadAll(f)
			if len(b) > 0 && shown != i {
				title(e.Args[i])
				shown = i
			}
			e.Out.Write(b)
			if err != nil {
				return err
			}
		}
		if err := e.Out.Flush(); err != nil {
			return err
		}
		if pid != 0 && unix.Kill(pid, 0) != nil || len(fs) == 0 {
			return nil
		}
		time.Sleep(time.Duration(seconds * float64(time.Second)))
	}
}

// reopen gives the file that has the name now, from its beginning if it is another one or
// was cut off.
func reopen(name string, f *os.File) *os.File {
	now, err := os.Stat(name)
	if err != nil {
		return f
	}
	if f != nil {
		if st, err := f.Stat(); err == nil && os.SameFile(st, now) {
			if at, err := f.Seek(0, io.SeekCurrent); err == nil && at > st.Size() {
				_, _ = f.Seek(0, io.SeekStart) // the next read reports it
			}
			return f
		}
	}
	g, err := os.Open(name)
	if err != nil {
		return f
	}
	if f != nil {
		f.Close()
	}
	return g
}

func regular(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode().IsRegular()
}

type counts struct{ lines, words, chars, bytes, longest int64 }

func (c *counts) add(r io.Reader) error {
	br := bufio.NewReaderSize(r, 1<<16)
	inWord, col := false, int64(0)
	for {
		b, err := br.ReadByte()
		if errors.Is(err, io.EOF) {
			c.longest = max(c.longest, col)
			return nil
		}
		if err != nil {
			return err
		}
		c.bytes++
		if utf8.RuneStart(b) {
			c.chars++
		}
		space := b == ' ' || b >= '\t' && b <= '\r'
		if !space && !inWord && b > ' ' && b != 127 {
			c.words++
			inWord = true
		} else if space {
			inWord = false
		}
		switch {
		case b == '\n', b == '\r', b == '\f':
			c.longest = max(c.longest, col)
			col = 0
			if b == '\n' {
				c.lines++
			}
		case b == '\t':
			col += 8 - col%8
		case b >= ' ' && b != 127 && b < 128:
			col++
		}
	}
}

func wc(e *tools.Env) error {
	type row struct {
		counts
		name string
	}
	var rows []row
	var sum counts
	width := 1
	err := e.Each(func(name string, r io.Reader) error {
		var c counts
		err := c.add(r)
		if f, ok := tools.File(r); !ok || !regular(f) {
			width = 7
		}
		sum = counts{sum.lines + c.lines, sum.words + c.words, sum.chars + c.chars, sum.bytes + c.bytes, max(sum.longest, c.longest)}
		if len(e.Args) == 0 {
			name = ""
		}
		rows = append(rows, row{c, name})
		return err
	})
	if len(e.Args) > 1 {
		rows = append(rows, row{sum, "total"})
	}
	columns := func(c counts) []int64 {
		if !e.On("l", "w", "m", "c", "L") {
			return []int64{c.lines, c.words, c.bytes}
		}
		var out []int64
		for _, x := range []struct {
			o string
			n int64
		}{{"l", c.lines}, {"w", c.words}, {"m", c.chars}, {"c", c.bytes}, {"L", c.longest}} {
			if e.On(x.o) {
				out = append(out, x.n)
			}
		}
		return out
	}
	// The width is that of the sum of the sizes, as GNU has it; a single number has none.
	width = max(width, len(strconv.FormatInt(sum.bytes, 10)))
	if len(rows) == 1 && len(columns(sum)) == 1 {
		width = 1
	}
	for _, r := range rows {
		for i, n := range columns(r.counts) {
			if i > 0 {
				e.Out.WriteByte(' ')
			}
			e.Printf("%*d", width, n)
		}
		if r.name != "" {
			e.Printf(" %s", r.name)
		}
		e.Out.WriteByte('\n')
	}
	return err
}

func tee(e *tools.Env) error {
	if e.On("i") {
		signal.Ignore(os.Interrupt)
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if e.On("a") {
		flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	outs := map[string]*os.File{"'standard output'": nil}
	order := []string{"'standard output'"}
	for _, n := range e.Args {
		f, err := os.OpenFile(n, flags, 0o666)
		if err != nil {
			e.Warn("%s: %s", n, tools.Cause(err))
			continue
		}
		defer f.Close()
		outs[n], order = f, append(order, n)
	}
	buf := make([]byte, 1<<16)
	for {
		n, err := e.In.Read(buf)
		for i := 0; i < len(order); i++ {
			var werr error
			if f := outs[order[i]]; f != nil {
				_, werr = f.Write(buf[:n])
			} else if _, werr = e.Out.Write(buf[:n]); werr == nil {
				werr = e.Out.Flush()
			}
			if werr != nil { // the others still get everything
				fmt.Fprintf(e.Err, "tee: %s: %s\n", order[i], tools.Cause(werr))
				e.Set(1)
				order = slices.Delete(order, i, i+1)
				i--
			}
		}
		if errors.Is(err, io.EOF) || len(order) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read error: %s", tools.Cause(err))
		}
	}
}

func nl(e *tools.Env) error {
	width, err := e.Int("w", 6)
	n, err2 := e.Int("v", 1)
	step, err3 := e.Int("i", 1)
	if err := errors.Join(err, err2, err3); err != nil {
		return err
	}
	format := map[string]string{"ln": "%-*d", "rn": "%*d", "rz": "%0*d"}[e.Or("n", "rn")]
	if format == "" {
		return tools.Usage("invalid line numbering format: '%s'", e.Val("n"))
	}
	sep, style := e.Or("s", "\t"), e.Or("b", "t")
	return e.Each(func(_ string, r io.Reader) error {
		for l, err := range tools.Lines(r, '\n') {
			if err != nil {
				return err
			}
			l = tools.Chomp(l, '\n')
			if style == "a" || style == "t" && len(l) > 0 {
				e.Printf(format+"%s%s\n", width, n, sep, l)
				n += step
			} else {
				e.Printf("%*s%s\n", width+len(sep), "", l)
			}
		}
		return nil
	})
}

func paste(e *tools.Env) error {
	delims := []rune(strings.NewReplacer(`\t`, "\t", `\n`, "\n", `\0`, "\x00", `\\`, `\`).Replace(e.Or("d", "\t")))
	delim := func(i int) string {
		if len(delims) == 0 || delims[i%len(delims)] == 0 {
			return ""
		}
		return string(delims[i%len(delims)])
	}
	names := e.Args
	if len(names) == 0 {
		names = []string{"-"}
	}
	end := e.End("z")
	stdin := bufio.NewReader(e.In)
	var rs []*bufio.Reader
	for _, n := range names {
		if n == "-" {
			rs = append(rs, stdin)
			continue
		}
		f, err := e.Open(n)
		if err != nil {
			return err
		}
		defer f.Close()
		rs = append(rs, bufio.NewReader(f))
	}
	read := func(r *bufio.Reader) (string, bool) {
		s, err := r.ReadString(end)
		return strings.TrimSuffix(s, string(end)), err == nil || s != ""
	}
	if e.On("s") {
		for _, r := range rs {
			for i := 0; ; i++ {
				s, ok := read(r)
				if !ok {
					break
				}
				if i > 0 {
					e.Out.WriteString(delim(i - 1))
				}
				e.Out.WriteString(s)
			}
			e.Out.WriteByte(end)
		}
		return nil
	}
	for {
		var b strings.Builder
		any := false
		for i, r := range rs {
			s, ok := read(r)
			any = any || ok
			if i > 0 {
				b.WriteString(delim(i - 1))
			}
			b.WriteString(s)
		}
		if !any {
			return nil
		}
		e.Out.WriteString(b.String())
		e.Out.WriteByte(end)
	}
}

func fold(e *tools.Env) error {
	width, err := e.Int("w", 80)
	if o, ok := e.Last("0"); ok {
		width, err = strconv.Atoi(o.Value)
	}
	if err != nil || width < 1 {
		return fmt.Errorf("invalid number of columns: '%s'", e.Val("w"))
	}
	return each(e, func(l []byte) {
		for len(l) > 0 {
			col, i := 0, 0
			for ; i < len(l); i++ {
				w := 1
				if l[i] == '\t' && !e.On("b") {
					w = 8 - col%8
				}
				if col+w > width && i > 0 {
					break
				}
				col += w
			}
			if j := bytes.LastIndexAny(l[:i], " \t"); e.On("s") && i < len(l) && j >= 0 {
				i = j + 1
			}
			e.Out.Write(l[:i])
			if l = l[i:]; len(l) > 0 {
				e.Out.WriteByte('\n')
			}
		}
	})
}

func expand(e *tools.Env) error {
	n, err := e.Int("t", 8)
	if err != nil || n < 1 {
		return fmt.Errorf("tab size contains invalid character(s): '%s'", e.Val("t"))
	}
	return each(e, func(l []byte) {
		col, text := 0, false
		for _, c := range l {
			if text = text || c != ' ' && c != '\t'; c == '\t' && (!text || !e.On("i")) {
				w := n - col%n
				e.Printf("%*s", w, "")
				col += w
				continue
			}
			e.Out.WriteByte(c)
			col++
		}
	})
}

func column(e *tools.Env) error {
	if !e.On("t") {
		return tools.Usage("only -t is supported")
	}
	sep := e.Val("s")
	var rows [][]string
	var widths []int
	err := e.Each(func(_ string, r io.Reader) error {
		for l, err := range tools.Lines(r, '\n') {
			if err != nil {
				return err
			}
			s := string(tools.Chomp(l, '\n'))
			if strings.TrimSpace(s) == "" {
				continue
			}
			f := strings.Fields(s)
			if sep != "" {
				f = strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(sep, r) })
				if strings.Contains(s, sep+sep) || strings.HasPrefix(s, sep) {
					f = strings.Split(s, sep)
				}
			}
			for i, c := range f {
				if i == len(widths) {
					widths = append(widths, 0)
				}
				widths[i] = max(widths[i], utf8.RuneCountInString(c))
			}
			rows = append(rows, f)
		}
		return nil
	})
	for _, f := range rows {
		for i := range widths {
			c := ""
			if i < len(f) {
				c = f[i]
			}
			if i == len(widths)-1 {
				e.Printf("%s", c)
			} else {
				e.Printf("%-*s%s", widths[i], c, e.Or("o", "  "))
			}
		}
		e.Out.WriteByte('\n')
	}
	return err
}
