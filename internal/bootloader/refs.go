package bootloader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// tree are the files of the system; links in it never lead out of it.
func (s *System) tree() sysconf.Tree { return sysconf.In(s.Root) }

// read gives a file of the system as text; "" for one that can't be read.
func (s *System) read(name string) string {
	b, err := s.tree().Read(name)
	if err != nil {
		return ""
	}
	return string(b)
}

// resolver finds what the system's files name. after is set when they were changed,
// and have this machine's names.
func (s *System) resolver(after bool) *sysconf.Resolver {
	o := sysconf.Options{Devices: s.Devices, After: after, SameDisk: func(disk string) bool { return sameDisk(s.sysfs(), s.Layout.Disk(disk), s.Devices[disk]) }}
	o.Direct = s.direct()
	o.Crypttab = sysconf.ParseCrypttab(s.read("/etc/crypttab"))
	o.Mdadm = sysconf.ParseMdadm(s.read("/etc/mdadm/mdadm.conf") + "\n" + s.read("/etc/mdadm.conf"))
	return sysconf.NewResolver(s.Layout, o)
}

// direct reports a system whose boot loader loads no initramfs at all: what its
// entries are made from has names for the kernel, too.
func (s *System) direct() bool {
	with, without := false, false
	for _, c := range s.cmdlineFiles() {
		if c.format != sysconf.GRUB && c.format != sysconf.BLS && c.format != sysconf.Syslinux {
			continue
		}
		for _, f := range s.tree().Glob(c.dir, c.pattern) {
			sysconf.VisitKernelRefs(s.read(f), c.format, func(k sysconf.KernelRef) (string, bool) {
				if k.Param == "root" {
					with, without = with || !k.Direct, without || k.Direct
				}
				return "", false
			})
		}
	}
	return without && !with
}

// sameDisk reports whether a disk of this machine is the old machine's, by its WWN or
// serial number in sysfs.
func sameDisk(sys string, old *layout.Disk, now string) bool {
	if old == nil || now == "" {
		return false
	}
	is := func(want string, files ...string) bool {
		return want != "" && slices.ContainsFunc(files, func(f string) bool {
			b, err := os.ReadFile(filepath.Join(sys, "block", now, f))
			return err == nil && strings.TrimSpace(string(b)) == want
		})
	}
	return is(old.WWN, "device/wwid", "wwid") || is(old.Serial, "device/serial", "serial")
}

// CheckFstab gives the text with names that are not right any more replaced, what
// was changed, and what refers to nothing that was restored.
func CheckFstab(text string, r *sysconf.Resolver) (out string, notes, missing []string) {
	f := sysconf.ParseFstab(text)
	for _, e := range f.Entries {
		raw := e.Raw(0)
		t := r.Entry(e)
		switch {
		case t.State == sysconf.Found && !t.Right:
			e.SetSpec(t.Name)
			notes = append(notes, fmt.Sprintf("line %d: %s (%s) is replaced by %s", e.Line, raw, e.File, t.Name))
		case t.State == sysconf.Missing, t.State == sysconf.Left && !e.NoFail() && !e.NoAuto():
			missing = append(missing, fmt.Sprintf("line %d: %s (%s) is not among what was restored", e.Line, raw, e.File))
		}
		more, gone := checkOptions(e, r)
		notes, missing = append(notes, more...), append(missing, gone...)
	}
	return f.String(), notes, missing
}

// checkOptions looks at devices that options name: of a btrfs, or the journal of an
// XFS or ext4.
func checkOptions(e *sysconf.FstabEntry, r *sysconf.Resolver) (notes, missing []string) {
	for _, o := range sysconf.SplitOptions(e.Options) {
		k, v, _ := strings.Cut(o, "=")
		if !slices.Contains([]string{"device", "logdev", "rtdev", "journal_path"}, k) || !strings.HasPrefix(v, "/dev/") {
			continue
		}
		t := r.Find(sysconf.ParseRef(v))
		if t.State == sysconf.Missing && fstype.Of(e.Type).Subvolumes {
			t = r.Entry(e) // what it is mounted from finds the others
		}
		switch {
		case t.State == sysconf.Found && t.Right:
		case t.State == sysconf.Found && fstype.Of(e.Type).Subvolumes:
			e.DropOption(func(x string) bool { return x == o })
			notes = append(notes, fmt.Sprintf("line %d: the option %s is removed: btrfs finds its devices by UUID", e.Line, o))
		default:
			missing = append(missing, fmt.Sprintf("line %d: %s (%s) is not among what was restored", e.Line, o, e.File))
		}
	}
	return notes, missing
}

