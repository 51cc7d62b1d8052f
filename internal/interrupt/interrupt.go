// Package interrupt is how a command reacts to Ctrl-C: the first one ends
// every wait (the context is cancelled, questions return), a second one ends
// the program.
package interrupt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
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

// Is reports whether err is the result of an interruption.
func Is(err error) bool { return errors.Is(err, context.Canceled) }

// Context returns a context that the first SIGINT, SIGTERM, SIGHUP or SIGQUIT cancels,
// with a *Signal as its cause. From then on the signals have their default
// effect: a second one ends the program. A signal that is ignored (nohup(1))
// stays ignored. stop releases the signals.
func Context(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	ch := make(chan os.Signal, 1)
	for _, s := range []os.Signal{os.Interrupt, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT} {
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

// Err names the interruption as the cause of an error that came after it: of a
// program that was ended with it, or a read that was given up. Any other error is
// returned as it is.
func Err(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || Is(err) {
		return err
	}
	return fmt.Errorf("%w: %w", context.Cause(ctx), err)
}

// pieceLen is the most that one call of a reader or writer of this package passes
// on, in bytes.
const pieceLen = 1 << 20

type done struct {
	n   int
	err error
}

type reader struct {
	ctx  context.Context
	r    io.Reader
	buf  []byte
	got  chan done
	over error
}

// Reader returns a reader whose Read returns the cause of ctx's end as soon as it
// ends, also while r has nothing to give, as a pipe or a terminal can. What r gives
// after that is lost.
func Reader(ctx context.Context, r io.Reader) io.Reader {
	return &reader{ctx: ctx, r: r, got: make(chan done, 1)}
}

func (r *reader) Read(p []byte) (int, error) {
	if r.over == nil && r.ctx.Err() != nil {
		r.over = context.Cause(r.ctx)
	}
	if r.over != nil || len(p) == 0 {
		return 0, r.over
	}
	// Into its own buffer: p is the caller's again when the wait is given up.
	n := min(len(p), pieceLen)
	if len(r.buf) < n {
		r.buf = make([]byte, n)
	}
	go func() {
		n, err := r.r.Read(r.buf[:n])
		r.got <- done{n, err}
	}()
	select {
	case <-r.ctx.Done():
		r.over = context.Cause(r.ctx)
		return 0, r.over
	case d := <-r.got:
		return copy(p, r.buf[:d.n]), d.err
	}
}

type writer struct {
	ctx  context.Context
	w    io.Writer
	buf  []byte
	got  chan done
	over error
}

// Writer returns a writer whose Write returns the cause of ctx's end as soon as it
// ends, also while w takes nothing. A part of what was written then may still
// reach w.
func Writer(ctx context.Context, w io.Writer) io.Writer {
	return &writer{ctx: ctx, w: w, got: make(chan done, 1)}
}

func (w *writer) Write(p []byte) (int, error) {
	all := 0
	for len(p) > 0 || all == 0 {
		if w.over == nil && w.ctx.Err() != nil {
			w.over = context.Cause(w.ctx)
		}
		if w.over != nil {
			return all, w.over
		}
		w.buf = append(w.buf[:0], p[:min(len(p), pieceLen)]...)
		go func() {
			n, err := w.w.Write(w.buf)
			w.got <- done{n, err}
		}()
		select {
		case <-w.ctx.Done():
			w.over = context.Cause(w.ctx)
			return all, w.over
		case d := <-w.got:
			all += d.n
			if d.err != nil || d.n == 0 {
				return all, d.err
			}
			p = p[d.n:]
		}
	}
	return all, nil
}

// maxKeyFile is what ReadFile reads at most, in bytes: that of cryptsetup(8).
const maxKeyFile = 8 << 20

// ReadFile reads a file of at most 8 MiB with a key, which may be a pipe: a shell's
// <(program). The wait for its writer ends with ctx.
func ReadFile(ctx context.Context, name string) ([]byte, error) {
	type answer struct {
		b   []byte
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		f, err := os.Open(name)
		if err != nil {
			ch <- answer{nil, err}
			return
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
		if err == nil && len(b) > maxKeyFile {
			err = fmt.Errorf("%s has more than %d bytes", name, maxKeyFile)
		}
		ch <- answer{b, err}
	}()
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case a := <-ch:
		return a.b, a.err
	}
}
