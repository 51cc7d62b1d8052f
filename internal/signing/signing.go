// Package signing signs the manifests of backup sets with a key of the host, in the format of
// OpenSSH (PROTOCOL.sshsig), so that ssh-keygen -Y verify checks them by hand:
//
//	ssh-keygen -Y verify -f ALLOWED -I HOST -n mkcdrec-set -s manifest.json.sig <manifest.json
package signing

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// Namespace is what the signatures are for; a signature of the same key for something else
// does not hold for a set.
const Namespace = "mkcdrec-set"

// KeyFile is where a host has its key. It is in no set and on no medium.
const KeyFile = "/var/lib/mkcdrec/signing.key"

// Suffix ends the name of a signature's file, as that of ssh-keygen -Y sign.
const Suffix = ".sig"

// MaxSignature is the longest signature that is read, in bytes.
const MaxSignature = 16 << 10

// maxKey is the largest key file that is read, in bytes.
const maxKey = 64 << 10

// Key is a host's key.
type Key struct{ signer ssh.Signer }

// LoadKey reads the key in file, or makes one, with mode 0600. made reports the latter.
// A key that others can read is refused.
func LoadKey(file, host string) (k *Key, made bool, err error) {
	k, err = ReadKey(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, false, err
	}
	if k, err = makeKey(file, host); errors.Is(err, fs.ErrExist) { // another run was faster
		k, err = ReadKey(file)
		return k, false, err
	}
	return k, err == nil, err
}

// ReadKey reads the key in file, which nobody but root may be able to read.
func ReadKey(file string) (*Key, error) {
	fail := func(err error) (*Key, error) { return nil, fmt.Errorf("cannot use the signing key: %w", err) }
	b, err := regular.ReadSecret(file, maxKey)
	if err != nil {
		return fail(err)
	}
	s, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return fail(fmt.Errorf("%s: %w", file, err))
	}
	return &Key{s}, nil
}

// makeKey makes a key. It appears whole or not at all; one that is there by now is
// fs.ErrExist.
func makeKey(file, host string) (*Key, error) {
	fail := func(err error) (*Key, error) { return nil, fmt.Errorf("cannot make the signing key: %w", err) }
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fail(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "mkcdrec "+host)
	if err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fail(err)
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".signing-*") // mode 0600
	if err != nil {
		return fail(err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(pem.EncodeToMemory(block))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(f.Name(), file)
	}
	if err != nil {
		return fail(err)
	}
	s, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		return fail(err)
	}
	return &Key{s}, nil
}

// Public is the key that checks its signatures.
func (k *Key) Public() ssh.PublicKey { return k.signer.PublicKey() }

// Sign gives the signature of b, as text.
func (k *Key) Sign(b []byte) ([]byte, error) {
	s, err := sshsig.Sign(bytes.NewReader(b), k.signer, sshsig.HashSHA512, Namespace)
	if err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	return sshsig.Armor(s), nil
}

// Signer is the key that a signature of b was made with. An error is a signature that does not
// hold: it is of something else, or damaged.
func Signer(b, signature []byte) (ssh.PublicKey, error) {
	if len(signature) > MaxSignature {
		return nil, fmt.Errorf("the signature has %d bytes, more than %d", len(signature), MaxSignature)
	}
	s, err := sshsig.Unarmor(signature)
	if err != nil {
		return nil, fmt.Errorf("cannot read the signature: %w", err)
	}
	if s.Namespace != Namespace {
		return nil, fmt.Errorf("the signature is for %.100q, not for a backup set", s.Namespace)
	}
	if err := sshsig.Verify(bytes.NewReader(b), s, s.PublicKey, s.HashAlgorithm, Namespace); err != nil {
		return nil, fmt.Errorf("the signature does not hold: %w", err)
	}
	return s.PublicKey, nil
}

// Fingerprint names a key for people, "SHA256:" and 43 characters as ssh-keygen -l prints.
func Fingerprint(k ssh.PublicKey) string { return ssh.FingerprintSHA256(k) }

// Line writes a key as a line of a file of signers, which has the format of authorized_keys.
func Line(k ssh.PublicKey, comment string) []byte {
	return fmt.Appendf(bytes.TrimSuffix(ssh.MarshalAuthorizedKey(k), []byte("\n")), " %s\n", comment)
}

// Trusted is a public key whose signatures count, and for which hosts.
type Trusted struct {
	Key   ssh.PublicKey
	Hosts []string // patterns, of which one has to match; nil for any host
}

// Signers reads a file of signers: public keys, one a line, in either format of OpenSSH. A line of authorized_keys,
// KEY COMMENT, is for any host, one of allowed_signers, HOST[,HOST...] KEY, for these; their names may have * and ?,
// and ! before them. Empty lines and those that begin with # do not count.
func Signers(b []byte) (keys []Trusted, err error) {
	n := 0
	for l := range bytes.Lines(b) {
		n++
		if l = bytes.TrimSpace(l); len(l) == 0 || l[0] == '#' {
			continue
		}
		k, _, hosts, _, err := ssh.ParseAuthorizedKey(l)
		if err != nil {
			return nil, fmt.Errorf("line %d: it is not a public key: %w", n, err)
		}
		for _, h := range hosts {
			if _, err := path.Match(h, ""); err != nil {
				return nil, fmt.Errorf("line %d: %q is not a name of a host, or a pattern", n, h)
			}
		}
		keys = append(keys, Trusted{k, hosts})
	}
	return keys, nil
}

// Has reports whether a key is among keys, and whether its signatures count for a host.
func Has(keys []Trusted, k ssh.PublicKey, host string) (known, counts bool) {
	for _, x := range keys {
		if bytes.Equal(x.Key.Marshal(), k.Marshal()) {
			known, counts = true, counts || x.of(host)
		}
	}
	return known, counts
}

// of reports whether the key is one of a host.
func (t Trusted) of(host string) bool {
	is := t.Hosts == nil
	for _, h := range t.Hosts {
		name, not := strings.CutPrefix(h, "!")
		if ok, _ := path.Match(name, host); ok && not {
			return false
		} else if ok {
			is = true
		}
	}
	return is
}
