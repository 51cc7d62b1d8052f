package sysconf

import "strings"

// Mdadm is the text of an mdadm.conf(5).
type Mdadm struct {
	Arrays  []*MdArray
	Devices []*MdDevices
	lines   []*line
}

// MdDevices is a DEVICE line of mdadm.conf(5): only on these are arrays looked for.
type MdDevices struct {
	Line  int // the first one, from 1
	Names []string

	last int
}

// MdArray is an ARRAY line of mdadm.conf(5), with its continuation lines.
type MdArray struct {
	Line     int    // the first one, from 1
	Device   string // "/dev/md0", "/dev/md/home", "home", "<ignore>"; "" for none
	UUID     string // 32 hexadecimal digits, lower case; "" for none
	Name     string // "host:home"
	Metadata string

	last int // line
}

// ParseMdadm reads an mdadm.conf(5): lines that begin with white space continue
// the one before, words may be quoted, and a word that begins with # begins a
// comment.
func ParseMdadm(text string) *Mdadm {
	m := &Mdadm{lines: splitLines(text)}
	var words []string
	first, last := 0, 0
	flush := func() {
		if len(words) > 1 && keyword(words[0], "array") {
			a := &MdArray{Line: first + 1, last: last + 1}
			a.read(words[1:])
			m.Arrays = append(m.Arrays, a)
		}
		if len(words) > 1 && keyword(words[0], "device") {
			m.Devices = append(m.Devices, &MdDevices{first + 1, words[1:], last + 1})
		}
		words = nil
	}
	for i, l := range m.lines {
		w := mdWords(l.body)
		if len(w) == 0 {
			continue
		}
		if l.body[0] != ' ' && l.body[0] != '\t' {
			flush()
			first = i
		}
		last = i
		words = append(words, w...)
	}
	flush()
	return m
}

// keyword reports whether a word is an abbreviation of at least three letters.
func keyword(w, of string) bool {
	return len(w) >= 3 && len(w) <= len(of) && strings.EqualFold(w, of[:len(w)])
}

func (a *MdArray) read(words []string) {
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		switch {
		case !ok || strings.HasPrefix(w, "/"):
			if a.Device == "" {
				a.Device = w
			}
		case strings.EqualFold(k, "uuid"):
			a.UUID = PlainUUID(v)
		case strings.EqualFold(k, "name"):
			a.Name = v
		case strings.EqualFold(k, "metadata"):
			a.Metadata = v
		}
	}
}

// PlainUUID is a UUID in lower case without its separators, so that mdadm's,
// LVM's and others' can be compared.
func PlainUUID(s string) string {
	return strings.ToLower(strings.NewReplacer(":", "", "-", "").Replace(s))
}

// mdWords gives the words of a line, without their quotes.
func mdWords(s string) []string {
	var out []string
	for i := 0; i < len(s); {
		if strings.IndexByte(" \t\r\v\f", s[i]) >= 0 {
			i++
			continue
		}
		if s[i] == '#' {
			break
		}
		var w []byte
		quote := byte(0)
		for ; i < len(s) && (quote != 0 || strings.IndexByte(" \t\r\v\f", s[i]) < 0); i++ {
			switch c := s[i]; {
			case quote != 0 && c == quote:
				quote = 0
			case quote == 0 && (c == '"' || c == '\''):
				quote = c
			default:
				w = append(w, c)
			}
		}
		out = append(out, string(w))
	}
	return out
}

// String gives the text.
func (m *Mdadm) String() string { return joinLines(m.lines) }

// Comment makes the lines of an array comments that begin with the reason.
func (m *Mdadm) Comment(a *MdArray, reason string) { m.comment(a.Line, a.last, reason) }

// CommentDevices does the same with a DEVICE line.
func (m *Mdadm) CommentDevices(d *MdDevices, reason string) { m.comment(d.Line, d.last, reason) }

func (m *Mdadm) comment(first, last int, reason string) {
	for i := first - 1; i < last; i++ {
		m.lines[i].body = "# " + reason + ": " + m.lines[i].body
	}
}

// Append adds a line at the end.
func (m *Mdadm) Append(text string) { m.lines = appendLine(m.lines, text) }
