package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// align is what partitions begin and end at when they are laid out again.
const align = quantity.MiB

// fit adapts a layout to the sizes of the disks that it goes to, and to the
// wish's sizes. A disk of about the old size (up to a twentieth larger) on
// which nothing is wished keeps its table to the byte. On any other, file
// systems and what carries them shrink or grow: each gets the least it needs,
// and of the rest as much as it had free in proportion, so that the old
// size gives the old layout. EFI, boot and BIOS boot partitions keep their
// size, as does swap unless it is in the way of a fit; unpartitioned space and
// free extents count as something that may shrink to nothing.
//
// The result names devices as want does. It is a refusal with a table of needs
// when the least does not fit.
func fit(want *layout.Layout, m Mapping, w Wish) (*layout.Layout, error) {
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

type fitter struct {
	l         *layout.Layout
	wish      Wish
	size      map[string]quantity.Size // of the disks there
	swapShare int64
	// asWas has disks that are larger keep their table: what was there fits, even if it
	// is reckoned to need.
	asWas   bool
	pv      map[string]quantity.Size // least size of physical volumes
	exact   map[string]bool          // disks that keep their table
	sectors map[string]bool          // disks whose sectors are of another size, and partitions between them
	lvs     map[string][]*item       // of each group, by what there was
	lvRAIDs map[string]map[string]*lvRAID
}

// wishes checks that what is wished for is there, and can have a size of its own.
func (f *fitter) wishes() error {
	for _, at := range slices.Sorted(maps.Keys(f.wish.Sizes)) {
		devs := []string{at}
		if fs := f.l.Mounted(at); fs != nil {
			devs = fs.Devs()
		} else if !slices.ContainsFunc(f.l.Swap, func(s layout.Swap) bool { return s.Device == at }) {
			return refuse("--size %s: the layout has nothing there; sizes are given for mount points and swap devices", at)
		}
		for _, dev := range devs {
			if err := f.sizable(at, dev); err != nil {
				return err
			}
		}
	}
	return nil
}

// sizable refuses a size for what a device decides that can't have another.
func (f *fitter) sizable(at, dev string) error {
	if f.l.Disk(dev) != nil {
		return refuse("--size %s: it is on the whole disk %s, without a partition, and takes all of it", at, dev)
	}
	if c := f.l.Crypt(dev); c != nil {
		if c.LUKS.Fixed {
			return refuse("--size %s: the LUKS device %s keeps its size, which is in its header", at, c.Name)
		}
		return f.sizable(at, c.Device)
	}
	if a := f.l.Array(dev); a != nil {
		for _, m := range a.Devs() {
			if err := f.sizable(at, m); err != nil {
				return err
			}
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

// crypts sizes the inside of LUKS devices by what they are on.
func (f *fitter) crypts() {
	for i := range f.l.Crypts {
		c := &f.l.Crypts[i]
		if size := (f.l.SizeOf(c.Device) - quantity.Size(c.LUKS.Offset)) / quantity.Size(c.LUKS.SectorSize) * quantity.Size(c.LUKS.SectorSize); !c.LUKS.Fixed && size > 0 {
			c.Size = size
			f.setPV(c.Mapper(), size)
		}
	}
}

// wished reports whether the size of anything on a disk is wished for.
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
		caps := make([]quantity.Size, len(g.PVs))
		total := quantity.Size(0)
		for j, p := range g.PVs {
			caps[j] = max(f.most(g, p), 0)
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

// most is what a physical volume's disk could give its group at most.
func (f *fitter) most(g *layout.VolumeGroup, p layout.PhysicalVolume) (size quantity.Size) {
	for _, n := range f.l.DisksUnder(p.Device) {
		d := f.l.Disk(n)
		switch {
		case d.Name != p.Device && (f.l.Array(p.Device) != nil || f.l.Crypt(p.Device) != nil):
			size = f.pv[p.Device] // what is below it decides
		case f.exact[n]:
			size = p.Size
		case d.Table == nil:
			size = f.size[n]
		default:
			size = f.size[n] - f.overhead(d)
			for _, it := range f.items(d) {
				if it.dev != p.Device {
					size -= it.min.AlignUp(align)
				}
			}
		}
	}
	return size - peStart(g)
}

// bareDisk resizes what is on a disk without partitions.
func (f *fitter) bareDisk(d *layout.Disk, size quantity.Size) error {
	it := f.item(d.Name, d.Size)
	if it.min > size {
		return f.refuseDisk(d, size, []*item{it})
	}
	d.Size = size
	f.setPV(d.Name, size)
	return nil
}

// disk lays out a disk's partitions again.
func (f *fitter) disk(d *layout.Disk) error {
	size := f.size[d.Name]
	if f.exact[d.Name] {
		d.Size = size
		return nil
	}
	if d.Table == nil {
		return f.bareDisk(d, size)
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
		room := f.l.SizeOf(m) - a.Data - a.Tail()
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

func usedText(n quantity.Size) string {
	if n == 0 {
		return "-"
	}
	return n.String()
}
