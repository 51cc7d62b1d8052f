package layout

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// Partition finds a partition and its disk by device name.
func (l *Layout) Partition(dev string) (*Disk, *Partition) {
	for i := range l.Disks {
		d := &l.Disks[i]
		if d.Table == nil {
			continue
		}
		for j := range d.Table.Partitions {
			if d.Table.Partitions[j].Device == dev {
				return d, &d.Table.Partitions[j]
			}
		}
	}
	return nil, nil
}

// Array finds an array by name.
func (l *Layout) Array(name string) *Array {
	i := slices.IndexFunc(l.Arrays, func(a Array) bool { return a.Name == name })
	if i < 0 {
		return nil
	}
	return &l.Arrays[i]
}

// ArrayOf finds the array that a device is a member or spare of.
func (l *Layout) ArrayOf(dev string) *Array {
	i := slices.IndexFunc(l.Arrays, func(a Array) bool { return slices.Contains(a.Devs(), dev) })
	if i < 0 {
		return nil
	}
	return &l.Arrays[i]
}

// Shares returns how the size of an array comes from that of its members: it is
// as large as n of them divided by copies.
func (a *Array) Shares() (n, copies int) {
	switch a.Level {
	case "raid1":
		return 1, 1
	case "raid4", "raid5":
		return max(a.Devices-1, 1), 1
	case "raid6":
		return max(a.Devices-2, 1), 1
	case "raid10":
		near, far := max(a.Layout&0xff, 1), max(a.Layout>>8&0xff, 1)
		return a.Devices, near * far
	}
	return max(a.Devices, 1), 1
}

// Module is the kernel module of an array's level.
func (a *Array) Module() string {
	switch a.Level {
	case "raid4", "raid5", "raid6":
		return "raid456"
	}
	return a.Level
}

// Tail is what metadata takes at a member's end, in bytes.
func (a *Array) Tail() quantity.Size {
	switch a.Metadata {
	case "1.0":
		return 256 * quantity.KiB // superblock, bitmap, and their rounding
	case "0.90":
		return 128 * quantity.KiB // the same; md(4): on a boundary of 64 KiB, less than 128 KiB from the end
	}
	return 0
}

// Devs are the devices of members and spares.
func (a *Array) Devs() []string {
	var out []string
	for _, m := range a.Members {
		out = append(out, m.Device)
	}
	return append(out, a.Spares...)
}

// Disk finds a disk by name.
func (l *Layout) Disk(name string) *Disk {
	i := slices.IndexFunc(l.Disks, func(d Disk) bool { return d.Name == name })
	if i < 0 {
		return nil
	}
	return &l.Disks[i]
}

// Group finds the volume group of a volume "VG/NAME".
func (l *Layout) Group(dev string) *VolumeGroup {
	vg, _, ok := strings.Cut(dev, "/")
	if !ok {
		return nil
	}
	i := slices.IndexFunc(l.VolumeGroup, func(g VolumeGroup) bool { return g.Name == vg })
	if i < 0 {
		return nil
	}
	return &l.VolumeGroup[i]
}

