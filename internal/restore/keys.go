package restore

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/recreate"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// maxHeader is the largest header of a LUKS device that is read.
const maxHeader = 256 << 20

// Asker asks a person for something that is not shown while it is typed.
type Asker interface {
	Secret(prompt string) ([]byte, error)
}

// keys gets all that is needed to open the plan's LUKS devices, and tries it,
// before anything is written.
func (r *Restorer) keys(ctx context.Context) error {
	known := slices.Clone(r.opt.Known)
	for _, s := range plan.StepsOf[*plan.MakeCrypt](r.plan) {
		k := recreate.Key{}
		if s.Crypt.Header != "" {
			var err error
			k.Header, err = r.content.Header(s.Crypt, func(p bool) ([]age.Identity, error) { return r.ring().Identities(ctx, p) })
			if err != nil {
				return err
			}
			if int64(len(k.Header)) != s.Crypt.LUKS.Offset {
				return fmt.Errorf("cannot use %s: it has %d bytes, and the data of %s begins at %d", s.Crypt.Header, len(k.Header), s.Crypt.Name, s.Crypt.LUKS.Offset)
			}
		}
		for _, p := range known {
			if k.Header == nil || testKey(ctx, r.Run, k.Header, p) == nil {
				k.Passphrase = p
				break
			}
		}
		if k.Passphrase == nil {
			p, err := r.passphrase(ctx, s, k.Header)
			if err != nil {
				return err
			}
			k.Passphrase = p
			known = append(known, p)
		}
		r.rec.Keys[s.Crypt.Name] = k
	}
	return nil
}

// passphrase reads the key file, or asks: for one that opens the header, or
// twice for a new one.
func (r *Restorer) passphrase(ctx context.Context, s *plan.MakeCrypt, header []byte) ([]byte, error) {
	what := fmt.Sprintf("%s (was on %s)", s.Crypt.Name, s.Crypt.Device)
	if f := r.opt.KeyFile; f != "" {
		b, err := interrupt.ReadFile(ctx, f)
		if err != nil {
			return nil, fmt.Errorf("cannot read the key of %s: %w", what, err)
		}
		if header != nil {
			if err := testKey(ctx, r.Run, header, b); err != nil {
				return nil, &exit.Refusal{Reason: fmt.Sprintf("%s does not open %s", f, what)}
			}
		}
		return b, nil
	}
	for range 3 {
		p, err := r.Screen.Secret("Passphrase of " + what + ": ")
		if err != nil {
			return nil, &exit.Refusal{Reason: fmt.Sprintf("no passphrase given for %s; use --key-file to name a file with it", what)}
		}
		if header != nil {
			if testKey(ctx, r.Run, header, p) == nil {
				return p, nil
			}
			r.Screen.Warn("that does not open %s", what)
			continue
		}
		again, err := r.Screen.Secret("It is a new one; once more: ")
		if err != nil {
			return nil, err
		}
		if len(p) > 0 && bytes.Equal(p, again) {
			return p, nil
		}
		r.Screen.Warn("those were two different passphrases, or none")
	}
	return nil, &exit.Refusal{Reason: "no passphrase for " + what}
}

// testKey tries a passphrase on a header, in memory-backed storage.
func testKey(ctx context.Context, run tool.Runner, header, passphrase []byte) error {
	return withHeader(header, func(file string) error {
		return storage.Cryptsetup(ctx, run, passphrase, "open", "--test-passphrase", "--type", "luks", "--key-file", "-", file)
	})
}

// withHeader hands a header to fn as a file.
func withHeader(header []byte, fn func(file string) error) error {
	dir, err := os.MkdirTemp("", "mkcdrec-luks")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "header")
	if err := os.WriteFile(file, header, 0o600); err != nil {
		return err
	}
	return fn(file)
}