// NoFail gives fstab with "nofail" where a line is about something that was not
// restored: the system must start without it. notes say what was changed.
func NoFail(text string, r *sysconf.Resolver) (out string, notes []string) {
	f := sysconf.ParseFstab(text)
	for _, e := range f.Entries {
		if r.Entry(e).State != sysconf.Left || e.NoFail() || e.NoAuto() {
			continue
		}
		notes = append(notes, fmt.Sprintf("line %d: %s (%s) was not restored: nofail lets the system start without it", e.Line, e.Raw(0), e.File))
		e.AddOption("nofail")
	}
	return f.String(), notes
}

// CheckCrypttab gives the text with names that are not right any more replaced and
// nofail for what was not restored, what was changed, and what refers to nothing
// that was restored. exists reports whether the system has a file; crypttab(5).
func CheckCrypttab(text string, r *sysconf.Resolver, exists func(name string) bool) (out string, notes, missing []string) {
	c := sysconf.ParseCrypttab(text)
	for _, e := range c.Entries {
		raw := e.Raw(1)
		may := e.NoFail() || e.NoAuto()
		switch t := r.Crypt(e); t.State {
		case sysconf.Found:
			if !t.Right {
				e.SetSpec(t.Name)
				notes = append(notes, fmt.Sprintf("line %d: %s (%s) is replaced by %s", e.Line, raw, e.Name, t.Name))
			}
		case sysconf.Left:
			if !may {
				e.AddOption("nofail")
				notes = append(notes, fmt.Sprintf("line %d: %s (%s) was not restored: nofail lets the system start without it", e.Line, raw, e.Name))
				may = true
			}
		case sysconf.Missing:
			if !may {
				missing = append(missing, fmt.Sprintf("line %d: %s (%s) is not among what was restored", e.Line, raw, e.Name))
			}
		}
		if k := keyFile(e); k != "" && !may && !exists(k) {
			missing = append(missing, fmt.Sprintf("line %d: the key file %s (%s) is missing", e.Line, k, e.Name))
		}
	}
	return c.String(), notes, missing
}

// keyFile is an entry's key file, unless a script makes something else of that word,
// or it is on a device.
func keyFile(e *sysconf.CrypttabEntry) string {
	if !strings.HasPrefix(e.Key, "/") || strings.HasPrefix(e.Key, "/dev/") || strings.HasPrefix(e.Key, "/run/") || sysconf.HasOption(e.Options, "keyscript") || strings.Contains(e.Key, ":") {
		return ""
	}
	return e.Key
}

// fstab checks that every device it names is there again.
func (s *System) fstab(r *sysconf.Resolver) error {
	return s.edit("/etc/fstab", func(text string) (string, []string, []string) {
		text, notes := ConvertFstab(text, s.Types)
		text, more := FollowSubvolumes(text, func(at string) (path string, same bool) {
			if f := s.Layout.Mounted(at); f != nil {
				return f.MountAt(at).Subvolume, s.Copied != nil && s.Copied(f.Device)
			}
			return "", false
		})
		notes = append(notes, more...)
		text, more = AddNew(text, s.Layout)
		notes = append(notes, more...)
		text, more = NoFail(text, r)
		notes = append(notes, more...)
		text, more, missing := CheckFstab(text, r)
		return text, append(notes, more...), missing
	})
}

// edit changes a file of the system, and keeps the old one beside it. change gives
// the new text, what it changed, and what refers to nothing. changed reports whether there was an edit.
func (s *System) edit(name string, change func(text string) (out string, notes, missing []string)) error {
	b, err := s.tree().Read(name)
	if errors.Is(err, fs.ErrNotExist) {
		if name == "/etc/fstab" {
			s.Report.Warn("the restored system has no /etc/fstab")
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot check %s: %w", name, err)
	}
	text, notes, missing := change(string(b))
	for _, n := range notes {
		s.Report.Note("%s: %s", name, n)
	}
	for _, m := range missing {
		s.Report.Warn("%s: %s", name, m)
	}
	if text == string(b) {
		return nil
	}
	if err := s.tree().Copy(name, kept(name)); err != nil {
		return fmt.Errorf("cannot keep the old %s: %w", name, err)
	}
	if err := s.tree().Write(name, []byte(text), 0o644); err != nil {
		return fmt.Errorf("cannot change %s: %w", name, err)
	}
	return nil
}

// kept is where the old text of a file stays. Of some directories every file is
// read, by any name, except for hidden ones.
func kept(file string) string {
	dir, base := filepath.Split(file)
	if strings.HasSuffix(dir, ".d/") || strings.HasSuffix(dir, "/system-connections/") {
		base = "." + base
	}
	return dir + base + ".before-restore"
}
