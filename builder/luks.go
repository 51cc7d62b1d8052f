package builder

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"golang.org/x/crypto/scrypt"

	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// recipients parses the public keys that sets and LUKS headers are encrypted for.
func (c *Config) recipients() ([]age.Recipient, error) {
	r, _, err := c.recipientKeys()
	return r, err
}

// recipientKeys is recipients, with the text of each key without its comment.
func (c *Config) recipientKeys() (out []age.Recipient, keys []string, err error) {
	if c.PassphraseFile != "" {
		return c.passphrase()
	}
	add := func(where, key string) error {
		r, err := agekey.Recipient(key)
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		f := strings.Fields(key)
		out, keys = append(out, r), append(keys, strings.Join(f[:min(len(f), 2)], " "))
		return nil
	}
	for i, s := range c.Recipients {
		where := fmt.Sprintf("recipients[%d]", i)
		if !strings.HasPrefix(s, "/") || agekey.HasPrivate(s) {
			if err := add(where, s); err != nil {
				return nil, nil, err
			}
			continue
		}
		if err := recipientLines(where, s, add); err != nil {
			return nil, nil, err
		}
	}
	return out, keys, nil
}

// recipientLines calls add with the place and the text of each key in a file of recipients. A private key in a comment
// is an error, too.
func recipientLines(where, file string, add func(where, key string) error) error {
	b, err := regular.ReadTrusted(file, maxRecipients)
	if err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	n, found := 0, false
	for l := range strings.Lines(string(b)) {
		n++
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "#") && !agekey.HasPrivate(l) {
			continue
		}
		if err := add(fmt.Sprintf("%s: %s, line %d", where, file, n), l); err != nil {
			return err
		}
		found = true
	}
	if !found {
		return fmt.Errorf("%s: %s has no key", where, file)
	}
	return nil
}

// passphrase is the recipient that knows the passphrase, and the passphrase.
func (c *Config) passphrase() ([]age.Recipient, []string, error) {
	b, err := regular.ReadSecret(c.PassphraseFile, maxPassphrase)
	if err != nil && !strings.HasPrefix(c.PassphraseFile, "/") {
		return nil, nil, errors.New("passphrase_file: cannot read it: want the absolute path of a file with the passphrase (the value is not shown, since it may be the passphrase)")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("passphrase_file: %w", err)
	}
	b = bytes.TrimRight(b, "\r\n")
	r, err := agekey.Passphrase(b)
	if err != nil {
		return nil, nil, fmt.Errorf("passphrase_file: %s: %w", c.PassphraseFile, err)
	}
	return []age.Recipient{r}, []string{string(b)}, nil
}

// maxPassphrase is the longest passphrase, in bytes.
const maxPassphrase = 1 << 10

// maxRecipients is the largest file of recipients that is read, in bytes.
const maxRecipients = 1 << 20

// encryptTo is recipientKeys for keys that a file can be encrypted for. Kinds that can't go together, and a plugin that is
// missing, are found here and not after the rescue system was made.
func (c *Config) encryptTo() ([]age.Recipient, []string, error) {
	r, keys, err := c.recipientKeys()
	if err != nil || c.PassphraseFile != "" { // a trial with a passphrase takes a second, and shows nothing
		return r, keys, err
	}
	if len(r) == 0 {
		return nil, nil, errors.New("cannot encrypt the set: the configuration has no recipients")
	}
	if _, err := age.Encrypt(io.Discard, r...); err != nil {
		return nil, nil, fmt.Errorf("cannot encrypt for these recipients: %w", err)
	}
	return r, keys, nil
}

// encryptFor gives whom sets are encrypted for, and a digest of their keys, whose order does not
// matter; nil and "" if they are not encrypted.
func (b *Builder) encryptFor() ([]age.Recipient, string, error) {
	if !b.Config.Encrypt {
		return nil, "", nil
	}
	r, keys, err := b.Config.encryptTo()
	if err != nil {
		return nil, "", err
	}
	if b.Config.PassphraseFile != "" { // a digest is not to make it easier to guess
		slow, err := scrypt.Key([]byte(keys[0]), []byte("mkcdrec recipients"), 1<<17, 8, 1, 32)
		return r, hex.EncodeToString(slow), err
	}
	slices.Sort(keys)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(keys), "\n")))
	return r, hex.EncodeToString(sum[:]), nil
}

// luks decides what becomes of the headers of LUKS devices.
func (p *Plan) luks(c *Config) error {
	r, err := c.recipients()
	if err != nil {
		return err
	}
	p.recipients = r
	for i := range p.Layout.Crypts {
		k := &p.Layout.Crypts[i]
		switch {
		case c.excludes(append(p.names(k.Device), k.Mapper(), k.Name)...) != "":
		case c.LUKSHeaders == "none":
			p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s: its LUKS header with all keys: luks_headers: none", k.Device))
		case len(r) == 0:
			p.NotCovered = append(p.NotCovered, fmt.Sprintf("%s: its LUKS header: no recipients are named that it could be encrypted for (recipients, or luks_headers: none); a restore makes a new one", k.Device))
		default:
			k.Header = manifest.HeaderName(k.Device)
		}
	}
	return nil
}
