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
	"unicode/utf8"

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
		{Name: "tail", Opts: "n/lines: c/bytes: q/quiet/silent v/verbose z/zero-terminated f/follow? F s/sleep-interval: pid: 0", Synopsis: "[FILE]...", Run: tail},
		{Name: "wc", Opts: "l/lines w/words c/bytes m/chars L/max-line-length", Synopsis: "[FILE]...", Run: wc},
		{Name: "tee", Opts: "a/append i/ignore-interrupts", Synopsis: "[FILE]...", Run: tee},
		{Name: "nl", Opts: "b/body-numbering: n/number-format: s/number-separator: v/starting-line-number: w/number-width: i/line-increment:", Synopsis: "[FILE]...", Run: nl},
		{Name: "paste", Opts: "d/delimiters: s/serial z/zero-terminated", Synopsis: "[FILE]...", Run: paste},
		{Name: "fold", Opts: "w/width: s/spaces b/bytes 0", Synopsis: "[FILE]...", Run: fold},
		{Name: "expand", Opts: "t/tabs: i/initial", Synopsis: "[FILE]...", Run: expand},
		{Name: "column", Opts: "t/table s/separator: o/output-separator:", Synopsis: "[FILE]...", Run: column},
		{Name: "cut", Opts: "b/bytes: c/characters: f/fields: d/delimiter: s/only-delimited n complement output-delimiter: z/zero-terminated", Synopsis: "OPTION... [FILE]...", Run: cut},
		{Name: "tr", Opts: "+c/C/complement d/delete s/squeeze-repeats t/truncate-set1", Synopsis: "SET1 [SET2]", Run: tr},
		{Name: "uniq", Opts: "c/count d/repeated D u/unique i/ignore-case f/skip-fields: s/skip-chars: w/check-chars: z/zero-terminated", Synopsis: "[INPUT [OUTPUT]]", Run: uniq},
		{Name: "comm", Opts: "1 2 3 output-delimiter: nocheck-order z/zero-terminated", Synopsis: "FILE1 FILE2", Run: comm},
		{Name: "split", Opts: "b/bytes: l/lines: n/number: d/numeric-suffixes a/suffix-length: additional-suffix: verbose", Synopsis: "[FILE [PREFIX]]", Run: split},
	}
}

func cat(e *tools.Env) error {
	show := e.On("v", "A", "e", "t")
	end, tabs := "\n", e.On("T", "A", "t")
	if !e.On("v", "A", "e", "t", "E", "T", "n", "b", "s") {
		return e.Each(func(n string, r io.Reader) error {
			if e.IsOutput(r) {
				return errSelf
			}
			return e.Copy(r)
		})
	}
	if e.On("E", "A", "e") {
		end = "$\n"
	}
	n, blanks, begin := 0, 0, true
	return e.Each(func(_ string, r io.Reader) error {
		if e.IsOutput(r) {
			return errSelf
		}
		for l, err := range tools.Lines(r, '\n') {
			if err != nil {
				return err
			}
			empty := string(l) == "\n" && begin
			if blanks++; !empty {
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
			if begin {
				e.Out.WriteString(end)
			}
		}
		return nil
	})
}

// errSelf is the error of a file that would grow while it is read.
var errSelf = errors.New("input file is output file")

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
		if b == '\n' {
			c.lines++
		}
		next := columnBehind(b, col)
		if next < col {
			c.longest = max(c.longest, col)
		}
		col = next
	}
}

// columnBehind is the column behind a byte in column col.
func columnBehind(b byte, col int64) int64 {
	switch {
	case b == '\n', b == '\r', b == '\f':
		return 0
	case b == '\t':
		return col + 8 - col%8
	case b >= ' ' && b != 127 && b < 128:
		return col + 1
	}
	return col
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
				e.Warn("%s: %s", order[i], tools.Cause(werr))
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
