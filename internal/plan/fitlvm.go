package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// changed reports whether a group is on disks that are needed, and one of them has another size.
func (f *fitter) changed(g *layout.VolumeGroup) (changed bool) {
	for _, p := range g.PVs {
		for _, d := range f.l.DisksUnder(p.Device) {
			if _, there := f.size[d]; !there {
				return false
			}
			changed = changed || !f.exact[d]
		}
	}
	return changed
}

// keepsSizes refuses wishes for sizes of a group's volumes.
func (f *fitter) keepsSizes(g *layout.VolumeGroup) error {
	for at := range f.wish.Sizes {
		dev := at
		if fs := f.l.Mounted(at); fs != nil {
			dev = fs.Device
		}
		if f.l.Group(dev) == g {
			return refuse("--size %s: the volume group %s has RAID volumes, and keeps its sizes", at, g.Name)
		}
	}
	return nil
}

// group sizes a group's volumes by what its physical volumes have now, and
// writes its metadata again.
func (f *fitter) group(g *layout.VolumeGroup) error {
	if !f.changed(g) {
		return nil
	}
	if _, rigid := f.raids(g); rigid {
		return f.keepsSizes(g) // as its physical volumes do
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
		return errors.New("the group's metadata lacks it")
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
			return extents{}, fmt.Errorf("its metadata lacks the place where extents begin on %s", p.Device)
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

func (f *fitter) rows(b *strings.Builder, g *layout.VolumeGroup) {
	for _, v := range f.lvItems(g) {
		if v.dev != "" {
			fmt.Fprintf(b, "    %-32s %10s %10s %10s\n", v.dev+" ("+v.what+")", v.old, usedText(v.used), v.min)
		}
	}
}

func (f *fitter) refuseGroup(g *layout.VolumeGroup, total quantity.Size) error {
	var b strings.Builder
	fmt.Fprintf(&b, "the targets are too small for volume group %s\n    %-32s %10s %10s %10s\n", g.Name, "", "was", "used", "least")
	f.rows(&b, g)
	fmt.Fprintf(&b, "    %-32s %10s %10s %10s", "there", "", "", total)
	return &exit.Refusal{Reason: b.String()}
}
