package bootloader

import (
	"debug/pe"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// A copy of the system's configuration in an initramfs names devices as it did when
// the initramfs was made. Changing the file in /etc does not change the copy.

// copied is a kind of files that an initramfs has copies of.
type copied struct {
	patterns []string // of path.Match, from the initramfs's root
	// stale reports whether a text names a device by a name of the old machine.
	stale func(s *System, text string, r *sysconf.Resolver) bool
}

// copies are those of initramfs-tools, dracut and mkinitcpio.
func copies() []copied {
	return []copied{
		{[]string{"etc/crypttab", "cryptroot/crypttab"}, staleCrypttab},
		{[]string{"conf/conf.d/cryptroot"}, staleCryptroot},
		{[]string{"etc/mdadm.conf", "etc/mdadm/mdadm.conf"}, staleMdadm},
		{[]string{"etc/cmdline", "etc/cmdline.d/*.conf"}, func(s *System, text string, r *sysconf.Resolver) bool {
			return s.staleCmdline(text, sysconf.Plain, r)
		}},
		{[]string{"conf/conf.d/*", "conf/initramfs.conf", "conf/param.conf"}, func(s *System, text string, r *sysconf.Resolver) bool {
			return s.staleCmdline(text, sysconf.Shell, r)
		}},
		{[]string{"etc/fstab"}, staleFstab},
		{[]string{"etc/lvm/devices/system.devices"}, (*System).staleLVMDevices},
	}
}

// changed reports a target that is found under another name only.
func changed(t sysconf.Target) bool { return t.State == sysconf.Found && !t.Right }

func staleCrypttab(_ *System, text string, r *sysconf.Resolver) bool {
	return slices.ContainsFunc(sysconf.ParseCrypttab(text).Entries, func(e *sysconf.CrypttabEntry) bool { return changed(r.Crypt(e)) })
}

// staleCryptroot reads what older versions of cryptsetup have in the place of
// crypttab: the values of cryptopts=, one on each line.
func staleCryptroot(s *System, text string, r *sysconf.Resolver) bool {
	return slices.ContainsFunc(strings.Fields(text), func(line string) bool { return s.staleCmdline("cryptopts="+line, sysconf.Plain, r) })
}

func staleFstab(_ *System, text string, r *sysconf.Resolver) bool {
	return slices.ContainsFunc(sysconf.ParseFstab(text).Entries, func(e *sysconf.FstabEntry) bool { return changed(r.Entry(e)) })
}

// staleMdadm looks at DEVICE lines: arrays are found by UUID.
func staleMdadm(_ *System, text string, r *sysconf.Resolver) bool {
	return slices.ContainsFunc(sysconf.ParseMdadm(text).Devices, func(d *sysconf.MdDevices) bool { return oldNames(d, r) })
}

func (s *System) staleCmdline(text string, f sysconf.Format, r *sysconf.Resolver) bool {
	if _, notes := FollowCmdline(text, f, r); len(notes) > 0 {
		return true
	}
	out, _, _ := s.followOffset(text)
	return out != text
}

// staleLVMDevices looks for physical volumes that the copy finds by what is the old
// disk's own, lvmdevices(8). LVM looks for those that it has by name elsewhere, too,
// and UUIDs of arrays, LUKS and logical volumes are restored.
func (s *System) staleLVMDevices(text string, _ *sysconf.Resolver) bool {
	for _, e := range sysconf.ParseLVMDevices(text).Entries {
		if slices.Contains([]string{"devname", "md_uuid", "crypt_uuid", "lvmlv_uuid"}, e.IDType) {
			continue
		}
		for _, g := range s.Layout.VolumeGroup {
			for _, p := range g.PVs {
				if e.PVID != strings.ReplaceAll(p.UUID, "-", "") || s.Devices[p.Device] == "" {
					continue
				}
				for _, d := range s.Layout.DisksUnder(p.Device) {
					if !sameDisk(s.sysfs(), s.Layout.Disk(d), s.Devices[d]) {
						return true
					}
				}
			}
		}
	}
	return false
}

// staleCopies lists files in the initramfs that the boot loader loads, by their paths
// there, which name devices as the old machine did. One that can't be read has none:
// the proof reports it.
func (s *System) staleCopies() []string {
	r := s.resolver(false)
	stale := map[string]bool{}
	look := func(initrd io.Reader) {
		for _, n := range s.staleIn(initrd, r) {
			stale[n] = true
		}
	}
	for _, c := range s.configs() {
		for _, i := range sysconf.GRUBInitrds(c.text) {
			if f, err := s.tree().Open(s.initrdFile(i)); err == nil {
				look(f)
				f.Close()
			}
		}
	}
	for _, u := range s.unified() {
		f, err := s.tree().Open(u)
		if err != nil {
			continue
		}
		if image, err := pe.NewFile(f); err == nil {
			if sec := image.Section(".initrd"); sec != nil {
				look(io.LimitReader(sec.Open(), int64(sec.VirtualSize)))
			}
		}
		f.Close()
	}
	return slices.Sorted(maps.Keys(stale))
}

// staleIn lists those of one initramfs.
func (s *System) staleIn(initrd io.Reader, r *sysconf.Resolver) []string {
	kind := func(name string) *copied {
		for _, c := range copies() {
			if slices.ContainsFunc(c.patterns, func(p string) bool { ok, err := path.Match(p, name); return err == nil && ok }) {
				return &c
			}
		}
		return nil
	}
	files, err := initramfs.Contents(initrd, func(name string) bool { return kind(name) != nil })
	if err != nil {
		return nil
	}
	var out []string
	for name, b := range files {
		if kind(name).stale(s, string(b), r) {
			out = append(out, name)
		}
	}
	return out
}
