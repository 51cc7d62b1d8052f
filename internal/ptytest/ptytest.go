// Package ptytest runs programs of tests on a terminal, types into it and looks at it.
package ptytest

import (
	"bytes"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// patience is how long a program may take to print something, or to end.
const patience = 30 * time.Second

// Terminal is a program on a terminal.
type Terminal struct {
	Cmd  *exec.Cmd
	File *os.File // the other side of the terminal

	t    *testing.T
	mu   sync.Mutex
	seen bytes.Buffer
	from int
	done chan struct{}
}

// Start starts a program on a terminal of that size. It is killed when the test ends.
func Start(t *testing.T, c *exec.Cmd, rows, columns uint16) *Terminal {
	t.Helper()
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT} {
		if signal.Ignored(s) { // by what runs the tests in the background; programs inherit that
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
	f, err := pty.StartWithSize(c, &pty.Winsize{Rows: rows, Cols: columns})
	if err != nil {
		t.Fatal(err)
	}
	x := &Terminal{Cmd: c, File: f, t: t, done: make(chan struct{})}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := f.Read(b)
			x.mu.Lock()
			x.seen.Write(b[:n])
			x.mu.Unlock()
			if err != nil {
				_ = c.Wait() // the state has the result
				close(x.done)
				return
			}
		}
	}()
	t.Cleanup(func() { c.Process.Kill(); f.Close() })
	return x
}

// Text is all that was printed.
func (x *Terminal) Text() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.seen.String()
}

// Resize changes the size of the terminal.
func (x *Terminal) Resize(rows, columns uint16) {
	x.t.Helper()
	if err := pty.Setsize(x.File, &pty.Winsize{Rows: rows, Cols: columns}); err != nil {
		x.t.Fatal(err)
	}
}

// Keys types.
func (x *Terminal) Keys(s string) {
	x.t.Helper()
	if _, err := x.File.WriteString(s); err != nil {
		x.t.Fatal(err)
	}
}

// Match waits for a regular expression behind what the last Match or Want found.
func (x *Terminal) Match(pattern string) {
	x.t.Helper()
	re := regexp.MustCompile(pattern)
	x.wait(pattern, func(s string) bool {
		m := re.FindStringIndex(s[x.from:])
		if m != nil {
			x.from += m[1]
		}
		return m != nil
	})
}

// Want waits for a text behind what the last Match or Want found.
func (x *Terminal) Want(text string) {
	x.t.Helper()
	x.Match(regexp.QuoteMeta(text))
}

// Shows waits until the terminal has shown a text, at any time.
func (x *Terminal) Shows(text string) {
	x.t.Helper()
	x.wait(text, func(s string) bool { return strings.Contains(s, text) })
}

func (x *Terminal) wait(what string, there func(string) bool) {
	x.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if there(x.Text()) {
			return
		}
	}
	x.t.Fatalf("the terminal shows %q; want %q", x.Text(), what)
}

// Ended waits for the end of the program and gives its exit status.
func (x *Terminal) Ended() int {
	x.t.Helper()
	select {
	case <-x.done:
	case <-time.After(patience):
		x.t.Fatalf("%v does not end; the terminal shows %q", x.Cmd.Args, x.Text())
	}
	return x.Cmd.ProcessState.ExitCode()
}
