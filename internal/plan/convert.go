package plan

import (
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// Types are the file systems that Convert makes of others.
var Types = []string{superblock.TypeExt2, superblock.TypeExt3, superblock.TypeExt4, superblock.TypeXFS, superblock.TypeBtrfs}

// Convert gives the layout with file systems of other types, by mount point.
// UUIDs and labels stay, geometry is what the type's mkfs makes by default and
// what kernels of the last ten years know.
func Convert(want *layout.Layout, types map[string]string) (*layout.Layout, error) {
	if len(types) == 0 {
		return want, nil
	}
	l, err := clone(want)
	if err != nil {
		return nil, err
	}
	for at, typ := range types {
		fs := l.Mounted(at)
		switch {
		case fs == nil:
			return nil, refuse("--fs-type %s=%s: nothing is mounted there", at, typ)
		case !slices.Contains(Types, typ):
			return nil, refuse("--fs-type %s=%s: it can be one of %s", at, typ, strings.Join(Types, ", "))
		case fs.VFAT != nil || fs.ExFAT != nil:
			return nil, refuse("--fs-type %s=%s: %s has to stay %s, firmware and others read it", at, typ, at, fs.Type)
		case fs.Type == typ:
			continue
		case l.Boot.Dir != "" && l.Holding(l.Boot.Dir) == fs:
			return nil, refuse("--fs-type %s=%s: %s has to stay %s, the boot loader %s starts from it", at, typ, at, fs.Type, l.Boot.Loader)
		case len(fs.Parts()) > 1:
			return nil, refuse("--fs-type %s=%s: it is a btrfs of which %d subvolumes are mounted, and %s has none", at, typ, len(fs.Parts()), typ)
		case len(fs.Others) > 0:
			return nil, refuse("--fs-type %s=%s: it is a btrfs on %d devices, and %s takes one", at, typ, len(fs.Devs()), typ)
		case typ == superblock.TypeBtrfs:
			*fs = newBtrfs(*fs)
			continue
		case typ == superblock.TypeXFS && len(fs.Label) > 12:
			return nil, refuse("--fs-type %s=xfs: its label %q has %d characters, and XFS takes 12", at, fs.Label, len(fs.Label))
		case fs.Label != "" && len(fs.Label) > 16:
			return nil, refuse("--fs-type %s=%s: its label %q has %d characters, and ext takes 16", at, typ, fs.Label, len(fs.Label))
		}
		fs.Type, fs.Ext, fs.XFS, fs.Btrfs, fs.F2FS, fs.JFS = typ, nil, nil, nil, nil, nil
		// What were subvolumes become directories.
		fs.Subvolumes, fs.Snapshots = nil, nil
		for i := range fs.Mounts {
			fs.Mounts[i].Subvolume = ""
		}
		if typ == superblock.TypeXFS {
			// Without what kernels before 5.15 can't mount.
			fs.XFS = &superblock.XFS{BlockSize: 4096, SectorSize: 512, InodeSize: 512, DirBlock: 4096, CRC: true, FType: true, FinoBT: true, SparseIno: true, Reflink: true}
			continue
		}
		fs.Ext = newExt(typ, int64(fs.Size))
	}
	return l, nil
}

// newBtrfs is what mkfs.btrfs makes, without what kernels before 5.15 can't
// mount.
func newBtrfs(fs layout.Filesystem) layout.Filesystem {
	fs.Type, fs.Ext, fs.XFS, fs.F2FS, fs.JFS = superblock.TypeBtrfs, nil, nil, nil, nil
	fs.Btrfs = &superblock.Btrfs{NodeSize: 16384, SectorSize: 4096, Checksum: "crc32c", Features: []string{"extref", "skinny-metadata", "no-holes", "free-space-tree"}, Data: "single", Metadata: "dup", Devices: 1}
	return fs
}

// newExt is what mke2fs makes by Debian's and Fedora's mke2fs.conf.
func newExt(typ string, size int64) *superblock.Ext {
	e := superblock.NewExt(typ, size)
	e.MountOptions = 0xc
	if typ == superblock.TypeExt4 {
		e.Features = append(e.Features, "64bit", "extra_isize", "metadata_csum")
	}
	return e
}
