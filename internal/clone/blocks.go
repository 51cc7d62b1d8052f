package clone

import (
	"context"
	"fmt"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// copyBlocks copies what is in use of a device of the layout to dst. Sectors that can't be
// read are zero there, and are named by Lost.
func (s *Source) copyBlocks(ctx context.Context, m *layout.Image, dst *os.File, rep progress.Reporter) error {
	used, _, err := s.mapOf(m.Device)
	if err != nil {
		return err
	}
	src, err := blockcopy.OpenDevice(s.path(m.Device))
	if err != nil {
		return fmt.Errorf("cannot read /dev/%s: %w", m.Device, err)
	}
	defer src.Close()
	to, err := blockcopy.TargetOf(dst)
	if err != nil {
		return err
	}
	defer to.Close()
	res, err := blockcopy.Copy(ctx, to, src, blockcopy.CopyOptions{Map: used, Clear: blockcopy.ClearDiscard, Progress: rep.Phase("copying "+m.Device, used.Bytes())})
	if err != nil {
		return err
	}
	rep.Note("copied %s; the time went to: %v", m.Device, res.Waits)
	if s.verify {
		if err := verifyBlocks(ctx, dst, src, used, res.Bad, rep.Phase("comparing "+m.Device, used.Bytes())); err != nil {
			return err
		}
	}
	if len(res.Bad) > 0 {
		n := int64(0)
		for _, e := range res.Bad {
			n += e.Length
		}
		rep.Warn("%d bytes of /dev/%s could not be read, the first at byte %d: %v", n, m.Device, res.Bad[0].Start, res.ReadError)
		for _, e := range res.Bad {
			s.lost = append(s.lost, fmt.Sprintf("/dev/%s: %d bytes from byte %d could not be read, and are zero", m.Device, e.Length, e.Start))
		}
	}
	return nil
}

// Lost implements restore.Content.
func (s *Source) Lost() []string { return s.lost }
