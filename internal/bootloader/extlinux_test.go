package bootloader

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/templates"
)

// writeFiles writes files below a directory.
func writeFiles(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for n, text := range files {
		n = filepath.Join(root, n)
		if err := os.MkdirAll(filepath.Dir(n), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(n, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// ldlinux is a file of three sectors with a patch area as ldlinux.sys has it, and the boot sector of a partition on
// which it begins at a sector.
func ldlinux(at int) (file, boot string) {
	le := binary.LittleEndian
	f, b := make([]byte, 3*sectorSize), make([]byte, sectorSize)
	copy(f, "\r\nSYSLINUX 6.04 \x00")
	le.PutUint32(f[24:], 0x3eb202fe)
	le.PutUint16(f[24+22:], 600)
	le.PutUint16(f[600+14:], 100)
	le.PutUint16(f[600+16:], 110)
	copy(b, "\xeb\x58\x90EXTLINUX")
	le.PutUint32(b[100:], uint32(at))
	return string(f), string(b)
}

// extRestored is the system of restored, with /boot on a partition of its own, where extlinux is.
func extRestored(t *testing.T) (s *System, sys string) {
	t.Helper()
	s, sys = restored(t)
	const at = 40
	file, boot := ldlinux(at)
	writeFiles(t, s.Root, map[string]string{
		"boot/extlinux/ldlinux.sys":       file,
		"boot/extlinux/extlinux.conf":     "DEFAULT menu.c32\nTIMEOUT 10\nMENU INCLUDE linux.cfg Systems\nLABEL other\n  KERNEL /vmlinuz-other\n  APPEND root=/dev/sdz9\n",
		"boot/extlinux/linux.cfg":         "label l0\n\tmenu default\n\tlinux ../vmlinuz-6.1.0-9-amd64\n\tinitrd /initrd.img-6.1.0-9-amd64\n\tappend root=/dev/mapper/vg--0-root ro\n",
		"boot/vmlinuz-6.1.0-9-amd64":      "kernel",
		"usr/bin/extlinux":                "",
		"usr/lib/syslinux/mbr/gptmbr.bin": "gptmbr" + strings.Repeat("x", bootCode-6),
	})
	os.RemoveAll(s.Root + "/boot/grub")
	l := s.Layout
	l.Boot = layout.Boot{Loader: layout.Extlinux, Firmware: layout.BIOS, Disks: []string{"vda"}, Dir: "/boot/extlinux"}
	l.Disks[0].Table.Label = layout.GPT
	l.Disks[0].Table.Partitions = append(l.Disks[0].Table.Partitions, layout.Partition{Device: "vda3", Attributes: legacyBoot})
	l.Filesystems = append(l.Filesystems, layout.Filesystem{Device: "vda3", Type: "ext4", UUID: "44-dd", Mounts: []layout.Mount{{Path: "/boot"}}})
	s.Devices["vda3"] = "vdb3"
	s.dev, s.Report = t.TempDir(), progress.None{}
	writeFiles(t, s.dev, map[string]string{
		"vdb":  "gptmbr" + strings.Repeat("x", sectorSize-6),
		"vdb3": boot + strings.Repeat("\x00", (at-1)*sectorSize) + file,
	})
	return s, sys
}

// TestProofExtlinux: the way from the first sector to the kernel is followed, and each fault in it is named.
func TestProofExtlinux(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, s *System, sys string)
		want  string
	}{
		"good": {func(*testing.T, *System, string) {}, ""},
		"root": {func(t *testing.T, s *System, _ string) {
			change(t, s.Root+"/boot/extlinux/linux.cfg", "/dev/mapper/vg--0-root", "/dev/sda2")
		}, "/boot/extlinux/extlinux.conf: root=/dev/sda2 is not among"},
		"initrd": {func(_ *testing.T, s *System, _ string) { os.Remove(s.Root + "/boot/initrd.img-6.1.0-9-amd64") }, "/initrd.img-6.1.0-9-amd64, which the boot loader loads, is missing"},
		"kernel": {func(_ *testing.T, s *System, _ string) { os.Remove(s.Root + "/boot/vmlinuz-6.1.0-9-amd64") }, "/boot/vmlinuz-6.1.0-9-amd64, which the boot loader loads, is missing"},
		"driver": {func(t *testing.T, _ *System, sys string) { onNVMe(t, sys) }, "lacks the driver nvme of /dev/vdb"},
		"entry": {func(t *testing.T, s *System, _ string) {
			change(t, s.Root+"/boot/extlinux/linux.cfg", "linux ../vmlinuz", "com32 reboot.c32")
		}, "the default one of /boot/extlinux/extlinux.conf starts no Linux kernel"},
		"config":    {func(_ *testing.T, s *System, _ string) { os.Remove(s.Root + "/boot/extlinux/extlinux.conf") }, "there is no configuration of extlinux"},
		"MBR":       {func(t *testing.T, s *System, _ string) { change(t, s.dev+"/vdb", "gptmbr", "GRUB  ") }, "does not have extlinux's code in its first sector"},
		"no code":   {func(_ *testing.T, s *System, _ string) { os.RemoveAll(s.Root + "/usr/lib/syslinux") }, "does not have extlinux's code in its first sector"},
		"partition": {func(t *testing.T, s *System, _ string) { change(t, s.dev+"/vdb3", "EXTLINUX", "MSDOS5.0") }, "does not load its ldlinux.sys"},
		"blocks": {func(t *testing.T, s *System, _ string) { // the file is where the old system had it no more
			_, boot := ldlinux(39)
			_, is := ldlinux(40)
			change(t, s.dev+"/vdb3", is, boot)
		}, "does not load its ldlinux.sys"},
		"inactive": {func(_ *testing.T, s *System, _ string) { s.Layout.Disks[0].Table.Partitions[2].Attributes = 0 }, "vda3, which is not marked as active or legacy_boot"},
	} {
		t.Run(name, func(t *testing.T) {
			s, sys := extRestored(t)
			c.spoil(t, s, sys)
			got := strings.Join(s.Proof(sys), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("Proof() = %q; want %q", got, c.want)
			}
		})
	}
}

// TestInstallExtlinux: extlinux writes the boot sector, dd the code before it.
func TestInstallExtlinux(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(s *System)
		want   string
	}{
		{"GPT", func(*System) {}, "[extlinux --install /boot/extlinux dd bs=440 count=1 conv=notrunc,fsync if=/usr/lib/syslinux/mbr/gptmbr.bin of=/dev/vdb]"},
		{"MBR", func(s *System) {
			s.Layout.Disks[0].Table.Label = layout.MBR
			_ = os.Rename(s.Root+"/usr/lib/syslinux/mbr/gptmbr.bin", s.Root+"/usr/lib/syslinux/mbr/mbr.bin")
		}, "[extlinux --install /boot/extlinux dd bs=440 count=1 conv=notrunc,fsync if=/usr/lib/syslinux/mbr/mbr.bin of=/dev/vdb]"},
		{"another initramfs", func(s *System) {
			s.Types = map[string]string{"/": "xfs"}
			_ = os.WriteFile(s.Root+"/usr/bin/dracut", nil, 0o755)
		}, "[dracut --force --regenerate-all extlinux --install /boot/extlinux dd bs=440 count=1 conv=notrunc,fsync if=/usr/lib/syslinux/mbr/gptmbr.bin of=/dev/vdb]"},
		{"no extlinux", func(s *System) { os.Remove(s.Root + "/usr/bin/extlinux") }, "!has no extlinux"},
		{"no code", func(s *System) { os.RemoveAll(s.Root + "/usr/lib/syslinux") }, "!has no /usr/lib/EXTLINUX/gptmbr.bin"},
		{"no directory", func(s *System) { s.Layout.Boot.Dir = "" }, "!does not name extlinux's directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := extRestored(t)
			c.change(s)
			rec := &tool.Recorder{Answers: map[string]string{"extlinux": "", "dd": "", "dracut": ""}}
			s.Run = rec
			err := s.install(context.Background(), nil)
			if want, bad := strings.CutPrefix(c.want, "!"); bad {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("install() = %v; want %q", err, want)
				}
				return
			}
			got := strings.ReplaceAll(fmt.Sprint(rec.Calls), "chroot "+s.Root+" ", "")
			if err != nil || got != c.want {
				t.Errorf("install() ran %s, %v; want %s", got, err, c.want)
			}
		})
	}
}

