// Package probe reads a live machine into a layout. Disks, partition tables
// and superblocks are read directly; LVM is asked through its own program.
// Nothing is written, and no udev is needed, so that the source machine and
// the rescue system see disks the same way.
package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/inroot"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/stick"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Machine is where to look. The zero value with a Runner is the machine we
// run on.
type Machine struct {
	Root string // prefix of /sys, /proc, /dev and /etc
	Run  tool.Runner
	// Skip names disks that are not looked at.
	Skip []string
	// Only, if not empty, names the only disks that are looked at; they may be
	// loop devices.
	Only []string
	// System, if not "", is the directory below which the file systems of a system on these
	// disks are mounted, read-only. The layout is then that system's, as if it ran: its
	// fstab, its mount points, its boot loader.
	System string
}

func (m Machine) path(p string) string { return filepath.Join(m.Root+"/", p) }

// inSystem is the path of a directory of the system. Links in a system that is not
// the running one are its own.
func (m Machine) inSystem(p string) string {
	if m.System == "" {
		return m.path(p)
	}
	if real, err := inroot.Dir(m.System, p); err == nil {
		return real
	}
	return filepath.Join(m.System, ".mkcdrec-no-such-file")
}

// exists reports whether the system has a file.
func (m Machine) exists(p string) bool {
	if m.System == "" {
		_, err := os.Stat(m.path(p))
		return err == nil
	}
	f, err := inroot.Open(m.System, p)
	if err == nil {
		f.Close()
	}
	return err == nil
}

// hostname is the system's.
func (m Machine) hostname() string {
	if m.System == "" {
		return m.read("/proc/sys/kernel/hostname")
	}
	return cmp.Or(m.file("/etc/hostname"), "unknown")
}

// file is the text of a file of the system, "" if it can't be read.
func (m Machine) file(p string) string {
	if m.System == "" {
		return m.read(p)
	}
	f, err := inroot.Open(m.System, p)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSystemFile))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// maxSystemFile is the most that is read of a file of a system that is not running.
const maxSystemFile = 4 << 20

// cmdline is the kernel command line that the system was started with, "" if it does not
// run.
func (m Machine) cmdline() string {
	if m.System != "" {
		return ""
	}
	line, _ := sysconf.RunningCmdline(m.Root) // "" without one
	return line
}

// read gives a small file's text without surrounding blanks; "" if absent.
func (m Machine) read(p string) string {
	b, err := os.ReadFile(m.path(p))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// notDisks are block devices without storage of their own.
var notDisks = []string{"loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd", "mtdblock", "bcache", "drbd", "rbd", "zd"}

// Read reads everything. What is there and can't be recorded is in the
// layout's Unsupported list; errors are those of the machine.
func (m Machine) Read(ctx context.Context) (*layout.Layout, error) {
	l := &layout.Layout{Version: layout.Version, Fstab: m.file("/etc/fstab")}
	l.Hostname = m.hostname()
	disks, faulty, err := m.storage(l)
	if err != nil {
		return nil, err
	}
	l.Disks = disks
	if err := m.arrays(l); err != nil {
		return nil, err
	}
	mounts, err := m.automounted(l, m.openAutomount)
	if err != nil {
		return nil, err
	}
	if err := m.crypts(l); err != nil {
		return nil, err
	}
	if err := m.lvm(ctx, l); err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: "LVM", Device: "lvm", Reason: err.Error()})
	}
	elsewhere(l)
	prune(l, faulty) // before anything is looked at on a disk whose table is refused
	elsewhere(l)
	m.contents(l, mounts, faulty)
	m.swapFiles(l, mounts)
	m.foreignMounts(l, mounts)
	m.boot(l)
	m.noLoader(l)
	m.kernel(l)
	m.network(l)
	clean(l)
	prune(l, faulty)
	m.loose(l, mounts)
	m.links(l)
	return l, nil
}

// Disks lists the disks with their tables, sorted by name. It needs no
// program and is what the rescue system maps disks with. A disk that can't be
// read, or whose table is damaged, is among them without a table: a broken
// disk must not keep the others from being restored.
func (m Machine) Disks() ([]layout.Disk, error) {
	disks, _, err := m.readDisks()
	return disks, err
}

// noteError is what is odd about a disk that is used anyway.
type noteError string

func (e noteError) Error() string { return string(e) }

