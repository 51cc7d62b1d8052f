// Package keyring has what opens a backup set: the secrets of servers, the identities that
// decrypt it, and the keys of those who sign.
package keyring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/signing"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/tools/shares"
)

// Ring are files with keys; "" takes what this machine has, or asks.
type Ring struct {
	Identity    string // age identities, or an SSH private key
	Passphrase  string // the passphrase of sets that are encrypted with one
	Credentials string // secrets of servers
	Signer      string // public keys of hosts, or NoSigner
	// Ask asks a person for what is not shown while it is typed; nil where nobody is there.
	Ask agekey.Secret

	ids    []age.Identity
	phrase []age.Identity // of the passphrase
}

// NoSigner in the place of a file means that no key is expected: sets of other programs are never signed.
const NoSigner = "none"

// maxSigners is the largest file of signers that is read, in bytes.
const maxSigners = 1 << 20

// DefaultCredentials is the file with the secrets of servers of a machine that names none.
const DefaultCredentials = "/etc/mkcdrec.credentials"

// Access is what opens servers: with the secrets of the file that was named, or of the rescue
// system, or of this machine.
func (r *Ring) Access() (store.Access, error) {
	nobody := func(string) (string, error) { return "", errors.New("no password, and no person to ask") } // stores ask before
	a := store.Access{Mount: shares.Machine(nobody).Mount, Unmount: func(dir string) error { return unix.Unmount(dir, 0) }}
	if r.Ask != nil {
		a.Ask = func(_ context.Context, question string, _ bool) (string, error) {
			b, err := r.Ask(question)
			return string(b), err
		}
	}
	file := r.Credentials
	for _, f := range []string{rescue.CredentialsFile, DefaultCredentials} {
		if _, err := os.Stat(f); file == "" && err == nil {
			file = f
		}
	}
	if file == "" {
		return a, nil
	}
	var err error
	a.Credentials, err = store.ReadCredentials(file)
	return a, err
}

// Identities reads the identity file, or that of the passphrase, or asks for what is typed; once.
func (r *Ring) Identities(ctx context.Context, passphrase bool) ([]age.Identity, error) {
	if passphrase {
		return r.passphrase(ctx)
	}
	if r.ids != nil {
		return r.ids, nil
	}
	b, err := r.secret(ctx, r.Identity, "cannot read the identity", "The backup set, or a part of it, is encrypted. Its age identity (AGE-SECRET-KEY-1...), or the path of a file with it or with the SSH key: ",
		"no identity given that decrypts the backup set; use --identity to name a file with it")
	if name := string(bytes.TrimSpace(b)); err == nil && r.Identity == "" && strings.HasPrefix(name, "/") && !strings.Contains(name, "\n") {
		if b, err = interrupt.ReadFile(ctx, name); err != nil {
			err = fmt.Errorf("cannot read the identity: %w", err)
		}
	}
	if err != nil {
		return nil, err
	}
	r.ids, err = agekey.Identities(b, r.Ask)
	if errors.Is(err, agekey.ErrNoPassphrase) {
		err = &exit.Refusal{Reason: err.Error()}
	}
	return r.ids, err
}

// passphrase is what the passphrase of a set decrypts.
func (r *Ring) passphrase(ctx context.Context) ([]age.Identity, error) {
	if r.phrase != nil {
		return r.phrase, nil
	}
	b, err := r.secret(ctx, r.Passphrase, "cannot read the passphrase", "The backup set, or a part of it, is encrypted with a passphrase: ",
		"no passphrase given that decrypts the backup set; use --passphrase-file to name a file with it")
	if err != nil {
		return nil, err
	}
	id, err := agekey.FromPassphrase(bytes.TrimRight(b, "\r\n"))
	if err != nil {
		return nil, fmt.Errorf("cannot use the passphrase: %w", err)
	}
	r.phrase = []age.Identity{id}
	return r.phrase, nil
}

