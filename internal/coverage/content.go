package coverage

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// counter finds what is on devices. Ranges begin at 0 of the device.
type counter struct {
	*layout.Layout
	marks  Marks
	needed []string                      // disks that a restore writes to
	open   map[string]bool               // devices that are being looked at
	groups map[string]map[string][]Range // of physical volumes, by group and device
}

// disk gives the ranges of a disk: its table, its partitions and the rest.
func (c *counter) disk(d *layout.Disk) []Range {
	if d.Table == nil {
		return c.device(d.Name, d.Size)
	}
	free := Range{State: Unallocated, What: "unallocated"}
	if u, ok := c.unsupported(d.Name); ok {
		free = u
	}
	first, end := d.Size, quantity.Size(0)
	var out []Range
	for _, p := range d.Table.Partitions {
		first = min(first, p.Start)
		if p.EBR > 0 {
			first = min(first, p.EBR)
			out = append(out, Range{Start: p.EBR, Size: d.LogicalSector, State: Recreated, What: "partition table"})
		}
		if !p.Extended() {
			end = max(end, p.Start+p.Size)
			out = append(out, shift(c.device(p.Device, p.Size), p.Start)...)
		}
	}
	head, tail := d.LogicalSector, quantity.Size(0)
	if d.Table.Label == layout.GPT {
		tail = quantity.Size(gpt.Overhead(d.Table.Entries, int64(d.LogicalSector))) * d.LogicalSector
		head += tail
	}
	head, tail = min(head, first), max(min(tail, d.Size-max(end, head)), 0)
	table := Range{State: Recreated, What: "partition table"}
	out = append(out, part(table, 0, head), part(table, d.Size-tail, tail))
	if d.Table.Label == layout.MBR && c.Boot.Firmware == layout.BIOS && slices.Contains(c.Boot.Disks, d.Name) && end > 0 {
		out = append(out, part(Range{State: Recreated, What: "boot loader"}, head, first-head))
	}
	return fill(out, d.Size, free)
}

// device gives the ranges of what is on a device.
func (c *counter) device(dev string, size quantity.Size) []Range {
	if size <= 0 {
		return nil
	}
	if c.open[dev] {
		return []Range{{Size: size, State: NotCovered, Device: dev, What: "unknown content", Why: "it is on itself"}}
	}
	c.open[dev] = true
	defer delete(c.open, dev)
	if x := c.CryptOn(dev); x != nil && x.LUKS != nil {
		head := min(quantity.Size(x.LUKS.Offset), size)
		inside := c.device(x.Mapper(), min(cmp.Or(x.Size, size-head), size-head))
		h := Range{Size: head, State: Recreated, Device: dev, What: "LUKS header"}
		return fill(append(shift(inside, head), h), size, Range{State: Unallocated, Device: dev, What: "behind the LUKS data"})
	}
	if a := c.ArrayOf(dev); a != nil {
		return c.member(a, dev, size)
	}
	for i := range c.VolumeGroup {
		g := &c.VolumeGroup[i]
		if slices.ContainsFunc(g.PVs, func(p layout.PhysicalVolume) bool { return p.Device == dev }) {
			return c.physical(g, dev, size)
		}
	}
	x, used := c.leaf(dev)
	if used <= 0 || used > size {
		used = size
	}
	return fill([]Range{part(x, 0, used)}, size, Range{State: Unallocated, Device: dev, What: "behind the file system"})
}

// leaf describes the content of a device that no other device is on, and how long that is,
// 0 for all of the device.
func (c *counter) leaf(dev string) (Range, quantity.Size) {
	if f := c.On(dev); f != nil {
		x := c.filesystem(f)
		x.Device = dev
		if len(f.Others) > 0 {
			return x, 0
		}
		return x, f.Size
	}
	for i := range c.Images {
		m := &c.Images[i]
		switch {
		case m.Device != dev:
		case m.File != "":
			return Range{State: Image, Device: dev, What: m.What()}, 0
		case m.Excluded != "":
			return Range{State: Excluded, Device: dev, What: m.What(), Why: m.Excluded}, 0
		default:
			return Range{State: NotCovered, Device: dev, What: m.What(), Why: "no image of it is made"}, 0
		}
	}
	if slices.ContainsFunc(c.Swap, func(s layout.Swap) bool { return s.Device == dev }) {
		return Range{State: Recreated, Device: dev, What: "swap"}, 0
	}
	if u, ok := c.unsupported(dev); ok {
		return u, 0
	}
	x := Range{State: Recreated, Device: dev, What: "no content that has to be saved"}
	on, p := c.Partition(dev)
	d := c.Disk(dev)
	if on != nil {
		if u, ok := c.unsupported(on.Name); ok {
			return u, 0
		}
	}
	switch {
	case p != nil && p.Type == layout.TypeBIOSBoot:
		x.What = "boot loader"
	case p == nil && d != nil:
		x.State, x.What = Unallocated, "unallocated"
	}
	return x, 0
}

// filesystem describes a file system.
func (c *counter) filesystem(f *layout.Filesystem) Range {
	x := Range{State: Files, What: f.Type}
	for i, m := range f.Mounts {
		if i == 0 {
			x.What += " on " + m.Path
		} else {
			x.What += ", " + m.Path
		}
	}
	missing := slices.ContainsFunc(c.marks.Missing, func(p Part) bool { return p.Device == f.Device })
	switch {
	case missing:
		x.State, x.Why = NotCovered, "its files could not be read when the backup was made"
	case f.Excluded != "" && c.marks.Lacking[f.Device]:
		x.State, x.Why = NotCovered, f.Excluded
	case f.Excluded != "":
		x.State, x.Why = Excluded, f.Excluded
	case !f.InUse():
		x.State, x.Why = NotCovered, "it is not mounted: its files can't be saved"
	case f.Included != nil:
		x.Why = layout.ByInclude + "only " + strings.Join(f.Included, ", ")
	}
	return x
}

