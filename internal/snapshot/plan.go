// Package snapshot makes snapshots of mounted file systems, of LVM and of btrfs, so that a
// backup reads each of them as it was at one moment. It removes them again, and also those of
// a run that was killed.
package snapshot

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/nightly"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// DefaultRecords is the directory with the records of what runs have made.
const DefaultRecords = nightly.Dir + "/snapshots"

// Limits of what is safe to make a snapshot of.
const (
	// least is the smallest snapshot of a thick volume, in bytes; leastPercent is that in
	// percent of the volume.
	least        = 32 * quantity.MiB
	leastPercent = 1
	// share is how many percent of the free part of a volume group all snapshots may take: the
	// rest stays for thin pools and snapshots of others that grow.
	share = 75
	// maxData and maxMetadata are how full a thin pool may be, in percent: with a snapshot
	// every write takes new room, and a full pool fails the writes of its volumes.
	maxData, maxMetadata = 90, 80
)

// Maker makes snapshots on one machine.
type Maker struct {
	Run    tool.Runner
	Report progress.Reporter
	// Records is the directory with records, "" for DefaultRecords.
	Records string

	// For tests: what takes the place of package btrfs.
	subvolumes func(dir string) ([]btrfs.Subvolume, uint64, error)
	snapshot   func(src, dst string) error
	remove     func(dir string) error
}

// Source is a file system that a backup reads.
type Source struct {
	*layout.Filesystem
	Mounts []layout.Mount // the parts that are read
	// Written is set if the set is written to it.
	Written bool
	// ReadOnly is set if it is mounted for reading only: nobody changes it.
	ReadOnly bool
}

// Plan is which snapshots are to be made.
type Plan struct {
	ID      string // of the run, 16 hex digits
	volumes []volume
	trees   []tree
	// Live are the file systems without a snapshot that can change while they are read.
	Live []Live
}

// Live is a file system that is read as it is, while it is in use.
type Live struct {
	Name string // mount point, or device
	Why  string // and what to do
}

// volume is a logical volume of which a snapshot is made.
type volume struct {
	fs   *layout.Filesystem
	name string // of the snapshot, "vg0/mkcdrec_snap_ID_0"
	pool string // "vg0/pool" of a thin volume
	size quantity.Size
}

// tree is a btrfs, of whose parts snapshots are made.
type tree struct {
	fs    *layout.Filesystem
	parts []layout.Mount
}

// Empty reports whether there is nothing to make a snapshot of.
func (p *Plan) Empty() bool { return p == nil || len(p.volumes)+len(p.trees) == 0 }

// Has reports whether a file system is to have a snapshot.
func (p *Plan) Has(device string) bool {
	return p != nil && (slices.ContainsFunc(p.volumes, func(v volume) bool { return v.fs.Device == device }) ||
		slices.ContainsFunc(p.trees, func(t tree) bool { return t.fs.Device == device }))
}

// Dir is the name of the directory in the top level of each btrfs that has the snapshots.
func (p *Plan) Dir() string { return probe.SnapshotDir + p.ID }

// Plan decides for each file system whether it gets a snapshot. It makes none.
func (m *Maker) Plan(ctx context.Context, id string, l *layout.Layout, sources []Source) *Plan {
	p := &Plan{ID: id}
	thick := map[string][]Source{} // by group
	var pools []Source
	for _, s := range sources {
		lv, group := logical(l, s.Device)
		switch {
		case s.ReadOnly:
		case s.Type == fstype.TypeBtrfs:
			p.trees = append(p.trees, tree{s.Filesystem, s.Mounts})
		case lv == nil:
			p.live(s, "it is neither on LVM nor a btrfs")
		case lv.Type == layout.TypeThin:
			pools = append(pools, s)
		case s.Written:
			p.live(s, "the set is written to it, which would fill its snapshot; write the set to another file system")
		default:
			thick[group.Name] = append(thick[group.Name], s)
		}
	}
	if len(thick) > 0 {
		m.thick(ctx, p, l, thick)
	}
	if len(pools) > 0 {
		m.thin(ctx, p, l, pools)
	}
	for i := range p.volumes {
		group, _, _ := strings.Cut(p.volumes[i].fs.Device, "/")
		p.volumes[i].name = fmt.Sprintf("%s/%s%s_%d", group, probe.SnapshotVolume, id, i)
	}
	return p
}

func (p *Plan) live(s Source, why string, args ...any) {
	name := "/dev/" + s.Device
	if len(s.Mounts) > 0 && s.Mounts[0].Path != "" {
		name = s.Mounts[0].Path
	}
	p.Live = append(p.Live, Live{name, fmt.Sprintf(why, args...)})
}

