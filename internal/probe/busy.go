package probe

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// Busy returns why nothing may be written to a disk: something of it is mounted,
// swapped to, or held by LVM, MD or another device. "" means it is free.
func (m Machine) Busy(disk string) string {
	mounts, err := m.Mounts()
	if err != nil {
		return err.Error()
	}
	on := func(dev string) bool { return slices.Contains(m.DisksOf(dev), disk) }
	for _, mi := range mounts {
		if (strings.HasPrefix(mi.Source, "/dev/") || mi.Device != "") && on(mi.Device) {
			return "/dev/" + mi.Device + " is mounted on " + mi.Path
		}
	}
	for _, s := range m.swaps() {
		if on(s) {
			return "/dev/" + s + " is in use as swap"
		}
	}
	// A btrfs holds devices that no mount names.
	for _, f := range m.btrfsDevices() {
		if on(f.device) {
			return "/dev/" + f.device + " is part of the mounted btrfs " + f.uuid
		}
	}
	for _, g := range []string{"/sys/block/" + sysName(disk) + "/holders/*", "/sys/block/" + sysName(disk) + "/" + sysName(disk) + "*/holders/*"} {
		held, err := filepath.Glob(m.path(g))
		if err != nil || len(held) == 0 {
			continue
		}
		name := filepath.Base(held[0])
		if open, ok := strings.CutPrefix(m.dmName(name), layout.MapperPrefix); ok {
			return "it is in use by LUKS (" + open + ")"
		}
		if lv := m.dmName(name); lv != "" {
			return "it is in use by LVM (" + lv + ")"
		}
		return "it is in use by " + name
	}
	return ""
}

// InUse returns why nothing may be written to a device: it is mounted, swapped to,
// or held by LVM, MD, LUKS or a btrfs. "" means it is free.
func (m Machine) InUse(dev string) string {
	dev = m.Name(dev) // the kernel's name of a volume will do
	mounts, err := m.Mounts()
	if err != nil {
		return err.Error()
	}
	for _, mi := range mounts {
		if mi.Device == dev {
			return "it is mounted on " + mi.Path
		}
	}
	if slices.Contains(m.swaps(), dev) {
		return "it is in use as swap"
	}
	for _, f := range m.btrfsDevices() {
		if f.device == dev {
			return "it is part of the mounted btrfs " + f.uuid
		}
	}
	held, err := filepath.Glob(m.path("/sys/class/block/" + m.kernelName(dev) + "/holders/*"))
	if err == nil && len(held) > 0 {
		return "it is in use by " + m.resolve("/dev/"+filepath.Base(held[0]))
	}
	return ""
}

// Name is our name of a device, given by any link to it, without /dev/.
func (m Machine) Name(dev string) string { return m.resolve("/dev/" + dev) }

// There reports whether the kernel has a device.
func (m Machine) There(dev string) bool {
	_, err := os.Stat(m.path("/sys/class/block/" + m.kernelName(dev)))
	return err == nil
}

// SizeOf is a device's size, 0 when it is not there.
func (m Machine) SizeOf(dev string) quantity.Size { return m.sizeOf(m.kernelName(dev)) }

// StartOf is where a partition begins on its disk, bytes; 0 for other devices.
func (m Machine) StartOf(dev string) quantity.Size {
	n, err := strconv.ParseInt(m.read("/sys/class/block/"+m.kernelName(dev)+"/start"), 10, 64)
	if err != nil {
		return 0
	}
	return quantity.Size(n) * 512
}

// kernelName is the name of a device below /sys/class/block: "dm-3" for
// "vg0/root".
func (m Machine) kernelName(dev string) string {
	if !strings.Contains(dev, "/") {
		return dev
	}
	if _, err := os.Stat(m.path("/sys/class/block/" + sysName(dev))); err == nil {
		return sysName(dev)
	}
	all, err := filepath.Glob(m.path("/sys/block/dm-*"))
	if err != nil {
		return dev
	}
	for _, d := range all {
		if m.dmName(filepath.Base(d)) == dev {
			return filepath.Base(d)
		}
	}
	return dev
}

type btrfsDevice struct{ uuid, device string }

