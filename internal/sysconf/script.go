package sysconf

import (
	"cmp"
	"slices"
	"strings"
)

// Script is a text in the words of a shell: /etc/default/grub and other files of
// assignments, or GRUB's configuration, which quotes as a shell does.
type Script struct {
	Commands []*Command
	text     string
	edits    []edit
}

// Command is a simple command: words up to an end of line, a semicolon or another
// operator.
type Command struct {
	Line  int // from 1
	Words []*ScriptWord
}

// ScriptWord is a word without its quotes and escapes. Expansions are not carried
// out: "$root" and "$(hostname)" are what they are.
type ScriptWord struct {
	Text    string
	Expands bool // has a $ or ` that a shell expands

	at      []int  // where each byte is in the script, and where the last one ends
	context []byte // of each byte: 0, ' or "
}

type edit struct {
	span
	text string
}

// ParseScript reads a script. Where grub is false, parentheses end a word, too.
func ParseScript(text string, grub bool) *Script {
	s := &Script{text: text}
	operators := ";|&<>"
	if !grub {
		operators += "()"
	}
	line := 1
	var c *Command
	end := func() { c = nil }
	for i := 0; i < len(text); {
		switch b := text[i]; {
		case b == '\n':
			line++
			end()
			i++
		case b == ' ', b == '\t', b == '\r':
			i++
		case b == '\\' && i+1 < len(text) && text[i+1] == '\n':
			line++
			i += 2
		case b == '#':
			for i < len(text) && text[i] != '\n' {
				i++
			}
		case strings.IndexByte(operators, b) >= 0:
			end()
			i++
		default:
			w := &ScriptWord{}
			from := i
			i = w.read(text, i, operators)
			if c == nil {
				c = &Command{Line: line}
				s.Commands = append(s.Commands, c)
			}
			c.Words = append(c.Words, w)
			line += strings.Count(text[from:i], "\n")
			if slices.Contains([]string{"{", "}", "then", "else", "do"}, w.Text) {
				end()
			}
		}
	}
	return s
}

// read reads a word and returns where it ends.
func (w *ScriptWord) read(text string, i int, operators string) int {
	var out []byte
	add := func(at int, context byte) {
		out = append(out, text[at])
		w.at = append(w.at, at)
		w.context = append(w.context, context)
	}
	quote := byte(0)
	for ; i < len(text); i++ {
		b := text[i]
		if quote == 0 && (strings.IndexByte(" \t\r\n", b) >= 0 || strings.IndexByte(operators, b) >= 0) {
			break
		}
		switch {
		case quote != 0 && b == quote:
			quote = 0
		case quote == 0 && (b == '\'' || b == '"'):
			quote = b
		case escapes(text[i:], quote):
			if i++; text[i] != '\n' {
				add(i, quote)
				w.at[len(w.at)-1] = i - 1
			}
		default:
			w.Expands = w.Expands || quote != '\'' && (b == '$' || b == '`')
			add(i, quote)
		}
	}
	w.Text = string(out)
	w.at = append(w.at, i)
	return i
}

// escapes reports whether s begins with a backslash that quotes the byte behind it, within
// a quote or none (0).
func escapes(s string, quote byte) bool {
	return len(s) > 1 && s[0] == '\\' && quote != '\'' && (quote == 0 || strings.IndexByte("$`\"\\\n", s[1]) >= 0)
}

// Assignment divides a word NAME=value or NAME+=value of a command; at is where the
// value begins in Text.
func (w *ScriptWord) Assignment() (name string, at int, ok bool) {
	i := strings.IndexByte(w.Text, '=')
	if i <= 0 || slices.ContainsFunc(w.context[:i+1], func(c byte) bool { return c != 0 }) {
		return "", 0, false
	}
	name = strings.TrimSuffix(w.Text[:i], "+")
	for k, c := range []byte(name) {
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (k == 0 || c < '0' || c > '9') {
			return "", 0, false
		}
	}
	return name, i + 1, name != ""
}

// Replace writes a text in the place of bytes of a word, with the quoting that is
// wanted there.
func (s *Script) Replace(w *ScriptWord, from, to int, text string) {
	if from < 0 || from > to || to > len(w.Text) || from == len(w.Text) {
		return
	}
	last := w.at[from]
	if to > from { // where the last byte ends, before a quote that follows it
		last = w.at[to-1] + 1
		if s.text[w.at[to-1]] == '\\' && (w.context[to-1] != '\'') && last < len(s.text) && s.text[last] == w.Text[to-1] {
			last++
		}
	}
	s.edits = append(s.edits, edit{span{w.at[from], last}, quoteAs(text, w.context[from])})
}

// quoteAs writes a text outside of quotes (0) or inside of a kind of them.
func quoteAs(text string, context byte) string {
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		switch {
		case context == '\'' && c == '\'':
			b.WriteString(`'\''`)
			continue
		case context == '"' && strings.IndexByte("$`\"\\", c) >= 0,
			context == 0 && strings.IndexByte(" \t\n$`\"\\';|&<>(){}*?[]~#!", c) >= 0:
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}

// String gives the text with what was replaced.
func (s *Script) String() string { return apply(s.text, s.edits) }

// apply carries out edits that do not overlap.
func apply(text string, edits []edit) string {
	if len(edits) == 0 {
		return text
	}
	edits = slices.Clone(edits)
	slices.SortStableFunc(edits, func(a, b edit) int { return cmp.Compare(a.from, b.from) })
	var b strings.Builder
	at := 0
	for _, e := range edits {
		if e.from < at {
			continue
		}
		b.WriteString(text[at:e.from] + e.text)
		at = e.to
	}
	return b.String() + text[at:]
}