// readDisks gives the disks, and what is wrong with some of them, by name.
func (m Machine) readDisks() ([]layout.Disk, map[string]error, error) {
	names, err := os.ReadDir(m.path("/sys/block"))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list disks: %w", err)
	}
	var out []layout.Disk
	wrong := map[string]error{}
	for _, n := range names {
		name := strings.ReplaceAll(n.Name(), "!", "/")
		if m.read("/sys/block/"+n.Name()+"/hidden") == "1" {
			continue // a path of an NVMe disk, which has no device file
		}
		if len(m.Only) > 0 && !slices.Contains(m.Only, name) {
			continue
		}
		if len(m.Only) == 0 && slices.ContainsFunc(notDisks, func(p string) bool { return strings.HasPrefix(name, p) }) || strings.Contains(name, "boot") || strings.Contains(name, "rpmb") || slices.Contains(m.Skip, name) {
			continue
		}
		d, notes, err := m.disk(name)
		if err != nil {
			wrong[name] = err
		} else if len(notes) > 0 {
			wrong[name] = noteError(strings.Join(notes, "; "))
		}
		if d.Size > 0 {
			out = append(out, d)
		}
	}
	return out, wrong, nil
}

// storage lists the disks that are the machine's own: a key that mkcdrec made
// comes and goes, and what is on a SAN stays there. A disk that can't be read, or whose
// table is damaged or not used by the kernel, is recorded as not supported and is in
// faulty: what is on it is not looked at. It keeps nothing else from being saved.
func (m Machine) storage(l *layout.Layout) (disks []layout.Disk, faulty map[string]bool, err error) {
	disks, wrong, err := m.readDisks()
	if err != nil {
		return nil, nil, err
	}
	faulty = map[string]bool{}
	for _, d := range disks {
		if m.hybrid(&d) {
			l.Unsupported = append(l.Unsupported, layout.Unsupported{What: "hybrid-mbr:" + d.Name, Device: partOf(d.Name, "hybrid-mbr"), Reason: "the MBR of this GPT disk has entries that are not partitions of the GPT; the disk will be recreated without them"})
		}
		err, ok := wrong[d.Name]
		if !ok || m.isKey(d.Name) {
			continue
		}
		if why := awayError(""); errors.As(err, &why) {
			l.LeftAlone = append(l.LeftAlone, layout.Unsupported{What: d.Name, Device: d.Name, Reason: string(why)})
			continue
		}
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: d.Name, Device: d.Name, Reason: err.Error()})
		if note := noteError(""); !errors.As(err, &note) {
			faulty[d.Name] = true
		}
	}
	return slices.DeleteFunc(disks, func(d layout.Disk) bool { return errors.As(wrong[d.Name], new(awayError)) || m.isKey(d.Name) }), faulty, nil
}

// partOf is the Device of an Unsupported that has no device of its own, but is on one:
// "vda:hybrid-mbr", so that it is excluded with the device and its disks.
func partOf(dev, what string) string { return dev + ":" + what }

// hybrid reports whether the MBR of a GPT disk has more entries than the one for the whole
// disk and those of partitions of the GPT; UEFI specification 2.10, section 5.2.3.
func (m Machine) hybrid(d *layout.Disk) bool {
	if d.Table == nil || d.Table.Label != layout.GPT {
		return false
	}
	f, err := os.Open(m.path("/dev/" + d.Name))
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 512)
	if _, err := f.ReadAt(b, 0); err != nil {
		return false
	}
	entries := 0
	for e := b[446:510]; len(e) > 0; e = e[16:] {
		if e[4] != 0 && e[4] != 0xEE {
			entries++
		}
	}
	for _, p := range d.Table.Partitions {
		if p.InMBR != nil {
			entries--
		}
	}
	return entries > 0
}

func (m Machine) isKey(disk string) bool {
	f, err := os.Open(m.path("/dev/" + disk))
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = stick.Read(f)
	return err == nil
}

func (m Machine) disk(name string) (d layout.Disk, notes []string, err error) {
	sys := "/sys/block/" + sysName(name) + "/"
	num := func(p string, def int64) quantity.Size {
		if v, err := strconv.ParseInt(m.read(sys+p), 10, 64); err == nil {
			return quantity.Size(v)
		}
		return quantity.Size(def)
	}
	d = layout.Disk{Name: name, Size: num("size", 0) * 512, LogicalSector: num("queue/logical_block_size", 512), PhysicalSector: num("queue/physical_block_size", 512), Removable: m.read(sys+"removable") == "1"}
	d.Model = strings.Join(strings.Fields(m.read(sys+"device/model")), " ")
	d.Serial, d.WWN = m.serial(sys), m.wwn(sys)
	if d.Size == 0 {
		return d, nil, nil
	}
	if why := m.away(name); why != "" {
		return d, nil, awayError(why)
	}
	d.Table, notes, err = m.table(&d)
	if err != nil {
		return d, nil, fmt.Errorf("cannot read partition table of %s: %w", name, err)
	}
	return d, notes, nil
}

