package multicall

import (
	"fmt"
	"testing"
)

func TestPick(t *testing.T) {
	cmds := []string{"ls", "sh", "mkcdrec", "init"}
	for _, c := range []struct{ argv, name, args string }{
		{"[/bbin/ls -l]", "ls", "[/bbin/ls -l]"},
		{"[-sh]", "sh", "[-sh]"},
		{"[mkcdrec path /x]", "mkcdrec", "[mkcdrec path /x]"},
		{"[/tmp/mkcdrec-new test]", "mkcdrec", "[/tmp/mkcdrec-new test]"},
		{"[mkcdrec applet ls -a]", "ls", "[ls -a]"},
		{"[mkcdrec applet]", "mkcdrec", "[mkcdrec applet]"},
		{"[/init]", "init", "[/init]"},
	} {
		name, args := Pick(splitWords(c.argv), cmds)
		if name != c.name || fmt.Sprint(args) != c.args {
			t.Errorf("Pick(%s) = %s %v; want %s %s", c.argv, name, args, c.name, c.args)
		}
	}
}

func splitWords(s string) []string {
	var out []string
	w := ""
	for _, r := range s[1:len(s)-1] + " " {
		if r == ' ' {
			out = append(out, w)
			w = ""
			continue
		}
		w += string(r)
	}
	return out
}
