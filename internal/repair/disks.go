package repair

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/medium"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// FromDisks finds the system that is on disks, without a set or a layout of it:
// RAID arrays are started, LUKS devices opened, volume groups activated, and the
// one file system that has an /etc/fstab and an operating system is the root. Its
// fstab names what else there is. The layout is what Mount and Unmount want of one,
// no more. disks are names without /dev/, none for all that there are; root names the device
// of the root where there are several systems.
func (r *Opener) FromDisks(ctx context.Context, disks []string, root string) (*layout.Layout, error) {
	m := r.machine()
	m.Only = disks
	on := func(dev string) bool {
		return len(disks) == 0 || slices.ContainsFunc(m.DisksOf(m.Name(dev)), func(d string) bool { return slices.Contains(disks, d) })
	}
	present, err := m.Disks()
	if err != nil {
		return nil, err
	}
	for _, d := range disks {
		if !slices.ContainsFunc(present, func(p layout.Disk) bool { return p.Name == d }) {
			return nil, fmt.Errorf("cannot open the system on /dev/%s: there is no such disk", d)
		}
	}
	l := &layout.Layout{Version: layout.Version, Disks: present}
	if err := r.assemble(ctx, l, m, on); err != nil {
		return l, err
	}
	// LUKS below LVM, and above it.
	for range 2 {
		if err := r.unlockAll(ctx, l, m, on); err != nil {
			return l, err
		}
		if err := r.activate(ctx, l, m, on); err != nil {
			return l, err
		}
	}
	devs, err := r.finder().Devices(r.Loops...)
	if err != nil {
		return l, err
	}
	devs = slices.DeleteFunc(devs, func(d medium.Device) bool { return d.Held || !on(d.Name) })
	sys, err := r.findRoot(m, devs, strings.TrimPrefix(root, "/dev/"))
	if err != nil {
		return l, err
	}
	return l, r.fromFstab(ctx, l, m, sys, devs, on)
}

// assemble starts the arrays with a member on the disks, by their names: "md0" for one labelled "host:0".
func (r *Opener) assemble(ctx context.Context, l *layout.Layout, m probe.Machine, on func(string) bool) error {
	devs, err := r.finder().Devices(r.Loops...)
	if err != nil {
		return err
	}
	next := 127
	for _, d := range devs {
		if d.Info.MD == nil || !on(d.Name) || slices.ContainsFunc(l.Arrays, func(a layout.Array) bool { return a.UUID == d.Info.MD.UUID }) {
			continue
		}
		a := layout.Array{UUID: d.Info.MD.UUID, Label: d.Info.MD.Name}
		if r.Apart {
			a.Name = ""
		} else if n, err := strconv.Atoi(shortName(a.Label)); err == nil && n >= 0 {
			a.Name = fmt.Sprint("md", n)
		} else if d.Info.MD.Metadata == "0.90" && d.Info.MD.Minor >= 0 {
			a.Name = fmt.Sprint("md", d.Info.MD.Minor)
		}
		for a.Name == "" || l.Array(a.Name) != nil {
			a.Name = fmt.Sprint("md", next)
			next--
		}
		if err := storage.AssembleArray(ctx, r.Run, a.Name, a.UUID, members(m, devs)[a.UUID], r.Access); err != nil {
			r.Report.Warn("%v", r.degraded(err))
			continue
		}
		r.missing(a.Name)
		l.Arrays = append(l.Arrays, a)
	}
	return nil
}

// shortName is an array's name without the host's.
func shortName(label string) string { return label[strings.Index(label, ":")+1:] }

// unlockAll opens the LUKS devices on the disks. One that nobody has a key for
// stays closed.
func (r *Opener) unlockAll(ctx context.Context, l *layout.Layout, m probe.Machine, on func(string) bool) error {
	devs, err := r.finder().Devices(r.Loops...)
	if err != nil {
		return err
	}
	for _, d := range devs {
		if d.Info.Type != superblock.TypeLUKS || !on(d.Name) || slices.ContainsFunc(l.Crypts, func(c layout.Crypt) bool { return c.UUID == d.Info.UUID }) {
			continue
		}
		c := layout.Crypt{Name: "luks-" + d.Info.UUID, Device: m.Name(d.Name), UUID: d.Info.UUID}
		if err := r.unlock(ctx, &c, d.Name); err != nil {
			r.Report.Warn("%v", err)
			continue
		}
		l.Crypts = append(l.Crypts, c)
	}
	return nil
}

