package shell

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/ptytest"
)

// screen is a shell on a terminal.
type screen struct{ *ptytest.Terminal }

func onTerminal(t *testing.T, home string) *screen {
	t.Helper()
	c := exec.Command(os.Args[0], "shell")
	c.Env = []string{"HOME=" + home, "PATH=/usr/bin:/bin", "TERM=vt100"}
	c.Dir = home
	return &screen{ptytest.Start(t, c, 24, 200)}
}

// line types a line at the prompt.
func (x *screen) line(s string) {
	x.Match(`RESCUE [^\n]*# `)
	x.Keys(s + "\r")
}

// busy waits until another process group than the shell's has the terminal.
func (x *screen) busy() {
	x.Match(`\n`) // the line was taken
	time.Sleep(300 * time.Millisecond)
}

// interrupted types a line when Ctrl-C has ended a loop. A Ctrl-C goes to the process group that has the terminal, and to
// nobody if that ends just then: a person types it once more.
func (x *screen) interrupted(s string) {
	done := make(chan bool)
	go func() {
		for {
			x.Keys("\x03")
			select {
			case <-done:
				return
			case <-time.After(5 * time.Second):
			}
		}
	}()
	x.Match(`RESCUE [^\n]*# `)
	close(done)
	x.Keys(s + "\r")
}

// TestJobs: Ctrl-Z, fg, bg, jobs and Ctrl-C with programs, pipelines and loops.
func TestJobs(t *testing.T) {
	x := onTerminal(t, t.TempDir())
	x.line("echo one; cd /; pwd")
	x.Match(`\none\r\n/\r\n`)
	x.line("sleep 100")
	x.busy()
	x.Keys("\x03")
	x.line("echo rc=$?")
	x.Match(`\nrc=130`)
	x.line("sleep 100")
	x.busy()
	x.Keys("\x1a")
	x.Match(`\[1\]\+  Stopped                 sleep 100\r\n`)
	x.line("echo rc=$?; jobs")
	x.Match(`rc=148\r\n\[1\]\+  Stopped                 sleep 100\r\n`)
	x.line("bg")
	x.Match(`\[1\]\+ sleep 100 &\r\n`)
	x.line("jobs")
	x.Match(`\[1\]\+  Running                 sleep 100 &\r\n`)
	x.line("fg %1")
	x.Match(`\nsleep 100\r\n`)
	time.Sleep(200 * time.Millisecond)
	x.Keys("\x1a")
	x.Match(`\[1\]\+  Stopped `)
	x.line("kill %1; sleep 0.2")
	x.Match(`\[1\]\+  Terminated              sleep 100\r\n`)

	x.line("sleep 100 | cat")
	x.busy()
	x.Keys("\x1a")
	x.Match(`\[1\]\+  Stopped                 sleep 100 \| cat\r\n`)
	x.line("sleep 50 & sleep 60")
	x.Match(`\[2\] \d+\r\n`)
	time.Sleep(200 * time.Millisecond)
	x.Keys("\x1a")
	x.Match(`\[3\]\+  Stopped                 sleep 60\r\n`)
	x.line("jobs")
	x.Match(`\[1\]   Stopped                 sleep 100 \| cat\r\n\[2\]-  Running                 sleep 50 &\r\n\[3\]\+  Stopped                 sleep 60\r\n`)
	x.line("kill -9 %1 %2 %3; wait; sleep 0.1")
	x.Match(`sleep 60\r\n`)

	x.line("while true; do sleep 0.1; done")
	x.busy()
	x.interrupted("while true; do :; done")
	x.busy()
	x.interrupted("sleep 0.2 & wait; echo waited")
	x.Match(`\[1\] \d+\r\n`)
	x.Match(`waited\r\n\[1\]\+  Done                    sleep 0.2\r\n`)

	x.line("cat & sleep 0.3") // cat wants to read, and has no terminal
	x.Match(`\[1\]\+  Stopped                 cat\r\n`)
	x.line("fg")
	x.Match(`\ncat\r\n`)
	x.Keys("typed\n")
	x.Match(`typed\r\ntyped\r\n`)
	x.Keys("\x04")
	x.line("echo $(echo in a substitution | tr a-z A-Z) | cat; false | true; echo rc=$?")
	x.Match(`\nIN A SUBSTITUTION\r\nrc=0`)
	x.line("fg")
	x.Match(`no current job`)
	x.line("printf '#!/bin/sh\\nexit 5\\n' >$HOME/s; chmod 755 $HOME/s; $HOME/s; echo rc=$?; /etc/passwd; echo rc=$?; nosuchprogram; echo rc=$?")
	x.Match(`\nrc=5\r\n.*\r\nrc=126\r\n.*\r\nrc=127`)

	x.line("sleep 100")
	x.busy()
	x.Keys("\x1a")
	x.line("exit")
	x.Match(`there are stopped jobs`)
	x.line("exit 7")
	if rc := x.Ended(); rc != 7 {
		t.Errorf("exit status %d; want 7", rc)
	}
}

