package fstype

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Btrfs is what the superblock of a btrfs has; names as in mkfs.btrfs(8).
type Btrfs struct {
	NodeSize   int64    `json:"nodeSize"`
	SectorSize int64    `json:"sectorSize"`
	Checksum   string   `json:"checksum"` // "crc32c", "xxhash", "sha256", "blake2"
	Features   []string `json:"features"`
	// Data and Metadata are block group profiles, "single", "dup", "raid1" ...;
	// "" when that is not known: the superblock does not tell.
	Data     string `json:"data,omitempty"`
	Metadata string `json:"metadata,omitempty"`
	// Devices is how many there are, DevID which of them this is.
	Devices int64 `json:"-"`
	DevID   int64 `json:"-"`
}

var btrfs = Type{
	Name:  TypeBtrfs,
	Probe: probeBtrfs, Describe: describeBtrfs, Check: checkBtrfs, Mkfs: mkfsBtrfs,
	New: func(int64) Geometry { // without what kernels before 5.15 can't mount
		return Geometry{Btrfs: &Btrfs{NodeSize: 16384, SectorSize: 4096, Checksum: "crc32c", Features: []string{"extref", "skinny-metadata", "no-holes", "free-space-tree"}, Data: "single", Metadata: "dup", Devices: 1}}
	},
	LabelMax: 255, Unique: true,
	// Chunks of metadata are set aside whole, and it slows down when full.
	Least: func(f *FS) int64 { return max(f.Used+f.Used/5+256<<20, 512<<20) },
	Each:  eachBtrfs,
	LeastMade: func(f *FS) int64 { // as mkfs.btrfs(8) 6.2 reports it
		switch b := f.Btrfs; {
		case slices.Contains(b.Features, "mixed-bg"):
			return 16 << 20
		case f.Devices == 1 && (b.Metadata == "" || b.Metadata == "dup"):
			return 109 << 20
		}
		return 45 << 20
	},
	Unit: func(g *Geometry) int64 { return g.Btrfs.SectorSize },
	// The kernel modules that do for its checksums, besides crc32c's.
	Extra: func(g *Geometry) []string {
		return map[string][]string{"xxhash": {"xxhash_generic"}, "sha256": {"sha256_generic", "sha256_ssse3"}, "blake2": {"blake2b_generic"}}[g.Btrfs.Checksum]
	},
	Config:   []Option{{"CONFIG_BTRFS_FS", "can't be mounted"}},
	Programs: []Program{{Name: "mkfs.btrfs", Check: "--version"}, {Name: "btrfs", Check: "--version"}},
	Common:   true,
	ReadOnly: []string{"rescue=nologreplay", "nologreplay"}, // since Linux 5.9, 4.6
	// Places of files that it reports are not those on its device.
	Subvolumes: true, HoldsSets: true, NoCheck: true, Grow: growBtrfs,
}

// BtrfsFeatures are those that are chosen when it is made; the flags' bits are in
// linux/btrfs.h. All others come by themselves, by profile or by use.
var (
	BtrfsFeatures   = []string{"mixed-bg", "extref", "skinny-metadata", "no-holes", "free-space-tree", "block-group-tree"}
	btrfsIncompat   = []bit{{1 << 2, "mixed-bg"}, {1 << 6, "extref"}, {1 << 8, "skinny-metadata"}, {1 << 9, "no-holes"}, {1 << 12, "zoned"}, {1 << 13, "extent-tree-v2"}, {1 << 14, "raid-stripe-tree"}, {1 << 16, "squota"}}
	btrfsCompatRO   = []bit{{1 << 0, "free-space-tree"}, {1 << 3, "block-group-tree"}}
	btrfsCheckSums  = []string{"crc32c", "xxhash", "sha256", "blake2"}
	btrfsProfiles   = []string{"", "single", "dup", "raid0", "raid1", "raid1c3", "raid1c4", "raid10", "raid5", "raid6"}
	btrfsSuperblock = 65536
)

