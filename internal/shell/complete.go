package shell

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/usage"
)

// described are commands that print the definition of their command line.
var described = []string{"mkcdrec", "restore", "clonedsk", "cutstream", "pastestream"}

// words of the interpreter that are completed as commands.
var words = []string{"cd", "echo", "exit", "export", "fg", "bg", "jobs", "history", "wait", "set", "unset", "source", "type", "pwd", "printf", "read", "test", "alias", "umask", "while", "for", "if"}

const special = " \t\\'\"`$&|;<>()*?[]{}#!"

// splitter takes a line apart, up to the cursor.
type splitter struct {
	before []string
	word   strings.Builder
	at     int  // where the word begins
	begun  bool // it has a character or quotes
}

func (p *splitter) end(next int) {
	if p.begun {
		p.before = append(p.before, p.word.String())
	}
	p.word.Reset()
	p.begun, p.at = false, next
}

func (p *splitter) add(c byte) {
	p.word.WriteByte(c)
	p.begun = true
}

// lastWord gives the words of the command before the cursor, the word that is typed as it is
// meant, and where that begins.
func lastWord(line string) (before []string, word string, at int) {
	var quote byte
	var p splitter
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && quote != '\'' && i+1 < len(line):
			i++
			p.add(line[i])
		case quote != 0:
			p.word.WriteByte(c)
		case c == '\'' || c == '"':
			quote, p.begun = c, true
		case strings.IndexByte(" \t<>", c) >= 0:
			p.end(i + 1)
		case strings.IndexByte("|;&(", c) >= 0:
			p.end(i + 1)
			p.before = nil
		default:
			p.add(c)
		}
	}
	return p.before, p.word.String(), p.at
}

// escape writes a name so that the shell takes it for one word.
func escape(s string) string {
	var b strings.Builder
	for _, c := range s {
		if strings.ContainsRune(special, c) {
			b.WriteByte('\\')
		}
		b.WriteRune(c)
	}
	return b.String()
}

// complete completes the word before the cursor: a command when it is the first, an option
// after "-", a file otherwise. A second tab lists what there is to choose from.
func (s *session) complete(line string, pos int, key rune) (string, int, bool) {
	if key != '\t' {
		s.tabs = ""
		return "", 0, false
	}
	before, word, at := lastWord(line[:pos])
	m := s.candidates(before, word)
	if len(m) == 0 {
		return "", 0, false
	}
	pre := common(m)
	if len(m) > 1 && pre == word {
		if s.tabs == line[:pos] {
			s.list(m)
		}
		s.tabs = line[:pos]
		return "", 0, false
	}
	text := escape(pre)
	if strings.HasPrefix(word, "~/") {
		text = "~/" + escape(strings.TrimPrefix(pre, "~/"))
	}
	if len(m) == 1 && !strings.HasSuffix(pre, "/") && !strings.HasSuffix(pre, "=") {
		text += " "
	}
	return line[:at] + text + line[pos:], at + len(text), true
}

// candidates are what the word may become, sorted.
func (s *session) candidates(before []string, word string) []string {
	var m []string
	switch {
	case len(before) == 0 && !strings.Contains(word, "/"):
		m = s.commands(word)
	case strings.HasPrefix(word, "-") && len(before) > 0:
		m = s.options(before, word)
	default:
		m = append(s.subcommands(before, word), s.files(word, len(before) > 0 && before[0] == "cd")...)
	}
	slices.Sort(m)
	return slices.Compact(m)
}

// common is how all of m begin.
func common(m []string) string {
	pre := m[0]
	for _, x := range m {
		for !strings.HasPrefix(x, pre) {
			pre = pre[:len(pre)-1]
		}
	}
	return pre
}

// list shows what there is to choose from, in columns.
func (s *session) list(m []string) {
	width := 1
	for _, x := range m {
		width = max(width, len(filepath.Base(x))+2)
	}
	var b strings.Builder
	for i, x := range m[:min(len(m), 200)] {
		name := filepath.Base(x)
		if strings.HasSuffix(x, "/") {
			name += "/"
		}
		fmt.Fprintf(&b, "%-*s", width, name)
		if (i+1)%max(1, s.width/width) == 0 {
			b.WriteString("\n")
		}
	}
	if len(m) > 200 {
		fmt.Fprintf(&b, "... and %d more", len(m)-200)
	}
	_, _ = s.t.Write([]byte(strings.TrimRight(b.String(), "\n") + "\n")) // the line is drawn again in any case
}

func (s *session) commands(word string) []string {
	var m []string
	for _, x := range words {
		if strings.HasPrefix(x, word) {
			m = append(m, x)
		}
	}
	for name := range s.r.Funcs {
		if strings.HasPrefix(name, word) {
			m = append(m, name)
		}
	}
	for _, d := range filepath.SplitList(os.Getenv("PATH")) {
		entries, err := os.ReadDir(d)
		if err != nil {
			continue
		}
		for _, x := range entries {
			if strings.HasPrefix(x.Name(), word) {
				m = append(m, x.Name())
			}
		}
	}
	return m
}

// files completes a path; only directories are wanted for cd.
func (s *session) files(word string, dirs bool) []string {
	dir, base := filepath.Split(word)
	at := dir
	if rest, ok := strings.CutPrefix(dir, "~/"); ok {
		at = filepath.Join(os.Getenv("HOME"), rest)
	} else if !filepath.IsAbs(dir) {
		at = filepath.Join(s.r.Dir, dir)
	}
	entries, err := os.ReadDir(at)
	if err != nil {
		return nil
	}
	var m []string
	for _, x := range entries {
		if !strings.HasPrefix(x.Name(), base) || base == "" && x.Name()[0] == '.' {
			continue
		}
		st, err := os.Stat(filepath.Join(at, x.Name()))
		isDir := err == nil && st.IsDir()
		switch {
		case isDir:
			m = append(m, dir+x.Name()+"/")
		case !dirs:
			m = append(m, dir+x.Name())
		}
	}
	return m
}

// definition gives the command line of one of ours that has a definition, or of the
// subcommand that the words name.
func (s *session) definition(before []string) *usage.Command {
	if len(before) == 0 || !slices.Contains(described, before[0]) {
		return nil
	}
	c, ok := s.definitions[before[0]]
	if !ok {
		ctx, stop := context.WithTimeout(context.Background(), 3*time.Second)
		defer stop()
		b, err := exec.CommandContext(ctx, before[0], usage.JSON).Output()
		if err == nil {
			c, _ = usage.Read(b) // nothing is completed without it
		}
		s.definitions[before[0]] = c
	}
	for _, w := range before[1:] {
		if c != nil {
			if sub := c.Find(w); sub != nil {
				c = sub
			}
		}
	}
	return c
}

func (s *session) subcommands(before []string, word string) []string {
	var m []string
	if c := s.definition(before); c != nil {
		for _, sub := range c.Commands {
			if strings.HasPrefix(sub.Name, word) {
				m = append(m, sub.Name)
			}
		}
	}
	return m
}

func (s *session) options(before []string, word string) []string {
	var all, m []string
	if c := s.definition(before); c != nil {
		for _, o := range c.Options {
			for _, n := range o.Names {
				all = append(all, usage.Dashed(n))
			}
		}
	} else if s.optionsOf != nil {
		all = s.optionsOf(before[0])
	}
	for _, o := range all {
		if strings.HasPrefix(o, word) {
			m = append(m, o)
		}
	}
	return m
}
