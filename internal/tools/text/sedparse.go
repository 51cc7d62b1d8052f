package text

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools/posix"
)

var errSandbox = errors.New("e/r/w commands disabled in sandbox mode")

type sedParser struct {
	s        string
	i        int
	out      []*sedCommand
	blocks   []int
	labels   map[string]int
	extended bool
	sandbox  bool // files are neither read nor written
}

func (p *sedParser) peek() byte {
	if p.i < len(p.s) {
		return p.s[p.i]
	}
	return 0
}

func (p *sedParser) skip(chars string) {
	for p.i < len(p.s) && strings.IndexByte(chars, p.s[p.i]) >= 0 {
		p.i++
	}
}

func (p *sedParser) number() int {
	n := 0
	for p.i < len(p.s) && isDigit(p.s[p.i]) {
		n, p.i = n*10+int(p.s[p.i]-'0'), p.i+1
	}
	return n
}

// optional takes a text, if it is next.
func (p *sedParser) optional(s string) string {
	if !strings.HasPrefix(p.s[p.i:], s) {
		return ""
	}
	p.i += len(s)
	return s
}

// until reads up to the delimiter, which a backslash makes a character.
func (p *sedParser) until(delim byte, regex bool) (string, error) {
	var b strings.Builder
	bracket := false
	for p.i < len(p.s) {
		c := p.s[p.i]
		p.i++
		switch {
		case c == delim && !bracket:
			return b.String(), nil
		case c == '\\' && p.i < len(p.s) && !bracket:
			c = p.s[p.i]
			p.i++
			if c != delim || delim == '\\' || regex && strings.IndexByte("|+?(){}", c) >= 0 {
				b.WriteByte('\\')
			}
		case regex && c == '[' && !bracket:
			bracket = true
			b.WriteString("[" + p.optional("^"))
			b.WriteString(p.optional("]"))
			continue
		case c == ']':
			bracket = false
		}
		b.WriteByte(c)
	}
	return "", errors.New("unterminated address regex")
}

func (p *sedParser) regex(s string, fold, multi bool) (*regexp.Regexp, error) {
	if s == "" {
		return nil, nil
	}
	return posix.Compile(sedRegex(s), posix.Flags{Extended: p.extended, Fold: fold, Multiline: multi})
}

func (p *sedParser) address() (*address, error) {
	switch c := p.peek(); {
	case isDigit(c):
		n := p.number()
		if p.peek() == '~' {
			p.i++
			return &address{kind: '~', n: n, to: p.number()}, nil
		}
		return &address{kind: 'n', n: n}, nil
	case c == '$':
		p.i++
		return &address{kind: '$'}, nil
	case c == '/' || c == '\\':
		p.i++
		if c == '\\' {
			c = p.peek()
			p.i++
		}
		s, err := p.until(c, true)
		if err != nil {
			return nil, err
		}
		fold, multi := false, false
		for p.peek() == 'I' || p.peek() == 'M' {
			fold, multi = fold || p.peek() == 'I', multi || p.peek() == 'M'
			p.i++
		}
		re, err := p.regex(s, fold, multi)
		return &address{kind: '/', re: re}, err
	}
	return nil, nil
}

func (p *sedParser) parse() error {
	for {
		p.skip(" \t\n;")
		if p.i >= len(p.s) {
			break
		}
		if p.peek() == '#' {
			p.skipLine()
			continue
		}
		c := &sedCommand{nth: 1}
		var err error
		if c.from, err = p.address(); err != nil {
			return err
		}
		p.skip(" \t")
		if c.from != nil && p.peek() == ',' {
			p.i++
			p.skip(" \t")
			if k := p.peek(); k == '+' || k == '~' {
				p.i++
				c.to = &address{kind: map[byte]byte{'+': '+', '~': 'm'}[k], n: p.number()}
			} else if c.to, err = p.address(); err != nil {
				return err
			} else if c.to == nil {
				return errors.New("unexpected `,'")
			}
		}
		for p.skip(" \t"); p.peek() == '!'; p.skip(" \t!") {
			c.not = true
		}
		if p.i >= len(p.s) {
			return errors.New("missing command")
		}
		c.name = p.s[p.i]
		p.i++
		if err := p.command(c); err != nil {
			return err
		}
	}
	if len(p.blocks) > 0 {
		return errors.New("unmatched `{'")
	}
	return p.link()
}

func (p *sedParser) skipLine() string {
	s, _, _ := strings.Cut(p.s[p.i:], "\n")
	p.i += len(s)
	return s
}

func (p *sedParser) word() string {
	p.skip(" \t")
	s := p.s[p.i:]
	if i := strings.IndexAny(s, ";\n}"); i >= 0 {
		s = s[:i]
	}
	p.i += len(s)
	return strings.TrimSpace(s)
}

// closeBlock gives the begin of the innermost block the place of its end.
func (p *sedParser) closeBlock() error {
	last := len(p.blocks) - 1
	if last < 0 {
		return errors.New("unexpected `}'")
	}
	p.out[p.blocks[last]].label = len(p.out)
	p.blocks = p.blocks[:last]
	return nil
}

