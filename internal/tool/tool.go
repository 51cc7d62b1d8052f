// Package tool runs external programs. A program is run through a Runner, so
// that tests see the argument lists and a dry run starts nothing. There is no
// shell anywhere: a Cmd is a list of words.
package tool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// Cmd is one call of a program.
type Cmd struct {
	Args []string // program and arguments; Args[0] is looked up in PATH
	// Stdin is given to the program; nil means /dev/null.
	Stdin io.Reader
	// Env is added to the environment of the caller.
	Env []string
	// Root, if not "", is the directory the program is chrooted into.
	Root string
}

// New is the short way to a Cmd without anything but words.
func New(args ...string) Cmd { return Cmd{Args: args} }

// String gives the command line for people and logs, quoted where needed.
func (c Cmd) String() string {
	w := make([]string, 0, len(c.Args)+2)
	if c.Root != "" {
		w = append(w, "chroot", quote(c.Root))
	}
	for _, a := range c.Args {
		w = append(w, quote(a))
	}
	return strings.Join(w, " ")
}

func quote(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=,@%+^", r))
	}) < 0 {
		return s
	}
	return strconv.Quote(s)
}

// Runner runs one external program to its end and returns its standard
// output. The error is an *Error when the program ran and failed.
type Runner interface {
	Run(ctx context.Context, c Cmd) ([]byte, error)
}

// Error is the failure of one program, with all a person needs to see.
type Error struct {
	Cmd    Cmd
	Code   int // exit code, -1 when killed or not started
	Stderr string
	Err    error
}

func (e *Error) Error() string {
	s := fmt.Sprintf("cannot run %s: %v", e.Cmd, e.Err)
	if t := strings.TrimSpace(e.Stderr); t != "" {
		s += "\n  " + strings.ReplaceAll(t, "\n", "\n  ")
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Exec runs programs for real. The zero value is ready.
type Exec struct {
	// Log, when set, is told every command line before it runs.
	Log func(string)
}

// Run implements Runner. The program gets LC_ALL=C so that its output can be
// read, and is killed with its process group when ctx ends.
func (x Exec) Run(ctx context.Context, c Cmd) ([]byte, error) {
	if x.Log != nil {
		x.Log(c.String())
	}
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), c.Env...)
	cmd.Stdin = c.Stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.Root != "" {
		cmd.SysProcAttr.Chroot = c.Root
		cmd.Dir = "/"
		p, err := lookIn(c.Root, c.Args[0])
		if err != nil {
			return nil, &Error{Cmd: c, Code: -1, Err: err}
		}
		cmd.Path, cmd.Err = p, nil
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out, serr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &serr
	err := cmd.Run()
	if err == nil {
		return out.Bytes(), nil
	}
	e := &Error{Cmd: c, Code: -1, Stderr: serr.String(), Err: err}
	var xe *exec.ExitError
	if errors.As(err, &xe) {
		e.Code = xe.ExitCode()
		if strings.TrimSpace(e.Stderr) == "" {
			e.Stderr = out.String()
		}
	}
	return out.Bytes(), e
}

// lookIn finds a program below root in the usual directories; the path
// returned is as seen from inside.
func lookIn(root, name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, d := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if st, err := os.Stat(root + d + "/" + name); err == nil && st.Mode()&0o111 != 0 && !st.IsDir() {
			return d + "/" + name, nil
		}
	}
	return "", fmt.Errorf("no %s in the restored system's PATH", name)
}

// Recorder is a Runner for tests: it keeps the calls and answers from a
// table. A call without an answer fails loudly.
type Recorder struct {
	// Answers maps a command line (Cmd.String) or a program name to output.
	Answers map[string]string
	// Fail maps the same keys to errors.
	Fail  map[string]error
	Calls []string
}

// Run implements Runner.
func (r *Recorder) Run(_ context.Context, c Cmd) ([]byte, error) {
	line := c.String()
	r.Calls = append(r.Calls, line)
	for _, k := range []string{line, c.Args[0]} {
		if err, ok := r.Fail[k]; ok {
			return nil, &Error{Cmd: c, Code: 1, Err: err}
		}
		if a, ok := r.Answers[k]; ok {
			return []byte(a), nil
		}
	}
	return nil, &Error{Cmd: c, Code: -1, Err: errors.New("this call was not expected by the test")}
}

// DryRun is a Runner that only says what would run.
type DryRun struct{ Log func(string) }

// Run implements Runner; the output is always empty.
func (d DryRun) Run(_ context.Context, c Cmd) ([]byte, error) {
	if d.Log != nil {
		d.Log(c.String())
	}
	return nil, nil
}
