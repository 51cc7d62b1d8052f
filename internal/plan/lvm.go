package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// references are the keys of a segment whose values name volumes, alone or in a list
// beside numbers; lib/*/*.c of LVM2, the text_import functions. stripes and mirrors may
// name physical volumes, too.
var references = []string{"stripes", "mirrors", "raids", "raid0_lvs", "mirror_log", "origin", "cow_store", "merging_store", "thin_pool", "external_origin", "merge",
	"metadata", "pool", "data", "cache_pool", "writecache", "meta_dev", "vdo_pool"}

// refers lists what a segment refers to.
func refers(seg *lvmtext.Section) []string {
	var out []string
	for _, k := range references {
		if s := seg.Str(k); s != "" {
			out = append(out, s)
		}
		for _, v := range seg.List(k) {
			if s, ok := v.(string); ok {
				out = append(out, s)
			}
		}
	}
	return out
}

// Thinless is a group's text without what vgcfgrestore(8) can't bring back: thin pools,
// what is in them and the history of that, snapshots, and the checksums of dm-integrity.
// Hidden volumes that only belonged to those are left out, too.
func Thinless(g *layout.VolumeGroup) (string, error) {
	t, err := lvmtext.Parse(g.Config)
	if err != nil {
		return "", fmt.Errorf("volume group %s: %w", g.Name, err)
	}
	lvs := t.Get(g.Name, "logical_volumes")
	drop := withoutIntegrity(lvs)
	for _, lv := range lvs.Sections() {
		for _, s := range lv.Sections() {
			switch s.Type() {
			case layout.TypeThinPool, layout.TypeThin:
				drop[lv.Name] = true
			case "snapshot":
				drop[lv.Name], drop[s.Str("cow_store")] = true, true
			}
		}
		if strings.HasSuffix(lv.Name, "_pmspare") {
			drop[lv.Name] = true
		}
	}
	history := t.Get(g.Name, "historical_logical_volumes") != nil
	if len(drop) == 0 && !history {
		return g.Config, nil
	}
	orphans(lvs, drop)
	lvs.Replace(func(name string) bool { return drop[name] })
	t.Get(g.Name).Replace(func(name string) bool { return name == "historical_logical_volumes" })
	return t.String(), nil
}

// withoutIntegrity gives volumes with dm-integrity below them the segments of their
// origin, lvmraid(7), and names what is not needed then.
func withoutIntegrity(lvs *lvmtext.Section) map[string]bool {
	drop := map[string]bool{}
	for _, lv := range lvs.Sections() {
		segs := lv.Sections()
		if len(segs) != 1 || segs[0].Type() != "integrity" {
			continue
		}
		origin := lvs.Get(segs[0].Str("origin"))
		if len(origin.Sections()) == 0 {
			continue // checkGroup names it
		}
		drop[origin.Name], drop[segs[0].Str("meta_dev")] = true, true
		lv.Replace(func(name string) bool { return strings.HasPrefix(name, "segment") }, origin.Sections()...)
		lv.Set("segment_count", int64(len(origin.Sections())))
	}
	return drop
}

// orphans adds the hidden volumes that only dropped ones refer to.
func orphans(lvs *lvmtext.Section, drop map[string]bool) {
	for again := true; again; {
		again = false
		kept, gone := map[string]bool{}, map[string]bool{}
		for _, lv := range lvs.Sections() {
			for _, s := range lv.Sections() {
				for _, n := range refers(s) {
					if drop[lv.Name] {
						gone[n] = true
					} else {
						kept[n] = true
					}
				}
			}
		}
		for _, lv := range lvs.Sections() {
			visible := slices.Contains(lv.List("status"), lvmtext.Value("VISIBLE"))
			if gone[lv.Name] && !kept[lv.Name] && !visible && !drop[lv.Name] {
				drop[lv.Name], again = true, true
			}
		}
	}
}

// madeTypes are the segment types that a volume has after vgcfgrestore(8) made it from
// the text alone.
var madeTypes = []string{"striped", "linear", layout.TypeMirror, "error", "zero"}

// groupCheck collects what keeps a group's text from being restored.
type groupCheck struct {
	vg, lvs *lvmtext.Section
	pvs     map[string]int64 // extents of each physical volume
	used    []extents        // of physical volumes
	errs    []error
}

func (c *groupCheck) bad(format string, a ...any) { c.errs = append(c.errs, fmt.Errorf(format, a...)) }

// checkGroup gives everything for which pvcreate(8), vgcfgrestore(8), the activation or
// lvcreate(8) would refuse a group's text, joined: physical volumes that are not the
// layout's or too small, references to what is not there, extents that are used twice
// or are not there, no room for thin pools.
func checkGroup(l *layout.Layout, g *layout.VolumeGroup, config string) error {
	t, err := lvmtext.Parse(config)
	if err != nil {
		return err
	}
	c := &groupCheck{vg: t.Get(g.Name), lvs: t.Get(g.Name, "logical_volumes"), pvs: map[string]int64{}}
	if c.vg == nil {
		return fmt.Errorf("its metadata is not of a group %s", g.Name)
	}
	c.physical(l, g)
	names := map[string]bool{}
	for _, lv := range c.lvs.Sections() {
		if names[lv.Name] {
			c.bad("volume %s is there twice", lv.Name)
		}
		names[lv.Name] = true
	}
	for _, lv := range c.lvs.Sections() {
		c.volume(lv)
	}
	for _, v := range g.LVs {
		if v.ThinPool != nil || v.Pool != "" {
			continue
		}
		if lv := c.lvs.Get(v.Name); lv == nil {
			c.bad("its metadata has no volume %s", v.Name)
		} else if has := quantity.Size(length(lv)) * g.ExtentSize; has < v.Size {
			c.bad("volume %s has %d bytes by the metadata, and needs %d", v.Name, int64(has), int64(v.Size))
		}
	}
	c.overlaps()
	c.thin(g)
	return errors.Join(c.errs...)
}