// serial looks where virtio, NVMe, SCSI (unit serial number page) and USB
// keep it.
func (m Machine) serial(sys string) string {
	for _, p := range []string{"serial", "device/serial"} {
		if s := m.read(sys + p); s != "" {
			return s
		}
	}
	// SCSI VPD page 80h: 4 bytes of header, then text; SPC-4 §7.8.15.
	if b, err := os.ReadFile(m.path(sys + "device/vpd_pg80")); err == nil && len(b) > 4 {
		if s := strings.TrimSpace(strings.Trim(string(b[4:]), "\x00")); s != "" {
			return s
		}
	}
	real, err := filepath.EvalSymlinks(m.path(sys + "device"))
	if err != nil {
		return ""
	}
	for d := real; strings.Contains(d, "/usb"); d = filepath.Dir(d) {
		if b, err := os.ReadFile(d + "/serial"); err == nil {
			return strings.TrimSpace(string(b))
		}
	}
	return ""
}

// wwn takes world-wide names only: a name made of vendor, model and serial
// adds nothing to those.
func (m Machine) wwn(sys string) string {
	for _, p := range []string{"wwid", "device/wwid"} {
		s := strings.ToLower(m.read(sys + p))
		for _, pre := range []string{"naa.", "eui.", "nvme.", "uuid."} {
			if strings.HasPrefix(s, pre) {
				return s
			}
		}
	}
	return ""
}

// superblockOf recognises what is on a device.
func (m Machine) superblockOf(dev string, size quantity.Size) (*superblock.Info, error) {
	f, err := os.Open(m.path("/dev/" + dev))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	i, err := superblock.Probe(f, int64(size))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", dev, err)
	}
	return i, nil
}

// contents looks at every device that can hold something.
func (m Machine) contents(l *layout.Layout, mounts []MountInfo, faulty map[string]bool) {
	swaps, seen := m.swaps(), present{}
	look := func(dev string, size quantity.Size) {
		i, err := m.superblockOf(dev, size)
		if errors.Is(err, os.ErrNotExist) && l.Group(dev) != nil {
			err = errors.New("logical volume that is not active: what is on it can't be read")
		}
		if err != nil { // its own fault: the rest is saved
			l.Unsupported = append(l.Unsupported, layout.Unsupported{What: dev, Device: dev, Reason: err.Error()})
		} else if i != nil {
			seen.add(i.UUID, i.Label)
			m.content(l, dev, size, i, mounts, swaps)
		} else if _, p := l.Partition(dev); p == nil || p.Type != layout.TypeBIOSBoot {
			m.image(l, dev, size, &superblock.Info{}, mounts)
		}
	}
	for i := range l.Disks {
		if !faulty[l.Disks[i].Name] {
			m.diskContents(l, &l.Disks[i], look)
		}
	}
	for _, a := range l.Arrays {
		look(a.Name, a.Size)
	}
	for _, c := range l.Crypts {
		look(c.Mapper(), c.Size)
	}
	for _, g := range l.VolumeGroup {
		for _, v := range g.LVs {
			if v.Type != layout.TypeThinPool { // it has no device of its own
				look(g.Name+"/"+v.Name, v.Size)
			}
		}
	}
	m.incomplete(l)
	m.snapshots(l, mounts, seen)
}

// diskContents looks at the partitions of a disk, or at the disk if it has none.
func (m Machine) diskContents(l *layout.Layout, d *layout.Disk, look func(dev string, size quantity.Size)) {
	if d.Table == nil {
		look(d.Name, d.Size)
		return
	}
	if len(d.Table.Partitions) == 0 && !m.blank(d.Name, tableRoom, d.Size-tableRoom) {
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: d.Name, Device: d.Name, Reason: "its partition table is empty, but there is data behind it, which is of an unknown kind"})
	}
	for _, p := range d.Table.Partitions {
		if !p.Extended() {
			look(p.Device, p.Size)
		}
	}
}