// activate activates the volume groups with a physical volume on the disks.
func (r *Opener) activate(ctx context.Context, l *layout.Layout, m probe.Machine, on func(string) bool) error {
	devs, err := r.finder().Devices(r.Loops...)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(devs, func(d medium.Device) bool { return d.Info.Type == superblock.TypeLVM && on(d.Name) }) {
		return nil
	}
	args := append([]string{"pvs"}, storage.HideOverlays()...)
	out, err := storage.LVM(ctx, r.Run, append(args, "--noheadings", "--separator", "|", "-o", "pv_name,vg_name")...)
	if err != nil {
		return fmt.Errorf("cannot list volume groups: %w", err)
	}
	for _, line := range strings.Split(string(out), "\n") {
		pv, vg, ok := strings.Cut(strings.TrimSpace(line), "|")
		if !ok || vg == "" || !on(m.Name(strings.TrimPrefix(pv, "/dev/"))) || l.Group(vg+"/") != nil {
			continue
		}
		if err := storage.ActivateGroup(ctx, r.Run, vg, r.Access); err != nil {
			r.Report.Warn("%v", err)
			if r.Access != storage.ReadOnly { // there some of its volumes may be active
				continue
			}
		}
		l.VolumeGroup = append(l.VolumeGroup, layout.VolumeGroup{Name: vg})
	}
	return nil
}

// system is an installed one: its root's device, subvolume and files that say what
// else there is.
type system struct {
	dev             medium.Device
	name            string // of dev: "vg0/root"
	subvolume       string
	fstab, crypttab string
	mdadm           string // mdadm.conf
	// subvolumes are those of a btrfs root, by id.
	subvolumes map[uint64]string
}

// ErrNoSystem is the cause when disks have no installed system.
var ErrNoSystem = errors.New("cannot find an installed system")

// findRoot looks for the one installed system among devs. Everything is mounted
// read-only for that, and without replaying a journal.
func (r *Opener) findRoot(m probe.Machine, devs []medium.Device, want string) (*system, error) {
	dir, err := os.MkdirTemp("", "mkcdrec-look")
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	var found []*system
	var seen []string // what was looked at
	for i, d := range devs {
		if !fstype.Of(d.Info.Type).Native() || slices.ContainsFunc(devs[:i], func(o medium.Device) bool {
			return o.Info.Type == fstype.TypeBtrfs && o.Info.UUID == d.Info.UUID // another device of it
		}) {
			continue
		}
		name := m.Name(d.Name)
		if want != "" && want != name && want != d.Name {
			continue
		}
		seen = append(seen, "/dev/"+name+" ("+d.Info.Type+")")
		if err := Look(r.kernel(), d, devs, dir); err != nil {
			r.Report.Warn("%v", err)
			continue
		}
		s, err := lookInto(dir, d)
		if e := r.kernel().Unmount(dir); e != nil {
			return nil, errors.Join(err, fmt.Errorf("cannot unmount %s: %w", dir, e))
		}
		if err != nil {
			r.Report.Warn("cannot look into /dev/%s: %v", name, err)
		} else if s != nil {
			s.name = name
			found = append(found, s)
		}
	}
	return choose(found, seen)
}

// choose gives the one system that was found in the file systems that were seen.
func choose(found []*system, seen []string) (*system, error) {
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0 && len(seen) == 0:
		return nil, fmt.Errorf("%w: there is no file system that it could be on", ErrNoSystem)
	case len(found) == 0:
		return nil, fmt.Errorf("%w: none of %s has an /etc/fstab", ErrNoSystem, strings.Join(seen, ", "))
	}
	var names []string
	for _, s := range found {
		names = append(names, "/dev/"+s.name)
	}
	return nil, fmt.Errorf("cannot choose between the systems on %s: name one with --root", strings.Join(names, ", "))
}

