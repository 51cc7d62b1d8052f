package probe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// boot finds out how the machine starts.
func (m Machine) boot(l *layout.Layout) {
	b := &l.Boot
	b.Firmware = layout.BIOS
	if _, err := os.Stat(m.path("/sys/firmware/efi")); err == nil && m.System == "" {
		b.Firmware = layout.UEFI
	}
	for _, p := range []string{"/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"} {
		if m.exists(p) {
			b.Loader = layout.GRUB
		}
	}
	m.esp(l)
	if m.System != "" && len(b.ESPFiles) > 0 && !slices.ContainsFunc(l.Disks, func(d layout.Disk) bool { return m.grubInMBR(d.Name) }) {
		b.Firmware = layout.UEFI
	}
	if b.Firmware == layout.UEFI && b.ESP != "" && m.systemdBoot(b) {
		b.Loader = layout.SystemdBoot
		b.Targets = nil
	}
	if b.Loader == layout.GRUB {
		for _, d := range l.Disks {
			if m.grubInMBR(d.Name) {
				b.Disks = append(b.Disks, d.Name)
			}
		}
		if len(b.Disks) > 0 {
			b.Targets = append(b.Targets, "i386-pc")
			slices.Sort(b.Targets)
		}
	}
	if m.System == "" {
		b.NVRAM, b.Order = m.NVRAM()
	}
}

// loaderInfo is the variable in which a boot loader leaves its name and version;
// https://systemd.io/BOOT_LOADER_INTERFACE.
const loaderInfo = "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// systemdBoot tells whether systemd-boot started the machine. Where no loader left
// its name, it did if it is installed and GRUB is not.
func (m Machine) systemdBoot(b *layout.Boot) bool {
	if v, err := os.ReadFile(m.path(loaderInfo)); err == nil && len(v) > 4 && m.System == "" {
		name, _, _ := utf16z(append(v[4:], 0, 0))
		return strings.HasPrefix(name, "systemd-boot")
	}
	return b.Loader == "" && slices.ContainsFunc(b.ESPFiles, func(f string) bool {
		return strings.HasPrefix(strings.ToLower(f), "/efi/systemd/systemd-boot")
	})
}

// grubInMBR looks for GRUB's name in the boot code, where boot.img has it.
func (m Machine) grubInMBR(disk string) bool {
	f, err := os.Open(m.path("/dev/" + disk))
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 440)
	_, err = f.ReadAt(b, 0)
	return err == nil && bytes.Contains(b, []byte("GRUB"))
}

// esp finds the mounted EFI system partition and the loaders on it.
func (m Machine) esp(l *layout.Layout) {
	for _, f := range l.Filesystems {
		_, p := l.Partition(f.Device)
		if p == nil || len(f.Mounts) == 0 || p.Type != layout.TypeESP && p.Type != "0xef" {
			continue
		}
		l.Boot.ESP = f.Device
		root := m.inSystem(f.Mounts[0].Path)
		_ = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && strings.EqualFold(filepath.Ext(p), ".efi") {
				l.Boot.ESPFiles = append(l.Boot.ESPFiles, strings.TrimPrefix(p, root))
			}
			return nil // a directory that can't be read is the archive's to report
		})
		break
	}
	for t, file := range map[string]string{"x86_64-efi": "grubx64.efi", "i386-efi": "grubia32.efi", "arm64-efi": "grubaa64.efi"} {
		if slices.ContainsFunc(l.Boot.ESPFiles, func(p string) bool { return strings.EqualFold(filepath.Base(p), file) }) {
			l.Boot.Targets = append(l.Boot.Targets, t)
		}
	}
	slices.Sort(l.Boot.Targets)
}

const efiGlobal = "8be4df61-93ca-11d2-aa0d-00e098032b8c"

// NVRAM reads the firmware's boot entries; UEFI specification §3.1.3.
func (m Machine) NVRAM() (entries []layout.NVRAMEntry, order []string) {
	dir := m.path("/sys/firmware/efi/efivars")
	files, err := filepath.Glob(dir + "/Boot[0-9A-F][0-9A-F][0-9A-F][0-9A-F]-" + efiGlobal)
	if err != nil {
		return nil, nil
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || len(b) < 4 {
			continue
		}
		if e, ok := parseLoadOption(b[4:]); ok {
			e.ID = filepath.Base(f)[4:8]
			entries = append(entries, e)
		}
	}
	if b, err := os.ReadFile(dir + "/BootOrder-" + efiGlobal); err == nil {
		for b = b[min(4, len(b)):]; len(b) >= 2; b = b[2:] {
			order = append(order, fmt.Sprintf("%04X", binary.LittleEndian.Uint16(b)))
		}
	}
	return entries, order
}

// parseLoadOption reads an EFI_LOAD_OPTION: attributes, length of the device
// path, description, device path.
func parseLoadOption(b []byte) (layout.NVRAMEntry, bool) {
	le := binary.LittleEndian
	if len(b) < 6 {
		return layout.NVRAMEntry{}, false
	}
	e := layout.NVRAMEntry{Active: le.Uint32(b)&1 != 0}
	n := int(le.Uint16(b[4:]))
	desc, rest, ok := utf16z(b[6:])
	if !ok || n > len(rest) {
		return layout.NVRAMEntry{}, false
	}
	e.Label = desc
	for p := rest[:n]; len(p) >= 4; {
		l := int(le.Uint16(p[2:]))
		if l < 4 || l > len(p) {
			break
		}
		switch {
		case p[0] == 4 && p[1] == 1 && l >= 42 && p[41] == 2: // hard drive, GPT
			g := p[24:40]
			e.PartGUID = strings.ToUpper(fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(g), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:16]))
		case p[0] == 4 && p[1] == 4:
			e.Path, _, _ = utf16z(append(slices.Clone(p[4:l]), 0, 0))
		}
		p = p[l:]
	}
	return e, true
}

func utf16z(b []byte) (string, []byte, bool) {
	var u []uint16
	for ; len(b) >= 2; b = b[2:] {
		c := binary.LittleEndian.Uint16(b)
		if c == 0 {
			return string(utf16.Decode(u)), b[2:], true
		}
		u = append(u, c)
	}
	return "", nil, false
}

func (m Machine) kernel(l *layout.Layout) {
	if m.System != "" {
		return
	}
	l.Kernel.Release, l.Kernel.Cmdline = m.read("/proc/sys/kernel/osrelease"), m.cmdline()
	for _, w := range sysconf.ParseCmdline(l.Kernel.Cmdline).Words {
		if w.Name == "console" && w.Assigned {
			l.Kernel.Consoles = append(l.Kernel.Consoles, w.Value)
		}
	}
}

// gateway reads the default route of an interface from /proc/net/route.
func (m Machine) gateway(name string) string {
	for _, line := range strings.Split(m.read("/proc/net/route"), "\n") {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] != name || f[1] != "00000000" {
			continue
		}
		var v uint32
		if _, err := fmt.Sscanf(f[2], "%x", &v); err == nil && v != 0 {
			return net.IP(binary.LittleEndian.AppendUint32(nil, v)).String()
		}
	}
	return ""
}
