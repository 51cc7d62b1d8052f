package probe

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/bootloader"
	"github.com/mkcdrec/mkcdrec/internal/efivar"
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
	m.esp(l)
	if m.System != "" && len(b.ESPFiles) > 0 && !bootloader.StartsBIOS(m.loaders(), l) {
		b.Firmware = layout.UEFI
	}
	b.Loader = bootloader.Recognise(m.loaders(), l)
	if m.System == "" {
		b.NVRAM, b.Order = efivar.Entries(m.path(efivar.Dir))
	}
}

// loaders is where the machine's boot loader is looked for.
func (m Machine) loaders() bootloader.Machine {
	out := bootloader.Machine{Files: sysconf.In(cmp.Or(m.System, m.Root, "/")), Dev: m.path("/dev")}
	if m.System == "" {
		out.EFIVars = m.path(efivar.Dir)
	}
	return out
}

// bootLoader is the name by which an Unsupported about how the machine starts can be
// excluded.
const bootLoader = "boot-loader"

// noLoader records what a restore can't make start. A machine whose root is not on its
// own disks (a container, a root on the network) does not start from them.
func (m Machine) noLoader(l *layout.Layout) {
	if len(m.Only) > 0 || l.Mounted("/") == nil {
		return
	}
	if why := bootloader.Problem(m.loaders(), l); why != "" {
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: "boot loader", Device: bootLoader, Reason: why})
	}
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
