package coverage

import (
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// items lists every device, file system and subvolume with what becomes of it.
func (c *counter) items(r *Report) {
	for i := range c.Disks {
		c.diskItems(r, &c.Disks[i], r.Disks[i].Ranges)
	}
	for _, a := range c.Arrays {
		r.add(Item{Kind: "array", Name: a.Name, On: a.Devs(), Size: a.Size, What: a.Level}, c.settled(a.Name, a.Size))
	}
	for _, x := range c.Crypts {
		r.add(Item{Kind: "luks", Name: x.Mapper(), On: []string{x.Device}, Size: x.Size, What: "LUKS"}, c.settled(x.Mapper(), x.Size))
	}
	for i := range c.VolumeGroup {
		c.groupItems(r, &c.VolumeGroup[i])
	}
	for i := range c.Filesystems {
		c.filesystemItems(r, &c.Filesystems[i])
	}
	for _, s := range c.Swap {
		r.add(Item{Kind: "swap", Name: s.Device, On: []string{s.Device}, Size: s.Size, What: "swap"}, c.settled(s.Device, s.Size))
	}
	for _, m := range c.Images {
		r.add(Item{Kind: "image", Name: m.Device, On: []string{m.Device}, Size: m.Size, What: m.What()}, c.settled(m.Device, m.Size))
	}
}

// add adds an item with the state and the sums of ranges.
func (r *Report) add(i Item, ranges []Range) {
	x := together(ranges, "")
	i.State, i.Why, i.Sums = x.State, x.Why, sums(ranges)
	if i.What == "" && len(ranges) == 1 {
		i.What = ranges[0].What
	}
	r.Items = append(r.Items, i)
}

func (c *counter) settled(dev string, size quantity.Size) []Range {
	return c.settle(c.device(dev, size), c.DisksUnder(dev)...)
}

func (c *counter) diskItems(r *Report, d *layout.Disk, ranges []Range) {
	r.add(Item{Kind: "disk", Name: d.Name, Size: d.Size, What: d.Model}, ranges)
	if d.Table == nil {
		return
	}
	rest := slices.Clone(ranges)
	for _, p := range d.Table.Partitions {
		if p.Extended() {
			continue
		}
		r.add(Item{Kind: "partition", Name: p.Device, On: []string{d.Name}, Size: p.Size}, cut(ranges, p.Start, p.Size))
		rest = slices.DeleteFunc(rest, func(x Range) bool { return x.Start >= p.Start && x.Start < p.Start+p.Size })
	}
	n := quantity.Size(0)
	for _, x := range rest {
		n += x.Size
	}
	if n > 0 {
		r.add(Item{Kind: "rest", Name: d.Name, On: []string{d.Name}, Size: n, What: "outside of partitions"}, rest)
	}
}

func (c *counter) groupItems(r *Report, g *layout.VolumeGroup) {
	var on, disks []string
	var all []Range
	n := quantity.Size(0)
	for _, v := range g.PVs {
		on, disks = append(on, v.Device), append(disks, c.DisksUnder(v.Device)...)
		all = append(all, c.device(v.Device, v.Size)...)
		n += v.Size
	}
	r.add(Item{Kind: "group", Name: g.Name, On: on, Size: n, What: "volume group"}, c.settle(all, disks...))
	for i := range g.LVs {
		v := &g.LVs[i]
		dev := g.Name + "/" + v.Name
		ranges := c.device(dev, v.Size)
		if v.ThinPool != nil {
			ranges = []Range{part(c.pool(g, v), 0, v.Size)}
		}
		r.add(Item{Kind: "volume", Name: dev, On: []string{g.Name}, Size: v.Size}, c.settle(ranges, disks...))
	}
	for _, s := range g.Snapshots {
		r.Items = append(r.Items, Item{Kind: "volume", Name: g.Name + "/" + s, On: []string{g.Name}, State: Excluded, What: "snapshot", Why: "snapshots are not saved"})
	}
}

// inside is what becomes of the bytes of a file system of which it was measured what rules leave out; nil for others.
func (c *counter) inside(f *layout.Filesystem, s State) []Sum {
	if c.marks.Omitted == nil || s != Files {
		return nil
	}
	omitted := quantity.Size(0)
	for _, o := range c.marks.Omitted {
		if o.Device == f.Device {
			omitted += o.Size
		}
	}
	used := min(f.Used, f.Size)
	omitted = min(omitted, used)
	var out []Sum
	for _, x := range []Sum{{Files, used - omitted}, {Excluded, omitted}, {Unallocated, f.Size - used}} {
		if x.Size > 0 {
			out = append(out, x)
		}
	}
	return out
}

// filesystemItems lists a file system and its subvolumes, with those that are not saved.
func (c *counter) filesystemItems(r *Report, f *layout.Filesystem) {
	x := c.filesystem(f)
	r.Items = append(r.Items, Item{Kind: "filesystem", Name: f.Device, On: f.Devs(), Size: f.Size, State: x.State, What: x.What, Why: x.Why, Sums: c.inside(f, x.State)})
	sub := func(path string, s State, what, why string) {
		r.Items = append(r.Items, Item{Kind: "subvolume", Name: f.Device + ":" + path, On: []string{f.Device}, State: s, What: what, Why: why})
	}
	for _, v := range f.Subvolumes {
		state, why := x.State, x.Why
		if f.Excluded == "" && state == NotCovered { // another part of it may be what is missing
			state, why = Files, ""
			for _, m := range f.Parts() {
				part := slices.Contains(c.marks.Missing, Part{f.Device, m.Path})
				if part && (v.Path == m.Subvolume || slices.Contains(f.Inner(m), strings.TrimPrefix(strings.TrimPrefix(v.Path, m.Subvolume), "/"))) {
					state, why = NotCovered, x.Why
				}
			}
		}
		sub(v.Path, state, "subvolume", why)
	}
	for _, s := range f.Snapshots {
		sub(s, Excluded, "snapshot", "read-only snapshots are not saved")
	}
	for i, u := range c.Unsupported {
		path, ok := strings.CutPrefix(u.Device, f.Device+":")
		if !ok {
			continue
		}
		if rule := c.marks.Rules[i]; rule != "" {
			sub(path, Excluded, "subvolume", rule)
		} else {
			sub(path, NotCovered, "subvolume", u.Reason)
		}
	}
}
