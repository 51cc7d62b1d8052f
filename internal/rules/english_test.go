package rules

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// idioms are words that nobody else in the field uses, with what to write.
// Each pattern is narrow, so that correct sentences are not reported.
var idioms = []struct{ pattern, write string }{
	{`anew\b`, "again, new, recreate"},
	{`(lies|lie|lay|lain) on\b`, "is on"},
	{`(ha[sd]|have) not( (the|an?|any|its|enough|all|room)\b|[,.;:)]|$)`, "lacks, has no"},
	{`(ha[sd]|have) (it|them) not\b`, "lacks, has no"},
	{`(says|tells|said so)\b`, "reports, prints"},
	{`mend(s|ed|ing)?\b`, "fix, repair"},
	{`(goes|went) on\b`, "continues"},
	{`go on (with|there)\b`, "continue"},
	{`gone\b`, "missing, disconnected, deleted"},
	{`whatever\b`, "name it"},
	{`what(ever)? is left( (of|in|by|on|when|behind|there)\b|[.,;:)]|$)`, "name it"},
	{`(comes?|came|coming) back\b`, "is restored, returns"},
	{`may come in\b`, "may log in"},
	{`honest(y|ly)?\b`, "capacity check, correct"},
	{`twins?\b`, "duplicate disks"},
	{`all the same\b`, "anyway, or name the option"},
	{`nobody (gave|is here|was asked|answers?|answered|said|asked|named|expected|expects|knows)\b`, "no ... given"},
	{`found at (the )?start\b`, "found at boot"},
	{`without a word([.,;:)]|$)`, "without a message"},
	{`what, and where\b`, "expected A and B"},
}

// isNo finds "X is no Y" and "X is none", which should be "X is not a Y". "There is no Y", "there is none", "is no
// longer" and "is no more than" are correct.
var isNo = regexp.MustCompile(`(?i)(\w+ )?\b(is|are|was|were) (no|none)\b ?(\w*)`)

var isNoAfter = []string{"longer", "more", "less", "larger", "smaller", "later", "earlier", "better", "worse", "faster", "quicker", "slower", "different", "way", "need"}

var anyIdiom = func() *regexp.Regexp {
	var all []string
	for _, x := range idioms {
		all = append(all, x.pattern)
	}
	return regexp.MustCompile(`(?i)\b(` + strings.Join(all, "|") + ")")
}()

// found returns the idioms in a text, with the number of the line each begins on, counted from 0.
func found(text string) (lines []int, words []string) {
	for i, line := range strings.Split(text, "\n") {
		for _, w := range anyIdiom.FindAllString(line, -1) {
			lines, words = append(lines, i), append(words, w)
		}
		for _, m := range isNo.FindAllStringSubmatch(line, -1) {
			before := strings.ToLower(strings.TrimSpace(m[1]))
			if before != "there" && before != "here" && (m[3] == "none" || m[4] != "" && !slices.Contains(isNoAfter, strings.ToLower(m[4]))) {
				lines, words = append(lines, i), append(words, strings.TrimSpace(m[0]))
			}
		}
	}
	return lines, words
}

// generated are the documents whose tables a program writes: rows of a table can't be wrapped,
// and neither can indented code and output of programs.
var generated = []string{"BENCHMARKS.md", "FLEET-SIMULATION.md", "MATRIX.md", "TOOLBOX.md"}

// count is the number of findings in one directory: in strings (for Markdown and templates: in the
// text), in comments, and the lines of Markdown that are longer than 120 columns.
type count struct{ strings, comments, long int }

// english collects the findings of the whole tree. Each is logged with its place.
func english(t *testing.T) map[string]count {
	got := map[string]count{}
	add := func(file string, line int, kind, word string) {
		dir := path.Dir(file)
		c := got[dir]
		switch kind {
		case "string":
			c.strings++
		case "comment":
			c.comments++
		default:
			c.long++
		}
		got[dir] = c
		t.Logf("%s:%d: %s: %s", file, line, kind, word)
	}
	text := func(file string, line int, kind, s string) {
		lines, words := found(s)
		for i := range lines {
			add(file, line+lines[i], kind, words[i])
		}
	}
	err := filepath.WalkDir("../..", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{"bbgen", ".git", "testdata"}, d.Name()) {
			return filepath.SkipDir
		}
		rel := strings.TrimPrefix(filepath.ToSlash(p), "../../")
		switch ext := filepath.Ext(p); {
		case ext == ".go" && !strings.HasSuffix(p, "_test.go"):
			set := token.NewFileSet()
			f, err := parser.ParseFile(set, p, nil, parser.ParseComments)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if s, ok := n.(*ast.BasicLit); ok && s.Kind == token.STRING {
					text(rel, set.Position(s.Pos()).Line, "string", strings.Trim(s.Value, "`\""))
				}
				return true
			})
			for _, g := range f.Comments {
				for _, c := range g.List {
					text(rel, set.Position(c.Pos()).Line, "comment", c.Text)
				}
			}
		case ext == ".md", ext == ".tmpl", rel == "templates/help.txt":
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			text(rel, 1, "string", string(b))
			for i, line := range strings.Split(string(b), "\n") {
				fixed := strings.HasPrefix(line, "|") && slices.Contains(generated, path.Base(rel)) || strings.HasPrefix(line, "    ")
				if n := utf8.RuneCountInString(line); ext == ".md" && n > 120 && !fixed {
					add(rel, i+1, "long line", fmt.Sprint(n, " columns"))
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestPlainEnglish: messages, documents and comments are in plain English. A directory may have
// as many findings as budget has for it. The places are shown by
// go test -v -run TestPlainEnglish ./internal/rules
func TestPlainEnglish(t *testing.T) {
	got := english(t)
	dirs := slices.Collect(maps.Keys(budget))
	for d := range got {
		if _, ok := budget[d]; !ok {
			dirs = append(dirs, d)
		}
	}
	slices.SortFunc(dirs, cmp.Compare[string])
	for _, d := range dirs {
		g, b := got[d], budget[d]
		if g.strings > b.strings || g.comments > b.comments || g.long > b.long {
			t.Errorf("%s: strings, comments, long lines = %v; want at most %v: use plain words (where code moved here, move its numbers, too)", d, g, b)
		} else if g != b {
			t.Logf("budget: %q: {%d, %d, %d}, // was %v: lower it", d, g.strings, g.comments, g.long, b)
		}
	}
}

// TestIdioms: the patterns find the idioms and leave correct sentences alone.
func TestIdioms(t *testing.T) {
	for _, s := range []string{
		"a swap file, which is made anew", "it has not the driver of X", "which lies on a disk", "X is no directory",
		"the medium is none", "what is left of it", "without a word.", "nobody gave the passphrase", "the disk is gone", "restore --resume goes on there",
	} {
		if _, w := found(s); len(w) != 1 {
			t.Errorf("found(%q) = %q; want one idiom", s, w)
		}
	}
	for _, s := range []string{
		"there is no medium", "it has not been changed", "the disk is no longer there", "the value of mender", "renewed", "owned by nobody",
		"it is not one of them", "recommended", "nil if there is none", "what is left out", "0 without a word for them",
	} {
		if _, w := found(s); len(w) != 0 {
			t.Errorf("found(%q) = %q; want none", s, w)
		}
	}
}

// budget is the number of findings that each directory may have: each has its reason. The test logs what to lower.
var budget = map[string]count{
	"docs":               {1, 0, 0}, // the event "gone"
	"internal/fleet/web": {1, 0, 0}, // the event "gone"
}
