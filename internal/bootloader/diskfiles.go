package bootloader

import (
	"fmt"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// diskFiles name disks and partitions by their paths: GRUB's map of disks, where SUSE
// and Debian install GRUB at each update, and where uswsusp resumes from.
func diskFiles() []cmdlineFile {
	return []cmdlineFile{
		{dir: "/boot/grub", pattern: "device.map"}, {dir: "/boot/grub2", pattern: "device.map"},
		{dir: "/etc", pattern: "default/grub_installdevice"}, {dir: "/etc", pattern: "uswsusp.conf"},
	}
}

// debconfDatabase is where Debian keeps answers to the questions of packages.
const debconfDatabase = "/var/cache/debconf/config.dat"

// followDisks changes paths of disks in the system's files.
func (s *System) followDisks(r *sysconf.Resolver) error {
	for _, c := range diskFiles() {
		for _, f := range s.tree().Glob(c.dir, c.pattern) {
			if err := s.edit(f, func(text string) (string, []string, []string) {
				out, notes := s.followPaths(text, r)
				return out, notes, nil
			}); err != nil {
				return err
			}
		}
	}
	return s.edit(debconfDatabase, func(text string) (string, []string, []string) {
		return s.followDebconf(text, r)
	})
}

// followPaths gives a text in which paths of devices that are called otherwise now
// are right; comments stay. notes say what was changed.
func (s *System) followPaths(text string, r *sysconf.Resolver) (out string, notes []string) {
	out = sysconf.VisitPaths(text, func(line int, p string) string {
		t := r.Find(sysconf.ParseRef(p))
		if t.State != sysconf.Found || t.Right {
			return p
		}
		now := t.Path()
		notes = append(notes, fmt.Sprintf("line %d: %s is replaced by %s", line, p, now))
		return now
	})
	return out, notes
}

// followDebconf gives Debian's answers with the disks on which GRUB is now: without
// them, the next update of GRUB asks, or leaves the machine with two versions of it
// that do not fit each other.
func (s *System) followDebconf(text string, r *sysconf.Resolver) (out string, notes, wrong []string) {
	lines := strings.SplitAfter(text, "\n")
	name := ""
	for i, line := range lines {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		value = strings.TrimSpace(value)
		switch {
		case strings.TrimSpace(line) == "":
			name = ""
		case key == "Name":
			name = value
		case key == "Value" && value != "" && (name == "grub-pc/install_devices" || name == "grub-efi/install_devices"):
			now, lost := s.installDevices(name, value, r)
			for _, l := range lost {
				wrong = append(wrong, fmt.Sprintf("%s: %s is not among what was restored", name, l))
			}
			if now == value {
				continue
			}
			lines[i] = strings.Replace(line, value, now, 1)
			notes = append(notes, fmt.Sprintf("%s: %s is replaced by %s", name, value, now))
		}
	}
	return strings.Join(lines, ""), notes, wrong
}

// installDevices gives the devices for a list of Debian's, divided by commas. One that
// is not known is left out; without any that is, those on which GRUB was are taken.
func (s *System) installDevices(name, value string, r *sysconf.Resolver) (now string, lost []string) {
	var out []string
	same := true
	for _, w := range strings.Split(value, ",") {
		if w = strings.TrimSpace(w); w == "" {
			continue
		}
		switch t := r.Find(sysconf.ParseRef(w)); {
		case t.State == sysconf.Foreign || t.State == sysconf.Found && t.Right:
			out = append(out, w)
		case t.State == sysconf.Found:
			out, same = append(out, t.Path()), false
		default:
			lost, same = append(lost, w), false
		}
	}
	if same {
		return value, nil
	}
	if len(out) == 0 {
		disks := s.Layout.Boot.Disks
		if strings.HasPrefix(name, "grub-efi/") {
			disks = []string{s.Layout.Boot.ESP}
		}
		for _, d := range disks {
			if s.Devices[d] != "" {
				out = append(out, r.Find(sysconf.Ref{Kind: sysconf.Path, Value: d}).Path())
			}
		}
		if len(out) > 0 {
			lost = nil
		}
	}
	if len(out) == 0 {
		return value, lost
	}
	return strings.Join(out, ", "), lost
}

// checkLVMFilter lists physical volumes that the filters of lvm.conf(5) do not let
// LVM see under their new names: "filter" and "global_filter", lists of "a|regex|"
// and "r|regex|".
func (s *System) checkLVMFilter(text string) []string {
	var out []string
	for _, f := range lvmFilters(text) {
		for _, g := range s.Layout.VolumeGroup {
			for _, p := range g.PVs {
				if s.Devices[p.Device] == "" {
					continue
				}
				if names := s.pvNames(p); !f.accepts(names) {
					out = append(out, fmt.Sprintf("/etc/lvm/lvm.conf: %s leaves out %s, on which the volume group %s is", f.name, names[0], g.Name))
				}
			}
		}
	}
	return out
}

// pvNames are names below /dev that a physical volume has on the new machine, as far
// as they are known.
func (s *System) pvNames(p layout.PhysicalVolume) []string {
	out := []string{"/dev/" + s.Devices[p.Device], "/dev/disk/by-id/lvm-pv-uuid-" + p.UUID}
	if n, ok := strings.CutPrefix(p.Device, layout.MapperPrefix); ok {
		out = append(out, "/dev/disk/by-id/dm-name-"+n)
	}
	if a := s.Layout.Array(p.Device); a != nil {
		out = append(out, "/dev/md/"+a.Label[strings.IndexByte(a.Label, ':')+1:], "/dev/disk/by-id/md-uuid-"+a.UUID, "/dev/disk/by-id/md-name-"+a.Label)
	}
	if d, q := s.Layout.Partition(p.Device); q != nil && d.PartUUID(q) != "" {
		out = append(out, "/dev/disk/by-partuuid/"+d.PartUUID(q))
	}
	for _, d := range s.Layout.DisksUnder(p.Device) {
		if sameDisk(s.sysfs(), s.Layout.Disk(d), s.Devices[d]) {
			for _, l := range s.Layout.Links[p.Device] {
				out = append(out, "/dev/disk/"+l)
			}
		}
	}
	return out
}
