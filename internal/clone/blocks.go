package clone

import (
	"context"
	"fmt"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

func (s *Source) copyBlocks(ctx context.Context, m *layout.Image, dst *os.File, rep progress.Reporter) error {
	used, _, err := s.mapOf(m.Device)
	if err != nil {
		return err
	}
	f, err := os.Open(s.path(m.Device))
	if err != nil {
		return err
	}
	defer f.Close()
	p := phase(rep, m, used.Bytes())
	buf := make([]byte, 4<<20)
	for _, e := range used.Used {
		for e.Length > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := f.ReadAt(buf[:min(e.Length, int64(len(buf)))], e.Start)
			if err != nil {
				return fmt.Errorf("cannot read /dev/%s: %w", m.Device, err)
			}
			if _, err := dst.WriteAt(buf[:n], e.Start); err != nil {
				return err
			}
			e.Start, e.Length = e.Start+int64(n), e.Length-int64(n)
			p.Add(int64(n))
		}
	}
	return nil
}
