package manifest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/legacy"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// OpenLegacy opens a backup of mkCDrec 1.x; dirs are all its volumes.
func OpenLegacy(dirs ...string) (*Set, error) {
	old, err := legacy.Open(dirs...)
	if err != nil {
		return nil, err
	}
	l, err := old.Layout()
	if err != nil {
		return nil, err
	}
	created, err := time.Parse("02.01.2006", old.Date)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: its date is %q", dirs[0], old.Date)
	}
	m := &Manifest{Version: Version, ID: old.UUID(l.Hostname, ""), Host: l.Hostname, Created: created, Program: "mkCDrec 1.x"}
	for _, a := range old.Archives {
		m.Archives = append(m.Archives, Archive{File: a.Name, Device: a.Device, Type: a.Type, Mount: a.Mount})
	}
	for _, u := range l.Unsupported {
		m.NotCovered = append(m.NotCovered, u.What+": "+u.Reason)
	}
	return &Set{Dir: dirs[0], Manifest: m, Layout: l, Legacy: old, LegacyDirs: dirs}, nil
}

// legacyDirs splits the names of an old backup's volumes; nil for anything
// else.
func legacyDirs(place string) []string {
	dirs := strings.Split(place, ",")
	if slices.ContainsFunc(dirs, func(d string) bool { return !legacy.IsSet(d) }) {
		return nil
	}
	return dirs
}

// verifyLegacy compares every piece with its checksum, where there is one, and
// reads every archive to its end.
func (s *Set) verifyLegacy(ctx context.Context, p progress.Counter) error {
	var errs []error
	for _, a := range s.Legacy.Archives {
		p.Item(a.Name)
		r, err := s.Legacy.Stream(a)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !a.Raw {
			if _, err := archive.CheckTar(ctx, r, p); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", a.Name, err))
			}
		}
		if err := errors.Join(r.Close(), ctx.Err()); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// Unpack extracts an archive of the set below dest. phase is told how many
// bytes it will count, 0 when that is not known.
func (s *Set) Unpack(ctx context.Context, name, dest string, opt archive.ExtractOptions, phase func(total int64) progress.Counter) (*archive.Summary, error) {
	if s.Legacy == nil {
		f, err := s.Archive(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		opt.Progress = phase(f.TarSize())
		return f.Extract(ctx, dest, opt)
	}
	i := slices.IndexFunc(s.Legacy.Archives, func(a legacy.Archive) bool { return a.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("cannot extract %s: %w", name, os.ErrNotExist)
	}
	if s.Legacy.Archives[i].Raw {
		return nil, fmt.Errorf("cannot extract %s: it is an image of a device, not an archive; pastestream -mkcdrec gives it", name)
	}
	r, err := s.Legacy.Stream(s.Legacy.Archives[i])
	if err != nil {
		return nil, err
	}
	defer r.Close()
	opt.Progress = phase(0)
	return archive.ExtractTar(ctx, r, name, dest, opt)
}
