package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// mirrorData is where data begins on the halves of a new mirror, and what their
// partitions are larger by: 1 MiB has room for superblock and bitmap, and keeps
// the alignment.
const mirrorData = align

// MirrorOf is the name that the second disk of a new mirror has in a layout,
// for --map.
func MirrorOf(disk string) string { return disk + "-mirror" }

// mirror gives the layout with what is on some of its disks on RAID1 arrays,
// over the disk and a new one, MirrorOf(disk). An EFI system partition becomes
// one with the superblock at its end, metadata 1.0, so that firmware takes each
// half for what it holds. The new array of a device is in Moved.
func mirror(want *layout.Layout, disks []string) (*layout.Layout, error) {
	if len(disks) == 0 {
		return want, nil
	}
	l, err := clone(want)
	if err != nil {
		return nil, err
	}
	for _, n := range disks {
		n = strings.TrimPrefix(n, "/dev/")
		if err := mirrorDisk(l, n); err != nil {
			return nil, err
		}
	}
	return l, l.Validate()
}

func mirrorDisk(l *layout.Layout, name string) error {
	d := l.Disk(name)
	switch {
	case d == nil:
		return refuse("--mirror %s: the layout has no disk of that name", name)
	case d.Table == nil:
		return refuse("--mirror %s: it has no partition table", name)
	case l.Boot.Dir != "":
		return refuse("--mirror %s: the boot loader %s, which is in %s, does not start from RAID", name, l.Boot.Loader, l.Boot.Dir)
	case l.Disk(MirrorOf(name)) != nil:
		return refuse("--mirror %s: it is said twice", name)
	}
	for _, p := range d.Table.Partitions {
		if a := l.ArrayOf(p.Device); a != nil {
			return refuse("--mirror %s: %s is part of the RAID array %s", name, p.Device, a.Name)
		}
	}
	enlarge(l, d)
	// The old disk had no room for that: this is what it would have needed.
	d.Size = max(d.Size, Need(d))
	mate := mateOf(d)
	for i := range d.Table.Partitions {
		p, q := &d.Table.Partitions[i], &mate.Table.Partitions[i]
		if p.Extended() || !carries(l, p.Device) {
			continue
		}
		a := layout.Array{Name: freeArray(l), Level: "raid1", Metadata: "1.2", Devices: 2, Data: mirrorData, Part: p.Size - mirrorData, Size: p.Size - mirrorData, Bitmap: true, New: true,
			Members: []layout.Member{{Device: p.Device, Role: 0}, {Device: q.Device, Role: 1}}}
		a.Label = l.Hostname + ":" + strings.TrimPrefix(a.Name, "md")
		u := strings.ReplaceAll(uuid.From("mirror "+l.Hostname+p.Device+p.GUID+d.Table.Signature), "-", "")
		a.UUID = strings.Join([]string{u[:8], u[8:16], u[16:24], u[24:32]}, ":")
		if l.Boot.ESP == p.Device {
			a.Metadata, a.Data = "1.0", 0
		} else {
			p.Type = raidType(d.Table.Label)
			q.Type = p.Type
		}
		oldPartUUID(l, d.PartUUID(p), p.Device) // which move changes
		move(l, p.Device, a.Name)
		l.Arrays = append(l.Arrays, a)
	}
	if slices.Contains(l.Boot.Disks, name) {
		l.Boot.Disks = append(l.Boot.Disks, mate.Name)
	}
	l.Disks = append(l.Disks, mate)
	return nil
}

// enlarge makes the partitions of a disk that carry something larger, for what RAID keeps
// beside the data. What is behind them moves, the records of logical partitions among it;
// those inside an extended one make it larger, too.
func enlarge(l *layout.Layout, d *layout.Disk) {
	type growth struct{ at, more quantity.Size }
	var grown []growth
	moved := func(at quantity.Size) quantity.Size {
		to := at
		for _, g := range grown {
			if g.at < at {
				to += g.more
			}
		}
		return to
	}
	size := map[int]quantity.Size{}
	for _, p := range d.Table.Partitions {
		if p.Extended() || !carries(l, p.Device) {
			continue
		}
		// mdadm(8) takes whole KiB, and 64 of them are what arrays are rounded to.
		size[p.Number] = p.Size.AlignUp(64*quantity.KiB) + mirrorData
		grown = append(grown, growth{p.Start, (size[p.Number] - p.Size).AlignUp(align)}) // what follows stays aligned
	}
	for i := range d.Table.Partitions {
		p := &d.Table.Partitions[i]
		end := moved(p.Start + p.Size)
		p.Start = moved(p.Start)
		if p.Logical() {
			p.EBR = moved(p.EBR)
		}
		if p.Extended() {
			p.Size = end - p.Start
		} else if n, ok := size[p.Number]; ok {
			p.Size = n
		}
	}
}

// mateOf is a disk with the same table, but for identifiers.
func mateOf(d *layout.Disk) layout.Disk {
	m := *d
	m.Name, m.Serial, m.WWN, m.Model = MirrorOf(d.Name), "", "", ""
	t := *d.Table
	t.Partitions = slices.Clone(t.Partitions)
	seed := m.Name + t.GUID + t.Signature
	if t.GUID != "" {
		t.GUID = strings.ToUpper(uuid.From(seed))
	}
	if t.Signature != "" {
		t.Signature = "0x" + uuid.From(seed)[:8]
	}
	for i := range t.Partitions {
		p := &t.Partitions[i]
		p.Device = layout.PartitionName(m.Name, p.Number)
		if p.GUID != "" {
			p.GUID = strings.ToUpper(uuid.From(fmt.Sprint(seed, " ", p.Number)))
		}
	}
	m.Table = &t
	return m
}

