package layout

import (
	"fmt"
	"path"
	"slices"
)

// Firmware kinds and boot loaders.
const (
	BIOS        = "bios"
	UEFI        = "uefi"
	GRUB        = "grub"
	SystemdBoot = "systemd-boot" // sd-boot(7)
	Extlinux    = "extlinux"     // and syslinux: what extlinux(1) installs
)

// LoaderFirmware lists the kinds of firmware that start a boot loader, nil for a loader that is not known.
// Everything else about loaders is in internal/bootloader.
func LoaderFirmware(loader string) []string {
	return map[string][]string{GRUB: {BIOS, UEFI}, SystemdBoot: {UEFI}, Extlinux: {BIOS}}[loader]
}

// Boot is how the machine starts.
type Boot struct {
	Firmware string `json:"firmware"` // BIOS or UEFI
	Loader   string `json:"loader"`   // GRUB, SystemdBoot, Extlinux or ""
	// Targets are the platforms that GRUB was found installed for: "i386-pc", "x86_64-efi".
	Targets []string `json:"targets"`
	// Disks have code in their first sector that starts the loader.
	Disks []string `json:"disks"`
	// Dir is the directory in which the loader is installed, if its partition's first sector loads a file of
	// it by the places of the file's blocks.
	Dir string `json:"dir,omitempty"`
	// ESP is the device of the EFI system partition, ESPFiles the loaders on it.
	ESP      string       `json:"esp"`
	ESPFiles []string     `json:"espFiles"`
	NVRAM    []NVRAMEntry `json:"nvram"`
	Order    []string     `json:"order"` // of NVRAM entries, "0001"
}

// NVRAMEntry is a boot entry of the UEFI firmware.
type NVRAMEntry struct {
	ID       string `json:"id"` // "0001"
	Label    string `json:"label"`
	Active   bool   `json:"active"`
	PartGUID string `json:"partGUID"`
	Path     string `json:"path"` // of the loader on the ESP, with backslashes
}

// Holding finds the file system that a directory is in, by the mount points above it.
func (l *Layout) Holding(dir string) *Filesystem {
	for ; ; dir = path.Dir(dir) {
		if f := l.Mounted(dir); f != nil || path.Dir(dir) == dir {
			return f
		}
	}
}

func (b *Boot) validate(f *faults, devs map[string]string) {
	if b.Firmware != BIOS && b.Firmware != UEFI {
		f.add("boot.firmware", "%q; want %s or %s", b.Firmware, BIOS, UEFI)
	}
	switch starts := LoaderFirmware(b.Loader); {
	case b.Loader == "":
	case starts == nil:
		f.add("boot.loader", "%q is not known", b.Loader)
	case !slices.Contains(starts, b.Firmware):
		f.add("boot.loader", "%s does not start from %s firmware", b.Loader, b.Firmware)
	case b.ESP == "" && !slices.Contains(starts, BIOS):
		f.add("boot.loader", "%s without an EFI system partition", b.Loader)
	}
	if b.Dir != "" && !CleanPath(b.Dir) {
		f.add("boot.dir", "path %q", b.Dir)
	}
	known := func(where, dev string) {
		if _, ok := devs[dev]; !ok {
			f.add(where, "device %q is not in the layout", dev)
		}
	}
	for i, d := range b.Disks {
		known(fmt.Sprintf("boot.disks[%d]", i), d)
	}
	if b.ESP != "" {
		known("boot.esp", b.ESP)
	}
	for i, t := range b.Targets {
		if !slices.Contains([]string{"i386-pc", "x86_64-efi", "i386-efi", "arm64-efi"}, t) {
			f.add(fmt.Sprintf("boot.targets[%d]", i), "%q is not known", t)
		}
	}
}
