package bootloader

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// common are the mount options that every file system takes.
var common = []string{"defaults", "rw", "ro", "atime", "noatime", "relatime", "norelatime", "strictatime", "lazytime", "nolazytime", "diratime", "nodiratime", "dev", "nodev", "suid", "nosuid", "exec", "noexec",
	"auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev", "sync", "async", "dirsync", "discard", "usrquota", "grpquota", "silent", "loud"}

// ConvertFstab gives fstab with the new types of file systems, by mount point:
// their options lose what only the old type knows, and what fsck is told
// follows. notes list what was changed.
func ConvertFstab(text string, types map[string]string) (out string, notes []string) {
	f := sysconf.ParseFstab(text)
	for _, e := range f.Entries {
		typ, ok := types[e.Path()]
		if !ok || e.Type == typ || e.Type == "auto" || e.Type == "" || e.Bind() {
			continue
		}
		var drop []string
		e.DropOption(func(o string) bool {
			if slices.Contains(common, o) || strings.HasPrefix(o, "x-") || strings.HasPrefix(o, "comment=") {
				return false
			}
			drop = append(drop, o)
			return true
		})
		pass := "2"
		switch {
		case fstype.Of(typ).NoCheck:
			pass = "0"
		case e.Path() == "/":
			pass = "1"
		}
		n := fmt.Sprintf("%s is %s now, was %s", e.File, typ, e.Type)
		if len(drop) > 0 {
			n += ", options removed: " + strings.Join(drop, ",")
		}
		notes = append(notes, n)
		e.SetType(typ)
		e.SetFreq("0")
		e.SetPass(pass)
	}
	return f.String(), notes
}

// FollowSubvolumes gives fstab without the numbers of btrfs subvolumes, which
// are others after a restore: the path names it. subvolume gives the path, "" if it is not
// known; same is set if the number is as it was. notes list what was changed.
func FollowSubvolumes(text string, subvolume func(mount string) (path string, same bool)) (out string, notes []string) {
	f := sysconf.ParseFstab(text)
	for _, e := range f.Entries {
		id, ok := sysconf.Option(e.Options, "subvolid")
		if !fstype.Of(e.Type).Subvolumes || !ok || id == "5" || id == "0" {
			continue
		}
		path, same := subvolume(e.Path())
		if same {
			continue
		}
		if sysconf.HasOption(e.Options, "subvol") {
			e.DropOption(func(o string) bool { return strings.HasPrefix(o, "subvolid=") })
		} else if path != "" {
			e.ReplaceOption("subvolid", "subvol="+path)
		} else {
			continue
		}
		notes = append(notes, fmt.Sprintf("%s: subvolid=%s is named by its path now", e.File, id))
	}
	return f.String(), notes
}

// FollowArrays gives mdadm.conf(5) without the arrays that are not there any more,
// whose lines become comments, with those that the old machine lacked, and without
// lines that restrict arrays to devices by names that are others now. notes say what
// was changed.
func FollowArrays(text string, l *layout.Layout, r *sysconf.Resolver) (out string, notes []string) {
	have := map[string]bool{}
	for _, a := range l.Arrays {
		have[sysconf.PlainUUID(a.UUID)] = true
	}
	m := sysconf.ParseMdadm(text)
	named := map[string]bool{}
	for _, a := range m.Arrays {
		named[a.UUID] = true
		if _, gone := l.Moved[strings.TrimPrefix(a.Device, "/dev/")]; a.UUID != "" && !have[a.UUID] && gone {
			m.Comment(a, "not restored")
			notes = append(notes, fmt.Sprintf("%s is not an array any more", a.Device))
		}
	}
	for _, d := range m.Devices {
		if oldNames(d, r) {
			m.CommentDevices(d, "names of the old machine")
			notes = append(notes, "the DEVICE line names devices of the old machine; all are looked at now")
		}
	}
	for _, a := range l.Arrays {
		if !a.New || named[sysconf.PlainUUID(a.UUID)] {
			continue
		}
		m.Append(fmt.Sprintf("ARRAY /dev/%s metadata=%s UUID=%s", a.Name, a.Metadata, a.UUID))
		notes = append(notes, fmt.Sprintf("/dev/%s is a new array", a.Name))
	}
	return m.String(), notes
}

// oldNames reports a DEVICE line that names a device as the old machine did.
func oldNames(d *sysconf.MdDevices, r *sysconf.Resolver) bool {
	return slices.ContainsFunc(d.Names, func(n string) bool {
		t := r.Find(sysconf.ParseRef(n))
		return strings.HasPrefix(n, "/dev/") && (t.State == sysconf.Missing && !strings.ContainsAny(n, "*?[") || changed(t))
	})
}

// AddNew gives fstab with a line for each file system that the old machine had
// not. notes say what was added.
func AddNew(text string, l *layout.Layout) (out string, notes []string) {
	f := sysconf.ParseFstab(text)
	for _, fs := range l.Filesystems {
		if !fs.New || len(fs.Mounts) == 0 || f.At(fs.Mounts[0].Path) != nil {
			continue
		}
		m := fs.Mounts[0]
		f.Append("UUID="+fs.UUID, m.Path, fs.Type, m.Options, "0", "1")
		notes = append(notes, fmt.Sprintf("%s is new, UUID=%s", m.Path, fs.UUID))
	}
	return f.String(), notes
}
