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
	"path/filepath"
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
	// Copied is set if the file system on a device of Layout was copied block by block,
	// so that the numbers of its subvolumes are as they were; nil if none was.
	Copied func(dev string) bool
	// Identities are UUIDs and names that the system's files have and that are others now.
	Identities []Identity
	Run        tool.Runner
	Report     progress.Reporter

	sys string // where this machine's sysfs is; "" for /sys
	dev string // where its devices are; "" for /dev
}

// machine is the restored system on this machine, as a loader is looked for.
func (s *System) machine() Machine { return Machine{Files: s.tree(), Dev: cmp.Or(s.dev, "/dev")} }

func (s *System) sysfs() string { return cmp.Or(s.sys, "/sys") }

// bound are the kernel's file systems that programs in the chroot need.
var bound = []string{"/dev", "/dev/pts", "/proc", "/sys", "/run", "/sys/firmware/efi/efivars"}

// NameByUUID makes /dev/disk/by-uuid/UUID below dev, which udev makes where it
// runs: without it, grub-mkconfig writes the kernel's name of the root device,
// which is another one at the next start. A name that leads to a device stays.
// It reports whether the name is new.
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
	err := os.Remove(name) // of a device that was removed
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
		at, err := s.bind(d)
		if err != nil {
			return leave, fmt.Errorf("cannot make the chroot ready: %w", err)
		}
		if at != "" {
			done = append(done, at)
		}
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

// bind mounts one of the kernel's file systems in the system, and gives the place; "" for one that is not there or that
// programs may do without.
func (s *System) bind(d string) (at string, err error) {
	if _, err := os.Stat(d); err != nil {
		return "", nil
	}
	optional := d == "/dev/pts" || strings.HasPrefix(d, "/sys/")
	if !s.tree().Exists(d) {
		if optional {
			return "", nil
		}
		if err := s.tree().MkdirAll(d, 0o755); err != nil {
			return "", err
		}
	}
	// Links of the system are followed in it, as in the chroot.
	at, err = s.tree().Real(d)
	if err == nil {
		at = filepath.Join(s.Root, at)
		err = unix.Mount(d, at, "", unix.MS_BIND, "")
	}
	switch {
	case err == nil:
		return at, nil
	case optional:
		return "", nil
	}
	return "", fmt.Errorf("bind %s: %w", d, err)
}

func (s *System) chroot(ctx context.Context, args ...string) error {
	env := []string{tool.NoUdev + "=1", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		// Without udev, bootctl(1) can't see that it is the right partition.
		"SYSTEMD_RELAX_ESP_CHECKS=1", "SYSTEMD_RELAX_XBOOTLDR_CHECKS=1"}
	_, err := s.Run.Run(ctx, tool.Cmd{Args: args, Root: s.Root, Env: env})
	return err
}

func (s *System) has(prog string) bool { return Tool{Names: []string{prog}}.Find(s.tree()) != "" }

// Install checks the references and installs the boot loader as the source machine had
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
	ld := s.loader()
	if ld.Name() == "" { // nothing is begun that can't be finished
		return ld.Install(ctx, s)
	}
	lacks, known := s.lacksDrivers("/sys")
	var command []string
	why := s.outdated(renamed, lacks, known)
	if why != "" {
		command = s.initramfsCommand(why)
	}
	if err := ld.Regenerate(ctx, s, command, renamed); err != nil {
		return err
	}
	return ld.Install(ctx, s)
}

// outdated returns why the initramfs has to be regenerated; "" if it is right.
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

// initramfsCommand is the command with which the system regenerates its initramfs, nil if it has none.
func (s *System) initramfsCommand(why string) []string {
	for _, c := range [][]string{
		{"update-initramfs", "-u", "-k", "all"},   // Debian, Ubuntu
		{"dracut", "--force", "--regenerate-all"}, // Fedora, RHEL, SUSE
		{"mkinitcpio", "--allpresets"},            // Arch
	} {
		if s.has(c[0]) {
			s.Report.Note("regenerating the initramfs: %s", why)
			return c
		}
	}
	s.Report.Warn("cannot regenerate the initramfs: the restored system has no program for that\nthe initramfs has to be regenerated by hand: %s", why)
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

// startsElsewhere reports that the first disk, which a BIOS starts if it is not told otherwise, has no loader;
// with are the disks that have it.
func (s *System) startsElsewhere(name string, with []string) {
	if first := s.firstDisk(); len(with) > 0 && first != "" && !slices.Contains(with, first) {
		s.Report.Note("%s is not on /dev/%s: the firmware has to be told to start /dev/%s", name, first, with[0])
	}
}
