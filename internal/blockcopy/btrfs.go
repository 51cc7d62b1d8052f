package blockcopy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Features of btrfs with which chunks are what they are here; bits as in
// linux/btrfs.h. Not in these: zoned, extent tree v2, RAID stripe tree.
const (
	// mixed_backref, default_subvol, mixed_groups, compress_lzo, compress_zstd,
	// big_metadata, extended_iref, raid56, skinny_metadata, no_holes, metadata_uuid,
	// raid1c34, simple_quota
	btrfsKnownIncompat = 0xFFF | 1<<16
	// free_space_tree, free_space_tree_valid, verity, block_group_tree
	btrfsKnownRO = 0xF
	// Flags of a superblock that is not that of a file system in use: a seed, an
	// image of metadata, a change of UUID that did not end.
	btrfsOddFlags = 0xF << 32
)

// Sizes and numbers of btrfs; "On-disk Format" in its documentation.
const (
	btrfsSuper      = 64 << 10
	btrfsHeader     = 101 // bytes before the items of a node
	btrfsItem       = 25
	btrfsPointer    = 33
	btrfsChunkTree  = 3
	btrfsChunkKey   = 228
	btrfsFirstChunk = 256
	btrfsMaxNodes   = 1 << 20 // of the chunk tree: chunks of 2^20 * 100 GiB
)

// btrfsChunk is where a range of logical addresses is on the device.
type btrfsChunk struct {
	logical, length int64
	stripes         []int64 // on this device, bytes
}

// btrfs reads the chunk tree of a btrfs.
type btrfs struct {
	r         io.ReaderAt
	size      int64
	dev, node int64
	total     int64 // of the file system, bytes
	crc       bool  // checksums are CRC32C, and compared
	nodes     int
	chunks    []btrfsChunk
	system    []btrfsChunk // those with the chunk tree
}

// btrfsMap reads which parts of a device are chunks of an unmounted btrfs, which
// are in use as a whole: data, metadata and system. A file system on several
// devices is an error.
func btrfsMap(r io.ReaderAt, size int64) (*Map, error) {
	s := make([]byte, 4096)
	x, err := openBtrfs(r, size, s)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	// The chunks with the chunk tree are in the superblock.
	array := s[811 : 811+2048]
	n := int(le.Uint32(s[160:]))
	if n < 0 || n > len(array) {
		return nil, errors.New("its superblock is damaged")
	}
	for array = array[:n]; len(array) > 0; {
		if len(array) < 17+48 || array[8] != btrfsChunkKey {
			return nil, errors.New("its superblock has a damaged list of chunks")
		}
		c, length, err := x.chunk(int64(le.Uint64(array[9:])), array[17:])
		if err != nil {
			return nil, err
		}
		x.system = append(x.system, c)
		array = array[17+length:]
	}
	if err := x.walk(int64(le.Uint64(s[88:])), int(s[198]), le.Uint64(s[164:])); err != nil {
		return nil, fmt.Errorf("its chunk tree: %w", err)
	}
	if len(x.chunks) == 0 {
		return nil, errors.New("its chunk tree is empty")
	}
	m := &Map{Size: size, How: "btrfs chunks", End: x.total}
	m.add(0, 1<<20) // reserved: boot loaders, the first superblock
	for _, mirror := range []int64{64 << 20, 256 << 30} {
		if mirror+4096 <= x.total {
			m.add(mirror, 4096)
		}
	}
	for _, c := range append(x.chunks, x.system...) {
		for _, at := range c.stripes {
			m.add(at, c.length)
		}
	}
	m.add(x.total, size-x.total)
	return m, nil
}

// openBtrfs reads the superblock into s, and checks it.
func openBtrfs(r io.ReaderAt, size int64, s []byte) (*btrfs, error) {
	if err := readFull(r, s, btrfsSuper); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	u64 := func(at int) uint64 { return le.Uint64(s[at:]) }
	x := &btrfs{r: r, size: size, total: int64(u64(209)), dev: int64(u64(201)), node: int64(le.Uint32(s[148:])), crc: le.Uint16(s[196:]) == 0}
	switch incompat, ro := u64(188), u64(180); {
	case string(s[64:72]) != "_BHRfS_M" || u64(48) != btrfsSuper || !pow2(x.node, 4096, 64<<10):
		return nil, errors.New("its superblock is damaged")
	case x.crc && ^crc32c(^uint32(0), s[32:]) != le.Uint32(s):
		return nil, errors.New("the checksum of its superblock is wrong")
	case incompat&^btrfsKnownIncompat != 0 || ro&^btrfsKnownRO != 0:
		return nil, fmt.Errorf("it has features that are not known here (incompat %#x, compat_ro %#x)", incompat&^btrfsKnownIncompat, ro&^btrfsKnownRO)
	case u64(56)&btrfsOddFlags != 0:
		return nil, fmt.Errorf("its superblock has the flags %#x: it is a seed, an image of metadata, or its UUID is being changed", u64(56)&btrfsOddFlags)
	case u64(136) != 1:
		return nil, fmt.Errorf("it is on %d devices", u64(136))
	}
	if !between(x.total, 1<<20, size) {
		return nil, fmt.Errorf("it has %d bytes, its device %d", x.total, size)
	}
	return x, nil
}

