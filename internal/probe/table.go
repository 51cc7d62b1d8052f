package probe

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/mbr"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// errTable means that a disk can be read, and that its partition table is damaged, of an
// unknown kind, or not the one that the kernel uses.
var errTable = errors.New("damaged partition table")

// kernelPartition is a partition as the kernel has it.
type kernelPartition struct {
	number      int
	start, size quantity.Size
}

// sysName is the name of a disk or partition in sysfs, where a slash is an exclamation
// mark: "cciss!c0d0" for /dev/cciss/c0d0.
func sysName(dev string) string { return strings.ReplaceAll(dev, "/", "!") }

// kernelPartitions lists what the kernel found on a disk, by number. It is what can be
// opened and mounted, even if a table differs.
func (m Machine) kernelPartitions(disk string) ([]kernelPartition, error) {
	name := sysName(disk)
	entries, err := os.ReadDir(m.path("/sys/block/" + name))
	if err != nil {
		return nil, fmt.Errorf("cannot list the partitions of %s: %w", disk, err)
	}
	var out []kernelPartition
	for _, e := range entries {
		dir := "/sys/block/" + name + "/" + e.Name() + "/"
		n, err := strconv.Atoi(m.read(dir + "partition"))
		if err != nil || !strings.HasPrefix(e.Name(), name) {
			continue
		}
		start, err1 := strconv.ParseInt(m.read(dir+"start"), 10, 64)
		size, err2 := strconv.ParseInt(m.read(dir+"size"), 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("cannot read partition %d of %s: %w", n, disk, err)
		}
		out = append(out, kernelPartition{n, quantity.Size(start) * 512, quantity.Size(size) * 512}) // always of 512 bytes
	}
	slices.SortFunc(out, func(a, b kernelPartition) int { return cmp.Compare(a.number, b.number) })
	return out, nil
}

// table reads the partition table that the kernel uses; nil for a disk without one. The
// partitions are those of the kernel, the table on the disk adds names, types and
// GUIDs. What differs is in notes.
func (m Machine) table(d *layout.Disk) (t *layout.Table, notes []string, err error) {
	f, err := os.Open(m.path("/dev/" + d.Name))
	if err != nil {
		if errors.Is(err, unix.ENOMEDIUM) {
			d.Size = 0
			return nil, nil, nil
		}
		return nil, nil, err
	}
	defer f.Close()
	kernel, err := m.kernelPartitions(d.Name)
	if err != nil {
		return nil, nil, err
	}
	if len(kernel) == 0 {
		// Not asked on a disk with partitions: old signatures stay there.
		if i, err := superblock.Probe(f, int64(d.Size)); err != nil || i != nil {
			return nil, nil, err
		}
	}
	t, err = onDisk(f, d)
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("%w: %w", errTable, err)
	case t == nil && len(kernel) > 0:
		return nil, nil, fmt.Errorf("%w: it is of a kind that is not supported; the kernel has %d partitions on it", errTable, len(kernel))
	case t == nil:
		return nil, nil, nil
	case len(kernel) == 0 && len(t.Partitions) > 0:
		return nil, nil, fmt.Errorf("%w: the kernel does not use the %s table, which has %d partitions", errTable, t.Label, len(t.Partitions))
	}
	notes = asKernel(d, t, kernel)
	return t, notes, nil
}

