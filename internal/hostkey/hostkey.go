// Package hostkey checks the keys of ssh servers against files of known hosts, as OpenSSH does: keys,
// and certificates of an authority (a line with @cert-authority).
package hostkey

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// ErrRevoked is the error for a key that a line with @revoked names.
var ErrRevoked = errors.New("the key of the server is revoked")

// ErrUnknown is the error for a server of which no key is known.
var ErrUnknown = errors.New("the key of the server is not known")

// ChangedError is the error for a server of which only other keys are known.
type ChangedError struct {
	Want []knownhosts.KnownKey // at least one
}

func (e *ChangedError) Error() string { return "the key of the server has changed" }

// Known is what files of known hosts have about a server.
type Known struct {
	check       ssh.HostKeyCallback
	keys        []knownhosts.KnownKey
	authorities []knownhosts.KnownKey
}

// Read reads what the files have about the server at addr, which is HOST:PORT.
func Read(addr string, files ...string) (*Known, error) {
	check, err := knownhosts.New(files...)
	if err != nil {
		return nil, fmt.Errorf("cannot read the keys of known hosts: %s", strings.TrimPrefix(err.Error(), "knownhosts: "))
	}
	k := &Known{check: check}
	// The error for a key that no server has names all lines about the server.
	none, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	var fault *knownhosts.KeyError
	if err == nil && errors.As(check(addr, &net.TCPAddr{IP: net.IPv4zero}, none), &fault) {
		k.keys, k.authorities = split(fault.Want)
	}
	return k, nil
}

// split separates the keys of servers from those of authorities, which sign keys of servers.
func split(all []knownhosts.KnownKey) (keys, authorities []knownhosts.KnownKey) {
	files := map[string][]string{} // their lines
	for _, k := range all {
		lines, ok := files[k.Filename]
		if !ok {
			b, _ := os.ReadFile(k.Filename) // it was read just now
			lines = strings.Split(string(b), "\n")
			files[k.Filename] = lines
		}
		if k.Line > 0 && k.Line <= len(lines) && strings.HasPrefix(strings.TrimSpace(lines[k.Line-1]), "@cert-authority") {
			authorities = append(authorities, k)
		} else {
			keys = append(keys, k)
		}
	}
	return keys, authorities
}

// HasKey reports whether a key of the server itself is known.
func (k *Known) HasKey() bool { return len(k.keys) > 0 }

// Algorithms returns what to ask the server for: known has the algorithms of keys that are known and,
// with an authority, those of certificates; others has the other algorithms of keys, ed25519 first, as
// OpenSSH.
func (k *Known) Algorithms() (known, others []string) {
	for _, a := range ssh.SupportedAlgorithms().HostKeys {
		base := strings.NewReplacer("rsa-sha2-256", ssh.KeyAlgoRSA, "rsa-sha2-512", ssh.KeyAlgoRSA).Replace(a)
		certificate := strings.Contains(a, "-cert-v01@")
		switch {
		case certificate && len(k.authorities) > 0, slices.ContainsFunc(k.keys, func(k knownhosts.KnownKey) bool { return k.Key.Type() == base }):
			known = append(known, a)
		case !certificate:
			others = append(others, a)
		}
	}
	slices.SortStableFunc(others, func(a, b string) int {
		return map[bool]int{false: 1}[a == ssh.KeyAlgoED25519] - map[bool]int{false: 1}[b == ssh.KeyAlgoED25519]
	})
	return known, others
}

// Check checks the key that a server shows, as an ssh.HostKeyCallback. The key in a certificate is
// checked by itself if no authority of the certificate is known, as by OpenSSH. Besides ErrRevoked,
// ErrUnknown and ChangedError, an error is what is wrong with a certificate.
func (k *Known) Check(addr string, remote net.Addr, key ssh.PublicKey) error {
	err := k.check(addr, remote, key)
	if c, ok := key.(*ssh.Certificate); ok && err != nil {
		if c.CertType != ssh.HostCert || slices.ContainsFunc(k.authorities, func(a knownhosts.KnownKey) bool { return same(a.Key, c.SignatureKey) }) {
			return err
		}
		err = k.check(addr, remote, c.Key)
	}
	var e *knownhosts.KeyError
	switch {
	case errors.As(err, new(*knownhosts.RevokedError)):
		return ErrRevoked
	case !errors.As(err, &e):
		return err
	}
	// A key of another type does not prove it either: the server was asked for the types that are known.
	if keys, _ := split(e.Want); len(keys) > 0 {
		return &ChangedError{keys}
	}
	return ErrUnknown
}

func same(a, b ssh.PublicKey) bool { return string(a.Marshal()) == string(b.Marshal()) }

// Plain returns the key in a certificate, and any other key as it is.
func Plain(key ssh.PublicKey) ssh.PublicKey {
	if c, ok := key.(*ssh.Certificate); ok {
		return c.Key
	}
	return key
}
