package text

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// paster joins lines of its files.
type paster struct {
	*tools.Env
	rs     []*bufio.Reader
	delims []rune
	end    byte
}

func paste(e *tools.Env) error {
	p := &paster{Env: e, end: e.End("z")}
	p.delims = []rune(strings.NewReplacer(`\t`, "\t", `\n`, "\n", `\0`, "\x00", `\\`, `\`).Replace(e.Or("d", "\t")))
	stdin := bufio.NewReader(e.In)
	for _, n := range e.Inputs() {
		if n == "-" {
			p.rs = append(p.rs, stdin)
			continue
		}
		f, err := e.Open(n)
		if err != nil {
			return err
		}
		defer f.Close()
		p.rs = append(p.rs, bufio.NewReader(f))
	}
	if !e.On("s") {
		for p.row() {
		}
		return nil
	}
	for _, r := range p.rs {
		p.serial(r)
	}
	return nil
}

// delim is what stands before the line with number i of a row: nothing before the first.
func (p *paster) delim(i int) string {
	if i == 0 || len(p.delims) == 0 || p.delims[(i-1)%len(p.delims)] == 0 {
		return ""
	}
	return string(p.delims[(i-1)%len(p.delims)])
}

func (p *paster) read(r *bufio.Reader) (string, bool) {
	s, err := r.ReadString(p.end)
	return strings.TrimSuffix(s, string(p.end)), err == nil || s != ""
}

// serial joins all lines of one file.
func (p *paster) serial(r *bufio.Reader) {
	for i := 0; ; i++ {
		s, ok := p.read(r)
		if !ok {
			break
		}
		p.Out.WriteString(p.delim(i) + s)
	}
	p.Out.WriteByte(p.end)
}

// row joins the next line of each file; it is false if all of them are at their ends.
func (p *paster) row() bool {
	text, any := "", false
	for i, r := range p.rs {
		s, ok := p.read(r)
		any = any || ok
		text += p.delim(i) + s
	}
	if any {
		p.Printf("%s%c", text, p.end)
	}
	return any
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
