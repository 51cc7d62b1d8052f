package text

import (
	"errors"
	"strings"
)

// Rename gives the function that the substitutions of tar's --transform are: s/RE/TEXT/FLAGS,
// of which several are divided by semicolons. Besides those of sed, x is a flag for an extended
// expression. The flags for kinds of names are refused.
func Rename(exprs []string) (func(name string) string, error) {
	var all []*sedCommand
	for _, e := range exprs {
		p := &sedParser{s: e}
		for {
			if p.skip(";"); p.i >= len(p.s) {
				break
			}
			if p.s[p.i] != 's' {
				return nil, errors.New("invalid transform expression")
			}
			p.i++
			begin, delim := p.i, p.peek()
			p.i++
			_, err1 := p.until(delim, true)
			_, err2 := p.until(delim, false)
			expr := p.s[begin:p.i]
			flags, _, _ := strings.Cut(p.s[p.i:], ";")
			p.i += len(flags)
			q := &sedParser{s: expr + strings.ReplaceAll(flags, "x", ""), extended: strings.Contains(flags, "x")}
			c := &sedCommand{name: 's', nth: 1}
			err := errors.Join(err1, err2)
			if err == nil {
				err = q.substitute(c)
			}
			if err == nil && (q.i < len(q.s) || c.print || c.text != "" || c.re == nil) {
				err = errors.New("invalid transform expression")
			}
			if err != nil {
				return nil, err
			}
			all = append(all, c)
		}
	}
	return func(name string) string {
		base := strings.TrimSuffix(name, "/")
		slash := name[len(base):]
		for _, c := range all {
			base = c.replace(base)
		}
		return base + slash
	}, nil
}

func (c *sedCommand) replace(s string) string {
	r := &sedRun{space: s}
	if err := r.substitute(&sedCommand{name: 's', re: c.re, with: c.with, nth: c.nth, global: c.global}); err != nil {
		return s
	}
	return r.space
}