// unsupported describes a device that the layout lists as one that can't be restored.
func (c *counter) unsupported(dev string) (Range, bool) {
	i := slices.IndexFunc(c.Unsupported, func(u layout.Unsupported) bool { return u.Device == dev })
	if i < 0 {
		return Range{}, false
	}
	if rule := c.marks.Rules[i]; rule != "" {
		return Range{State: Excluded, Device: dev, What: "unsupported content", Why: rule}, true
	}
	return Range{State: NotCovered, Device: dev, What: "unsupported content", Why: c.Unsupported[i].Reason}, true
}

// member gives the ranges of a member of a RAID array: those of the array, as far as the
// member has them, between superblock and tail.
func (c *counter) member(a *layout.Array, dev string, size quantity.Size) []Range {
	meta := Range{State: Recreated, Device: dev, What: "metadata of RAID array " + a.Name}
	if slices.Contains(a.Spares, dev) {
		meta.What = "spare of RAID array " + a.Name
		return []Range{part(meta, 0, size)}
	}
	head := min(a.Data, size)
	length := min(cmp.Or(a.Part, max(size-head-a.Tail(), 0)), size-head)
	content := c.device(a.Name, a.Size)
	if a.Level == "linear" {
		at := quantity.Size(0)
		for _, m := range a.Members {
			n := c.SizeOf(m.Device) - a.Data - a.Tail()
			if m.Device == dev {
				content = cut(content, at, min(length, n))
				break
			}
			at += max(n, 0)
		}
	} else {
		content = scale(content, a.Size, length)
	}
	return fill(shift(content, head), size, meta)
}

// settle gives what a restore does with the ranges of disks: the metadata of disks that it
// does not write to is not recreated.
func (c *counter) settle(ranges []Range, disks ...string) []Range {
	if len(disks) == 0 || slices.ContainsFunc(disks, func(d string) bool { return slices.Contains(c.needed, d) }) {
		return ranges
	}
	state := Excluded
	if slices.ContainsFunc(ranges, func(r Range) bool { return r.State == NotCovered }) {
		state = NotCovered
	}
	for i := range ranges {
		if ranges[i].State == Recreated {
			ranges[i].State, ranges[i].Why = state, "nothing on this disk is restored"
		}
	}
	return ranges
}

// part is a range like x at another place.
func part(x Range, start, size quantity.Size) Range {
	x.Start, x.Size = start, size
	return x
}

// shift moves ranges.
func shift(ranges []Range, by quantity.Size) []Range {
	out := slices.Clone(ranges)
	for i := range out {
		out[i].Start += by
	}
	return out
}

// fill sorts ranges, drops empty ones, and puts others like gap between them and up to size.
func fill(ranges []Range, size quantity.Size, gap Range) []Range {
	ranges = slices.DeleteFunc(slices.Clone(ranges), func(r Range) bool { return r.Size <= 0 })
	slices.SortStableFunc(ranges, func(a, b Range) int { return cmp.Compare(a.Start, b.Start) })
	var out []Range
	at := quantity.Size(0)
	for _, r := range ranges {
		if r.Start > at {
			out = append(out, part(gap, at, r.Start-at))
		}
		out = append(out, r)
		at = max(at, r.Start+r.Size)
	}
	if at < size {
		out = append(out, part(gap, at, size-at))
	}
	return out
}

// cut gives the part of ranges from start on, of that size, beginning at 0.
func cut(ranges []Range, start, size quantity.Size) []Range {
	var out []Range
	for _, r := range ranges {
		from, to := max(r.Start, start), min(r.Start+r.Size, start+size)
		if from < to {
			out = append(out, part(r, from-start, to-from))
		}
	}
	return out
}

// scale makes ranges of total bytes length bytes long: what of them is on one of several
// devices that share them. Ends are on blocks of 4 KiB.
func scale(ranges []Range, total, length quantity.Size) []Range {
	if total == length || total <= 0 || length <= 0 {
		return cut(ranges, 0, length)
	}
	to := func(at quantity.Size) quantity.Size {
		if at >= total {
			return length
		}
		hi, lo := bits.Mul64(uint64(at), uint64(length))
		n, _ := bits.Div64(hi, lo, uint64(total))
		return quantity.Size(n) / 4096 * 4096
	}
	var out []Range
	for _, r := range ranges {
		if from, end := to(r.Start), to(r.Start+r.Size); from < end {
			out = append(out, part(r, from, end-from))
		}
	}
	return out
}

// together makes one leaf of ranges that can't be told apart: it has the first state in
// the order of States.
func together(ranges []Range, what string) Range {
	if len(ranges) == 0 {
		return Range{State: Unallocated, What: what}
	}
	x := slices.MinFunc(ranges, func(a, b Range) int { return cmp.Compare(a.State.rank(), b.State.rank()) })
	var names []string
	for _, r := range ranges {
		if n := cmp.Or(r.Device, r.What); !slices.Contains(names, n) && len(names) < 8 {
			names = append(names, n)
		}
	}
	x.What = fmt.Sprintf("%s with %s", what, strings.Join(names, ", "))
	return x
}
