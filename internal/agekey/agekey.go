// Package agekey reads the keys of age: recipients, which anybody may have, and identities,
// which decrypt.
package agekey

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/plugin"
	"golang.org/x/crypto/ssh"

	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
)

// maxIdentities is the largest file of identities, in bytes.
const maxIdentities = 1 << 20

// ErrPrivate is the fault of a private key where a public one belongs. No error beside it has a part of the key.
var ErrPrivate = errors.New("it is a private key, which does not belong here: remove it, and name the public key, which begins with age1 or ssh- (age-keygen -y and ssh-keygen -y print it)")

// private matches a private key of age, the identity of a plugin, and the lines around a private key in PEM.
var private = lazyregexp.New(`(?i)AGE-SECRET-KEY-(PQ-)?1[A-Z0-9]{4}|AGE-PLUGIN-[A-Z0-9+._-]*-1[A-Z0-9]{2}|-----BEGIN [A-Z0-9 ]*PRIVATE KEY|PRIVATE KEY-----`)

// HasPrivate reports whether a text has a private key, also behind or before other text. Such a text is not to be
// printed.
func HasPrivate(s string) bool { return private().MatchString(s) }

// ErrNoPassphrase is the fault of identities that are encrypted with a passphrase that
// was not given.
var ErrNoPassphrase = errors.New("no passphrase given for the identity file")

// Recipient parses a public key: of age (X25519, or the hybrid with ML-KEM), of SSH
// (ed25519, RSA), or of a plugin (age1NAME1...), whose program age-plugin-NAME has to be
// installed. Its errors have the first characters of what looks like a public key, and
// nothing of other texts: they may be secret.
func Recipient(s string) (age.Recipient, error) {
	s = strings.TrimSpace(s)
	upper := strings.ToUpper(s)
	if HasPrivate(s) || strings.Contains(upper, "AGE-SECRET-KEY-") || strings.HasPrefix(upper, "AGE-PLUGIN-") || strings.HasPrefix(s, "-----BEGIN") {
		return nil, ErrPrivate
	}
	r, err := parse(s)
	if err != nil { // the library's error has the whole text
		return nil, unreadable(s)
	}
	return r, nil
}

// parse is Recipient for a text without a private key, with the errors of the library.
func parse(s string) (age.Recipient, error) {
	switch {
	case strings.HasPrefix(s, "ssh-"):
		return agessh.ParseRecipient(s)
	case strings.HasPrefix(s, "age1pq1"):
		return age.ParseHybridRecipient(s)
	case strings.HasPrefix(s, "age1") && strings.Count(s, "1") > 1: // a name ends at the last 1, which keys of age lack
		if name, _, err := plugin.ParseRecipient(s); err == nil && name != "" {
			return plugin.NewRecipient(s, unattended())
		}
	}
	return age.ParseX25519Recipient(s)
}

// shownOfKey is how many characters of an unreadable public key an error has.
const shownOfKey = 12

// unreadable is the error for a text that is not a public key.
func unreadable(s string) error {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789-"
	shown := s[:len(s)-len(strings.TrimLeft(s, letters))]
	dots := ""
	if len(shown) > shownOfKey {
		shown, dots = shown[:shownOfKey], "..."
	}
	switch {
	case strings.HasPrefix(s, "ssh-"):
		return fmt.Errorf("\"%s%s\" is neither an age nor an SSH public key that can be used: want ssh-ed25519, or ssh-rsa with 2048 bits or more, and all of the key", shown, dots)
	case strings.HasPrefix(s, "age1"):
		return fmt.Errorf("\"%s%s\" is neither an age nor an SSH public key: characters are missing, wrong or too many", shown, dots)
	}
	return errors.New("it is neither an age nor an SSH public key: want a text that begins with age1 or ssh-")
}

// Keys gives what decrypts something, when it is needed: identities, or what a passphrase makes.
type Keys func(passphrase bool) ([]age.Identity, error)

// Secret asks a person for something that is not shown while it is typed.
type Secret func(prompt string) ([]byte, error)

