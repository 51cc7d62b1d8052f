package probe

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// MountInfo is one line of /proc/self/mountinfo, proc(5).
type MountInfo struct {
	Device  string // our name of the device, "" for file systems without one
	Number  string // the kernel's number of the file system, "0:41"
	Root    string // which directory of the file system is mounted
	Path    string
	Type    string
	Source  string
	Options string
	// SuperReadOnly is set when the file system as a whole is in use for reading only,
	// not just this mount.
	SuperReadOnly bool
	// Hidden is set if its path leads elsewhere: another mount is over it, or over a
	// directory above it.
	Hidden bool
	// Subvolume and FSID are those of a mounted btrfs: "/@", and its UUID.
	Subvolume, FSID string
}

// Mounts lists what is mounted, in the order of mounting.
func (m Machine) Mounts() ([]MountInfo, error) {
	all, err := sysconf.Mounts(m.Root)
	if err != nil {
		return nil, err
	}
	seen := visible(all)
	var out []MountInfo
	for i, a := range all {
		if strings.HasPrefix(strings.TrimPrefix(a.Path, m.Root), SnapshotMounts) {
			continue // what a backup reads is not storage of its own
		}
		if m.System != "" { // the paths that they have there
			rel, ok := strings.CutPrefix(a.Path+"/", strings.TrimSuffix(m.System, "/")+"/")
			if !ok {
				continue
			}
			a.Path = "/" + strings.TrimSuffix(rel, "/")
		}
		mi := MountInfo{Number: a.Dev, Root: a.Root, Path: a.Path, Options: a.Options, Type: a.Type, Source: a.Source, Hidden: !seen[i]}
		super := strings.Split(a.Super, ",")
		mi.SuperReadOnly = slices.Contains(super, "ro")
		if !strings.HasPrefix(a.Dev, "0:") {
			if link, err := os.Readlink(m.path("/sys/dev/block/" + a.Dev)); err == nil {
				mi.Device = m.resolve("/dev/" + filepath.Base(link))
			} else if strings.HasPrefix(mi.Source, "/dev/") {
				mi.Device = m.resolve(mi.Source)
			}
		}
		if fstype.Of(mi.Type).Foreign {
			// Owners and modes of all files are options of the file system.
			for _, o := range super {
				if k, _, _ := strings.Cut(o, "="); slices.Contains(layout.OwnerOptions, k) {
					mi.Options += "," + o
				}
			}
		}
		if mi.Type == fstype.TypeBtrfs {
			// It has no device number of its own, and may have several devices.
			mi.Device = m.resolve(mi.Source)
			for _, o := range super {
				if strings.HasPrefix(o, "compress") { // of the whole file system
					mi.Options += "," + o
				}
			}
			// The last option, and its path may have commas.
			if _, v, ok := strings.Cut(","+a.Super, ",subvol="); ok {
				mi.Subvolume = v
			}
			mi.FSID = m.btrfsOn(mi.Device)
		}
		out = append(out, mi)
	}
	return out, nil
}

// visible returns for each mount whether its path leads to it: of several over each other
// the last one counts, and what is mounted below a directory that another mount covers
// is not to be seen.
func visible(all []sysconf.Mount) []bool {
	kids := map[int]map[string]int{} // id of the parent, path -> index
	root := -1
	known := map[int]bool{}
	for _, a := range all {
		known[a.ID] = true
	}
	for i, a := range all {
		if !known[a.Parent] || a.Parent == a.ID {
			if root < 0 && a.Path == "/" {
				root = i
			}
			continue
		}
		if kids[a.Parent] == nil {
			kids[a.Parent] = map[string]int{}
		}
		kids[a.Parent][a.Path] = i
	}
	out := make([]bool, len(all))
	for i, a := range all {
		out[i] = root < 0 || resolveMount(all, kids, root, a.Path) == i
	}
	return out
}

// resolveMount follows a path from mount to mount.
func resolveMount(all []sysconf.Mount, kids map[int]map[string]int, at int, path string) int {
	stack := func(p string) {
		for range all { // each mount once at most
			n, ok := kids[all[at].ID][p]
			if !ok {
				return
			}
			at = n
		}
	}
	stack("/")
	for i := 1; i <= len(path) && path != "/"; i++ {
		if i == len(path) || path[i] == '/' {
			stack(path[:i])
		}
	}
	return at
}

