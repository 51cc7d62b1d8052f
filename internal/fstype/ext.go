package fstype

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Ext is the geometry of ext2, ext3 and ext4; names as in mke2fs(8).
type Ext struct {
	BlockSize     int64    `json:"blockSize"`   // bytes
	ClusterSize   int64    `json:"clusterSize"` // bytes, as BlockSize without bigalloc
	InodeSize     int64    `json:"inodeSize"`   // bytes
	Inodes        int64    `json:"inodes"`
	Reserved      int64    `json:"reservedBlocks"`
	FlexBG        int64    `json:"flexBlockGroups"` // groups per flex group, 0 without
	Features      []string `json:"features"`        // without those that only say what is going on
	MountOptions  uint32   `json:"mountOptions"`    // s_default_mount_opts
	MaxMounts     int      `json:"maxMounts"`       // -1: never
	CheckInterval int64    `json:"checkInterval"`   // seconds, 0: never
	Errors        int      `json:"errors"`          // 1 continue, 2 remount-ro, 3 panic
	JournalBlocks int64    `json:"journalBlocks"`
	Stride        int64    `json:"stride"`      // blocks
	StripeWidth   int64    `json:"stripeWidth"` // blocks
	// StrictNames refuses names that are not UTF-8 in directories without case.
	StrictNames bool `json:"strictNames,omitempty"`
}

// ext describes ext2, ext3 or ext4, which have one driver and one set of programs.
func ext(name string) *Type {
	t := &Type{
		Name: name, Family: "ext", Driver: TypeExt4,
		Probe: probeExt, Describe: describeExt, Check: checkExt, Mkfs: mkfsExt, DryRun: "-n", // mke2fs(8)
		New: func(size int64) Geometry { return Geometry{Ext: newExt(name, size)} }, Legacy: func(size int64) Geometry { return Geometry{Ext: legacyExt(name, size)} },
		Renumber: func(uuid, dev string) [][]string { // tune2fs(8) wants one that was checked, since it writes all checksums again
			return [][]string{{"e2fsck", "-f", "-p", dev}, {"tune2fs", "-U", uuid, dev}}
		},
		Version:  func(*Info) string { return "1.0" },
		Lazy:     lazyExt,
		LabelMax: 16,
		Least:    leastExt,
		Block:    func(g *Geometry) (int64, string) { return g.Ext.BlockSize, "blocks" },
		Unit:     func(g *Geometry) int64 { return g.Ext.BlockSize },
		Config:   []Option{{"CONFIG_EXT4_FS", "can't be mounted"}},
		Programs: []Program{{Name: "mke2fs", Check: "-V", Data: []string{"/etc/mke2fs.conf"}}, {Name: "e2fsck", Check: "-V"}, {Name: "tune2fs", Check: "-V"}, {Name: "resize2fs", Check: "-V", Optional: true}, {Name: "dumpe2fs", Check: "-V", Optional: true}, {Name: "debugfs", Check: "-V", Optional: true}},
		ReadOnly: []string{"noload"}, HoldsSets: true, Freezes: true, Fiemap: true, Grow: growExt, GrowBy: []string{"resize2fs"},
	}
	for _, n := range []string{"mkfs.", "fsck."} { // what fingers type
		t.Programs = append(t.Programs, Program{Name: n + name, Check: "-V", Optional: true})
	}
	if name != TypeExt4 {
		t.Drivers = []string{name, TypeExt4}
	}
	switch name {
	case TypeExt2:
		t.ReadOnly = nil // it has no log
	case TypeExt4:
		t.Common, t.Always, t.Plain = true, true, func(label, uuid, dev string) []string {
			return []string{"mkfs.ext4", "-q", "-F", "-m", "0", "-L", label, "-U", uuid, dev}
		}
	}
	return t
}

// Feature bits with e2fsprogs' names; lib/e2p/feature.c. Bits that tell a
// state (needs_recovery, orphan_present) are not features to be made again.
var (
	extCompat = []bit{{0x1, "dir_prealloc"}, {0x4, "has_journal"}, {0x8, "ext_attr"}, {0x10, "resize_inode"}, {0x20, "dir_index"}, {0x200, "sparse_super2"}, {0x400, "fast_commit"}, {0x800, "stable_inodes"}, {0x1000, "orphan_file"}}
	extIncom  = []bit{{0x2, "filetype"}, {0x10, "meta_bg"}, {0x40, "extent"}, {0x80, "64bit"}, {0x100, "mmp"}, {0x200, "flex_bg"}, {0x400, "ea_inode"}, {0x2000, "metadata_csum_seed"}, {0x4000, "large_dir"}, {0x8000, "inline_data"}, {0x10000, "encrypt"}, {0x20000, "casefold"}}
	extRO     = []bit{{0x1, "sparse_super"}, {0x2, "large_file"}, {0x8, "huge_file"}, {0x10, "uninit_bg"}, {0x20, "dir_nlink"}, {0x40, "extra_isize"}, {0x100, "quota"}, {0x200, "bigalloc"}, {0x400, "metadata_csum"}, {0x2000, "project"}, {0x8000, "verity"}}
)