// TestKeys: Ctrl-C at the prompt empties the line and never ends the shell; what was typed
// is kept for the next shell; tab completes.
func TestKeys(t *testing.T) {
	home := t.TempDir()
	if err := errors.Join(os.MkdirAll(home+"/dir one/sub", 0o755), os.WriteFile(home+"/file", nil, 0o644), os.WriteFile(home+"/filter", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	x := onTerminal(t, home)
	x.line("")
	x.Match(`# `)
	x.Keys("echo not this\x03")
	x.line("echo $?; if true")
	x.Match(`> `)
	x.Keys("then\x03")
	x.line("echo alive")
	x.Match(`\nalive\r\n`)
	for _, c := range [][2]string{{"ech\thi\r", `\nhi\r\n`}, {"cd di\t; pwd; cd\r", `/dir one\r\n`}, {"echo dir\\ one/s\t\r", `\ndir one/sub/`}, {"tool --al\t\x15echo done\r", `tool --all `}, {"tool --w\t\x15echo done\r", `--width=`}, {"echo fil\t\t", `(?s)file +filter`}} {
		x.Match(`RESCUE [^\n]*# `)
		x.Keys(c[0])
		x.Match(c[1])
	}
	x.Keys("\x15echo ok\r")
	x.Match(`\nok\r\n`)
	x.line("history | tail -n 2")
	x.Match(`\n +\d+  .*\r\n +\d+  history \| tail -n 2\r\n`)
	x.Match(`# `)
	x.Keys("\x04")
	x.Ended()
	b, err := os.ReadFile(home + "/.sh_history")
	if err != nil || !strings.Contains(string(b), "echo alive\n") {
		t.Errorf("history: %q, %v", b, err)
	}
}

// TestLastWord: quotes, backslashes and operators before the cursor.
func TestLastWord(t *testing.T) {
	for line, want := range map[string]struct {
		before []string
		word   string
		at     int
	}{
		"":                   {nil, "", 0},
		"ls":                 {nil, "ls", 0},
		"ls -l /et":          {[]string{"ls", "-l"}, "/et", 6},
		`cat a\ b`:           {[]string{"cat"}, "a b", 4},
		`cat 'a b`:           {[]string{"cat"}, "a b", 4},
		"a | b":              {nil, "b", 4},
		"a; b c":             {[]string{"b"}, "c", 5},
		"a >ou":              {[]string{"a"}, "ou", 3},
		"a ":                 {[]string{"a"}, "", 2},
		`mkcdrec "a b" c\|d`: {[]string{"mkcdrec", "a b"}, "c|d", 14},
	} {
		before, word, at := lastWord(line)
		if !slices.Equal(before, want.before) || word != want.word || at != want.at {
			t.Errorf("lastWord(%q) = %q, %q, %d; want %+v", line, before, word, at, want)
		}
	}
}

func FuzzLastWord(f *testing.F) {
	f.Add(`a 'b\`)
	f.Fuzz(func(t *testing.T, line string) {
		if _, _, at := lastWord(line); at > len(line) {
			t.Errorf("lastWord(%q) begins at %d", line, at)
		}
	})
}

// TestBuiltinJobs: jobs that start no program leave the prompt, Ctrl-C ends wait, and kill ends them.
func TestBuiltinJobs(t *testing.T) {
	x := onTerminal(t, t.TempDir())
	x.line("mkfifo f; while read l; do echo got $l; done < f &")
	x.Match(`\n\[1\]\r\n`)
	x.line("while :; do :; done &")
	x.Match(`\n\[2\]\r\n`)
	x.line("wait")
	x.busy()
	x.Keys("\x03")
	x.line("echo rc=$?; jobs")
	x.Match(`\nrc=130\r\n\[1\]-  Running  .*\r\n\[2\]\+  Running `)
	x.line("wait %2")
	x.busy()
	x.Keys("\x03")
	x.line("kill -STOP %2; echo rc=$?")
	x.Match(`\nrc=1\r\n`)
	x.line("kill -9 %2; echo rc=$?; sleep 0.1")
	x.Match(`%2;[^\n]*\r\nrc=0\r\n\[2\]\+  Terminated  .*\r\n`)
	x.line("echo line >f; wait; echo waited")
	x.Match(`\ngot line\r\n(?s:.*)waited\r\n\[1\]\+  Done `)

	for _, wait := range []string{"wait", "wait %1", "f() { wait; }; f"} { // for a program, too
		x.line("sleep 1000 &")
		x.Match(`\n\[1\] \d+\r\n`)
		x.line(wait)
		x.busy()
		x.Keys("\x03")
		x.line("echo rc=$?; kill %1; wait; echo waited")
		x.Match(`\nrc=130\r\n(?s:.*)waited\r\n(?s:.*)Terminated `)
	}

	x.line("read l < f &")
	x.Match(`\n\[1\]\r\n`)
	x.line("kill %1; sleep 0.1")
	x.Match(`\[1\]\+  Terminated `)
	x.line("while :; do :; done &")
	x.Match(`\n\[1\]\r\n`)
	x.line("fg")
	x.Match(`\nwhile`)
	x.busy()
	x.Keys("\x03")
	x.line("jobs; echo none")
	x.Match(`jobs; echo none\r\nnone\r\n`)
	x.line("read l < f")
	x.busy()
	x.Keys("\x03")
	x.line("exit 7")
	if rc := x.Ended(); rc != 7 {
		t.Errorf("exit status %d; want 7", rc)
	}
}
