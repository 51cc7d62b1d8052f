package plan

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// item is something that gets a size.
type item struct {
	dev      string
	what     string // for people
	old, min quantity.Size
	used     quantity.Size
	fixed    bool // min is its size
	got      quantity.Size
}

// item returns what a device needs; nil for one that carries nothing known, which
// keeps its size.
func (f *fitter) item(dev string, size quantity.Size) *item {
	it := &item{dev: dev, old: size, min: size, fixed: true, what: "-"}
	for i := range f.l.Filesystems {
		fs := &f.l.Filesystems[i]
		if !slices.Contains(fs.Devs(), dev) {
			continue
		}
		f.filesystem(it, fs)
		return it
	}
	for _, m := range f.l.Images {
		if m.Device == dev {
			if it.what = m.What() + ", block by block"; m.Excluded != "" {
				it.what = m.What() + ", left out of the set"
			}
			return it
		}
	}
	for _, s := range f.l.Swap {
		if s.Device == dev {
			it.what = "swap"
			if s, ok := f.wish.Sizes[dev]; ok {
				it.min = s
				return it
			}
			it.min = max(size*quantity.Size(f.swapShare)/4, min(size, 16*quantity.MiB)).AlignUp(align)
			if f.swapShare == 4 {
				it.min = size
			}
			return it
		}
	}
	f.stacked(it)
	return it
}

// filesystem returns what the device of a file system needs.
func (f *fitter) filesystem(it *item, fs *layout.Filesystem) {
	it.what = fs.Type
	for _, m := range fs.Mounts {
		it.what += " on " + m.Path
		if s, ok := f.wish.Sizes[m.Path]; ok {
			it.min = max(LeastOn(fs), s)
			if it.min != s {
				it.what += fmt.Sprintf(", %s asked for", s)
			}
			return
		}
	}
	it.used = fs.Used
	if least := LeastOn(fs); least > 0 && !stays(fs) && f.l.Boot.ESP != it.dev {
		it.min, it.fixed = min(least, max(it.old, least)), false
	}
}

// stacked returns what a device needs for what is on an array, in LUKS or on LVM.
func (f *fitter) stacked(it *item) {
	dev, size := it.dev, it.old
	if a := f.l.ArrayOf(dev); a != nil {
		in := f.item(a.Name, a.Size)
		it.what, it.used = a.Level+" "+a.Name+": "+in.what, in.used
		if !in.fixed || in.min != a.Size {
			it.min, it.fixed = min(memberLeast(a, in.min), size), false
			if in.fixed { // wished for: as much as that needs
				it.min, it.fixed = memberLeast(a, in.min), true
			}
		}
		return
	}
	if c := f.l.CryptOn(dev); c != nil {
		in := f.item(c.Mapper(), c.Size)
		it.what, it.used = "LUKS, "+in.what, in.used
		if c.LUKS.Fixed {
			return
		}
		least := (in.min + quantity.Size(c.LUKS.Offset)).AlignUp(align)
		if !in.fixed {
			it.min, it.fixed = min(least, size), false
		} else if in.min != c.Size { // wished for: as much as that needs
			it.min = least
		}
		return
	}
	if least, ok := f.pv[dev]; ok {
		it.what, it.min, it.fixed = "LVM", least, false
		if g := f.groupOn(dev); g != nil {
			if _, rigid := f.raids(g); rigid {
				it.what, it.min, it.fixed = "LVM with RAID volumes", size, true
			}
		}
	}
}

// memberLeast is the least size of a member of an array of at least n bytes.
func memberLeast(a *layout.Array, n quantity.Size) quantity.Size {
	k, copies := a.Shares()
	unit := max(a.Chunk, 64*quantity.KiB)
	return (((n*quantity.Size(copies)+quantity.Size(k)-1)/quantity.Size(k) + 2*unit).AlignUp(unit) + a.Data + a.Tail()).AlignUp(align)
}

// groupOn finds the group of a physical volume.
func (f *fitter) groupOn(dev string) *layout.VolumeGroup {
	for i := range f.l.VolumeGroup {
		g := &f.l.VolumeGroup[i]
		if slices.ContainsFunc(g.PVs, func(p layout.PhysicalVolume) bool { return p.Device == dev }) {
			return g
		}
	}
	return nil
}

// stays reports a file system whose size has its reasons.
func stays(fs *layout.Filesystem) bool {
	return slices.ContainsFunc(fs.Mounts, func(m layout.Mount) bool { return m.Path == "/boot" || m.Path == "/boot/efi" || m.Path == "/efi" })
}

// Least is the least size of a device that a file system's files fit on once
// it is recreated, 0 when it can't be told and the size has to stay. What the
// kernel calls used is files and directories, without what mkfs lays out.
func Least(fs *layout.Filesystem) quantity.Size {
	t, f := fstype.Of(fs.Type), fs.FS()
	if t.Least == nil || fs.InUse() && fs.Excluded == "" && fs.Used == 0 {
		return 0
	}
	if fs.Excluded != "" {
		f.Used = 0
	}
	return quantity.Size(t.Least(f)).AlignUp(align)
}

