package bootloader

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// common are the mount options that every file system takes.
var common = []string{"defaults", "rw", "ro", "atime", "noatime", "relatime", "norelatime", "strictatime", "lazytime", "nolazytime", "diratime", "nodiratime", "dev", "nodev", "suid", "nosuid", "exec", "noexec",
	"auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev", "sync", "async", "dirsync", "discard", "usrquota", "grpquota", "silent", "loud"}

// ConvertFstab gives fstab with the new types of file systems, by mount point:
// their options lose what only the old type knows, and what fsck is told
// follows. notes say what was changed.
func ConvertFstab(text string, types map[string]string) (out string, notes []string) {
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(f[0], "#") {
			continue
		}
		typ, ok := types[strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(f[1])]
		if !ok || f[2] == typ || f[2] == "auto" {
			continue
		}
		var keep, drop []string
		for _, o := range strings.Split(append(f, "", "", "")[3], ",") {
			if slices.Contains(common, o) || strings.HasPrefix(o, "x-") || strings.HasPrefix(o, "comment=") {
				keep = append(keep, o)
			} else if o != "" {
				drop = append(drop, o)
			}
		}
		if len(keep) == 0 {
			keep = []string{"defaults"}
		}
		pass := "2"
		switch {
		case typ == "xfs" || typ == "btrfs":
			pass = "0" // their fsck does nothing
		case f[1] == "/":
			pass = "1"
		}
		end := ""
		if strings.HasSuffix(line, "\n") {
			end = "\n"
		}
		lines[i] = strings.Join([]string{f[0], f[1], typ, strings.Join(keep, ","), "0", pass}, "\t") + end
		n := fmt.Sprintf("%s is %s now, was %s", f[1], typ, f[2])
		if len(drop) > 0 {
			n += ", options that went: " + strings.Join(drop, ",")
		}
		notes = append(notes, n)
	}
	return strings.Join(lines, ""), notes
}

// FollowSubvolumes gives fstab without the numbers of btrfs subvolumes, which
// are others after a restore: the path says it. notes say what was changed.
func FollowSubvolumes(text string, subvolume func(mount string) string) (out string, notes []string) {
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		f := strings.Fields(line)
		if len(f) < 4 || strings.HasPrefix(f[0], "#") || f[2] != "btrfs" {
			continue
		}
		opts := strings.Split(f[3], ",")
		n := slices.IndexFunc(opts, func(o string) bool { return strings.HasPrefix(o, "subvolid=") })
		if n < 0 || opts[n] == "subvolid=5" || opts[n] == "subvolid=0" {
			continue
		}
		was := opts[n]
		if slices.ContainsFunc(opts, func(o string) bool { return strings.HasPrefix(o, "subvol=") }) {
			opts = slices.Delete(opts, n, n+1)
		} else if s := subvolume(strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(f[1])); s != "" {
			opts[n] = "subvol=" + strings.NewReplacer(" ", `\040`, "\t", `\011`).Replace(s)
		} else {
			continue
		}
		lines[i] = strings.Replace(line, f[3], strings.Join(opts, ","), 1)
		notes = append(notes, fmt.Sprintf("%s: %s is named by its path now", f[1], was))
	}
	return strings.Join(lines, ""), notes
}