func probeBtrfs(_ io.ReaderAt, b []byte) *Info {
	s := b[btrfsSuperblock:]
	if string(s[64:72]) != "_BHRfS_M" {
		return nil
	}
	le := binary.LittleEndian
	f := &Btrfs{SectorSize: int64(le.Uint32(s[144:])), NodeSize: int64(le.Uint32(s[148:])), Devices: int64(le.Uint64(s[136:])), DevID: int64(le.Uint64(s[201:]))}
	if t := int(le.Uint16(s[196:])); t < len(btrfsCheckSums) {
		f.Checksum = btrfsCheckSums[t]
	}
	f.Features = features(features([]string{}, le.Uint64(s[188:]), btrfsIncompat...), le.Uint64(s[180:]), btrfsCompatRO...)
	return &Info{Type: TypeBtrfs, UUID: UUID(s[32:]), Label: Text(s[299 : 299+256]), Size: int64(le.Uint64(s[112:])), Geometry: Geometry{Btrfs: f}}
}

func checkBtrfs(g *Geometry) []string {
	var out []string
	b := g.Btrfs
	if b.NodeSize < 4096 || b.NodeSize > 65536 || b.SectorSize < 4096 || b.SectorSize > 65536 {
		out = append(out, fmt.Sprintf("node size %d, sector size %d", b.NodeSize, b.SectorSize))
	}
	for _, p := range []string{b.Data, b.Metadata} {
		if !slices.Contains(btrfsProfiles, p) {
			out = append(out, fmt.Sprintf("profile %q", p))
		}
	}
	out = append(out, unmade(b.Features, BtrfsFeatures)...)
	if !slices.Contains(btrfsCheckSums, b.Checksum) {
		out = append(out, fmt.Sprintf("checksum %q", b.Checksum))
	}
	return out
}

// mkfsBtrfs leaves out profiles that are not known, or want more devices than
// there are: then the program decides.
func mkfsBtrfs(f *FS, dev string, _ int64) [][]string {
	b := f.Btrfs
	a := []string{"mkfs.btrfs", "-q", "-f", "-K", "-n", num(b.NodeSize), "-s", num(b.SectorSize), "--csum", b.Checksum}
	for _, p := range []struct{ flag, profile string }{{"-d", b.Data}, {"-m", b.Metadata}} {
		least := map[string]int{"raid0": 1, "raid1": 2, "raid1c3": 3, "raid1c4": 4, "raid10": 2, "raid5": 2, "raid6": 3}[p.profile]
		if f.Devices >= least {
			a = option(a, p.flag, p.profile)
		}
	}
	// Programs before 6.3 have some of them among those that can be changed
	// later, and newer ones take that, too.
	var feats []string
	runtime := "free-space-tree"
	for _, x := range BtrfsFeatures {
		has := slices.Contains(b.Features, x)
		switch {
		case x == "mixed-bg" && has:
			a = append(a, "-M")
		case x == "mixed-bg":
		case x == runtime && has:
			a = append(a, "-R", x)
		case x == runtime:
			a = append(a, "-R", "^"+x)
		case has:
			feats = append(feats, x)
		case x != "block-group-tree": // older programs do not know it, and leave it out
			feats = append(feats, "^"+x)
		}
	}
	a = append(a, "-O", strings.Join(feats, ","))
	return [][]string{append(option(option(a, "-U", f.UUID), "-L", f.Label), dev)}
}

// eachBtrfs divides by profile.
func eachBtrfs(f *FS, n int64) int64 {
	devs := int64(f.Devices)
	copies, ok := map[string]int64{"raid1": 2, "raid10": 2, "raid1c3": 3, "raid1c4": 4}[f.Btrfs.Data]
	switch {
	case f.Btrfs.Data == "raid5":
		return max(n/max(devs-1, 1), 512<<20)
	case f.Btrfs.Data == "raid6":
		return max(n/max(devs-2, 1), 512<<20)
	case !ok:
		copies = 1
	}
	return max((n*copies+devs-1)/devs, 512<<20)
}

// growBtrfs is BTRFS_IOC_RESIZE of linux/btrfs.h, with struct btrfs_ioctl_vol_args: the
// number that the device has.
func growBtrfs(head []byte, _ int64) (uintptr, []byte) {
	arg := make([]byte, 4096)
	copy(arg[8:], fmt.Sprintf("%d:max", binary.LittleEndian.Uint64(head[btrfsSuperblock+201:])))
	return 1<<30 | 4096<<16 | 0x94<<8 | 3, arg
}
