package fstype

import (
	"encoding/binary"
	"io"
	"strings"
	"unicode/utf16"
)

// F2FS is the geometry of an F2FS; names as in mkfs.f2fs(8), bytes as in
// linux/f2fs_fs.h.
type F2FS struct {
	Features []string `json:"features"` // those of f2fsFeatures
	Segments int64    `json:"segmentsPerSection"`
	Sections int64    `json:"sectionsPerZone"`
}

var f2fs = Type{
	Name:  TypeF2FS,
	Probe: probeF2FS, Describe: describeF2FS, Check: func(g *Geometry) []string { return unmade(g.F2FS.Features, f2fsFeatures) }, Mkfs: mkfsF2FS,
	Least:    func(f *FS) int64 { return f.Used + f.Used/5 + 128<<20 }, // sections set aside for cleaning
	Config:   []Option{{"CONFIG_F2FS_FS", "can't be mounted"}},
	Programs: []Program{{Name: "mkfs.f2fs", Check: "-V"}, {Name: "fsck.f2fs", Check: "-V", Optional: true}},
	ReadOnly: []string{"norecovery"}, Fiemap: true, // Documentation/filesystems/f2fs.rst
}

// f2fsFeatures are those that mkfs.f2fs(8) is told of. The others come with
// devices and encodings that are not brought back.
var (
	f2fsFeatures = []string{"encrypt", "extra_attr", "project_quota", "inode_checksum", "flexible_inline_xattr", "quota", "inode_crtime", "lost_found", "verity", "sb_checksum", "compression"}
	f2fsBits     = []bit{{0x1, "encrypt"}, {0x2, "blkzoned"}, {0x8, "extra_attr"}, {0x10, "project_quota"}, {0x20, "inode_checksum"}, {0x40, "flexible_inline_xattr"}, {0x80, "quota"}, {0x100, "inode_crtime"}, {0x200, "lost_found"}, {0x400, "verity"}, {0x800, "sb_checksum"}, {0x1000, "casefold"}, {0x2000, "compression"}, {0x4000, "ro"}}
)

func probeF2FS(_ io.ReaderAt, b []byte) *Info {
	s := b[1024:]
	le := binary.LittleEndian
	if le.Uint32(s) != 0xF2F52010 || le.Uint32(s[16:]) > 16 {
		return nil
	}
	f := &F2FS{Features: features([]string{}, uint64(le.Uint32(s[2180:])), f2fsBits...), Segments: int64(le.Uint32(s[24:])), Sections: int64(le.Uint32(s[28:]))}
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
	return &Info{Type: TypeF2FS, UUID: UUID(s[108:]), Label: string(utf16.Decode(u)), Size: int64(le.Uint64(s[36:])) << le.Uint32(s[16:]), Geometry: Geometry{F2FS: f}}
}

func mkfsF2FS(f *FS, dev string, _ int64) [][]string {
	a := []string{"mkfs.f2fs", "-q", "-f", "-t", "0", "-s", num(f.F2FS.Segments), "-z", num(f.F2FS.Sections)}
	a = option(option(a, "-O", strings.Join(f.F2FS.Features, ",")), "-U", f.UUID)
	return [][]string{append(option(a, "-l", f.Label), dev)}
}
