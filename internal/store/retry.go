package store

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/printable"
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
	unknown := 0
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
		if unknownHost(err) {
			if unknown++; unknown == unknownTries {
				return err
			}
		}
		if idle++; progress {
			idle = 1
		}
	}
	return err
}

// unknownTries is how often a name is looked up that does not exist: a resolver that has just started
// may not know it yet, but most often it is a typing error.
const unknownTries = 3

// unknownHost reports whether a resolver answered that a name does not exist, which is not
// a failure of the resolver.
func unknownHost(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound && !dns.IsTemporary && !dns.IsTimeout
}

// noHost words the error for a name that does not exist, and gives others as they are.
func noHost(err error) error {
	var dns *net.DNSError
	if unknownHost(err) && errors.As(err, &dns) {
		return noHostError{dns}
	}
	return err
}

type noHostError struct{ dns *net.DNSError }

func (e noHostError) Error() string {
	return fmt.Sprintf("no address of %s is known", printable.Clean(e.dns.Name))
}
func (e noHostError) Unwrap() error { return e.dns }