func probeExt(_ io.ReaderAt, b []byte) *Info {
	le := binary.LittleEndian
	s := b[1024:2048]
	if le.Uint16(s[56:]) != 0xEF53 {
		return nil
	}
	logBlock, logCluster := le.Uint32(s[24:]), le.Uint32(s[28:])
	if logBlock > 6 || logCluster > 18 {
		return nil
	}
	compat, incom, ro := le.Uint32(s[92:]), le.Uint32(s[96:]), le.Uint32(s[100:])
	if incom&0x8 != 0 {
		return &Info{Type: "jbd", UUID: UUID(s[104:120])}
	}
	e := &Ext{BlockSize: 1024 << logBlock, ClusterSize: 1024 << logBlock, InodeSize: 128, Inodes: int64(le.Uint32(s)), MountOptions: le.Uint32(s[256:]),
		MaxMounts: int(int16(le.Uint16(s[54:]))), CheckInterval: int64(le.Uint32(s[68:])), Errors: int(le.Uint16(s[60:])),
		Stride: int64(le.Uint16(s[356:])), StripeWidth: int64(le.Uint32(s[368:]))}
	if ro&0x200 != 0 {
		e.ClusterSize = 1024 << logCluster
	}
	if le.Uint32(s[76:]) >= 1 {
		e.InodeSize = int64(le.Uint16(s[88:]))
	}
	blocks, reserved := int64(le.Uint32(s[4:])), int64(le.Uint32(s[8:]))
	if incom&0x80 != 0 {
		blocks |= int64(le.Uint32(s[336:])) << 32
		reserved |= int64(le.Uint32(s[340:])) << 32
	}
	if blocks < 0 || blocks > 1<<48 || reserved < 0 {
		return nil
	}
	e.Reserved = reserved
	e.StrictNames = incom&0x20000 != 0 && le.Uint16(s[638:])&1 != 0 // s_encoding_flags
	if incom&0x200 != 0 && s[372] < 31 {
		e.FlexBG = 1 << s[372]
	}
	// s_jnl_backup_type 1: s_jnl_blocks[16] is the journal's size in bytes.
	if compat&0x4 != 0 && s[253] == 1 {
		e.JournalBlocks = int64(le.Uint32(s[268+16*4:])) / e.BlockSize
	}
	e.Features = features(features(features(nil, uint64(compat), extCompat...), uint64(incom), extIncom...), uint64(ro), extRO...)
	typ := TypeExt2
	if compat&0x4 != 0 {
		typ = TypeExt3
	}
	// What ext3 does not know makes it ext4, as libblkid decides.
	if incom&^0x16 != 0 || ro&^0x7 != 0 {
		typ = TypeExt4
	}
	// s_journal_inum and s_journal_dev.
	outside := compat&0x4 != 0 && le.Uint32(s[224:]) == 0 && le.Uint32(s[228:]) != 0
	return &Info{Type: typ, UUID: UUID(s[104:120]), Label: Text(s[120:136]), Size: blocks * e.BlockSize, OutsideLog: outside, Geometry: Geometry{Ext: e}}
}

func checkExt(g *Geometry) []string {
	if e := g.Ext; e.BlockSize < 1024 || e.InodeSize < 128 || e.Inodes < 1 {
		return []string{fmt.Sprintf("block size %d, inode size %d, %d inodes", e.BlockSize, e.InodeSize, e.Inodes)}
	}
	return nil
}

// NewExt is a new ext2, ext3 or ext4 of a size in bytes with what all mke2fs
// of this century give them.
func NewExt(typ string, size int64) *Ext {
	e := &Ext{BlockSize: 4096, ClusterSize: 4096, InodeSize: 256, Inodes: max(size/16384, 1024), Reserved: size / 4096 / 20, MaxMounts: -1, Errors: 1,
		Features: []string{"ext_attr", "resize_inode", "dir_index", "filetype", "sparse_super", "large_file"}}
	if size < 512<<20 {
		e.BlockSize, e.ClusterSize, e.Inodes, e.Reserved = 1024, 1024, max(size/4096, 256), size/1024/20
	}
	if typ != TypeExt2 {
		e.Features = append(e.Features, "has_journal")
	}
	if typ == TypeExt4 {
		e.Features = append(e.Features, "extent", "flex_bg", "huge_file", "dir_nlink")
		e.FlexBG = 16
	}
	return e
}

// newExt is what mke2fs makes by Debian's and Fedora's mke2fs.conf.
func newExt(typ string, size int64) *Ext {
	e := NewExt(typ, size)
	e.MountOptions = 0xc
	if typ == TypeExt4 {
		e.Features = append(e.Features, "64bit", "extra_isize", "metadata_csum")
	}
	return e
}