// secret reads a file, or asks for what it would have. none is why the set is refused without.
func (r *Ring) secret(ctx context.Context, file, cannot, question, none string) ([]byte, error) {
	switch {
	case agekey.HasPrivate(file):
		return nil, fmt.Errorf("%s: a private key was given where the name of a file is wanted: write the key to a file of mode 0600, and name that", cannot)
	case file != "":
		b, err := interrupt.ReadFile(ctx, file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", cannot, err)
		}
		return b, nil
	case r.Ask == nil:
		return nil, &exit.Refusal{Reason: none}
	}
	b, err := r.Ask(question)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil || len(bytes.TrimSpace(b)) == 0 {
		return nil, &exit.Refusal{Reason: none}
	}
	return b, nil
}

// Signers are the keys whose sets are restored without a question: of the file that was named,
// or of the rescue system. None are nil.
func (r *Ring) Signers() ([]signing.Trusted, error) {
	if r.Signer == NoSigner {
		return nil, nil
	}
	file := r.Signer
	if file == "" {
		file = rescue.SignersFile
	}
	b, err := regular.ReadFile(file, maxSigners)
	if r.Signer == "" && errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the keys of hosts: %w", err)
	}
	keys, err := signing.Signers(b)
	if err == nil && len(keys) == 0 {
		err = errors.New("it has no key")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", file, err)
	}
	return keys, nil
}

// Door opens sets with these keys.
func (r *Ring) Door(ctx context.Context, want manifest.Wanted, say func(format string, args ...any)) (manifest.Door, error) {
	a, err := r.Access()
	return manifest.Door{Want: want, Say: say, Access: a, Identities: func(p bool) ([]age.Identity, error) { return r.Identities(ctx, p) }}, err
}

// Verdict is what is known of a set's signature.
type Verdict struct {
	// Wrong is why it should not be used, "" if there is no reason. It has no fingerprint: a person has to type that
	// from paper, and not from the screen.
	Wrong string
	// Key is the key that it is signed with, nil for none, or a signature that is not valid.
	Key ssh.PublicKey
	// Checked: the key is one that Signers gives for its host.
	Checked bool
}

// Judge compares the signature of a set with the keys of hosts.
func (r *Ring) Judge(s *manifest.Set) (v Verdict, err error) {
	signers, err := r.Signers()
	if err != nil {
		return v, err
	}
	v.Key = s.Signer
	switch {
	case s.SignatureFault != nil:
		v.Wrong, v.Key = fmt.Sprintf("the signature of the backup set is not valid: %v", s.SignatureFault), nil
	case len(signers) == 0:
	case s.Signer == nil:
		v.Wrong = "the backup set is not signed, and the key of its host is known"
	default:
		known, counts := signing.Has(signers, s.Signer, s.Manifest.Host)
		v.Checked = counts
		switch {
		case known && !counts:
			v.Wrong = fmt.Sprintf("the backup set is of the host %s, and signed with the key of another host", printable.Clean(s.Manifest.Host))
		case !known:
			v.Wrong = "the backup set is signed with a key that is not known here"
		}
	}
	return v, nil
}

// Trust refuses a set that is not signed as it should be: if Signer was given, by one of those; with valid, if its
// signature is not valid. say is told why a set is not to be relied on otherwise.
func (r *Ring) Trust(s *manifest.Set, valid bool, say func(format string, args ...any)) error {
	if r.Identity != "" && !s.Encrypted() {
		say("the backup set is not encrypted: it is read without the identity that was given")
	}
	v, err := r.Judge(s)
	if v.Key != nil && v.Wrong != "" {
		v.Wrong += ": " + signing.Fingerprint(v.Key)
	}
	switch {
	case err != nil:
		return err
	case v.Wrong == "":
		return nil
	case r.Signer != "":
		return &exit.Refusal{Reason: v.Wrong}
	case s.SignatureFault != nil && valid:
		return errors.New(v.Wrong)
	}
	say("%s", v.Wrong)
	return nil
}
