// Package bootloader makes a restored system start: it checks what the
// system's own files refer to, and installs the boot loader with the system's
// own programs, in a chroot.
package bootloader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// System is a restored system that is mounted below Root.
type System struct {
	Root   string
	Layout *layout.Layout
	// Devices maps the layout's names to those of this machine.
	Devices map[string]string
	// Types are the new types of file systems that had another, by mount point.
	Types map[string]string
	// Copied tells whether the file system on a device of Layout was copied block by block,
	// so that the numbers of its subvolumes are as they were; nil if none was.
	Copied func(dev string) bool
	// Identities are UUIDs and names that the system's files have and that are others now.
	Identities []Identity
	Run        tool.Runner
	Report     progress.Reporter

	sys string // where this machine's sysfs is; "" for /sys
}

func (s *System) sysfs() string { return cmp.Or(s.sys, "/sys") }

// bound are the kernel's file systems that programs in the chroot need.
var bound = []string{"/dev", "/dev/pts", "/proc", "/sys", "/run", "/sys/firmware/efi/efivars"}

// NameByUUID makes /dev/disk/by-uuid/UUID below dev, which udev makes where it
// runs: without it, grub-mkconfig writes the kernel's name of the root device,
// which is another one at the next start. A name that leads to a device stays.
// It tells whether the name is new.
func NameByUUID(dev, device, uuid string) (bool, error) {
	if strings.ContainsAny(uuid, "/\x00") || strings.HasPrefix(uuid, ".") {
		return false, fmt.Errorf("cannot name /dev/%s by its UUID: %q is not one", device, uuid)
	}
	dir := filepath.Join(dev, "disk/by-uuid")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, fmt.Errorf("cannot name /dev/%s by its UUID: %w", device, err)
	}
	name := filepath.Join(dir, uuid)
	if _, err := os.Stat(name); err == nil {
		return false, nil
	}
	err := os.Remove(name) // of a device that is gone
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = os.Symlink("../../"+device, name)
	}
	if err != nil {
		return false, fmt.Errorf("cannot name /dev/%s by its UUID: %w", device, err)
	}
	return true, nil
}

// Enter makes a chroot ready; leave undoes it.
func (s *System) Enter() (leave func() error, err error) {
	var done, named []string
	leave = func() error {
		var errs []error
		for _, u := range named {
			errs = append(errs, os.Remove("/dev/disk/by-uuid/"+u))
		}
		for _, d := range slices.Backward(done) {
			if err := unix.Unmount(d, 0); err != nil {
				errs = append(errs, fmt.Errorf("cannot unmount %s: %w", d, err))
			}
		}
		return errors.Join(errs...)
	}
	for _, d := range bound {
		if _, err := os.Stat(d); err != nil {
			continue
		}
		optional := d == "/dev/pts" || strings.HasPrefix(d, "/sys/")
		if !s.tree().Exists(d) {
			if optional {
				continue
			}
			if err := s.tree().MkdirAll(d, 0o755); err != nil {
				return leave, fmt.Errorf("cannot make the chroot ready: %w", err)
			}
		}
		// Links of the system are followed in it, as in the chroot.
		at, err := s.tree().Real(d)
		if err == nil {
			at = filepath.Join(s.Root, at)
			err = unix.Mount(d, at, "", unix.MS_BIND, "")
		}
		if err != nil {
			if optional {
				continue
			}
			return leave, fmt.Errorf("cannot make the chroot ready: bind %s: %w", d, err)
		}
		done = append(done, at)
	}
	for _, f := range s.Layout.Filesystems {
		if dev := s.Devices[f.Device]; dev != "" && f.UUID != "" {
			made, err := NameByUUID("/dev", dev, f.UUID)
			if err != nil {
				return leave, err
			}
			if made {
				named = append(named, f.UUID)
			}
		}
	}
	return leave, nil
}