func (m Machine) content(l *layout.Layout, dev string, size quantity.Size, i *superblock.Info, mounts []MountInfo, swaps []string) {
	switch i.Type {
	case fstype.TypeSwap:
		l.Swap = append(l.Swap, layout.Swap{Device: dev, UUID: i.UUID, Label: i.Label, Size: size, Active: slices.Contains(swaps, dev)})
		return
	case superblock.TypeLVM:
		if !slices.ContainsFunc(l.VolumeGroup, func(g layout.VolumeGroup) bool {
			return slices.ContainsFunc(g.PVs, func(p layout.PhysicalVolume) bool { return p.Device == dev })
		}) {
			l.Unsupported = append(l.Unsupported, layout.Unsupported{What: dev, Device: dev, Reason: "LVM physical volume without a volume group that can be read"})
		}
		return
	case superblock.TypeMD:
		m.member(l, dev, i)
		return
	case superblock.TypeLUKS:
		if l.CryptOn(dev) == nil && !slices.ContainsFunc(l.Unsupported, func(u layout.Unsupported) bool { return u.Device == dev }) {
			l.Unsupported = append(l.Unsupported, layout.Unsupported{What: dev, Device: dev, Reason: "LUKS device that is not open: what is on it can't be read"})
		}
		return
	}
	switch t := fstype.Of(i.Type); {
	case t.Hybrid:
	case t.Subvolumes:
		m.btrfs(l, dev, i, mounts)
	default:
		m.filesystem(l, dev, size, i, mounts)
	}
}

// filesystem records a file system, or, where it can't be restored as files, its device as an image.
func (m Machine) filesystem(l *layout.Layout, dev string, size quantity.Size, i *superblock.Info, mounts []MountInfo) {
	f := layout.Filesystem{Device: dev, Type: i.Type, UUID: i.UUID, Label: i.Label, Size: quantity.Size(i.Size), Geometry: i.Geometry, Mounts: []layout.Mount{}}
	at := "" // any path into it
	for _, mi := range mounts {
		if mi.Device != dev {
			continue
		}
		f.Private = true
		if mi.Hidden || !layout.CleanPath(mi.Path) {
			continue
		}
		if at = mi.Path; mi.Root == "/" {
			f.Mounts = append(f.Mounts, layout.Mount{Path: mi.Path, Options: mi.Options})
		}
	}
	// In use although it is mounted nowhere: in another namespace.
	f.Private = len(f.Mounts) == 0 && (f.Private || m.superblockInUse(i.Type, dev))
	// What others write, too, is saved block by block while it is not mounted: so
	// is the second EFI partition of a machine whose disks mirror each other.
	if t := fstype.Of(i.Type); len(f.Keys()) == 0 || t.Foreign && !f.InUse() || t.Faults(&f.Geometry) != nil {
		m.image(l, dev, size, i, mounts)
		return
	}
	if i.OutsideLog {
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: dev, Device: "", Reason: i.Type + " whose log is on another device: it will be restored with its log inside"})
	}
	if f.InUse() {
		m.used(&f, at)
	} else {
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: dev, Device: dev, Reason: i.Type + " file system that is not mounted: its files can't be saved"})
	}
	l.Filesystems = append(l.Filesystems, f)
}

// containers are what has others' data in it, and is not understood: a copy of
// one of several devices would be of no use.
var containers = []string{"bcache", "bcachefs", "zfs_member"}

// image records a device that is saved block by block. What is mounted for
// writing changes while it is read.
func (m Machine) image(l *layout.Layout, dev string, size quantity.Size, i *superblock.Info, mounts []MountInfo) {
	cannot := func(reason string) {
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: dev, Device: dev, Reason: reason})
	}
	if i.Type == "jbd" {
		return // the log of an ext, which is restored with one inside
	}
	if slices.Contains(containers, i.Type) {
		cannot(i.Type + " is not supported")
		return
	}
	held, err := filepath.Glob(m.path("/sys/class/block/" + m.kernelName(dev) + "/holders/*"))
	if err == nil && len(held) > 0 {
		name := filepath.Base(held[0])
		if slices.Contains(m.swaps(), m.resolve("/dev/"+name)) {
			return // its key is a new one at every start: nothing is lost
		}
		cannot("it is in use by " + name + " (" + cmp.Or(m.read("/sys/block/"+name+"/dm/name"), "no device-mapper name") + "), which is not supported")
		return
	}
	for _, mi := range mounts {
		if mi.Device == dev && !slices.Contains(strings.Split(mi.Options, ","), "ro") {
			cannot(i.Type + " can be saved as an image only, while it is not mounted for writing")
			return
		}
	}
	l.Images = append(l.Images, layout.Image{Device: dev, Type: i.Type, UUID: i.UUID, Label: i.Label, Size: size, Blank: i.Type == "" && m.blank(dev, 0, size)})
}