// physical checks physical volumes.
func (c *groupCheck) physical(l *layout.Layout, g *layout.VolumeGroup) {
	plain := func(id string) string { return strings.ReplaceAll(id, "-", "") }
	extent, _ := c.vg.Int("extent_size")
	if quantity.Size(extent)*512 != g.ExtentSize || extent <= 0 {
		c.bad("its extents have %d sectors by the metadata, and %d bytes by the layout", extent, int64(g.ExtentSize))
		return
	}
	found := map[string]bool{}
	for _, s := range c.vg.Get("physical_volumes").Sections() {
		n, _ := s.Int("pe_count")
		start, _ := s.Int("pe_start")
		c.pvs[s.Name] = n
		i := slices.IndexFunc(g.PVs, func(p layout.PhysicalVolume) bool { return plain(p.UUID) == plain(s.Str("id")) })
		if i < 0 {
			c.bad("its metadata has a physical volume %s that was missing when the backup was made", s.Str("id"))
			continue
		}
		found[plain(g.PVs[i].UUID)] = true
		if size := l.SizeOf(g.PVs[i].Device); start < 0 || n < 0 || quantity.Size(start+n*extent)*512 > size {
			c.bad("%d extents from sector %d on are more than %s has, which is %d bytes large", n, start, g.PVs[i].Device, int64(size))
		}
	}
	for _, p := range g.PVs {
		if !found[plain(p.UUID)] {
			c.bad("its metadata has no physical volume %s", p.UUID)
		}
	}
}

// volume checks the segments of one volume.
func (c *groupCheck) volume(lv *lvmtext.Section) {
	at := int64(0)
	segs := lv.Sections()
	if n, ok := lv.Int("segment_count"); !ok || int(n) != len(segs) || n == 0 {
		c.bad("volume %s has %d segments, and its count is %d", lv.Name, len(segs), n)
	}
	for _, s := range segs {
		start, _ := s.Int("start_extent")
		n, _ := s.Int("extent_count")
		if start != at || n <= 0 {
			c.bad("volume %s: segment %s begins at extent %d and has %d, where %d is expected", lv.Name, s.Name, start, n, at)
		}
		at = start + n
		if typ := s.Type(); !slices.Contains(madeTypes, typ) && !strings.HasPrefix(typ, "raid") {
			c.bad("volume %s: volumes of type %s cannot be made again", lv.Name, typ)
			continue
		}
		for _, r := range refers(s) {
			if _, pv := c.pvs[r]; !pv && c.lvs.Get(r) == nil {
				c.bad("volume %s refers to %s, which is not there", lv.Name, r)
			}
		}
		c.areas(lv, s, n)
	}
}

// areas checks where a segment's extents are: on physical volumes or inside volumes.
func (c *groupCheck) areas(lv, s *lvmtext.Section, n int64) {
	key, each := "stripes", n
	if s.Type() == layout.TypeMirror {
		key = "mirrors"
	}
	list := s.List(key)
	if count, ok := s.Int("stripe_count"); ok && key == "stripes" {
		if count < 1 || n%count != 0 || int(count)*2 != len(list) {
			c.bad("volume %s: %d extents in %d stripes, with %d places", lv.Name, n, count, len(list)/2)
			return
		}
		each = n / count
	}
	for i := 0; i+1 < len(list); i += 2 {
		name, ok1 := list[i].(string)
		first, ok2 := list[i+1].(int64)
		if !ok1 || !ok2 {
			c.bad("volume %s: a place of an unknown form", lv.Name)
			continue
		}
		if has, pv := c.pvs[name]; pv {
			c.used = append(c.used, extents{name, first, each})
			if first < 0 || first+each > has {
				c.bad("volume %s is on extents %d to %d of %s, which has %d", lv.Name, first, first+each-1, name, has)
			}
		} else if in := c.lvs.Get(name); in != nil && first+each > length(in) {
			c.bad("volume %s is on extents %d to %d of %s, which has %d", lv.Name, first, first+each-1, name, length(in))
		}
	}
}

func (c *groupCheck) overlaps() {
	slices.SortFunc(c.used, func(a, b extents) int { return cmp.Or(cmp.Compare(a.pv, b.pv), cmp.Compare(a.first, b.first)) })
	for i := 1; i < len(c.used); i++ {
		if a, b := c.used[i-1], c.used[i]; a.pv == b.pv && b.first < a.first+a.count {
			c.bad("extent %d of %s is used twice", b.first, b.pv)
		}
	}
}

// thin checks that lvcreate finds room for pools, their metadata and its reserve, which
// is as large as the largest; metadata has at least 2 MiB (lvmthin(7)).
func (c *groupCheck) thin(g *layout.VolumeGroup) {
	free, need, spare := int64(0), int64(0), int64(0)
	for _, n := range c.pvs {
		free += n
	}
	for _, u := range c.used {
		free -= u.count
	}
	for _, v := range g.LVs {
		if v.ThinPool == nil {
			continue
		}
		meta := int64(max(v.ThinPool.Metadata, 2*quantity.MiB).AlignUp(g.ExtentSize) / g.ExtentSize)
		need += int64(v.Size.AlignUp(g.ExtentSize)/g.ExtentSize) + meta
		spare = max(spare, meta)
	}
	if need > 0 && need+spare > free {
		c.bad("thin pools need %d extents, and %d are free", need+spare, free)
	}
}
