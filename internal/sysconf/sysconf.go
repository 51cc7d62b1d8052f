// Package sysconf reads and edits the files in which a Linux system names its
// own devices: fstab(5), crypttab(5), mdadm.conf(5), mountinfo, systemd's mount
// and swap units, kernel command lines, GRUB's and the Boot Loader
// Specification's files. It is pure but for Tree and what the
// kernel shows in /proc: no device is opened and no program run.
//
// Every parser keeps the text: what was not edited is written byte for byte as
// it was read, with comments, blanks, line ends and a missing last newline.
package sysconf

import (
	"encoding/hex"
	"iter"
	"strings"
)

// span is a part of a text, from its first byte to the one after its last.
type span struct{ from, to int }

// line is a line of a file and its fields.
type line struct {
	body   string // without its end
	end    string // "\n", "\r\n", or "" for a last line without one
	fields []span // of body; none for comments
}

// splitLines divides a text into lines; their bodies and ends together are the text.
func splitLines(text string) []*line {
	var out []*line
	for text != "" {
		l := &line{body: text}
		if i := strings.IndexByte(text, '\n'); i >= 0 {
			l.body, l.end = text[:i], "\n"
		}
		text = text[len(l.body)+len(l.end):]
		if l.end != "" && strings.HasSuffix(l.body, "\r") { // libmount takes these, too
			l.body, l.end = l.body[:len(l.body)-1], "\r\n"
		}
		out = append(out, l)
	}
	return out
}

func joinLines(lines []*line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.body + l.end)
	}
	return b.String()
}

// scan finds the fields of a table's line: words between blanks and tabs. Other
// white space is part of a word, as libmount has it.
func (l *line) scan() {
	l.fields = nil
	blank := func(c byte) bool { return c == ' ' || c == '\t' }
	for i := 0; i < len(l.body); {
		if blank(l.body[i]) {
			i++
			continue
		}
		if l.body[i] == '#' && len(l.fields) == 0 {
			return
		}
		from := i
		for i < len(l.body) && !blank(l.body[i]) {
			i++
		}
		l.fields = append(l.fields, span{from, i})
	}
}

// tableLines scans the lines of a table, and gives those with at least two fields and
// their numbers, from 1.
func tableLines(lines []*line) iter.Seq2[int, *line] {
	return func(yield func(int, *line) bool) {
		for i, l := range lines {
			if l.scan(); len(l.fields) >= 2 && !yield(i+1, l) {
				return
			}
		}
	}
}

// decode reads fields in their order; those that are not there are "".
func (l *line) decode(to ...*string) {
	for n, s := range to {
		*s = Unescape(l.raw(n))
	}
}

// raw is a field as it is written, "" for one that is not there.
func (l *line) raw(n int) string {
	if n >= len(l.fields) {
		return ""
	}
	return l.body[l.fields[n].from:l.fields[n].to]
}

// set writes a field. Fields before it that are not there get the values of fill.
func (l *line) set(n int, raw string, fill []string) {
	for len(l.fields) < n {
		l.add(fill[len(l.fields)])
	}
	if n == len(l.fields) {
		l.add(raw)
		return
	}
	f := l.fields[n]
	l.body = l.body[:f.from] + raw + l.body[f.to:]
	l.scan()
}

// add appends a field behind the last one, with a tab where the line has tabs.
func (l *line) add(raw string) {
	at, sep := 0, " "
	if n := len(l.fields); n > 0 {
		at = l.fields[n-1].to
		if strings.Contains(l.body[:at], "\t") {
			sep = "\t"
		}
	}
	l.body = l.body[:at] + sep + raw + l.body[at:]
	l.scan()
}

// Escape writes a string as a field of fstab(5), mountinfo and crypttab(5): blank,
// tab, line ends and backslash as a backslash and three octal digits, and so a
// number sign at the beginning, which would begin a comment.
func Escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c == ' ', c == '\t', c == '\n', c == '\r', c == '\\', c == '#' && i == 0:
			b.WriteString(`\` + string([]byte{'0' + c>>6, '0' + c>>3&7, '0' + c&7}))
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Unescape reads what Escape writes. As in libmount, any backslash with three
// octal digits up to 377 is a byte, and any other backslash is itself.
func Unescape(s string) string {
	out, _ := unescape(s)
	return out
}

// unescape returns with the decoded text where each of its bytes is in s, and where
// s ends.
func unescape(s string) (string, []int) {
	out, at := make([]byte, 0, len(s)), make([]int, 0, len(s)+1)
	octal := func(i int, most byte) bool { return s[i] >= '0' && s[i] <= most }
	for i := 0; i < len(s); i++ {
		at = append(at, i)
		if s[i] == '\\' && i+3 < len(s) && octal(i+1, '3') && octal(i+2, '7') && octal(i+3, '7') {
			out = append(out, (s[i+1]-'0')<<6|(s[i+2]-'0')<<3|(s[i+3]-'0'))
			i += 3
			continue
		}
		out = append(out, s[i])
	}
	return string(out), append(at, len(s))
}

// unescapeHex reads udev's and systemd's escapes, \x and two hexadecimal digits.
func unescapeHex(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if i+3 < len(s) && s[i:i+2] == `\x` {
			if c, err := hex.DecodeString(s[i+2 : i+4]); err == nil {
				b.WriteByte(c[0])
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
