package streams

import (
	"context"
	"os"

	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/internal/interrupt"
)

// OpenTerminal returns a function that asks the person at the controlling
// terminal and returns the line that was typed, or nil when there is no terminal.
// Its wait ends with the context, whose cause is the error then.
func OpenTerminal() func(ctx context.Context, question string) (string, error) {
	t, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	if !term.IsTerminal(int(t.Fd())) {
		t.Close()
		return nil
	}
	lines := interrupt.NewLines(t)
	return func(ctx context.Context, question string) (string, error) {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if _, err := t.WriteString(question); err != nil {
			return "", err
		}
		return lines.ReadLine(ctx)
	}
}
