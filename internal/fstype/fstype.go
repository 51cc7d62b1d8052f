// Package fstype holds what is known of each type of file system, one file per type:
// how it is recognised, made, mounted, checked and given another size. All other
// packages ask it, and name no types themselves. It only describes: commands are
// argument lists, and nothing is run or written here.
package fstype

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Names of types, as mount(8) and blkid(8) have them.
const (
	TypeExt2   = "ext2"
	TypeExt3   = "ext3"
	TypeExt4   = "ext4"
	TypeXFS    = "xfs"
	TypeVFAT   = "vfat"
	TypeSwap   = "swap"
	TypeISO    = "iso9660"
	TypeBtrfs  = "btrfs"
	TypeNTFS   = "ntfs"
	TypeExFAT  = "exfat"
	TypeF2FS   = "f2fs"
	TypeJFS    = "jfs"
	TypeNilfs2 = "nilfs2"
)

// types returns all of them in the order in which they are probed.
var types = sync.OnceValue(func() []*Type {
	return []*Type{ext(TypeExt2), ext(TypeExt3), ext(TypeExt4), &xfs, &swap, &btrfs, &f2fs, &jfs, &exfat, &ntfs, &squashfs, &reiserfs, &bcache, &nilfs2, &iso9660, &udf, &vfat}
})

// Geometry is what a type's program is told to make the same file system again. At most
// one of the pointers is set. Their names in JSON are those of Type.Key.
type Geometry struct {
	Ext    *Ext    `json:"ext,omitempty"`
	XFS    *XFS    `json:"xfs,omitempty"`
	VFAT   *VFAT   `json:"vfat,omitempty"`
	ExFAT  *ExFAT  `json:"exfat,omitempty"`
	F2FS   *F2FS   `json:"f2fs,omitempty"`
	JFS    *JFS    `json:"jfs,omitempty"`
	Btrfs  *Btrfs  `json:"btrfs,omitempty"`
	Nilfs2 *Nilfs2 `json:"nilfs2,omitempty"`
}

// Keys lists the names of the pointers that are set.
func (g *Geometry) Keys() []string {
	var out []string
	v := reflect.ValueOf(g).Elem()
	for i := range v.NumField() {
		if !v.Field(i).IsNil() {
			key, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			out = append(out, key)
		}
	}
	return out
}

// Info is what a superblock holds.
type Info struct {
	Type  string
	UUID  string // as blkid(8) writes it
	Label string
	Size  int64 // bytes the file system covers, 0 when it does not say
	// OutsideLog is set for a file system whose log is on another device.
	OutsideLog bool
	Geometry
}

// FS is a file system that is to be made again.
type FS struct {
	Info
	Used       int64 // bytes that its files take
	UsedInodes int64
	Devices    int // how many it is on
}

// Program is one that the rescue system carries.
type Program struct {
	Name     string
	Check    string   // the option that it is tried with
	Data     []string // files that it reads; missing ones are left out
	Optional bool     // it may be missing on the host
}

// Option is a part of a kernel's configuration.
type Option struct {
	Name   string // "CONFIG_EXT4_FS"
	Breaks string // what does not work without it, behind the type's name
}

