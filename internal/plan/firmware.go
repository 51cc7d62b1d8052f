package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// espSize is that of an EFI system partition that is made new: FAT32 with
// sectors of 4 KiB has at least 260 MiB.
const espSize = 300 * quantity.MiB

// forFirmware gives the layout of a machine that starts by another firmware:
// for UEFI with GPT and an EFI system partition, mounted on /boot/efi, for BIOS
// with a BIOS boot partition where the table is GPT. The new partition comes
// last on the disk; fit finds room for it.
func forFirmware(want *layout.Layout, firmware string) (*layout.Layout, error) {
	if firmware == "" || firmware == want.Boot.Firmware {
		return want, nil
	}
	l, err := clone(want)
	if err != nil {
		return nil, err
	}
	switch starts := layout.LoaderFirmware(l.Boot.Loader); len(starts) {
	case 0:
		return nil, refuse("--firmware %s: the boot loader of the old machine is not known", firmware)
	case 1:
		return nil, refuse("--firmware %s: the boot loader of the old machine is %s, which knows %s alone", firmware, l.Boot.Loader, strings.ToUpper(starts[0]))
	}
	switch firmware {
	case layout.UEFI:
		err = toUEFI(l)
	case layout.BIOS:
		err = toBIOS(l)
	default:
		err = refuse("--firmware %s: it can be %s or %s", firmware, layout.UEFI, layout.BIOS)
	}
	if err != nil {
		return nil, err
	}
	return l, l.Validate()
}

func toUEFI(l *layout.Layout) error {
	if l.Mounted("/boot/efi") != nil || l.Mounted("/efi") != nil {
		return refuse("--firmware uefi: something else is mounted on /boot/efi")
	}
	d, err := startDisk(l, l.Boot.Disks)
	if err != nil {
		return err
	}
	toGPT(l, d)
	dev := addPartition(d, espSize, layout.TypeESP, "EFI system partition")
	id := strings.ToUpper(uuid.From("esp " + d.Table.GUID))
	l.Filesystems = append(l.Filesystems, layout.Filesystem{Device: dev, Type: fstype.TypeVFAT, UUID: id[:4] + "-" + id[4:8], Label: "EFI", Size: espSize, New: true,
		Mounts:   []layout.Mount{{Path: "/boot/efi", Options: "umask=0077"}},
		Geometry: fstype.Geometry{VFAT: &fstype.VFAT{Bits: 32, SectorSize: int64(d.LogicalSector), SectorsPerCluster: 1, Reserved: 32, FATs: 2, Media: 0xf8}}})
	l.Boot = layout.Boot{Firmware: layout.UEFI, Loader: l.Boot.Loader, ESP: dev}
	return nil
}

func toBIOS(l *layout.Layout) error {
	d, err := startDisk(l, l.DisksUnder(l.Boot.ESP))
	if err != nil {
		return err
	}
	if d.Table.Label == layout.GPT && !slices.ContainsFunc(d.Table.Partitions, func(p layout.Partition) bool { return p.Type == layout.TypeBIOSBoot }) {
		addPartition(d, quantity.MiB, layout.TypeBIOSBoot, "BIOS boot partition")
	}
	l.Boot = layout.Boot{Firmware: layout.BIOS, Loader: l.Boot.Loader, Disks: []string{d.Name}, ESP: l.Boot.ESP}
	return nil
}

// startDisk is the disk that the new boot loader goes to.
func startDisk(l *layout.Layout, names []string) (*layout.Disk, error) {
	for _, n := range names {
		if d := l.Disk(n); d != nil && d.Table != nil {
			return d, nil
		}
	}
	return nil, refuse("--firmware: there is no disk with a partition table to put the boot loader on")
}

// gptTypes are the types that MBR types become; linux filesystem for others.
var gptTypes = map[string]string{
	"0x82": "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", "0x8e": "E6D6D379-F507-44C2-A23C-238F2A3DF928", "0xfd": "A19D880F-05FC-4D3B-A006-743F0F84911E",
	"0x07": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "0x0b": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "0x0c": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "0x0e": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
}

const typeLinux = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"

// toGPT makes a GPT of an MBR: numbers and places stay, so that names do.
func toGPT(l *layout.Layout, d *layout.Disk) {
	t := d.Table
	if t.Label == layout.GPT {
		return
	}
	for i := range t.Partitions {
		oldPartUUID(l, d.PartUUID(&t.Partitions[i]), t.Partitions[i].Device)
	}
	seed := d.Name + " " + t.Signature
	t.Label, t.GUID, t.Signature = layout.GPT, strings.ToUpper(uuid.From(seed)), ""
	t.Partitions = slices.DeleteFunc(t.Partitions, func(p layout.Partition) bool { return p.Extended() })
	for i := range t.Partitions {
		p := &t.Partitions[i]
		p.Type = cmp.Or(gptTypes[p.Type], typeLinux)
		p.GUID = strings.ToUpper(uuid.From(fmt.Sprint(seed, " ", p.Number)))
		p.Active, p.EBR = false, 0
	}
	// The copy of the table takes room at the end.
	d.Size = max(d.Size, Need(d))
}

// oldPartUUID notes that what the old machine had on a partition is on dev, and
// has no such PARTUUID there.
func oldPartUUID(l *layout.Layout, id, dev string) {
	if l.PartUUIDs == nil {
		l.PartUUIDs = map[string]string{}
	}
	if id != "" {
		l.PartUUIDs[id] = dev
	}
}

// addPartition puts a partition behind all others.
func addPartition(d *layout.Disk, size quantity.Size, typ, name string) string {
	t := d.Table
	n, end := 1, align
	for _, p := range t.Partitions {
		n, end = max(n, p.Number+1), max(end, p.Start+p.Size)
	}
	p := layout.Partition{Number: n, Device: layout.PartitionName(d.Name, n), Start: end.AlignUp(align), Size: size, Type: typ, Name: name, GUID: strings.ToUpper(uuid.From(t.GUID + name))}
	t.Partitions = append(t.Partitions, p)
	// The old disk had no room for it: this is what it would have needed.
	d.Size = max(d.Size, Need(d))
	return p.Device
}
