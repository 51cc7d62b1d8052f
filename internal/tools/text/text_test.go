package text

import (
	"bytes"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/tools/posix"
)

// FuzzScripts: no script of sed, bc, awk, printf, expr or tr makes a panic.
func FuzzScripts(f *testing.F) {
	for _, s := range []string{"s/a/b/g", "1,3{p;d}", "/x/,+2!s,\\(a\\),\\1,w /dev/null", "y/ab/cd/", "2^3*(1.5-x)", "for(i=0;i<3;i++) i", "[:upper:]", "a-z[b*3]", "%5.2d%b%q", "$!N", "1 + 2"} {
		f.Add(s)
	}
	commands := map[string]tools.Command{}
	for _, c := range Commands() {
		commands[c.Name] = c
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsAny(s, "wWrR:btT\x00^{") || len(s) > 100 { // files, loops, and long numbers
			return
		}
		var b bytes.Buffer
		for _, args := range [][]string{{"sed", s}, {"printf", s, "1", "a"}, {"tr", s, "xy"}, {"cut", "-f", s}, {"sort", "-k", s}, append([]string{"expr"}, strings.Fields(s)...)} {
			env := tools.New(commands[args[0]], strings.NewReader("one 1\ntwo a b\n"), &b, &b)
			_ = env.Run(args[1:])
		}
		if !strings.ContainsAny(s, "whilefor*") {
			env := tools.New(commands["bc"], strings.NewReader(s), &b, &b)
			_ = env.Run(nil)
		}
	})
}

func FuzzTranslate(f *testing.F) {
	for _, s := range []string{"a*b", `\(a\|b\)\{1,2\}`, "[[:alpha:]-]", "a{2,}", "**", "[]a]", `\<x\>`} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, s string, extended bool) {
		if re, err := posix.Compile(s, posix.Flags{Extended: extended}); err == nil {
			re.MatchString("some text\nwith aaa [lines]")
		}
	})
}