// Look mounts a file system read-only and without replaying its log; a btrfs by its top level.
func Look(k kernel.Kernel, d medium.Device, devs []medium.Device, dir string) error {
	if d.Info.Type != fstype.TypeBtrfs {
		return medium.Finder{Kernel: k}.Mount(d, dir)
	}
	return storage.MountBtrfs(k, d.Name, othersOf(d, devs), "", dir, unix.MS_RDONLY|unix.MS_NOATIME)
}

// othersOf are the other devices of a btrfs.
func othersOf(d medium.Device, devs []medium.Device) []string {
	var out []string
	for _, o := range devs {
		if o.Name != d.Name && o.Info.Type == d.Info.Type && o.Info.UUID == d.Info.UUID {
			out = append(out, o.Name)
		}
	}
	return out
}

// lookInto gives the system that is mounted at dir, nil if absent.
func lookInto(dir string, d medium.Device) (*system, error) {
	s := &system{dev: d}
	places := []string{""}
	if d.Info.Type == fstype.TypeBtrfs {
		subs, def, err := btrfs.Subvolumes(dir)
		if err != nil {
			return nil, err
		}
		s.subvolumes = map[uint64]string{btrfs.TopLevel: ""}
		for _, v := range subs {
			s.subvolumes[v.ID] = v.Path
		}
		// The default one, then the names that distributions give it: a snapshot
		// has an fstab, too.
		places = []string{s.subvolumes[def], "@", "root", "@rootfs", "@/.snapshots/1/snapshot", ""}
	}
	for _, p := range places {
		top := filepath.Join(dir, p)
		fstab, err := os.ReadFile(filepath.Join(top, "etc/fstab"))
		if err != nil || !slices.ContainsFunc([]string{"usr/lib/os-release", "etc/os-release", "sbin/init", "bin/sh", "usr/bin"}, func(f string) bool {
			_, err := os.Lstat(filepath.Join(top, f))
			return err == nil
		}) {
			continue
		}
		s.subvolume, s.fstab = p, string(fstab)
		if b, err := os.ReadFile(filepath.Join(top, "etc/crypttab")); err == nil {
			s.crypttab = string(b)
		}
		for _, f := range []string{"etc/mdadm/mdadm.conf", "etc/mdadm.conf"} {
			if b, err := os.ReadFile(filepath.Join(top, f)); err == nil {
				s.mdadm += string(b) + "\n"
			}
		}
		return s, nil
	}
	return nil, nil
}

// fromFstab adds the file systems that the system's fstab names, the root first.
// What can't be found is told of, and left out.
func (r *Opener) fromFstab(ctx context.Context, l *layout.Layout, m probe.Machine, s *system, devs []medium.Device, on func(string) bool) error {
	add := func(d medium.Device, at layout.Mount) {
		for i := range l.Filesystems {
			if f := &l.Filesystems[i]; f.UUID == d.Info.UUID {
				f.Mounts = append(f.Mounts, at)
				return
			}
		}
		l.Filesystems = append(l.Filesystems, layout.Filesystem{Device: m.Name(d.Name), Type: d.Info.Type, UUID: d.Info.UUID, Label: d.Info.Label, Mounts: []layout.Mount{at}})
	}
	add(s.dev, layout.Mount{Path: "/", Subvolume: s.subvolume})
	if err := r.keyFiles(ctx, l, m, s, on); err != nil {
		return err
	}
	if all, err := r.finder().Devices(r.Loops...); err != nil {
		return err
	} else if len(all) > 0 { // with what key files have opened
		devs = slices.DeleteFunc(all, func(d medium.Device) bool { return d.Held || !on(d.Name) })
	}
	for _, e := range fstabEntries(s.fstab) {
		dev, ok := s.find(e.spec, l, devs, m.Name)
		if !ok {
			r.Report.Warn("cannot find %s of %s, which /etc/fstab names", e.spec, e.path)
			continue
		}
		at := layout.Mount{Path: e.path, Options: e.options}
		if dev.Info.Type == fstype.TypeBtrfs {
			if at.Subvolume, ok = e.subvolume(s.subvolumes); !ok {
				r.Report.Warn("cannot find the subvolume of %s: %s", e.path, e.options)
				continue
			}
		}
		add(dev, at)
	}
	return nil
}