// elsewhere takes away what is on devices that are not part of the layout:
// loop devices, multipath, remote disks; and reports it.
func elsewhere(l *layout.Layout) {
	known := reachable(l)
	gone := func(what, name string, devs []string) {
		on := slices.DeleteFunc(slices.Clone(devs), func(d string) bool { return known[d] })
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: name, Device: name, Reason: fmt.Sprintf("%s on %s, which is not a disk of this machine", what, strings.Join(on, ", "))})
	}
	l.Arrays = slices.DeleteFunc(l.Arrays, func(a layout.Array) bool {
		if !known[a.Name] {
			gone("RAID array", a.Name, a.Devs())
		}
		return !known[a.Name]
	})
	l.Crypts = slices.DeleteFunc(l.Crypts, func(c layout.Crypt) bool {
		if !known[c.Mapper()] {
			gone("LUKS", c.Mapper(), []string{c.Device})
		}
		return !known[c.Mapper()]
	})
	l.VolumeGroup = slices.DeleteFunc(l.VolumeGroup, func(g layout.VolumeGroup) bool {
		if !known["vg "+g.Name] {
			gone("volume group", g.Name, pvs(g))
		}
		return !known["vg "+g.Name]
	})
}

// reachable are the devices that are on the layout's disks alone, and "vg NAME" for volume groups.
func reachable(l *layout.Layout) map[string]bool {
	known := map[string]bool{}
	for _, d := range l.Disks {
		known[d.Name] = true
		if d.Table != nil {
			for _, p := range d.Table.Partitions {
				known[p.Device] = true
			}
		}
	}
	all := func(devs []string) bool { return !slices.ContainsFunc(devs, func(d string) bool { return !known[d] }) }
	for n := -1; n != len(known); {
		n = len(known)
		for _, a := range l.Arrays {
			if all(a.Devs()) {
				known[a.Name] = true
			}
		}
		for _, c := range l.Crypts {
			if known[c.Device] {
				known[c.Mapper()] = true
			}
		}
		for _, g := range l.VolumeGroup {
			if all(pvs(g)) {
				known["vg "+g.Name] = true
				for _, v := range g.LVs {
					known[g.Name+"/"+v.Name] = true
				}
			}
		}
	}
	return known
}

func pvs(g layout.VolumeGroup) (out []string) {
	for _, p := range g.PVs {
		out = append(out, p.Device)
	}
	return out
}

// used asks how much of a file system in use is taken, at a path in it or at its root.
func (m Machine) used(f *layout.Filesystem, at string) {
	var st unix.Statfs_t
	err := unix.Statfs(m.inSystem(at), &st)
	if at == "" {
		root, oerr := m.OpenRoot(f)
		if oerr != nil {
			return
		}
		defer root.Close()
		err = unix.Fstatfs(int(root.Fd()), &st)
	}
	if err == nil {
		f.Used = quantity.Size(int64(st.Blocks-st.Bfree) * st.Bsize)
		f.UsedInodes = int64(st.Files - st.Ffree)
	}
}

// resolve turns "/dev/dm-0" or any link to a device into our name for it.
func (m Machine) resolve(dev string) string {
	if real, err := filepath.EvalSymlinks(m.path(dev)); err == nil {
		dev = strings.TrimPrefix(real, m.path("/"))
	}
	dev = strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(dev, "/"), "dev/"), "!", "/")
	if strings.HasPrefix(dev, "dm-") {
		if n := m.dmName(dev); n != "" {
			return n
		}
	}
	return dev
}

// dmName gives "vg/lv" for a device-mapper device that is a logical volume, and
// "mapper/NAME" for an open LUKS device.
func (m Machine) dmName(dm string) string {
	if strings.HasPrefix(m.read("/sys/block/"+dm+"/dm/uuid"), "CRYPT-LUKS") {
		return layout.MapperPrefix + m.read("/sys/block/"+dm+"/dm/name")
	}
	if !strings.HasPrefix(m.read("/sys/block/"+dm+"/dm/uuid"), "LVM-") {
		return ""
	}
	return sysconf.LVOfDM(m.read("/sys/block/" + dm + "/dm/name"))
}

// Unprobed gives what can be known without opening a disk: names, kernel,
// network, and no storage at all.
func (m Machine) Unprobed() *layout.Layout {
	l := &layout.Layout{Version: layout.Version, Hostname: m.read("/proc/sys/kernel/hostname"), Fstab: m.read("/etc/fstab")}
	m.boot(l)
	m.kernel(l)
	m.network(l)
	return l
}
