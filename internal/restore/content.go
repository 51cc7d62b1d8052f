package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// Content is what a system is made from: a backup set, or the disks that are cloned.
type Content interface {
	// Name is one line for people about what it is.
	Name() string
	// ID identifies the content, and digest its version: a run continues only with the same.
	ID() (id, digest string)
	// Layout is that of the machine that the content is of.
	Layout() *layout.Layout
	// Lacks names what was on that machine and is not in the content, and what was left
	// out by a rule.
	Lacks() (lacks, left []string)
	// Has reports whether one of these files of the system is in it; paths are absolute.
	Has(paths ...string) (bool, error)
	// Header is all that is on a LUKS device before its data. identities is called if it
	// has to be decrypted.
	Header(c *layout.Crypt, identities agekey.Keys) ([]byte, error)
	// Files puts the files of the file system on dev, a device of Layout, that are
	// mounted at m below dest. It gives nil without files for a mount without a path.
	Files(ctx context.Context, dev string, m layout.Mount, dest string, o archive.ExtractOptions, rep progress.Reporter) (*archive.Summary, error)
	// Blocks writes what is on a device of Layout to dst, which is at least as large.
	Blocks(ctx context.Context, m *layout.Image, dst *os.File, rep progress.Reporter) error
	// Lost names what could not be read so far, and is missing on the target.
	Lost() []string
}

// Again is a Content that may have more of a device that an earlier run has written: open
// opens it. What is missing even then is in Lost.
type Again interface {
	Again(ctx context.Context, m *layout.Image, open func() (*os.File, error), rep progress.Reporter) error
}

// setContent is a backup set, of this program or an old one.
type setContent struct{ *manifest.Set }

func (s setContent) Name() string {
	return fmt.Sprintf("Backup set %s of %s, made %s", s.Manifest.ID, s.Manifest.Host, s.Manifest.Created.Format("2006-01-02 15:04 UTC"))
}

func (s setContent) ID() (id, digest string) { return s.Manifest.ID, s.Digest }

func (s setContent) Layout() *layout.Layout { return s.Set.Layout }

func (s setContent) Header(c *layout.Crypt, identities agekey.Keys) ([]byte, error) {
	name := c.Header
	b, err := store.ReadFile(s, name, maxHeader)
	if err != nil {
		return nil, fmt.Errorf("cannot read LUKS header: %w", err)
	}
	passphrase := agekey.ByPassphrase(b)
	ids, err := identities(passphrase)
	if err != nil {
		return nil, err
	}
	in, err := age.Decrypt(bytes.NewReader(b), ids...)
	if err != nil {
		var no *age.NoIdentityMatchError
		if errors.As(err, &no) && passphrase {
			return nil, &exit.Refusal{Reason: fmt.Sprintf("the passphrase does not decrypt %s; --new-luks recreates LUKS without it", name)}
		}
		if errors.As(err, &no) {
			return nil, &exit.Refusal{Reason: fmt.Sprintf("the identity does not decrypt %s: it was encrypted for another; --new-luks recreates LUKS without it", name)}
		}
		return nil, fmt.Errorf("cannot decrypt %s: %w", name, err)
	}
	out, err := io.ReadAll(io.LimitReader(in, maxHeader))
	if err != nil {
		return nil, fmt.Errorf("cannot decrypt %s: %w", name, err)
	}
	return out, nil
}

func (s setContent) Files(ctx context.Context, dev string, m layout.Mount, dest string, o archive.ExtractOptions, rep progress.Reporter) (*archive.Summary, error) {
	a := s.Manifest.ArchiveOf(dev, m.Path)
	if a == nil && m.Path == "" {
		return nil, nil // named among what the set lacks
	}
	if a == nil {
		return nil, fmt.Errorf("cannot restore %s: the set has no archive for %s", m.Path, dev)
	}
	sum, err := s.Unpack(ctx, a.File, dest, o, func(total int64) progress.Counter { return rep.Phase("restoring "+a.Name(), total) })
	s.WarnRepaired(a.File, rep)
	return sum, err
}

func (s setContent) Blocks(ctx context.Context, m *layout.Image, dst *os.File, rep progress.Reporter) error {
	return s.RestoreImage(ctx, m.File, dst, func(total int64) progress.Counter { return rep.Phase("writing "+m.File, total) })
}

func (s setContent) Lost() []string { return nil }
