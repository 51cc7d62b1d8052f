// Package tools is what the small commands of the rescue system have in common: options
// as GNU's getopt_long reads them, messages and exit statuses as scripts know them, and
// readers of files and lines. The commands are in its subdirectories, their list is in
// toolbox.
package tools

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strings"
	"syscall"

	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// Command is one command.
type Command struct {
	Name     string
	Opts     string // see Parse; "-" leaves the arguments as they are
	Synopsis string // of what follows the options
	Bad      int    // exit status of wrong arguments; 0 stands for 1
	Run      func(*Env) error
}

// Env is a command that runs.
type Env struct {
	Options
	Name string
	In   io.Reader
	Out  *bufio.Writer
	Err  io.Writer
	Args []string // without options
	Line []string // all arguments
	cmd  Command
	rc   int
	to   io.Writer // where Out goes
	said bool      // a message named the fault of Out
}

// Status ends a command with an exit status and without a message.
type Status int

func (s Status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

type usage struct{ error }

// Usage is an error of the arguments.
func Usage(format string, a ...any) error { return usage{fmt.Errorf(format, a...)} }

// Main runs the command on the standard streams and gives its exit status.
func Main(c Command, args []string) int {
	e := New(c, os.Stdin, os.Stdout, os.Stderr)
	rc := e.Run(args)
	if err := e.Out.Flush(); err != nil && !e.said {
		e.Warn("write error: %s", Cause(err))
		rc = max(rc, e.cmd.Bad)
	}
	return rc
}

// New makes the surroundings of a command.
func New(c Command, in io.Reader, out, errs io.Writer) *Env {
	if c.Bad == 0 {
		c.Bad = 1
	}
	return &Env{Name: c.Name, In: in, Out: bufio.NewWriterSize(out, 1<<16), Err: errs, cmd: c, to: out}
}

// Run runs the command with its arguments and gives its exit status.
func (e *Env) Run(args []string) int {
	e.Args, e.Line = args, args
	var err error
	if len(args) == 1 && args[0] == "--help" && e.Name != "test" && e.Name != "[" {
		fmt.Fprintln(e.Out, e.usage())
		return 0
	}
	if e.cmd.Opts != "-" {
		e.Options, e.Args, err = Parse(e.cmd.Opts, args)
		if err != nil {
			err = usage{err}
		}
	}
	if err == nil && e.On("help") {
		fmt.Fprintln(e.Out, e.usage())
		return 0
	}
	if err == nil {
		err = e.cmd.Run(e)
	}
	var st Status
	var u usage
	switch {
	case err == nil:
		return e.rc
	case errors.As(err, &st):
		return int(st)
	case errors.As(err, &u):
		e.Warn("%v", err)
		fmt.Fprintf(e.Err, "Try '%s --help' for more information.\n", e.Name)
		return e.cmd.Bad
	}
	e.Warn("%v", err)
	if e.cmd.Bad > 1 {
		return e.cmd.Bad
	}
	return e.rc
}

// Spec describes the command's options, for Parse.
func (e *Env) Spec() string { return e.cmd.Opts }

func (e *Env) usage() string {
	if e.cmd.Opts == "-" {
		return fmt.Sprintf("Usage: %s %s", e.Name, e.cmd.Synopsis)
	}
	return fmt.Sprintf("Usage: %s [OPTION]... %s\nOptions: %s", e.Name, e.cmd.Synopsis, describe(e.cmd.Opts))
}

// Warn prints a message, behind what was printed before; the exit status becomes 1.
func (e *Env) Warn(format string, a ...any) { e.Fault(1, format, a...) }

// Fault is Warn with another exit status. A smaller one does not replace a larger one.
func (e *Env) Fault(rc int, format string, a ...any) {
	text := fmt.Sprintf(format, a...)
	if err := e.Out.Flush(); err != nil { // it stays in it, and is reported at the end if not here
		e.said = e.said || strings.Contains(text, Cause(err))
	}
	e.rc = max(e.rc, rc)
	fmt.Fprintf(e.Err, "%s: %s\n", e.Name, printable.CleanLines(text))
}

// Ignore reports the options that are accepted for scripts and have no effect.
func (e *Env) Ignore(names ...string) {
	for _, n := range names {
		if o, ok := e.Last(n); ok {
			dash := "-"
			if len(n) > 1 {
				dash = "--"
			}
			fmt.Fprintf(e.Err, "%s: option %s%s has no effect\n", e.Name, dash, o.Name)
		}
	}
}

// Set makes rc the exit status of a command that continues without a message.
func (e *Env) Set(rc int) { e.rc = max(e.rc, rc) }

// Failed reports whether something was reported.
func (e *Env) Failed() bool { return e.rc != 0 }

// Need checks the number of operands; most is -1 where any number will do.
func (e *Env) Need(least, most int) error {
	switch n := len(e.Args); {
	case n < least && n == 0:
		return Usage("missing operand")
	case n < least:
		return Usage("missing operand after '%s'", e.Args[n-1])
	case most >= 0 && n > most:
		return Usage("extra operand '%s'", e.Args[most])
	}
	return nil
}

// Printf prints to standard output.
func (e *Env) Printf(format string, a ...any) { fmt.Fprintf(e.Out, format, a...) }

// Open opens a file for reading; "-" is standard input.
func (e *Env) Open(name string) (io.ReadCloser, error) {
	if name == "-" {
		return stdin{e.In}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", name, Cause(err))
	}
	return f, nil
}

// stdin is standard input, which is not closed.
type stdin struct{ io.Reader }

func (stdin) Close() error { return nil }

// File gives the file that is behind what Open gave.
func File(r io.Reader) (*os.File, bool) {
	if s, ok := r.(stdin); ok {
		r = s.Reader
	}
	f, ok := r.(*os.File)
	return f, ok
}

// IsOutput reports whether r is the regular file that standard output goes to. What reads and
// writes at the same time would not come to its end.
func (e *Env) IsOutput(r io.Reader) bool {
	in, ok1 := File(r)
	out, ok2 := e.to.(*os.File)
	if !ok1 || !ok2 {
		return false
	}
	a, err1 := in.Stat()
	b, err2 := out.Stat()
	at, err3 := in.Seek(0, io.SeekCurrent)
	return errors.Join(err1, err2, err3) == nil && b.Mode().IsRegular() && os.SameFile(a, b) && at < a.Size()
}

// Inputs gives the operands, or - for standard input without any.
func (e *Env) Inputs() []string {
	if len(e.Args) == 0 {
		return []string{"-"}
	}
	return e.Args
}

// Each calls fn for each of the Inputs. What can't be opened or read is reported, and
// the next one follows.
func (e *Env) Each(fn func(name string, r io.Reader) error) error {
	for _, n := range e.Inputs() {
		r, err := e.Open(n)
		if err != nil {
			e.Warn("%v", err)
			continue
		}
		err = fn(n, r)
		r.Close()
		var st Status
		if errors.As(err, &st) {
			return err
		}
		if err != nil && e.Out.Flush() != nil {
			return nil // Main reports it
		}
		if err != nil {
			e.Warn("%s: %s", n, Cause(err))
		}
	}
	return nil
}

// Copy writes all of r to standard output.
func (e *Env) Copy(r io.Reader) error {
	_, err := io.Copy(e.Out, r)
	return err
}

// Cause is the reason of an error as the C library words it: "No such file or directory".
func Cause(err error) string {
	var n syscall.Errno
	switch {
	case errors.As(err, &n):
		s := n.Error()
		if n == syscall.EIO {
			s = "input/output error"
		}
		return strings.ToUpper(s[:1]) + s[1:]
	case errors.Is(err, context.Canceled):
		return "Interrupted"
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// Lines gives the lines of r, of any length, each with its end unless it is the last and
// has none. A line is valid until the next one is taken.
func Lines(r io.Reader, end byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		br := bufio.NewReaderSize(r, 1<<16)
		var long []byte
		for {
			b, err := br.ReadSlice(end)
			if errors.Is(err, bufio.ErrBufferFull) {
				long = append(long, b...)
				continue
			}
			if len(long) > 0 {
				long = append(long, b...)
				b = long
			}
			if len(b) > 0 && !yield(b, nil) {
				return
			}
			long = long[:0]
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// Chomp takes the end off a line.
func Chomp(b []byte, end byte) []byte {
	if n := len(b); n > 0 && b[n-1] == end {
		return b[:n-1]
	}
	return b
}

// End is the byte that ends lines: a newline, or NUL with the option named.
func (e *Env) End(option string) byte {
	if e.On(option) {
		return 0
	}
	return '\n'
}
