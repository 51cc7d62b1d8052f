package recreate

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/mbr"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// writeTable writes a partition table on a disk of size bytes.
func writeTable(f *os.File, t *layout.Table, ss quantity.Size, size int64) error {
	if t.Label == layout.GPT {
		g, err := gptTable(t, ss)
		if err != nil {
			return err
		}
		if err := g.Write(f, size); err != nil {
			return fmt.Errorf("cannot write GPT: %w", err)
		}
		return nil
	}
	m, err := mbrTable(t, ss)
	if err != nil {
		return err
	}
	if err := m.Check(size / int64(ss)); err != nil {
		return fmt.Errorf("cannot write MBR: %w", err)
	}
	return m.Write(f, int64(ss))
}

func gptTable(t *layout.Table, ss quantity.Size) (*gpt.Table, error) {
	g := &gpt.Table{LogicalSectorSize: int(ss), PhysicalSectorSize: int(ss), GUID: t.GUID, ProtectiveMBR: true}
	for _, p := range t.Partitions {
		g.Partitions = append(g.Partitions, &gpt.Partition{Index: p.Number, Start: uint64(p.Start / ss), End: uint64((p.Start+p.Size)/ss) - 1, Size: uint64(p.Size),
			Type: gpt.Type(p.Type), Name: p.Name, GUID: p.GUID, Attributes: p.Attributes})
	}
	return g, nil
}

func mbrTable(t *layout.Table, ss quantity.Size) (*mbr.Table, error) {
	sig, err := strconv.ParseUint(t.Signature, 0, 32)
	if err != nil {
		return nil, fmt.Errorf("cannot read MBR signature %q", t.Signature)
	}
	m := &mbr.Table{Signature: uint32(sig)}
	for _, p := range t.Partitions {
		typ, err := strconv.ParseUint(p.Type, 0, 8)
		if err != nil {
			return nil, fmt.Errorf("cannot read partition type %q", p.Type)
		}
		m.Partitions = append(m.Partitions, mbr.Partition{Number: p.Number, Type: byte(typ), Active: p.Active, Start: int64(p.Start / ss), Count: int64(p.Size / ss), EBR: int64(p.EBR / ss)})
	}
	return m, nil
}

// MakeSwap writes a swap header for pages of the machine's size;
// linux/include/linux/swap.h, union swap_header.
func MakeSwap(dev, uuid, label string) error {
	f, err := os.OpenFile(dev, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("cannot make swap: %w", err)
	}
	defer f.Close()
	return makeSwap(f, dev, uuid, label)
}

// makeSwap does it on what is open, and called dev.
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
