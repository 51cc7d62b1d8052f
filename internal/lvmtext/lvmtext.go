// Package lvmtext reads and writes the text that LVM keeps of a volume group
// and vgcfgbackup(8) writes: sections of assignments whose values are numbers,
// strings and lists of them. Order is kept. The grammar is that of lvm.conf(5).
package lvmtext

import (
	"fmt"
	"strconv"
	"strings"
)

// Section is a list of assignments and sections.
type Section struct {
	Name  string // "" for the whole text
	Nodes []Node
}

// Node is an assignment, or a section when Section is not nil.
type Node struct {
	Key     string
	Value   Value
	Section *Section
}

// Value is an int64, a string, or a []Value.
type Value any

// maxDepth and maxNodes bound what is read.
const maxDepth, maxNodes = 32, 1 << 20

// Parse reads a text. Comments are dropped.
func Parse(text string) (*Section, error) {
	p := &parser{text: text, line: 1}
	s, err := p.section("", 0)
	if err != nil {
		return nil, fmt.Errorf("cannot read LVM metadata: line %d: %w", p.line, err)
	}
	return s, nil
}

type parser struct {
	text  string
	pos   int
	line  int
	nodes int
}

func (p *parser) space() {
	for p.pos < len(p.text) {
		switch c := p.text[p.pos]; {
		case c == '\n':
			p.line++
			p.pos++
		case c == ' ' || c == '\t' || c == '\r':
			p.pos++
		case c == '#':
			for p.pos < len(p.text) && p.text[p.pos] != '\n' {
				p.pos++
			}
		default:
			return
		}
	}
}

// next returns the next byte that is not a space, 0 at the end.
func (p *parser) next() byte {
	p.space()
	if p.pos == len(p.text) {
		return 0
	}
	return p.text[p.pos]
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_-+./:@", c) >= 0
}

func (p *parser) word() string {
	start := p.pos
	for p.pos < len(p.text) && wordByte(p.text[p.pos]) {
		p.pos++
	}
	return p.text[start:p.pos]
}

func (p *parser) section(name string, depth int) (*Section, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("more than %d sections in each other", maxDepth)
	}
	s := &Section{Name: name}
	for {
		c := p.next()
		if c == 0 && depth == 0 {
			return s, nil
		}
		if c == '}' && depth > 0 {
			p.pos++
			return s, nil
		}
		key := ""
		if c == '"' {
			var err error
			if key, err = p.str(); err != nil {
				return nil, err
			}
		} else {
			key = p.word()
		}
		if key == "" {
			return nil, fmt.Errorf("%s where a name should be", describe(c))
		}
		if p.nodes++; p.nodes > maxNodes {
			return nil, fmt.Errorf("more than %d entries", maxNodes)
		}
		n := Node{Key: key}
		var err error
		switch c := p.next(); c {
		case '{':
			p.pos++
			n.Section, err = p.section(key, depth+1)
		case '=':
			p.pos++
			n.Value, err = p.value(0)
		default:
			err = fmt.Errorf("%s after %s; want = or {", describe(c), key)
		}
		if err != nil {
			return nil, err
		}
		s.Nodes = append(s.Nodes, n)
	}
}

func describe(c byte) string {
	if c == 0 {
		return "the end"
	}
	return strconv.QuoteRune(rune(c))
}

func (p *parser) str() (string, error) {
	p.pos++
	var b strings.Builder
	for p.pos < len(p.text) {
		c := p.text[p.pos]
		p.pos++
		switch c {
		case '"':
			return b.String(), nil
		case '\\':
			if p.pos == len(p.text) {
				continue
			}
			b.WriteByte(p.text[p.pos])
			p.pos++
			continue
		case '\n':
			p.line++
		}
		b.WriteByte(c)
	}
	return "", fmt.Errorf("a string without end")
}

