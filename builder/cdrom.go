package builder

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/mkcdrec/mkcdrec/builder/rescue"
	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// SmallestDisc is the size of a disc on which there may be room for a rescue system and a part of an archive, in bytes.
const SmallestDisc quantity.Size = 32 << 20

// DiscOptions are how a set is divided among discs.
type DiscOptions struct {
	Size quantity.Size // of a disc
	From string        // an existing set; "" makes one first
	Keep bool          // keep the set that the discs were made of
}

// DiscImage is one image that was made.
type DiscImage = set.DiscImage

// DiscResult is what was made.
type DiscResult struct {
	Set        string      `json:"set"` // the set's name
	Images     []DiscImage `json:"images"`
	NotCovered []string    `json:"notCovered,omitempty"`
}

// Discs writes a set as images for discs into dir: NAME_1.iso, which starts
// the rescue system, NAME_2.iso ... An image appears whole.
func (b *Builder) Discs(ctx context.Context, p *Plan, dir string, opt DiscOptions) (*DiscResult, error) {
	if err := mustDir(dir); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(dir, ".mkcdrec-discs-*")
	if err != nil {
		return nil, fmt.Errorf("cannot write discs: %w", err)
	}
	defer os.RemoveAll(work)
	d := &set.Discs{Into: dir, Work: work, Size: int64(opt.Size), KeepSet: opt.Keep, Report: b.Report}
	if d.Sign, err = b.signing(); err != nil {
		return nil, err
	}
	system := func(id string) error {
		s, err := b.Maker().System(ctx, p.Machine(), rescue.Hint{SetID: id}, work)
		if err == nil {
			d.Medium = func(iso string, extra func(*media.ISO)) error { return s.Image(ctx, iso, extra) }
		}
		return err
	}
	if opt.From != "" {
		x, err := manifest.Describe(store.Dir(opt.From))
		if err == nil && x == nil {
			_, err = manifest.Open(opt.From) // reports what is missing
		}
		if err == nil {
			err = b.whole(ctx, x, opt.From)
		}
		if err == nil {
			err = system(x.ID())
		}
		if err == nil {
			err = d.Divide(ctx, opt.From)
		}
		return &DiscResult{Set: filepath.Base(opt.From), Images: d.Images}, err
	}
	now, id := time.Now(), uuid.New()
	if d.Placed, err = b.below(ctx, p, dir, work, id, now); err != nil {
		return nil, err
	}
	if h, ok := d.Placed.(*set.Home); ok {
		h.Tails = true
	}
	man, err := b.write(ctx, p, id, now, d, dir, func() error { return system(id) })
	if err != nil {
		return nil, err
	}
	return &DiscResult{Set: filepath.Base(d.Final()), Images: d.Images, NotCovered: man.NotCovered}, nil
}

// whole reads a set that discs are made of, and compares it with its checksums; what an encrypted one holds is not known
// here.
func (b *Builder) whole(ctx context.Context, x *manifest.Description, dir string) error {
	if x.Manifest == nil {
		return nil
	}
	s, err := manifest.OpenContext(ctx, dir)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Verify(ctx, false, b.Report.Phase("verifying "+dir, s.VerifySize(false))); err != nil {
		return fmt.Errorf("cannot make discs of a damaged set:\n%w", err)
	}
	return nil
}
