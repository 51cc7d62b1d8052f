package text

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func bcCommands() []tools.Command {
	return []tools.Command{{Name: "bc", Opts: "l/mathlib q/quiet s/standard", Synopsis: "[FILE]...", Run: bc}}
}

// calculator reads and evaluates a program of bc: expressions, assignments, strings,
// if, while, for and blocks; no functions and no arrays.
type calculator struct {
	*tools.Env
	src  string
	i    int
	vars map[string]fixed
	math bool
	skip bool // parse, but do nothing
}

var errBc = errors.New("syntax error")

func bc(e *tools.Env) error {
	c := &calculator{Env: e, vars: map[string]fixed{"ibase": num(10), "obase": num(10), "scale": num(0), "last": num(0)}, math: e.On("l")}
	if c.math {
		c.vars["scale"] = num(20)
	}
	for _, n := range e.Inputs() {
		r, err := e.Open(n)
		if err != nil {
			return fmt.Errorf("file %s is unavailable", n)
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return err
		}
		c.src, c.i = strings.ReplaceAll(string(b), "\\\n", ""), 0
		for c.i < len(c.src) {
			err := c.statement()
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				_ = e.Out.Flush() // an error stays in it
				fmt.Fprintf(e.Err, "(standard_in) %d: %v\n", 1+strings.Count(c.src[:c.i], "\n"), err)
				if j := strings.IndexByte(c.src[c.i:], '\n'); j >= 0 {
					c.i += j + 1
				} else {
					c.i = len(c.src)
				}
			}
		}
	}
	return nil
}

func (c *calculator) space() {
	for c.i < len(c.src) {
		switch rest := c.src[c.i:]; {
		case rest[0] == ' ' || rest[0] == '\t':
			c.i++
		case strings.HasPrefix(rest, "/*"):
			j := strings.Index(rest, "*/")
			if j < 0 {
				j = len(rest) - 2
			}
			c.i += j + 2
		case rest[0] == '#':
			j := strings.IndexByte(rest, '\n')
			if j < 0 {
				j = len(rest)
			}
			c.i += j
		default:
			return
		}
	}
}

func (c *calculator) take(tok string) bool {
	c.space()
	if strings.HasPrefix(c.src[c.i:], tok) {
		c.i += len(tok)
		return true
	}
	return false
}

// word takes a keyword or the name of a variable.
func (c *calculator) word() string {
	c.space()
	j := c.i
	for j < len(c.src) && (c.src[j] >= 'a' && c.src[j] <= 'z' || j > c.i && (isDigit(c.src[j]) || c.src[j] == '_')) {
		j++
	}
	return c.src[c.i:j]
}

func (c *calculator) statement() error {
	c.space()
	if c.i >= len(c.src) {
		return nil
	}
	switch ch := c.src[c.i]; {
	case ch == '\n' || ch == ';':
		c.i++
		return nil
	case ch == '"':
		j := strings.IndexByte(c.src[c.i+1:], '"')
		if j < 0 {
			return errBc
		}
		if !c.skip {
			c.Out.WriteString(c.src[c.i+1 : c.i+1+j])
		}
		c.i += j + 2
		return c.end()
	case ch == '{':
		return c.block()
	}
	switch w := c.word(); w {
	case "quit", "halt":
		if c.skip {
			c.i += len(w)
			return c.end()
		}
		return io.EOF
	case "if", "while", "for":
		c.i += len(w)
		return c.control(w)
	case "print":
		c.i += len(w)
		return c.print()
	}
	start := c.i
	v, err := c.expression(0)
	if err != nil {
		return err
	}
	if !c.skip && !assigns(c.src[start:c.i]) {
		c.vars["last"] = v
		c.Printf("%s\n", c.fold(c.show(v)))
	}
	return c.end()
}

// assigns reports whether an expression is an assignment, which prints nothing.
func assigns(s string) bool {
	s = strings.TrimSpace(s)
	j := 0
	for j < len(s) && (s[j] >= 'a' && s[j] <= 'z' || j > 0 && (isDigit(s[j]) || s[j] == '_')) {
		j++
	}
	s = strings.TrimLeft(s[j:], " \t")
	if j == 0 || s == "" {
		return false
	}
	if strings.IndexByte("+-*/%^", s[0]) >= 0 {
		s = s[1:]
	}
	return strings.HasPrefix(s, "=") && !strings.HasPrefix(s, "==")
}

func (c *calculator) end() error {
	if c.space(); c.i >= len(c.src) || c.src[c.i] == '}' {
		return nil
	}
	if ch := c.src[c.i]; ch == '\n' || ch == ';' {
		c.i++
		return nil
	}
	return errBc
}

func (c *calculator) block() error {
	c.i++
	for {
		c.space()
		if c.i >= len(c.src) {
			return errBc
		}
		if c.src[c.i] == '}' {
			c.i++
			return nil
		}
		if err := c.statement(); err != nil {
			return err
		}
	}
}

func (c *calculator) print() error {
	for {
		if c.take("\"") {
			j := strings.IndexByte(c.src[c.i:], '"')
			if j < 0 {
				return errBc
			}
			s, _ := unescape(c.src[c.i:c.i+j], false)
			if !c.skip {
				c.Out.WriteString(s)
			}
			c.i += j + 1
		} else {
			v, err := c.expression(0)
			if err != nil {
				return err
			}
			if !c.skip {
				c.Out.WriteString(c.show(v))
			}
		}
		if !c.take(",") {
			return c.end()
		}
	}
}

// control runs if, while and for by reading their text again for each turn.
func (c *calculator) control(kind string) error {
	if !c.take("(") {
		return errBc
	}
	if kind == "for" {
		if err := c.initial(); err != nil {
			return err
		}
	}
	cond := c.i
	outer := c.skip
	for {
		v, err := c.expression(0)
		if err != nil {
			return err
		}
		step := 0
		if kind == "for" {
			if step, err = c.passStep(outer); err != nil {
				return err
			}
		}
		if !c.take(")") {
			return errBc
		}
		c.take("\n")
		run := v.n.Sign() != 0 && !outer
		c.skip = !run
		err = c.statement()
		c.skip = outer
		if err != nil {
			return err
		}
		if kind == "if" {
			return c.otherwise(run)
		}
		if !run {
			return nil
		}
		if kind == "for" {
			c.i = step
			if _, err := c.expression(0); err != nil {
				return err
			}
		}
		c.i = cond
	}
}

// initial runs the first part of a for's head.
func (c *calculator) initial() error {
	if _, err := c.expression(0); err != nil || c.take(";") {
		return err
	}
	return errBc
}

// passStep passes over the last part of a for's head without running it, and gives its place.
func (c *calculator) passStep(outer bool) (int, error) {
	if !c.take(";") {
		return 0, errBc
	}
	at := c.i
	c.skip = true
	_, err := c.expression(0)
	c.skip = outer
	return at, err
}

func (c *calculator) otherwise(done bool) error {
	if c.word() != "else" {
		return nil
	}
	c.i += len("else")
	outer := c.skip
	c.skip = outer || done
	err := c.statement()
	c.skip = outer
	return err
}
