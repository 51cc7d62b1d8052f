package store

import (
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
)

// TestUnknownHost: a name that does not exist is looked up a few times, and a resolver that fails is
// asked as often as a server.
func TestUnknownHost(t *testing.T) {
	for _, c := range []struct {
		name string
		err  net.DNSError
		want int
		text string
	}{
		{"unknown", net.DNSError{Err: "no such host", Name: "a\x1bb", IsNotFound: true}, unknownTries, "no address of a\\x1bb is known"},
		{"failure", net.DNSError{Err: "server misbehaving", Name: "h", IsTemporary: true}, fast.tries, "server misbehaving"},
		{"timeout", net.DNSError{Err: "i/o timeout", Name: "h", IsTimeout: true, IsTemporary: true}, fast.tries, "timeout"},
	} {
		n := 0
		err := fast.again(t.Context(), func() (bool, error) {
			n++
			return false, withoutURL(&url.Error{Err: &net.OpError{Op: "dial", Err: &c.err}})
		})
		if n != c.want || err == nil || !strings.Contains(err.Error(), c.text) || !errors.As(err, new(*net.DNSError)) {
			t.Errorf("%s: %d attempts, %v; want %d", c.name, n, err, c.want)
		}
	}
}
