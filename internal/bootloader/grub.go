package bootloader

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/templates"
)

// grub is GRUB 2.
type grub struct{ defaults }

func (grub) Name() string { return layout.GRUB }

// GRUBConfigs are Debian's file, and Fedora's and SUSE's.
func GRUBConfigs() []string { return []string{"/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"} }

// Disks looks for GRUB's name in the boot code, where boot.img has it.
func (grub) Disks(m Machine, l *layout.Layout) []string {
	var out []string
	for _, d := range l.Disks {
		if bytes.Contains(m.first(d.Name, bootCode), []byte("GRUB")) {
			out = append(out, d.Name)
		}
	}
	return out
}

// Recognise goes by the configuration.
func (g grub) Recognise(m Machine, l *layout.Layout) bool {
	b := &l.Boot
	for t, file := range map[string]string{"x86_64-efi": "grubx64.efi", "i386-efi": "grubia32.efi", "arm64-efi": "grubaa64.efi"} {
		if slices.ContainsFunc(b.ESPFiles, func(p string) bool { return strings.EqualFold(path.Base(p), file) }) {
			b.Targets = append(b.Targets, t)
		}
	}
	found := slices.ContainsFunc(GRUBConfigs(), m.Files.Exists)
	if found {
		if b.Disks = g.Disks(m, l); len(b.Disks) > 0 {
			b.Targets = append(b.Targets, "i386-pc")
		}
	}
	slices.Sort(b.Targets)
	return found
}

func (grub) Problem(m Machine, l *layout.Layout) string {
	if len(l.Boot.Disks) > 0 || len(l.Boot.Targets) > 0 {
		return ""
	}
	for _, d := range l.Disks {
		var parts []layout.Partition
		if d.Table != nil {
			parts = d.Table.Partitions
		}
		for _, p := range parts {
			// The messages "GRUB \0Geom\0" are where grub-core/boot/i386/pc/boot.S of GRUB 2 has them,
			// before the partition table. The name alone may be in any file system.
			if b := m.first(p.Device, bootCode); b != nil && bytes.Contains(b[0x100:], []byte("GRUB \x00Geom\x00")) {
				return "GRUB is in the boot sector of the partition " + p.Device + ", where it can't be installed again"
			}
		}
	}
	return "GRUB's configuration is there, but no disk has GRUB in its first sector"
}

func (grub) Tools(*layout.Layout) []Tool {
	return []Tool{{[]string{"grub-install", "grub2-install"}, "install it (Debian: grub-pc-bin or grub-efi-amd64-bin, with grub2-common)"}}
}

func (grub) Modules(firmware string) (dir, pkg string) {
	if firmware == layout.UEFI {
		return "/usr/lib/grub/x86_64-efi", "grub-efi-amd64-bin"
	}
	return "/usr/lib/grub/i386-pc", "grub-pc-bin"
}

func (grub) ByHand(l *layout.Layout, dev func(string) templates.Shell) (commands []templates.Shell, found bool) {
	for _, d := range l.Boot.Disks {
		commands = append(commands, templates.Shellf("grub-install --target=i386-pc %s", dev(d)))
	}
	if grubOnESP(&l.Boot) {
		commands = append(commands, "grub-install --target=x86_64-efi --removable --no-nvram")
	}
	return commands, false
}

// grubOnESP reports whether GRUB is on the EFI system partition, or comes onto a new one: a
// plan for other firmware knows no targets.
func grubOnESP(b *layout.Boot) bool {
	return slices.Contains(b.Targets, "x86_64-efi") || b.Firmware == layout.UEFI && len(b.Targets)+len(b.ESPFiles) == 0
}

func (grub) Expected() []Expectation {
	return []Expectation{{"the boot loader, reinstalled", `^/boot(/|/grub2?(/.*)?|/efi(/.*)?)?$`}}
}

