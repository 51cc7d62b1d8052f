package plan

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/commands"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

func TestForFirmware(t *testing.T) {
	mbr := machine(layout.MBR, []quantity.Size{20 * gib}, [][]part{{{gib, "ext4 /boot", 200 * mib}, {8 * gib, "ext4 /", 3 * gib}, {gib, "swap", 0}, {4 * gib, "xfs /home", gib}, {3 * gib, "ext4 /srv", gib}}}, nil)
	mbr.Boot = layout.Boot{Firmware: layout.BIOS, Loader: layout.GRUB, Targets: []string{"i386-pc"}, Disks: []string{"sda"}}
	if err := mbr.Validate(); err != nil {
		t.Fatal(err)
	}
	l, err := forFirmware(mbr, layout.UEFI)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []quantity.Size{20 * gib, 14 * gib, 40 * gib} {
		is, err := fit(l, onto(l, size), Wish{})
		if err != nil {
			t.Fatalf("%s: %v", size, err)
		}
		checkFit(t, l, is, false)
		tab := is.Disks[0].Table
		if tab.Label != layout.GPT || len(tab.Partitions) != 6 || is.Boot.Firmware != layout.UEFI || is.Boot.ESP != "sda7" || len(is.Boot.Disks) != 0 {
			t.Errorf("%+v", is.Boot)
		}
		if _, p := is.Partition("sda7"); p == nil || p.Size != espSize || p.Type != layout.TypeESP || p.Start+p.Size > size {
			t.Errorf("on %s: %+v", size, p)
		}
		p, err := steps(is, onto(is, size))
		if err != nil {
			t.Fatal(err)
		}
		if last, ok := p.Steps[len(p.Steps)-1].(*MountFS); !strings.Contains(text(p), "mount /dev/vda7 on /boot/efi") || !ok || last.Mount.Path != "/srv" {
			t.Errorf("%s", text(p))
		}
	}
	// mkfs.fat takes it, for both sizes of sectors.
	f := l.Mounted("/boot/efi")
	img := filepath.Join(t.TempDir(), "esp")
	for _, sector := range []int64{512, 4096} {
		if err := os.WriteFile(img, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(img, int64(espSize)); err != nil {
			t.Fatal(err)
		}
		f.VFAT.SectorSize = sector
		run, err := commands.Mkfs(f, img, espSize)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(run[0][0], run[0][1:]...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v %s", run, err, out)
		}
	}
	// And back: the disk gets room for GRUB's core.
	b, err := forFirmware(l, layout.BIOS)
	if err != nil {
		t.Fatal(err)
	}
	if b.Boot.Disks[0] != "sda" || len(b.Boot.Targets) > 0 || b.Disks[0].Table.Partitions[6].Type != layout.TypeBIOSBoot {
		t.Errorf("%+v", b.Boot)
	}
	if same, err := forFirmware(mbr, layout.BIOS); err != nil || same != mbr {
		t.Error("the same firmware changes something")
	}
	none, err := clone(mbr)
	if err != nil {
		t.Fatal(err)
	}
	none.Boot.Loader = ""
	var ref *exit.Refusal
	if _, err := forFirmware(none, layout.UEFI); !errors.As(err, &ref) {
		t.Errorf("an unknown loader: %v", err)
	}
	none.Boot.Loader, none.Boot.Firmware = layout.SystemdBoot, layout.UEFI
	if _, err := forFirmware(none, layout.BIOS); !errors.As(err, &ref) || !strings.Contains(err.Error(), "systemd-boot") {
		t.Errorf("systemd-boot and a BIOS: %v", err)
	}
	none.Boot.Loader, none.Boot.Firmware, none.Boot.Dir = layout.Extlinux, layout.BIOS, "/boot/extlinux"
	if _, err := forFirmware(none, layout.UEFI); !errors.As(err, &ref) || !strings.Contains(err.Error(), "extlinux, which knows BIOS alone") {
		t.Errorf("extlinux and UEFI: %v", err)
	}
	// What its boot sector reads stays as it is.
	if _, err := mirror(none, []string{"sda"}); !errors.As(err, &ref) || !strings.Contains(err.Error(), "extlinux, which is in /boot/extlinux, does not start from RAID") {
		t.Errorf("extlinux and RAID: %v", err)
	}
	at := none.Holding("/boot/extlinux").Mounts[0].Path
	if _, err := convert(none, map[string]string{at: "xfs"}); !errors.As(err, &ref) || !strings.Contains(err.Error(), "the boot loader extlinux starts from it") {
		t.Errorf("extlinux and another type of %s: %v", at, err)
	}
	if _, err := forFirmware(mbr, "coreboot"); !errors.As(err, &ref) {
		t.Errorf("an unknown firmware: %v", err)
	}
	busy, err := clone(mbr)
	if err != nil {
		t.Fatal(err)
	}
	busy.Filesystems[3].Mounts[0].Path = "/boot/efi"
	if _, err := forFirmware(busy, layout.UEFI); !errors.As(err, &ref) {
		t.Errorf("/boot/efi is taken: %v", err)
	}
}

func text(p *Plan) string {
	var out []string
	for _, s := range p.Steps {
		out = append(out, s.String())
	}
	return strings.Join(out, "\n")
}
