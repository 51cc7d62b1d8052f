package sysconf

import (
	"slices"
	"strings"
)

// Unit is the text of a systemd unit, systemd.syntax(7).
type Unit struct {
	Settings []*Setting
	lines    []*line
}

// Setting is an assignment in a unit.
type Setting struct {
	Line    int // the first one, from 1
	Section string
	Key     string
	Value   string // with continuation lines, %% as %, other specifiers as they are

	u    *Unit
	last int // line
}

// ParseUnit reads a unit. Lines that end in a backslash are continued, and
// comments between them are passed over.
func ParseUnit(text string) *Unit {
	u := &Unit{lines: splitLines(text)}
	section := ""
	for i := 0; i < len(u.lines); i++ {
		s := strings.Trim(u.lines[i].body, " \t\r")
		if s == "" || s[0] == '#' || s[0] == ';' {
			continue
		}
		if s[0] == '[' && strings.HasSuffix(s, "]") {
			section = s[1 : len(s)-1]
			continue
		}
		first := i
		for strings.HasSuffix(s, `\`) && i+1 < len(u.lines) {
			i++
			next := strings.Trim(u.lines[i].body, " \t\r")
			if next != "" && (next[0] == '#' || next[0] == ';') {
				continue
			}
			s = s[:len(s)-1] + " " + next
		}
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			continue
		}
		u.Settings = append(u.Settings, &Setting{Line: first + 1, last: i + 1, Section: section, u: u,
			Key: strings.Trim(key, " \t"), Value: strings.ReplaceAll(strings.Trim(value, " \t"), "%%", "%")})
	}
	return u
}

// String gives the text.
func (u *Unit) String() string { return joinLines(u.lines) }

// Get gives the last value of a key in a section, nil if absent.
func (u *Unit) Get(section, key string) *Setting {
	for _, s := range slices.Backward(u.Settings) {
		if s.Section == section && s.Key == key {
			return s
		}
	}
	return nil
}

// Value gives the last value of a key in a section, "" if absent.
func (u *Unit) Value(section, key string) string {
	if s := u.Get(section, key); s != nil {
		return s.Value
	}
	return ""
}

// Set changes a setting; the blanks around its equals sign stay. A key that is itself
// continued on another line is written on one.
func (s *Setting) Set(value string) {
	if value == s.Value {
		return
	}
	l := s.u.lines[s.Line-1]
	at := strings.IndexByte(l.body, '=') + 1
	if at == 0 {
		l.body = s.Key + "="
		at = len(l.body)
	}
	for at < len(l.body) && (l.body[at] == ' ' || l.body[at] == '\t') {
		at++
	}
	l.body = l.body[:at] + strings.ReplaceAll(value, "%", "%%")
	if s.last > s.Line { // what continued it
		for i := s.Line; i < s.last; i++ {
			s.u.lines[i].body, s.u.lines[i].end = "", ""
		}
	}
	s.Value = value
}

// Add adds a setting at the end of a section, which is made if absent.
func (u *Unit) Add(section, key, value string) {
	at, in := -1, false
	for i, l := range u.lines {
		s := strings.Trim(l.body, " \t\r")
		if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
			in = s[1:len(s)-1] == section
		}
		if in && s != "" {
			at = i + 1
		}
	}
	if at < 0 {
		u.lines = appendLine(u.lines, "["+section+"]")
		at = len(u.lines)
	}
	tail := slices.Clone(u.lines[at:])
	u.lines = append(appendLine(u.lines[:at], key+"="+strings.ReplaceAll(value, "%", "%%")), tail...)
	*u = *ParseUnit(u.String())
}

// UnitPath gives the path that a unit's name without its ending stands for:
// "/srv/my data" for `srv-my\x20data`, systemd.unit(5).
func UnitPath(name string) string {
	if name == "-" {
		return "/"
	}
	return "/" + unescapeHex(strings.ReplaceAll(name, "-", "/"))
}

// UnitName gives the name without its ending of a unit for a path: it is what
// systemd-escape --path prints.
func UnitName(path string) string {
	path = strings.Join(slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." }), "/")
	if path == "" {
		return "-"
	}
	const digits = "0123456789abcdef"
	var b strings.Builder
	for i := range len(path) {
		c := path[i]
		switch {
		case c == '/':
			b.WriteByte('-')
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == ':', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			b.WriteString(`\x` + string([]byte{digits[c>>4], digits[c&15]}))
		}
	}
	return b.String()
}