// onDisk reads a table as it is on the disk; nil if absent.
func onDisk(f *os.File, d *layout.Disk) (*layout.Table, error) {
	g, err := gpt.Read(f, int64(d.LogicalSector), int64(d.Size))
	if err == nil {
		return gptTable(d, g), nil
	}
	if !errors.Is(err, gpt.ErrNone) {
		return nil, err
	}
	t, err := mbr.Read(f, int64(d.LogicalSector))
	if errors.Is(err, mbr.ErrNone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(t.Partitions, func(p mbr.Partition) bool { return p.Type == 0xEE }) {
		return nil, errors.New("an MBR that protects a GPT, and no GPT")
	}
	return mbrTable(d, t), nil
}

// asKernel gives a table the partitions that the kernel has, and returns what differs.
func asKernel(d *layout.Disk, t *layout.Table, kernel []kernelPartition) (notes []string) {
	var out []layout.Partition
	for _, k := range kernel {
		i := slices.IndexFunc(t.Partitions, func(p layout.Partition) bool { return p.Number == k.number })
		if i < 0 {
			notes = append(notes, fmt.Sprintf("the kernel has a partition %d that is not in the table; run partprobe(8) or restart", k.number))
			continue
		}
		p := t.Partitions[i]
		if p.Extended() && !p.Logical() {
			k.size = p.Size // the kernel shows two sectors of it
		}
		if k.start != p.Start || k.size != p.Size {
			notes = append(notes, fmt.Sprintf("partition %d has bytes %d to %d in the table, and %d to %d in the kernel; it will be restored as the kernel has it", k.number, p.Start, p.Start+p.Size, k.start, k.start+k.size))
		}
		p.Start, p.Size = k.start, k.size
		out = append(out, p)
	}
	for _, p := range t.Partitions {
		if !slices.ContainsFunc(kernel, func(k kernelPartition) bool { return k.number == p.Number }) {
			notes = append(notes, fmt.Sprintf("the kernel has no partition %d, which is in the table (bytes %d to %d of %d); it will not be restored", p.Number, p.Start, p.Start+p.Size, d.Size))
		}
	}
	t.Partitions = out
	return notes
}

func gptTable(d *layout.Disk, t *gpt.Table) *layout.Table {
	out := &layout.Table{Label: layout.GPT, GUID: t.GUID, Entries: t.Entries, FirstUsable: quantity.Size(t.FirstUsable) * d.LogicalSector}
	if t.Entries == gpt.Default {
		out.Entries = 0
	}
	for _, p := range t.Partitions {
		q := layout.Partition{Number: p.Number, Device: layout.PartitionName(d.Name, p.Number),
			Start: quantity.Size(p.First) * d.LogicalSector, Size: quantity.Size(p.Last-p.First+1) * d.LogicalSector,
			Type: p.Type, GUID: p.GUID, Name: p.Name, Attributes: p.Attributes}
		if p.MBR != nil {
			q.InMBR = &layout.InMBR{Slot: p.MBR.Slot, Type: fmt.Sprintf("0x%02x", p.MBR.Type), Active: p.MBR.Active}
		}
		out.Partitions = append(out.Partitions, q)
	}
	return out
}

func mbrTable(d *layout.Disk, t *mbr.Table) *layout.Table {
	out := &layout.Table{Label: layout.MBR, Signature: fmt.Sprintf("0x%08x", t.Signature)}
	for _, p := range t.Partitions {
		out.Partitions = append(out.Partitions, layout.Partition{Number: p.Number, Device: layout.PartitionName(d.Name, p.Number),
			Start: quantity.Size(p.Start) * d.LogicalSector, Size: quantity.Size(p.Count) * d.LogicalSector,
			Type: fmt.Sprintf("0x%02x", p.Type), Active: p.Active, EBR: quantity.Size(p.EBR) * d.LogicalSector})
	}
	return out
}

// samples is how many places of a device are looked at to tell whether it is blank,
// each of sampleSize bytes, beside the MiB at each end.
const samples, sampleSize = 1024, 4096

// tableRoom is what a partition table takes at each end of a disk, and boot loaders
// behind it, at most.
const tableRoom = quantity.MiB

// blank reports whether nothing but zero bytes is found at both ends of a part of a
// device, from a byte on to another, and in samples over all of it.
func (m Machine) blank(dev string, from, end quantity.Size) bool {
	f, err := os.Open(m.path("/dev/" + dev))
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 1<<20)
	if end <= from {
		return true
	}
	zero := func(at, n int64) bool {
		n = min(n, int64(end)-at)
		if _, err := f.ReadAt(b[:n], at); err != nil {
			return false
		}
		return !slices.ContainsFunc(b[:n], func(c byte) bool { return c != 0 })
	}
	if !zero(int64(from), 1<<20) || !zero(max(int64(end)-1<<20, int64(from)), 1<<20) {
		return false
	}
	for i := range int64(samples) {
		if !zero(int64(from)+int64(end-from)/samples*i, sampleSize) {
			return false
		}
	}
	return true
}

// usb reports whether a disk is connected by USB or FireWire: it can be unplugged although
// the kernel does not call it removable.
func (m Machine) usb(disk string) bool {
	real, err := filepath.EvalSymlinks(m.path("/sys/block/" + sysName(disk)))
	if err != nil {
		return false
	}
	if dev, err := filepath.EvalSymlinks(m.path("/sys/block/" + sysName(disk) + "/device")); err == nil {
		real += dev
	}
	return strings.Contains(real, "/usb") || strings.Contains(real, "/fw")
}
