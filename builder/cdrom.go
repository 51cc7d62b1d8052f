package builder

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// DiscOptions says how a set is divided among discs.
type DiscOptions struct {
	Size quantity.Size // of a disc
	From string        // an existing set; "" makes one first
	Keep bool          // keep the set that the discs were made of
}

// DiscImage is one image that was made.
type DiscImage = set.DiscImage

// DiscResult says what was made.
type DiscResult struct {
	Set        string      `json:"set"` // the set's name
	Images     []DiscImage `json:"images"`
	NotCovered []string    `json:"notCovered,omitempty"`
}

// Discs writes a set as images for discs into dir: NAME_1.iso, which starts
// the rescue system, NAME_2.iso ... An image appears whole.
//
// When it fails after the set was made, the set stays in dir, and the error
// reports it.
func (b *Builder) Discs(ctx context.Context, p *Plan, dir string, opt DiscOptions) (*DiscResult, error) {
	if err := mustDir(dir); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(dir, ".mkcdrec-discs-*")
	if err != nil {
		return nil, fmt.Errorf("cannot write discs: %w", err)
	}
	defer os.RemoveAll(work)
	d := &set.Discs{Dir: dir, Work: work, Size: int64(opt.Size), Report: b.Report}
	system := func(h Hint) error {
		k, info, initrd, err := b.system(ctx, p, h, work)
		d.Medium = func(iso string, extra func(*media.ISO)) error { return b.image(p, k, info, initrd, iso, extra) }
		return err
	}
	res := &DiscResult{}
	from := opt.From
	if from == "" {
		r, err := b.directory(ctx, p, dir, uuid.New(), func(h Hint, _ string) error { return system(Hint{SetID: h.SetID}) })
		if err != nil {
			return nil, err
		}
		from, res.NotCovered = r.Dir, r.NotCovered
	}
	stays := func(err error) error {
		if opt.From != "" {
			return err
		}
		return fmt.Errorf("%w\nthe backup itself is whole in %s; go on with: mkcdrec cdrom --from %s", err, from, from)
	}
	if d.Set, err = manifest.Open(from); err != nil {
		return nil, stays(err)
	}
	if opt.From != "" {
		if err := system(Hint{SetID: d.Set.Manifest.ID}); err != nil {
			return nil, err
		}
	}
	res.Set = filepath.Base(from)
	if res.Images, err = d.Write(ctx); err != nil {
		return nil, stays(err)
	}
	if opt.From == "" && !opt.Keep {
		if err := os.RemoveAll(from); err != nil {
			return nil, fmt.Errorf("cannot remove the set that the discs were made of: %w", err)
		}
	}
	return res, nil
}
