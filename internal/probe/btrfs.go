package probe

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// btrfsMounts adds the mounts of a btrfs to it, and gives any path into it, "" for none.
func btrfsMounts(f *layout.Filesystem, mounts []MountInfo) (at string) {
	for _, mi := range mounts {
		if mi.Type != fstype.TypeBtrfs || mi.FSID != f.UUID || mi.Hidden || !layout.CleanPath(mi.Path) {
			continue
		}
		at = mi.Path
		// A directory that is bound elsewhere is not a mount of its own.
		if mi.Root == mi.Subvolume {
			f.Mounts = append(f.Mounts, layout.Mount{Path: mi.Path, Options: mi.Options, Subvolume: strings.TrimPrefix(mi.Subvolume, "/")})
		}
	}
	return at
}

// btrfs records a btrfs at its first device, and every other device with it.
func (m Machine) btrfs(l *layout.Layout, dev string, i *superblock.Info, mounts []MountInfo) {
	cannot := func(format string, a ...any) {
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: dev, Device: dev, Reason: fmt.Sprintf(format, a...)})
	}
	inUse := m.btrfsOn(dev) == i.UUID
	if !inUse {
		if _, err := os.Stat(m.path("/sys/fs/btrfs/" + i.UUID + "/devices")); err == nil {
			cannot("btrfs with the UUID of one that is mounted, and not a device of that: a copy, which is not mounted")
			return
		}
	}
	for n := range l.Filesystems {
		if f := &l.Filesystems[n]; f.Type == fstype.TypeBtrfs && f.UUID == i.UUID {
			f.Others = append(f.Others, dev)
			return
		}
	}
	f := layout.Filesystem{Device: dev, Type: i.Type, UUID: i.UUID, Label: i.Label, Size: quantity.Size(i.Size), Geometry: i.Geometry, Mounts: []layout.Mount{}}
	for _, x := range i.Btrfs.Features {
		if !slices.Contains(fstype.BtrfsFeatures, x) {
			cannot("btrfs with the feature %s is not supported", x)
			return
		}
	}
	at := btrfsMounts(&f, mounts)
	if !inUse && at == "" {
		cannot("btrfs that is not mounted: its files can't be saved")
		l.Filesystems = append(l.Filesystems, f)
		return
	}
	m.used(&f, at)
	f.UsedInodes = 0 // it has no fixed number of them
	if err := m.subvolumes(l, &f, at); err != nil {
		cannot("%v", err)
		return
	}
	l.Filesystems = append(l.Filesystems, f)
}

// subvolumes records the profiles and subvolumes of a btrfs in use, and whether its top
// level has to be read through a mount of our own.
func (m Machine) subvolumes(l *layout.Layout, f *layout.Filesystem, at string) error {
	dir := m.inSystem(at)
	var top *os.File
	topMounted := slices.ContainsFunc(f.Mounts, func(x layout.Mount) bool { return x.Subvolume == "" })
	if !topMounted {
		var err error
		if top, err = m.OpenRoot(f); err == nil {
			defer top.Close()
			if at == "" {
				dir = fmt.Sprintf("/proc/self/fd/%d", top.Fd())
			}
		} else if at == "" {
			return err
		}
	}
	var err error
	if f.Btrfs.Data, f.Btrfs.Metadata, err = btrfs.Profiles(dir); err != nil {
		return err
	}
	list, def, err := btrfs.Subvolumes(dir)
	if err != nil {
		return err
	}
	list = withoutOurs(list)
	if on, err := btrfs.Quotas(dir); err == nil && on {
		l.LeftAlone = append(l.LeftAlone, layout.Unsupported{What: f.Device, Device: f.Device, Reason: "the quota groups of the btrfs: it will be restored without them"})
	}
	left := snapshots(list, def, f.Mounts, fstabSubvolumes(l, m.cmdline()))
	orphans := sortSubvolumes(l, f, list, left, def)
	if topMounted {
		return nil
	}
	f.Private = orphans || len(f.Mounts) == 0
	if top == nil {
		if f.Private {
			l.Unsupported = append(l.Unsupported, layout.Unsupported{What: f.Device, Device: f.Device, Reason: "the top level of the btrfs can't be opened: subvolumes that are not mounted can't be saved"})
			f.Private = false
		}
		return nil
	}
	f.Private = f.Private || filesBeside(top, "", list)
	return nil
}

