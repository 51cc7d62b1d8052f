package plan

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// align is what partitions begin and end at when they are laid out again.
const align = quantity.MiB

// Fit adapts a layout to the sizes of the disks that it goes to, and to the
// wish's sizes. A disk of about the old size (up to a twentieth larger) on
// which nothing is wished keeps its table to the byte. On any other, file
// systems and what carries them shrink or grow: each gets the least it needs,
// and of what is left as much as it had free in proportion, so that the old
// size gives the old layout. EFI, boot and BIOS boot partitions keep their
// size, as does swap unless it is in the way of a fit; unpartitioned space and
// free extents count as something that may shrink to nothing.
//
// The result names devices as want does. It is a refusal with a table of needs
// when the least does not fit.
func Fit(want *layout.Layout, m Mapping, w Wish) (*layout.Layout, error) {
	l, err := clone(want)
	if err != nil {
		return nil, err
	}
	f := &fitter{l: l, wish: w, size: map[string]quantity.Size{}, sectors: map[string]bool{}}
	for old, p := range m {
		d := l.Disk(old)
		if d == nil {
			continue
		}
		f.size[old] = p.Size
		if p.LogicalSector != d.LogicalSector {
			toSector(l, d, p.LogicalSector)
			f.sectors[old] = d.Table != nil && slices.ContainsFunc(d.Table.Partitions, func(q layout.Partition) bool {
				return q.Start%p.LogicalSector != 0 || q.Size%p.LogicalSector != 0
			})
		}
	}
	if want, err = clone(l); err != nil {
		return nil, err
	}
	if err := f.wishes(); err != nil {
		return nil, err
	}
	var first error
	for _, try := range []struct {
		swapShare int64 // of four
		asWas     bool
	}{{4, false}, {1, false}, {4, true}} {
		f.swapShare, f.asWas, f.lvs, f.lvRAIDs = try.swapShare, try.asWas, nil, nil
		err := f.run()
		if err == nil {
			return l, l.Validate()
		}
		if first == nil {
			first = err
		}
		if l, err = clone(want); err != nil {
			return nil, err
		}
		f.l = l
	}
	return nil, first
}

func clone(l *layout.Layout) (*layout.Layout, error) {
	b, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	var out layout.Layout
	return &out, json.Unmarshal(b, &out)
}

// Minimum is the least size of each needed disk, by its name. Where a volume
// group is on several disks, each is taken to carry its old share.
func Minimum(want *layout.Layout, w Wish) map[string]quantity.Size {
	out := map[string]quantity.Size{}
	f := &fitter{l: want, wish: w, swapShare: 1, size: map[string]quantity.Size{}}
	if err := f.shares(); err != nil {
		w.Keep = true
	}
	for _, n := range want.Needed() {
		d := want.Disk(n)
		if d == nil {
			continue
		}
		out[n] = Need(d)
		if d.Table == nil || w.Keep {
			if it := f.item(n, d.Size); it != nil && !w.Keep {
				out[n] = min(it.min, d.Size)
			}
			continue
		}
		need := f.overhead(d)
		for _, it := range f.items(d) {
			need += it.min.AlignUp(align)
		}
		out[n] = min(out[n], need)
	}
	return out
}

// item is something that gets a size.
type item struct {
	dev      string
	what     string // for people
	old, min quantity.Size
	used     quantity.Size
	fixed    bool // min is its size
	got      quantity.Size
}

type fitter struct {
	l         *layout.Layout
	wish      Wish
	size      map[string]quantity.Size // of the disks there
	swapShare int64
	// asWas has disks that are larger keep their table: what was there fits, whatever it
	// is reckoned to need.
	asWas   bool
	pv      map[string]quantity.Size // least size of physical volumes
	exact   map[string]bool          // disks that keep their table
	sectors map[string]bool          // disks whose sectors are of another size, and partitions between them
	lvs     map[string][]*item       // of each group, by what there was
	lvRAIDs map[string]map[string]*lvRAID
}