// TestRecogniseExtlinux: it is known by its files and its boot sector, and is not taken for GRUB or the other way round.
func TestRecogniseExtlinux(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(t *testing.T, s *System)
		want    string
		problem string
	}{
		"extlinux":         {func(*testing.T, *System) {}, layout.Extlinux, ""},
		"syslinux on Arch": {func(_ *testing.T, s *System) { _ = os.Rename(s.Root+"/boot/extlinux", s.Root+"/boot/syslinux") }, layout.Extlinux, ""},
		"GRUB's files too": {func(t *testing.T, s *System) { writeFiles(t, s.Root, map[string]string{"boot/grub/grub.cfg": ""}) }, layout.Extlinux, ""},
		"GRUB starts": {func(t *testing.T, s *System) {
			change(t, s.dev+"/vda", "gptmbr", "GRUB  ")
			writeFiles(t, s.Root, map[string]string{"boot/grub/grub.cfg": ""})
		}, layout.GRUB, ""},
		"GRUB in a partition": {func(t *testing.T, s *System) {
			change(t, s.dev+"/vda3", "EXTLINUX", "mkfs.fat")
			writeFiles(t, s.Root, map[string]string{"boot/grub/grub.cfg": ""})
		}, layout.GRUB, "no disk has GRUB in its first sector"},
		"files of a medium only": {func(_ *testing.T, s *System) { os.Remove(s.Root + "/boot/extlinux/ldlinux.sys") }, "", "none of the boot loaders extlinux, grub, systemd-boot was found"},
		"not in the boot sector": {func(t *testing.T, s *System) { change(t, s.dev+"/vda3", "EXTLINUX", "mkfs.fat") }, layout.Extlinux, "not in the boot sector of the partition vda3"},
		"not marked":             {func(_ *testing.T, s *System) { s.Layout.Disks[0].Table.Partitions[2].Attributes = 0 }, layout.Extlinux, "not marked"},
		"on a volume":            {func(_ *testing.T, s *System) { s.Layout.Filesystems = s.Layout.Filesystems[:3] }, layout.Extlinux, "is on no partition"},
		"not started by UEFI":    {func(_ *testing.T, s *System) { s.Layout.Boot.Firmware = layout.UEFI }, "", "no EFI system partition"},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := extRestored(t)
			for _, d := range []string{"", "3"} {
				if err := os.Rename(s.dev+"/vdb"+d, s.dev+"/vda"+d); err != nil {
					t.Fatal(err)
				}
			}
			l := s.Layout
			l.Boot = layout.Boot{Firmware: layout.BIOS}
			c.change(t, s)
			m := Machine{Files: sysconf.In(s.Root), Dev: s.dev}
			l.Boot.Loader = Recognise(m, l)
			problem := Problem(m, l)
			if l.Boot.Loader != c.want || c.problem == "" && problem != "" || !strings.Contains(problem, c.problem) {
				t.Errorf("Recognise() = %q with the problem %q; want %q, %q", l.Boot.Loader, problem, c.want, c.problem)
			}
			if c.want == layout.Extlinux && c.problem == "" && (!slices.Equal(l.Boot.Disks, []string{"vda"}) || !StartsBIOS(m, l)) {
				t.Errorf("Recognise() gives %+v", l.Boot)
			}
		})
	}
}

