package bootloader

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// cmdlineFiles have kernel command lines in them, beside grub.cfg, which is made
// anew from some of them; patterns below the system's root.
var cmdlineFiles = []string{"etc/default/grub", "etc/default/grub.d/*.cfg", "etc/kernel/cmdline", "etc/initramfs-tools/conf.d/*", "boot/loader/entries/*.conf", "boot/grub/grubenv", "boot/grub2/grubenv"}

// grubenvSize is the size of GRUB's environment block, of which every byte counts.
const grubenvSize = 1024

// uuids gives the UUID of what lies on a device, by all names that the old
// machine had for it: "/dev/vda2", "PARTUUID=...". Those that are right still
// are among them.
func uuids(l *layout.Layout) map[string]string {
	out := map[string]string{}
	add := func(dev, uuid string) {
		if uuid == "" {
			return
		}
		out["/dev/"+dev] = uuid
		for old, now := range l.Moved {
			if now == dev {
				out["/dev/"+old] = uuid
			}
		}
		for old, now := range l.PartUUIDs {
			if now == dev {
				out["PARTUUID="+old] = uuid
			}
		}
	}
	for _, f := range l.Filesystems {
		for _, d := range f.Devs() {
			add(d, f.UUID)
		}
	}
	for _, s := range l.Swap {
		add(s.Device, s.UUID)
	}
	for _, c := range l.Crypts {
		add(c.Device, c.UUID)
	}
	return out
}

// FollowCmdline gives a text with kernel command lines in which root= and resume=
// name devices that are called otherwise now, by their UUIDs. notes say what was
// changed.
func FollowCmdline(text string, l *layout.Layout, renamed map[string]string) (out string, notes []string) {
	id := uuids(l)
	word := regexp.MustCompile(`\b((?i:root|resume))=(/dev/[^\s"',]+|PARTUUID=[^\s"',]+)`)
	out = word.ReplaceAllStringFunc(text, func(s string) string {
		g := word.FindStringSubmatch(s)
		spec := g[2]
		if u, ok := strings.CutPrefix(spec, "PARTUUID="); ok {
			spec = "PARTUUID=" + strings.ToLower(u)
			if l.PartUUIDs[strings.ToLower(u)] == "" {
				return s
			}
		} else if renamed[strings.TrimPrefix(spec, "/dev/")] == "" {
			return s
		}
		if id[spec] == "" {
			return s
		}
		notes = append(notes, fmt.Sprintf("%s is %s=UUID=%s now", s, g[1], id[spec]))
		return g[1] + "=UUID=" + id[spec]
	})
	return out, notes
}

// FollowLVMDevices gives LVM's devices file, lvmdevices(8), with the devices that
// its physical volumes are on now. Found by name they are looked for by LVM
// itself when names change. notes say what was changed.
func FollowLVMDevices(text string, l *layout.Layout, devices map[string]string) (out string, notes []string) {
	now := map[string]string{} // PVID -> device
	for _, g := range l.VolumeGroup {
		for _, p := range g.PVs {
			if dev := devices[p.Device]; dev != "" {
				now[strings.ReplaceAll(p.UUID, "-", "")] = dev
			}
		}
	}
	var lines []string
	for _, line := range strings.SplitAfter(text, "\n") {
		pvid := ""
		for _, w := range strings.Fields(line) {
			if v, ok := strings.CutPrefix(w, "PVID="); ok {
				pvid = v
			}
		}
		if dev := now[pvid]; dev != "" && strings.HasPrefix(strings.TrimSpace(line), "IDTYPE=") {
			line = fmt.Sprintf("IDTYPE=devname IDNAME=/dev/%s DEVNAME=/dev/%s PVID=%s\n", dev, dev, pvid)
			notes = append(notes, fmt.Sprintf("the physical volume %s is /dev/%s now", pvid, dev))
		}
		lines = append(lines, line)
	}
	if len(notes) == 0 {
		return text, nil
	}
	for i, line := range lines { // of the text as LVM wrote it
		if strings.HasPrefix(line, "# HASH=") || strings.HasPrefix(line, "HASH=") {
			lines[i] = ""
		}
	}
	return strings.Join(lines, ""), notes
}

