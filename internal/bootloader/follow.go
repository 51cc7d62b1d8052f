package bootloader

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/ioctl"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// cmdlineFile are files of the system that have kernel command lines in them.
type cmdlineFile struct {
	dir, pattern string
	format       sysconf.Format
}

// cmdlineFiles lists them. What the configuration of boot loaders is made from is among them, and itself: not
// every system makes it again.
func (s *System) cmdlineFiles() []cmdlineFile {
	out := []cmdlineFile{
		{"/etc", "kernel/cmdline", sysconf.Plain},
		{"/etc", "kernel/cmdline.d/*.conf", sysconf.Plain},
		{"/etc", "cmdline", sysconf.Plain}, // dracut's
		{"/etc", "cmdline.d/*.conf", sysconf.Plain},
		{"/etc", "dracut.conf", sysconf.Shell},
		{"/etc", "dracut.conf.d/*.conf", sysconf.Shell},
		{"/etc", "initramfs-tools/initramfs.conf", sysconf.Shell},
		{"/etc", "initramfs-tools/conf.d/*", sysconf.Shell},
		{"/boot", "loader/entries/*.conf", sysconf.BLS},
	}
	if dir := s.espDir(); dir != "" && dir != "/boot" {
		out = append(out, cmdlineFile{dir, "loader/entries/*.conf", sysconf.BLS})
	}
	for _, l := range loaders() {
		out = append(out, l.Files(s)...)
	}
	return out
}

// FollowCmdline gives a text with kernel command lines in which devices that are
// called otherwise now have names that are right. notes say what was changed.
func FollowCmdline(text string, f sysconf.Format, r *sysconf.Resolver) (out string, notes []string) {
	out = sysconf.VisitKernelRefs(text, f, func(k sysconf.KernelRef) (string, bool) {
		t := r.Kernel(k)
		if t.State != sysconf.Found || t.Right || k.Form != sysconf.Spec {
			return "", false
		}
		notes = append(notes, fmt.Sprintf("line %d: %s=%s is replaced by %s", k.Line, k.Param, k.Text, t.Name))
		return t.Name, true
	})
	return out, notes
}

// CheckKernel lists devices that the kernel command lines of a text, or GRUB's
// commands in it, name and that were not restored; each once.
func CheckKernel(text string, f sysconf.Format, r *sysconf.Resolver) []string {
	var out []string
	seen := map[string]bool{}
	sysconf.VisitKernelRefs(text, f, func(k sysconf.KernelRef) (string, bool) {
		if t := r.Kernel(k); t.State == sysconf.Found || t.State == sysconf.Foreign {
			return "", false
		}
		m := fmt.Sprintf("%s=%s is not among what was restored", k.Param, k.Text)
		if k.Form == sysconf.FSUUID || k.Form == sysconf.FSLabel || k.Form == sysconf.LUKSUUID && !strings.Contains(k.Param, ".") {
			m = fmt.Sprintf("%s refers to %s, which is not among what was restored", k.Param, k.Text)
		}
		if !seen[m] {
			seen[m] = true
			out = append(out, m)
		}
		return "", false
	})
	return out
}

// FollowLVMDevices gives LVM's devices file, lvmdevices(8), with the devices that
// its physical volumes are on now. notes say what was changed.
func FollowLVMDevices(text string, l *layout.Layout, devices map[string]string) (out string, notes []string) {
	now := map[string]string{} // PVID -> device
	for _, g := range l.VolumeGroup {
		for _, p := range g.PVs {
			if dev := devices[p.Device]; dev != "" {
				now[strings.ReplaceAll(p.UUID, "-", "")] = dev
			}
		}
	}
	d := sysconf.ParseLVMDevices(text)
	for _, e := range d.Entries {
		if dev := now[e.PVID]; dev != "" && d.SetDevice(e, dev) {
			notes = append(notes, fmt.Sprintf("the physical volume %s is /dev/%s now", e.PVID, dev))
		}
	}
	return d.String(), notes
}

// follow changes what else names devices: LVM's devices file, and kernel command
// lines.
func (s *System) follow(r *sysconf.Resolver) error {
	if err := s.edit("/etc/lvm/devices/system.devices", func(text string) (string, []string, []string) {
		text, notes := FollowLVMDevices(text, s.Layout, s.Devices)
		return text, notes, nil
	}); err != nil {
		return err
	}
	for _, c := range s.cmdlineFiles() {
		for _, f := range s.tree().Glob(c.dir, c.pattern) {
			if st, err := s.tree().Lstat(f); err != nil || !st.Mode().IsRegular() {
				continue // a link to one that is looked at itself
			}
			if err := s.edit(f, func(text string) (string, []string, []string) {
				out, notes := FollowCmdline(text, c.format, r)
				out, more, wrong := s.followOffset(out)
				notes = append(notes, more...)
				if c.format == sysconf.Grubenv && out != text {
					var fits bool
					if out, fits = sysconf.FitGrubenv(out); !fits {
						return text, nil, []string{"its command line has no room for UUIDs: change it by hand"}
					}
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
	real, err := s.tree().Real(f.Path)
	if err != nil {
		return byHand(err.Error())
	}
	at, err := firstBlock(filepath.Join(s.Root, real))
	if err != nil {
		return byHand(err.Error())
	}
	now := fmt.Sprintf("resume_offset=%d", at/int64(os.Getpagesize()))
	if now == old {
		return text, nil, nil
	}
	return word.ReplaceAllString(text, now), []string{old + " is " + now + " now"}, nil
}

// firstBlock returns where on its file system's device a file begins, bytes.
func firstBlock(file string) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for e, err := range ioctl.Extents(f) {
		if err != nil {
			return 0, fmt.Errorf("cannot map %s: %w", file, err)
		}
		if e.Placed && e.Logical == 0 && e.Physical != 0 {
			return e.Physical, nil
		}
		break
	}
	return 0, fmt.Errorf("cannot map %s: nothing is known of its first block", file)
}