// Type describes a type. The zero value of a field means that the type has no such thing, or
// needs nothing special there. Sizes are in bytes.
type Type struct {
	Name string
	// Family is what its relatives are called together, "" for Name.
	Family string

	// Probe recognises it by the first HeadLen bytes of a device, which r reads; nil if it is
	// something else.
	Probe func(r io.ReaderAt, head []byte) *Info
	// Describe is what file(1) prints of one, if it is more than Title, UUID and label; Title
	// is "" for Name.
	Describe func(i *Info, head []byte) string
	Title    string
	// Version is the version of its format that lsblk(8) prints.
	Version func(i *Info) string
	// Check returns what is wrong with a geometry: then it cannot be made.
	Check func(g *Geometry) []string

	// Mkfs returns the commands that make it on dev, of size bytes; nil for a type that is not
	// made, and whose devices are saved block by block. The first command is tried before
	// anything is written: DryRun has it write nothing; without that, it gets a sparse file,
	// which is as large as the device if its options depend on that (FullSize).
	Mkfs     func(f *FS, dev string, size int64) [][]string
	DryRun   string
	FullSize bool
	Env      []string // of these commands
	// New is the geometry of one that replaces another type; nil if none is replaced by it.
	New func(size int64) Geometry
	// Legacy is the geometry of one that mkCDrec 1.x saved.
	Legacy func(size int64) Geometry
	// Plain is the command that makes one with the program's defaults, for the data on a
	// stick.
	Plain func(label, uuid, dev string) []string
	// Renumber returns the commands that give an unmounted one another UUID.
	Renumber func(uuid, dev string) [][]string
	// LabelMax is the most bytes that a label of one of New can have.
	LabelMax int
	// ShortUUID reports that its UUID has the form "1234-ABCD".
	ShortUUID bool
	// Unique reports that the kernel takes two with the same UUID for one, or refuses the second.
	Unique bool

	// Lazy changes a command of Mkfs for a device that reads as zero bytes: it writes no more than it has to.
	Lazy func(cmd []string) []string

	// Least is the least size of a device on which its files fit, 0 if that is not known; nil for
	// a type that is not made smaller.
	Least func(f *FS) int64
	// Each is the least size of each device of one on several, which need n bytes.
	Each func(f *FS, n int64) int64
	// LeastMade is the least size that its program takes.
	LeastMade func(f *FS) int64

	// Block is the size of the blocks that a geometry has ("blocks", "clusters"): none are
	// made on a device with larger sectors. Unit is what is read and written at once: one
	// that is copied block by block works on sectors up to that, which is 0 if not known.
	Block func(g *Geometry) (size int64, name string)
	Unit  func(g *Geometry) int64
	// ToSector changes a geometry for a device of size bytes with other sectors.
	ToSector func(g *Geometry, sector, size int64)

	// Driver is the kernel module, "" for Name, and Dir its directory below kernel/fs of a
	// module tree, "" for Driver. Extra are further modules, of which one is enough.
	Driver, Dir string
	Extra       func(g *Geometry) []string
	Config      []Option
	Programs    []Program
	// Common reports that a rescue system has its programs, even if the machine has none of it;
	// Always that it also has its driver, however small it is.
	Common, Always bool

	// Drivers are the types of mount(2) that mount it, the best one first; nil for Name alone.
	Drivers []string
	// Mount is the option for one that is a copy of another one. ReadOnly are the options with
	// which a read-only mount writes nothing, not even what is in its log; where there are
	// several, older kernels know the later ones.
	Mount    string
	ReadOnly []string
	// Subvolumes reports that it has subvolumes, and can be on several devices, which it
	// finds by UUID.
	Subvolumes bool
	// Foreign reports that firmware and other systems read it: files have no owners, but
	// options of its mount give them, and its root directory has no time.
	Foreign bool
	// Medium reports that it is found on media only, that nothing writes to.
	Medium bool
	// Hybrid reports that a disk that has it is a medium, written from an image, and no storage
	// of the machine.
	Hybrid bool
	// HoldsSets reports that sets are looked for on it.
	HoldsSets bool
	// NoCheck reports that its fsck at boot does nothing: its pass in fstab is 0.
	NoCheck bool
	// Freezes is set if its maps of used blocks can be read while it is frozen; ioctl FIFREEZE.
	Freezes bool
	// Fiemap is set if it reports the places of files on its device; ioctl FS_IOC_FIEMAP.
	Fiemap bool

	// Grow returns the ioctl that gives a mounted one, whose device begins with head, the size
	// of its device. GrowBy is the command that does it otherwise, without the device.
	Grow   func(head []byte, size int64) (request uintptr, arg []byte)
	GrowBy []string
	// BootCopy is where the copy of a boot sector is, which also has the number of sectors
	// before the partition; 0 if there is no copy.
	BootCopy func(boot []byte) int64
	// Partclone is what partclone calls it, of those that have BootCopy.
	Partclone string
}

// HeadLen is how much of a device Probe looks at.
const HeadLen = 128 << 10

