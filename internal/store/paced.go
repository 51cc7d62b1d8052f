package store

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// paced ends requests of HTTP over which nothing passes for a while: a server that hangs may keep its
// connection alive. What a request has to wait for itself, such as the next bytes of a file
// that is being made, does not count.
type paced struct {
	http.RoundTripper
	limits limits
}

// answerWait is the key in a context of how long the answer to a request may take.
type answerWait struct{}

// withAnswer gives requests another time for the answer than the header's.
func withAnswer(ctx context.Context, wait time.Duration) context.Context {
	return context.WithValue(ctx, answerWait{}, wait)
}

// storing is how long a server may take to store so many bytes, which it has received: at least 1 MiB/s.
func (l limits) storing(size int64) time.Duration {
	return l.stall + time.Duration(size>>20)*time.Second
}

// RoundTrip implements http.RoundTripper.
func (p paced) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := p.limits.header
	if d, ok := r.Context().Value(answerWait{}).(time.Duration); ok {
		answer = d
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	timer := time.AfterFunc(answer, func() { cancel(errSilent) })
	r = r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &pacedBody{ReadCloser: r.Body, timer: timer, wait: p.limits.stall, end: answer, paused: true}
		r.GetBody = nil // it is not sent again behind the back of the limits
	}
	resp, err := p.RoundTripper.RoundTrip(r)
	if err != nil {
		timer.Stop()
		if errors.Is(context.Cause(ctx), errSilent) {
			err = errSilent
		}
		cancel(nil)
		return nil, err
	}
	wait := max(p.limits.stall, answer)
	timer.Reset(wait)
	resp.Body = &pacedBody{ReadCloser: resp.Body, timer: timer, wait: wait, end: wait, ctx: ctx, cancel: cancel}
	return resp, nil
}

// pacedBody is the body of a request or of an answer.
type pacedBody struct {
	io.ReadCloser
	timer     *time.Timer
	wait, end time.Duration // between two pieces; after the last one
	paused    bool          // the time to read a piece is not the server's

	// Of an answer.
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (b *pacedBody) Read(p []byte) (int, error) {
	if b.paused {
		b.timer.Stop()
	} else {
		b.timer.Reset(b.wait)
	}
	n, err := b.ReadCloser.Read(p)
	switch {
	case b.cancel != nil && err != nil && errors.Is(context.Cause(b.ctx), errSilent):
		err = errSilent
	case err != nil:
		b.timer.Reset(b.end)
	case b.paused:
		b.timer.Reset(b.wait)
	}
	return n, err
}

// Close implements io.Closer.
func (b *pacedBody) Close() error {
	if b.cancel != nil {
		b.timer.Stop()
		defer b.cancel(nil)
	}
	return b.ReadCloser.Close()
}
