package shell

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

// screen is a shell on a terminal.
type screen struct {
	t    *testing.T
	pty  *os.File
	cmd  *exec.Cmd
	mu   sync.Mutex
	seen bytes.Buffer
	from int
	done chan struct{}
}

func onTerminal(t *testing.T, home string) *screen {
	t.Helper()
	c := exec.Command(os.Args[0], "shell")
	c.Env = []string{"HOME=" + home, "PATH=/usr/bin:/bin", "TERM=vt100"}
	c.Dir = home
	p, err := pty.StartWithSize(c, &pty.Winsize{Rows: 24, Cols: 200})
	if err != nil {
		t.Fatal(err)
	}
	x := &screen{t: t, pty: p, cmd: c, done: make(chan struct{})}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := p.Read(b)
			x.mu.Lock()
			x.seen.Write(b[:n])
			x.mu.Unlock()
			if err != nil {
				_ = c.Wait() // the state tells
				close(x.done)
				return
			}
		}
	}()
	t.Cleanup(func() { c.Process.Kill() })
	return x
}

// want waits for a pattern behind what the last one matched.
func (x *screen) want(pattern string) string {
	x.t.Helper()
	re := regexp.MustCompile(pattern)
	for range 400 {
		x.mu.Lock()
		text := x.seen.String()[x.from:]
		if m := re.FindStringIndex(text); m != nil {
			x.from += m[1]
			x.mu.Unlock()
			return text[m[0]:m[1]]
		}
		x.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
	}
	x.t.Fatalf("the terminal shows %q; want %s", x.seen.String()[x.from:], pattern)
	return ""
}

func (x *screen) keys(s string) {
	x.t.Helper()
	if _, err := x.pty.WriteString(s); err != nil {
		x.t.Fatal(err)
	}
}

// line types a line at the prompt.
func (x *screen) line(s string) {
	x.t.Helper()
	x.want(`RESCUE [^\n]*# `)
	x.keys(s + "\r")
}

// busy waits until another process group than the shell's has the terminal.
func (x *screen) busy() {
	x.t.Helper()
	x.want(`\n`) // the line was taken
	time.Sleep(300 * time.Millisecond)
}

// TestJobs: Ctrl-Z, fg, bg, jobs and Ctrl-C with programs, pipelines and loops.
func TestJobs(t *testing.T) {
	x := onTerminal(t, t.TempDir())
	x.line("echo one; cd /; pwd")
	x.want(`\none\r\n/\r\n`)
	x.line("sleep 100")
	x.busy()
	x.keys("\x03")
	x.line("echo rc=$?")
	x.want(`\nrc=130`)
	x.line("sleep 100")
	x.busy()
	x.keys("\x1a")
	x.want(`\[1\]\+  Stopped                 sleep 100\r\n`)
	x.line("echo rc=$?; jobs")
	x.want(`rc=148\r\n\[1\]\+  Stopped                 sleep 100\r\n`)
	x.line("bg")
	x.want(`\[1\]\+ sleep 100 &\r\n`)
	x.line("jobs")
	x.want(`\[1\]\+  Running                 sleep 100 &\r\n`)
	x.line("fg %1")
	x.want(`\nsleep 100\r\n`)
	time.Sleep(200 * time.Millisecond)
	x.keys("\x1a")
	x.want(`\[1\]\+  Stopped `)
	x.line("kill %1; sleep 0.2")
	x.want(`\[1\]\+  Terminated              sleep 100\r\n`)

	x.line("sleep 100 | cat")
	x.busy()
	x.keys("\x1a")
	x.want(`\[1\]\+  Stopped                 sleep 100 \| cat\r\n`)
	x.line("sleep 50 & sleep 60")
	x.want(`\[2\] \d+\r\n`)
	time.Sleep(200 * time.Millisecond)
	x.keys("\x1a")
	x.want(`\[3\]\+  Stopped                 sleep 60\r\n`)
	x.line("jobs")
	x.want(`\[1\]   Stopped                 sleep 100 \| cat\r\n\[2\]-  Running                 sleep 50 &\r\n\[3\]\+  Stopped                 sleep 60\r\n`)
	x.line("kill -9 %1 %2 %3; wait; sleep 0.1")
	x.want(`sleep 60\r\n`)

	x.line("while true; do sleep 0.1; done")
	x.busy()
	x.keys("\x03")
	x.line("while true; do :; done")
	x.busy()
	x.keys("\x03")
	x.line("sleep 0.2 & wait; echo waited")
	x.want(`\[1\] \d+\r\n`)
	x.want(`waited\r\n\[1\]\+  Done                    sleep 0.2\r\n`)

	x.line("cat & sleep 0.3") // cat wants to read, and has no terminal
	x.want(`\[1\]\+  Stopped                 cat\r\n`)
	x.line("fg")
	x.want(`\ncat\r\n`)
	x.keys("typed\n")
	x.want(`typed\r\ntyped\r\n`)
	x.keys("\x04")
	x.line("echo $(echo in a substitution | tr a-z A-Z) | cat; false | true; echo rc=$?")
	x.want(`\nIN A SUBSTITUTION\r\nrc=0`)
	x.line("fg")
	x.want(`no current job`)
	x.line("printf '#!/bin/sh\\nexit 5\\n' >$HOME/s; chmod 755 $HOME/s; $HOME/s; echo rc=$?; /etc/passwd; echo rc=$?; nosuchprogram; echo rc=$?")
	x.want(`\nrc=5\r\n.*\r\nrc=126\r\n.*\r\nrc=127`)

	x.line("sleep 100")
	x.busy()
	x.keys("\x1a")
	x.line("exit")
	x.want(`there are stopped jobs`)
	x.line("exit 7")
	select {
	case <-x.done:
	case <-time.After(5 * time.Second):
		t.Fatal("the shell does not end")
	}
	if rc := x.cmd.ProcessState.ExitCode(); rc != 7 {
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
	x.want(`# `)
	x.keys("echo not this\x03")
	x.line("echo $?; if true")
	x.want(`> `)
	x.keys("then\x03")
	x.line("echo alive")
	x.want(`\nalive\r\n`)
	for _, c := range [][2]string{{"ech\thi\r", `\nhi\r\n`}, {"cd di\t; pwd; cd\r", `/dir one\r\n`}, {"echo dir\\ one/s\t\r", `\ndir one/sub/`}, {"tool --al\t\x15echo done\r", `tool --all `}, {"tool --w\t\x15echo done\r", `--width=`}, {"echo fil\t\t", `(?s)file +filter`}} {
		x.want(`RESCUE [^\n]*# `)
		x.keys(c[0])
		x.want(c[1])
	}
	x.keys("\x15echo ok\r")
	x.want(`\nok\r\n`)
	x.line("history | tail -n 2")
	x.want(`\n +\d+  .*\r\n +\d+  history \| tail -n 2\r\n`)
	x.want(`# `)
	x.keys("\x04")
	<-x.done
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
