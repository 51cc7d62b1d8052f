package probe

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// reference is a name of a device in one of the system's own files.
type reference struct {
	ref sysconf.Ref
	in  string // the file, for people
	at  string // where it is mounted; "" for swap and for what is not mounted itself
}

// text is the reference as it is written, and where.
func (r reference) text() string { return r.ref.Text + " in " + r.in }

// unitDirs are where mount and swap units of the system are, systemd.unit(5); what
// generators write comes from fstab, crypttab and the kernel's command line.
func unitDirs() []string {
	return []string{"/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}
}

// references gives the names of devices in fstab, crypttab, mount and swap units and
// the kernel's command line.
func (m Machine) references(l *layout.Layout) []reference {
	var out []reference
	for _, e := range sysconf.ParseFstab(l.Fstab).Entries {
		if !sysconf.HasOption(e.Options, "_netdev") { // of another machine
			out = append(out, reference{e.Ref(), "/etc/fstab", e.Path()})
		}
	}
	for _, e := range sysconf.ParseCrypttab(m.file("/etc/crypttab")).Entries {
		out = append(out, reference{sysconf.ParseRef(e.Spec), "/etc/crypttab", ""})
	}
	for _, dir := range unitDirs() {
		for kind, section := range map[string]string{"mount": "Mount", "swap": "Swap"} {
			all, err := filepath.Glob(m.inSystem(dir) + "/*." + kind)
			if err != nil {
				continue
			}
			for _, f := range all {
				name := dir + "/" + filepath.Base(f)
				u := sysconf.ParseUnit(m.file(name))
				if what := u.Value(section, "What"); what != "" {
					out = append(out, reference{sysconf.ParseRef(what), name, u.Value(section, "Where")})
				}
			}
		}
	}
	sysconf.VisitKernelRefs(m.cmdline(), sysconf.Plain, func(k sysconf.KernelRef) (string, bool) {
		switch r := k.Ref; k.Form {
		case sysconf.LV:
			r = sysconf.ParseRef("/dev/" + k.Text)
			r.Text = k.Param + "=" + k.Text
			out = append(out, reference{r, "the kernel's command line", ""})
		case sysconf.LUKSUUID:
			r = sysconf.ParseRef("UUID=" + strings.TrimPrefix(k.Text, "luks-"))
			r.Text = k.Param + "=" + k.Text
			out = append(out, reference{r, "the kernel's command line", ""})
		case sysconf.Spec:
			out = append(out, reference{r, "the kernel's command line", ""})
		}
		return "", false
	})
	return out
}

// referred gives a function that reports whether a device is mounted, swapped to, or named
// by its path, or by a link to it, in a file of the system. It does without sysconf.Resolver,
// which looks in a whole layout: this one is being made, and has no snapshots.
func (m Machine) referred(l *layout.Layout) func(dev string) bool {
	used := map[string]bool{}
	if mounts, err := m.Mounts(); err == nil {
		for _, mi := range mounts {
			used[mi.Device] = true
		}
	}
	for _, s := range m.swaps() {
		used[s] = true
	}
	for _, x := range m.references(l) {
		switch r := x.ref; r.Kind {
		case sysconf.Path:
			used[m.resolve("/dev/"+r.Value)] = true
			fallthrough
		case sysconf.ID: // also without the link of a volume that is not active
			used[r.Value], used[r.Volume()] = true, true
		}
	}
	delete(used, "")
	return func(dev string) bool { return used[dev] }
}

// present collects the UUIDs and labels of what is on the machine's devices, so that a
// reference that leads nowhere is known.
type present map[string]bool

func (p present) add(uuid, label string) {
	p["UUID="+strings.ToLower(uuid)] = true
	p["LABEL="+label] = true
}

// has reports whether a reference by UUID or label leads to a device. dracut takes the
// beginning of a UUID of LUKS.
func (p present) has(r sysconf.Ref) bool {
	switch r.Kind {
	case sysconf.UUID:
		for k := range p {
			if strings.HasPrefix(k, "UUID="+r.Value) {
				return true
			}
		}
		return false
	case sysconf.Label:
		return p["LABEL="+r.Value]
	}
	return true
}

// udev adds what udev has found: on loop devices, on disks of a SAN, on everything that
// is not part of the layout.
func (p present) udev(m Machine, skip func(dev string) bool) {
	for _, dir := range []string{"by-uuid", "by-label"} {
		all, err := filepath.Glob(m.path("/dev/disk/" + dir + "/*"))
		if err != nil {
			continue
		}
		for _, f := range all {
			link := "/dev/disk/" + dir + "/" + filepath.Base(f)
			switch r := sysconf.ParseRef(link); {
			case skip(m.resolve(link)):
			case r.Kind == sysconf.UUID:
				p.add(r.Value, "")
			case r.Kind == sysconf.Label:
				p.add("", r.Value)
			}
		}
	}
}

// snapshotsOf lists the LVM snapshots, as GROUP/NAME, without those of backups: nothing
// refers to them.
func snapshotsOf(l *layout.Layout) (devs []string) {
	for _, g := range l.VolumeGroup {
		for _, s := range g.Snapshots {
			if !strings.HasPrefix(s, SnapshotVolume) {
				devs = append(devs, g.Name+"/"+s)
			}
		}
	}
	return devs
}

// snapshots names the LVM snapshots that are left out of the layout but that a file of
// the system may mean by UUID or label. A snapshot has the UUID and label of its origin
// at the time when it was made, so that these lead to the origin, which is content
// itself, as long as both are the same. They differ after the origin was given another
// UUID (tune2fs -U, xfs_admin -U, btrfstune -u), was made again or merged, or was
// removed: then a reference leads to nothing else than the snapshot. One that is active
// is read, and known for certain; in one that is not active nothing can be read without
// changing the machine. So where a reference leads to no device that is there, each of
// these may be what it means, and all of them are named: content that is left out with
// exit code 0 would be lost.
func (m Machine) snapshots(l *layout.Layout, mounts []MountInfo, seen present) {
	left := snapshotsOf(l)
	if len(left) == 0 || len(m.Only) > 0 {
		return
	}
	seen.udev(m, func(dev string) bool { return slices.Contains(left, dev) })
	lost := slices.DeleteFunc(m.references(l), func(r reference) bool {
		mounted := r.at != "" && slices.ContainsFunc(mounts, func(mi MountInfo) bool { return mi.Path == r.at && mi.Device != "" })
		return mounted || seen.has(r.ref)
	})
	cannot := func(dev, reason string) {
		if !slices.ContainsFunc(l.Unsupported, func(u layout.Unsupported) bool { return u.Device == dev }) {
			l.Unsupported = append(l.Unsupported, layout.Unsupported{What: dev, Device: dev, Reason: reason})
		}
	}
	var closed []string
	for _, dev := range left {
		i, err := m.superblockOf(dev, 1<<62)
		if err != nil {
			closed = append(closed, dev)
			continue
		}
		if i == nil {
			continue
		}
		is := present{}
		is.add(i.UUID, i.Label)
		for _, r := range lost {
			if is.has(r.ref) {
				cannot(dev, "snapshot that is in use ("+r.text()+"): its content can't be saved")
				seen.add(i.UUID, i.Label)
			}
		}
	}
	lost = slices.DeleteFunc(lost, func(r reference) bool { return seen.has(r.ref) })
	if len(lost) == 0 {
		return
	}
	why := lost[0].text()
	if len(lost) > 1 {
		why += fmt.Sprintf(" and %d more", len(lost)-1)
	}
	for _, dev := range closed {
		cannot(dev, "snapshot that is not active: what is on it can't be read, and it may be what "+why+" means, which is on no other device here")
	}
}
