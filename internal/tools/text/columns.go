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

func paste(e *tools.Env) error {
	delims := []rune(strings.NewReplacer(`\t`, "\t", `\n`, "\n", `\0`, "\x00", `\\`, `\`).Replace(e.Or("d", "\t")))
	delim := func(i int) string {
		if len(delims) == 0 || delims[i%len(delims)] == 0 {
			return ""
		}
		return string(delims[i%len(delims)])
	}
	end := e.End("z")
	stdin := bufio.NewReader(e.In)
	var rs []*bufio.Reader
	for _, n := range e.Inputs() {
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