// sortSubvolumes divides the subvolumes into those that are saved and those that are left.
// orphans is set if some of the first are in no mounted subvolume.
func sortSubvolumes(l *layout.Layout, f *layout.Filesystem, list []btrfs.Subvolume, left map[string]bool, def uint64) (orphans bool) {
	for _, s := range list {
		switch {
		case !layout.CleanPath("/" + s.Path):
			name := f.Device + ":" + escape(s.Path)
			l.Unsupported = append(l.Unsupported, layout.Unsupported{What: name, Device: name, Reason: "btrfs subvolume with a name that is not text: its files can't be saved"})
		case left[s.Path]:
			f.Snapshots = append(f.Snapshots, s.Path)
		default:
			f.Subvolumes = append(f.Subvolumes, layout.Subvolume{Path: s.Path, ReadOnly: s.ReadOnly, Default: s.ID == def})
			orphans = orphans || !slices.ContainsFunc(f.Mounts, func(x layout.Mount) bool {
				return x.Subvolume == "" || s.Path == x.Subvolume || strings.HasPrefix(s.Path, x.Subvolume+"/")
			})
		}
	}
	return orphans
}

// snapshots returns which subvolumes may be left out: made of another one, read-only, not
// mounted, not the default one, not in fstab, and not received. What can be written to
// has content of its own, as containers have that began as a snapshot; what came from
// btrfs-receive(8) is another machine's backup. One that holds a subvolume that is saved
// is saved, too.
func snapshots(list []btrfs.Subvolume, def uint64, mounts []layout.Mount, referred map[string]bool) map[string]bool {
	left := map[string]bool{}
	for _, s := range list {
		mounted := slices.ContainsFunc(mounts, func(x layout.Mount) bool { return x.Subvolume == s.Path })
		left[s.Path] = s.Snapshot && s.ReadOnly && !s.Received && !mounted && s.ID != def && !referred[s.Path]
	}
	for _, s := range list {
		if left[s.Path] {
			continue
		}
		for p := path.Dir(s.Path); p != "."; p = path.Dir(p) {
			delete(left, p)
		}
	}
	return left
}

// filesBeside reports whether a directory of the top level has anything but subvolumes and
// directories that lead to them.
func filesBeside(top *os.File, dir string, list []btrfs.Subvolume) bool {
	entries, err := os.ReadDir(filepath.Join(fmt.Sprintf("/proc/self/fd/%d", top.Fd()), dir))
	if err != nil {
		return true // the archive reports it
	}
	for _, e := range entries {
		p := path.Join(dir, e.Name())
		switch {
		case dir == "" && strings.HasPrefix(p, SnapshotDir):
		case slices.ContainsFunc(list, func(s btrfs.Subvolume) bool { return s.Path == p }):
		case e.IsDir() && slices.ContainsFunc(list, func(s btrfs.Subvolume) bool { return strings.HasPrefix(s.Path, p+"/") }):
			if filesBeside(top, p, list) {
				return true
			}
		default:
			return true
		}
	}
	return false
}

// incomplete reports the btrfs that lack a device.
func (m Machine) incomplete(l *layout.Layout) {
	for _, f := range l.Filesystems {
		if f.Btrfs != nil && int64(len(f.Devs())) != f.Btrfs.Devices {
			l.Unsupported = append(l.Unsupported, layout.Unsupported{What: f.Device, Reason: fmt.Sprintf("btrfs with %d of its %d devices; it will be restored on those", len(f.Devs()), f.Btrfs.Devices)})
		}
	}
}
