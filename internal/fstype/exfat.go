package fstype

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// ExFAT is the geometry of an exFAT; bytes as in its specification 1.00, §3.1.
type ExFAT struct {
	Cluster int64 `json:"clusterSize"` // bytes
}

var exfat = Type{
	Name:  TypeExFAT,
	Probe: probeExFAT, Title: "DOS/MBR boot sector, exFAT", Check: checkExFAT, Mkfs: mkfsExFAT, ShortUUID: true,
	Least:    func(f *FS) int64 { return f.Used + f.Used/8 + 32<<20 },
	Block:    func(g *Geometry) (int64, string) { return g.ExFAT.Cluster, "clusters" },
	Config:   []Option{{"CONFIG_EXFAT_FS", "can't be mounted"}},
	Programs: []Program{{Name: "mkfs.exfat", Check: "--version"}, {Name: "tune.exfat", Check: "--version"}, {Name: "fsck.exfat", Check: "--version", Optional: true}},
	Foreign:  true,
}

func probeExFAT(r io.ReaderAt, b []byte) *Info {
	if string(b[3:11]) != "EXFAT   " {
		return nil
	}
	le := binary.LittleEndian
	i := &Info{Type: TypeExFAT, UUID: volumeID(b[100:])}
	if b[108] < 9 || b[108] > 12 || b[109] > 25-b[108] {
		return i // damaged: its type is all that can be told
	}
	i.Size = int64(le.Uint64(b[72:]) << b[108])
	i.ExFAT = &ExFAT{Cluster: 1 << (b[108] + b[109])}
	i.Label = exfatLabel(r, b)
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

func checkExFAT(g *Geometry) []string {
	if c := g.ExFAT.Cluster; c < 512 || c > 32<<20 || c&(c-1) != 0 {
		return []string{fmt.Sprintf("clusters of %d bytes", c)}
	}
	return nil
}

func mkfsExFAT(f *FS, dev string, _ int64) [][]string {
	out := [][]string{append(option([]string{"mkfs.exfat", "-c", num(f.ExFAT.Cluster)}, "-L", f.Label), dev)}
	if f.UUID != "" {
		out = append(out, []string{"tune.exfat", "-I", "0x" + strings.ReplaceAll(f.UUID, "-", ""), dev})
	}
	return out
}