func raidType(label string) string {
	if label == layout.MBR {
		return "0xfd"
	}
	return gptTypes["0xfd"]
}

// carries reports whether the layout has something on a device.
func carries(l *layout.Layout, dev string) bool {
	return contentType(l, dev) != ""
}

// contentType is what is on a device: a file system's type, "swap", "LVM",
// "LUKS", "image"; "" for nothing.
func contentType(l *layout.Layout, dev string) string {
	for i := range l.Filesystems {
		if slices.Contains(l.Filesystems[i].Devs(), dev) {
			return l.Filesystems[i].Type
		}
	}
	for _, s := range l.Swap {
		if s.Device == dev {
			return fstype.TypeSwap
		}
	}
	for _, g := range l.VolumeGroup {
		if slices.ContainsFunc(g.PVs, func(p layout.PhysicalVolume) bool { return p.Device == dev }) {
			return "LVM"
		}
	}
	if l.CryptOn(dev) != nil {
		return "LUKS"
	}
	if slices.ContainsFunc(l.Images, func(m layout.Image) bool { return m.Device == dev && m.File != "" }) {
		return "image"
	}
	return ""
}

func freeArray(l *layout.Layout) string {
	for n := 0; ; n++ {
		if name := fmt.Sprint("md", n); l.Array(name) == nil {
			return name
		}
	}
}

// move has everything that is on one device be on another.
func move(l *layout.Layout, from, to string) {
	at := func(dev *string) {
		if *dev == from {
			*dev = to
		}
	}
	for i := range l.Filesystems {
		f := &l.Filesystems[i]
		at(&f.Device)
		for k := range f.Others {
			at(&f.Others[k])
		}
	}
	for i := range l.Swap {
		at(&l.Swap[i].Device)
	}
	for i := range l.VolumeGroup {
		for k := range l.VolumeGroup[i].PVs {
			at(&l.VolumeGroup[i].PVs[k].Device)
		}
	}
	for i := range l.Crypts {
		at(&l.Crypts[i].Device)
	}
	for i := range l.Images {
		at(&l.Images[i].Device)
	}
	at(&l.Boot.ESP)
	for old, now := range l.PartUUIDs {
		if now == from {
			l.PartUUIDs[old] = to
		}
	}
	if l.Moved == nil {
		l.Moved = map[string]string{}
	}
	for old, now := range l.Moved {
		if now == from {
			l.Moved[old] = to
		}
	}
	l.Moved[from] = to
}

// unmirror gives the layout without RAID1 arrays: what was on them is on the
// first half of each. The other disks are not needed any more, unless something
// else is on them.
func unmirror(want *layout.Layout) (*layout.Layout, error) {
	l, err := clone(want)
	if err != nil {
		return nil, err
	}
	left := l.Arrays[:0:0]
	for _, a := range l.Arrays {
		if a.Level != "raid1" {
			left = append(left, a)
			continue
		}
		dev := a.Members[0].Device
		if l.ArrayOf(a.Name) != nil {
			return nil, refuse("--unmirror: %s is part of another array", a.Name)
		}
		if _, p := l.Partition(dev); p != nil && p.Type != layout.TypeESP {
			p.Type = plainType(l, a.Name)
		}
		move(l, a.Name, dev)
		if name := a.Label[strings.Index(a.Label, ":")+1:]; name != "" {
			l.Moved["md/"+name] = dev
		}
	}
	if len(left) == len(l.Arrays) {
		return nil, refuse("--unmirror: the layout has no RAID1")
	}
	l.Arrays = left
	spareESP(l)
	boot := l.Boot.Disks
	l.Boot.Disks = nil
	needed := l.Needed() // but for the boot loader
	l.Boot.Disks = slices.DeleteFunc(boot, func(d string) bool { return !slices.Contains(needed, d) })
	if len(l.Boot.Disks) == 0 && len(want.Boot.Disks) > 0 {
		return nil, refuse("--unmirror: the boot loader was on %s, where nothing else is left", strings.Join(want.Boot.Disks, " and "))
	}
	return l, l.Validate()
}

// spareESP leaves out images of EFI partitions on disks that nothing else needs:
// they were there for the day when the other disk fails.
func spareESP(l *layout.Layout) {
	for i := range l.Images {
		m := &l.Images[i]
		d, p := l.Partition(m.Device)
		if p == nil || p.Type != layout.TypeESP || m.File == "" {
			continue
		}
		file := m.File
		if m.File = ""; slices.Contains(l.Needed(), d.Name) {
			m.File = file
		}
	}
}

// plainType is the type of a partition by what is on a device.
func plainType(l *layout.Layout, dev string) string {
	t := map[string]string{fstype.TypeSwap: "0x82", "LVM": "0x8e"}[contentType(l, dev)]
	if _, p := l.Partition(l.Array(dev).Members[0].Device); strings.HasPrefix(p.Type, "0x") {
		return cmp.Or(t, "0x83")
	}
	return cmp.Or(gptTypes[t], typeLinux)
}
