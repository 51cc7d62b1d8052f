package probe

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// btrfs records a btrfs at its first device, and every other device with it.
func (m Machine) btrfs(l *layout.Layout, dev string, i *superblock.Info, mounts []MountInfo) {
	for n := range l.Filesystems {
		if f := &l.Filesystems[n]; f.Type == superblock.TypeBtrfs && f.UUID == i.UUID {
			f.Others = append(f.Others, dev)
			return
		}
	}
	f := layout.Filesystem{Device: dev, Type: i.Type, UUID: i.UUID, Label: i.Label, Size: quantity.Size(i.Size), Btrfs: i.Btrfs, Mounts: []layout.Mount{}}
	cannot := func(format string, a ...any) {
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: dev, Device: dev, Reason: fmt.Sprintf(format, a...)})
	}
	for _, x := range i.Btrfs.Features {
		if !slices.Contains(superblock.BtrfsFeatures, x) {
			cannot("btrfs with the feature %s is not supported", x)
			return
		}
	}
	for _, mi := range mounts {
		// A directory that is bound elsewhere is no mount of its own.
		if mi.Type == superblock.TypeBtrfs && mi.FSID == f.UUID && mi.Root == mi.Subvolume {
			f.Mounts = append(f.Mounts, layout.Mount{Path: mi.Path, Options: mi.Options, Subvolume: strings.TrimPrefix(mi.Subvolume, "/")})
		}
	}
	if len(f.Mounts) == 0 {
		cannot("btrfs that is not mounted: its files can't be saved")
		l.Filesystems = append(l.Filesystems, f)
		return
	}
	m.used(&f)
	f.UsedInodes = 0 // it has no fixed number of them
	at := m.path(f.Mounts[0].Path)
	var err error
	if f.Btrfs.Data, f.Btrfs.Metadata, err = btrfs.Profiles(at); err != nil {
		cannot("%v", err)
		return
	}
	list, def, err := btrfs.Subvolumes(at)
	if err != nil {
		cannot("%v", err)
		return
	}
	for _, s := range list {
		v := layout.Subvolume{Path: s.Path, ReadOnly: s.ReadOnly, Default: s.ID == def}
		mounted := slices.ContainsFunc(f.Mounts, func(x layout.Mount) bool { return x.Subvolume == s.Path })
		within := slices.ContainsFunc(f.Mounts, func(x layout.Mount) bool {
			return x.Subvolume == "" || strings.HasPrefix(s.Path, x.Subvolume+"/")
		})
		switch {
		case s.Snapshot && !mounted && !v.Default:
			f.Snapshots = append(f.Snapshots, s.Path)
			continue
		case !mounted && !within:
			l.Unsupported = append(l.Unsupported, layout.Unsupported{What: dev + ":" + s.Path, Device: dev + ":" + s.Path, Reason: "btrfs subvolume that is not mounted, nor in one that is: its files can't be saved"})
			if !v.Default {
				continue
			}
		}
		// A subvolume in a snapshot that is left out goes with it.
		if slices.ContainsFunc(f.Snapshots, func(p string) bool { return strings.HasPrefix(s.Path, p+"/") }) && !mounted {
			f.Snapshots = append(f.Snapshots, s.Path)
			continue
		}
		f.Subvolumes = append(f.Subvolumes, v)
	}
	l.Filesystems = append(l.Filesystems, f)
}

// incomplete reports the btrfs that lack a device.
func (m Machine) incomplete(l *layout.Layout) {
	for _, f := range l.Filesystems {
		if f.Btrfs != nil && int64(len(f.Devs())) != f.Btrfs.Devices {
			l.Unsupported = append(l.Unsupported, layout.Unsupported{What: f.Device, Reason: fmt.Sprintf("btrfs with %d of its %d devices; it will be restored on those", len(f.Devs()), f.Btrfs.Devices)})
		}
	}
}
