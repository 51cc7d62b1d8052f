package text

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// errQuit, errDelete and errRestart end a cycle.
var (
	errQuit    = errors.New("quit")
	errDelete  = errors.New("delete")
	errRestart = errors.New("restart")
)

func (r *sedRun) run(names []string) (quit bool, err error) {
	r.in = &sedInput{e: r.Env, names: names, end: r.end}
	if err := r.in.fill(); err != nil {
		return false, err
	}
	for again := false; r.in.ok || again; {
		if !again && !r.read() {
			break
		}
		err := r.cycle()
		again = errors.Is(err, errRestart)
		var st tools.Status
		switch {
		case errors.Is(err, errQuit), errors.As(err, &st):
			quit = true
		case err != nil && !errors.Is(err, errDelete) && !again:
			return false, err
		}
		if e := r.flush(); e != nil {
			return false, e
		}
		if quit {
			if r.rc != 0 {
				return true, tools.Status(r.rc)
			}
			return true, nil
		}
	}
	return false, nil
}

// read takes the next line into the pattern space.
func (r *sedRun) read() bool {
	if !r.in.ok {
		return false
	}
	r.space = strings.TrimSuffix(r.in.next, string(r.end))
	r.newed = len(r.space) < len(r.in.next)
	r.n++
	return r.in.fill() == nil
}

func (r *sedRun) put(s string) error {
	_, err := r.w.WriteString(s)
	if r.newed || r.in.ok {
		err = errors.Join(err, r.w.WriteByte(r.end))
	}
	return err
}

func (r *sedRun) flush() error {
	for _, q := range r.queue {
		if err := q(); err != nil {
			return err
		}
	}
	r.queue = nil
	if r.On("u") {
		return r.w.Flush()
	}
	return nil
}

func (r *sedRun) matches(re *regexp.Regexp) bool {
	if re == nil {
		re = r.lastRE
	}
	r.lastRE = re
	return re != nil && re.MatchString(r.space)
}

func (r *sedRun) at(a *address) bool {
	switch a.kind {
	case 'n':
		return r.n == a.n
	case '~':
		return a.to == 0 && r.n == a.n || a.to > 0 && r.n >= a.n && (r.n-a.n)%a.to == 0
	case '$':
		return !r.in.ok
	}
	return r.matches(a.re)
}

func (r *sedRun) selected(c *sedCommand) bool {
	if c.to == nil {
		return c.from == nil || r.at(c.from)
	}
	if c.active {
		return r.continued(c)
	}
	zero := c.from.kind == 'n' && c.from.n == 0 && r.n == 1
	if !zero && !r.at(c.from) {
		return false
	}
	switch c.to.kind {
	case 'n':
		c.end = c.to.n
	case '+':
		c.end = r.n + c.to.n
	case 'm':
		c.end = r.n
		if c.to.n > 0 {
			c.end = (r.n + c.to.n - 1) / c.to.n * c.to.n
		}
	default:
		c.active = !zero || !r.at(c.to)
		if c.to.kind == '$' {
			c.active = r.in.ok
		}
		return true
	}
	c.active = c.end > r.n
	return true
}

// continued is selected for a range that has begun.
func (r *sedRun) continued(c *sedCommand) bool {
	if strings.IndexByte("n+m", c.to.kind) >= 0 {
		c.active = r.n < c.end
		return r.n <= c.end
	}
	c.active = !r.at(c.to)
	return true
}

func (r *sedRun) cycle() error {
	r.subst = false
	for pc := 0; pc < len(r.script); pc++ {
		c := r.script[pc]
		if r.selected(c) == c.not {
			if c.name == '{' {
				pc = c.label - 1
			}
			continue
		}
		switch c.name {
		case 'b':
			pc = c.label - 1
		case 't', 'T':
			if r.subst == (c.name == 't') {
				pc = c.label - 1
			}
			r.subst = false
		default:
			if err := r.do(c); err != nil {
				if errors.Is(err, errQuit) && c.name != 'Q' && !r.On("n") {
					return errors.Join(err, r.put(r.space))
				}
				return err
			}
		}
	}
	if r.On("n") {
		return nil
	}
	return r.put(r.space)
}

// insert prints the text of a command behind the line, before it or in its place.
func (r *sedRun) insert(c *sedCommand) error {
	put := func() error { _, err := r.w.WriteString(c.text + "\n"); return err }
	switch {
	case c.name == 'a':
		r.queue = append(r.queue, put)
		return nil
	case c.name == 'i' || c.to == nil || !c.active || c.not:
		_ = put() // an error stays in it
	}
	if c.name == 'c' {
		return errDelete
	}
	return nil
}

