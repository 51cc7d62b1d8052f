// Package layout is the data model of a machine's storage: what is there,
// never how to make it. It is pure: no device is opened, no program run.
// docs/FORMAT.md describes layout.json.
package layout

import (
	"path"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// Version is the only version of layout.json there is.
const Version = 1

// Layout is what a machine's storage looks like. Devices are named without
// "/dev/": "vda", "vda1", "vg0/root"; the names are the source machine's and
// only tie the parts of the layout together.
type Layout struct {
	Version     int           `json:"version"`
	Hostname    string        `json:"hostname"`
	Disks       []Disk        `json:"disks"`
	Arrays      []Array       `json:"arrays,omitempty"`
	Crypts      []Crypt       `json:"crypts,omitempty"`
	VolumeGroup []VolumeGroup `json:"volumeGroups"`
	Filesystems []Filesystem  `json:"filesystems"`
	Swap        []Swap        `json:"swap"`
	// SwapFiles are files that are swapped to, or that fstab has for it.
	SwapFiles []SwapFile `json:"swapFiles,omitempty"`
	Images    []Image    `json:"images,omitempty"`
	Boot      Boot       `json:"boot"`
	// Moved are devices of the old machine whose content is on another one of
	// this layout, after a change by wish: from a partition to an array, or back.
	Moved map[string]string `json:"moved,omitempty"`
	// PartUUIDs are partitions of the old machine whose content has to be named
	// otherwise now: PARTUUID, as PartUUID has it, to device.
	PartUUIDs map[string]string `json:"partUUIDs,omitempty"`
	Kernel    Kernel            `json:"kernel"`
	Network   []Interface       `json:"network"`
	Fstab     string            `json:"fstab"`
	// Unsupported is what was found and can't be brought back.
	Unsupported []Unsupported `json:"unsupported"`
	// Links are the names below /dev/disk that devices had on the source machine,
	// "by-id/ata-X", sorted, by device name; what udev made of serial numbers and
	// paths can't be computed later. Not compared.
	Links map[string][]string `json:"links,omitempty"`
	// LeftAlone is what a rule of this program leaves out, to be listed: disks that
	// are not the machine's own (iSCSI, NVMe over a network, paths of multipath
	// devices; they are not in Disks), mounts of network, FUSE, 9p and virtiofs file
	// systems, quota groups of a btrfs. It does not change an exit status.
	LeftAlone []Unsupported `json:"leftAlone,omitempty"`
}

// Disk is one disk with its partition table.
type Disk struct {
	Name           string        `json:"name"`
	Model          string        `json:"model"`
	Serial         string        `json:"serial"`
	WWN            string        `json:"wwn"`
	Size           quantity.Size `json:"size"`
	LogicalSector  quantity.Size `json:"logicalSector"`
	PhysicalSector quantity.Size `json:"physicalSector"`
	Removable      bool          `json:"removable"`
	// Loose is a disk that can be unplugged (USB, or a medium that can be taken out)
	// and that nothing of the machine refers to: no mount, no line of fstab or
	// crypttab, no array, volume group or open LUKS device, no boot loader. Only such
	// disks may be left out of a set without an administrator's rule.
	Loose bool   `json:"loose,omitempty"`
	Table *Table `json:"table,omitempty"`
}

// Labels of partition tables.
const (
	GPT = "gpt"
	MBR = "dos"
)

// Table is a partition table.
type Table struct {
	Label      string      `json:"label"`               // GPT or MBR
	GUID       string      `json:"guid,omitempty"`      // of a GPT disk
	Signature  string      `json:"signature,omitempty"` // of an MBR disk, "0x%08x"
	Partitions []Partition `json:"partitions"`
	// Entries is how many entries a GPT has room for, 0 for the usual 128;
	// FirstUsable is where its first partition may begin, in bytes, 0 for right
	// behind the entries.
	Entries     int           `json:"entries,omitempty"`
	FirstUsable quantity.Size `json:"firstUsable,omitempty"`
}

// Partition is one entry; Start and Size are in bytes.
type Partition struct {
	Number     int           `json:"number"`
	Device     string        `json:"device"`
	Start      quantity.Size `json:"start"`
	Size       quantity.Size `json:"size"`
	Type       string        `json:"type"` // GPT: type GUID, upper case; MBR: "0x83"
	GUID       string        `json:"guid,omitempty"`
	Name       string        `json:"name,omitempty"`
	Attributes uint64        `json:"attributes,omitempty"`
	Active     bool          `json:"active,omitempty"`
	EBR        quantity.Size `json:"ebr,omitempty"` // MBR logical: where its own record lies
	// InMBR is the entry of a GPT partition in a hybrid MBR; nil for the usual ones.
	InMBR *InMBR `json:"inMBR,omitempty"`
}

// InMBR is an entry of a hybrid MBR beside a GPT.
type InMBR struct {
	Slot   int    `json:"slot"` // 0 to 3
	Type   string `json:"type"` // "0x0c"
	Active bool   `json:"active,omitempty"`
}

// Partition types that matter to us.
const (
	TypeESP      = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
	TypeBIOSBoot = "21686148-6449-6E6F-744E-656564454649"
)

// Array is a Linux software RAID; names as in md(4). Its device is Name.
type Array struct {
	Name     string `json:"name"`     // the kernel's: "md0"
	Label    string `json:"label"`    // in its superblocks: "host:0"
	UUID     string `json:"uuid"`     // as mdadm writes it
	Level    string `json:"level"`    // "raid1"
	Metadata string `json:"metadata"` // one of Metadata
	Devices  int    `json:"devices"`  // without spares
	// Members are those that were there, by their place in the array; a
	// degraded array has fewer than Devices.
	Members []Member      `json:"members"`
	Spares  []string      `json:"spares,omitempty"`
	Layout  int           `json:"layout,omitempty"`
	Chunk   quantity.Size `json:"chunk,omitempty"`
	Data    quantity.Size `json:"data"`           // where data begins on a member
	Part    quantity.Size `json:"part,omitempty"` // of each member that is used; not for raid0 and linear
	Size    quantity.Size `json:"size"`           // of the array
	Bitmap  bool          `json:"bitmap,omitempty"`
	// New is set for one that the old machine lacked.
	New bool `json:"new,omitempty"`
}

// Member is a device of an array.
type Member struct {
	Device string `json:"device"`
	Role   int    `json:"role"`
}

// Crypt is a LUKS device that was open; its inside is the device Mapper().
type Crypt struct {
	Name   string        `json:"name"` // "secret": it was /dev/mapper/secret
	Device string        `json:"device"`
	UUID   string        `json:"uuid"`
	Label  string        `json:"label,omitempty"`
	Size   quantity.Size `json:"size"` // of the inside
	// Header is the set's file with all that is before the inside, encrypted
	// with age; "" when it was left out, and a new one has to be made.
	Header string           `json:"header,omitempty"`
	LUKS   *superblock.LUKS `json:"luks"`
}

// Mapper is the device's name when it is open.
func (c *Crypt) Mapper() string { return MapperPrefix + c.Name }

// MapperPrefix begins the names of open LUKS devices.
const MapperPrefix = "mapper/"

// Crypt finds an open LUKS device by its name, "mapper/NAME".
func (l *Layout) Crypt(mapper string) *Crypt {
	i := slices.IndexFunc(l.Crypts, func(c Crypt) bool { return c.Mapper() == mapper })
	if i < 0 {
		return nil
	}
	return &l.Crypts[i]
}

// CryptOn finds the LUKS device that is on a device.
func (l *Layout) CryptOn(dev string) *Crypt {
	i := slices.IndexFunc(l.Crypts, func(c Crypt) bool { return c.Device == dev })
	if i < 0 {
		return nil
	}
	return &l.Crypts[i]
}

// LVTypes are the segment types of logical volumes that can be made, beside
// linear.
var LVTypes = []string{"striped", TypeMirror, "raid0", "raid0_meta", "raid1", "raid4", "raid5", "raid5_la", "raid5_ls", "raid5_ra", "raid5_rs", "raid6", "raid6_nc", "raid6_nr", "raid6_zr", "raid10", "raid10_near"}

// TypeMirror is the old kind of mirror, which raid1 took the place of.
const TypeMirror = "mirror"

// Rigid reports a group whose volumes can't get other sizes: LVM has RAID
// volumes or mirrors in it.
func (g *VolumeGroup) Rigid() bool {
	return slices.ContainsFunc(g.LVs, LogicalVolume.RAID)
}

// VolumeGroup is an LVM2 volume group.
type VolumeGroup struct {
	Name       string           `json:"name"`
	UUID       string           `json:"uuid"`
	ExtentSize quantity.Size    `json:"extentSize"`
	PVs        []PhysicalVolume `json:"pvs"`
	LVs        []LogicalVolume  `json:"lvs"`
	// Snapshots are volumes that are left out: copy-on-write snapshots of other
	// volumes, and thin ones that were made of others, are read-only, not active and
	// not in fstab; not compared.
	Snapshots []string `json:"snapshots,omitempty"`
	// Caches are volumes that had a cache before them: they are restored without
	// it, as Config has them already; not compared.
	Caches []string `json:"caches,omitempty"`
	// Config is the text of vgcfgbackup(8), which vgcfgrestore(8) takes.
	Config string `json:"config"`
}

// PhysicalVolume is a device of a volume group.
type PhysicalVolume struct {
	Device string        `json:"device"`
	UUID   string        `json:"uuid"`
	Size   quantity.Size `json:"size"`
}

// LogicalVolume is a volume; its device is "VG/NAME".
type LogicalVolume struct {
	Name string `json:"name"`
	// Type is LVM's segment type, "striped" or "raid1" ...; "" for linear.
	Type string        `json:"type,omitempty"`
	UUID string        `json:"uuid"`
	Size quantity.Size `json:"size"`
	// Pool is the thin pool that a volume of type "thin" takes its room from.
	Pool string `json:"pool,omitempty"`
	// ThinPool is set for one of type "thin-pool".
	ThinPool *ThinPool `json:"thinPool,omitempty"`
}

// RAID reports a volume of several images, the old mirrors among them.
func (v LogicalVolume) RAID() bool { return strings.HasPrefix(v.Type, "raid") || v.Type == TypeMirror }

// Segment types of thin provisioning, lvmthin(7).
const (
	TypeThin     = "thin"
	TypeThinPool = "thin-pool"
)

// ThinPool is what a pool of thin volumes is made with.
type ThinPool struct {
	Chunk    quantity.Size `json:"chunk"`
	Metadata quantity.Size `json:"metadata"` // LVM keeps as much again in reserve
	Zero     bool          `json:"zero"`     // new blocks are
	Discards string        `json:"discards,omitempty"`
}

// Filesystem is one file system and where it is mounted.
type Filesystem struct {
	Device string        `json:"device"`
	Type   string        `json:"type"`
	UUID   string        `json:"uuid"`
	Label  string        `json:"label"`
	Size   quantity.Size `json:"size"` // of the file system
	Used   quantity.Size `json:"used"` // when the layout was taken; not compared
	// UsedInodes is how many files and directories there were; not compared.
	UsedInodes int64   `json:"usedInodes,omitempty"`
	Mounts     []Mount `json:"mounts"`
	// Private is set if the root of the file system, the top level of a btrfs, is not
	// to be seen at any path although the kernel has the file system in use: only a
	// directory or a subvolume of it is mounted, or it is mounted below another mount,
	// at a path that is not text, or in another namespace. What is not in Mounts is
	// reached through a mount of our own (probe.OpenRoot): Parts has a Mount without a
	// Path for it.
	Private bool `json:"private,omitempty"`
	// LabelBytes are those of a label that is not text: then Label has it escaped, for
	// people. ExactLabel gives the one to be made.
	LabelBytes []byte `json:"labelBytes,omitempty"`
	// Excluded names the rule or reason why its files are not in the set; it
	// is recreated, empty, when its disk is.
	Excluded string `json:"excluded,omitempty"`
	// Included are the only paths whose files are in the set, nil for all of it.
	Included []string `json:"included,omitempty"`
	// New is set for one that the old machine lacked: there are no files for it.
	New bool `json:"new,omitempty"`
	fstype.Geometry
	// Others are the devices of a btrfs beside Device.
	Others []string `json:"others,omitempty"`
	// Subvolumes are those of a btrfs that are brought back, parents first.
	Subvolumes []Subvolume `json:"subvolumes,omitempty"`
	// Snapshots are subvolumes that are left out: made of others of this file system,
	// read-only, not mounted, not the default one, not in fstab; not compared. One that
	// can be written to, or that came from btrfs-receive(8), has content of its own.
	Snapshots []string `json:"snapshots,omitempty"`
}

// Mount is one mount of a file system's root, or of a subvolume.
type Mount struct {
	// Path is absolute and clean; "" only in what Parts gives for Private.
	Path    string `json:"path"`
	Options string `json:"options"`
	// Subvolume is the path of the one that is mounted, from the top level;
	// "" for the top level and for file systems that have none.
	Subvolume string `json:"subvolume,omitempty"`
}

// Owners are the options that say whose the files of a file system without owners
// are, "uid=1000,fmask=0027"; "" for none.
func (m Mount) Owners() string {
	var out []string
	for _, o := range strings.Split(m.Options, ",") {
		if k, _, _ := strings.Cut(o, "="); slices.Contains(OwnerOptions, k) {
			out = append(out, o)
		}
	}
	return strings.Join(out, ",")
}

// OwnerOptions are the names of those options, for vfat and exfat; mount(8).
var OwnerOptions = []string{"uid", "gid", "fmask", "dmask"}

// Subvolume is one of a btrfs, other than its top level.
type Subvolume struct {
	Path     string `json:"path"` // from the top level
	ReadOnly bool   `json:"readOnly,omitempty"`
	// Default is the one that is mounted when none is named.
	Default bool `json:"default,omitempty"`
}

// Devs are the devices that a file system is on.
func (s *Filesystem) Devs() []string { return append([]string{s.Device}, s.Others...) }

// FS is what package fstype is told to make it again.
func (s *Filesystem) FS() *fstype.FS {
	i := fstype.Info{Type: s.Type, UUID: s.UUID, Label: s.ExactLabel(), Size: int64(s.Size), Geometry: s.Geometry}
	return &fstype.FS{Info: i, Used: int64(s.Used), UsedInodes: s.UsedInodes, Devices: len(s.Devs())}
}

// MountAt gives the mount at a path; the zero value if absent.
func (s *Filesystem) MountAt(p string) Mount {
	for _, m := range s.Mounts {
		if m.Path == p {
			return m
		}
	}
	return Mount{}
}

// Parts gives the mounts that have files of their own: the first one of every
// subvolume, or of the file system. The last one of a Private file system has no Path:
// it is what is in no other part, from the file system's root.
func (s *Filesystem) Parts() []Mount {
	var out []Mount
	for _, m := range s.Mounts {
		if !slices.ContainsFunc(out, func(o Mount) bool { return o.Subvolume == m.Subvolume }) {
			out = append(out, m)
		}
	}
	if s.Private && !slices.ContainsFunc(out, func(o Mount) bool { return o.Subvolume == "" }) {
		out = append(out, Mount{})
	}
	return out
}

// InUse reports whether the kernel has the file system mounted, wherever that is.
func (s *Filesystem) InUse() bool { return len(s.Mounts) > 0 || s.Private }

// ExactLabel is the label, byte for byte.
func (s *Filesystem) ExactLabel() string {
	if len(s.LabelBytes) > 0 {
		return string(s.LabelBytes)
	}
	return s.Label
}

// Inner gives the subvolumes whose files are those of a part: they lie in its
// subvolume, and are not parts themselves. Paths are from the part.
func (s *Filesystem) Inner(part Mount) []string {
	var out []string
	for _, v := range s.Subvolumes {
		if s.owner(v.Path) == part.Subvolume && v.Path != part.Subvolume {
			out = append(out, strings.TrimPrefix(strings.TrimPrefix(v.Path, part.Subvolume), "/"))
		}
	}
	return out
}

// Apart gives the subvolumes in a part's that are parts themselves. Paths are from the
// part.
func (s *Filesystem) Apart(part Mount) []string {
	var out []string
	for _, m := range s.Parts() {
		if m.Subvolume != "" && m.Subvolume != part.Subvolume && s.owner(path.Dir(m.Subvolume)) == part.Subvolume {
			out = append(out, strings.TrimPrefix(strings.TrimPrefix(m.Subvolume, part.Subvolume), "/"))
		}
	}
	return out
}

// owner is the nearest subvolume above or at p that is mounted.
func (s *Filesystem) owner(p string) string {
	for ; p != "."; p = path.Dir(p) {
		if slices.ContainsFunc(s.Mounts, func(m Mount) bool { return m.Subvolume == p }) {
			return p
		}
	}
	return ""
}

// Swap is a swap device.
type Swap struct {
	Device string        `json:"device"`
	UUID   string        `json:"uuid"`
	Label  string        `json:"label"`
	Size   quantity.Size `json:"size"`
	Active bool          `json:"active"`
}

// Image is a device that is brought back block by block: its content is not
// known, or is a file system that is not restored as files.
type Image struct {
	Device string        `json:"device"`
	Type   string        `json:"type"` // "ntfs" ...; "" for unknown content
	UUID   string        `json:"uuid,omitempty"`
	Label  string        `json:"label,omitempty"`
	Size   quantity.Size `json:"size"` // of the device
	// File is the set's image of it, "" when it was left out.
	File string `json:"file,omitempty"`
	// Excluded names the rule by which there is no image of it in the set.
	Excluded string `json:"excluded,omitempty"`
	// Blank is set if nothing was found on it: its first and last MiB and samples in
	// between are zero bytes. It may be left out; not compared.
	Blank bool `json:"blank,omitempty"`
}

// What names an image for people.
func (i *Image) What() string {
	if i.Type == "" {
		return "unknown content"
	}
	return i.Type
}

// Kernel is what ran when the layout was taken.
type Kernel struct {
	Release  string   `json:"release"`
	Cmdline  string   `json:"cmdline"`
	Consoles []string `json:"consoles"` // as on the command line: "ttyS0,115200"
}

// Interface is a network interface as a person may need it in the rescue
// system; nothing configures it without being asked.
type Interface struct {
	Name      string   `json:"name"`
	MAC       string   `json:"mac"`
	Addresses []string `json:"addresses"` // CIDR
	Gateway   string   `json:"gateway,omitempty"`
	Driver    string   `json:"driver,omitempty"`
	// VLAN is the 802.1Q id of a VLAN, Parent the interface below it.
	VLAN   int    `json:"vlan,omitempty"`
	Parent string `json:"parent,omitempty"`
	// BondMode is the mode of a bond ("active-backup"), Members its cards.
	BondMode string   `json:"bondMode,omitempty"`
	Members  []string `json:"members,omitempty"`
	// Kind is "bridge" or "team", with Members, or "macvlan" or "ipvlan", with Parent;
	// "" for hardware, bonds and VLANs.
	Kind string `json:"kind,omitempty"`
	// PermanentMAC is what the card was made with, when MAC is another one.
	PermanentMAC string `json:"permanentMAC,omitempty"`
}

// SwapFile is a file with swap on it. What is in it is of no use to a backup, and it
// must have no holes: it is recreated.
type SwapFile struct {
	Path  string        `json:"path"`  // absolute, without links
	Mount string        `json:"mount"` // where the file system that it is in is mounted
	Size  quantity.Size `json:"size"`
	UUID  string        `json:"uuid"`
	Label string        `json:"label"`
}

// Unsupported is a part of the machine that a restore can't bring back.
type Unsupported struct {
	What   string `json:"what"`   // device or mount point
	Reason string `json:"reason"` // what it is and what is missing
	// Device is a device by which it can be excluded, as by the disks under it. What has
	// no device of its own is named behind the one that it is on: "vda2:@home",
	// "vda:hybrid-mbr", "vdb1:vg0".
	Device string `json:"device"`
}
