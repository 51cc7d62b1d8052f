// Package posix compiles the regular expressions of grep, sed, expr and find, which are
// basic or extended ones of POSIX with GNU's additions, for Go's regexp.
package posix

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
)

// Flags change how an expression is read.
type Flags struct {
	Extended, Fold, Multiline bool
}

// Compile compiles an expression. The longest match counts, as POSIX has it.
// Back-references are refused: Go's regexp can't have them.
func Compile(re string, f Flags) (*regexp.Regexp, error) {
	s, err := Translate(re, f.Extended)
	if err != nil {
		return nil, err
	}
	prefix := "(?s"
	if f.Fold {
		prefix += "i"
	}
	if f.Multiline {
		prefix = strings.Replace(prefix, "s", "m", 1)
	}
	r, err := regexp.Compile(prefix + ")" + s)
	if err != nil {
		return nil, message(err)
	}
	r.Longest()
	return r, nil
}

func message(err error) error {
	s := err.Error()
	for _, m := range []struct{ has, gnu string }{
		{"missing closing ]", "Unmatched [, [^, [:, [., or [="}, {"missing closing )", `Unmatched ( or \(`}, {"unexpected )", `Unmatched ) or \)`},
		{"repeat count", "Invalid content of \\{\\}"}, {"invalid character class", "Invalid range end"}, {"missing argument to repetition", "Invalid preceding regular expression"},
	} {
		if strings.Contains(s, m.has) {
			return errors.New(m.gnu)
		}
	}
	return err
}

// Translate writes the expression in Go's syntax.
func Translate(re string, extended bool) (string, error) {
	t := translator{in: re, ere: extended, begin: true}
	for t.i < len(t.in) {
		if err := t.next(); err != nil {
			return "", err
		}
	}
	return t.out.String(), nil
}

type translator struct {
	in    string
	i     int
	ere   bool
	begin bool // nothing to repeat before here
	out   strings.Builder
}

// emit writes an element; begin is set if what follows is at the begin of a branch.
func (t *translator) emit(s string, begin bool) {
	t.out.WriteString(s)
	t.begin = begin
}

// atEnd reports whether nothing follows, or the end of a group or alternative.
func (t *translator) atEnd() bool {
	rest := t.in[t.i:]
	return rest == "" || strings.HasPrefix(rest, `\)`) || strings.HasPrefix(rest, `\|`)
}

func (t *translator) next() error {
	c := t.in[t.i]
	t.i++
	switch {
	case c == '\\':
		return t.escape()
	case c == '[':
		return t.bracket()
	case c == '*':
		if t.begin {
			t.emit(map[bool]string{false: `\*`, true: ""}[t.ere], t.ere)
		} else {
			t.repeat("*")
		}
	case c == '^':
		if t.ere || t.begin {
			t.emit("^", true)
		} else {
			t.emit(`\^`, false)
		}
	case c == '$':
		if t.ere || t.atEnd() {
			t.emit("$", false)
		} else {
			t.emit(`\$`, false)
		}
	case c == '.':
		t.emit(".", false)
	case strings.IndexByte("(){}|+?", c) >= 0:
		return t.special(c, t.ere)
	default:
		t.emit(regexp.QuoteMeta(string(c)), false)
		if c >= 0x80 { // bytes of a rune stay together
			s := t.out.String()
			t.out.Reset()
			t.out.WriteString(s[:len(s)-len(string(c))])
			t.out.WriteByte(c)
		}
	}
	return nil
}

// repeat writes a repetition. A second one, as in "a**", changes nothing.
func (t *translator) repeat(s string) {
	out := t.out.String()
	if n := len(out); n > 0 && strings.IndexByte("*+?", out[n-1]) >= 0 && (n < 2 || out[n-2] != '\\') {
		return
	}
	t.emit(s, false)
}

// special writes one of (){}|+?, which is an operator or itself.
func (t *translator) special(c byte, operator bool) error {
	if !operator {
		t.emit(regexp.QuoteMeta(string(c)), false)
		return nil
	}
	switch c {
	case '(':
		t.emit("(", true)
	case '|':
		t.emit("|", true)
	case ')':
		t.emit(")", false)
	case '+', '?':
		if t.begin {
			t.emit("", true)
			if !t.ere {
				t.emit(`\`+string(c), false)
			}
			return nil
		}
		t.repeat(string(c))
	case '{':
		return t.interval()
	default:
		t.emit(regexp.QuoteMeta(string(c)), false)
	}
	return nil
}

var intervalRE = lazyregexp.New(`^([0-9]*)(,?)([0-9]*)(\\?\})`)

func (t *translator) interval() error {
	m := intervalRE().FindStringSubmatch(t.in[t.i:])
	switch {
	case m == nil || t.ere && m[4] != "}" || m[1]+m[2]+m[3] == "":
		if t.ere {
			t.emit(`\{`, false)
			return nil
		}
		return errors.New(`unmatched \{`)
	case t.begin:
		return errors.New("invalid preceding regular expression")
	}
	least := m[1]
	if least == "" {
		least = "0"
	}
	t.emit("{"+least+m[2]+m[3]+"}", false)
	t.i += len(m[0])
	return nil
}

func (t *translator) escape() error {
	if t.i == len(t.in) {
		return errors.New("trailing backslash")
	}
	c := t.in[t.i]
	t.i++
	switch {
	case strings.IndexByte("(){}|+?", c) >= 0:
		return t.special(c, !t.ere)
	case c >= '1' && c <= '9':
		return fmt.Errorf("back-references such as \\%c are not supported", c)
	case c == '<' || c == '>' || c == 'b':
		t.emit(`\b`, c == '<')
	case strings.IndexByte("BwWsS", c) >= 0:
		t.emit(`\`+string(c), false)
	case c == '`':
		t.emit(`\A`, true)
	case c == '\'':
		t.emit(`\z`, false)
	default:
		t.emit(regexp.QuoteMeta(string(c)), false)
	}
	return nil
}

// bracket writes a bracket expression, in which a backslash is itself.
func (t *translator) bracket() error {
	var b strings.Builder
	b.WriteByte('[')
	if t.i < len(t.in) && t.in[t.i] == '^' {
		b.WriteByte('^')
		t.i++
	}
	for first := true; t.i < len(t.in); first = false {
		c := t.in[t.i]
		rest := t.in[t.i:]
		t.i++
		switch {
		case c == ']' && !first:
			b.WriteByte(']')
			t.emit(b.String(), false)
			return nil
		case c == '[' && len(rest) > 1 && strings.IndexByte(":.=", rest[1]) >= 0:
			end := strings.Index(rest[2:], rest[1:2]+"]")
			if end < 0 {
				return errors.New("unmatched [, [^, [:, [., or [=")
			}
			if rest[1] == ':' {
				b.WriteString(rest[:end+4])
			} else {
				b.WriteString(regexp.QuoteMeta(rest[2 : 2+end]))
			}
			t.i += end + 3
		case strings.IndexByte(`\[]^&~|`, c) >= 0:
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return errors.New("unmatched [, [^, [:, [., or [=")
}
