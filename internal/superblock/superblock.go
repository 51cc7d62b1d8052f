// Package superblock recognises what is on a block device from its first
// bytes, and reads what is needed to make the same file system again. It only
// reads; the data may be anything.
package superblock

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Types that Probe tells. Those after TypeLVM are recognised only, so that a
// person can be told what is there.
const (
	TypeExt2  = "ext2"
	TypeExt3  = "ext3"
	TypeExt4  = "ext4"
	TypeXFS   = "xfs"
	TypeVFAT  = "vfat"
	TypeSwap  = "swap"
	TypeLVM   = "LVM2_member"
	TypeISO   = "iso9660"
	TypeLUKS  = "crypto_LUKS"
	TypeMD    = "linux_raid_member"
	TypeBtrfs = "btrfs"
	TypeNTFS  = "ntfs"
	TypeExFAT = "exfat"
	TypeF2FS  = "f2fs"
	TypeJFS   = "jfs"
)

// Info is what a device holds. At most one of the pointers is set.
type Info struct {
	Type  string
	UUID  string // as blkid(8) writes it
	Label string
	Size  int64 // bytes the file system covers, 0 when it does not say
	// OutsideLog tells of an XFS or ext whose log is on another device.
	OutsideLog bool
	Ext        *Ext
	XFS        *XFS
	VFAT       *VFAT
	MD         *MD
	Btrfs      *Btrfs
	ExFAT      *ExFAT
	F2FS       *F2FS
	JFS        *JFS
	LUKS       *LUKS
}

// MD is the superblock of a member of a RAID array; names as in md(4) and
// mdadm(8), bytes as in linux/raid/md_p.h.
type MD struct {
	Metadata string // "0.90", "1.0", "1.1", "1.2"
	UUID     string // of the array, as mdadm writes it: four times 8 digits
	Name     string // "host:0"; "" with metadata 0.90
	Minor    int    // 4 for /dev/md4, with metadata 0.90 only
	Level    int    // 0, 1, 4, 5, 6, 10; -1 linear
	Layout   int
	Chunk    int64 // bytes
	Devices  int   // of the array, without spares
	Role     int   // of this member; -1 spare, -2 faulty
	Data     int64 // where data begins on the member, bytes
	Size     int64 // of each member's data that is used, bytes
	Bitmap   bool  // an internal write-intent bitmap
}

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
	// StrictNames refuses names that are no UTF-8 in directories without case.
	StrictNames bool `json:"strictNames,omitempty"`
}

// XFS is the geometry of an XFS; names as in mkfs.xfs(8).
type XFS struct {
	BlockSize  int64 `json:"blockSize"`
	SectorSize int64 `json:"sectorSize"`
	InodeSize  int64 `json:"inodeSize"`
	DirBlock   int64 `json:"dirBlockSize"`
	AGCount    int64 `json:"agCount"`
	LogBlocks  int64 `json:"logBlocks"`
	Unit       int64 `json:"stripeUnit"`  // blocks
	Width      int64 `json:"stripeWidth"` // blocks
	CRC        bool  `json:"crc"`
	FType      bool  `json:"ftype"`
	FinoBT     bool  `json:"finobt"`
	RMapBT     bool  `json:"rmapbt"`
	Reflink    bool  `json:"reflink"`
	InoBTCount bool  `json:"inobtcount"`
	BigTime    bool  `json:"bigtime"`
	SparseIno  bool  `json:"sparse"`
	NRExt64    bool  `json:"nrext64"`
	Exchange   bool  `json:"exchange"`
	Parent     bool  `json:"parent"`
}

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

// headLen covers every magic but that of MD 0.90 and 1.0, at the end.
const headLen = 128 << 10

// Probe recognises what r of size bytes holds; nil when it is nothing known.
// Errors are those of reading.
func Probe(r io.ReaderAt, size int64) (*Info, error) {
	b := make([]byte, min(headLen, max(size, 0)))
	if n, err := r.ReadAt(b, 0); err != nil && (err != io.EOF || n == 0) {
		return nil, fmt.Errorf("cannot read the start of the device: %w", err)
	}
	if len(b) < headLen {
		b = append(b, make([]byte, headLen-len(b))...)
	}
	if i := probeEnd(r, size); i != nil {
		return i, nil
	}
	// Order matters: containers before what their data may look like.
	for _, p := range []func([]byte) *Info{probeLUKS, probeMD, probeLVM, probeXFS, probeExt, probeSwap, probeBtrfs, probeF2FS, probeJFS, probeExFAT, probeOthers, probeISO, probeVFAT} {
		if i := p(b); i != nil {
			if i.ExFAT != nil { // its label is in the root directory
				i.Label = exfatLabel(r, b)
			}
			return i, nil
		}
	}
	return nil, nil
}

