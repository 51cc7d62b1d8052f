package fstype

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
)

// Nilfs2 is the geometry of a NILFS2; names as in mkfs.nilfs2(8), bytes as in
// linux/nilfs2_ondisk.h.
type Nilfs2 struct {
	BlockSize int64    `json:"blockSize"`        // bytes
	Segment   int64    `json:"blocksPerSegment"` // blocks
	Reserved  int64    `json:"reservedSegments"` // percent
	Features  []string `json:"features"`         // those of nilfs2Features
}

var nilfs2 = Type{
	Name:  TypeNilfs2,
	Probe: probeNilfs2, Check: checkNilfs2, Mkfs: mkfsNilfs2,
	// Checkpoints are kept for an hour, and the cleaner works by segments of 8 MiB.
	Least:    func(f *FS) int64 { return f.Used + f.Used/4 + 256<<20 },
	Block:    func(g *Geometry) (int64, string) { return g.Nilfs2.BlockSize, "blocks" },
	Config:   []Option{{"CONFIG_NILFS2_FS", "can't be mounted"}},
	Programs: []Program{{Name: "mkfs.nilfs2", Check: "-V"}, {Name: "nilfs-tune", Check: "-V"}},
	ReadOnly: []string{"norecovery"}, NoCheck: true, Fiemap: true, // Documentation/filesystems/nilfs2.rst
}

// nilfs2Features are the features that mkfs.nilfs2(8) is told of.
var (
	nilfs2Features = []string{"block_count"}
	nilfs2RO       = []bit{{0x1, "block_count"}, {^uint32(0x1), "unknown"}}
)

// probeNilfs2 checks the checksum, as libblkid does: the magic has two bytes.
func probeNilfs2(_ io.ReaderAt, b []byte) *Info {
	le := binary.LittleEndian
	s := b[1024:2048]
	n := int(le.Uint16(s[8:])) // s_bytes
	if le.Uint16(s[6:]) != 0x3434 || n < 280 || n > len(s) || le.Uint32(s[20:]) > 6 {
		return nil
	}
	// The field of the checksum counts as zero; the kernel's CRC-32 is not inverted.
	crc := ^le.Uint32(s[12:]) // s_crc_seed
	for _, part := range [][]byte{s[:16], make([]byte, 4), s[20:n]} {
		crc = crc32.Update(crc, crc32.IEEETable, part)
	}
	if ^crc != le.Uint32(s[16:]) {
		return nil
	}
	f := &Nilfs2{BlockSize: 1024 << le.Uint32(s[20:]), Segment: int64(le.Uint32(s[48:])), Reserved: int64(le.Uint32(s[52:]))}
	f.Features = features([]string{}, le.Uint64(s[264:]), nilfs2RO...)
	if le.Uint64(s[256:]) != 0 || le.Uint64(s[272:]) != 0 { // s_feature_compat, s_feature_incompat
		f.Features = append(f.Features, "unknown")
	}
	return &Info{Type: TypeNilfs2, UUID: UUID(s[152:]), Label: Text(s[168:248]), Size: int64(le.Uint64(s[32:])), Geometry: Geometry{Nilfs2: f}}
}

func checkNilfs2(g *Geometry) []string {
	n := g.Nilfs2
	out := unmade(n.Features, nilfs2Features)
	if n.BlockSize < 1024 || n.BlockSize > 65536 || n.Segment < 16 || n.Reserved < 1 || n.Reserved > 99 {
		out = append(out, fmt.Sprintf("block size %d, %d blocks per segment, %d%% reserved", n.BlockSize, n.Segment, n.Reserved))
	}
	return out
}

// mkfsNilfs2 sets the UUID afterwards, since mkfs.nilfs2 chooses one.
func mkfsNilfs2(f *FS, dev string, _ int64) [][]string {
	n := f.Nilfs2
	a := []string{"mkfs.nilfs2", "-q", "-f", "-K", "-b", num(n.BlockSize), "-B", num(n.Segment), "-m", num(n.Reserved)}
	a = option(a, "-O", strings.Join(n.Features, ","))
	out := [][]string{append(option(a, "-L", f.Label), dev)}
	if f.UUID != "" {
		out = append(out, []string{"nilfs-tune", "-U", f.UUID, dev})
	}
	return out
}