// logical finds the volume that a device is, and its group; nil for none.
func logical(l *layout.Layout, device string) (*layout.LogicalVolume, *layout.VolumeGroup) {
	for i := range l.VolumeGroup {
		g := &l.VolumeGroup[i]
		for j := range g.LVs {
			if g.Name+"/"+g.LVs[j].Name == device {
				return &g.LVs[j], g
			}
		}
	}
	return nil, nil
}

// thick gives the volumes that are not thin their part of what is free in their groups, in
// proportion to their sizes. One that would get less than the minimum is left out, and the
// others share its part.
func (m *Maker) thick(ctx context.Context, p *Plan, l *layout.Layout, groups map[string][]Source) {
	rows, err := (probe.Machine{Run: m.Run}).LVMReport(ctx, "vgs", "vg_name,vg_free")
	for _, g := range l.VolumeGroup {
		sources := groups[g.Name]
		if err != nil {
			for _, s := range sources {
				p.live(s, "%v", err)
			}
			continue
		}
		free := quantity.Size(0)
		for _, r := range rows {
			if n, err := strconv.ParseInt(r["vg_free"], 10, 64); err == nil && r["vg_name"] == g.Name {
				free = quantity.Size(n)
			}
		}
		for again := true; again; {
			again = false
			sizes := divide(l, sources, free*share/100, g.ExtentSize)
			for i, s := range sources {
				lv, _ := logical(l, s.Device)
				if need := minimum(lv.Size, g.ExtentSize); sizes[i] < need {
					p.live(s, "its snapshot would need %s of the volume group %s, which has %s free for all of them; remove or shrink a volume, or add a disk (vgextend)", need, g.Name, free*share/100)
					sources, again = slices.Delete(slices.Clone(sources), i, i+1), true
					break
				}
			}
			for i := range sources {
				if !again {
					p.volumes = append(p.volumes, volume{fs: sources[i].Filesystem, size: sizes[i]})
				}
			}
		}
	}
}

// minimum is the least size of the snapshot of a volume.
func minimum(size, extent quantity.Size) quantity.Size {
	need := max(least, size*leastPercent/100)
	return min((need+extent-1)/extent*extent, size)
}

// divide gives each volume its part of room, in whole extents, and no more than its size.
func divide(l *layout.Layout, sources []Source, room, extent quantity.Size) []quantity.Size {
	all := float64(0)
	for _, s := range sources {
		lv, _ := logical(l, s.Device)
		all += float64(lv.Size)
	}
	var out []quantity.Size
	for _, s := range sources {
		lv, _ := logical(l, s.Device)
		part := quantity.Size(float64(room) * float64(lv.Size) / all)
		out = append(out, min(part/extent*extent, lv.Size))
	}
	return out
}

// thin takes the thin volumes whose pools have room.
func (m *Maker) thin(ctx context.Context, p *Plan, l *layout.Layout, sources []Source) {
	full, err := m.fullPools(ctx, maxData, maxMetadata)
	for _, s := range sources {
		lv, group := logical(l, s.Device)
		pool := group.Name + "/" + lv.Pool
		switch why := full[pool]; {
		case err != nil:
			p.live(s, "%v", err)
		case why != "":
			p.live(s, "%s; extend it (lvextend)", why)
		default:
			p.volumes = append(p.volumes, volume{fs: s.Filesystem, pool: pool})
		}
	}
}

// fullPools gives the thin pools that are filled to more than some percent, too full for a
// snapshot, with the reason.
func (m *Maker) fullPools(ctx context.Context, most, mostMetadata float64) (map[string]string, error) {
	rows, err := (probe.Machine{Run: m.Run}).LVMReport(ctx, "lvs", "vg_name,lv_name,segtype,data_percent,metadata_percent")
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, r := range rows {
		if r["segtype"] != layout.TypeThinPool {
			continue
		}
		name := r["vg_name"] + "/" + r["lv_name"]
		data, err1 := strconv.ParseFloat(r["data_percent"], 64)
		meta, err2 := strconv.ParseFloat(r["metadata_percent"], 64)
		switch {
		case err1 != nil || err2 != nil:
			out[name] = fmt.Sprintf("it can't be read how full the thin pool %s is", name)
		case data > most:
			out[name] = fmt.Sprintf("the thin pool %s is filled to %.0f %%, and a snapshot needs %.0f %% free", name, data, 100-most)
		case meta > mostMetadata:
			out[name] = fmt.Sprintf("the metadata of the thin pool %s is filled to %.0f %%, and a snapshot needs %.0f %% free", name, meta, 100-mostMetadata)
		}
	}
	return out, nil
}
