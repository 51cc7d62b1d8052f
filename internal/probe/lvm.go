package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// unknownPV is what lvm(8) calls a physical volume that it can't find.
const unknownPV = "[unknown]"

// lvm reads the volume groups, if any partition is a physical volume.
func (m Machine) lvm(ctx context.Context, l *layout.Layout) error {
	if !m.hasPV(l) {
		return nil
	}
	vgs, err := m.LVMReport(ctx, "vgs", "vg_name,vg_uuid,vg_extent_size")
	if err != nil {
		return err
	}
	pvs, err := m.LVMReport(ctx, "pvs", "pv_name,pv_uuid,dev_size,vg_name")
	if err != nil {
		return err
	}
	lvs, err := m.LVMReport(ctx, "lvs", "vg_name,lv_name,lv_uuid,lv_size,segtype,origin,pool_lv,chunk_size,lv_metadata_size,zero,discards,lv_attr")
	if err != nil {
		return err
	}
	used := m.referred(l)
	for _, r := range vgs {
		g := layout.VolumeGroup{Name: r["vg_name"], UUID: r["vg_uuid"], ExtentSize: number(r["vg_extent_size"])}
		if missing := m.physicalVolumes(&g, pvs); len(missing) > 0 {
			l.Unsupported = append(l.Unsupported, layout.Unsupported{What: g.Name, Device: groupOn(g), Reason: "volume group with missing physical volumes (" + strings.Join(missing, ", ") + "); make it whole (lvconvert --repair, vgreduce --removemissing)"})
			continue
		}
		for _, v := range lvs {
			// A volume of several segments has several lines.
			if v["vg_name"] == g.Name && !slices.ContainsFunc(g.LVs, func(o layout.LogicalVolume) bool { return o.Name == v["lv_name"] }) {
				addVolume(l, &g, v, used(g.Name+"/"+v["lv_name"]) || used(sysconf.VolumeID(g.UUID, v["lv_uuid"])))
			}
		}
		if g.Config, err = m.vgConfig(ctx, g.Name); err == nil {
			err = cacheless(&g)
		}
		if err != nil {
			l.Unsupported = append(l.Unsupported, layout.Unsupported{What: g.Name, Device: groupOn(g), Reason: err.Error()})
			continue
		}
		l.VolumeGroup = append(l.VolumeGroup, g)
	}
	return nil
}

// physicalVolumes gives a group its physical volumes, and returns the UUIDs of those that
// are missing.
func (m Machine) physicalVolumes(g *layout.VolumeGroup, pvs []map[string]string) (missing []string) {
	for _, p := range pvs {
		if p["vg_name"] == g.Name && p["pv_name"] == unknownPV {
			missing = append(missing, p["pv_uuid"])
		} else if p["vg_name"] == g.Name {
			g.PVs = append(g.PVs, layout.PhysicalVolume{Device: m.resolve(p["pv_name"]), UUID: p["pv_uuid"], Size: number(p["dev_size"])})
		}
	}
	return missing
}

// thinSnapshot reports whether a thin volume is a snapshot that is read-only and not active.
func thinSnapshot(v map[string]string) bool {
	return v["origin"] != "" && attr(v, attrAccess) == 'r' && attr(v, attrState) != 'a'
}

// addVolume puts a line of lvs into its group: among the volumes, snapshots or caches, or
// among what the layout does not support. referred is set for a volume that something names.
func addVolume(l *layout.Layout, g *layout.VolumeGroup, v map[string]string, referred bool) {
	name := g.Name + "/" + v["lv_name"]
	unsupported := func(reason string) {
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: name, Device: name, Reason: reason})
	}
	if ourVolume(v) {
		g.Snapshots = append(g.Snapshots, v["lv_name"])
		return
	}
	if v["origin"] != "" && v["pool_lv"] == "" {
		if referred || attr(v, attrOpen) == 'o' {
			unsupported("copy-on-write snapshot that is in use: its content can't be saved")
		}
		g.Snapshots = append(g.Snapshots, v["lv_name"])
		return
	}
	typ := v["segtype"]
	switch typ {
	case "cache-pool":
		g.Caches = append(g.Caches, v["lv_name"])
		return
	case "cache", "writecache":
		g.Caches = append(g.Caches, v["lv_name"])
		typ = "" // linear, as it will be, when its origin is nothing else
	case "linear":
		typ = ""
	}
	lv := layout.LogicalVolume{Name: v["lv_name"], Type: typ, UUID: v["lv_uuid"], Size: number(v["lv_size"])}
	switch {
	case typ == layout.TypeThin:
		lv.Pool = v["pool_lv"]
		if !referred && thinSnapshot(v) {
			g.Snapshots = append(g.Snapshots, lv.Name)
			return
		}
	case typ == layout.TypeThinPool:
		lv.ThinPool = &layout.ThinPool{Chunk: number(v["chunk_size"]), Metadata: number(v["lv_metadata_size"]), Zero: v["zero"] != "" && v["zero"] != "0", Discards: v["discards"]}
	case typ != "" && !slices.Contains(layout.LVTypes, typ):
		unsupported("logical volume of type " + v["segtype"] + " is not supported")
		return
	}
	g.LVs = append(g.LVs, lv)
}

