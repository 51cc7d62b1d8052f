package bootloader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/efivar"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/templates"
)

// systemdBoot is systemd-boot, sd-boot(7): files on the EFI system partition, which are restored with it, and the
// firmware's entry. It reads entries of the Boot Loader Specification, and unified kernel images in EFI/Linux.
type systemdBoot struct{ defaults }

func (systemdBoot) Name() string { return layout.SystemdBoot }

// Recognise reports whether systemd-boot started the machine. Where no loader left
// its name, it did if it is installed and GRUB is not.
func (systemdBoot) Recognise(m Machine, l *layout.Layout) bool {
	b := l.Boot
	if b.Firmware != layout.UEFI || b.ESP == "" {
		return false
	}
	if m.EFIVars != "" {
		if name, ok := efivar.LoaderInfo(m.EFIVars); ok {
			return strings.HasPrefix(name, "systemd-boot")
		}
	}
	return !slices.ContainsFunc(GRUBConfigs(), m.Files.Exists) && slices.ContainsFunc(b.ESPFiles, func(f string) bool {
		return strings.HasPrefix(strings.ToLower(f), "/efi/systemd/systemd-boot")
	})
}

// ByHand: the loader is among the restored files.
func (systemdBoot) ByHand(*layout.Layout, func(string) templates.Shell) (commands []templates.Shell, found bool) {
	return nil, true
}

func (systemdBoot) Expected() []Expectation {
	return []Expectation{
		{"the boot loader, its entries and what they load, recreated", `^/boot(/|/(EFI|[0-9a-f]{32}|efi)(/.*)?)?$|^/efi(/.*)?$`},
		{"the index of kernel modules, recreated by kernel-install", `^/(usr/)?lib/modules/[^/]+(/modules\.[a-z.]+)?$`},
	}
}

// Files: it has none of its own; entries of the Boot Loader Specification are followed in each system.
func (systemdBoot) Files(*System) []cmdlineFile { return nil }

// entryDirs are the partitions that systemd-boot reads: the EFI system partition,
// and the one for more kernels, XBOOTLDR.
func (s *System) entryDirs() []string {
	var out []string
	for _, d := range []string{s.espDir(), "/boot"} {
		if d != "" && !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out
}

// Configs are the entries of this system.
func (systemdBoot) Configs(s *System) []config {
	var out []config
	for _, d := range s.entryDirs() {
		if text := s.bootEntries(d, d); text != "" {
			out = append(out, config{d + "/loader/entries", text})
		}
	}
	return out
}

// First is the newest entry.
func (systemdBoot) First(s *System) (*Entry, error) {
	var all []Entry
	for _, d := range s.entryDirs() {
		all = append(all, s.blsEntries(d, d)...)
	}
	if len(all) == 0 {
		return nil, errors.New("cannot find a boot entry below loader/entries")
	}
	return s.chosen(all), nil
}

// Unified are the images in EFI/Linux.
func (systemdBoot) Unified(s *System) []string {
	var out []string
	for _, d := range s.entryDirs() {
		out = append(out, s.own(s.tree().Glob(d, "[Ee][Ff][Ii]/[Ll]inux/*.[Ee][Ff][Ii]"))...)
	}
	return out
}

// Prove looks for something to start.
func (x systemdBoot) Prove(s *System) []string {
	if len(x.Unified(s)) == 0 && len(x.Configs(s)) == 0 {
		return []string{"systemd-boot has no entry for this system: there is neither one in loader/entries nor a kernel in EFI/Linux"}
	}
	return nil
}

// Regenerate regenerates the initramfs and sees that the copy which systemd-boot
// loads is the new one. kernel-install(8), which makes entries, takes the running
// kernel's command line where the system has none on file: the rescue system's
// would be wrong, and so the old machine's lies over it meanwhile.
func (systemdBoot) Regenerate(ctx context.Context, s *System, initramfs []string, _ map[string]string) (err error) {
	if initramfs == nil {
		return nil
	}
	undo, err := s.oldCmdline()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, undo()) }()
	if err := s.chroot(ctx, initramfs...); err != nil {
		return err
	}
	if lacks, _ := s.lacksDrivers("/sys"); !lacks && len(s.staleCopies()) == 0 || !s.has("kernel-install") {
		return nil
	}
	for _, k := range s.tree().Glob("/boot", "vmlinuz-*") {
		version := strings.TrimPrefix(filepath.Base(k), "vmlinuz-")
		if !s.tree().Exists("/lib/modules/" + version) {
			continue
		}
		args := []string{"kernel-install", "add", version, "/boot/vmlinuz-" + version}
		for _, i := range []string{"/boot/initrd.img-" + version, "/boot/initramfs-" + version + ".img"} {
			if s.tree().Exists(i) {
				args = append(args, i)
				break
			}
		}
		s.Report.Note("renewing the entry of kernel %s", version)
		if err := s.chroot(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// oldCmdline puts the old machine's kernel command line, with what is called
// otherwise now, over /proc/cmdline in the chroot.
func (s *System) oldCmdline() (undo func() error, err error) {
	none := func() error { return nil }
	for _, f := range []string{"/etc/kernel/cmdline", "/usr/lib/kernel/cmdline"} {
		if s.tree().Exists(f) {
			return none, nil
		}
	}
	at, err := s.tree().Real("/proc/cmdline")
	if err != nil || s.Layout.Kernel.Cmdline == "" || !s.tree().Exists(at) {
		return none, nil
	}
	at = filepath.Join(s.Root, at)
	line, _ := FollowCmdline(s.Layout.Kernel.Cmdline, sysconf.Plain, s.resolver(false))
	f, err := os.CreateTemp("", "cmdline-*")
	if err != nil {
		return none, fmt.Errorf("cannot put the old kernel command line in place: %w", err)
	}
	_, err = f.WriteString(line + "\n")
	err = errors.Join(err, f.Chmod(0o444), f.Close())
	if err == nil {
		err = unix.Mount(f.Name(), at, "", unix.MS_BIND, "")
	}
	if err != nil {
		return none, errors.Join(fmt.Errorf("cannot put the old kernel command line in place: %w", err), os.Remove(f.Name()))
	}
	return func() error { return errors.Join(unix.Unmount(at, 0), os.Remove(f.Name())) }, nil
}

// Install makes the firmware start systemd-boot: by an entry like the old one,
// and by the removable path.
func (systemdBoot) Install(_ context.Context, s *System) error {
	dir := s.espDir()
	if dir == "" {
		return errors.New("cannot make systemd-boot start: the EFI system partition was not mounted when the backup was made")
	}
	found := s.tree().Glob(dir, "[Ee][Ff][Ii]/systemd/systemd-boot*.[Ee][Ff][Ii]")
	if len(found) == 0 {
		return fmt.Errorf("cannot make systemd-boot start: it is not in %s/EFI/systemd; run: chroot %s bootctl install", dir, s.Root)
	}
	loader := found[0]
	machine := strings.TrimPrefix(strings.ToLower(path.Base(loader)), "systemd-boot") // "x64.efi"
	removable := path.Join(path.Dir(path.Dir(loader)), "BOOT", "BOOT"+strings.ToUpper(machine))
	if !s.tree().Exists(removable) {
		s.Report.Note("installing systemd-boot under the removable path")
		if err := s.copyLoader(loader, removable); err != nil {
			return err
		}
	}
	if err := s.efiEntry(efivar.Dir, "/sys", loader, dir); err != nil {
		s.Report.Warn("no entry in the firmware's boot menu: the firmware starts the system by the removable path\n%v", err)
	}
	return nil
}