// uuid formats 16 bytes; all zero gives "".
func uuid(b []byte) string {
	if bytes.Equal(b[:16], make([]byte, 16)) {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return strings.TrimRight(string(b), " ")
}

// Feature bits with e2fsprogs' names; lib/e2p/feature.c. Bits that tell a
// state (needs_recovery, orphan_present) are not features to be made again.
type bit struct {
	mask uint32
	name string
}

var (
	extCompat = []bit{{0x1, "dir_prealloc"}, {0x4, "has_journal"}, {0x8, "ext_attr"}, {0x10, "resize_inode"}, {0x20, "dir_index"}, {0x200, "sparse_super2"}, {0x400, "fast_commit"}, {0x800, "stable_inodes"}, {0x1000, "orphan_file"}}
	extIncom  = []bit{{0x2, "filetype"}, {0x10, "meta_bg"}, {0x40, "extent"}, {0x80, "64bit"}, {0x100, "mmp"}, {0x200, "flex_bg"}, {0x400, "ea_inode"}, {0x2000, "metadata_csum_seed"}, {0x4000, "large_dir"}, {0x8000, "inline_data"}, {0x10000, "encrypt"}, {0x20000, "casefold"}}
	extRO     = []bit{{0x1, "sparse_super"}, {0x2, "large_file"}, {0x8, "huge_file"}, {0x10, "uninit_bg"}, {0x20, "dir_nlink"}, {0x40, "extra_isize"}, {0x100, "quota"}, {0x200, "bigalloc"}, {0x400, "metadata_csum"}, {0x2000, "project"}, {0x8000, "verity"}}
)

func probeExt(b []byte) *Info {
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
		return &Info{Type: "jbd", UUID: uuid(s[104:120])}
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
	for _, f := range []struct {
		v uint32
		t []bit
	}{{compat, extCompat}, {incom, extIncom}, {ro, extRO}} {
		for _, x := range f.t {
			if f.v&x.mask != 0 {
				e.Features = append(e.Features, x.name)
			}
		}
	}
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
	return &Info{Type: typ, UUID: uuid(s[104:120]), Label: text(s[120:136]), Size: blocks * e.BlockSize, OutsideLog: outside, Ext: e}
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

func probeXFS(b []byte) *Info {
	be := binary.BigEndian
	if string(b[:4]) != "XFSB" {
		return nil
	}
	ver, f2, ro, inc := be.Uint16(b[100:]), be.Uint32(b[200:]), be.Uint32(b[212:]), be.Uint32(b[216:])
	x := &XFS{BlockSize: int64(be.Uint32(b[4:])), SectorSize: int64(be.Uint16(b[102:])), InodeSize: int64(be.Uint16(b[104:])), AGCount: int64(be.Uint32(b[88:])),
		LogBlocks: int64(be.Uint32(b[96:])), Unit: int64(be.Uint32(b[184:])), Width: int64(be.Uint32(b[188:])), CRC: ver&0xf == 5}
	if x.BlockSize < 512 || x.BlockSize > 65536 || b[192] > 8 || x.SectorSize < 512 {
		return nil
	}
	x.DirBlock = x.BlockSize << b[192]
	x.FType = f2&0x200 != 0
	if x.CRC {
		x.FType = inc&0x1 != 0
		x.FinoBT, x.RMapBT, x.Reflink, x.InoBTCount = ro&1 != 0, ro&2 != 0, ro&4 != 0, ro&8 != 0
		x.SparseIno, x.BigTime, x.NRExt64, x.Exchange, x.Parent = inc&2 != 0, inc&8 != 0, inc&0x20 != 0, inc&0x40 != 0, inc&0x80 != 0
	}
	blocks := be.Uint64(b[8:])
	if blocks > 1<<48 {
		return nil
	}
	i := &Info{Type: TypeXFS, UUID: uuid(b[32:48]), Label: text(b[108:120]), Size: int64(blocks) * x.BlockSize, XFS: x}
	if i.OutsideLog = be.Uint64(b[48:]) == 0; i.OutsideLog { // sb_logstart
		x.LogBlocks = 0
	}
	return i
}

func probeVFAT(b []byte) *Info {
	le := binary.LittleEndian
	if b[510] != 0x55 || b[511] != 0xAA || b[0] != 0xEB && b[0] != 0xE9 {
		return nil
	}
	v := &VFAT{SectorSize: int64(le.Uint16(b[11:])), SectorsPerCluster: int64(b[13]), Reserved: int64(le.Uint16(b[14:])), FATs: int64(b[16]),
		RootEntries: int64(le.Uint16(b[17:])), Media: int(b[21]), Hidden: int64(le.Uint32(b[28:]))}
	pow2 := func(n int64) bool { return n > 0 && n&(n-1) == 0 }
	if !pow2(v.SectorSize) || v.SectorSize < 512 || v.SectorSize > 4096 || !pow2(v.SectorsPerCluster) || v.Reserved == 0 || v.FATs == 0 || v.FATs > 2 || v.Media < 0xF0 {
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
	i := &Info{Type: TypeVFAT, Size: sectors * v.SectorSize, VFAT: v, Label: text(label)}
	if i.Label == "NO NAME" {
		i.Label = ""
	}
	if n := le.Uint32(id); n != 0 {
		i.UUID = fmt.Sprintf("%04X-%04X", n>>16, n&0xffff)
	}
	return i
}

func probeSwap(b []byte) *Info {
	for _, page := range []int{4096, 8192, 16384, 65536} {
		if m := string(b[page-10 : page]); m == "SWAPSPACE2" {
			last := int64(binary.LittleEndian.Uint32(b[1028:]))
			return &Info{Type: TypeSwap, UUID: uuid(b[1036:]), Label: text(b[1052:1068]), Size: (last + 1) * int64(page)}
		}
	}
	return nil
}

func probeLVM(b []byte) *Info {
	for s := 0; s < 4; s++ {
		l := b[s*512 : s*512+512]
		if string(l[:8]) != "LABELONE" || string(l[24:32]) != "LVM2 001" {
			continue
		}
		o := binary.LittleEndian.Uint32(l[20:])
		if o > 480 {
			return nil
		}
		u := string(l[o : o+32])
		for _, c := range []byte(u) {
			if c < '!' || c > '~' {
				return nil
			}
		}
		return &Info{Type: TypeLVM, UUID: u[:6] + "-" + u[6:10] + "-" + u[10:14] + "-" + u[14:18] + "-" + u[18:22] + "-" + u[22:26] + "-" + u[26:]}
	}
	return nil
}

// LUKS is the header of an encrypted device; names as in cryptsetup(8).
type LUKS struct {
	Version    int    `json:"version"` // 1 or 2
	Cipher     string `json:"cipher"`  // "aes-xts-plain64"
	Hash       string `json:"hash"`    // of the first keyslot, or of the header
	KeySize    int64  `json:"keySize"` // of the volume key, bits
	SectorSize int64  `json:"sectorSize"`
	Offset     int64  `json:"offset"` // where data begins, bytes
	// Fixed tells that the size of what is encrypted is written in the header.
	Fixed bool `json:"fixed,omitempty"`
	// Why, if not "", says why such a device can't be made again.
	Why string `json:"-"`
}

// probeLUKS reads LUKS1 (LUKS On-Disk Format Specification 1.2.3, §2) and LUKS2
// (LUKS2 On-Disk Format Specification 1.1, §2 and 3).
func probeLUKS(b []byte) *Info {
	if string(b[:6]) != "LUKS\xba\xbe" {
		return nil
	}
	be := binary.BigEndian
	i := &Info{Type: TypeLUKS, UUID: text(b[168:208]), LUKS: &LUKS{Version: int(be.Uint16(b[6:]))}}
	l := i.LUKS
	switch l.Version {
	case 1:
		l.Cipher = text(b[8:40]) + "-" + text(b[40:72])
		l.Hash, l.KeySize, l.SectorSize, l.Offset = text(b[72:104]), int64(be.Uint32(b[108:]))*8, 512, int64(be.Uint32(b[104:]))*512
	case 2:
		i.Label = text(b[24:72])
		l.readJSON(b[4096:])
	default:
		l.Why = fmt.Sprintf("its version is %d", l.Version)
	}
	return i
}

// readJSON reads what LUKS2 says in its second part.
func (l *LUKS) readJSON(b []byte) {
	type object map[string]any
	var h struct {
		Keyslots map[string]struct {
			KeySize int64 `json:"key_size"`
			AF      struct{ Hash string }
		}
		Segments map[string]struct {
			Type, Offset, Size, Encryption string
			SectorSize                     int64 `json:"sector_size"`
			Integrity                      object
		}
		Config struct{ Requirements object }
	}
	n := bytes.IndexByte(b, 0)
	if n < 0 {
		n = len(b)
	}
	if err := json.Unmarshal(b[:n], &h); err != nil {
		l.Why = "its header can't be read: " + err.Error()
		return
	}
	s, ok := h.Segments["0"]
	offset, err := strconv.ParseInt(s.Offset, 10, 64)
	switch {
	case !ok || len(h.Segments) != 1 || s.Type != "crypt" || err != nil || offset < 0:
		l.Why = "it has another segment than one that is encrypted"
		return
	case s.Integrity != nil:
		l.Why = "it has integrity checks"
		return
	case len(h.Config.Requirements) > 0:
		l.Why = "it is being reencrypted, or wants what this program does not know"
		return
	}
	l.Cipher, l.Offset, l.SectorSize, l.Fixed = s.Encryption, offset, s.SectorSize, s.Size != "dynamic"
	for _, k := range slices.Sorted(maps.Keys(h.Keyslots)) {
		if l.KeySize == 0 {
			l.KeySize, l.Hash = h.Keyslots[k].KeySize*8, h.Keyslots[k].AF.Hash
		}
	}
}

func probeMD(b []byte) *Info {
	for i, o := range []int{0, 4096} {
		if m := mdSuper(b[o:o+4096], []string{"1.1", "1.2"}[i]); m != nil {
			return m
		}
	}
	return nil
}

// mdSuper reads a superblock of metadata 1.x.
func mdSuper(b []byte, metadata string) *Info {
	le := binary.LittleEndian
	if le.Uint32(b) != 0xa92b4efc || le.Uint32(b[4:]) != 1 {
		return nil
	}
	m := &MD{Metadata: metadata, Name: text(b[32:64]), Level: int(int32(le.Uint32(b[72:]))), Layout: int(int32(le.Uint32(b[76:]))), Size: int64(le.Uint64(b[80:])&(1<<50-1)) * 512, Chunk: int64(le.Uint32(b[88:])) * 512, Devices: int(le.Uint32(b[92:])),
		Data: int64(le.Uint64(b[128:])&(1<<50-1)) * 512, Bitmap: le.Uint32(b[8:])&1 != 0, Role: -2}
	m.UUID = fmt.Sprintf("%x:%x:%x:%x", b[16:20], b[20:24], b[24:28], b[28:32])
	if n, max := le.Uint32(b[160:]), le.Uint32(b[220:]); n < max && 256+2*int64(n)+2 <= int64(len(b)) {
		switch r := le.Uint16(b[256+2*n:]); r {
		case 0xffff:
			m.Role = -1
		case 0xfffe, 0xfffd: // faulty, journal
		default:
			m.Role = int(r)
		}
	}
	return &Info{Type: TypeMD, UUID: uuid(b[16:32]), MD: m}
}

// probeEnd looks for what RAID of metadata 1.0 and 0.90 has at the end of a
// member, whose head looks like what the array holds.
func probeEnd(r io.ReaderAt, size int64) *Info {
	if size < 128<<10 || size > 1<<59 {
		return nil
	}
	b := make([]byte, 4096)
	// 8 KiB before the end, on a boundary of 4 KiB.
	at := (size/512 - 16) &^ 7 * 512
	if n, err := r.ReadAt(b, at); err == nil || n == len(b) {
		if i := mdSuper(b, "1.0"); i != nil && binary.LittleEndian.Uint64(b[144:])*512 == uint64(at) {
			return i
		}
	}
	// The last 64 KiB that begin on a boundary of 64 KiB.
	if n, err := r.ReadAt(b, size&^(64<<10-1)-64<<10); err == nil || n == len(b) {
		return mdSuper090(b)
	}
	return nil
}

// mdSuper090 reads a superblock of metadata 0.90: words of the byte order of the
// machine that made it, of which only ours is read.
func mdSuper090(b []byte) *Info {
	word := func(n int) uint32 { return binary.LittleEndian.Uint32(b[4*n:]) }
	if word(0) != 0xa92b4efc || word(1) != 0 {
		return nil
	}
	m := &MD{Metadata: "0.90", Level: int(int32(word(7))), Size: int64(word(8)) << 10, Devices: int(word(10)), Layout: int(int32(word(64))), Chunk: int64(word(65)), Bitmap: word(33)&(1<<8) != 0, Role: -2, Minor: int(int32(word(11)))}
	m.UUID = fmt.Sprintf("%08x:%08x:%08x:%08x", word(5), word(13), word(14), word(15))
	// This device's own descriptor: number, major, minor, place, state.
	const this = 992
	switch state := word(this + 4); {
	case state&1 != 0: // faulty
	case state&2 == 0: // not active
		m.Role = -1
	default:
		m.Role = int(word(this + 3))
	}
	id := make([]byte, 16)
	for i, n := range []int{5, 13, 14, 15} {
		binary.BigEndian.PutUint32(id[4*i:], word(n))
	}
	return &Info{Type: TypeMD, UUID: uuid(id), MD: m}
}

// Btrfs is what the superblock of a btrfs says; names as in mkfs.btrfs(8).
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

// Modules are the kernel modules that do for its checksums, besides crc32c's;
// one of them is enough.
func (b *Btrfs) Modules() []string {
	return map[string][]string{"xxhash": {"xxhash_generic"}, "sha256": {"sha256_generic", "sha256_ssse3"}, "blake2": {"blake2b_generic"}}[b.Checksum]
}

// Features of btrfs that are chosen when it is made; the flags' bits are in
// linux/btrfs.h. All others come by themselves, by profile or by use.
var (
	BtrfsFeatures   = []string{"mixed-bg", "extref", "skinny-metadata", "no-holes", "free-space-tree", "block-group-tree"}
	btrfsIncompat   = []bit{{1 << 2, "mixed-bg"}, {1 << 6, "extref"}, {1 << 8, "skinny-metadata"}, {1 << 9, "no-holes"}}
	btrfsCompatRO   = []bit{{1 << 0, "free-space-tree"}, {1 << 3, "block-group-tree"}}
	btrfsUnknown    = []bit{{1 << 12, "zoned"}, {1 << 13, "extent-tree-v2"}, {1 << 14, "raid-stripe-tree"}, {1 << 16, "squota"}}
	btrfsCheckSums  = []string{"crc32c", "xxhash", "sha256", "blake2"}
	btrfsSuperblock = 65536
)

func probeBtrfs(b []byte) *Info {
	s := b[btrfsSuperblock:]
	if string(s[64:72]) != "_BHRfS_M" {
		return nil
	}
	le := binary.LittleEndian
	f := &Btrfs{SectorSize: int64(le.Uint32(s[144:])), NodeSize: int64(le.Uint32(s[148:])), Devices: int64(le.Uint64(s[136:])), DevID: int64(le.Uint64(s[201:])), Features: []string{}}
	if t := int(le.Uint16(s[196:])); t < len(btrfsCheckSums) {
		f.Checksum = btrfsCheckSums[t]
	}
	incompat, compat := le.Uint64(s[188:]), le.Uint64(s[180:])
	for _, x := range append(btrfsIncompat, btrfsUnknown...) {
		if incompat&uint64(x.mask) != 0 {
			f.Features = append(f.Features, x.name)
		}
	}
	for _, x := range btrfsCompatRO {
		if compat&uint64(x.mask) != 0 {
			f.Features = append(f.Features, x.name)
		}
	}
	return &Info{Type: TypeBtrfs, UUID: uuid(s[32:]), Label: text(s[299 : 299+256]), Size: int64(le.Uint64(s[112:])), Btrfs: f}
}

func probeISO(b []byte) *Info {
	if string(b[32768:32774]) != "\x01CD001" {
		return nil
	}
	blocks := binary.LittleEndian.Uint32(b[32768+80:])
	return &Info{Type: TypeISO, Label: text(b[32768+40 : 32768+72]), Size: int64(blocks) * 2048}
}

func probeOthers(b []byte) *Info {
	for _, m := range []struct {
		off         int
		magic, name string
	}{{3, "NTFS    ", "ntfs"}, {0, "hsqs", "squashfs"}, {65536 + 52, "ReIsEr", "reiserfs"}, {4096, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca", "bcache"}, {1024 + 6, "\x34\x34", "nilfs2"}} {
		if strings.HasPrefix(string(b[m.off:m.off+8]), m.magic) {
			i := &Info{Type: m.name}
			if m.name == TypeNTFS { // sectors, the last of which is no part of the volume
				i.UUID = fmt.Sprintf("%016X", binary.LittleEndian.Uint64(b[72:]))
				i.Size = int64(binary.LittleEndian.Uint64(b[40:])+1) * int64(binary.LittleEndian.Uint16(b[11:]))
			}
			return i
		}
	}
	return nil
}