// TestSyslinuxConfig: the entry that starts by itself is found as the loader finds it.
func TestSyslinuxConfig(t *testing.T) {
	for _, c := range []struct {
		name, conf string
		want       Entry
	}{
		{"the default", "default two\nlabel one\nlinux /a\nlabel two\n  kernel /b\n  initrd /i,/j\n  append root=/dev/x ro\n", Entry{ID: "two", Linux: "/b", Initrd: []string{"/i", "/j"}, Options: "root=/dev/x ro"}},
		{"the first, with a menu", "UI menu.c32\nPROMPT 0\nLABEL one\nMENU LABEL One\nLINUX vmlinuz\nAPPEND initrd=initrd.img root=/dev/x\n", Entry{ID: "one", Linux: "/boot/extlinux/vmlinuz", Initrd: []string{"/boot/extlinux/initrd.img"}, Options: "initrd=initrd.img root=/dev/x"}},
		{"the menu's choice", "default one\nlabel one\nlinux /a\nlabel two\nmenu default\nlinux /b\n", Entry{ID: "two", Linux: "/b"}},
		{"options for all", "append quiet\nlabel one\nlinux /a\n", Entry{ID: "one", Linux: "/a", Options: "quiet"}},
		{"no options", "append quiet\nlabel one\nlinux /a\nappend -\n", Entry{ID: "one", Linux: "/a"}},
		{"included in itself", "include extlinux.conf\ninclude more.cfg\n", Entry{ID: "more", Linux: "/more"}},
	} {
		root := t.TempDir()
		writeFiles(t, root, map[string]string{"boot/extlinux/extlinux.conf": c.conf, "boot/extlinux/ldlinux.sys": "", "boot/extlinux/more.cfg": "label more\nlinux /more\n"})
		s := &System{Root: root, Layout: &layout.Layout{Boot: layout.Boot{Loader: layout.Extlinux, Dir: "/boot/extlinux"}}}
		e, err := extlinux{}.First(s)
		if err != nil || fmt.Sprintf("%+v", *e) != fmt.Sprintf("%+v", c.want) {
			t.Errorf("%s: First() = %+v, %v; want %+v", c.name, e, err, c.want)
		}
	}
}

// TestByHand: RESTORE.txt has the commands that Install runs.
func TestByHand(t *testing.T) {
	s, _ := extRestored(t)
	got, found := extlinux{}.ByHand(s.Layout, func(d string) templates.Shell { return templates.Shellf("/dev/%s", d) })
	if found || len(got) != 2 || got[0] != "extlinux --install /boot/extlinux" || !strings.Contains(string(got[1]), "dd bs=440") || !strings.HasSuffix(string(got[1]), "/usr/share/syslinux/gptmbr.bin") {
		t.Errorf("ByHand() = %q, %v", got, found)
	}
}

// TestLoaders: the layout knows each loader, and each has a name and changes of its own.
func TestLoaders(t *testing.T) {
	for _, l := range loaders() {
		if len(layout.LoaderFirmware(l.Name())) == 0 || len(l.Expected()) == 0 || For(l.Name()) != l {
			t.Errorf("the loader %q is not complete", l.Name())
		}
	}
	if l := For("lilo"); l.Name() != "" || l.Tools(nil) != nil {
		t.Errorf("For(lilo) = %q", l.Name())
	}
}
