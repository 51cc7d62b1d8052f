// Package smalltools holds the small commands that a person repairing a
// machine by hand reaches for and that u-root has not, or only as a toy. Each
// is a function of its arguments and streams; its command is three lines.
package smalltools

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// IO are a command's streams.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
}

// Func is one command; args are without its name.
type Func func(s IO, args []string) error

// usage is an error of the arguments: exit status 2.
type usage struct{ error }

// Main runs a command on the standard streams and gives its exit status. A signal
// ends the program at once.
func Main(name string, fn Func) int {
	out := bufio.NewWriter(os.Stdout)
	err := fn(IO{os.Stdin, out, os.Stderr}, os.Args[1:])
	return finish(name, out, err)
}

// MainContext is Main for a command that has something to clean up: the first
// signal ends its context, a second one the program.
func MainContext(name string, fn func(ctx context.Context, s IO, args []string) error) int {
	ctx, stop := interrupt.Context(context.Background())
	defer stop()
	out := bufio.NewWriter(os.Stdout)
	err := fn(ctx, IO{os.Stdin, out, os.Stderr}, os.Args[1:])
	return finish(name, out, exit.Interrupted(interrupt.Err(ctx, err)))
}

func finish(name string, out *bufio.Writer, err error) int {
	if e := out.Flush(); err == nil && e != nil {
		err = fmt.Errorf("cannot write to standard output: %w", e)
	}
	var u usage
	var st status
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &st):
		return int(st)
	case errors.As(err, &u):
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, printable.CleanLines(err.Error()))
		return 2
	}
	fmt.Fprintf(os.Stderr, "%s: %s\n", name, printable.CleanLines(err.Error()))
	return 1
}

// status is an exit status without a message.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// flags makes a flag set that prints to the command's error stream. Short
// flags may be written together, as in -Rv.
func flags(s IO, name, synopsis string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(s.Err)
	f.Usage = func() {
		fmt.Fprintf(s.Err, "usage: %s %s\n", name, synopsis)
		f.PrintDefaults()
	}
	return f
}

// parse splits clusters of one-letter boolean flags and parses.
func parse(f *flag.FlagSet, args []string) ([]string, error) {
	var out []string
	for i, a := range args {
		if a == "--" || !strings.HasPrefix(a, "-") || a == "-" {
			out = append(out, args[i:]...)
			break
		}
		if len(a) > 2 && a[1] != '-' && f.Lookup(strings.SplitN(a[1:], "=", 2)[0]) == nil && allBool(f, a[1:]) {
			for _, c := range a[1:] {
				out = append(out, "-"+string(c))
			}
			continue
		}
		out = append(out, a)
	}
	if err := f.Parse(out); err != nil {
		return nil, usage{err}
	}
	return f.Args(), nil
}

func allBool(f *flag.FlagSet, letters string) bool {
	for _, c := range letters {
		fl := f.Lookup(string(c))
		if fl == nil {
			return false
		}
		if b, ok := fl.Value.(interface{ IsBoolFlag() bool }); !ok || !b.IsBoolFlag() {
			return false
		}
	}
	return true
}

// each calls fn for the files named, or standard input.
func each(s IO, names []string, fn func(io.Reader) error) error {
	if len(names) == 0 {
		return fn(s.In)
	}
	var errs []error
	for _, n := range names {
		if n == "-" {
			errs = append(errs, fn(s.In))
			continue
		}
		f, err := os.Open(n)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, fn(f))
		f.Close()
	}
	return errors.Join(errs...)
}