// chunk reads a chunk item, and returns how many bytes it has.
func (x *btrfs) chunk(logical int64, b []byte) (c btrfsChunk, length int, err error) {
	le := binary.LittleEndian
	if len(b) < 48 {
		return c, 0, errors.New("a chunk is damaged")
	}
	c = btrfsChunk{logical: logical, length: int64(le.Uint64(b))}
	stripes, profile := int(le.Uint16(b[44:])), le.Uint64(b[24:])
	if length = 48 + 32*stripes; stripes < 1 || len(b) < length || logical < 0 || c.length < 1 || c.length > 1<<62-logical {
		return c, 0, fmt.Errorf("the chunk at %d is damaged", logical)
	}
	// On one device, RAID0 has one stripe, DUP two, each as long as the chunk; the
	// other profiles cannot be there.
	const striped, single = 1<<3 | 1<<6 | 1<<7 | 1<<8, 1<<5 | 1<<4 | 1<<9 | 1<<10
	if profile&striped != 0 && stripes != 1 || profile&^uint64(0x7|striped|single) != 0 {
		return c, 0, fmt.Errorf("the chunk at %d has %d stripes of profile %#x", logical, stripes, profile)
	}
	for i := range stripes {
		e := b[48+32*i:]
		at := int64(le.Uint64(e[8:]))
		if int64(le.Uint64(e)) != x.dev {
			return c, 0, fmt.Errorf("the chunk at %d is on device %d, too", logical, le.Uint64(e))
		}
		if at < 0 || at > x.size || c.length > x.size-at {
			return c, 0, fmt.Errorf("the chunk at %d is outside of the device", logical)
		}
		c.stripes = append(c.stripes, at)
	}
	return c, length, nil
}

// walk collects the chunks below a node of the chunk tree.
func (x *btrfs) walk(logical int64, level int, generation uint64) error {
	if x.nodes++; x.nodes > btrfsMaxNodes {
		return errors.New("it has too many nodes, or is a ring")
	}
	b := make([]byte, x.node)
	if err := x.readNode(b, logical, level, generation); err != nil {
		return fmt.Errorf("node at %d: %w", logical, err)
	}
	le := binary.LittleEndian
	n := int(le.Uint32(b[96:]))
	if level > 0 {
		return x.children(b, logical, level, n)
	}
	if n < 0 || n > (len(b)-btrfsHeader)/btrfsItem {
		return fmt.Errorf("node at %d has %d items", logical, n)
	}
	for i := range n {
		it := b[btrfsHeader+i*btrfsItem:]
		if it[8] != btrfsChunkKey {
			continue
		}
		at, l := int64(btrfsHeader)+int64(le.Uint32(it[17:])), int64(le.Uint32(it[21:]))
		if at+l > int64(len(b)) {
			return fmt.Errorf("node at %d has a damaged item", logical)
		}
		c, length, err := x.chunk(int64(le.Uint64(it[9:])), b[at:at+l])
		if err != nil {
			return err
		}
		if int64(length) != l || le.Uint64(it) != btrfsFirstChunk {
			return fmt.Errorf("node at %d has a damaged chunk", logical)
		}
		x.chunks = append(x.chunks, c)
	}
	return nil
}

// children walks through the n nodes that node b at logical points to.
func (x *btrfs) children(b []byte, logical int64, level, n int) error {
	if n < 1 || n > (len(b)-btrfsHeader)/btrfsPointer {
		return fmt.Errorf("node at %d has %d pointers", logical, n)
	}
	le := binary.LittleEndian
	for i := range n {
		p := b[btrfsHeader+i*btrfsPointer:]
		if err := x.walk(int64(le.Uint64(p[17:])), level-1, le.Uint64(p[25:])); err != nil {
			return err
		}
	}
	return nil
}

// readNode reads a node of the chunk tree, from the first copy that is right.
func (x *btrfs) readNode(b []byte, logical int64, level int, generation uint64) error {
	err := errors.New("it is in no chunk")
	le := binary.LittleEndian
	for _, c := range x.system {
		if logical < c.logical || logical-c.logical > c.length-x.node {
			continue
		}
		for _, at := range c.stripes {
			if err = readFull(x.r, b, at+logical-c.logical); err != nil {
				continue
			}
			if int64(le.Uint64(b[48:])) != logical || int(b[100]) != level || le.Uint64(b[80:]) != generation || le.Uint64(b[88:]) != btrfsChunkTree {
				err = errors.New("it is not the node that was expected")
				continue
			}
			if x.crc && ^crc32c(^uint32(0), b[32:]) != le.Uint32(b) {
				err = errors.New("its checksum is wrong")
				continue
			}
			return nil
		}
	}
	return err
}