func (grub) Files(s *System) []cmdlineFile {
	out := []cmdlineFile{
		{"/etc", "default/grub", sysconf.Shell},
		{"/etc", "default/grub.d/*.cfg", sysconf.Shell},
		{"/etc", "grub.d/4[01]_custom", sysconf.GRUB},
	}
	for _, f := range GRUBConfigs() {
		d := path.Dir(f)
		out = append(out, cmdlineFile{d, "grub.cfg", sysconf.GRUB}, cmdlineFile{d, "custom.cfg", sysconf.GRUB}, cmdlineFile{d, "grubenv", sysconf.Grubenv})
	}
	if dir := s.espDir(); dir != "" {
		out = append(out, cmdlineFile{dir, "[Ee][Ff][Ii]/*/grub.cfg", sysconf.GRUB}, cmdlineFile{dir, "[Ee][Ff][Ii]/*/grubenv", sysconf.Grubenv})
	}
	return out
}

// Configs are those of the first entry, or of the entries that it reads from files.
func (grub) Configs(s *System) []config {
	var out []config
	for _, f := range GRUBConfigs() {
		if text := s.read(f); text != "" {
			out = append(out, config{f, s.started(text)})
		}
	}
	return out
}

// First is the entry that GRUB has saved or the newest of the Boot Loader Specification, or the first of a grub.cfg.
func (grub) First(s *System) (*Entry, error) {
	for _, f := range GRUBConfigs() {
		cfg := s.read(f)
		if cfg == "" {
			continue
		}
		if strings.Contains(cfg, "blscfg") {
			if all := s.blsEntries("boot", ""); len(all) > 0 {
				return s.chosen(all), nil
			}
		}
		if e := sysconf.ParseGRUBEntry(sysconf.FirstGRUBEntry(cfg)); e != nil {
			return e, nil
		}
		return nil, fmt.Errorf("cannot find a boot entry: the first one of %s starts no Linux kernel", f)
	}
	return nil, errors.New("cannot find a boot entry: there is no grub.cfg")
}

func (g grub) Regenerate(ctx context.Context, s *System, initramfs []string, renamed map[string]string) error {
	if err := g.defaults.Regenerate(ctx, s, initramfs, renamed); err != nil {
		return err
	}
	for _, cfg := range []struct{ file, prog string }{{GRUBConfigs()[0], "grub-mkconfig"}, {GRUBConfigs()[1], "grub2-mkconfig"}} {
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

// Install installs GRUB with grub-install.
func (g grub) Install(ctx context.Context, s *System) error {
	b := s.Layout.Boot
	file, err := s.tool(g.Tools(s.Layout)[0])
	if err != nil {
		return err
	}
	name := path.Base(file)
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
	s.startsElsewhere("GRUB", with)
	if b.ESP != "" && grubOnESP(&b) {
		return g.efi(ctx, s, name)
	}
	if len(b.Disks) == 0 {
		return errors.New("cannot install the boot loader: the layout names neither a disk with GRUB nor an EFI system partition")
	}
	return nil
}

// efi installs GRUB on the EFI system partition, with an NVRAM entry when the
// firmware lets us, and always under the removable path, which a firmware
// with an empty NVRAM starts.
func (grub) efi(ctx context.Context, s *System, name string) error {
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
			s.Report.Warn("no entry in the firmware's boot menu: the firmware starts the system by the removable path\n%v", err)
			if err := s.chroot(ctx, append(a, "--no-nvram")...); err != nil {
				return err
			}
		}
	}
	return s.chroot(ctx, append(args, "--removable", "--no-nvram")...)
}

// Prove looks for GRUB where a BIOS starts it.
func (grub) Prove(s *System) []string {
	if s.Layout.Boot.Firmware == layout.UEFI || slices.ContainsFunc(s.Layout.Boot.Disks, func(d string) bool {
		return bytes.Contains(s.machine().first(s.Devices[d], bootCode), []byte("GRUB"))
	}) {
		return nil
	}
	return []string{"no disk has GRUB in its first sector"}
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
	sysconf.VisitKernelRefs(cfg, sysconf.GRUB, func(k sysconf.KernelRef) (string, bool) {
		if w := k.Param + "=" + k.Text; names[w] && !slices.Contains(out, w) {
			out = append(out, w)
		}
		return "", false
	})
	slices.Sort(out)
	return out
}

// started is the part of a grub.cfg that starts this system: its first entry, or
// those that it reads from files.
func (s *System) started(cfg string) string {
	if strings.Contains(cfg, "blscfg") {
		return cfg + "\n" + s.bootEntries("boot", "")
	}
	return sysconf.FirstGRUBEntry(cfg)
}
