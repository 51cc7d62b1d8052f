package recreate

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// writeTable writes a partition table on a disk of size bytes.
func writeTable(f *os.File, t *layout.Table, ss quantity.Size, size int64) error {
	if t.Label == layout.GPT {
		return plan.GPT(t, ss).Write(f, int64(ss), size)
	}
	m, err := plan.MBR(t, ss)
	if err != nil {
		return err
	}
	if err := m.Check(size / int64(ss)); err != nil {
		return fmt.Errorf("cannot write MBR: %w", err)
	}
	return m.Write(f, int64(ss))
}

// makeSwapOn makes swap on a device.
func (r *Recreator) makeSwapOn(s *plan.MakeSwap) error {
	f, err := r.claim(s.Device)
	if err != nil {
		return err
	}
	return errors.Join(makeSwap(f, f.Name(), s.Swap.UUID, s.Swap.Label), f.Close())
}

// makeSwap writes a swap header for pages of the machine's size on what is open, and
// called dev; linux/include/linux/swap.h, union swap_header.
func makeSwap(f *os.File, dev, uuid, label string) error {
	size, err := f.Seek(0, 2)
	if err != nil {
		return fmt.Errorf("cannot make swap on %s: %w", dev, err)
	}
	page := int64(os.Getpagesize())
	if size < 10*page {
		return fmt.Errorf("cannot make swap on %s: %d bytes are too few", dev, size)
	}
	b := make([]byte, page)
	le := binary.LittleEndian
	le.PutUint32(b[1024:], 1)
	le.PutUint32(b[1028:], uint32(min(size/page-1, 1<<32-1)))
	if uuid != "" {
		u, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
		if err != nil || len(u) != 16 {
			return fmt.Errorf("cannot make swap on %s: UUID %q", dev, uuid)
		}
		copy(b[1036:], u)
	}
	copy(b[1052:1068], label)
	copy(b[page-10:], "SWAPSPACE2")
	if _, err := f.WriteAt(b, 0); err != nil {
		return fmt.Errorf("cannot make swap on %s: %w", dev, err)
	}
	return f.Sync()
}
