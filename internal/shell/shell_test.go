package shell

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestMain lets this executable be the shell.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "shell" {
		os.Exit(Main(nil, os.Stdin, os.Stdout, os.Stderr, func(name string) []string {
			return map[string][]string{"tool": {"-a", "--all", "--width="}}[name]
		}))
	}
	os.Exit(m.Run())
}

func TestShell(t *testing.T) {
	script := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(script, []byte("echo $# $1 $2\nfalse\nexit 7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, stdin, out string
		args             []string
		code             int
	}{
		{"command", "", "hi\n", []string{"-c", "echo hi"}, 0},
		{"command with parameters", "", "a b\n", []string{"-c", "echo $1 $2", "name", "a", "b"}, 0},
		{"exit status", "", "", []string{"-c", "exit 3"}, 3},
		{"stop at an error", "", "", []string{"-ec", "false; echo no"}, 1},
		{"script", "", "2 x y\n", []string{script, "x", "y"}, 7},
		{"standard input", "echo $1; echo pipe | cat", "q\npipe\n", []string{"-s", "q"}, 0},
		{"standard input alone", "for i in 1 2; do echo $i; done", "1\n2\n", nil, 0},
		{"no command", "", "", []string{"-c"}, 2},
		{"unknown option", "", "", []string{"-Z"}, 2},
		{"no such script", "", "", []string{"/no/such/script"}, 127},
		{"syntax error", "", "", []string{"-c", "if"}, 2},
		{"kill", "", "15\n", []string{"-c", "kill -l TERM"}, 0},
		{"unknown command", "", "", []string{"-c", "no-such-command-here"}, 127},
		{"full device", "", "1 1 1 1\n", []string{"-c", "echo x >/dev/full; a=$?; printf %s x >/dev/full; b=$?; pwd >/dev/full; c=$?; command echo x >/dev/full; echo $a $b $c $?"}, 0},
		{"full device, last command", "", "", []string{"-c", "echo x >/dev/full"}, 1},
		{"full device, stop at an error", "", "", []string{"-ec", "echo x >/dev/full; echo no"}, 1},
		{"echo", "", "a  b\\tc\n\te-n\n", []string{"-c", `echo 'a  b\tc'; echo -n -e '\te'; echo -E -n; echo -- >/dev/null; printf '%s\n' -n`}, 0},
		{"printf", "", "a=1\nb=2\n", []string{"-c", "printf '%s=%d\\n' a 1 b 2"}, 0},
		{"printf without a format", "", "", []string{"-c", "printf"}, 2},
		{"pwd", "", "/\n/\n", []string{"-c", "cd /; pwd; pwd -P"}, 0},
		{"a function called echo", "", "mine x\n", []string{"-c", "echo() { printf 'mine %s\\n' $1; }; echo x"}, 0},
		{"a reader that ends", "", "0\n", []string{"-c", "echo x | true; printf '%s\\n' $?"}, 0},
		{"in a subshell", "", "sub\nin a pipe\n", []string{"-c", "(echo sub); x=$(echo in a pipe); echo $x | cat"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := filepath.Join(t.TempDir(), "in")
			if err := os.WriteFile(in, []byte(c.stdin), 0o644); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(in)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var out, errw bytes.Buffer
			if code := Main(c.args, f, &out, &errw, nil); code != c.code || out.String() != c.out {
				t.Errorf("Main(%q) = %d, %q (%s); want %d, %q", c.args, code, out.String(), errw.String(), c.code, c.out)
			}
		})
	}
}

func TestHistory(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	h := loadHistory()
	for _, l := range []string{"a", "b", "b", "", "c"} {
		h.Add(l)
	}
	h.save()
	h = loadHistory()
	if h.Len() != 3 || h.At(0) != "c" || h.At(2) != "a" {
		t.Errorf("history %q", h.lines)
	}
}
