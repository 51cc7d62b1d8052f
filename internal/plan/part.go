package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/commands"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// exclude gives the layout without what is on some of its disks. RAID arrays
// with enough members elsewhere stay, degraded, so that a mirror can go to one
// disk; a btrfs stays on its other devices. What the system can't start without
// stays, or it is refused.
func exclude(want *layout.Layout, disks []string) (*layout.Layout, error) {
	if len(disks) == 0 {
		return want, nil
	}
	l, err := clone(want)
	if err != nil {
		return nil, err
	}
	for i := range disks {
		disks[i] = strings.TrimPrefix(disks[i], "/dev/")
		if l.Disk(disks[i]) == nil {
			return nil, refuse("--exclude-disk %s: the layout has no disk of that name", disks[i])
		}
	}
	on := func(devs ...string) string { return diskUnder(l, disks, devs) }
	for i := range l.Arrays {
		excludeMembers(&l.Arrays[i], func(dev string) bool { return on(dev) != "" })
	}
	for i := range l.Filesystems {
		if err := excludeFS(&l.Filesystems[i], on); err != nil {
			return nil, err
		}
	}
	l.SwapFiles = slices.DeleteFunc(l.SwapFiles, func(s layout.SwapFile) bool {
		f := l.Mounted(s.Mount)
		return f == nil || f.Excluded != ""
	})
	for i := range l.Swap {
		l.Swap[i].Active = l.Swap[i].Active && on(l.Swap[i].Device) == ""
	}
	for i := range l.Images {
		if d := on(l.Images[i].Device); d != "" {
			l.Images[i].File, l.Images[i].Excluded = "", "--exclude-disk "+d
		}
	}
	l.Boot.Disks = slices.DeleteFunc(l.Boot.Disks, func(d string) bool { return slices.Contains(disks, d) })
	if len(l.Boot.Disks) == 0 && len(want.Boot.Disks) > 0 && l.Boot.ESP == "" {
		return nil, refuse("--exclude-disk %s: the boot loader is on it and nowhere else", strings.Join(disks, ","))
	}
	return l, nil
}

// diskUnder is the first of the disks that is below one of the devices, "" if none is.
func diskUnder(l *layout.Layout, disks, devs []string) string {
	for _, d := range devs {
		for _, u := range l.DisksUnder(d) {
			if slices.Contains(disks, u) {
				return u
			}
		}
	}
	return ""
}

// excludeMembers removes members and spares, if the array can do without them.
func excludeMembers(a *layout.Array, gone func(dev string) bool) {
	left := slices.DeleteFunc(slices.Clone(a.Members), func(m layout.Member) bool { return gone(m.Device) })
	if len(left) >= leastMembers(a) {
		a.Members, a.Spares = left, slices.DeleteFunc(a.Spares, gone)
	}
}

// excludeFS leaves out a file system with a device on an excluded disk, whose name on gives.
func excludeFS(f *layout.Filesystem, on func(devs ...string) string) error {
	devs := slices.DeleteFunc(f.Devs(), func(dev string) bool { return on(dev) != "" })
	if f.Btrfs != nil && len(devs) > 0 {
		f.Device, f.Others = devs[0], devs[1:]
	}
	d := on(f.Devs()...)
	if d == "" {
		return nil
	}
	for _, m := range f.Mounts {
		if slices.Contains([]string{"/", "/boot", "/boot/efi", "/usr"}, m.Path) {
			return refuse("--exclude-disk %s: %s is on it, and the system does not start without", d, m.Path)
		}
	}
	f.Excluded = "--exclude-disk " + d
	return nil
}

// leastMembers is how many members an array works with.
func leastMembers(a *layout.Array) int {
	switch a.Level {
	case "raid1":
		return 1
	case "raid4", "raid5":
		return max(a.Devices-1, 1)
	case "raid6":
		return max(a.Devices-2, 1)
	}
	return a.Devices
}

// Only plans to make one of the layout's file systems again, on a device that is
// there, of size bytes, and is on disks, with the type that is wished for. Nothing else is touched: other parts
// of these disks may well be in use.
func Only(was *layout.Layout, w Wish, at, dev string, size quantity.Size, disks []layout.Present) (*Plan, error) {
	want, err := convert(was, w.Types)
	if err != nil {
		return nil, err
	}
	f := want.Mounted(at)
	if f == nil {
		return nil, refuse("--only %s: nothing was mounted there", at)
	}
	least := f.Size
	if fstype.Of(f.Type).Least != nil {
		least = min(Least(f), f.Size)
	}
	switch {
	case f.Excluded != "":
		return nil, refuse("--only %s: its files are not in the set (%s)", at, f.Excluded)
	case len(f.Others) > 0:
		return nil, refuse("--only %s: it is a btrfs on %d devices", at, len(f.Devs()))
	case size < least:
		return nil, refuse("--only %s: /dev/%s is too small: needed %s, there %s", at, dev, least, size)
	}
	l, err := clone(want)
	if err != nil {
		return nil, err
	}
	f = l.Mounted(at)
	l.Filesystems, l.Swap = []layout.Filesystem{*f}, nil
	p := &Plan{Layout: l, Devices: map[string]string{f.Device: dev}}
	p.partsOf(disks, fmt.Sprintf("as now, but for %s on %s", at, dev))
	run, err := commands.Mkfs(f, "/dev/"+dev, size)
	if err != nil {
		return nil, err
	}
	p.filesystemOn(f, dev, nil, run)
	p.mounts(l)
	return p, nil
}

// partsOf adds disks of which a part is overwritten.
func (p *Plan) partsOf(disks []layout.Present, then string) {
	for _, d := range disks {
		n := Disk{New: d.Disk, Now: d.Holds, Place: d.Place, Words: d.Confirmations(), Then: then}
		n.New.Table = nil
		p.Disks = append(p.Disks, n)
	}
}

// OnlyImage plans to write the one image of a layout to a device that is there, of size
// bytes, and is on disks; start is where it begins if it is a partition, 0 if not. Nothing
// else is touched.
func OnlyImage(was *layout.Layout, w Wish, dev string, size, start quantity.Size, disks []layout.Present) (*Plan, error) {
	want, err := convert(was, w.Types) // refuses types of what an image lacks
	if err != nil {
		return nil, err
	}
	if len(want.Images) != 1 {
		return nil, refuse("/dev/%s can take one image, and there are %d", dev, len(want.Images))
	}
	m := &want.Images[0]
	if size < m.Size {
		return nil, refuse("/dev/%s is too small: needed %s, there %s", dev, m.Size, size)
	}
	p := &Plan{Layout: want, Devices: map[string]string{m.Device: dev}}
	p.partsOf(disks, fmt.Sprintf("as now, but for %s on %s", m.What(), dev))
	p.putImage(want, m, dev)
	p.Steps[0].(*PutImage).Start = start
	return p, nil
}
