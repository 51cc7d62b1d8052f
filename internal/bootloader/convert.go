package bootloader

import (
	"fmt"
	"slices"
	"strings"
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