func (r *sedRun) do(c *sedCommand) error {
	switch c.name {
	case '=':
		fmt.Fprintf(r.w, "%d\n", r.n)
	case 'a', 'i', 'c':
		return r.insert(c)
	case 'd':
		return errDelete
	case 'D':
		i := strings.IndexByte(r.space, '\n')
		if i < 0 {
			return errDelete
		}
		r.space = r.space[i+1:]
		return errRestart
	case 'g':
		r.space = r.hold
	case 'G':
		r.space += "\n" + r.hold
	case 'h':
		r.hold = r.space
	case 'H':
		r.hold += "\n" + r.space
	case 'x':
		r.space, r.hold = r.hold, r.space
	case 'z':
		r.space = ""
	case 'l':
		wrap := r.wrap
		if c.label > 0 {
			wrap = c.label
		}
		r.unambiguous(wrap)
	case 'q', 'Q':
		r.rc = c.label
		return errQuit
	default:
		return r.more(c)
	}
	return nil
}

// next reads the next line, in place of the pattern space or behind it.
func (r *sedRun) next(join bool) error {
	if !r.in.ok {
		return errQuit
	}
	before := r.space
	if !join && !r.On("n") {
		r.put(before)
	}
	if err := r.flush(); err != nil {
		return err
	}
	if r.read(); join {
		r.space = before + "\n" + r.space
	}
	return nil
}

func (r *sedRun) more(c *sedCommand) error {
	switch c.name {
	case 'F':
		fmt.Fprintln(r.w, r.in.name)
	case 'n', 'N':
		return r.next(c.name == 'N')
	case 'p':
		return r.put(r.space)
	case 'P':
		s, _, _ := strings.Cut(r.space, "\n")
		r.w.WriteString(s + "\n")
	case 'r':
		r.queue = append(r.queue, func() error {
			if b, err := os.ReadFile(c.text); err == nil { // a file that is not there is empty
				r.w.Write(b)
			}
			return nil
		})
	case 'w':
		return r.write(c.text, r.space)
	case 's':
		return r.substitute(c)
	case 'y':
		var b strings.Builder
		for _, x := range characters(r.space) {
			if to, ok := c.table[x]; ok {
				x = to
			}
			b.WriteString(x)
		}
		r.space = b.String()
	}
	return nil
}

func (r *sedRun) write(name, s string) error {
	if name == "/dev/stdout" {
		return r.put(s)
	}
	f := r.files[name]
	if f == nil {
		var err error
		if f, err = os.Create(name); err != nil {
			return fmt.Errorf("couldn't open file %s: %s", name, tools.Cause(err))
		}
		r.files[name] = f
	}
	_, err := fmt.Fprintln(f, s)
	return err
}

func (r *sedRun) unambiguous(wrap int) {
	s := strings.NewReplacer("\\", `\\`, "\n", `\n`, "\t", `\t`, "\a", `\a`, "\b", `\b`, "\f", `\f`, "\r", `\r`, "\v", `\v`).Replace(r.space)
	col := 0
	for i := 0; i < len(s); i++ {
		w := s[i : i+1]
		if s[i] < 32 || s[i] >= 127 {
			w = fmt.Sprintf(`\%03o`, s[i])
		} else if s[i] == '\\' && i+1 < len(s) {
			w = s[i : i+2]
			i++
		}
		if wrap > 1 && col+len(w) > wrap-1 {
			r.w.WriteString("\\\n")
			col = 0
		}
		r.w.WriteString(w)
		col += len(w)
	}
	r.w.WriteString("$\n")
}

func (r *sedRun) substitute(c *sedCommand) error {
	re := c.re
	if re == nil {
		re = r.lastRE
	}
	if r.lastRE = re; re == nil {
		return errors.New("no previous regular expression")
	}
	var b strings.Builder
	at, n := 0, 0
	for _, m := range re.FindAllStringSubmatchIndex(r.space, -1) {
		if n++; n < c.nth {
			continue
		}
		b.WriteString(r.space[at:m[0]])
		expandTo(&b, c.with, r.space, m)
		at = m[1]
		if !c.global {
			break
		}
	}
	if n < c.nth {
		return nil
	}
	b.WriteString(r.space[at:])
	r.space, r.subst = b.String(), true
	if c.print {
		if err := r.put(r.space); err != nil {
			return err
		}
	}
	if c.text != "" {
		return r.write(c.text, r.space)
	}
	return nil
}

func expandTo(b *strings.Builder, with []part, s string, m []int) {
	var fold, once byte
	for _, p := range with {
		t := p.text
		if p.fold != 0 {
			switch p.fold {
			case 'l', 'u':
				once = p.fold
			default:
				fold = p.fold
			}
			continue
		}
		if p.group >= 0 {
			if t = ""; 2*p.group < len(m) && m[2*p.group] >= 0 {
				t = s[m[2*p.group]:m[2*p.group+1]]
			}
		}
		switch fold {
		case 'U':
			t = strings.ToUpper(t)
		case 'L':
			t = strings.ToLower(t)
		}
		if t != "" && once != 0 {
			f := bytes.ToUpper
			if once == 'l' {
				f = bytes.ToLower
			}
			t, once = string(f([]byte(t[:1])))+t[1:], 0
		}
		b.WriteString(t)
	}
}