// NoFail gives fstab with "nofail" where a line is about something that was not
// restored: the system must start without it. notes say what was changed.
func NoFail(text string, l *layout.Layout, restored map[string]string) (out string, notes []string) {
	left := map[string]bool{} // words of fstab
	add := func(devs []string, uuid, label string) {
		for _, d := range devs {
			left["/dev/"+d] = true
			if vg, lv, ok := strings.Cut(d, "/"); ok {
				left[dmPath(vg, lv)] = true
			}
			if _, p := l.Partition(d); p != nil && p.GUID != "" {
				left["PARTUUID="+strings.ToLower(p.GUID)] = true
			}
		}
		left["UUID="+strings.ToLower(uuid)] = uuid != ""
		left["LABEL="+label] = label != ""
	}
	for _, f := range l.Filesystems {
		if restored[f.Device] == "" {
			add(f.Devs(), f.UUID, f.Label)
		}
	}
	for _, s := range l.Swap {
		if restored[s.Device] == "" {
			add([]string{s.Device}, s.UUID, s.Label)
		}
	}
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		f := strings.Fields(line)
		if len(f) < 4 || strings.HasPrefix(f[0], "#") || strings.Contains(f[3], "nofail") || strings.Contains(f[3], "noauto") {
			continue
		}
		spec := strings.ReplaceAll(f[0], `"`, "")
		if k, v, ok := strings.Cut(spec, "="); ok && (k == "UUID" || k == "PARTUUID") {
			spec = k + "=" + strings.ToLower(v)
		}
		if !left[spec] {
			continue
		}
		// The options are the fourth word: the first place of that text may be another's.
		at := 0
		for n := range 3 {
			at += strings.Index(line[at:], f[n]) + len(f[n])
		}
		at += strings.Index(line[at:], f[3]) + len(f[3])
		lines[i] = line[:at] + ",nofail" + line[at:]
		notes = append(notes, fmt.Sprintf("%s (%s) was not restored: nofail lets the system start without", f[0], f[1]))
	}
	return strings.Join(lines, ""), notes
}

// FollowArrays gives mdadm.conf(5) without the arrays that are not there any more,
// whose lines become comments, and with those that the old machine had not. notes
// say what was changed.
func FollowArrays(text string, l *layout.Layout) (out string, notes []string) {
	plain := func(uuid string) string { return strings.ToLower(strings.NewReplacer(":", "", "-", "").Replace(uuid)) }
	have := map[string]bool{}
	for _, a := range l.Arrays {
		have[plain(a.UUID)] = true
	}
	gone := map[string]bool{} // device names
	for old := range l.Moved {
		gone["/dev/"+old] = true
	}
	named := map[string]bool{}
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		f := strings.Fields(line)
		if len(f) < 2 || !strings.EqualFold(f[0], "ARRAY") {
			continue
		}
		for _, w := range f[1:] {
			k, v, _ := strings.Cut(w, "=")
			if !strings.EqualFold(k, "UUID") {
				continue
			}
			named[plain(v)] = true
			if !have[plain(v)] && gone[f[1]] {
				lines[i] = "# not restored: " + line
				notes = append(notes, fmt.Sprintf("%s is no array any more", f[1]))
			}
		}
	}
	out = strings.Join(lines, "")
	for _, a := range l.Arrays {
		if !a.New || named[plain(a.UUID)] {
			continue
		}
		if out != "" && !strings.HasSuffix(out, "\n") {
			out += "\n"
		}
		out += fmt.Sprintf("ARRAY /dev/%s metadata=%s UUID=%s\n", a.Name, a.Metadata, a.UUID)
		notes = append(notes, fmt.Sprintf("/dev/%s is a new array", a.Name))
	}
	return out, notes
}

// dmPath is the name of a logical volume below /dev/mapper: hyphens of the
// names are doubled.
func dmPath(vg, lv string) string {
	return "/dev/mapper/" + strings.ReplaceAll(vg, "-", "--") + "-" + strings.ReplaceAll(lv, "-", "--")
}

// AddNew gives fstab with a line for each file system that the old machine had
// not. notes say what was added.
func AddNew(text string, l *layout.Layout) (out string, notes []string) {
	for _, f := range l.Filesystems {
		if !f.New || len(f.Mounts) == 0 {
			continue
		}
		m := f.Mounts[0]
		if slices.ContainsFunc(strings.Split(text, "\n"), func(line string) bool {
			w := strings.Fields(line)
			return len(w) > 1 && !strings.HasPrefix(w[0], "#") && w[1] == m.Path
		}) {
			continue
		}
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		text += fmt.Sprintf("UUID=%s\t%s\t%s\t%s\t0\t1\n", f.UUID, m.Path, f.Type, m.Options)
		notes = append(notes, fmt.Sprintf("%s is new, UUID=%s", m.Path, f.UUID))
	}
	return text, notes
}
