package probe

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// MountInfo is one line of /proc/self/mountinfo, proc(5).
type MountInfo struct {
	Device  string // our name of the device, "" for file systems without one
	Root    string // which directory of the file system is mounted
	Path    string
	Type    string
	Source  string
	Options string
	// SuperReadOnly is set when the file system as a whole is in use for reading only,
	// not just this mount.
	SuperReadOnly bool
	// Subvolume and FSID are those of a mounted btrfs: "/@", and its UUID.
	Subvolume, FSID string
}

// Mounts lists what is mounted, in the order of mounting.
func (m Machine) Mounts() ([]MountInfo, error) {
	b, err := os.ReadFile(m.path("/proc/self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("cannot list mounts: %w", err)
	}
	var out []MountInfo
	for i, line := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		left, right, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(left), strings.Fields(right)
		if !ok || len(f) < 6 || len(g) < 2 {
			return nil, fmt.Errorf("cannot list mounts: line %d of mountinfo: %q", i+1, line)
		}
		mi := MountInfo{Root: unescape(f[3]), Path: unescape(f[4]), Options: f[5], Type: g[0], Source: unescape(g[1])}
		mi.SuperReadOnly = len(g) > 2 && slices.Contains(strings.Split(g[2], ","), "ro")
		if !strings.HasPrefix(f[2], "0:") {
			if link, err := os.Readlink(m.path("/sys/dev/block/" + f[2])); err == nil {
				mi.Device = m.resolve("/dev/" + filepath.Base(link))
			} else if strings.HasPrefix(mi.Source, "/dev/") {
				mi.Device = m.resolve(mi.Source)
			}
		}
		if mi.Type == superblock.TypeVFAT || mi.Type == superblock.TypeExFAT {
			// Owners and modes of all files are options of the file system.
			for _, o := range strings.Split(g[len(g)-1], ",") {
				if k, _, _ := strings.Cut(o, "="); slices.Contains(layout.OwnerOptions, k) {
					mi.Options += "," + o
				}
			}
		}
		if mi.Type == superblock.TypeBtrfs {
			// It has no device number of its own, and may have several devices.
			mi.Device = m.resolve(mi.Source)
			for _, o := range strings.Split(strings.Join(g[2:], " "), ",") {
				if v, ok := strings.CutPrefix(o, "subvol="); ok {
					mi.Subvolume = unescape(v)
				}
				if strings.HasPrefix(o, "compress") { // of the whole file system
					mi.Options += "," + o
				}
			}
			mi.FSID = m.btrfsOn(mi.Device)
		}
		out = append(out, mi)
	}
	return out, nil
}

// MountOver gives the mount that an absolute path without links lies in, the last
// one of those over each other; nil when there is none.
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

// unescape turns \040 and the like back.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			v := 0
			for _, c := range []byte(s[i+1 : i+4]) {
				v = v*8 + int(c-'0')
			}
			b.WriteByte(byte(v))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// notStorage are file systems without a device that hold nothing to save: the
// kernel's own, and memory. Everything else without a device is looked at by
// name, so that a ZFS is never missed in silence.
var notStorage = []string{"autofs", "bdev", "binder", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "cpuset", "debugfs", "devpts", "devtmpfs", "efivarfs",
	"fusectl", "fuse.gvfsd-fuse", "fuse.lxcfs", "fuse.portal", "hugetlbfs", "mqueue", "nsfs", "overlay", "pipefs", "proc", "pstore", "ramfs", "resctrl", "rootfs",
	"rpc_pipefs", "securityfs", "selinuxfs", "smackfs", "sockfs", "sysfs", "tmpfs", "tracefs"}

// remote are file systems of other machines; a backup of this one leaves them
// out, by this rule.
var remote = []string{"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "glusterfs", "fuse.sshfs", "fuse.glusterfs", "fuse.rclone", "virtiofs", "ncpfs", "lustre"}

// foreignMounts records mounts that no part of the layout stands for.
func (m Machine) foreignMounts(l *layout.Layout, mounts []MountInfo) {
	seen := map[string]bool{}
	for _, mi := range mounts {
		known := slices.ContainsFunc(l.Filesystems, func(f layout.Filesystem) bool { return slices.Contains(f.Devs(), mi.Device) }) ||
			slices.ContainsFunc(l.Images, func(i layout.Image) bool { return i.Device == mi.Device && mi.Device != "" })
		readOnlyMedium := mi.Type == "iso9660" || mi.Type == "udf" || mi.Type == "squashfs"
		key := mi.Device
		if key == "" {
			key = mi.Source + " " + mi.Type
		}
		if known || readOnlyMedium || seen[key] || mi.Device == "" && (slices.Contains(notStorage, mi.Type) || slices.Contains(remote, mi.Type)) {
			continue
		}
		seen[key] = true
		if slices.ContainsFunc(m.DisksOf(mi.Device), func(d string) bool { return slices.Contains(m.Skip, d) || m.isKey(d) }) {
			continue
		}
		// Found by its superblock already: say where it is mounted.
		if i := slices.IndexFunc(l.Unsupported, func(u layout.Unsupported) bool { return u.Device == mi.Device && mi.Device != "" }); i >= 0 {
			l.Unsupported[i].What = mi.Path
			continue
		}
		name := mi.Device
		if name == "" {
			name = mi.Source
		}
		reason := fmt.Sprintf("%s on %s is not supported", mi.Type, name)
		if disk, why := m.awayUnder(mi.Device); disk != "" {
			reason = fmt.Sprintf("%s on %s, on %s, is left alone: %s", mi.Type, name, disk, why)
		}
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: mi.Path, Device: name, Reason: reason})
	}
}
