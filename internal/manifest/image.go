package manifest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// RestoreImage writes a device's image to dst, with what an increment has of it in earlier sets.
func (s *Set) RestoreImage(ctx context.Context, name string, dst io.WriterAt, phase func(total int64) progress.Counter) error {
	return s.withImage(name, func(i *blockcopy.Image) error { return i.Restore(ctx, dst, phase(i.Map().Bytes())) })
}

// withImage opens an image, with the earlier ones that it needs.
func (s *Set) withImage(name string, do func(*blockcopy.Image) error) error {
	f, err := s.Open(name)
	if err != nil {
		return fmt.Errorf("cannot read image: %w", err)
	}
	defer f.Close()
	i, err := blockcopy.Open(f, f.Size(), s.String()+"/"+name)
	if err != nil {
		return err
	}
	if err := i.OpenEarlier(s.earlierImage); err != nil {
		return err
	}
	return errors.Join(do(i), i.Close())
}

// earlierImage opens an image of a set that this one needs.
func (s *Set) earlierImage(at blockcopy.Source) (blockcopy.File, error) {
	if !slices.ContainsFunc(s.Manifest.Needs, func(n Needed) bool { return n.ID == at.Set && n.Dir == at.Dir }) {
		return nil, errors.New("that set is not among those that the manifest names")
	}
	st, err := beside(s.place, at.Dir)
	if err != nil {
		return nil, err
	}
	return st.Open(at.File)
}

// checkImages opens the images of an increment: what they need of earlier sets is there.
func (s *Set) checkImages() error {
	var errs []error
	for _, f := range s.Manifest.Files {
		if len(s.Manifest.Needs) > 0 && strings.HasSuffix(f.Name, ImageSuffix) {
			errs = append(errs, s.withImage(f.Name, func(*blockcopy.Image) error { return nil }))
		}
	}
	return errors.Join(errs...)
}
