package manifest

import (
	"context"
	"fmt"
	"io"

	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// RestoreImage writes a device's image to dst.
func (s *Set) RestoreImage(ctx context.Context, name string, dst io.WriterAt, phase func(total int64) progress.Counter) error {
	f, err := s.Open(name)
	if err != nil {
		return fmt.Errorf("cannot read image: %w", err)
	}
	defer f.Close()
	i, err := blockcopy.Open(f, f.Size(), s.String()+"/"+name)
	if err != nil {
		return err
	}
	return i.Restore(ctx, dst, phase(i.Map().Bytes()))
}
