package sysconf

import (
	"slices"
	"strings"
)

// Kind is how a device is named.
type Kind int

// Kinds of names.
const (
	Path      Kind = iota // another name below /dev; Ref.Value without "/dev/"
	UUID                  // of the content; also /dev/disk/by-uuid
	Label                 // of the content
	PartUUID              // of the partition
	PartLabel             // of the partition
	ID                    // ID= and /dev/disk/by-id
	ByPath                // /dev/disk/by-path
	Diskseq               // /dev/disk/by-diskseq
	File                  // an absolute path that is not below /dev: a bind mount, a swap file, an image
	Virtual               // not a device that holds anything: proc, tmpfs, none, zram
	Medium                // a drive with a medium to be changed: /dev/sr0
	Network               // another machine's
	Malformed             // a tag without a value or with one quote
)

// Ref is a name of a device.
type Ref struct {
	Kind Kind
	// Value is the name without tag, quotes and escapes; UUIDs are in lower case.
	Value string
	Text  string // as it was given
}

// tags are the kinds of TAG=value in fstab(5) and crypttab(5); directories those
// below /dev/disk.
func tags() map[string]Kind {
	return map[string]Kind{"UUID": UUID, "LABEL": Label, "PARTUUID": PartUUID, "PARTLABEL": PartLabel, "ID": ID}
}

func directories() map[string]Kind {
	return map[string]Kind{"by-uuid": UUID, "by-label": Label, "by-partuuid": PartUUID, "by-partlabel": PartLabel, "by-id": ID, "by-path": ByPath, "by-diskseq": Diskseq}
}

// ParseRef reads a device's name as it is in a field of fstab(5) after Unescape, or
// in a kernel parameter: TAG=value with or without quotes, /dev/disk/by-*, other
// names below /dev, and what is not a device.
func ParseRef(spec string) Ref {
	r := Ref{Text: spec, Value: spec}
	s, ok := unquote(spec)
	if !ok {
		r.Kind = Malformed
		return r
	}
	if tag, v, has := strings.Cut(s, "="); has {
		if k, known := tags()[tag]; known {
			if v, ok = unquote(v); !ok || v == "" {
				r.Kind = Malformed
				return r
			}
			return r.of(k, v)
		}
	}
	switch {
	case strings.HasPrefix(s, "/dev/"):
		return r.device(clean(s))
	case strings.HasPrefix(s, "//"), strings.Contains(s, "://"):
		r.Kind, r.Value = Network, s
	case strings.HasPrefix(s, "/"):
		r.Kind, r.Value = File, clean(s)
	case strings.HasPrefix(s, `\\`): // as Windows writes it
		r.Kind, r.Value = Network, s
	case host(s):
		r.Kind, r.Value = Network, s
	default:
		r.Kind, r.Value = Virtual, s
	}
	return r
}

// of gives the name of a kind.
func (r Ref) of(k Kind, v string) Ref {
	r.Kind, r.Value = k, v
	if k == UUID || k == PartUUID {
		r.Value = strings.ToLower(v)
	}
	return r
}

// device reads a clean name below /dev.
func (r Ref) device(s string) Ref {
	name := strings.TrimPrefix(s, "/dev/")
	if rest, ok := strings.CutPrefix(name, "disk/"); ok {
		if dir, v, ok := strings.Cut(rest, "/"); ok && v != "" {
			if k, known := directories()[dir]; known {
				return r.of(k, unescapeHex(v))
			}
		}
	}
	r.Kind, r.Value = Path, name
	base, number := strings.TrimRight(name, "0123456789"), strings.TrimLeft(name, "abcdefghijklmnopqrstuvwxyz")
	switch {
	case slices.Contains([]string{"sr", "scd", "cdrom", "dvd", "cdrw", "dvdrw", "fd", "floppy"}, base):
		r.Kind = Medium
	case number != "" && slices.Contains([]string{"zram", "ram", "loop"}, base):
		r.Kind = Virtual
	case strings.HasPrefix(name, "shm"), strings.HasPrefix(name, "pts"), slices.Contains([]string{"null", "zero", "fuse", "nfs", "root", "hugepages", "mqueue", "urandom", "random"}, name):
		r.Kind = Virtual
	}
	return r
}

// unquote removes quotes around a word; ok is false when one is missing.
func unquote(s string) (string, bool) {
	if s == "" || s[0] != '"' && s[0] != '\'' {
		return s, true
	}
	if len(s) < 2 || s[len(s)-1] != s[0] {
		return s, false
	}
	return s[1 : len(s)-1], true
}

// host reports host:/path and user@host:path.
func host(s string) bool {
	h, _, ok := strings.Cut(s, ":")
	if strings.HasPrefix(s, "[") { // an IPv6 address
		h, _, ok = strings.Cut(s, "]:")
	}
	return ok && h != "" && !strings.Contains(h, "/")
}

// clean removes double and trailing slashes and single dots.
func clean(p string) string {
	return "/" + strings.Join(slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" || s == "." }), "/")
}

// Device reports whether the name is one of a block device that may be in a layout.
func (r Ref) Device() bool { return r.Kind <= Diskseq }

// Ref gives what an entry of fstab mounts. Its type counts more than the
// form of its name: "a=b" may be a share, and "/dev/shm" the name of a tmpfs.
func (e *FstabEntry) Ref() Ref {
	r := ParseRef(e.Spec)
	switch {
	case e.Bind() && r.Kind == Path:
		r.Kind = File
	case NetworkType(e.Type):
		r.Kind = Network
	case slices.Contains(virtualTypes(), e.Type):
		r.Kind = Virtual
	case strings.HasPrefix(e.Type, "fuse") && e.Type != "fuseblk" && !r.Device():
		r.Kind = Virtual
	case r.Kind == Path && strings.HasPrefix(r.Value, "nbd"), r.Kind == Path && strings.HasPrefix(r.Value, "rbd"):
		r.Kind = Network
	}
	return r
}

// NetworkType reports a type of file systems whose files are on another machine, or on the
// host of a virtual one.
func NetworkType(typ string) bool {
	return slices.Contains([]string{"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "ncp", "9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "ceph", "afs", "coda", "glusterfs", "lustre", "davfs", "davfs2", "sshfs", "curlftpfs", "s3fs", "moosefs", "beegfs", "gpfs", "pvfs2", "orangefs", "wekafs",
		"fuse.sshfs", "fuse.glusterfs", "fuse.rclone", "fuse.ceph", "fuse.s3fs", "fuse.davfs", "fuse.curlftpfs", "fuse.vmhgfs-fuse", "rclone"}, typ)
}

// virtualTypes are file systems without a device.
func virtualTypes() []string {
	return []string{"proc", "sysfs", "tmpfs", "ramfs", "devtmpfs", "devpts", "devfs", "overlay", "overlayfs", "aufs", "unionfs", "mergerfs", "fuse.mergerfs", "securityfs", "selinuxfs", "debugfs", "tracefs", "cgroup", "cgroup2", "configfs", "efivarfs", "pstore", "bpf",
		"hugetlbfs", "mqueue", "binfmt_misc", "rpc_pipefs", "nfsd", "usbfs", "usbdevfs", "fusectl", "autofs", "autofs4", "ecryptfs", "encfs", "fuse.encfs", "gocryptfs", "fuse.gocryptfs", "bindfs", "fuse.bindfs", "zfs", "functionfs"}
}