// DisksUnder gives the names of the disks that dev is on, sorted.
func (l *Layout) DisksUnder(dev string) []string {
	if l.Disk(dev) != nil {
		return []string{dev}
	}
	if d, _ := l.Partition(dev); d != nil {
		return []string{d.Name}
	}
	var out []string
	if a := l.Array(dev); a != nil {
		for _, m := range a.Devs() {
			out = append(out, l.DisksUnder(m)...)
		}
	}
	if c := l.Crypt(dev); c != nil {
		out = append(out, l.DisksUnder(c.Device)...)
	}
	if g := l.Group(dev); g != nil {
		for _, pv := range g.PVs {
			out = append(out, l.DisksUnder(pv.Device)...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// On finds the file system that is on a device, alone or with others.
func (l *Layout) On(dev string) *Filesystem {
	i := slices.IndexFunc(l.Filesystems, func(f Filesystem) bool { return slices.Contains(f.Devs(), dev) })
	if i < 0 {
		return nil
	}
	return &l.Filesystems[i]
}

// Mounted finds the file system mounted at path.
func (l *Layout) Mounted(path string) *Filesystem {
	for i := range l.Filesystems {
		for _, m := range l.Filesystems[i].Mounts {
			if m.Path == path {
				return &l.Filesystems[i]
			}
		}
	}
	return nil
}

// ByInclude begins the reason for which something is not in the set: the administrator has
// listed what is.
const ByInclude = "include: "

// Below reports whether a path is dir or below it. Both are absolute and clean.
func Below(path, dir string) bool {
	return dir == "/" || path == dir || strings.HasPrefix(path, dir+"/")
}

// Includes reports whether any file of what is mounted at a path is in the set.
func (f *Filesystem) Includes(mount string) bool {
	return f.Included == nil || slices.ContainsFunc(f.Included, func(i string) bool { return mount != "" && (Below(i, mount) || Below(mount, i)) })
}

// DataOnly reports whether the root file system, or a part of it, is not in the set because
// the administrator wanted other files only: what is restored does not boot.
func (l *Layout) DataOnly() bool {
	root := l.Mounted("/")
	return root != nil && (strings.HasPrefix(root.Excluded, ByInclude) || root.Included != nil)
}

// Needed gives the names of the disks that have to be recreated to bring back
// all that is not excluded, sorted.
func (l *Layout) Needed() []string {
	var out []string
	done := map[string]bool{} // groups may have thousands of volumes
	add := func(dev string) {
		if vg, _, ok := strings.Cut(dev, "/"); ok && l.Group(dev) != nil {
			if done[vg] {
				return
			}
			done[vg] = true
		}
		out = append(out, l.DisksUnder(dev)...)
	}
	for _, f := range l.Filesystems {
		if f.Excluded == "" {
			for _, d := range f.Devs() {
				add(d)
			}
		}
	}
	for _, i := range l.Images {
		if i.File != "" {
			add(i.Device)
		}
	}
	if !l.DataOnly() {
		for _, s := range l.Swap {
			if s.Active {
				add(s.Device)
			}
		}
		out = append(out, l.Boot.Disks...)
		if l.Boot.ESP != "" {
			out = append(out, l.DisksUnder(l.Boot.ESP)...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// PartitionName is the kernel's name of partition n of a disk.
func PartitionName(disk string, n int) string {
	if c := disk[len(disk)-1]; c >= '0' && c <= '9' {
		return fmt.Sprintf("%sp%d", disk, n)
	}
	return fmt.Sprintf("%s%d", disk, n)
}

// PartUUID is what Linux calls a partition of the disk: its GUID, or the
// signature of an MBR and its number; "" when it has none.
func (d *Disk) PartUUID(p *Partition) string {
	switch {
	case d.Table == nil:
		return ""
	case d.Table.Label == MBR:
		if d.Table.Signature == "" {
			return ""
		}
		return fmt.Sprintf("%s-%02x", strings.ToLower(strings.TrimPrefix(d.Table.Signature, "0x")), p.Number)
	}
	return strings.ToLower(p.GUID)
}

// SizeOf is the size of a disk, a partition or what is made of them, 0 for an unknown device.
func (l *Layout) SizeOf(dev string) quantity.Size {
	if _, q := l.Partition(dev); q != nil {
		return q.Size
	}
	if a := l.Array(dev); a != nil {
		return a.Size
	}
	if c := l.Crypt(dev); c != nil {
		return c.Size
	}
	if g := l.Group(dev); g != nil {
		if _, name, ok := strings.Cut(dev, "/"); ok { // layouts may have a thousand
			for i := range g.LVs {
				if g.LVs[i].Name == name {
					return g.LVs[i].Size
				}
			}
		}
	}
	if d := l.Disk(dev); d != nil {
		return d.Size
	}
	return 0
}
