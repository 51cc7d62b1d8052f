package bootloader

import (
	"cmp"
	"context"
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/efivar"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// systemd-boot, sd-boot(7), is files on the EFI system partition, which came back
// with it: what is left to do is the firmware's entry. Its configuration are the
// entries of the Boot Loader Specification, and unified kernel images in
// EFI/Linux; https://uapi-group.org/specifications/specs/boot_loader_specification.

// espDir is where the EFI system partition is mounted in the system; "" if it is not.
func (s *System) espDir() string {
	for _, f := range s.Layout.Filesystems {
		if s.Layout.Boot.ESP != "" && f.Device == s.Layout.Boot.ESP && len(f.Mounts) > 0 {
			return f.Mounts[0].Path
		}
	}
	return ""
}

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

// entries are the boot loader's entries of this system.
func (s *System) entries() []config {
	var out []config
	for _, d := range s.entryDirs() {
		if text := s.bootEntries(d, d); text != "" {
			out = append(out, config{d + "/loader/entries", text})
		}
	}
	return out
}

// own drops entries of other systems, when there are some whose names begin as
// those of this system do: with its token, kernel-install(8).
func (s *System) own(files []string) []string {
	for _, f := range []string{"etc/kernel/entry-token", "etc/machine-id"} {
		token := strings.TrimSpace(s.read(f))
		if token == "" {
			continue
		}
		mine := slices.DeleteFunc(slices.Clone(files), func(f string) bool { return !strings.HasPrefix(filepath.Base(f), token+"-") })
		if len(mine) > 0 {
			return mine
		}
	}
	return files
}

// unified are the unified kernel images, by their paths in the system.
func (s *System) unified() []string {
	var out []string
	if s.Layout.Boot.Loader != layout.SystemdBoot {
		return nil
	}
	for _, d := range s.entryDirs() {
		out = append(out, s.own(s.tree().Glob(d, "[Ee][Ff][Ii]/[Ll]inux/*.[Ee][Ff][Ii]"))...)
	}
	return out
}

// proveUnified is the part of the proof that is about unified kernel images, and
// about there being anything to start.
func (s *System) proveUnified(sys string) []string {
	var out []string
	images := s.unified()
	for _, u := range images {
		out = append(out, s.checkUnified(u, sys)...)
	}
	if len(images) == 0 && len(s.entries()) == 0 {
		out = append(out, "systemd-boot has no entry for this system: there is neither one in loader/entries nor a kernel in EFI/Linux")
	}
	return out
}

// checkUnified looks into a unified kernel image: what its command line names has
// to be there, and its initramfs has to have the drivers.
func (s *System) checkUnified(name, sys string) []string {
	file, err := s.tree().Open(name)
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", name, err)}
	}
	defer file.Close()
	f, err := pe.NewFile(file)
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", name, err)}
	}
	text := func(section string) string {
		sec := f.Section(section)
		if sec == nil {
			return ""
		}
		b, err := io.ReadAll(io.LimitReader(sec.Open(), min(int64(sec.VirtualSize), 64<<10)))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(strings.TrimRight(string(b), "\x00"))
	}
	var out []string
	for _, m := range CheckKernel(text(".cmdline"), sysconf.Plain, s.resolver(true)) {
		out = append(out, name+": "+m)
	}
	initrd := f.Section(".initrd")
	if initrd == nil {
		return out
	}
	r := io.LimitReader(initrd.Open(), int64(initrd.VirtualSize))
	return append(out, s.checkInitramfs(name, cmp.Or(text(".uname"), kernelVersion(path.Base(name))), r, sys)...)
}

// remakeEntries regenerates the initramfs and sees that the copy which systemd-boot
// loads is the new one. kernel-install(8), which makes entries, takes the running
// kernel's command line where the system has none on file: the rescue system's
// would be wrong, and so the old machine's lies over it meanwhile.
func (s *System) remakeEntries(ctx context.Context, make []string) (err error) {
	undo, err := s.oldCmdline()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, undo()) }()
	if err := s.chroot(ctx, make...); err != nil {
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

// systemdBoot makes the firmware start systemd-boot: by an entry like the old one,
// and by the removable path.
func (s *System) systemdBoot() error {
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
		s.Report.Warn("no entry in the firmware's boot menu: the removable path starts the system all the same\n%v", err)
	}
	return nil
}

// copyLoader copies a loader; the new file appears whole.
func (s *System) copyLoader(from, to string) error {
	b, err := s.tree().Read(from)
	if err == nil {
		err = s.tree().MkdirAll(path.Dir(to), 0o755)
	}
	if err == nil {
		err = s.tree().Write(to, b, 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", to, err)
	}
	return nil
}

// efiEntry adds the firmware's entry for the loader that the old machine's first
// entry on this partition had, so that a shim stays before it; without such a one
// that of bootctl(1).
func (s *System) efiEntry(vars, sys, loader, dir string) error {
	disk, part := s.Layout.Partition(s.Layout.Boot.ESP)
	if part == nil || part.GUID == "" {
		return errors.New("the EFI system partition has no GUID, which an entry would name")
	}
	e := efivar.Entry{Label: "Linux Boot Manager", Path: strings.TrimPrefix(loader, dir), Number: part.Number, GUID: part.GUID, First: true}
	if old := s.oldEntry(part.GUID, dir); old != nil {
		e.Label, e.Path = old.Label, strings.ReplaceAll(old.Path, `\`, "/")
	}
	var err error
	dev := s.Devices[s.Layout.Boot.ESP]
	if e.Start, e.Size, err = extent(sys, dev, s.Devices[disk.Name]); err != nil {
		return err
	}
	s.Report.Note("adding %q to the firmware's boot menu", e.Label)
	_, err = efivar.Add(vars, e)
	return err
}

// oldEntry is the first of the old machine's active entries for a loader that is
// on the partition.
func (s *System) oldEntry(guid, esp string) *layout.NVRAMEntry {
	b := s.Layout.Boot
	for _, id := range b.Order {
		i := slices.IndexFunc(b.NVRAM, func(e layout.NVRAMEntry) bool { return e.ID == id })
		if i < 0 || !b.NVRAM[i].Active || !strings.EqualFold(b.NVRAM[i].PartGUID, guid) || b.NVRAM[i].Path == "" {
			continue
		}
		p := path.Clean("/" + strings.ReplaceAll(b.NVRAM[i].Path, `\`, "/"))
		if st, err := s.tree().Stat(esp + p); err == nil && st.Mode().IsRegular() { // vfat knows no case
			return &b.NVRAM[i]
		}
	}
	return nil
}

// extent gives a partition's place in sectors of its disk, as the firmware counts;
// the kernel counts in 512 bytes.
func extent(sys, part, disk string) (start, size uint64, err error) {
	num := func(file string) (n uint64) {
		b, e := os.ReadFile(filepath.Join(sys, "class/block", file))
		if e == nil {
			n, e = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		}
		err = errors.Join(err, e)
		return n
	}
	start, size = num(part+"/start"), num(part+"/size")
	per := num(disk+"/queue/logical_block_size") / 512
	if err != nil || per == 0 {
		return 0, 0, fmt.Errorf("cannot find the place of /dev/%s: %w", part, errors.Join(err, errors.New("no size of sectors")))
	}
	return start / per, size / per, nil
}
