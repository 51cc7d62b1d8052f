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

// image saves a device block by block: those that are in use, where that can be
// told.
func (s *setWriter) image(ctx context.Context, m *layout.Image) error {
	dev, err := os.Open(filepath.Join("/dev", m.Device))
	if err != nil {
		return fmt.Errorf("cannot save %s: %w", m.Device, err)
	}
	defer dev.Close()
	used, why, err := blockcopy.Of(dev, int64(m.Size))
	if err != nil {
		return fmt.Errorf("cannot save %s: %w", m.Device, err)
	}
	if why != "" {
		s.b.Report.Note("%s is saved as a whole: %s", m.Device, why)
	}
	f, err := s.file(m.File)
	if err != nil {
		return err
	}
	defer f.Close()
	crc := crc32.NewIEEE()
	sum, err := blockcopy.Write(ctx, io.MultiWriter(f, crc), dev, used, s.b.Report.Phase("saving "+m.Device+" ("+m.What()+")", used.Bytes()))
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err != nil {
		return fmt.Errorf("cannot save %s: %w", m.Device, err)
	}
	s.sfv[m.File] = crc.Sum32()
	s.man.Files = append(s.man.Files, manifest.FileSum{Name: m.File, Size: quantity.Size(sum.Packed), SHA256: fmt.Sprintf("%x", sum.SHA256)})
	s.log.Info("image", "device", m.Device, "type", m.Type, "file", m.File, "used", sum.Used, "packed", sum.Packed, "how", used.How)
	return nil
}

// noImages says that the devices saved block by block do not get onto a kind of
// medium.
func (p *Plan) noImages(medium string) {
	for _, m := range p.Images {
		p.NotCovered = append(p.NotCovered, fmt.Sprintf("%s (%s): images of devices are not written to %s; path, cdrom and usbkey save them", m.Device, m.What(), medium))
		m.File = ""
	}
	p.Images = nil
}
