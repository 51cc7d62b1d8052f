package fstype

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// VFAT is the geometry of a FAT file system; names as in mkfs.fat(8).
type VFAT struct {
	Bits              int   `json:"bits"` // 12, 16 or 32
	SectorSize        int64 `json:"sectorSize"`
	SectorsPerCluster int64 `json:"sectorsPerCluster"`
	Reserved          int64 `json:"reservedSectors"`
	FATs              int64 `json:"fats"`
	RootEntries       int64 `json:"rootEntries"`
	Hidden            int64 `json:"hiddenSectors"`
	Media             int   `json:"media"`
}

var vfat = Type{
	Name:  TypeVFAT,
	Probe: probeVFAT, Title: "DOS/MBR boot sector, FAT", Mkfs: mkfsVFAT, FullSize: true, ShortUUID: true,
	Version:  func(i *Info) string { return fmt.Sprintf("FAT%d", i.VFAT.Bits) },
	Unit:     func(g *Geometry) int64 { return g.VFAT.SectorSize },
	ToSector: func(g *Geometry, sector, size int64) { fatSector(g.VFAT, sector, size) },
	Dir:      "fat",
	Config:   []Option{{"CONFIG_VFAT_FS", "can't be mounted"}, {"CONFIG_NLS_ISO8859_1", "can't be mounted with its default names"}},
	Programs: []Program{{Name: "mkfs.fat", Check: "--help"}, {Name: "fsck.fat", Check: "--help", Optional: true}, {Name: "mkfs.vfat", Check: "--help", Optional: true}, {Name: "fsck.vfat", Check: "--help", Optional: true}},
	Common:   true, Always: true, Foreign: true, HoldsSets: true, Partclone: "FAT",
	BootCopy: func(b []byte) int64 {
		le := binary.LittleEndian
		if n := int64(le.Uint16(b[50:])); le.Uint16(b[22:]) == 0 && n > 0 && n < 32 {
			return n * int64(le.Uint16(b[11:]))
		}
		return 0
	},
}

func probeVFAT(_ io.ReaderAt, b []byte) *Info {
	le := binary.LittleEndian
	if b[510] != 0x55 || b[511] != 0xAA || b[0] != 0xEB && b[0] != 0xE9 {
		return nil
	}
	v := &VFAT{SectorSize: int64(le.Uint16(b[11:])), SectorsPerCluster: int64(b[13]), Reserved: int64(le.Uint16(b[14:])), FATs: int64(b[16]),
		RootEntries: int64(le.Uint16(b[17:])), Media: int(b[21]), Hidden: int64(le.Uint32(b[28:]))}
	if !v.plausible() {
		return nil
	}
	sectors, fat := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	if sectors == 0 {
		sectors = int64(le.Uint32(b[32:]))
	}
	id, label := b[39:43], b[43:54]
	if fat == 0 {
		fat = int64(le.Uint32(b[36:]))
		id, label = b[67:71], b[71:82]
	}
	clusters := (sectors - v.Reserved - v.FATs*fat - v.RootEntries*32/v.SectorSize) / v.SectorsPerCluster
	switch {
	case clusters <= 0:
		return nil
	case le.Uint16(b[22:]) == 0:
		v.Bits = 32
	case clusters < 4085:
		v.Bits = 12
	default:
		v.Bits = 16
	}
	i := &Info{Type: TypeVFAT, Size: sectors * v.SectorSize, Geometry: Geometry{VFAT: v}, Label: Text(label)}
	if i.Label == "NO NAME" {
		i.Label = ""
	}
	if le.Uint32(id) != 0 {
		i.UUID = volumeID(id)
	}
	return i
}

// plausible reports whether the parameters of a boot sector are those of a FAT: other boot
// sectors have the same signature.
func (v *VFAT) plausible() bool {
	pow2 := func(n int64) bool { return n > 0 && n&(n-1) == 0 }
	return pow2(v.SectorSize) && v.SectorSize >= 512 && v.SectorSize <= 4096 && pow2(v.SectorsPerCluster) &&
		v.Reserved != 0 && v.FATs != 0 && v.FATs <= 2 && v.Media >= 0xF0
}

func mkfsVFAT(f *FS, dev string, _ int64) [][]string {
	v := f.VFAT
	a := []string{"mkfs.fat", "-F", num(v.Bits), "-S", num(v.SectorSize), "-s", num(v.SectorsPerCluster), "-R", num(v.Reserved), "-f", num(v.FATs), "-h", num(v.Hidden), "-M", fmt.Sprintf("0x%02X", v.Media)}
	if v.Bits != 32 {
		a = append(a, "-r", num(v.RootEntries))
	}
	a = option(a, "-i", strings.ReplaceAll(f.UUID, "-", ""))
	return [][]string{append(option(a, "-n", f.Label), dev)}
}

// fatSector gives a FAT of size bytes other sectors: clusters stay as large as they were,
// if a sector is not more, and 128 sectors, the most that mkfs.fat makes, are not less.
// By their number alone readers know whether it is a FAT12, FAT16 or FAT32: what has too few
// or too many now becomes another one.
func fatSector(v *VFAT, sector, size int64) {
	cluster := min(max(v.SectorSize*v.SectorsPerCluster, sector), 128*sector)
	v.Hidden = v.Hidden * v.SectorSize / sector
	v.SectorSize = sector
	for range 8 { // as many clusters as neither of two has: twice or half as many
		v.SectorsPerCluster = cluster / sector
		for _, bits := range []int{v.Bits, 32, 16, 12} {
			if fatFits(v, bits, size) {
				setFATBits(v, bits)
				return
			}
		}
		if cluster > sector {
			cluster /= 2
		} else {
			cluster *= 2
		}
	}
}

// fatFits reports whether a FAT of size bytes has a number of clusters that is right for one
// of 12, 16 or 32 bits: the limits of mkfs.fat(8), MAX_CLUST_12 to MIN_CLUST_32, with
// some room, for it rounds tables to sectors.
func fatFits(v *VFAT, bits int, size int64) bool {
	const room = 16
	n := (size - v.Reserved*v.SectorSize - v.RootEntries*32) * 8 / (8*v.SectorSize*v.SectorsPerCluster + int64(bits)*v.FATs)
	switch bits {
	case 12:
		return n > 0 && n <= 4080-room
	case 16:
		return n >= 4087+room && n <= 65520-room
	}
	return n >= 65529+room
}

// setFATBits changes the kind of a FAT: FAT32 has its root directory among the files, and
// more reserved sectors.
func setFATBits(v *VFAT, bits int) {
	switch {
	case bits == 32 && v.Bits != 32:
		v.RootEntries, v.Reserved = 0, 32
	case bits != 32 && v.Bits == 32:
		v.RootEntries, v.Reserved = 512, 1
	}
	v.Bits = bits
}