// keyFiles opens the LUKS devices that are still closed and have a key file in
// the system, by its crypttab.
func (r *Opener) keyFiles(ctx context.Context, l *layout.Layout, m probe.Machine, s *system, on func(string) bool) error {
	devs, err := r.finder().Devices(r.Loops...)
	if err != nil {
		return err
	}
	find := s.resolver(l, devs, m.Name)
	for _, e := range sysconf.ParseCrypttab(s.crypttab).Entries {
		if !strings.HasPrefix(e.Key, "/") || strings.HasPrefix(e.Key, "/dev/") {
			continue
		}
		t := find.Crypt(e)
		i := slices.IndexFunc(devs, func(d medium.Device) bool {
			return d.Info.Type == superblock.TypeLUKS && on(d.Name) && t.State == sysconf.Found && m.Name(d.Name) == t.Device
		})
		if i < 0 || slices.ContainsFunc(l.Crypts, func(c layout.Crypt) bool { return c.UUID == devs[i].Info.UUID }) {
			continue
		}
		key, err := r.readIn(s, e.Key)
		if err != nil {
			r.Report.Warn("cannot read the key file of %s: %v", e.Name, err)
			continue
		}
		c := layout.Crypt{Name: "luks-" + devs[i].Info.UUID, Device: m.Name(devs[i].Name), UUID: devs[i].Info.UUID}
		if err := storage.OpenCrypt(ctx, r.Run, &c, devs[i].Name, key, r.Access); err != nil {
			r.Report.Warn("%v", err)
			continue
		}
		l.Crypts = append(l.Crypts, c)
	}
	return nil
}

// readIn reads a file of a system that is not mounted.
func (r *Opener) readIn(s *system, file string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "mkcdrec-look")
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	devs, err := r.finder().Devices(r.Loops...)
	if err != nil {
		return nil, err
	}
	if err := Look(r.kernel(), s.dev, devs, dir); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(dir, s.subvolume, filepath.Clean("/"+file)))
	return b, errors.Join(err, r.kernel().Unmount(dir))
}

// entry is a line of fstab that names a file system on a block device.
type entry struct{ spec, path, options string }

// fstabEntries gives the lines that can be mounted, but for the root's own;
// fstab(5). Paths are clean, with their blanks.
func fstabEntries(text string) []entry {
	var out []entry
	for _, e := range sysconf.ParseFstab(text).Entries {
		if e.Type == "" || e.Swap() || e.NoAuto() || e.Bind() || !strings.HasPrefix(e.File, "/") || !e.Ref().Device() {
			continue
		}
		if at := path.Clean(e.File); at != "/" {
			out = append(out, entry{e.Spec, at, cmp.Or(e.Options, "defaults")})
		}
	}
	return out
}

// subvolume is the one that an entry of a btrfs mounts; "" for the top level.
func (e entry) subvolume(known map[uint64]string) (string, bool) {
	for _, o := range sysconf.SplitOptions(e.options) {
		if v, ok := strings.CutPrefix(o, "subvol="); ok {
			return strings.Trim(v, "/"), true
		}
		if v, ok := strings.CutPrefix(o, "subvolid="); ok {
			id, err := strconv.ParseUint(v, 0, 64)
			p, there := known[id]
			return p, err == nil && there
		}
	}
	return "", true
}

// resolver finds what the system's files name on devices. name gives our name for a
// kernel's.
func (s *system) resolver(l *layout.Layout, devs []medium.Device, name func(string) string) *sysconf.Resolver {
	on := *l
	on.Filesystems = nil
	for _, d := range devs {
		on.Filesystems = append(on.Filesystems, layout.Filesystem{Device: name(d.Name), Type: d.Info.Type, UUID: d.Info.UUID, Label: d.Info.Label})
	}
	return sysconf.NewResolver(&on, sysconf.Options{Crypttab: sysconf.ParseCrypttab(s.crypttab), Mdadm: sysconf.ParseMdadm(s.mdadm)})
}

// find finds the device that a line of fstab names.
func (s *system) find(spec string, l *layout.Layout, devs []medium.Device, name func(string) string) (medium.Device, bool) {
	t := s.resolver(l, devs, name).Find(sysconf.ParseRef(spec))
	i := slices.IndexFunc(devs, func(d medium.Device) bool { return t.State == sysconf.Found && name(d.Name) == t.Device })
	if i < 0 {
		return medium.Device{}, false
	}
	return devs[i], true
}
