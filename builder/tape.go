package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/mkcdrec/mkcdrec/builder/rescue"
	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/store/tape"
	"github.com/mkcdrec/mkcdrec/internal/volume"
)

// TapeOptions are how a set goes to tape.
type TapeOptions struct {
	Drives []tape.Drive
	// Device is the name of the first drive, for the rescue system.
	Device    string
	NextReel  func(ctx context.Context, d tape.Drive, reel int, problem error) error
	Overwrite bool
	// ISO is the file that gets the rescue medium; it appears whole, before the
	// tape is written to.
	ISO string
	// OBDR puts the medium in front of the set, so that the drive starts it.
	OBDR bool
}

// TapeResult is what was written.
type TapeResult struct {
	ID         string   `json:"id"`
	Reels      int      `json:"reels"`
	ISO        string   `json:"iso,omitempty"`
	NotCovered []string `json:"notCovered,omitempty"`

	Manifest *manifest.Manifest `json:"manifest"`
}

// Tape writes a set to tape. Before the first byte is written, the medium is
// made and all tapes that are there are looked at.
func (b *Builder) Tape(ctx context.Context, p *Plan, opt TapeOptions) (*TapeResult, error) {
	for _, d := range opt.Drives {
		if _, err := tape.Check(d, opt.Overwrite); err != nil {
			return nil, err
		}
	}
	if err := regular.Output(opt.ISO); err != nil {
		return nil, err
	}
	// Small files only: what is large goes to the tape at once.
	work, err := os.MkdirTemp(filepath.Dir(opt.ISO), ".mkcdrec-tape-*")
	if err != nil {
		return nil, fmt.Errorf("cannot write to tape: %w", err)
	}
	defer os.RemoveAll(work)
	if err := p.leaveOut(b.Config, work); err != nil {
		return nil, err
	}
	now, id := time.Now(), volume.NewID()
	iso := filepath.Join(work, "iso")
	w := &tape.Writer{Drives: opt.Drives, NextReel: opt.NextReel, ID: id, Host: p.Layout.Hostname, Created: now.UTC().Truncate(time.Second), Overwrite: opt.Overwrite, Note: b.Report.Note}
	if opt.OBDR {
		w.Before = func(d tape.Drive) error {
			b.Report.Phase("writing the image in front", 0)
			return tape.WriteOBDR(d, iso)
		}
	}
	recipients, _, err := b.encryptFor()
	if err != nil {
		return nil, err
	}
	sink, err := set.NewTape(w, work, recipients, b.Report)
	if err != nil {
		return nil, fmt.Errorf("cannot write to tape: %w", err)
	}
	man, err := b.write(ctx, p, id.String(), now, sink, "", func() error { return b.tapeMedium(ctx, p, opt, id.String(), iso) })
	if err != nil {
		return nil, err
	}
	res := &TapeResult{ID: man.ID, Reels: sink.Reels(), NotCovered: man.NotCovered, Manifest: man}
	if !opt.OBDR {
		if err := os.Rename(iso, opt.ISO); err != nil {
			return nil, fmt.Errorf("cannot write %s: %w", opt.ISO, err)
		}
		res.ISO = opt.ISO
	}
	return res, nil
}

// tapeMedium makes the medium of a set on tape.
func (b *Builder) tapeMedium(ctx context.Context, p *Plan, opt TapeOptions, id, iso string) error {
	s, err := b.Maker().System(ctx, p.Machine(), rescue.Hint{SetID: id, Tape: opt.Device, Alone: opt.OBDR}, filepath.Dir(iso))
	if err != nil {
		return err
	}
	noBIOS := false
	if err := s.Image(ctx, iso, func(img *media.ISO) {
		// What starts a tape is a BIOS, and it wants all it needs for that in
		// the first 250 KB: no room for an EFI partition.
		if noBIOS = opt.OBDR && img.BIOS == nil; opt.OBDR && !noBIOS {
			img.UEFI = nil
		}
	}); err != nil {
		return err
	}
	if noBIOS {
		return errors.New("cannot make an OBDR tape: it starts by BIOS, and there is no boot loader for that (isolinux)")
	}
	return nil
}

// leaveOut adds a directory of ours to what the rules leave out.
func (p *Plan) leaveOut(c *Config, dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	p.exclude, err = archive.NewMatcher(append(c.rules(), archive.QuoteRule(abs)))
	return err
}