// btrfsDevices lists the devices of all mounted btrfs.
func (m Machine) btrfsDevices() []btrfsDevice {
	all, err := filepath.Glob(m.path("/sys/fs/btrfs/*-*/devices/*"))
	if err != nil {
		return nil
	}
	var out []btrfsDevice
	for _, d := range all {
		out = append(out, btrfsDevice{filepath.Base(filepath.Dir(filepath.Dir(d))), m.resolve("/dev/" + filepath.Base(d))})
	}
	return out
}

// DisksOf gives the disks under a device: a partition's, or all that a
// device-mapper or MD device is on. A loop device over memory has none.
func (m Machine) DisksOf(dev string) []string {
	if dev == "" {
		return nil
	}
	name := m.kernelName(dev)
	if m.inMemory(name) {
		return nil
	}
	if under := m.uncovered(name); under != name {
		return m.DisksOf(under)
	}
	slaves, err := os.ReadDir(m.path("/sys/class/block/" + name + "/slaves"))
	if err == nil && len(slaves) > 0 {
		var out []string
		for _, s := range slaves {
			out = append(out, m.DisksOf(s.Name())...)
		}
		return out
	}
	if _, err := os.Stat(m.path("/sys/class/block/" + name + "/partition")); err == nil {
		real, err := filepath.EvalSymlinks(m.path("/sys/class/block/" + name))
		if err == nil {
			return []string{strings.ReplaceAll(filepath.Base(filepath.Dir(real)), "!", "/")}
		}
	}
	return []string{strings.ReplaceAll(name, "!", "/")}
}

// DeviceAt gives the device mounted over path, "" when it has none.
func (m Machine) DeviceAt(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	if real, err = filepath.Abs(real); err != nil {
		return "", err
	}
	mounts, err := m.Mounts()
	if err != nil {
		return "", err
	}
	if over := MountOver(mounts, real); over != nil {
		return over.Device, nil
	}
	return "", nil
}

// Present lists the disks; keep names devices whose disks
// must not be touched, with the reason.
func (m Machine) Present(keep map[string]string) ([]layout.Present, error) {
	disks, wrong, err := m.readDisks()
	if err != nil {
		return nil, err
	}
	var out []layout.Present
	for _, d := range disks {
		p := layout.Present{Disk: d, Place: m.Place(d.Name)}
		err := wrong[d.Name]
		if errors.As(err, new(awayError)) {
			p.Busy, p.Holds = err.Error(), "not looked at"
			out = append(out, p)
			continue
		}
		p.Busy, p.Holds = m.Busy(d.Name), m.holds(&d)
		if errors.Is(err, errTable) {
			p.Holds = "a " + errTable.Error()
		} else if err != nil && p.Busy == "" && !errors.As(err, new(noteError)) {
			p.Busy = err.Error()
		}
		for dev, why := range keep {
			for _, k := range m.DisksOf(dev) {
				if k == d.Name {
					p.Busy = why
				}
			}
		}
		out = append(out, p)
	}
	return layout.Identify(out), nil
}

// Place returns where a disk or other device is now.
func (m Machine) Place(dev string) layout.Place {
	name := m.kernelName(dev)
	sys := "/sys/class/block/" + name + "/"
	p := layout.Place{Dev: m.read(sys + "dev")}
	p.Seq, _ = strconv.ParseUint(m.read(sys+"diskseq"), 10, 64) // 0 if absent
	if real, err := filepath.EvalSymlinks(m.path(sys)); err == nil {
		_, p.Path, _ = strings.Cut(real, "/sys/devices/")
	}
	return p
}

// holds returns what is on a disk in a few words.
func (m Machine) holds(d *layout.Disk) string {
	name := func(dev string) string {
		i, err := m.superblockOf(dev, 1<<62)
		if err != nil || i == nil {
			return "-"
		}
		if i.Type == superblock.TypeLVM {
			return "LVM"
		}
		if i.Label != "" {
			return i.Type + " " + i.Label
		}
		return i.Type
	}
	if d.Table == nil {
		if n := name(d.Name); n != "-" {
			return n + " on the whole disk"
		}
		return "nothing known (blank?)"
	}
	var parts []string
	for _, p := range d.Table.Partitions {
		if !p.Extended() {
			parts = append(parts, p.Device+" "+name(p.Device))
		}
	}
	if len(parts) == 0 {
		return "an empty " + d.Table.Label + " table"
	}
	return d.Table.Label + ": " + strings.Join(parts, ", ")
}