// MountOver gives the mount that an absolute path without links is in, the last
// one of those over each other; nil if absent.
func MountOver(mounts []MountInfo, real string) *MountInfo {
	var over *MountInfo
	for i, mi := range mounts {
		if (mi.Path == "/" || real == mi.Path || strings.HasPrefix(real, mi.Path+"/")) && (over == nil || len(mi.Path) >= len(over.Path)) {
			over = &mounts[i]
		}
	}
	return over
}

// btrfsOn gives the UUID of the mounted btrfs that a device belongs to, "" for
// none.
func (m Machine) btrfsOn(dev string) string {
	name := m.kernelName(dev)
	all, err := filepath.Glob(m.path("/sys/fs/btrfs/*-*/devices/" + name))
	if err != nil || len(all) == 0 {
		return ""
	}
	return filepath.Base(filepath.Dir(filepath.Dir(all[0])))
}

// notStorage are file systems without a device that hold nothing to save: the
// kernel's own, and memory. Everything else without a device is looked at by
// name, so that a ZFS is never missed in silence.
var notStorage = []string{"autofs", "bdev", "binder", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "cpuset", "debugfs", "devpts", "devtmpfs", "efivarfs",
	"fusectl", "fuse.gvfsd-fuse", "fuse.lxcfs", "fuse.portal", "functionfs", "hugetlbfs", "mqueue", "nfsd", "nsfs", "overlay", "pipefs", "proc", "pstore", "ramfs", "resctrl", "rootfs",
	"rpc_pipefs", "securityfs", "selinuxfs", "smackfs", "sockfs", "sysfs", "tmpfs", "tracefs", "xenfs"}

// elsewhereIs returns whose files a file system without a device shows; "" for one that
// may be storage of this machine.
func elsewhereIs(typ string) string {
	switch {
	case typ == "9p" || typ == "virtiofs" || typ == "vboxsf" || typ == "vmhgfs" || typ == "prl_fs":
		return "a directory of the host of this virtual machine (" + typ + ")"
	case typ == "fuse" || strings.HasPrefix(typ, "fuse."):
		return "a FUSE file system (" + typ + "): what it shows is stored elsewhere"
	case sysconf.NetworkType(typ):
		return "a network file system (" + typ + ")"
	}
	return ""
}

// foreignMounts records mounts that no part of the layout stands for.
func (m Machine) foreignMounts(l *layout.Layout, mounts []MountInfo) {
	if m.System != "" {
		return // the rescue system's own
	}
	seen := map[string]bool{}
	for _, mi := range mounts {
		key := mi.Device
		if key == "" { // several FUSE file systems may have one source, and several exports one number
			key = mi.Source + " " + mi.Type + " " + mi.Number
		}
		if covered(l, mi) || seen[key] || mi.Device == "" && slices.Contains(notStorage, mi.Type) {
			continue
		}
		seen[key] = true
		name := cmp.Or(mi.Device, mi.Source)
		if why := elsewhereIs(mi.Type); why != "" && mi.Device == "" {
			l.LeftAlone = append(l.LeftAlone, layout.Unsupported{What: mi.Path, Device: sysconf.RedactURL(name), Reason: why})
			continue
		}
		if slices.ContainsFunc(m.DisksOf(mi.Device), func(d string) bool { return slices.Contains(m.Skip, d) || m.isKey(d) }) {
			continue
		}
		// Found by its superblock already: say where it is mounted.
		if i := slices.IndexFunc(l.Unsupported, func(u layout.Unsupported) bool { return u.Device == mi.Device && mi.Device != "" }); i >= 0 {
			l.Unsupported[i].What = mi.Path
			continue
		}
		reason := fmt.Sprintf("%s on %s is not supported", mi.Type, name)
		if disk, why := m.awayUnder(mi.Device); disk != "" {
			reason = fmt.Sprintf("%s on %s, on %s, is left alone: %s", mi.Type, name, disk, why)
		}
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: mi.Path, Device: name, Reason: reason})
	}
}

// covered reports a mount that the layout has, or one of a medium, which is not storage of
// the machine.
func covered(l *layout.Layout, mi MountInfo) bool {
	return slices.ContainsFunc(l.Filesystems, func(f layout.Filesystem) bool { return slices.Contains(f.Devs(), mi.Device) }) ||
		slices.ContainsFunc(l.Images, func(i layout.Image) bool { return i.Device == mi.Device && mi.Device != "" }) ||
		fstype.Of(mi.Type).Medium && (mi.SuperReadOnly || slices.Contains(strings.Split(mi.Options, ","), "ro"))
}