// follow changes what else names devices: LVM's devices file, and kernel command
// lines.
func (s *System) follow(renamed map[string]string) error {
	if err := s.edit("lvm/devices/system.devices", func(text string) (string, []string, []string) {
		text, notes := FollowLVMDevices(text, s.Layout, s.Devices)
		return text, notes, nil
	}); err != nil {
		return err
	}
	patterns := cmdlineFiles
	if dir := s.espDir(); dir != "" && dir != "/boot" {
		patterns = append(slices.Clone(patterns), strings.TrimPrefix(dir, "/")+"/loader/entries/*.conf")
	}
	for _, pattern := range patterns {
		files, err := filepath.Glob(filepath.Join(s.Root, pattern))
		if err != nil {
			return err
		}
		for _, f := range files {
			if st, err := os.Lstat(f); err != nil || !st.Mode().IsRegular() || strings.HasPrefix(filepath.Base(f), ".") {
				continue // hidden ones are our copies
			}
			rel, err := filepath.Rel(filepath.Join(s.Root, "etc"), f)
			if err != nil {
				return err
			}
			if err := s.edit(rel, func(text string) (string, []string, []string) {
				out, notes := FollowCmdline(text, s.Layout, renamed)
				out, more, wrong := s.followOffset(out)
				notes = append(notes, more...)
				if filepath.Base(f) == "grubenv" && out != text {
					if out = strings.TrimRight(out, "#"); len(out) > grubenvSize {
						return text, nil, []string{"its command line has no room for UUIDs: change it by hand"}
					}
					out += strings.Repeat("#", grubenvSize-len(out))
				}
				return out, notes, wrong
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// followOffset gives a text with kernel command lines in which resume_offset= is
// where the restored swap file begins, in pages.
func (s *System) followOffset(text string) (out string, notes, wrong []string) {
	word := regexp.MustCompile(`\bresume_offset=\d+`)
	old := word.FindString(text)
	if old == "" {
		return text, nil, nil
	}
	byHand := func(why string) (string, []string, []string) {
		return text, nil, []string{old + " is where the old swap file was, and " + why + ": hibernation wants it changed by hand"}
	}
	if len(s.Layout.SwapFiles) != 1 {
		return byHand(fmt.Sprintf("there are %d swap files", len(s.Layout.SwapFiles)))
	}
	f := s.Layout.SwapFiles[0]
	if m := s.Layout.Mounted(f.Mount); m == nil || m.Btrfs != nil {
		return byHand("btrfs does not tell where the new one is")
	}
	at, err := firstBlock(filepath.Join(s.Root, f.Path))
	if err != nil {
		return byHand(err.Error())
	}
	now := fmt.Sprintf("resume_offset=%d", at/int64(os.Getpagesize()))
	if now == old {
		return text, nil, nil
	}
	return word.ReplaceAllString(text, now), []string{old + " is " + now + " now"}, nil
}

// firstBlock tells where on its file system's device a file begins, bytes;
// linux/fiemap.h.
func firstBlock(file string) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var m struct {
		start, length                   uint64
		flags, mapped, count, reserved  uint32
		logical, physical, extentLength uint64
		_                               [2]uint64
		extentFlags                     uint32
		_                               [3]uint32
	}
	const fiemap, sync, unknown = 0xC020660B, 1, 2 // FS_IOC_FIEMAP, FIEMAP_FLAG_SYNC, FIEMAP_EXTENT_UNKNOWN
	m.length, m.flags, m.count = 1, sync, 1
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fiemap, uintptr(unsafe.Pointer(&m))); e != 0 {
		return 0, fmt.Errorf("cannot map %s: %w", file, e)
	}
	if m.mapped == 0 || m.extentFlags&unknown != 0 || m.physical == 0 {
		return 0, fmt.Errorf("cannot map %s: nothing is known of its first block", file)
	}
	return int64(m.physical), nil
}

// bootEntries gives the entries of the Boot Loader Specification, which GRUB's
// blscfg and systemd-boot read, as lines of a grub.cfg; "" when there are none.
// prefix is put before the names of their files.
func (s *System) bootEntries(dir, prefix string) string {
	files, err := filepath.Glob(filepath.Join(s.Root, dir, "loader/entries/*.conf"))
	if err != nil {
		return ""
	}
	files = s.own(files)
	opts := ""
	for _, f := range []string{"boot/grub2/grubenv", "boot/grub/grubenv"} {
		b, err := os.ReadFile(filepath.Join(s.Root, f))
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(b), "\n") {
			if v, ok := strings.CutPrefix(line, "kernelopts="); ok {
				opts = v
			}
		}
	}
	var out strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		linux, options, initrd := "", "", ""
		for _, line := range strings.Split(string(b), "\n") {
			key, value, _ := strings.Cut(strings.ReplaceAll(strings.TrimSpace(line), "\t", " "), " ")
			switch key {
			case "linux":
				linux = strings.TrimSpace(value)
			case "options":
				options += " " + strings.TrimSpace(value)
			case "initrd":
				for _, f := range strings.Fields(strings.ReplaceAll(value, "$tuned_initrd", "")) {
					initrd += " " + prefix + f
				}
			}
		}
		if linux == "" { // an EFI program: another system's loader
			continue
		}
		linux = prefix + linux
		fmt.Fprintf(&out, "linux %s%s\ninitrd%s\n", linux, strings.ReplaceAll(options, "$kernelopts", opts), initrd)
	}
	return out.String()
}