func (p *parser) value(depth int) (Value, error) {
	switch c := p.next(); {
	case c == '"':
		return p.str()
	case c == '[' && depth < maxDepth:
		p.pos++
		list := []Value{}
		for {
			if p.next() == ']' {
				p.pos++
				return list, nil
			}
			v, err := p.value(depth + 1)
			if err != nil {
				return nil, err
			}
			if p.nodes++; p.nodes > maxNodes {
				return nil, fmt.Errorf("more than %d entries", maxNodes)
			}
			list = append(list, v)
			switch c := p.next(); c {
			case ',':
				p.pos++
			case ']':
			default:
				return nil, fmt.Errorf("%s in a list", describe(c))
			}
		}
	default:
		w := p.word()
		n, err := strconv.ParseInt(w, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s where a value should be", describe(c))
		}
		return n, nil
	}
}

// String writes the text; Parse reads it back.
func (s *Section) String() string {
	var b strings.Builder
	s.write(&b, "")
	return b.String()
}

func (s *Section) write(b *strings.Builder, indent string) {
	for _, n := range s.Nodes {
		key := n.Key
		if strings.IndexFunc(key, func(r rune) bool { return r > 127 || !wordByte(byte(r)) }) >= 0 {
			key = quote(key)
		}
		b.WriteString(indent + key)
		if n.Section == nil {
			b.WriteString(" = ")
			writeValue(b, n.Value)
			b.WriteByte('\n')
			continue
		}
		b.WriteString(" {\n")
		n.Section.write(b, indent+"\t")
		b.WriteString(indent + "}\n")
	}
}

func quote(s string) string {
	if !strings.ContainsAny(s, `\"`) {
		return `"` + s + `"`
	}
	return `"` + strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), `"`, `\"`) + `"`
}

func writeValue(b *strings.Builder, v Value) {
	switch v := v.(type) {
	case int64:
		fmt.Fprint(b, v)
	case string:
		b.WriteString(quote(v))
	case []Value:
		b.WriteByte('[')
		for i, x := range v {
			if i > 0 {
				b.WriteString(", ")
			}
			writeValue(b, x)
		}
		b.WriteByte(']')
	}
}

// Get finds a section by its path; nil when it is not there.
func (s *Section) Get(path ...string) *Section {
	for _, p := range path {
		if s == nil {
			return nil
		}
		var found *Section
		for _, n := range s.Nodes {
			if n.Key == p && n.Section != nil {
				found = n.Section
			}
		}
		s = found
	}
	return s
}

// Sections are the sections right below, in order.
func (s *Section) Sections() []*Section {
	var out []*Section
	if s == nil {
		return nil
	}
	for _, n := range s.Nodes {
		if n.Section != nil {
			out = append(out, n.Section)
		}
	}
	return out
}

// Int returns a number.
func (s *Section) Int(key string) (int64, bool) {
	v, ok := s.value(key).(int64)
	return v, ok
}

// Str returns a string, "" if absent.
func (s *Section) Str(key string) string {
	v, _ := s.value(key).(string) // absent is ""
	return v
}

// Type is the segment type of a segment; flags may follow it after a +.
func (s *Section) Type() string {
	t, _, _ := strings.Cut(s.Str("type"), "+")
	return t
}

// List returns a list, nil if absent.
func (s *Section) List(key string) []Value {
	v, _ := s.value(key).([]Value) // absent is nil
	return v
}

func (s *Section) value(key string) Value {
	if s == nil {
		return nil
	}
	for _, n := range s.Nodes {
		if n.Key == key && n.Section == nil {
			return n.Value
		}
	}
	return nil
}

// Set changes a value, or adds it at the end; a section that is nil stays so.
func (s *Section) Set(key string, v Value) {
	if s == nil {
		return
	}
	for i := range s.Nodes {
		if s.Nodes[i].Key == key && s.Nodes[i].Section == nil {
			s.Nodes[i].Value = v
			return
		}
	}
	s.Nodes = append(s.Nodes, Node{Key: key, Value: v})
}

// Replace takes away all sections right below that drop names, and puts others
// at the end; a section that is nil stays so.
func (s *Section) Replace(drop func(name string) bool, put ...*Section) {
	if s == nil {
		return
	}
	var out []Node
	for _, n := range s.Nodes {
		if n.Section == nil || !drop(n.Key) {
			out = append(out, n)
		}
	}
	for _, p := range put {
		out = append(out, Node{Key: p.Name, Section: p})
	}
	s.Nodes = out
}
