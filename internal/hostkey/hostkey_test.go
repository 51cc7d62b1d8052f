package hostkey

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

func signer(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func certificate(t *testing.T, key ssh.PublicKey, authority ssh.Signer, principal string, until time.Time, kind uint32) *ssh.Certificate {
	t.Helper()
	c := &ssh.Certificate{Key: key, CertType: kind, ValidPrincipals: []string{principal}, ValidBefore: uint64(until.Unix())}
	if err := c.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestCheck: keys and certificates, as OpenSSH takes them.
func TestCheck(t *testing.T) {
	host, other, authority := signer(t).PublicKey(), signer(t).PublicKey(), signer(t)
	hour, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	line := func(marker string, key ssh.PublicKey) string {
		return strings.TrimSpace(marker+" "+knownhosts.Line([]string{"h.example"}, key)) + "\n"
	}
	good := certificate(t, host, authority, "h.example", hour, ssh.HostCert)
	for _, c := range []struct {
		name, file string
		key        ssh.PublicKey
		want       string // of the error; "" for none
	}{
		{"known", line("", host), host, ""},
		{"unknown", "", host, ErrUnknown.Error()},
		{"changed", line("", other), host, "has changed"},
		{"revoked", line("", host) + line("@revoked", host), host, ErrRevoked.Error()},
		{"certificate", line("@cert-authority", authority.PublicKey()), good, ""},
		{"known key with a certificate of nobody", line("", host), good, ""},
		{"known key with a certificate, another authority", line("", host) + line("@cert-authority", other), good, ""},
		{"certificate of nobody", "", good, ErrUnknown.Error()},
		{"another key with a certificate of nobody", line("", other), good, "has changed"},
		{"another authority", line("@cert-authority", other), good, ErrUnknown.Error()},
		{"key without a certificate", line("@cert-authority", authority.PublicKey()), host, ErrUnknown.Error()},
		{"expired", line("", host) + line("@cert-authority", authority.PublicKey()), certificate(t, host, authority, "h.example", past, ssh.HostCert), "expired"},
		{"of another host", line("@cert-authority", authority.PublicKey()), certificate(t, host, authority, "other.example", hour, ssh.HostCert), "principal"},
		{"of a user", line("", host), certificate(t, host, authority, "h.example", hour, ssh.UserCert), "type"},
		{"certificate with a revoked key", line("", host) + line("@revoked", host), good, ErrRevoked.Error()},
	} {
		file := filepath.Join(t.TempDir(), "known_hosts")
		if err := os.WriteFile(file, []byte(c.file), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := Read("h.example:22", file)
		if err != nil {
			t.Fatal(err)
		}
		err = k.Check("h.example:22", &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 22}, c.key)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
		if e := (*ChangedError)(nil); errors.As(err, &e) && len(e.Want) != 1 {
			t.Errorf("%s: %v", c.name, e.Want)
		}
		known, others := k.Algorithms()
		if got, want := slices.Contains(known, ssh.CertAlgoED25519v01), strings.Contains(c.file, "@cert"); got != want {
			t.Errorf("%s: asks for certificates: %v", c.name, got)
		}
		if slices.Contains(known, ssh.KeyAlgoED25519) != k.HasKey() || slices.Contains(others, ssh.KeyAlgoED25519) == k.HasKey() || slices.Contains(others, ssh.CertAlgoED25519v01) {
			t.Errorf("%s: %q, %q", c.name, known, others)
		}
	}
}
