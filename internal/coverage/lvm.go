package coverage

import (
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// placing puts the volumes of a group onto the extents of its physical volumes.
type placing struct {
	c      *counter
	g      *layout.VolumeGroup
	lvs    *lvmtext.Section
	pvs    map[string]string // names in the text -> devices
	start  map[string]quantity.Size
	out    map[string][]Range
	placed map[string]bool
}

// physical gives the ranges of a physical volume.
func (c *counter) physical(g *layout.VolumeGroup, dev string, size quantity.Size) []Range {
	if c.groups[g.Name] == nil {
		c.groups[g.Name] = map[string][]Range{} // a group on itself ends here
		c.groups[g.Name] = c.place(g)
	}
	free := Range{State: Unallocated, Device: dev, What: "free extents of volume group " + g.Name}
	if len(g.Caches) > 0 {
		free.What += ", with its caches"
	}
	ranges, ok := c.groups[g.Name][dev]
	if !ok { // the text is not understood
		var all []Range
		for _, v := range g.LVs {
			all = append(all, c.device(g.Name+"/"+v.Name, v.Size)...)
		}
		x := together(all, "volume group "+g.Name)
		x.Device = dev
		return []Range{part(x, 0, size)}
	}
	return fill(ranges, size, free)
}

// place gives the ranges of the physical volumes that the text of a group describes.
func (c *counter) place(g *layout.VolumeGroup) map[string][]Range {
	p := &placing{c: c, g: g, pvs: map[string]string{}, start: map[string]quantity.Size{}, out: map[string][]Range{}, placed: map[string]bool{}}
	t, err := lvmtext.Parse(g.Config)
	if err != nil {
		return p.out
	}
	for _, s := range t.Get(g.Name, "physical_volumes").Sections() {
		start, _ := s.Int("pe_start")
		for _, v := range g.PVs {
			if v.UUID == s.Str("id") && start >= 0 && start < 1<<50 {
				p.pvs[s.Name], p.start[s.Name] = v.Device, quantity.Size(start)*512
				p.out[v.Device] = []Range{{Size: quantity.Size(start) * 512, State: Recreated, Device: v.Device, What: "metadata of volume group " + g.Name}}
			}
		}
	}
	p.lvs = t.Get(g.Name, "logical_volumes")
	visible := func(lv *lvmtext.Section) bool {
		return slices.Contains(lv.List("status"), lvmtext.Value("VISIBLE"))
	}
	for _, lv := range p.lvs.Sections() {
		if visible(lv) {
			p.volume(lv.Name, p.content(lv))
		}
	}
	for _, lv := range p.lvs.Sections() { // such as the reserve for the metadata of pools
		p.volume(lv.Name, p.whole(lv, Range{State: Recreated, Device: g.Name + "/" + lv.Name, What: "metadata of volume group " + g.Name}))
	}
	return p.out
}

// extents is the size of a number of extents, 0 for one that no group has.
func (p *placing) extents(n int64) quantity.Size {
	if n < 0 || n > 1<<32 || p.g.ExtentSize > 1<<30 {
		return 0
	}
	return quantity.Size(n) * p.g.ExtentSize
}

// length is the size of a volume by its segments.
func (p *placing) length(lv *lvmtext.Section) (n quantity.Size) {
	for _, s := range lv.Sections() {
		e, _ := s.Int("extent_count")
		n += p.extents(e)
	}
	return n
}

// whole is a volume in one state.
func (p *placing) whole(lv *lvmtext.Section, x Range) []Range {
	return []Range{part(x, 0, p.length(lv))}
}

// content gives the ranges of a volume that people see.
func (p *placing) content(lv *lvmtext.Section) []Range {
	dev := p.g.Name + "/" + lv.Name
	i := slices.IndexFunc(p.g.LVs, func(v layout.LogicalVolume) bool { return v.Name == lv.Name })
	switch {
	case i >= 0 && p.g.LVs[i].ThinPool != nil:
		return p.whole(lv, p.c.pool(p.g, &p.g.LVs[i]))
	case i >= 0:
		return fill(p.c.device(dev, p.g.LVs[i].Size), p.length(lv), Range{State: Unallocated, Device: dev, What: "behind the volume"})
	case slices.Contains(p.g.Snapshots, lv.Name):
		return p.whole(lv, Range{State: Excluded, Device: dev, What: "snapshot", Why: "snapshots are not saved"})
	}
	if u, ok := p.c.unsupported(dev); ok {
		return p.whole(lv, u)
	}
	return p.whole(lv, Range{State: NotCovered, Device: dev, What: "logical volume", Why: "it is not in the layout"})
}

// pool describes a thin pool: the extents of its volumes can't be told apart.
func (c *counter) pool(g *layout.VolumeGroup, pool *layout.LogicalVolume) Range {
	var all []Range
	for _, v := range g.LVs {
		if v.Pool == pool.Name {
			all = append(all, c.device(g.Name+"/"+v.Name, v.Size)...)
		}
	}
	x := together(all, "thin pool")
	x.Device = g.Name + "/" + pool.Name
	return x
}

// volume puts a volume with a content onto physical volumes, once.
func (p *placing) volume(name string, content []Range) {
	lv := p.lvs.Get(name)
	if lv == nil || p.placed[name] {
		return
	}
	p.placed[name] = true
	for _, s := range lv.Sections() {
		first, _ := s.Int("start_extent")
		count, _ := s.Int("extent_count")
		p.segment(s, cut(content, p.extents(first), p.extents(count)), p.extents(count))
	}
}

// segment puts a segment of size bytes onto what it refers to.
func (p *placing) segment(s *lvmtext.Section, content []Range, size quantity.Size) {
	meta := func(key string) {
		if lv := p.lvs.Get(s.Str(key)); lv != nil {
			p.volume(lv.Name, p.whole(lv, Range{State: Recreated, Device: p.g.Name + "/" + lv.Name, What: "metadata of volume group " + p.g.Name}))
		}
	}
	for _, k := range []string{"metadata", "mirror_log", "meta_dev"} {
		meta(k)
	}
	for _, k := range []string{"pool", "origin", "data", "cache_pool", "vdo_pool"} {
		if s.Type() != layout.TypeThin && s.Type() != "snapshot" {
			if lv := p.lvs.Get(s.Str(k)); lv != nil {
				p.volume(lv.Name, scale(content, size, p.length(lv)))
			}
		}
	}
	for _, v := range append(s.List("raids"), s.List("raid0_lvs")...) {
		name, _ := v.(string)
		lv := p.lvs.Get(name)
		switch {
		case lv == nil:
		case strings.Contains(name, "_rmeta_"):
			p.volume(name, p.whole(lv, Range{State: Recreated, Device: p.g.Name + "/" + name, What: "metadata of volume group " + p.g.Name}))
		default:
			p.volume(name, scale(content, size, p.length(lv)))
		}
	}
	n := quantity.Size(1)
	if count, ok := s.Int("stripe_count"); ok && count > 0 && count < 1<<10 && s.Type() != layout.TypeMirror {
		n = quantity.Size(count)
	}
	for _, k := range []string{"stripes", "mirrors"} {
		list := s.List(k)
		for i := 0; i+1 < len(list); i += 2 {
			name, _ := list[i].(string)
			at, _ := list[i+1].(int64)
			if dev, ok := p.pvs[name]; ok {
				p.out[dev] = append(p.out[dev], shift(scale(content, size, size/n), p.start[name]+p.extents(at))...)
			} else if p.lvs.Get(name) != nil {
				p.volume(name, scale(content, size, size/n))
			}
		}
	}
}
