package probe

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// loose marks the disks that can be unplugged and that nothing refers to.
func (m Machine) loose(l *layout.Layout, mounts []MountInfo) {
	used := m.usedDisks(l, mounts)
	for i := range l.Disks {
		d := &l.Disks[i]
		held, err := filepath.Glob(m.path("/sys/block/" + sysName(d.Name) + "/" + "*/holders/*"))
		direct, err2 := filepath.Glob(m.path("/sys/block/" + sysName(d.Name) + "/holders/*"))
		d.Loose = (d.Removable || m.usb(d.Name)) && !used[d.Name] && err == nil && err2 == nil && len(held)+len(direct) == 0
	}
}

// usedDisks are the disks that something of the machine is on or refers to.
func (m Machine) usedDisks(l *layout.Layout, mounts []MountInfo) map[string]bool {
	used := map[string]bool{}
	use := func(devs ...string) {
		for _, dev := range devs {
			for _, d := range l.DisksUnder(dev) {
				used[d] = true
			}
		}
	}
	for _, mi := range mounts {
		use(m.DisksOf(mi.Device)...)
	}
	for i := range l.Filesystems {
		if f := &l.Filesystems[i]; f.InUse() {
			use(f.Devs()...)
		}
	}
	for _, s := range l.Swap {
		if s.Active {
			use(s.Device)
		}
	}
	for _, a := range l.Arrays {
		use(a.Devs()...)
	}
	for _, c := range l.Crypts {
		use(c.Device)
	}
	for _, g := range l.VolumeGroup {
		for _, p := range g.PVs {
			use(p.Device)
		}
	}
	use(l.Boot.Disks...)
	use(l.Boot.ESP)
	r := sysconf.NewResolver(l, sysconf.Options{})
	for _, e := range sysconf.ParseFstab(l.Fstab).Entries {
		use(r.Entry(e).Device)
	}
	for _, e := range sysconf.ParseCrypttab(m.file("/etc/crypttab")).Entries {
		use(r.Crypt(e).Device)
	}
	for _, x := range m.references(l) { // units and the kernel's command line, too
		use(r.Find(x.ref).Device)
	}
	return used
}

// fstabSubvolumes gives the subvolumes of any btrfs that fstab or the kernel's command
// line mounts, by path.
func fstabSubvolumes(l *layout.Layout, cmdline string) map[string]bool {
	out := map[string]bool{}
	options := func(list string) {
		if v, ok := sysconf.Option(list, "subvol"); ok {
			out[strings.Trim(v, "/")] = true
		}
	}
	for _, e := range sysconf.ParseFstab(l.Fstab).Entries {
		if e.Type == fstype.TypeBtrfs || e.Type == "auto" {
			options(e.Options)
		}
	}
	for _, w := range sysconf.ParseCmdline(cmdline).Words {
		if w.Name == "rootflags" {
			options(w.Value)
		}
	}
	return out
}

// links records the names below /dev/disk of the layout's devices.
func (m Machine) links(l *layout.Layout) {
	known := map[string]bool{}
	for i := range l.Disks {
		known[l.Disks[i].Name] = true
		if l.Disks[i].Table != nil {
			for _, p := range l.Disks[i].Table.Partitions {
				known[p.Device] = true
			}
		}
	}
	for _, a := range l.Arrays {
		known[a.Name] = true
	}
	for _, c := range l.Crypts {
		known[c.Mapper()] = true
	}
	for _, g := range l.VolumeGroup {
		for _, v := range g.LVs {
			known[g.Name+"/"+v.Name] = true
		}
	}
	all, err := filepath.Glob(m.path("/dev/disk/by-*/*"))
	if err != nil {
		return
	}
	for _, p := range all {
		real, err := filepath.EvalSymlinks(p)
		if err != nil {
			continue
		}
		dev := m.resolve(strings.TrimPrefix(real, strings.TrimSuffix(m.path("/"), "/")))
		if name := filepath.Base(filepath.Dir(p)) + "/" + filepath.Base(p); known[dev] && layout.Text(name) {
			if l.Links == nil {
				l.Links = map[string][]string{}
			}
			l.Links[dev] = append(l.Links[dev], name)
		}
	}
	for _, names := range l.Links {
		slices.Sort(names)
	}
}
