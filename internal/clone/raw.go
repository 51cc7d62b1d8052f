package clone

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// openRaw opens disks that are copied byte by byte: nothing on them is looked at.
func openRaw(o OpenOptions) (*Source, error) {
	s := &Source{raw: true, run: o.Run, rep: o.Report, verify: o.Verify, paths: map[string]string{}, layout: bare()}
	m := probe.Machine{Run: o.Run, Only: o.Disks}
	if err := s.find(m, o.Disks, unused(m)); err != nil {
		return nil, err
	}
	for _, d := range s.disks {
		d.Table = nil
		s.layout.Disks = append(s.layout.Disks, d)
		s.layout.Images = append(s.layout.Images, layout.Image{Device: d.Name, Size: d.Size, File: d.Name})
	}
	return s, nil
}

// bare is a layout of a machine that is started as this one.
func bare() *layout.Layout {
	l := &layout.Layout{Version: layout.Version, Boot: layout.Boot{Firmware: layout.BIOS}}
	if exists("/sys/firmware/efi") {
		l.Boot.Firmware = layout.UEFI
	}
	return l
}

// decideRaw has whole disks copied. One with other sectors would have its partitions at
// other places.
func (s *Source) decideRaw(d *plan.Draft, name func(string) string) error {
	d.Blocks = map[string]string{}
	for _, m := range d.Layout.Images {
		was, to := s.layout.Disk(name(m.Device)), d.Disks[m.Device]
		if was != nil && to.LogicalSector != was.LogicalSector {
			return &exit.Refusal{Reason: fmt.Sprintf("/dev/%s has sectors of %d bytes, and /dev/%s of %d: its table would be read wrongly; clone it without --raw", to.Name, to.LogicalSector, was.Name, was.LogicalSector)}
		}
		d.Blocks[m.Device] = "all bytes"
	}
	return nil
}

// finishRaw moves what a GPT has at the end of its disk to the end of dst, and has the
// kernel read the table.
func (s *Source) finishRaw(m *layout.Image, dst *os.File, rep progress.Reporter) error {
	disk := s.layout.Disk(m.Device)
	src, err := blockcopy.OpenDevice(s.path(m.Device))
	if err != nil {
		return fmt.Errorf("cannot read /dev/%s: %w", m.Device, err)
	}
	defer src.Close()
	size, err := dst.Seek(0, 2)
	if err != nil {
		return fmt.Errorf("cannot find the size of %s: %w", dst.Name(), err)
	}
	if size > src.Size() {
		if err := moveGPT(src, dst, int64(disk.LogicalSector), src.Size(), size); err != nil {
			rep.Warn("the second copy of the partition table of /dev/%s was not moved to the end of the larger disk: %v", m.Device, err)
		}
	}
	if err := dst.Sync(); err != nil {
		return fmt.Errorf("cannot write %s: %w", dst.Name(), err)
	}
	_ = unix.IoctlSetInt(int(dst.Fd()), unix.BLKRRPART, 0) // also done when it is used the next time
	return nil
}

// disk is what a table is written to.
type disk interface {
	ReadAt(b []byte, off int64) (int, error)
	WriteAt(b []byte, off int64) (int, error)
}

// moveGPT writes the GPT of a source of size was bytes for its copy of size now bytes, if it
// has one. Other entries of a hybrid MBR stay, and so do the sizes of partitions.
func moveGPT(src *blockcopy.Device, dst disk, sector, was, now int64) error {
	t, err := gpt.Read(src, sector, was)
	if errors.Is(err, gpt.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	mbr := make([]byte, 512)
	if _, err := dst.ReadAt(mbr, 0); err != nil {
		return fmt.Errorf("cannot read MBR: %w", err)
	}
	hybrid := false
	for e := mbr[446:510]; len(e) > 0; e = e[16:] {
		hybrid = hybrid || e[4] != 0 && e[4] != 0xEE
	}
	t.LastUsable = 0 // as far as there is room
	if err := t.Write(dst, sector, now); err != nil {
		return err
	}
	// The old copy is in the middle of the disk now.
	old := gpt.Overhead(t.Entries, sector) * sector
	if used := slices.ContainsFunc(t.Partitions, func(p gpt.Partition) bool { return (p.Last+1)*sector > was-old }); !used && now-old >= was {
		if _, err := dst.WriteAt(make([]byte, old), was-old); err != nil {
			return fmt.Errorf("cannot remove the old copy of the GPT: %w", err)
		}
	}
	if hybrid {
		if _, err := dst.WriteAt(mbr, 0); err != nil {
			return fmt.Errorf("cannot write MBR: %w", err)
		}
	}
	return nil
}

// blocksRaw implements Blocks for whole disks.
func (s *Source) blocksRaw(ctx context.Context, m *layout.Image, dst *os.File, rep progress.Reporter) error {
	if err := s.copyBlocks(ctx, m, dst, rep); err != nil {
		return err
	}
	return s.finishRaw(m, dst, rep)
}
