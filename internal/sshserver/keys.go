package sshserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/gliderlabs/ssh"

	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// Key is a line of authorized_keys(5): a public key, and what its holder may do.
type Key struct {
	ssh.PublicKey
	command string   // runs in the place of everything else
	forced  bool     // command is set; it may be ""
	noPTY   bool     // no terminal
	from    []string // addresses, networks and patterns, "!" before one excludes; nil for anywhere
	expires time.Time
	env     []string // NAME=VALUE
}

// harmless are options that restrict or allow what this server never does:
// forwarding, tunnels, files of the user. Touching a security key is always
// required here.
var harmless = []string{"agent-forwarding", "no-agent-forwarding", "port-forwarding", "no-port-forwarding", "x11-forwarding", "no-x11-forwarding", "user-rc", "no-user-rc", "permitopen", "permitlisten", "tunnel", "no-touch-required"}

// ParseKeys reads authorized_keys(5) lines. It returns the keys that can be
// used, and an error that names each line that can't: an option that is not
// enforced here refuses its key.
func ParseKeys(text string) ([]Key, error) {
	var keys []Key
	var errs []error
	for i, l := range strings.Split(text, "\n") {
		if l = strings.TrimSpace(l); l == "" || l[0] == '#' {
			continue
		}
		pub, _, options, _, err := ssh.ParseAuthorizedKey([]byte(l))
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot read ssh keys: line %d is not a public key in the form of authorized_keys: %w", i+1, err))
			continue
		}
		k := Key{PublicKey: pub}
		for _, o := range options {
			if err = k.option(o); err != nil {
				errs = append(errs, fmt.Errorf("cannot use the ssh key in line %d: %w", i+1, err))
				break
			}
		}
		if err == nil {
			keys = append(keys, k)
		}
	}
	return keys, errors.Join(errs...)
}

var envName = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9_]*=`)

func (k *Key) option(o string) error {
	name, value, hasValue := strings.Cut(o, "=")
	name = strings.ToLower(strings.TrimSpace(name))
	if hasValue {
		if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
			return fmt.Errorf("the value of %s is not in quotes", printable.Short(name, 40))
		}
		value = strings.ReplaceAll(value[1:len(value)-1], `\"`, `"`)
	}
	switch {
	case slices.Contains([]string{"command", "from", "expiry-time", "environment"}, name) && !hasValue:
		return fmt.Errorf("%s has no value", name)
	case strings.ContainsAny(value, "\x00\n\r"):
		return fmt.Errorf("the value of %s has control characters", printable.Short(name, 40))
	}
	switch name {
	case "command":
		if k.forced {
			return errors.New("it has two commands")
		}
		k.command, k.forced = value, true
	case "no-pty", "restrict":
		k.noPTY = true
	case "pty":
		k.noPTY = false
	case "from":
		if k.from != nil {
			return errors.New("it has two lists of addresses (from=)")
		}
		return k.setFrom(value)
	case "expiry-time":
		t, err := parseExpiry(value)
		if err != nil {
			return err
		}
		if k.expires.IsZero() || t.Before(k.expires) {
			k.expires = t
		}
	case "environment":
		if !envName().MatchString(value) {
			return fmt.Errorf("environment=%q is not NAME=VALUE", value)
		}
		k.env = append(k.env, value)
	default:
		if !slices.Contains(harmless, name) {
			return fmt.Errorf("the option %s is not supported here", printable.Short(name, 40))
		}
	}
	return nil
}

// setFrom takes addresses, networks and patterns of addresses. Names of hosts
// would need a name server that can be trusted.
func (k *Key) setFrom(list string) error {
	for _, p := range strings.Split(list, ",") {
		p = strings.ToLower(strings.TrimSpace(p))
		bare := strings.TrimPrefix(p, "!")
		_, err1 := netip.ParsePrefix(bare)
		_, err2 := netip.ParseAddr(bare)
		pattern := strings.ContainsAny(bare, "*?") && strings.Trim(bare, "0123456789abcdef.:*?") == ""
		if err1 != nil && err2 != nil && !pattern {
			return fmt.Errorf("from=%q: want addresses and networks; names of hosts are not supported here", printable.Short(p, 80))
		}
		k.from = append(k.from, p)
	}
	return nil
}

// parseExpiry reads YYYYMMDD[HHMM[SS]][Z]; all are UTC, as the rescue system's
// clock is.
func parseExpiry(s string) (time.Time, error) {
	t := strings.TrimSuffix(strings.TrimSuffix(s, "Z"), "z")
	for _, f := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(t) == len(f) {
			if d, err := time.Parse(f, t); err == nil {
				return d, nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("expiry-time=%q: want YYYYMMDD or YYYYMMDDHHMM[SS]", printable.Short(s, 40))
}

// refuses returns why the key is not accepted from an address now; "" if it is.
func (k *Key) refuses(from net.Addr, now time.Time) string {
	if !k.expires.IsZero() && !now.Before(k.expires) {
		return "the key expired on " + k.expires.Format("2006-01-02 15:04 UTC")
	}
	if k.from == nil {
		return ""
	}
	const elsewhere = "the key may not be used from this address"
	ap, err := netip.ParseAddrPort(from.String())
	if err != nil {
		return elsewhere
	}
	ip, allowed := ap.Addr().Unmap().WithZone(""), false
	for _, p := range k.from {
		bare := strings.TrimPrefix(p, "!")
		match := false
		if n, err := netip.ParsePrefix(bare); err == nil {
			match = n.Contains(ip)
		} else if a, err := netip.ParseAddr(bare); err == nil {
			match = a.Unmap() == ip
		} else if m, err := path.Match(bare, ip.String()); err == nil {
			match = m
		}
		if match && bare != p {
			return elsewhere
		}
		allowed = allowed || match
	}
	if !allowed {
		return elsewhere
	}
	return ""
}