func (p *sedParser) command(c *sedCommand) (err error) {
	switch c.name {
	case '{':
		p.blocks = append(p.blocks, len(p.out))
	case '}':
		return p.closeBlock()
	case ':':
		p.labels[p.word()] = len(p.out)
		return nil
	case 'b', 't', 'T':
		c.text = p.word()
	case 'r', 'w', 'R', 'W':
		if p.sandbox {
			return errSandbox
		}
		p.skip(" \t")
		c.text = p.skipLine()
	case 'a', 'i', 'c':
		p.insertion(c)
	case 'q', 'Q', 'l', 'L':
		p.skip(" \t")
		c.label = p.number()
	case 's':
		err = p.substitute(c)
	case 'y':
		err = p.transliterate(c)
	case '=', 'd', 'D', 'g', 'G', 'h', 'H', 'n', 'N', 'p', 'P', 'x', 'z', 'F':
	default:
		return fmt.Errorf("unknown command: `%c'", c.name)
	}
	p.out = append(p.out, c)
	if err == nil && strings.IndexByte("{aic", c.name) < 0 {
		if p.skip(" \t"); p.i < len(p.s) && strings.IndexByte(";\n}#", p.peek()) < 0 {
			return errors.New("extra characters after command")
		}
	}
	return err
}

// insertion reads the text of a, i and c, in GNU's form of one line or behind "\".
func (p *sedParser) insertion(c *sedCommand) {
	p.skip(" \t")
	if p.peek() == '\\' {
		p.i++
		p.skip(" \t")
		switch p.peek() {
		case 0:
		case '\n':
			p.i++
		default: // the first character behind a backslash is itself
			c.text = p.s[p.i : p.i+1]
			p.i++
		}
	}
	start := p.i
	for p.i < len(p.s) && p.peek() != '\n' {
		if p.peek() == '\\' && p.i+1 < len(p.s) {
			p.i++
		}
		p.i++
	}
	c.text += sedText(p.s[start:p.i])
}

// checkGroups checks that the groups in a replacement are in its regular expression.
func (c *sedCommand) checkGroups() error {
	for _, w := range c.with {
		if c.re != nil && w.group > c.re.NumSubexp() {
			return fmt.Errorf("invalid reference \\%d on `s' command's RHS", w.group)
		}
	}
	return nil
}

func (p *sedParser) substitute(c *sedCommand) error {
	delim := p.peek()
	p.i++
	re, err := p.until(delim, true)
	if err != nil {
		return errors.New("unterminated `s' command")
	}
	with, err := p.until(delim, false)
	if err != nil {
		return errors.New("unterminated `s' command")
	}
	fold, multi := false, false
	for {
		switch f := p.peek(); {
		case f == 'g':
			c.global = true
		case f == 'p':
			c.print = true
		case f == 'i' || f == 'I':
			fold = true
		case f == 'm' || f == 'M':
			multi = true
		case isDigit(f):
			if c.nth = p.number(); c.nth == 0 {
				return errors.New("number option to `s' command may not be zero")
			}
			continue
		case f == 'w' && p.sandbox:
			return errSandbox
		case f == 'w':
			p.i++
			p.skip(" \t")
			c.text = p.skipLine()
			continue
		default:
			if c.re, err = p.regex(re, fold, multi); err != nil {
				return err
			}
			if c.with, err = replacement(with); err != nil {
				return err
			}
			return c.checkGroups()
		}
		p.i++
	}
}

func replacement(s string) ([]part, error) {
	var out []part
	text := func(t string) {
		if n := len(out); n > 0 && out[n-1].group < 0 && out[n-1].fold == 0 {
			out[n-1].text += t
		} else {
			out = append(out, part{text: t, group: -1})
		}
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '&':
			out = append(out, part{group: 0})
		case c != '\\' || i+1 == len(s):
			text(string(s[i : i+1]))
		default:
			i++
			switch c := s[i]; {
			case isDigit(c):
				out = append(out, part{group: int(c - '0')})
			case strings.IndexByte("LUluE", c) >= 0:
				out = append(out, part{group: -1, fold: c})
			default:
				if c, n := sedEscape(s[i:]); n > 0 {
					text(string([]byte{c}))
					i += n - 1
					continue
				}
				text(s[i : i+1])
			}
		}
	}
	return out, nil
}

func (p *sedParser) transliterate(c *sedCommand) error {
	delim := p.peek()
	p.i++
	a, err := p.until(delim, false)
	b, err2 := p.until(delim, false)
	if err != nil || err2 != nil {
		return errors.New("unterminated `y' command")
	}
	from, to := characters(sedText(a)), characters(sedText(b))
	if len(from) != len(to) {
		return errors.New("strings for `y' command are different lengths")
	}
	c.table = map[string]string{}
	for i, r := range from {
		c.table[r] = to[i]
	}
	return nil
}

func (p *sedParser) link() error {
	for _, c := range p.out {
		if c.name == 'b' || c.name == 't' || c.name == 'T' {
			at, ok := p.labels[c.text]
			if c.text == "" {
				at, ok = len(p.out), true
			}
			if !ok {
				return fmt.Errorf("can't find label for jump to `%s'", c.text)
			}
			c.label = at
		}
	}
	return nil
}