// LeastOn is the least size of each of a file system's devices.
func LeastOn(fs *layout.Filesystem) quantity.Size {
	n, t := Least(fs), fstype.Of(fs.Type)
	if t.Each == nil || len(fs.Others) == 0 || n == 0 {
		return n
	}
	return quantity.Size(t.Each(fs.FS(), int64(n))).AlignUp(align)
}

// overhead is what a disk's table takes beside its partitions.
func (f *fitter) overhead(d *layout.Disk) quantity.Size {
	n := align
	n += tableTail(d).AlignUp(align)
	for _, p := range d.Table.Partitions {
		if p.Number > 4 && d.Table.Label == layout.MBR {
			n += align // its extended boot record
		}
	}
	return n
}

// items are a disk's partitions in the order they lie there, and what is not
// partitioned, with dev "".
func (f *fitter) items(d *layout.Disk) []*item {
	var out []*item
	sum := quantity.Size(0)
	for _, p := range inOrder(d.Table) {
		if p.Extended() {
			continue
		}
		it := f.item(p.Device, p.Size)
		out = append(out, it)
		sum += p.Size.AlignUp(align)
	}
	if free := d.Size - f.overhead(d) - sum; free >= 64*quantity.MiB {
		out = append(out, &item{what: "not partitioned", old: free})
	}
	return out
}

// firstLogical is the logical partition with the lowest number, whose record is the
// extended partition's first sector; nil for none.
func firstLogical(t *layout.Table) *layout.Partition {
	var head *layout.Partition
	for i := range t.Partitions {
		if p := &t.Partitions[i]; t.Label == layout.MBR && p.Number > 4 && (head == nil || p.Number < head.Number) {
			head = p
		}
	}
	return head
}

func inOrder(t *layout.Table) []*layout.Partition {
	out := make([]*layout.Partition, len(t.Partitions))
	for i := range t.Partitions {
		out[i] = &t.Partitions[i]
	}
	slices.SortStableFunc(out, func(a, b *layout.Partition) int { return cmp.Compare(a.Start, b.Start) })
	return out
}

// peStart is what LVM keeps before the first extent, and what may be lost to
// rounding behind the last.
func peStart(g *layout.VolumeGroup) quantity.Size { return align + g.ExtentSize }

// lvItems are a group's volumes and its free extents, with dev "", as they were
// before anything was changed.
func (f *fitter) lvItems(g *layout.VolumeGroup) []*item {
	if have, ok := f.lvs[g.Name]; ok {
		return have
	}
	var out []*item
	sum, total := quantity.Size(0), quantity.Size(0)
	raids, _ := f.raids(g)
	for _, v := range g.LVs {
		if v.Pool != "" {
			continue // it takes room from its pool
		}
		var it *item
		if v.ThinPool != nil {
			it = f.pool(g, v)
			// Its metadata, and as much in reserve.
			meta := 2 * v.ThinPool.Metadata.AlignUp(g.ExtentSize)
			out = append(out, &item{dev: g.Name + "/" + v.Name + " metadata", what: "and its reserve", old: meta, min: meta, fixed: true})
			sum += meta
		} else {
			it = f.item(g.Name+"/"+v.Name, v.Size)
		}
		it.min = it.min.AlignUp(g.ExtentSize)
		if r := raids[v.Name]; r != nil { // with all copies
			it.what += " (" + v.Type + ")"
			it.min, it.old = r.grown(it.min, g.ExtentSize), r.grown(it.old, g.ExtentSize)
		}
		out = append(out, it)
		sum += it.old
	}
	for _, p := range g.PVs {
		total += (p.Size - align) / g.ExtentSize * g.ExtentSize
	}
	if free := total - sum; free > 0 {
		out = append(out, &item{what: "free in " + g.Name, old: free})
	}
	if f.lvs == nil {
		f.lvs = map[string][]*item{}
	}
	f.lvs[g.Name] = out
	return out
}

// pool is the item of a thin pool: its least is what its volumes need.
func (f *fitter) pool(g *layout.VolumeGroup, p layout.LogicalVolume) *item {
	it := &item{dev: g.Name + "/" + p.Name, what: "thin pool", old: p.Size}
	for _, v := range g.LVs {
		if v.Pool == p.Name {
			in := f.item(g.Name+"/"+v.Name, v.Size)
			if in.fixed {
				in.min = min(in.min, p.Size)
			}
			it.min += in.min.AlignUp(p.ThinPool.Chunk)
			it.used += in.used
		}
	}
	// What it can't be shown to need more than.
	it.min = min(it.min, p.Size)
	return it
}
