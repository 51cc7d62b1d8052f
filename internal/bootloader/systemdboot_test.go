package bootloader

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/efivar"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

const (
	token   = "0123456789abcdef0123456789abcdef"
	espGUID = "F1BEB9E4-812B-4A20-A397-1C6079E5BAC2"
)

// sdRestored is the system of restored, with systemd-boot in the place of GRUB.
func sdRestored(t *testing.T) (*System, string) {
	t.Helper()
	s, sys := restored(t)
	put := func(name, text string) {
		t.Helper()
		f := filepath.Join(s.Root, name)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kernel := "boot/efi/" + token + "/6.1.0-9-amd64/"
	put("etc/machine-id", token+"\n")
	put("boot/efi/loader/entries/"+token+"-6.1.0-9-amd64.conf", "title\tDebian\nlinux      /"+token+"/6.1.0-9-amd64/linux\noptions    root=/dev/mapper/vg--0-root ro\ninitrd     /"+token+"/6.1.0-9-amd64/initrd.img-6.1.0-9-amd64\n")
	put("boot/efi/loader/entries/other.conf", "title Another Linux\nlinux /other\noptions root=/dev/sdz9\n")
	put("boot/efi/loader/entries/windows.conf", "title Windows\nefi /EFI/Microsoft/Boot/bootmgfw.efi\n")
	put(kernel+"linux", "kernel")
	put("boot/efi/EFI/systemd/systemd-bootx64.efi", "sd-boot")
	if err := os.Rename(s.Root+"/boot/initrd.img-6.1.0-9-amd64", s.Root+"/"+kernel+"initrd.img-6.1.0-9-amd64"); err != nil {
		t.Fatal(err)
	}
	s.Report = progress.None{}
	s.Layout.Boot.Loader = layout.SystemdBoot
	s.Layout.Disks[0].Table.Label = layout.GPT
	p := s.Layout.Disks[0].Table.Partitions
	p[0].Number, p[0].GUID, p[0].Type = 1, espGUID, layout.TypeESP
	return s, sys
}

// TestProofSystemdBoot: entries are looked at as those of GRUB are, and those of
// other systems are not.
func TestProofSystemdBoot(t *testing.T) {
	dir := "/boot/efi/" + token + "/6.1.0-9-amd64/"
	entry := "/boot/efi/loader/entries/" + token + "-6.1.0-9-amd64.conf"
	for name, c := range map[string]struct {
		spoil func(t *testing.T, root, sys string)
		want  string
	}{
		"good": {func(*testing.T, string, string) {}, ""},
		"root": {func(t *testing.T, root, _ string) { change(t, root+entry, "/dev/mapper/vg--0-root", "/dev/sda2") }, "/boot/efi/loader/entries: root=/dev/sda2 is not among"},
		"initrd": {func(t *testing.T, root, _ string) {
			os.Remove(root + dir + "initrd.img-6.1.0-9-amd64")
		}, dir + "initrd.img-6.1.0-9-amd64, which the boot loader loads, is missing"},
		"driver": {func(t *testing.T, root, sys string) {
			onNVMe(t, sys)
		}, "lacks the driver nvme of /dev/vdb"},
		"nothing": {func(t *testing.T, root, _ string) { os.RemoveAll(root + "/boot/efi/loader") }, "systemd-boot has no entry for this system"},
		"loader":  {func(t *testing.T, root, _ string) { os.Remove(root + "/boot/efi/EFI/BOOT/BOOTX64.EFI") }, "no loader in EFI/BOOT"},
		// Nobody is left whose names begin with the token: all are looked at.
		"others": {func(t *testing.T, root, _ string) { os.Remove(root + entry) }, "root=/dev/sdz9 is not among"},
	} {
		t.Run(name, func(t *testing.T) {
			s, sys := sdRestored(t)
			c.spoil(t, s.Root, sys)
			got := strings.Join(s.Proof(sys), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("%q; want %q", got, c.want)
			}
		})
	}
}

// TestProofUnified: a unified kernel image is looked into.
func TestProofUnified(t *testing.T) {
	stub := media.FindStub("")
	if stub == "" {
		t.Skip("systemd-boot-efi is not installed; make test installs it")
	}
	s, sys := sdRestored(t)
	initrd := s.Root + "/boot/efi/" + token + "/6.1.0-9-amd64/initrd.img-6.1.0-9-amd64"
	linux := filepath.Join(filepath.Dir(initrd), "linux")
	if err := os.MkdirAll(s.Root+"/boot/efi/EFI/Linux", 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(cmdline string) {
		t.Helper()
		out := s.Root + "/boot/efi/EFI/Linux/" + token + "-6.1.0-9-amd64.efi"
		os.Remove(out)
		if err := (media.UKI{Stub: stub, Kernel: linux, Initrd: initrd, Cmdline: cmdline, Title: "Debian"}).Write(out); err != nil {
			t.Fatal(err)
		}
	}
	write("root=/dev/mapper/vg--0-root ro")
	os.RemoveAll(s.Root + "/boot/efi/loader")
	if got := s.Proof(sys); len(got) > 0 {
		t.Errorf("a good image: %q", got)
	}
	if lacks, known := s.lacksDrivers(sys); lacks || !known {
		t.Errorf("lacksDrivers = %v, %v", lacks, known)
	}
	s.Layout.Filesystems[1].Type = "xfs"
	write("root=/dev/sda2 ro")
	got := strings.Join(s.Proof(sys), "\n")
	if !strings.Contains(got, "amd64.efi: root=/dev/sda2 is not among") {
		t.Errorf("the proof does not see the command line: %q", got)
	}
	if err := os.WriteFile(s.Root+"/boot/efi/EFI/Linux/"+token+"-broken.efi", []byte("MZ"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.Proof(sys), "\n"); !strings.Contains(got, token+"-broken.efi: ") {
		t.Errorf("a broken image: %q", got)
	}
}

// TestSystemdBoot: the firmware gets an entry like the old one, before the others,
// and the removable path a copy.
func TestSystemdBoot(t *testing.T) {
	s, _ := sdRestored(t)
	vars, sys := t.TempDir()+efivar.Dir, t.TempDir()
	for name, text := range map[string]string{"vdb1/start": "2048", "vdb1/size": "524288", "vdb/queue/logical_block_size": "4096"} {
		f := filepath.Join(sys, "class/block", name)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(vars, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, e := range []efivar.Entry{{Label: "Another", GUID: "11111111-812B-4A20-A397-1C6079E5BAC2", Path: "/x.efi"}, {Label: "Linux Boot Manager", GUID: "22222222-812B-4A20-A397-1C6079E5BAC2", Path: "/stale.efi"}} {
		if _, err := efivar.Add(vars, e); err != nil {
			t.Fatal(err)
		}
	}
	esp := s.Root + "/boot/efi"
	loader := "/boot/efi/EFI/systemd/systemd-bootx64.efi"
	removable := "/boot/efi/EFI/BOOT/BOOTX64.EFI"
	if err := s.copyLoader(loader, removable); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(s.Root + removable); err != nil || string(b) != "sd-boot" {
		t.Errorf("%v %q", err, b)
	}
	check := func(label, path string) {
		t.Helper()
		if err := s.efiEntry(vars, sys, loader, "/boot/efi"); err != nil {
			t.Fatal(err)
		}
		entries, order := efivar.Entries(vars)
		if len(entries) != len(order) {
			t.Errorf("%d entries, %d in order", len(entries), len(order))
		}
		n := 0
		for _, e := range entries {
			if e.Label == label {
				n++
				if e.ID != order[0] || e.PartGUID != espGUID || e.Path != path {
					t.Errorf("%+v; order %v", e, order)
				}
			}
		}
		if n != 1 {
			t.Errorf("%d entries %q: %+v", n, label, entries)
		}
	}
	check("Linux Boot Manager", `\EFI\systemd\systemd-bootx64.efi`)
	// The old one had a shim, and an entry for a loader that is gone.
	if err := os.WriteFile(esp+"/EFI/systemd/shimx64.efi", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s.Layout.Boot.Order = []string{"0009", "0003", "0004"}
	s.Layout.Boot.NVRAM = []layout.NVRAMEntry{
		{ID: "0003", Label: "gone", Active: true, PartGUID: espGUID, Path: `\EFI\gone.efi`},
		{ID: "0004", Label: "Linux with shim", Active: true, PartGUID: strings.ToLower(espGUID), Path: `\EFI\systemd\shimx64.efi`},
	}
	check("Linux with shim", `\EFI\systemd\shimx64.efi`)
	if start, size, err := extent(sys, "vdb1", "vdb"); err != nil || start != 256 || size != 65536 {
		t.Errorf("extent = %d, %d, %v: sectors of 4 KiB", start, size, err)
	}
	if _, _, err := extent(sys, "vdb9", "vdb"); err == nil {
		t.Error("a partition that is missing has a place")
	}
}
