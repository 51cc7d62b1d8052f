package superblock

import (
	"encoding/binary"
	"fmt"
	"io"
	"unicode/utf16"
)

// ExFAT is the geometry of an exFAT; bytes as in its specification 1.00, §3.1.
type ExFAT struct {
	Cluster int64 `json:"clusterSize"` // bytes
}

// F2FS is the geometry of an F2FS; names as in mkfs.f2fs(8), bytes as in
// linux/f2fs_fs.h.
type F2FS struct {
	Features []string `json:"features"` // those of F2FSFeatures
	Segments int64    `json:"segmentsPerSection"`
	Sections int64    `json:"sectionsPerZone"`
}

// JFS has nothing that is chosen when it is made but its block size, which is
// always 4096; bytes as in jfs_superblock.h.
type JFS struct{}

// F2FSFeatures are those that mkfs.f2fs(8) is told of. The others come with
// devices and encodings that are not brought back.
var (
	F2FSFeatures = []string{"encrypt", "extra_attr", "project_quota", "inode_checksum", "flexible_inline_xattr", "quota", "inode_crtime", "lost_found", "verity", "sb_checksum", "compression"}
	f2fsBits     = []bit{{0x1, "encrypt"}, {0x2, "blkzoned"}, {0x8, "extra_attr"}, {0x10, "project_quota"}, {0x20, "inode_checksum"}, {0x40, "flexible_inline_xattr"}, {0x80, "quota"}, {0x100, "inode_crtime"}, {0x200, "lost_found"}, {0x400, "verity"}, {0x800, "sb_checksum"}, {0x1000, "casefold"}, {0x2000, "compression"}, {0x4000, "ro"}}
)

func probeExFAT(b []byte) *Info {
	if string(b[3:11]) != "EXFAT   " {
		return nil
	}
	le := binary.LittleEndian
	i := &Info{Type: TypeExFAT, UUID: fmt.Sprintf("%04X-%04X", le.Uint16(b[102:]), le.Uint16(b[100:]))}
	if b[108] < 9 || b[108] > 12 || b[109] > 25-b[108] {
		return i // damaged: its type is all that can be told
	}
	i.Size = int64(le.Uint64(b[72:]) << b[108])
	i.ExFAT = &ExFAT{Cluster: 1 << (b[108] + b[109])}
	return i
}

// exfatLabel finds the label of an exFAT whose boot sector is whole in the first cluster of the root directory; "" when
// it is not there, where nobody but mkfs puts it.
func exfatLabel(r io.ReaderAt, b []byte) string {
	le := binary.LittleEndian
	root, heap := int64(le.Uint32(b[96:])), int64(le.Uint32(b[88:]))
	if root < 2 {
		return ""
	}
	dir := make([]byte, 4096)
	n, _ := r.ReadAt(dir, heap<<b[108]+(root-2)<<(b[108]+b[109])) // short: what is there
	for e := dir[:n]; len(e) >= 32 && e[0] != 0; e = e[32:] {
		if e[0] != 0x83 || e[1] > 11 {
			continue
		}
		var u []uint16
		for k := range int(e[1]) {
			u = append(u, le.Uint16(e[2+2*k:]))
		}
		return string(utf16.Decode(u))
	}
	return ""
}

func probeF2FS(b []byte) *Info {
	s := b[1024:]
	le := binary.LittleEndian
	if le.Uint32(s) != 0xF2F52010 || le.Uint32(s[16:]) > 16 {
		return nil
	}
	f := &F2FS{Features: []string{}, Segments: int64(le.Uint32(s[24:])), Sections: int64(le.Uint32(s[28:]))}
	for _, x := range f2fsBits {
		if le.Uint32(s[2180:])&x.mask != 0 {
			f.Features = append(f.Features, x.name)
		}
	}
	if s[2201+68] != 0 { // the path of the second of its devices
		f.Features = append(f.Features, "several devices")
	}
	var u []uint16
	for k := range 512 {
		c := le.Uint16(s[124+2*k:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return &Info{Type: TypeF2FS, UUID: uuid(s[108:]), Label: string(utf16.Decode(u)), Size: int64(le.Uint64(s[36:])) << le.Uint32(s[16:]), F2FS: f}
}

func probeJFS(b []byte) *Info {
	s := b[32768:]
	le := binary.LittleEndian
	if string(s[:4]) != "JFS1" || le.Uint16(s[20:]) > 16 {
		return nil
	}
	// The size is in blocks of 512 bytes, without the journal at the end.
	return &Info{Type: TypeJFS, UUID: uuid(s[136:]), Label: text(s[152:168]), Size: int64(le.Uint64(s[8:])) * 512, JFS: &JFS{}}
}