// legacyExt is one that GRUB legacy and LILO can read: inodes of 128 bytes, and the
// features that mke2fs had in 2009.
func legacyExt(typ string, size int64) *Ext {
	e := NewExt(typ, size)
	e.InodeSize = 128
	if typ == TypeExt4 {
		e.Features = append(e.Features, "uninit_bg")
	}
	return e
}

// mountOpts are the names that tune2fs -o has for s_default_mount_opts.
var mountOpts = []bit{{0x1, "debug"}, {0x2, "bsdgroups"}, {0x4, "user_xattr"}, {0x8, "acl"}, {0x10, "uid16"}, {0x100, "nobarrier"}, {0x200, "block_validity"}, {0x400, "discard"}, {0x800, "nodelalloc"}}

// lazyExt has mke2fs(8) leave the tables of inodes and the journal unwritten.
func lazyExt(cmd []string) []string {
	at := slices.Index(cmd, "-E") + 1
	if cmd[0] != "mke2fs" || at == 0 {
		return cmd
	}
	cmd = slices.Clone(cmd)
	cmd[at] += ",lazy_itable_init=1,lazy_journal_init=1"
	return cmd
}

func mkfsExt(f *FS, dev string, size int64) [][]string {
	e := f.Ext
	a := []string{"mke2fs", "-q", "-F", "-t", f.Type, "-b", num(e.BlockSize), "-I", num(e.InodeSize)}
	if diff := size - f.Size; diff >= 0 && diff < e.BlockSize*8 {
		a = append(a, "-N", num(e.Inodes))
	} else {
		// As many for its size as there were, and enough for what was there.
		ratio := max(f.Size/max(e.Inodes, 1), 1024)
		if need := f.UsedInodes + f.UsedInodes/16 + 64; size/ratio < need {
			a = append(a, "-N", num(need))
		} else {
			a = append(a, "-i", num(ratio))
		}
	}
	blocks := max(f.Size/max(e.BlockSize, 1), 1)
	a = append(a, "-m", strconv.FormatFloat(float64(e.Reserved)*100/float64(blocks), 'f', 2, 64))
	// "none" first: nothing of the program's own defaults gets in.
	a = append(a, "-O", strings.Join(append([]string{"none"}, e.Features...), ","))
	if e.ClusterSize > e.BlockSize {
		a = append(a, "-C", num(e.ClusterSize))
	}
	if e.FlexBG > 1 {
		a = append(a, "-G", num(e.FlexBG))
	}
	if e.JournalBlocks > 0 && size <= f.Size+f.Size/4 {
		a = append(a, "-J", "size="+num(max(min(e.JournalBlocks*e.BlockSize, size/16), 1024*e.BlockSize)>>20))
	}
	var ext []string
	if e.Stride > 0 {
		ext = append(ext, "stride="+num(e.Stride))
	}
	if e.StripeWidth > 0 {
		ext = append(ext, "stripe_width="+num(e.StripeWidth))
	}
	if e.StrictNames {
		ext = append(ext, "encoding_flags=strict")
	}
	a = append(a, "-E", strings.Join(append(ext, "nodiscard"), ","))
	a = option(option(a, "-U", f.UUID), "-L", f.Label)
	t := []string{"tune2fs", "-c", num(e.MaxMounts), "-i", num(e.CheckInterval) + "s"}
	t = option(t, "-e", map[int]string{1: "continue", 2: "remount-ro", 3: "panic"}[e.Errors])
	var opts []string
	for _, o := range mountOpts {
		if e.MountOptions&o.mask != 0 {
			opts = append(opts, o.name)
		} else {
			opts = append(opts, "^"+o.name)
		}
	}
	// Two bits, one word: how data and journal go together.
	if w := []string{"", "journal_data", "journal_data_ordered", "journal_data_writeback"}[e.MountOptions>>5&3]; w != "" {
		opts = append(opts, w)
	}
	t = append(t, "-o", strings.Join(opts, ","), dev)
	return [][]string{append(a, dev), t}
}

// leastExt adds what mkfs lays out to what the kernel calls used: inode tables and
// journal.
func leastExt(f *FS) int64 {
	ratio := f.Size / max(f.Ext.Inodes, 1)
	n := f.Used + f.Used/16 // indirect blocks, and directories that grow
	n += max(f.UsedInodes+f.UsedInodes/8, n/max(ratio, 1024)) * f.Ext.InodeSize
	n += min(max(n/16, 8<<20), 256<<20) // journal
	return n + n/16 + 16<<20            // for root, bitmaps, descriptors
}

// growExt is EXT4_IOC_RESIZE_FS of fs/ext4/ext4.h, which takes the number of blocks.
func growExt(head []byte, size int64) (uintptr, []byte) {
	block := uint64(1024) << min(binary.LittleEndian.Uint32(head[1024+24:]), 6)
	return 1<<30 | 8<<16 | 'f'<<8 | 16, binary.NativeEndian.AppendUint64(nil, uint64(size)/block)
}
