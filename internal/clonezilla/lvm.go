package clonezilla

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// sector is the unit of LVM's text, vgcfgbackup(8).
const sector = 512

// groups reads the volume groups: lvm_vg_dev.list has their names and devices,
// lvm_VG.conf is the text of vgcfgbackup(8).
func (s *Set) groups() error {
	pvs, err := parse(s, "lvm_vg_dev.list", parsePVs)
	if err != nil {
		return err
	}
	lvs, err := parse(s, "lvm_logv.list", parseLVs)
	if err != nil {
		return err
	}
	var done []string
	for _, p := range pvs {
		if p.group == noGroup {
			s.unsupported(p.device, "physical volume of no volume group")
			continue
		}
		if slices.Contains(done, p.group) {
			continue
		}
		done = append(done, p.group)
		file := "lvm_" + p.group + ".conf"
		text, err := s.text(file)
		if err != nil {
			return err
		}
		g, err := group(p.group, text, pvs)
		if err != nil {
			s.unsupported(p.group, "volume group can't be read from %s: %v", file, err)
			continue
		}
		for _, v := range g.LVs {
			// Snapshots have no line when they were not active.
			if !slices.Contains(lvs, g.Name+"/"+v.Name) {
				s.unsupported(g.Name+"/"+v.Name, "logical volume is not in lvm_logv.list: it was not active when the image was made")
			}
		}
		s.Groups = append(s.Groups, *g)
	}
	for _, v := range lvs {
		vg, _, _ := strings.Cut(v, "/")
		if !slices.Contains(done, vg) {
			return fmt.Errorf("lvm_logv.list: %s is of a group that lvm_vg_dev.list does not have", v)
		}
	}
	return nil
}

// group makes a volume group from its text.
func group(name, text string, pvs []physical) (*layout.VolumeGroup, error) {
	if text == "" {
		return nil, fmt.Errorf("there is no such file")
	}
	t, err := lvmtext.Parse(text)
	if err != nil {
		return nil, err
	}
	vg := t.Get(name)
	if vg == nil {
		return nil, fmt.Errorf("it is of another group")
	}
	extent, _ := vg.Int("extent_size")
	if extent <= 0 || extent > 1<<40 {
		return nil, fmt.Errorf("extents of %d sectors", extent)
	}
	g := &layout.VolumeGroup{Name: name, UUID: vg.Str("id"), ExtentSize: quantity.Size(extent * sector), Config: strings.TrimSpace(text) + "\n"}
	for _, p := range vg.Get("physical_volumes").Sections() {
		i := slices.IndexFunc(pvs, func(v physical) bool { return v.group == name && v.uuid == p.Str("id") })
		size, _ := p.Int("dev_size")
		switch {
		case i < 0:
			return nil, fmt.Errorf("its physical volume %s (%s) was not saved", p.Name, p.Str("id"))
		case size <= 0 || size > 1<<50:
			return nil, fmt.Errorf("its physical volume %s has %d sectors", p.Name, size)
		}
		g.PVs = append(g.PVs, layout.PhysicalVolume{Device: pvs[i].device, UUID: p.Str("id"), Size: quantity.Size(size * sector)})
	}
	for _, v := range vg.Get("logical_volumes").Sections() {
		if !slices.Contains(v.List("status"), lvmtext.Value("VISIBLE")) {
			continue // a part of another volume
		}
		lv, err := volume(v, extent)
		if err != nil {
			return nil, fmt.Errorf("logical volume %s: %w", v.Name, err)
		}
		g.LVs = append(g.LVs, *lv)
	}
	return g, nil
}

func volume(v *lvmtext.Section, extent int64) (*layout.LogicalVolume, error) {
	if _, err := device("vg/" + v.Name); err != nil {
		return nil, err
	}
	lv := &layout.LogicalVolume{Name: v.Name, UUID: v.Str("id")}
	var extents int64
	for i, seg := range v.Sections() {
		n, _ := seg.Int("extent_count")
		if n <= 0 || n > (1<<53)/extent-extents {
			return nil, fmt.Errorf("segment of %d extents", n)
		}
		extents += n
		typ := seg.Type()
		if stripes, _ := seg.Int("stripe_count"); typ == "striped" && stripes == 1 || typ == "linear" {
			typ = ""
		}
		if i == 0 {
			lv.Type = typ
		}
		plain := func(t string) bool { return t == "" || t == "striped" } // may follow each other
		if typ != "" && !slices.Contains(layout.LVTypes, typ) || typ != lv.Type && !(plain(typ) && plain(lv.Type)) {
			return nil, fmt.Errorf("type %q is not read from Clonezilla images", seg.Type())
		}
	}
	if extents == 0 {
		return nil, fmt.Errorf("has no segments")
	}
	lv.Size = quantity.Size(extents * extent * sector)
	return lv, nil
}

// isPV reports whether a device is a physical volume of a group.
func (s *Set) isPV(dev string) bool {
	return slices.ContainsFunc(s.Groups, func(g layout.VolumeGroup) bool {
		return slices.ContainsFunc(g.PVs, func(p layout.PhysicalVolume) bool { return p.Device == dev })
	})
}
