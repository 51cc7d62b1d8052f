package builder

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// image saves a device block by block in a file of the set.
func (s *setWriter) image(ctx context.Context, m *layout.Image) error {
	f, err := s.file(m.File)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := s.imageTo(ctx, f, m); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cannot save %s: %w", m.Device, err)
	}
	return nil
}

// imageTo writes a device's image, the blocks that are in use where that can be
// told, and enters it in the manifest.
func (s *setWriter) imageTo(ctx context.Context, w io.Writer, m *layout.Image) (*blockcopy.Summary, error) {
	dev, err := os.Open(filepath.Join("/dev", m.Device))
	if err != nil {
		return nil, fmt.Errorf("cannot save %s: %w", m.Device, err)
	}
	defer dev.Close()
	used, why, err := blockcopy.Of(dev, int64(m.Size))
	if err != nil {
		return nil, fmt.Errorf("cannot save %s: %w", m.Device, err)
	}
	if why != "" {
		s.b.Report.Note("%s is saved as a whole: %s", m.Device, why)
	}
	crc := crc32.NewIEEE()
	sum, err := blockcopy.Write(ctx, io.MultiWriter(w, crc), dev, used, s.b.Report.Phase("saving "+m.Device+" ("+m.What()+")", used.Bytes()))
	if err != nil {
		return nil, fmt.Errorf("cannot save %s: %w", m.Device, err)
	}
	s.sfv[m.File] = crc.Sum32()
	s.man.Files = append(s.man.Files, manifest.FileSum{Name: m.File, Size: quantity.Size(sum.Packed), SHA256: fmt.Sprintf("%x", sum.SHA256)})
	s.log.Info("image", "device", m.Device, "type", m.Type, "file", m.File, "used", sum.Used, "packed", sum.Packed, "how", used.How)
	return sum, nil
}