// Identities parses a file of age-keygen(1), which may be encrypted with a passphrase and may
// name plugins, or an SSH private key. ask is for passphrases and plugins; nil where nobody is
// there.
func Identities(b []byte, ask Secret) ([]age.Identity, error) {
	if len(b) > maxIdentities {
		return nil, fmt.Errorf("cannot use the identity: it has more than %d bytes", maxIdentities)
	}
	switch {
	case bytes.HasPrefix(b, []byte("-----BEGIN")):
		id, err := sshIdentity(b, ask)
		if err != nil {
			return nil, fmt.Errorf("cannot use the identity: %w", err)
		}
		return []age.Identity{id}, nil
	case bytes.HasPrefix(b, []byte("age-encryption.org/")):
		var err error
		if b, err = decrypt(b, ask); err != nil {
			return nil, err
		}
	}
	var ids []age.Identity
	n := 0
	for l := range strings.Lines(string(b)) {
		n++
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		id, err := identity(l, ask)
		if err != nil {
			return nil, fmt.Errorf("cannot use the identity: line %d: %w", n, err)
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil, errors.New("cannot use the identity: it has no key")
	}
	return ids, nil
}

// ByPassphrase reports whether a file of age is encrypted with a passphrase: its first stanza is of scrypt then
// (age-encryption.org/v1).
func ByPassphrase(b []byte) bool {
	return bytes.HasPrefix(b, []byte("age-encryption.org/v1\n-> scrypt "))
}

// minPassphrase is how short a passphrase may be, in bytes.
const minPassphrase = 8

// Passphrase is the recipient of who knows a passphrase; age takes it alone only.
func Passphrase(p []byte) (age.Recipient, error) {
	if len(p) < minPassphrase {
		return nil, fmt.Errorf("the passphrase has %d characters; want at least %d", len(p), minPassphrase)
	}
	switch {
	case bytes.HasPrefix(p, []byte("\xef\xbb\xbf")):
		return nil, errors.New("it begins with a byte order mark; save the file without")
	case !utf8.Valid(p) || bytes.ContainsFunc(p, unicode.IsControl):
		return nil, errors.New("the passphrase has characters that can't be typed where it is asked for; want one line of text")
	case len(bytes.TrimSpace(p)) == 0:
		return nil, errors.New("the passphrase has nothing but spaces")
	}
	return age.NewScryptRecipient(string(p))
}

// maxWorkFactor is that of the slowest passphrase that is tried: 512 MiB of memory, about two seconds. Those of this
// program and of age have half of that.
const maxWorkFactor = 19

// FromPassphrase is the identity of who knows a passphrase.
func FromPassphrase(p []byte) (age.Identity, error) {
	id, err := age.NewScryptIdentity(string(p))
	if err == nil {
		id.SetMaxWorkFactor(maxWorkFactor)
	}
	return id, err
}

// sshIdentity parses an SSH private key; ask is called once its passphrase is needed.
func sshIdentity(b []byte, ask Secret) (age.Identity, error) {
	id, err := agessh.ParseIdentity(b)
	locked := (*ssh.PassphraseMissingError)(nil)
	if !errors.As(err, &locked) {
		return id, err
	}
	if locked.PublicKey == nil {
		return nil, errors.New("it is an encrypted SSH key of an old format; convert it with ssh-keygen -p")
	}
	return agessh.NewEncryptedSSHIdentity(locked.PublicKey, b, func() ([]byte, error) {
		if ask == nil {
			return nil, ErrNoPassphrase
		}
		return ask("Passphrase of the SSH key: ")
	})
}

// identity parses one line. Errors do not have it: it may be a key with a typing error.
func identity(l string, ask Secret) (age.Identity, error) {
	if strings.HasPrefix(l, "AGE-PLUGIN-") {
		id, err := plugin.NewIdentity(l, attended(ask))
		if err != nil {
			return nil, errors.New("it is not the identity of a plugin")
		}
		return id, nil
	}
	ids, err := age.ParseIdentities(strings.NewReader(l + "\n"))
	if err != nil {
		return nil, errors.New("it is not a private key of age (AGE-SECRET-KEY-1...)")
	}
	return ids[0], nil
}

// decrypt decrypts a file of identities.
func decrypt(b []byte, ask Secret) ([]byte, error) {
	if ask == nil {
		return nil, ErrNoPassphrase
	}
	p, err := ask("Passphrase of the identity file: ")
	if err != nil {
		return nil, ErrNoPassphrase
	}
	s, err := age.NewScryptIdentity(string(p))
	if err != nil {
		return nil, fmt.Errorf("cannot use the identity: %w", err)
	}
	in, err := age.Decrypt(bytes.NewReader(b), s)
	if err == nil {
		b, err = io.ReadAll(io.LimitReader(in, maxIdentities))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot decrypt the identity: %w", err)
	}
	return b, nil
}

// unattended answers a plugin that no person is there.
func unattended() *plugin.ClientUI { return attended(nil) }

// attended has a plugin ask by ask; what it only shows is left to its own device.
func attended(ask Secret) *plugin.ClientUI {
	nobody := errors.New("no person is there to ask")
	value := func(prompt string) (string, error) {
		if ask == nil {
			return "", nobody
		}
		b, err := ask(prompt)
		return string(b), err
	}
	return &plugin.ClientUI{
		DisplayMessage: func(string, string) error { return nil },
		RequestValue:   func(_, prompt string, _ bool) (string, error) { return value(prompt + ": ") },
		Confirm: func(_, prompt, yes, _ string) (bool, error) {
			s, err := value(fmt.Sprintf("%s (type y for %s): ", prompt, yes))
			return strings.HasPrefix(strings.ToLower(s), "y"), err
		},
		WaitTimer: func(string) {},
	}
}
