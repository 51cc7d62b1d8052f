// Package blockcopy knows which blocks of a device are in use, copies just those
// to another device, and writes and reads images of them. It asks the kernel where
// a file system is mounted, and reads the maps of unmounted ones by itself, without
// writing to them; what it does not know is in use as a whole.
package blockcopy

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/ioctl"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// Extent is a range of a device, in bytes.
type Extent struct{ Start, Length int64 }

// Map has the parts of a device that are in use.
type Map struct {
	Size int64
	// Used are the ranges in use, sorted, none touching another.
	Used []Extent
	// How is the source of that knowledge: "ntfs bitmap", "kernel", "all of it".
	How string
	// End is where the file system ends, in bytes; 0 where that is not known. What is
	// behind it is in use, too: its owner is unknown. Cut leaves it out.
	End int64
}

// Bytes is how much is in use.
func (m *Map) Bytes() int64 {
	n := int64(0)
	for _, e := range m.Used {
		n += e.Length
	}
	return n
}

// Last is where the last range in use ends: the least size of a device that can
// take a copy.
func (m *Map) Last() int64 {
	if len(m.Used) == 0 {
		return 0
	}
	e := m.Used[len(m.Used)-1]
	return e.Start + e.Length
}

// Cut returns the map without what is behind the end of the file system, where
// that is known.
func (m *Map) Cut() *Map {
	if m.End <= 0 || m.End >= m.Size {
		return m
	}
	c := *m
	c.Used = m.within(0, m.End)
	return &c
}

// add puts in a range; ranges may overlap and come in any order until tidy.
func (m *Map) add(start, length int64) {
	if start < 0 {
		start, length = 0, length+start
	}
	if length = min(length, m.Size-start); length <= 0 {
		return
	}
	if n := len(m.Used); n > 0 && m.Used[n-1].Start+m.Used[n-1].Length == start {
		m.Used[n-1].Length += length
		return
	}
	m.Used = append(m.Used, Extent{start, length})
}

func (m *Map) tidy() *Map {
	slices.SortFunc(m.Used, func(a, b Extent) int { return cmp.Compare(a.Start, b.Start) })
	var out []Extent
	for _, e := range m.Used {
		if n := len(out); n > 0 && e.Start <= out[n-1].Start+out[n-1].Length {
			out[n-1].Length = max(out[n-1].Length, e.Start+e.Length-out[n-1].Start)
			continue
		}
		out = append(out, e)
	}
	m.Used = out
	return m
}

// Whole is a map of a device of which nothing is known.
func Whole(size int64) *Map {
	m := &Map{Size: size, How: "all of it"}
	m.add(0, size)
	return m
}

// Of reads which blocks of an unmounted device are in use, by its own bitmaps:
// ext2, ext3, ext4, XFS, btrfs (chunks, on one device), NTFS, FAT, exFAT, and swap,
// of which only the header is. What it can't tell, or must not trust, is in use as a whole, a device whose
// beginning can't be read too: also a file system whose journal or log was not
// replayed, with errors, or with features that are not known here; why gives the reason, "" where the map is exact.
func Of(r io.ReaderAt, size int64) (m *Map, why string) {
	if d, ok := r.(*Device); ok {
		// What was read before a file system was mounted is old: file systems do not
		// write through the page cache of their device.
		_ = unix.Fadvise(int(d.Fd()), d.base, d.size, unix.FADV_DONTNEED)
	}
	i, err := superblock.Probe(r, size)
	if err != nil {
		return Whole(size), err.Error()
	}
	if i == nil {
		return Whole(size), "its content is not known"
	}
	read := map[string]func(io.ReaderAt, int64) (*Map, error){fstype.TypeNTFS: ntfsMap, fstype.TypeVFAT: fatMap, fstype.TypeExFAT: exfatMap, fstype.TypeExt2: extMap, fstype.TypeExt3: extMap, fstype.TypeExt4: extMap,
		fstype.TypeXFS: xfsMap, fstype.TypeBtrfs: btrfsMap, fstype.TypeSwap: swapMap}[i.Type]
	if read == nil {
		return Whole(size), "the bitmaps of " + i.Type + " are not read"
	}
	m, err = read(r, size)
	if err == nil {
		return m.tidy(), ""
	}
	// A damaged or unusual file system is copied whole.
	return Whole(size), err.Error()
}

// fsmap records, linux/fsmap.h; ioctl_getfsmap(2).
const (
	iocGetFSMap  = 3<<30 | 192<<16 | 'X'<<8 | 59
	fsmapRecords = 16 << 10
	ofSpecial    = 0x10
	ofLast       = 0x20
	ownFree      = 1
)

type fsmap struct {
	device, flags                   uint32
	physical, owner, offset, length uint64
	_                               [3]uint64
}

type fsmapHead struct {
	_, _, count, entries uint32
	_                    [6]uint64
	low, high            fsmap
	recs                 [fsmapRecords]fsmap
}

// Mounted asks the kernel which blocks of the file system mounted at dir are in
// use: ext4 and xfs can answer. size is the device's. Whoever copies them freezes
// the file system, or has it mounted read-only.
func Mounted(dir string, size int64) (*Map, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	m := &Map{Size: size, How: "kernel"}
	h := &fsmapHead{count: fsmapRecords}
	h.high.device, h.high.flags = ^uint32(0), ^uint32(0)
	h.high.physical, h.high.owner, h.high.offset = ^uint64(0), ^uint64(0), ^uint64(0)
	end := int64(0)
	device := uint32(0)
	for {
		if err := ioctl.Do(f.Fd(), iocGetFSMap, h); err != nil {
			return nil, fmt.Errorf("cannot ask the kernel for the blocks in use at %s: %w", dir, err)
		}
		if h.entries == 0 {
			break
		}
		for _, r := range h.recs[:h.entries] {
			if device == 0 {
				device = r.device
			}
			if r.device != device {
				return nil, fmt.Errorf("cannot map the file system at %s: it is on several devices (an external log?)", dir)
			}
			end = max(end, int64(r.physical+r.length))
			if r.flags&ofSpecial == 0 || r.owner != ownFree {
				m.add(int64(r.physical), int64(r.length))
			}
		}
		last := h.recs[h.entries-1]
		if last.flags&ofLast != 0 {
			break
		}
		h.low = last
	}
	if end == 0 {
		return nil, fmt.Errorf("cannot map the file system at %s: the kernel has no map of it", dir)
	}
	// The owner of what is behind the file system is unknown.
	m.add(end, size-end)
	return m.tidy(), nil
}

// MountedOn is Mounted for a device, with the device's own size.
func MountedOn(dir, dev string) (*Map, error) {
	f, err := os.Open(filepath.Join("/dev", strings.TrimPrefix(dev, "/dev/")))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	return Mounted(dir, size)
}
