package blockcopy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
)

// Features of ext2, ext3 and ext4 whose block bitmaps are understood here; names
// and bits as in the kernel's fs/ext4/ext4.h. A bit that is not in these means that
// the bitmaps may mean something else.
const (
	extNeedsRecovery = 0x4
	extMetaBG        = 0x10
	ext64Bit         = 0x80
	extCsumSeed      = 0x2000
	// filetype, needs_recovery, meta_bg, extent, 64bit, mmp, flex_bg, ea_inode,
	// metadata_csum_seed, large_dir, inline_data, encrypt, casefold
	extKnownIncompat = 0x2 | extNeedsRecovery | extMetaBG | 0x40 | ext64Bit | 0x100 | 0x200 | 0x400 | extCsumSeed | 0x4000 | 0x8000 | 0x10000 | 0x20000

	extSparseSuper  = 0x1
	extGDTCsum      = 0x10
	extBigalloc     = 0x200
	extMetadataCsum = 0x400
	// sparse_super, large_file, btree_dir, huge_file, gdt_csum, dir_nlink,
	// extra_isize, quota, bigalloc, metadata_csum, readonly, project, verity,
	// orphan_present
	extKnownRO = extSparseSuper | 0x2 | 0x4 | 0x8 | extGDTCsum | 0x20 | 0x40 | 0x100 | extBigalloc | extMetadataCsum | 0x1000 | 0x2000 | 0x8000 | 0x10000

	extSparseSuper2 = 0x200 // compatible
)

