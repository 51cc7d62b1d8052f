package manifest

import (
	"context"
	"fmt"
	"io"

	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// Image opens a device's image by its file name; close gives it back.
func (s *Set) Image(name string) (i *blockcopy.Image, close func() error, err error) {
	f, err := s.Open(name)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read image: %w", err)
	}
	if i, err = blockcopy.Open(f, f.Size(), s.String()+"/"+name); err != nil {
		f.Close()
		return nil, nil, err
	}
	return i, f.Close, nil
}

// RestoreImage writes a device's image to dst.
func (s *Set) RestoreImage(ctx context.Context, name string, dst io.WriterAt, phase func(total int64) progress.Counter) error {
	i, done, err := s.Image(name)
	if err != nil {
		return err
	}
	defer done()
	return i.Restore(ctx, dst, phase(i.Map().Bytes()))
}