// wishes checks that what is wished for is there.
func (f *fitter) wishes() error {
	for at := range f.wish.Sizes {
		if f.l.Mounted(at) == nil && !slices.ContainsFunc(f.l.Swap, func(s layout.Swap) bool { return s.Device == at }) {
			return refuse("--size %s: the layout has nothing there; sizes are given for mount points and swap devices", at)
		}
	}
	return nil
}

func (f *fitter) run() error {
	if err := f.exactly(); err != nil {
		return err
	}
	if err := f.shares(); err != nil {
		return err
	}
	var errs []error
	for _, n := range f.l.Needed() {
		if _, ok := f.size[n]; ok {
			errs = append(errs, f.disk(f.l.Disk(n)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i := range f.l.Arrays {
		errs = append(errs, f.array(&f.l.Arrays[i]))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	f.crypts()
	for i := range f.l.VolumeGroup {
		errs = append(errs, f.group(&f.l.VolumeGroup[i]))
	}
	f.crypts() // on logical volumes
	return errors.Join(errs...)
}

// exactly finds the disks on which everything keeps its size and place.
func (f *fitter) exactly() error {
	f.exact = map[string]bool{}
	for n, size := range f.size {
		d := f.l.Disk(n)
		f.exact[n] = size >= Need(d) && (size <= d.Size+d.Size/20 || f.wish.Keep || f.asWas)
		if f.wished(n) || f.sectors[n] || d.Table != nil && CheckTable(d.Table, d.LogicalSector, size) != nil {
			f.exact[n] = false
		}
		if f.wish.Keep && !f.exact[n] {
			return refuse("%s does not fit with the sizes that it had: %s needed, %s there", n, Need(d), size)
		}
	}
	return nil
}

// crypts sizes the inside of LUKS devices by what they lie on.
func (f *fitter) crypts() {
	for i := range f.l.Crypts {
		c := &f.l.Crypts[i]
		if size := (sizeOf(f.l, c.Device) - quantity.Size(c.LUKS.Offset)) / quantity.Size(c.LUKS.SectorSize) * quantity.Size(c.LUKS.SectorSize); !c.LUKS.Fixed && size > 0 {
			c.Size = size
			f.setPV(c.Mapper(), size)
		}
	}
}

// wished tells whether the size of anything on a disk is wished for.
func (f *fitter) wished(disk string) bool {
	for at := range f.wish.Sizes {
		dev := at
		if fs := f.l.Mounted(at); fs != nil {
			dev = fs.Device
		}
		if slices.Contains(f.l.DisksUnder(dev), disk) {
			return true
		}
	}
	return false
}

// item says what a device needs; nil for one that carries nothing known, which
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

// filesystem says what the device of a file system needs.
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

// stacked says what a device needs for what is on an array, in LUKS or on LVM.
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

// stays tells of a file system whose size has its reasons.
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

// shares decides how much of each group its physical volumes have to carry at
// least. Groups are one after the other: those that come later are taken to
// need their old share of a disk.
func (f *fitter) shares() error {
	f.pv = map[string]quantity.Size{}
	need := func(g *layout.VolumeGroup) quantity.Size {
		n := quantity.Size(0)
		for _, it := range f.lvItems(g) {
			n += it.min
		}
		return n
	}
	for i := range f.l.VolumeGroup {
		g := &f.l.VolumeGroup[i]
		total := quantity.Size(0)
		for _, p := range g.PVs {
			total += p.Size
		}
		for _, p := range g.PVs {
			f.pv[p.Device] = (scale(need(g), p.Size, total) + peStart(g)).AlignUp(align)
		}
	}
	for i := range f.l.VolumeGroup {
		g := &f.l.VolumeGroup[i]
		if len(g.PVs) < 2 || len(f.size) == 0 {
			continue
		}
		// What each disk could give at most.
		caps := make([]quantity.Size, len(g.PVs))
		total := quantity.Size(0)
		for j, p := range g.PVs {
			for _, n := range f.l.DisksUnder(p.Device) {
				d := f.l.Disk(n)
				switch {
				case d.Name != p.Device && (f.l.Array(p.Device) != nil || f.l.Crypt(p.Device) != nil):
					caps[j] = f.pv[p.Device] - peStart(g) // what lies below it decides
				case f.exact[n]:
					caps[j] = p.Size - peStart(g)
				case d.Table == nil:
					caps[j] = f.size[n] - peStart(g)
				default:
					caps[j] = f.size[n] - f.overhead(d) - peStart(g)
					for _, it := range f.items(d) {
						if it.dev != p.Device {
							caps[j] -= it.min.AlignUp(align)
						}
					}
				}
			}
			caps[j] = max(caps[j], 0)
			total += caps[j]
		}
		n := need(g)
		if n > total {
			return f.refuseGroup(g, total)
		}
		for j, p := range g.PVs {
			f.pv[p.Device] = min((scale(n, caps[j], total) + peStart(g)).AlignUp(align), caps[j]+peStart(g))
		}
	}
	return nil
}

// scale is n*part/whole, rounded up, without overflow for sizes of disks.
func scale(n, part, whole quantity.Size) quantity.Size {
	if whole <= 0 {
		return n
	}
	const unit = 64 << 10
	a, b, c := (n+unit-1)/unit, (part+unit-1)/unit, max(whole/unit, 1)
	if a > 1<<31 || b > 1<<31 { // more than 128 TiB
		a, c = a>>8+1, c>>8
	}
	return min((a*b+c-1)/c*unit, max(n, 0)+unit)
}

// divide gives every item its size in multiples of unit; false when the least
// is too much.
func divide(items []*item, avail, unit quantity.Size) bool {
	rest, weights := avail, quantity.Size(0)
	var big *item
	for _, it := range items {
		it.got = it.min.AlignUp(unit)
		rest -= it.got
		if w := it.weight(); w > 0 {
			weights += w
			if big == nil || w > big.weight() {
				big = it
			}
		}
	}
	if rest < 0 {
		return false
	}
	if big == nil {
		return true
	}
	left := rest
	for _, it := range items {
		if w := it.weight(); w > 0 {
			add := min(scale(rest, w, weights)/unit*unit, left/unit*unit)
			it.got += add
			left -= add
		}
	}
	big.got += left / unit * unit
	return true
}

// weight is what an item had free.
func (it *item) weight() quantity.Size {
	if it.fixed {
		return 0
	}
	return max(it.old-it.min, it.old/64, 1)
}

// disk lays out a disk's partitions again.
func (f *fitter) disk(d *layout.Disk) error {
	size := f.size[d.Name]
	if f.exact[d.Name] {
		d.Size = size
		return nil
	}
	if d.Table == nil {
		it := f.item(d.Name, d.Size)
		if it.min > size {
			return f.refuseDisk(d, size, []*item{it})
		}
		d.Size = size
		f.setPV(d.Name, size)
		return nil
	}
	items := f.items(d)
	avail := size/align*align - f.overhead(d)
	if d.Table.Label == layout.MBR {
		avail = min(avail, (1<<32-1)*d.LogicalSector/align*align-f.overhead(d))
	}
	if !divide(items, avail, align) {
		return f.refuseDisk(d, size, items)
	}
	got := map[string]*item{}
	for _, it := range items {
		got[it.dev] = it
	}
	at := align
	head := firstLogical(d.Table)
	var ext *layout.Partition
	for _, p := range inOrder(d.Table) {
		switch {
		case p.Extended():
			ext = p
			p.Start, p.Size = at, 0
			if head != nil { // wherever it is itself
				head.EBR = at
				at += align
			}
			continue
		case p == head:
		case p.Number > 4 && d.Table.Label == layout.MBR:
			p.EBR = at
			at += align
		case ext != nil: // a primary one behind the extended
			ext.Size, ext = at-ext.Start, nil
		}
		it := got[p.Device]
		p.Start = at
		p.Size = it.got
		if it.fixed {
			p.Size = it.min.AlignUp(d.LogicalSector)
		}
		at += p.Size.AlignUp(align)
		f.setPV(p.Device, p.Size)
	}
	if ext != nil {
		ext.Size = max(at-ext.Start, align)
	}
	d.Size = size
	return nil
}

func (f *fitter) setPV(dev string, size quantity.Size) {
	for i := range f.l.VolumeGroup {
		for j := range f.l.VolumeGroup[i].PVs {
			if p := &f.l.VolumeGroup[i].PVs[j]; p.Device == dev {
				p.Size = size
			}
		}
	}
	for i := range f.l.Swap {
		if f.l.Swap[i].Device == dev {
			f.l.Swap[i].Size = size
		}
	}
}

// array sizes an array by what its members have now.
func (f *fitter) array(a *layout.Array) error {
	least, changed := quantity.Size(0), false
	sum := quantity.Size(0)
	unit := max(a.Chunk, 64*quantity.KiB)
	for _, m := range a.Devs() {
		for _, d := range f.l.DisksUnder(m) {
			if _, there := f.size[d]; !there {
				return nil
			}
			changed = changed || !f.exact[d]
		}
		room := sizeOf(f.l, m) - a.Data - a.Tail()
		n := room / unit * unit
		if n < a.Part && a.Part <= room {
			n = a.Part // as it was: not less for being rounded
		}
		if least == 0 || n < least {
			least = n
		}
		sum += n
	}
	if !changed {
		return nil
	}
	if least <= 0 {
		return refuse("the members of %s are too small", a.Name)
	}
	if a.Part > 0 {
		a.Part = least
		n, copies := a.Shares()
		a.Size = least * quantity.Size(n) / quantity.Size(copies)
		if copies > 1 {
			a.Size = a.Size / unit * unit
		}
	} else {
		a.Size = sum
	}
	f.setPV(a.Name, a.Size)
	return nil
}

// group sizes a group's volumes by what its physical volumes have now, and
// writes its metadata again.
func (f *fitter) group(g *layout.VolumeGroup) error {
	changed := false
	for _, p := range g.PVs {
		for _, d := range f.l.DisksUnder(p.Device) {
			if _, there := f.size[d]; !there {
				return nil // on disks that are not needed
			}
			changed = changed || !f.exact[d]
		}
	}
	if !changed {
		return nil
	}
	if _, rigid := f.raids(g); rigid {
		for at := range f.wish.Sizes {
			if fs := f.l.Mounted(at); fs != nil && f.l.Group(fs.Device) == g {
				return refuse("--size %s: the volume group %s has RAID volumes, and keeps its sizes", at, g.Name)
			}
		}
		return nil // its physical volumes kept their size
	}
	config, err := Thinless(g)
	if err != nil {
		return err
	}
	t, err := lvmtext.Parse(config)
	if err != nil {
		return fmt.Errorf("volume group %s: %w", g.Name, err)
	}
	vg := t.Get(g.Name)
	total, free := quantity.Size(0), []extents{}
	for _, p := range g.PVs {
		e, err := f.physical(vg, g, p)
		if err != nil {
			return fmt.Errorf("volume group %s: %w", g.Name, err)
		}
		total += quantity.Size(e.count) * g.ExtentSize
		free = append(free, e)
	}
	items := f.lvItems(g)
	if !divide(items, total, g.ExtentSize) {
		return f.refuseGroup(g, total)
	}
	got := map[string]quantity.Size{}
	for _, it := range items {
		got[it.dev] = it.got
	}
	for _, v := range inPlacingOrder(g) {
		switch name := g.Name + "/" + v.Name; {
		case v.ThinPool != nil: // lvcreate finds its place
			v.Size = got[name]
		case v.Pool != "":
			f.thinWish(g, v)
		default:
			if err := f.volume(vg, g, v, got[name], &free); err != nil {
				return fmt.Errorf("volume %s: %w", name, err)
			}
		}
	}
	g.Config = t.String()
	return nil
}

// inPlacingOrder gives a group's volumes: RAID and striped ones first, while there
// is room on all its physical volumes.
func inPlacingOrder(g *layout.VolumeGroup) []*layout.LogicalVolume {
	out := make([]*layout.LogicalVolume, len(g.LVs))
	for i := range out {
		out[i] = &g.LVs[i]
	}
	rank := func(v *layout.LogicalVolume) int {
		switch {
		case v.RAID():
			return 0
		case v.Type == "striped":
			return 1
		}
		return 2
	}
	slices.SortStableFunc(out, func(a, b *layout.LogicalVolume) int { return cmp.Compare(rank(a), rank(b)) })
	return out
}

// volume gives a logical volume, in the layout and in the group's metadata, the
// largest size up to want that its form has, and its extents.
func (f *fitter) volume(vg *lvmtext.Section, g *layout.VolumeGroup, v *layout.LogicalVolume, want quantity.Size, free *[]extents) error {
	lv := vg.Get("logical_volumes", v.Name)
	if lv == nil {
		return errors.New("the group's metadata has it not")
	}
	if v.RAID() {
		r := raidVolume(vg.Get("logical_volumes"), *v)
		if r == nil {
			return errors.New("its RAID has an unknown form")
		}
		n := r.net(int64(want / g.ExtentSize))
		if err := r.place(n, *free); err != nil {
			return err
		}
		v.Size = quantity.Size(n) * g.ExtentSize
	} else {
		stripes, size := striping(lv)
		row := quantity.Size(stripes) * g.ExtentSize
		v.Size = want / row * row
		n := int64(v.Size / g.ExtentSize)
		var err error
		if stripes > 1 {
			err = placeStriped(lv, n, stripes, size, *free)
		} else {
			err = place(lv, n, free)
		}
		if err != nil {
			return err
		}
	}
	f.setPV(g.Name+"/"+v.Name, v.Size)
	return nil
}

// thinWish gives a thin volume another size only when that is wished for: it
// takes no room by itself.
func (f *fitter) thinWish(g *layout.VolumeGroup, v *layout.LogicalVolume) {
	dev := g.Name + "/" + v.Name
	for i := range f.l.Filesystems {
		for _, m := range f.l.Filesystems[i].Mounts {
			if s, ok := f.wish.Sizes[m.Path]; ok && f.l.Filesystems[i].Device == dev {
				v.Size = max(s, Least(&f.l.Filesystems[i])).AlignUp(g.ExtentSize)
				f.setPV(dev, v.Size)
			}
		}
	}
}

// extents are free extents of a physical volume, by its name in the metadata.
type extents struct {
	pv           string
	first, count int64
}

// physical writes a physical volume's new size.
func (f *fitter) physical(vg *lvmtext.Section, g *layout.VolumeGroup, p layout.PhysicalVolume) (extents, error) {
	for _, s := range vg.Get("physical_volumes").Sections() {
		if strings.ReplaceAll(s.Str("id"), "-", "") != strings.ReplaceAll(p.UUID, "-", "") {
			continue
		}
		start, ok := s.Int("pe_start")
		size := g.ExtentSize / 512
		if !ok || size <= 0 {
			return extents{}, fmt.Errorf("its metadata says nothing of where extents begin on %s", p.Device)
		}
		n := (int64(p.Size)/512 - start) / int64(size)
		if n <= 0 {
			return extents{}, fmt.Errorf("%s has no room for an extent", p.Device)
		}
		s.Set("dev_size", int64(p.Size)/512)
		s.Set("pe_count", n)
		return extents{s.Name, 0, n}, nil
	}
	return extents{}, fmt.Errorf("its metadata has no physical volume %s", p.UUID)
}

// striping is over how many physical volumes a volume lies side by side, and
// in pieces of how many sectors.
func striping(lv *lvmtext.Section) (stripes, size int64) {
	for _, s := range lv.Sections() {
		if n, ok := s.Int("stripe_count"); ok && s.Type() == "striped" {
			size, _ := s.Int("stripe_size") // a linear one has none
			return max(n, 1), size
		}
	}
	return 1, 0
}

// placeStriped gives a striped volume the same number of extents of as many
// physical volumes as it has stripes, those with most room.
func placeStriped(lv *lvmtext.Section, n, stripes, size int64, free []extents) error {
	each := n / stripes
	by := make([]*extents, len(free))
	for i := range free {
		by[i] = &free[i]
	}
	slices.SortStableFunc(by, func(a, b *extents) int { return cmp.Compare(b.count, a.count) })
	if int64(len(by)) < stripes || by[stripes-1].count < each || each == 0 {
		return &exit.Refusal{Reason: fmt.Sprintf("%d stripes of %d extents have no room beside each other", stripes, each)}
	}
	list := []lvmtext.Value{}
	for _, e := range by[:stripes] {
		list = append(list, e.pv, e.first)
		e.first, e.count = e.first+each, e.count-each
	}
	s := &lvmtext.Section{Name: "segment1"}
	s.Set("start_extent", int64(0))
	s.Set("extent_count", n)
	s.Set("type", "striped")
	s.Set("stripe_count", stripes)
	s.Set("stripe_size", size)
	s.Set("stripes", list)
	lv.Replace(func(name string) bool { return strings.HasPrefix(name, "segment") }, s)
	lv.Set("segment_count", int64(1))
	return nil
}

// place gives a linear volume extents, from as few places as there are.
func place(lv *lvmtext.Section, n int64, free *[]extents) error {
	var segs []*lvmtext.Section
	at := int64(0)
	for n > 0 {
		if len(*free) == 0 {
			return errors.New("no extents are left")
		}
		e := &(*free)[0]
		k := min(n, e.count)
		if k > 0 {
			s := &lvmtext.Section{Name: fmt.Sprintf("segment%d", len(segs)+1)}
			s.Set("start_extent", at)
			s.Set("extent_count", k)
			s.Set("type", "striped")
			s.Set("stripe_count", int64(1))
			s.Set("stripes", []lvmtext.Value{e.pv, e.first})
			segs = append(segs, s)
		}
		e.first, e.count = e.first+k, e.count-k
		at, n = at+k, n-k
		if e.count == 0 {
			*free = (*free)[1:]
		}
	}
	lv.Replace(func(name string) bool { return strings.HasPrefix(name, "segment") }, segs...)
	lv.Set("segment_count", int64(len(segs)))
	return nil
}

func (f *fitter) refuseDisk(d *layout.Disk, size quantity.Size, items []*item) error {
	var b strings.Builder
	fmt.Fprintf(&b, "the target is too small\n  %-34s %10s %10s %10s\n", "on "+d.Name, "was", "used", "least")
	need := quantity.Size(0)
	if d.Table != nil {
		need = f.overhead(d)
		fmt.Fprintf(&b, "  %-34s %10s %10s %10s\n", "partition table", "", "", need)
	}
	for _, it := range items {
		if it.dev == "" {
			continue
		}
		need += it.min.AlignUp(align)
		fmt.Fprintf(&b, "  %-34s %10s %10s %10s\n", it.dev+" ("+it.what+")", it.old, usedText(it.used), it.min)
		dev := it.dev
		if c := f.l.CryptOn(dev); c != nil {
			dev = c.Mapper()
		}
		if g := f.groupOn(dev); g != nil {
			f.rows(&b, g)
		}
	}
	fmt.Fprintf(&b, "  %-34s %10s %10s %10s\n  %-34s %10s %10s %10s", "needed", "", "", need, "there", "", "", size)
	return &exit.Refusal{Reason: b.String()}
}

func (f *fitter) rows(b *strings.Builder, g *layout.VolumeGroup) {
	for _, v := range f.lvItems(g) {
		if v.dev != "" {
			fmt.Fprintf(b, "    %-32s %10s %10s %10s\n", v.dev+" ("+v.what+")", v.old, usedText(v.used), v.min)
		}
	}
}

func usedText(n quantity.Size) string {
	if n == 0 {
		return "-"
	}
	return n.String()
}

func (f *fitter) refuseGroup(g *layout.VolumeGroup, total quantity.Size) error {
	var b strings.Builder
	fmt.Fprintf(&b, "the targets are too small for volume group %s\n    %-32s %10s %10s %10s\n", g.Name, "", "was", "used", "least")
	f.rows(&b, g)
	fmt.Fprintf(&b, "    %-32s %10s %10s %10s", "there", "", "", total)
	return &exit.Refusal{Reason: b.String()}
}
