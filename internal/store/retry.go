package store

import (
	"context"
	"errors"
	"time"
)

// limits are how long a server is waited for, and how often it is asked again, so
// that one that restarts does not end a backup or a restore.
type limits struct {
	header time.Duration // from the request to the answer's header
	stall  time.Duration // without a byte of the answer's body
	pause  time.Duration // before the second attempt; doubled each time
	tries  int           // attempts in a row that bring nothing
	all    int           // attempts for one piece, also if each brings something
}

var (
	// normal is for reading sets: a wrong address is to be reported soon.
	normal = limits{header: 15 * time.Second, stall: 30 * time.Second, pause: 500 * time.Millisecond, tries: 5, all: 100}
	// patient is for homes: a server may need two minutes to restart.
	patient = limits{header: time.Minute, stall: time.Minute, pause: 500 * time.Millisecond, tries: 10, all: 1000}
)

// longestPause is between two attempts.
const longestPause = 20 * time.Second

// permanent is an error that asking again does not change.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// again calls fn until it succeeds, the error is permanent, too many attempts
// brought nothing, or ctx ends; fn reports whether it brought something.
func (l limits) again(ctx context.Context, fn func() (progress bool, err error)) error {
	var err error
	for i, idle := 0, 0; i < l.all && idle < l.tries; i++ {
		if idle > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(min(l.pause<<(idle-1), longestPause)):
			}
		}
		var progress bool
		if progress, err = fn(); err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.As(err, new(permanent)) {
			return err
		}
		if idle++; progress {
			idle = 1
		}
	}
	return err
}