// groupOn is the Device of an Unsupported about a group that is not in the layout: the
// part of its first physical volume that it is.
func groupOn(g layout.VolumeGroup) string {
	if len(g.PVs) == 0 {
		return g.Name
	}
	return partOf(g.PVs[0].Device, g.Name)
}

func (m Machine) hasPV(l *layout.Layout) bool {
	is := func(dev string, size quantity.Size) bool {
		i, err := m.superblockOf(dev, size)
		return err == nil && i != nil && i.Type == superblock.TypeLVM
	}
	for _, a := range l.Arrays {
		if is(a.Name, a.Size) {
			return true
		}
	}
	for _, c := range l.Crypts {
		if is(c.Mapper(), c.Size) {
			return true
		}
	}
	for _, d := range l.Disks {
		if d.Table == nil {
			if is(d.Name, d.Size) {
				return true
			}
			continue
		}
		for _, p := range d.Table.Partitions {
			if !p.Extended() && is(p.Device, p.Size) {
				return true
			}
		}
	}
	return false
}

// Places of lvs's lv_attr, lvs(8).
const attrAccess, attrState, attrOpen = 1, 4, 5

// attr gives a letter of a volume's attributes, '-' if absent.
func attr(row map[string]string, i int) byte {
	if a := row["lv_attr"]; i < len(a) {
		return a[i]
	}
	return '-'
}

func number(s string) quantity.Size {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return -1 // Validate reports where
	}
	return quantity.Size(v)
}

// LVMReport gives the rows that "lvm what" ("vgs", "lvs") reports, each by the names of its
// columns; columns are separated by commas, sizes are in bytes.
func (m Machine) LVMReport(ctx context.Context, what, columns string) ([]map[string]string, error) {
	out, err := m.Run.Run(ctx, tool.New("lvm", what, "--reportformat", "json", "--units", "b", "--nosuffix", "-o", columns))
	if err != nil {
		return nil, fmt.Errorf("cannot read LVM: %w", err)
	}
	return parseReport(out)
}

func parseReport(out []byte) ([]map[string]string, error) {
	var v struct {
		Report []map[string][]map[string]string
	}
	if err := json.Unmarshal(out, &v); err != nil {
		return nil, fmt.Errorf("cannot read LVM's report: %w", err)
	}
	var rows []map[string]string
	for _, r := range v.Report {
		for _, t := range r {
			rows = append(rows, t...)
		}
	}
	return rows, nil
}

// cacheless takes caches out of a group's text, lvmcache(7): a volume gets the
// segments of its origin, which is dropped with all that was a cache.
func cacheless(g *layout.VolumeGroup) error {
	t, err := lvmtext.Parse(g.Config)
	if err != nil || len(g.Caches) == 0 {
		return err // a restore reads it, too
	}
	lvs := t.Get(g.Name, "logical_volumes")
	drop := map[string]bool{}
	dropPool := func(name string) {
		drop[name] = true
		for _, s := range lvs.Get(name).Sections() {
			drop[s.Str("data")], drop[s.Str("metadata")] = true, true
		}
	}
	for _, name := range g.Caches {
		lv := lvs.Get(name)
		if len(lv.Sections()) != 1 {
			return fmt.Errorf("the cached volume %s has an unknown form", name)
		}
		seg := lv.Sections()[0]
		if seg.Type() == "cache-pool" {
			dropPool(name) // of nobody
			continue
		}
		origin := lvs.Get(seg.Str("origin"))
		if len(origin.Sections()) == 0 {
			return fmt.Errorf("the cached volume %s has no origin", name)
		}
		dropPool(seg.Str("cache_pool"))
		dropPool(seg.Str("writecache"))
		drop[origin.Name] = true
		lv.Set("segment_count", int64(len(origin.Sections())))
		lv.Replace(func(name string) bool { return strings.HasPrefix(name, "segment") }, origin.Sections()...)
		for i := range g.LVs {
			if n, _ := origin.Sections()[0].Int("stripe_count"); g.LVs[i].Name == name && n != 1 { // 1 is linear, and RAID has none
				g.LVs[i].Type = origin.Sections()[0].Type()
			}
		}
	}
	thin := slices.ContainsFunc(g.LVs, func(v layout.LogicalVolume) bool { return v.ThinPool != nil })
	lvs.Replace(func(name string) bool { return drop[name] || strings.HasSuffix(name, "_pmspare") && !thin })
	g.LVs = slices.DeleteFunc(g.LVs, func(v layout.LogicalVolume) bool { return drop[v.Name] })
	g.Config = t.String()
	return nil
}

// vgConfig gets the text of vgcfgbackup; the program writes to files only.
func (m Machine) vgConfig(ctx context.Context, vg string) (string, error) {
	dir, err := os.MkdirTemp("", "mkcdrec-vg")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "vg")
	if _, err := m.Run.Run(ctx, tool.New("lvm", "vgcfgbackup", "-f", file, vg)); err != nil {
		return "", fmt.Errorf("cannot save volume group %s: %w", vg, err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("cannot save volume group %s: %w", vg, err)
	}
	return strings.TrimSpace(string(b)) + "\n", nil
}
