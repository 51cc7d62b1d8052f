// Package smalltools holds the small commands that a person repairing a
// machine by hand reaches for and that u-root lacks, or has only as a toy. Each
// is a function of its arguments and streams; its command is three lines.
package smalltools

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

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

func finish(name string, out *bufio.Writer, err error) int {
	if e := out.Flush(); err == nil && e != nil {
		err = fmt.Errorf("cannot write to standard output: %w", e)
	}
	var u usage
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &u):
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, printable.CleanLines(err.Error()))
		return 2
	}
	fmt.Fprintf(os.Stderr, "%s: %s\n", name, printable.CleanLines(err.Error()))
	return 1
}

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