// Of returns what is known of a type. For a name that is not known it is a type that has
// nothing.
func Of(name string) *Type {
	for _, t := range types() {
		if t.Name == name {
			return t
		}
	}
	return &Type{Name: name}
}

// Names lists the types for which ok is true.
func Names(ok func(*Type) bool) []string {
	var out []string
	for _, t := range types() {
		if ok(t) {
			out = append(out, t.Name)
		}
	}
	return out
}

// Probe recognises a file system, by the first HeadLen bytes of what r reads; nil for none.
// What only looks like its data, such as LVM, is to be ruled out before.
func Probe(r io.ReaderAt, head []byte) *Info {
	for _, t := range types() {
		if t.Probe == nil {
			continue
		}
		if i := t.Probe(r, head); i != nil {
			return i
		}
	}
	return nil
}

// Kin is what its relatives are called together.
func (t *Type) Kin() string {
	if t.Family != "" {
		return t.Family
	}
	return t.Name
}

// Key is the name of its geometry in a layout.
func (t *Type) Key() string { return strings.ToLower(t.Kin()) }

// Native reports whether it is one of Linux that is made again, and holds a system's files.
func (t *Type) Native() bool { return t.Mkfs != nil && !t.Foreign }

// Faults returns what is wrong with a geometry of this type.
func (t *Type) Faults(g *Geometry) []string {
	if t.Check == nil || !slices.Contains(g.Keys(), t.Key()) {
		return nil
	}
	return t.Check(g)
}

// UnitOf is what a file system of this type reads and writes at once, bytes; 0 if that is not known.
func (t *Type) UnitOf(g *Geometry) int64 {
	if t.Unit == nil || !slices.Contains(g.Keys(), t.Key()) {
		return 0
	}
	return t.Unit(g)
}

// MountTypes are the types of mount(2) that mount it, the best one first.
func (t *Type) MountTypes() []string {
	if t.Drivers != nil {
		return t.Drivers
	}
	return []string{t.Name}
}

// Module is the name of its driver.
func (t *Type) Module() string {
	if t.Driver != "" {
		return t.Driver
	}
	return t.Name
}

// Dirs lists the directories of a module tree with the drivers of those that have programs.
func Dirs() []string {
	var out []string
	for _, t := range types() {
		if t.Programs != nil {
			dir := t.Dir
			if dir == "" {
				dir = t.Module()
			}
			out = append(out, "kernel/fs/"+dir+"/")
		}
	}
	return slices.Compact(out)
}

// Modules lists the modules that one wants, each with those that do as well.
func (t *Type) Modules(g *Geometry) [][]string {
	out := [][]string{{t.Module()}}
	if t.Name != t.Module() {
		out[0] = append(out[0], t.Name)
	}
	if t.Extra != nil {
		if x := t.Extra(g); x != nil {
			out = append(out, x)
		}
	}
	return out
}

// UUID formats 16 bytes; all zero gives "".
func UUID(b []byte) string {
	if bytes.Equal(b[:16], make([]byte, 16)) {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// Text is what is before the first zero byte, without spaces at its end.
func Text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return strings.TrimRight(string(b), " ")
}

// volumeID formats a volume ID of 32 bits.
func volumeID(b []byte) string {
	n := binary.LittleEndian.Uint32(b)
	return fmt.Sprintf("%04X-%04X", n>>16, n&0xffff)
}

// bit is a feature and its name.
type bit struct {
	mask uint32
	name string
}

// features names the bits that are set.
func features(out []string, v uint64, bits ...bit) []string {
	for _, x := range bits {
		if v&uint64(x.mask) != 0 {
			out = append(out, x.name)
		}
	}
	return out
}

// unmade is a fault for each feature that a program is not told to make.
func unmade(have, made []string) []string {
	var out []string
	for _, x := range have {
		if !slices.Contains(made, x) {
			out = append(out, fmt.Sprintf("feature %q can't be made", x))
		}
	}
	return out
}

func num[T ~int | ~int64 | ~uint32](v T) string { return strconv.FormatInt(int64(v), 10) }

// option adds an option with a value, if there is one.
func option(a []string, flag, value string) []string {
	if value == "" {
		return a
	}
	return append(a, flag, value)
}
