// Package interrupttest is how tests of commands interrupt them while they wait.
package interrupttest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// Program makes the test's executable the command itself: TestMain of a command
// calls it with main.
func Program(m *testing.M, main func()) {
	if os.Getenv("MKCDREC_TEST_PROGRAM") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Command returns the command with arguments.
func Command(args ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), "MKCDREC_TEST_PROGRAM=1")
	return c
}

type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

// Signal starts c, sends it a signal once ready returns true for what it printed to
// standard error, and gives the exit status and that text.
func Signal(t *testing.T, c *exec.Cmd, sig syscall.Signal, ready func(stderr string) bool) (int, string) {
	t.Helper()
	errs := &text{}
	c.Stderr = errs
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return wait(t, c, errs, ready, func() error { return c.Process.Signal(sig) })
}

// CtrlC starts c on a terminal of its own, types Ctrl-C once ready returns true for
// what is on it, and gives the exit status and what was on the terminal.
func CtrlC(t *testing.T, c *exec.Cmd, ready func(screen string) bool) (int, string) {
	t.Helper()
	stdout := c.Stdout
	p, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	c.Stdin, c.Stdout, c.Stderr = tty, tty, tty
	if stdout != nil {
		c.Stdout = stdout
	}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = c.Start()
	tty.Close()
	if err != nil {
		t.Fatal(err)
	}
	screen, over := &text{}, make(chan bool)
	go func() { io.Copy(screen, p); close(over) }()
	code, _ := wait(t, c, screen, ready, func() error { _, err := p.WriteString("\x03"); return err })
	<-over
	p.Close()
	return code, screen.String()
}

func wait(t *testing.T, c *exec.Cmd, out *text, ready func(string) bool, end func() error) (int, string) {
	t.Helper()
	for i := 0; !ready(out.String()); i++ {
		if i > 2000 {
			c.Process.Kill()
			c.Wait()
			t.Fatalf("it does not wait:\n%s", out)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(20*time.Second, func() { c.Process.Kill() })
	err := c.Wait()
	if !late.Stop() {
		t.Error("the interruption does not end it")
	}
	var x *exec.ExitError
	if err != nil && !errors.As(err, &x) {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), out.String()
}

// Interrupted reports an error if the status and text are not those of a command
// that was interrupted.
func Interrupted(t *testing.T, code int, text string) {
	t.Helper()
	if code != 1 || !strings.Contains(text, ": interrupted") {
		t.Errorf("status %d; want 1, and a line with interrupted:\n%s", code, text)
	}
}
