package fstype

import (
	"encoding/binary"
	"io"
)

// JFS has nothing that is chosen when it is made but its block size, which is
// always 4096; bytes as in jfs_superblock.h.
type JFS struct{}

// A jfs replays its log only when it is mounted for writing.
var jfs = Type{
	Name:  TypeJFS,
	Probe: probeJFS, Describe: describeJFS, Mkfs: mkfsJFS,
	Least:    func(f *FS) int64 { return f.Used + f.Used/8 + 32<<20 },
	Config:   []Option{{"CONFIG_JFS_FS", "can't be mounted"}},
	Programs: []Program{{Name: "mkfs.jfs", Check: "-V"}, {Name: "jfs_tune", Check: "-V"}, {Name: "jfs_fsck", Check: "-V", Optional: true}},
}

func probeJFS(_ io.ReaderAt, b []byte) *Info {
	s := b[32768:]
	le := binary.LittleEndian
	if string(s[:4]) != "JFS1" || le.Uint16(s[20:]) > 16 {
		return nil
	}
	// The size is in blocks of 512 bytes, without the journal at the end.
	return &Info{Type: TypeJFS, UUID: UUID(s[136:]), Label: Text(s[152:168]), Size: int64(le.Uint64(s[8:])) * 512, Geometry: Geometry{JFS: &JFS{}}}
}

func mkfsJFS(f *FS, dev string, _ int64) [][]string {
	out := [][]string{append(option([]string{"mkfs.jfs", "-q"}, "-L", f.Label), dev)}
	if f.UUID != "" {
		out = append(out, []string{"jfs_tune", "-U", f.UUID, dev})
	}
	return out
}