// States in s_state, and of groups in bg_flags.
const (
	extClean       = 1
	extErrors      = 2
	extBlockUninit = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c is the CRC32C without inversion at its beginning and end, as ext4 has it.
func crc32c(seed uint32, b []byte) uint32 { return ^crc32.Update(^seed, castagnoli, b) }

// ext is an ext2, ext3 or ext4. All numbers were checked against the device.
type ext struct {
	r             io.ReaderAt
	block         int64 // bytes
	ratio         int64 // blocks of a cluster, 1 without bigalloc
	blocks, first int64 // blocks in all; the first block of group 0
	perGroup      int64 // blocks
	groups        int64
	tables        int64 // blocks of a group's inode table
	descSize      int64
	gdtBlocks     int64
	reservedGDT   int64
	firstMeta     int64 // the first descriptor block that is in its own group
	incompat, ro  uint32
	sparse2       bool
	backups       [2]int64
	seed          uint32
	uuid          [16]byte
}

// openExt reads the superblock of a file system that was left in order.
func openExt(r io.ReaderAt, size int64) (*ext, error) {
	s := make(extSuper, 1024)
	if err := readFull(r, s, 1024); err != nil {
		return nil, err
	}
	x := &ext{r: r, incompat: s.u32(96), ro: s.u32(100)}
	if err := x.known(s); err != nil {
		return nil, err
	}
	if err := x.settled(s); err != nil {
		return nil, err
	}
	return x, x.geometry(s, size)
}

// extSuper is a superblock.
type extSuper []byte

func (s extSuper) u16(at int) uint16 { return binary.LittleEndian.Uint16(s[at:]) }
func (s extSuper) u32(at int) uint32 { return binary.LittleEndian.Uint32(s[at:]) }

// num is a number of 32 bits.
func (s extSuper) num(at int) int64 { return int64(s.u32(at)) }

// known refuses what is damaged or has features that are not known here.
func (x *ext) known(s extSuper) error {
	if s.u16(56) != 0xEF53 || s.num(24) > 6 {
		return errors.New("its superblock is damaged")
	}
	if u := x.incompat &^ extKnownIncompat; u != 0 {
		return fmt.Errorf("it has features that are not known here (incompat %#x)", u)
	}
	if u := x.ro &^ extKnownRO; u != 0 {
		return fmt.Errorf("it has features that are not known here (ro_compat %#x)", u)
	}
	copy(x.uuid[:], s[104:])
	x.seed = crc32c(^uint32(0), x.uuid[:])
	if x.incompat&extCsumSeed != 0 {
		x.seed = s.u32(624)
	}
	if x.ro&extMetadataCsum != 0 {
		if s[373] != 1 {
			return fmt.Errorf("its checksums are of type %d; 1 is known here", s[373])
		}
		if crc32c(^uint32(0), s[:1020]) != s.u32(1020) {
			return errors.New("the checksum of its superblock is wrong")
		}
	}
	return nil
}

// settled refuses a file system whose bitmaps may not be the last ones.
func (x *ext) settled(s extSuper) error {
	switch state := s.u16(58); {
	case x.incompat&extNeedsRecovery != 0:
		// Replaying the journal may change every bitmap. Reading it here and copying
		// what it names would need all of its rules; the whole device is right anyway.
		return errors.New("its journal was not replayed: it is mounted, or was not unmounted")
	case state&extClean == 0:
		return errors.New("it was not unmounted cleanly")
	case state&extErrors != 0:
		return errors.New("the kernel found errors in it; e2fsck(8) has to repair it")
	}
	return nil
}

// geometry reads and checks the sizes.
func (x *ext) geometry(s extSuper, size int64) error {
	x.block = 1024 << s.num(24)
	x.blocks, x.first, x.perGroup, x.ratio = s.num(4), s.num(20), s.num(32), 1
	x.descSize = 32
	if x.incompat&ext64Bit != 0 {
		x.blocks |= s.num(336) << 32
		x.descSize = int64(s.u16(254))
	}
	clusters := x.perGroup
	if x.ro&extBigalloc != 0 {
		if s.num(28) > 20 || s.num(28) < s.num(24) {
			return fmt.Errorf("its clusters have 2^%d KiB", s.num(28))
		}
		x.ratio, clusters = 1<<(s.num(28)-s.num(24)), s.num(36)
	}
	inodes, inodeSize := s.num(40), int64(128)
	if s.num(76) > 0 {
		inodeSize = int64(s.u16(88))
	}
	if err := x.plausible(size, clusters, inodes, inodeSize); err != nil {
		return err
	}
	x.tables = (inodes*inodeSize + x.block - 1) / x.block
	x.groups = (x.blocks - x.first + x.perGroup - 1) / x.perGroup
	x.gdtBlocks = (x.groups*x.descSize + x.block - 1) / x.block
	x.reservedGDT = int64(s.u16(206))
	x.firstMeta = x.gdtBlocks
	if x.incompat&extMetaBG != 0 {
		if x.firstMeta = s.num(260); x.firstMeta > x.gdtBlocks {
			return fmt.Errorf("its first meta block group is %d of %d", x.firstMeta, x.gdtBlocks)
		}
	}
	if x.sparse2 = s.u32(92)&extSparseSuper2 != 0; x.sparse2 {
		x.backups = [2]int64{s.num(588), s.num(592)}
	}
	return nil
}

// plausible refuses sizes that no file system has on a device of size bytes.
func (x *ext) plausible(size, clusters, inodes, inodeSize int64) error {
	bad := func(ok bool) bool { return !ok }
	switch {
	case bad(between(x.blocks, 1, size/x.block)):
		return fmt.Errorf("it has %d blocks of %d bytes, more than its device", x.blocks, x.block)
	case bad(x.first <= 1 && x.first < x.blocks && (x.first == 0 || x.block == 1024)):
		return fmt.Errorf("its first block is %d", x.first)
	case bad(clusters%8 == 0 && between(clusters, 256, 8*x.block) && clusters*x.ratio == x.perGroup):
		return fmt.Errorf("its groups have %d blocks, %d clusters", x.perGroup, clusters)
	case bad(pow2(x.descSize, 32, x.block) && (x.incompat&ext64Bit == 0 || x.descSize >= 64)):
		return fmt.Errorf("its group descriptors have %d bytes", x.descSize)
	case bad(pow2(inodeSize, 128, x.block) && between(inodes, 1, 8*x.block)):
		return fmt.Errorf("its groups have %d inodes of %d bytes", inodes, inodeSize)
	}
	return nil
}

// groupStart is the first block of a group.
func (x *ext) groupStart(g int64) int64 { return x.first + g*x.perGroup }

// hasSuper reports whether a group begins with a superblock.
func (x *ext) hasSuper(g int64) bool {
	switch {
	case g == 0:
		return true
	case x.sparse2:
		return g == x.backups[0] || g == x.backups[1]
	case g == 1 || x.ro&extSparseSuper == 0:
		return true
	case g%2 == 0:
		return false
	}
	for _, p := range []int64{3, 5, 7} {
		n := p
		for n < g {
			n *= p
		}
		if n == g {
			return true
		}
	}
	return false
}

// descriptorBlock is where a block of group descriptors is; ext4_sb_bread of
// descriptor_loc in the kernel's fs/ext4/super.c.
func (x *ext) descriptorBlock(n int64) int64 {
	// Blocks of 1 KiB have the superblock in block 1, even where block 0 is group 0's.
	shift := int64(0)
	if x.block == 1024 && x.first == 0 {
		shift = 1
	}
	if n < x.firstMeta {
		return x.first + shift + 1 + n
	}
	g := n * (x.block / x.descSize)
	at := x.groupStart(g)
	if x.hasSuper(g) {
		at++
	}
	if n == 0 {
		at += shift
	}
	return at
}

// base is how many blocks at the start of a group are for the superblock and
// group descriptors; ext4_num_base_meta_blocks.
func (x *ext) base(g int64) int64 {
	n := int64(0)
	if x.hasSuper(g) {
		n = 1
	}
	per := x.block / x.descSize
	if x.incompat&extMetaBG == 0 || g < x.firstMeta*per {
		if n > 0 {
			n += x.firstMeta + x.reservedGDT
		}
	} else if i := g % per; i == 0 || i == 1 || i == per-1 {
		n++
	}
	if g == 0 && x.block == 1024 && x.first == 0 {
		n++
	}
	return n
}

// extMap reads the block bitmaps of an unmounted ext2, ext3 or ext4; the kernel's
// Documentation/filesystems/ext4. One that has to be checked or whose journal is
// to be replayed is an error, as are a checksum and a count that are wrong.
func extMap(r io.ReaderAt, size int64) (*Map, error) {
	x, err := openExt(r, size)
	if err != nil {
		return nil, err
	}
	m := &Map{Size: size, How: "ext bitmaps", End: x.blocks * x.block}
	m.add(0, max(page, x.block)) // boot block and superblock
	le := binary.LittleEndian
	desc := make([]byte, x.block)
	bitmap := make([]byte, x.block)
	per := x.block / x.descSize
	for g := range x.groups {
		if g%per == 0 {
			at := x.descriptorBlock(g / per)
			if at >= x.blocks {
				return nil, fmt.Errorf("descriptors of group %d are at block %d of %d", g, at, x.blocks)
			}
			if err := readFull(r, desc, at*x.block); err != nil {
				return nil, fmt.Errorf("descriptors of group %d: %w", g, err)
			}
		}
		d := desc[g%per*x.descSize:][:x.descSize]
		if !x.checkDescriptor(g, d) {
			return nil, fmt.Errorf("the checksum of the descriptor of group %d is wrong", g)
		}
		at, free, sum, mask := x.descriptor(d)
		start := x.groupStart(g)
		length := min(x.perGroup, x.blocks-start)
		n := (length + x.ratio - 1) / x.ratio
		// Its metadata may be in any group.
		for _, e := range []Extent{{start, min(x.base(g), length)}, {at[0], 1}, {at[1], 1}, {at[2], x.tables}} {
			if e.Start < x.first || e.Length > x.blocks-e.Start {
				return nil, fmt.Errorf("metadata of group %d is at block %d of %d", g, e.Start, x.blocks)
			}
			m.add(e.Start*x.block, e.Length*x.block)
		}
		if le.Uint16(d[18:])&extBlockUninit != 0 && x.ro&(extGDTCsum|extMetadataCsum) != 0 {
			// Its bitmap was never written: nothing but metadata, which was added.
			continue
		}
		if err := x.readBitmap(bitmap, g, at[0], sum, mask); err != nil {
			return nil, err
		}
		used := ones(bitmap, n)
		if n-used != free {
			return nil, fmt.Errorf("the bitmap of group %d has %d free clusters, its descriptor %d", g, n-used, free)
		}
		m.bits(bitmap, n, start*x.block, x.ratio*x.block)
	}
	m.add(m.End, size-m.End)
	return m, nil
}

// readBitmap reads a group's bitmap of blocks, and compares the bits of its checksum in mask.
func (x *ext) readBitmap(b []byte, g, block int64, sum, mask uint32) error {
	if err := readFull(x.r, b, block*x.block); err != nil {
		return fmt.Errorf("bitmap of group %d: %w", g, err)
	}
	if x.ro&extMetadataCsum != 0 && crc32c(x.seed, b[:x.perGroup/x.ratio/8])&mask != sum {
		return fmt.Errorf("the checksum of the bitmap of group %d is wrong", g)
	}
	return nil
}

// descriptor reads that of a group: the places of its bitmaps and inode table, its free
// clusters, and the checksum of its bitmap of blocks with the bits of it that there are.
func (x *ext) descriptor(d []byte) (at [3]int64, free int64, sum, mask uint32) {
	le := binary.LittleEndian
	at = [3]int64{int64(le.Uint32(d)), int64(le.Uint32(d[4:])), int64(le.Uint32(d[8:]))}
	free, sum, mask = int64(le.Uint16(d[12:])), uint32(le.Uint16(d[24:])), uint32(0xffff)
	if x.descSize >= 64 {
		for i := range at {
			at[i] |= int64(le.Uint32(d[32+4*i:])) << 32
		}
		free |= int64(le.Uint16(d[44:])) << 16
		sum, mask = sum|uint32(le.Uint16(d[56:]))<<16, 0xffffffff
	}
	return at, free, sum, mask
}

// ones counts those of the first n bits.
func ones(bitmap []byte, n int64) (count int64) {
	for i := range n / 8 {
		count += int64(bits.OnesCount8(bitmap[i]))
	}
	if n%8 != 0 {
		count += int64(bits.OnesCount8(bitmap[n/8] & (1<<(n%8) - 1)))
	}
	return count
}

// checkDescriptor compares the checksum of a group descriptor; without that
// feature it is true.
func (x *ext) checkDescriptor(g int64, d []byte) bool {
	le := binary.LittleEndian
	want := le.Uint16(d[30:])
	number := le.AppendUint32(nil, uint32(g))
	switch {
	case x.ro&extMetadataCsum != 0:
		c := crc32c(crc32c(x.seed, number), d[:30])
		c = crc32c(crc32c(c, []byte{0, 0}), d[32:])
		return uint16(c) == want
	case x.ro&extGDTCsum != 0:
		c := crc16(crc16(crc16(0xffff, x.uuid[:]), number), d[:30])
		return crc16(c, d[32:]) == want
	}
	return true
}

// crc16 is the CRC-16 with polynomial 0x8005, reflected; the kernel's lib/crc16.c.
func crc16(c uint16, b []byte) uint16 {
	for _, x := range b {
		c ^= uint16(x)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0xA001
			} else {
				c >>= 1
			}
		}
	}
	return c
}
