// Package interrupt is how a command reacts to Ctrl-C: the first one ends
// every wait (the context is cancelled, questions return), a second one ends
// the program.
package interrupt

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Signal is the cause of a context that a signal cancelled. errors.Is takes it
// for context.Canceled.
type Signal struct{ Sig os.Signal }

func (s *Signal) Error() string {
	if s.Sig == os.Interrupt {
		return "interrupted"
	}
	return "interrupted (" + s.Sig.String() + ")"
}

// Is makes errors.Is(err, context.Canceled) true.
func (s *Signal) Is(target error) bool { return target == context.Canceled }

// Is tells whether err is the result of an interruption.
func Is(err error) bool { return errors.Is(err, context.Canceled) }

// Context returns a context that the first SIGINT, SIGTERM or SIGHUP cancels,
// with a *Signal as its cause. From then on the signals have their default
// effect: a second one ends the program. A signal that is ignored (nohup(1))
// stays ignored. stop releases the signals.
func Context(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	ch := make(chan os.Signal, 1)
	for _, s := range []os.Signal{os.Interrupt, unix.SIGTERM, unix.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(ch, s)
		}
	}
	go func() {
		select {
		case s := <-ch:
			signal.Stop(ch)
			cancel(&Signal{s})
		case <-ctx.Done():
			signal.Stop(ch)
		}
	}()
	return ctx, func() { cancel(nil) }
}

// Lines reads lines of a terminal or a pipe, and stops waiting when a context
// ends. Only one Lines may read from one file: it reads ahead.
type Lines struct {
	r       *bufio.Reader
	ch      chan line
	waiting bool // a read is under way, whose line nobody has taken
}

type line struct {
	text string
	err  error
}

// NewLines gives the lines of r. Nothing is read before the first ReadLine.
func NewLines(r io.Reader) *Lines { return &Lines{r: bufio.NewReader(r), ch: make(chan line, 1)} }

// ReadLine returns the next line with its newline, as bufio.Reader.ReadString
// does, or the cause of ctx's end. A line that arrives after that is the next
// call's. It is not for several goroutines at once.
func (l *Lines) ReadLine(ctx context.Context) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if !l.waiting {
		l.waiting = true
		go func() {
			t, err := l.r.ReadString('\n')
			l.ch <- line{t, err}
		}()
	}
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case got := <-l.ch:
		l.waiting = false
		return got.text, got.err
	}
}

// Secret reads a line from the terminal at fd, which does not show it, and
// shows again what is typed before it returns. The error is the cause of ctx's
// end, or why it can't be read.
func Secret(ctx context.Context, fd int) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	state, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	type answer struct {
		b   []byte
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		b, err := term.ReadPassword(fd)
		ch <- answer{b, err}
	}()
	select {
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), term.Restore(fd, state))
	case a := <-ch:
		return a.b, a.err
	}
}
