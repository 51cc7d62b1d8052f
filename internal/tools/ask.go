package tools

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// ErrNoTerminal is the error of Ask where nobody can be asked.
var ErrNoTerminal = errors.New("no terminal")

// Ask prints a question on the terminal, also if the standard streams are files, and reads
// a line, which is not shown if it is secret. Ctrl-C ends the wait; the terminal shows
// again what is typed then.
func Ask(question string, secret bool) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		if tty = os.Stdin; !term.IsTerminal(int(tty.Fd())) {
			return "", ErrNoTerminal
		}
	} else {
		defer tty.Close()
	}
	out := tty
	if out == os.Stdin {
		out = os.Stderr
	}
	fmt.Fprint(out, printable.CleanLines(question))
	ctx, stop := interrupt.Context(context.Background())
	defer stop()
	if secret {
		b, err := interrupt.Secret(ctx, int(tty.Fd()))
		fmt.Fprintln(out)
		return string(b), err
	}
	s, err := interrupt.NewLines(tty).ReadLine(ctx)
	if errors.Is(err, io.EOF) && s != "" {
		err = nil
	}
	return strings.TrimRight(s, "\r\n"), err
}
