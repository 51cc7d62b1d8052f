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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// Cmd is one call of a program.
type Cmd struct {
	Args []string // program and arguments; Args[0] is looked up in PATH
	// Stdin is given to the program; nil means /dev/null.
	Stdin io.Reader
	// Env is added to the environment, see Exec.
	Env []string
	// Root, if not "", is the directory the program is chrooted into.
	Root string
	// Line, if not nil, gets each line of standard output and standard error while the
	// program runs, without the newline. Run returns no output then.
	Line func(string)
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
	if t := strings.TrimSpace(printable.CleanLines(e.Stderr)); t != "" {
		s += "\n  " + strings.ReplaceAll(t, "\n", "\n  ")
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Exec runs programs for real. The zero value is ready.
type Exec struct {
	// Log, when set, is told every command line before it runs.
	Log func(string)
	// Inherit gives programs the whole environment of the caller: for programs that
	// the user named, and prepared it for.
	Inherit bool
}

// NoUdev is the variable that, set to 1, has LVM, dmsetup and cryptsetup make device nodes themselves.
const NoUdev = "DM_DISABLE_UDEV"

// environ is what programs get of the caller's environment: passwords and tokens
// do not concern them. LVM_SYSTEM_DIR and TMPDIR are where an administrator
// may have put their files; the rescue system, which has no udev, sets NoUdev.
func (x Exec) environ() []string {
	if x.Inherit {
		return append(os.Environ(), "LC_ALL=C")
	}
	var env []string
	for _, k := range []string{"PATH", "HOME", "TERM", "TMPDIR", "LVM_SYSTEM_DIR", "LD_LIBRARY_PATH", NoUdev, "MDADM_NO_UDEV"} {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	return append(env, "LANG=C", "LC_ALL=C")
}

// Of the output of a program, so much is kept, in bytes. Standard output is parsed:
// more is an error. Standard error is for people.
const (
	maxStdout = 256 << 20
	maxStderr = 64 << 10
)

// ErrOutput is the cause for a program that printed more to its standard output
// than is taken.
var ErrOutput = fmt.Errorf("it printed more than %d MiB", maxStdout>>20)

// bounded keeps the first and the last part of what is written to it, each of half
// of limit.
type bounded struct {
	limit      int
	head, tail []byte
	cut        int64 // bytes between them that were dropped
}

func (b *bounded) Write(p []byte) (int, error) {
	n := len(p)
	half := b.limit / 2
	k := min(len(p), half-len(b.head))
	b.head, p = append(b.head, p[:k]...), p[k:]
	if len(p) > half {
		b.cut += int64(len(b.tail) + len(p) - half)
		b.tail = append(b.tail[:0], p[len(p)-half:]...)
		return n, nil
	}
	if b.tail = append(b.tail, p...); len(b.tail) > b.limit {
		b.trim()
	}
	return n, nil
}

func (b *bounded) trim() {
	if drop := len(b.tail) - b.limit/2; drop > 0 {
		b.cut += int64(drop)
		b.tail = b.tail[:copy(b.tail, b.tail[drop:])]
	}
}

// bytes gives all that was written if it is at most the limit; what was dropped
// otherwise has its number of bytes in its place.
func (b *bounded) bytes() []byte {
	if b.trim(); b.cut > 0 {
		return slices.Concat(b.head, fmt.Appendf(nil, "\n[%d bytes left out]\n", b.cut), b.tail)
	}
	return append(b.head, b.tail...)
}

// maxLine is the longest line that is given to Cmd.Line, in bytes: a longer one is divided.
const maxLine = 4 << 10

// lines passes on what is written to it line by line.
type lines struct {
	to   func(string)
	rest []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		i, next := bytes.IndexByte(l.rest, '\n'), 0
		switch next = i + 1; {
		case i >= 0 && i <= maxLine:
		case len(l.rest) > maxLine:
			i, next = maxLine, maxLine
		default:
			return len(p), nil
		}
		l.to(string(l.rest[:i]))
		l.rest = l.rest[next:]
	}
}

// flush passes on a last line without a newline.
func (l *lines) flush() {
	if len(l.rest) > 0 {
		l.to(string(l.rest))
	}
}

// outputWait is how long the output of a program that ended is waited for: one that
// it left behind may have it open.
const outputWait = 10 * time.Second

// Run implements Runner. The program gets LC_ALL=C so that its output can be
// read, of the caller's environment only PATH, HOME, TERM and a
// few more (see environ) unless Inherit is true, and is killed with its process group when
// ctx ends: the error wraps the cause of that then.
func (x Exec) Run(ctx context.Context, c Cmd) ([]byte, error) {
	if x.Log != nil {
		x.Log(c.String())
	}
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Env = append(x.environ(), c.Env...)
	cmd.WaitDelay = outputWait
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
	out, serr := bounded{limit: maxStdout}, bounded{limit: maxStderr}
	cmd.Stdout, cmd.Stderr = &out, &serr
	if c.Line != nil {
		l := &lines{to: c.Line}
		defer l.flush()
		cmd.Stdout, cmd.Stderr = l, l // one goroutine for both
	}
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		err = nil // the program itself was successful
	}
	stdout := out.bytes()
	if err == nil && out.cut > 0 {
		err = ErrOutput
	}
	if err == nil {
		return stdout, nil
	}
	e := &Error{Cmd: c, Code: -1, Stderr: string(serr.bytes()), Err: err}
	var xe *exec.ExitError
	if errors.As(err, &xe) {
		e.Code = xe.ExitCode()
		if strings.TrimSpace(e.Stderr) == "" {
			b := bounded{limit: maxStderr}
			b.Write(stdout)
			e.Stderr = string(b.bytes())
		}
	}
	if e.Code == -1 && ctx.Err() != nil {
		e.Err = context.Cause(ctx) // and not "signal: killed", which was us
	}
	return stdout, e
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
		if a, ok := r.Answers[k]; ok && c.Line != nil {
			l := &lines{to: c.Line}
			_, err := l.Write([]byte(a))
			l.flush()
			return nil, err
		} else if ok {
			return []byte(a), nil
		}
	}
	return nil, &Error{Cmd: c, Code: -1, Err: errors.New("this call was not expected by the test")}
}

// DryRun is a Runner that only reports what would run.
type DryRun struct{ Log func(string) }

// Run implements Runner; the output is always empty.
func (d DryRun) Run(_ context.Context, c Cmd) ([]byte, error) {
	if d.Log != nil {
		d.Log(c.String())
	}
	return nil, nil
}