func (s *System) chroot(ctx context.Context, args ...string) error {
	env := []string{"DM_DISABLE_UDEV=1", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if s.Layout.Boot.Loader == layout.SystemdBoot {
		// Without udev, bootctl(1) can't see that it is the right partition.
		env = append(env, "SYSTEMD_RELAX_ESP_CHECKS=1", "SYSTEMD_RELAX_XBOOTLDR_CHECKS=1")
	}
	_, err := s.Run.Run(ctx, tool.Cmd{Args: args, Root: s.Root, Env: env})
	return err
}

func (s *System) has(prog string) bool {
	for _, d := range []string{"/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"} {
		if s.tree().Exists(d + prog) {
			return true
		}
	}
	return false
}

// Install checks the references and installs GRUB as the source machine had
// it. What could not be done is an error with what to do by hand; a system
// that may not start is never called restored.
func (s *System) Install(ctx context.Context) error {
	if err := s.references(); err != nil {
		return err
	}
	leave, err := s.Enter()
	if err == nil {
		err = s.install(ctx, s.renamed())
	}
	return errors.Join(err, leave())
}

// references changes names of devices in the system's files that are not right any
// more.
func (s *System) references() error {
	if err := s.reidentify(); err != nil {
		return err
	}
	r := s.resolver(false)
	if err := s.fstab(r); err != nil {
		return err
	}
	for _, f := range []string{"/etc/crypttab", "/etc/crypttab.initramfs"} {
		if err := s.edit(f, func(text string) (string, []string, []string) {
			return CheckCrypttab(text, r, s.tree().Exists)
		}); err != nil {
			return err
		}
	}
	if err := s.follow(r); err != nil {
		return err
	}
	if err := s.followDisks(r); err != nil {
		return err
	}
	if err := s.followUnits(r); err != nil {
		return err
	}
	if err := s.followCards(); err != nil {
		return err
	}
	if err := s.arrayFile(); err != nil {
		return err
	}
	for _, f := range arrayFiles() {
		if err := s.edit(f, func(text string) (string, []string, []string) {
			text, notes := FollowArrays(text, s.Layout, r)
			return text, notes, nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// arrayFiles are the places of mdadm.conf(5).
func arrayFiles() []string { return []string{"/etc/mdadm/mdadm.conf", "/etc/mdadm.conf"} }

// arrayFile makes an empty mdadm.conf if absent and arrays are new.
func (s *System) arrayFile() error {
	if !slices.ContainsFunc(s.Layout.Arrays, func(a layout.Array) bool { return a.New }) {
		return nil
	}
	name := arrayFiles()[1]
	if st, err := s.tree().Stat("/etc/mdadm"); err == nil && st.IsDir() {
		name = arrayFiles()[0]
	}
	if s.tree().Exists(name) {
		return nil
	}
	if err := s.tree().Write(name, nil, 0o644); err != nil {
		return fmt.Errorf("cannot make %s: %w", name, err)
	}
	return nil
}

// renamed lists devices whose names are others here, old to new.
func (s *System) renamed() map[string]string {
	out := map[string]string{}
	for o, n := range s.Devices {
		if o != n {
			out[o] = n
		}
	}
	for o, n := range s.Layout.Moved {
		if to := s.Devices[n]; to != "" {
			out[o] = to
		}
	}
	return out
}

func (s *System) install(ctx context.Context, renamed map[string]string) error {
	b := s.Layout.Boot
	if b.Loader != layout.GRUB && b.Loader != layout.SystemdBoot {
		return fmt.Errorf("cannot install a boot loader: the source machine's is not known; %s is mounted: install it there by hand", s.Root)
	}
	lacks, known := s.lacksDrivers("/sys")
	why := s.outdated(renamed, lacks, known)
	if len(renamed) > 0 || why != "" {
		if err := s.rebuild(ctx, renamed, why); err != nil {
			return err
		}
	}
	if b.Loader == layout.SystemdBoot {
		return s.systemdBoot()
	}
	name := "grub-install"
	if !s.has(name) {
		if name = "grub2-install"; !s.has(name) {
			return fmt.Errorf("cannot install the boot loader: the restored system has no grub-install")
		}
	}
	var with []string
	for _, d := range b.Disks {
		dev, ok := s.Devices[d]
		if !ok {
			continue
		}
		with = append(with, dev)
		s.Report.Note("installing GRUB on /dev/%s", dev)
		if err := s.chroot(ctx, name, "--target=i386-pc", "/dev/"+dev); err != nil {
			return err
		}
	}
	if first := s.firstDisk(); len(with) > 0 && first != "" && !slices.Contains(with, first) {
		s.Report.Note("GRUB is not on /dev/%s: the firmware has to be told to start /dev/%s", first, with[0])
	}
	if b.ESP != "" && slices.Contains(b.Targets, "x86_64-efi") {
		return s.efi(ctx, name)
	}
	if len(b.Disks) == 0 {
		return errors.New("cannot install the boot loader: the layout names neither a disk with GRUB nor an EFI system partition")
	}
	return nil
}

// firstDisk is the first one of the restored disks, which a BIOS starts if it is
// not told otherwise; "sdz" comes before "sdaa".
func (s *System) firstDisk() string {
	first := ""
	for _, d := range s.Layout.Disks {
		if n := s.Devices[d.Name]; n != "" && (first == "" || len(n) < len(first) || len(n) == len(first) && n < first) {
			first = n
		}
	}
	return first
}

// efi installs GRUB on the EFI system partition, with an NVRAM entry when the
// firmware lets us, and always under the removable path, which a firmware
// with an empty NVRAM starts.
func (s *System) efi(ctx context.Context, name string) error {
	id := ""
	for _, f := range s.Layout.Boot.ESPFiles {
		if d := path.Base(path.Dir(f)); strings.EqualFold(path.Base(f), "grubx64.efi") && !strings.EqualFold(d, "boot") {
			id = d
		}
	}
	args := []string{name, "--target=x86_64-efi", "--efi-directory=" + s.espDir()}
	if id != "" {
		s.Report.Note("installing GRUB on the EFI system partition, as %s", id)
		a := append(slices.Clone(args), "--bootloader-id="+id)
		if err := s.chroot(ctx, a...); err != nil {
			s.Report.Warn("no entry in the firmware's boot menu: the removable path starts the system all the same\n%v", err)
			if err := s.chroot(ctx, append(a, "--no-nvram")...); err != nil {
				return err
			}
		}
	}
	return s.chroot(ctx, append(args, "--removable", "--no-nvram")...)
}

// outdated tells why the initramfs has to be regenerated; "" if it is right.
func (s *System) outdated(renamed map[string]string, lacks, known bool) string {
	// "vd", "sd", "nv": how the kernel names disks by the way they are attached.
	class := func(n string) string { return n[:min(2, len(n))] }
	for o, n := range renamed {
		lacks = lacks || !known && class(o) != class(n)
	}
	switch {
	case len(s.Identities) > 0:
		return "its devices have other UUIDs"
	case s.Types["/"] != "" || s.Types["/usr"] != "":
		return "its file systems are of another type"
	case len(s.Layout.Moved) > 0:
		return "what was on a partition is on a RAID array, or the other way round"
	case lacks:
		return "it lacks the driver of the new disk"
	}
	if stale := s.staleCopies(); len(stale) > 0 {
		return "its copy of " + strings.Join(stale, ", ") + " names devices of the old machine"
	}
	return ""
}

// rebuild regenerates the initramfs if there is a reason, and GRUB's configuration
// if that names an old device.
func (s *System) rebuild(ctx context.Context, renamed map[string]string, why string) error {
	if why != "" {
		if err := s.initramfs(ctx, why); err != nil {
			return err
		}
	}
	if s.Layout.Boot.Loader != layout.GRUB {
		return nil
	}
	for _, cfg := range []struct{ file, prog string }{{"/boot/grub/grub.cfg", "grub-mkconfig"}, {"/boot/grub2/grub.cfg", "grub2-mkconfig"}} {
		b, err := s.tree().Read(cfg.file)
		if err != nil {
			continue
		}
		if strings.Contains(string(b), "rootfstype=") && s.Types["/"] != "" {
			s.Report.Warn("%s has rootfstype=: change it in /etc/default/grub, then run %s -o %s", cfg.file, cfg.prog, cfg.file)
		}
		for o := range renamed {
			_, moved := s.Layout.Moved[o] // the commands that find it are others
			if moved || strings.Contains(string(b), "/dev/"+o) {
				s.Report.Note("regenerating %s: /dev/%s now names a different device", cfg.file, o)
				if err := s.chroot(ctx, cfg.prog, "-o", cfg.file); err != nil {
					return err
				}
				if b, err = s.tree().Read(cfg.file); err != nil {
					return fmt.Errorf("cannot read what %s wrote: %w", cfg.prog, err)
				}
				for _, w := range s.kernelNames(string(b)) {
					s.Report.Warn("%s: %s is what this rescue system calls the device, and it may be called otherwise when the machine starts: see GRUB_DISABLE_LINUX_UUID in /etc/default/grub", cfg.file, w)
				}
				break
			}
		}
	}
	return nil
}

// initramfs has the system regenerate its initramfs.
func (s *System) initramfs(ctx context.Context, why string) error {
	for _, c := range [][]string{
		{"update-initramfs", "-u", "-k", "all"},   // Debian, Ubuntu
		{"dracut", "--force", "--regenerate-all"}, // Fedora, RHEL, SUSE
		{"mkinitcpio", "--allpresets"},            // Arch
	} {
		if !s.has(c[0]) {
			continue
		}
		s.Report.Note("regenerating the initramfs: %s", why)
		if s.Layout.Boot.Loader == layout.SystemdBoot {
			return s.remakeEntries(ctx, c)
		}
		return s.chroot(ctx, c...)
	}
	s.Report.Warn("cannot regenerate the initramfs: the restored system has no program for that\nthe initramfs has to be regenerated by hand: %s", why)
	return nil
}

// kernelNames lists root= words of a grub.cfg that name a partition as the kernel
// does, sorted, each once.
func (s *System) kernelNames(cfg string) []string {
	names := map[string]bool{}
	for o, n := range s.Devices {
		if _, p := s.Layout.Partition(o); p != nil {
			names["root=/dev/"+n] = true
		}
	}
	var out []string
	for _, w := range regexp.MustCompile(`\broot=/dev/\S+`).FindAllString(cfg, -1) {
		if names[w] && !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	slices.Sort(out)
	return out
}
