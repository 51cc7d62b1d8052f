package probe

import (
	"bytes"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// bootLoader is the name by which an Unsupported about how the machine starts can be
// excluded.
const bootLoader = "boot-loader"

// noLoader records what a restore can't make start. A machine whose root is not on its
// own disks (a container, a root on the network) does not start from them.
func (m Machine) noLoader(l *layout.Layout) {
	if len(m.Only) > 0 || l.Mounted("/") == nil {
		return
	}
	if why := m.loaderProblem(l); why != "" {
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: "boot loader", Device: bootLoader, Reason: why})
	}
}

// loaderProblem tells why the machine's boot loader can't be installed again; "" when
// it can.
func (m Machine) loaderProblem(l *layout.Layout) string {
	b := l.Boot
	switch {
	case b.Firmware == layout.UEFI && b.ESP == "":
		return "no EFI system partition is mounted, and what starts this machine is not known"
	case b.Firmware == layout.UEFI && len(b.ESPFiles) == 0:
		return "the EFI system partition " + b.ESP + " has no boot loader"
	case b.Loader == "":
		return "neither GRUB's configuration nor systemd-boot was found, and what starts this machine is not known"
	case b.Loader != layout.GRUB || len(b.Disks) > 0 || len(b.Targets) > 0:
		return ""
	}
	for _, d := range l.Disks {
		if d.Table == nil {
			continue
		}
		for _, p := range d.Table.Partitions {
			if m.grubInSector(p.Device) {
				return "GRUB is in the boot sector of the partition " + p.Device + ", where it can't be installed again"
			}
		}
	}
	return "GRUB's configuration is there, but no disk has GRUB in its first sector"
}

// grubInSector looks for GRUB's boot.img in a partition's boot sector: its messages
// "GRUB \0Geom\0" are where grub-core/boot/i386/pc/boot.S of GRUB 2 has them, before the
// partition table at byte 446. The name alone may be in any file system.
func (m Machine) grubInSector(dev string) bool {
	f, err := os.Open(m.path("/dev/" + dev))
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 446)
	_, err = f.ReadAt(b, 0)
	return err == nil && bytes.Contains(b[0x100:], []byte("GRUB \x00Geom\x00"))
}
