package blockcopy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Features of XFS that are understood here; bits as in the kernel's
// fs/xfs/libxfs/xfs_format.h. One that is not in these may put data or free space
// elsewhere: realtime groups (metadir) and zones do.
const (
	xfsKnownRO      = 0xF                                        // finobt, rmapbt, reflink, inobtcount
	xfsKnownIncomp  = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80 // ftype, spinodes, meta_uuid, bigtime, nrext64, exchange, parent
	xfsNeedsRepair  = 0x10
	xfsKnownLog     = 0x1 // logged xattrs
	xfsLogMagic     = 0xFEEDBABE
	xfsUnmountTrans = 0x20
	xfsNull         = 0xFFFFFFFF // no block of an allocation group
)

// xfs is an XFS. All numbers were checked against the device.
type xfs struct {
	r                   io.ReaderAt
	block, sector       int64 // bytes
	blocks              int64
	agBlocks, agCount   int64
	agLog               uint
	logStart, logBlocks int64
	crc                 bool
}

// openXFS reads the first superblock.
func openXFS(r io.ReaderAt, size int64) (*xfs, error) {
	b := make([]byte, 512)
	if err := readFull(r, b, 0); err != nil {
		return nil, err
	}
	be := binary.BigEndian
	x := &xfs{r: r, block: int64(be.Uint32(b[4:])), blocks: int64(be.Uint64(b[8:])), agBlocks: int64(be.Uint32(b[84:])), agCount: int64(be.Uint32(b[88:])),
		logStart: int64(be.Uint64(b[48:])), logBlocks: int64(be.Uint32(b[96:])), sector: int64(be.Uint16(b[102:])), agLog: uint(b[124])}
	version := be.Uint16(b[100:]) & 0xF
	switch {
	case string(b[:4]) != "XFSB" || !pow2(x.block, 512, 64<<10) || !pow2(x.sector, 512, 32<<10) || x.sector > x.block:
		return nil, errors.New("its superblock is damaged")
	case !between(int64(version), 4, 5):
		return nil, fmt.Errorf("its version is %d; 4 and 5 are known here", version)
	case !between(x.blocks, 1, size/x.block):
		return nil, fmt.Errorf("it has %d blocks of %d bytes, more than its device", x.blocks, x.block)
	case !between(x.agBlocks, 16, 1<<31) || x.agCount != (x.blocks+x.agBlocks-1)/x.agBlocks || x.agLog > 32 || x.agBlocks > 1<<x.agLog:
		return nil, fmt.Errorf("it has %d allocation groups of %d blocks for %d", x.agCount, x.agBlocks, x.blocks)
	case b[126] != 0:
		return nil, errors.New("mkfs.xfs did not finish")
	case be.Uint64(b[16:]) != 0:
		return nil, errors.New("it has a realtime device")
	}
	if x.crc = version == 5; x.crc {
		return x, x.features(b)
	}
	return x, nil
}

// features checks what only version 5 has in the superblock, whose beginning is b.
func (x *xfs) features(b []byte) error {
	be := binary.BigEndian
	s := make([]byte, x.sector)
	if err := readFull(x.r, s, 0); err != nil {
		return err
	}
	if !xfsSum(s, 224) {
		return errors.New("the checksum of its superblock is wrong")
	}
	ro, in, log := be.Uint32(b[212:]), be.Uint32(b[216:]), be.Uint32(b[220:])
	switch {
	case in&xfsNeedsRepair != 0:
		return errors.New("xfs_repair(8) has to repair it")
	case ro&^xfsKnownRO != 0 || in&^xfsKnownIncomp != 0 || log&^xfsKnownLog != 0:
		return fmt.Errorf("it has features that are not known here (ro_compat %#x, incompat %#x, log %#x)", ro&^xfsKnownRO, in&^xfsKnownIncomp, log&^xfsKnownLog)
	}
	return nil
}

func between(n, from, to int64) bool { return n >= from && n <= to }

// pow2 reports a power of two within bounds.
func pow2(n, from, to int64) bool { return between(n, from, to) && n&(n-1) == 0 }

// xfsSum compares the CRC32C of a structure, which is kept at an offset in it,
// little-endian, and counts as zero.
func xfsSum(b []byte, at int) bool {
	c := crc32c(^uint32(0), b[:at])
	c = crc32c(crc32c(c, make([]byte, 4)), b[at+4:])
	return ^c == binary.LittleEndian.Uint32(b[at:])
}

// xfsMap reads the free space trees of an unmounted XFS; "XFS Algorithms & Data
// Structures", third edition, chapters 13 and 15. One whose log has changes that
// are not in the trees is an error.
func xfsMap(r io.ReaderAt, size int64) (*Map, error) {
	x, err := openXFS(r, size)
	if err != nil {
		return nil, err
	}
	if err := x.cleanLog(); err != nil {
		return nil, err
	}
	m := &Map{Size: size, How: "xfs free space", End: x.blocks * x.block}
	for g := range x.agCount {
		if err := x.group(m, g); err != nil {
			return nil, fmt.Errorf("allocation group %d: %w", g, err)
		}
	}
	m.add(m.End, size-m.End)
	return m, nil
}

// group adds what of an allocation group is not free.
func (x *xfs) group(m *Map, g int64) error {
	be := binary.BigEndian
	start := g * x.agBlocks
	length := min(x.agBlocks, x.blocks-start)
	a := make([]byte, x.sector)
	if err := readFull(x.r, a, start*x.block+x.sector); err != nil {
		return err
	}
	if string(a[:4]) != "XAGF" || be.Uint32(a[4:]) != 1 || int64(be.Uint32(a[8:])) != g || int64(be.Uint32(a[12:])) != length {
		return errors.New("its header is damaged")
	}
	if x.crc && !xfsSum(a, 216) {
		return errors.New("the checksum of its header is wrong")
	}
	root, levels, free := int64(be.Uint32(a[16:])), int(be.Uint32(a[28:])), int64(be.Uint32(a[52:]))
	if !between(int64(levels), 1, 9) {
		return fmt.Errorf("its tree of free space has %d levels", levels)
	}
	t := x.freeTree(g, length)
	n, err := t.leaf(root, levels)
	if err != nil {
		return err
	}
	end, sumFree := int64(0), int64(0)
	if err := t.records(n, levels, func(at, l int64) error {
		if at < end || l < 1 || l > length-at {
			return fmt.Errorf("its free space has %d blocks at %d, after %d", l, at, end)
		}
		m.add((start+end)*x.block, (at-end)*x.block)
		end, sumFree = at+l, sumFree+l
		return nil
	}); err != nil {
		return err
	}
	m.add((start+end)*x.block, (length-end)*x.block)
	if sumFree != free {
		return fmt.Errorf("its tree has %d free blocks, its header %d", sumFree, free)
	}
	return nil
}

// freeTree is the tree of free space of a group of length blocks; b is the block of it that
// was read last.
type freeTree struct {
	x             *xfs
	group, length int64
	magic         string
	header, sum   int // sizes and places in a block
	b             []byte
}

func (x *xfs) freeTree(group, length int64) *freeTree {
	t := &freeTree{x, group, length, "ABTB", 16, 0, make([]byte, x.block)}
	if x.crc {
		t.magic, t.header, t.sum = "AB3B", 56, 52
	}
	return t
}

// read reads block n of the group, and checks that it belongs to a level of the tree.
func (t *freeTree) read(n int64, level int) (records int, err error) {
	be := binary.BigEndian
	if n <= 0 || n >= t.length {
		return 0, fmt.Errorf("its tree of free space leads to block %d of %d", n, t.length)
	}
	if err := readFull(t.x.r, t.b, (t.group*t.x.agBlocks+n)*t.x.block); err != nil {
		return 0, err
	}
	if string(t.b[:4]) != t.magic || int(be.Uint16(t.b[4:])) != level {
		return 0, fmt.Errorf("block %d is not one of its tree of free space", n)
	}
	if t.x.crc && (!xfsSum(t.b, t.sum) || int64(be.Uint32(t.b[48:])) != t.group) {
		return 0, fmt.Errorf("the checksum of block %d is wrong", n)
	}
	return int(be.Uint16(t.b[6:])), nil
}

// leaf goes down the left edge and returns the first leaf.
func (t *freeTree) leaf(n int64, levels int) (int64, error) {
	most := (len(t.b) - t.header) / 12 // keys of 8 bytes, then pointers of 4
	for level := levels - 1; level > 0; level-- {
		records, err := t.read(n, level)
		if err != nil {
			return 0, err
		}
		if records < 1 || records > most {
			return 0, fmt.Errorf("block %d of its tree of free space has %d records", n, records)
		}
		n = int64(binary.BigEndian.Uint32(t.b[t.header+8*most:]))
	}
	return n, nil
}

// records gives all free ranges, in blocks, from leaf n on.
func (t *freeTree) records(n int64, levels int, each func(at, length int64) error) error {
	be := binary.BigEndian
	for {
		records, err := t.read(n, 0)
		if err != nil {
			return err
		}
		// Only the root of an empty tree has none; that also ends a chain that is a ring.
		if records > (len(t.b)-t.header)/8 || records == 0 && levels > 1 {
			return fmt.Errorf("block %d of its tree of free space has %d records", n, records)
		}
		for i := range records {
			if err := each(int64(be.Uint32(t.b[t.header+8*i:])), int64(be.Uint32(t.b[t.header+8*i+4:]))); err != nil {
				return err
			}
		}
		if n = int64(be.Uint32(t.b[12:])); n == xfsNull {
			return nil
		}
		if records == 0 {
			return errors.New("its tree of free space is damaged")
		}
	}
}

// errDirtyLog means that the log is needed to know what is in use.
var errDirtyLog = errors.New("its log was not replayed: it is mounted, or was not unmounted")

// cleanLog makes sure that the last record of the log is the one that unmounting
// writes. As the kernel's xlog_find_head and xlog_check_unmount_rec: the first four
// bytes of each sector of 512 bytes have the cycle in which it was written.
func (x *xfs) cleanLog() error {
	if x.logStart == 0 {
		return errors.New("its log is on another device")
	}
	ag, at := x.logStart>>x.agLog, x.logStart&(1<<x.agLog-1)
	if ag >= x.agCount || at >= x.agBlocks || !between(x.logBlocks, 1, x.blocks-ag*x.agBlocks-at) {
		return errors.New("its log is outside of the device")
	}
	l := &xfsLog{r: x.r, base: (ag*x.agBlocks + at) * x.block, sectors: x.logBlocks * x.block / 512}
	head, err := l.head()
	if err != nil {
		return err
	}
	be := binary.BigEndian
	b := l.b[:]
	// The header of the last record: the largest has 256 KiB and eight sectors of header.
	for back := int64(1); back <= min(l.sectors, 512+8+1); back++ {
		if err := l.read(head - back); err != nil {
			return err
		}
		if be.Uint32(b) != xfsLogMagic {
			continue
		}
		length, ops, headers := int64(be.Uint32(b[12:])), be.Uint32(b[40:]), xfsHeaders(b)
		if headers > 8 || !between(length, 1, 256<<10) || back != headers+(length+511)/512 || ops != 1 {
			return errDirtyLog
		}
		if err := l.read(head - back + headers); err != nil {
			return err
		}
		// xlog_op_header: tid, len, clientid, flags. The cycle replaced tid.
		if b[9]&xfsUnmountTrans == 0 {
			return errDirtyLog
		}
		return nil
	}
	return errDirtyLog
}

// xfsHeaders is how many sectors the header of a record takes that begins with b: in version
// 2, one for each 32 KiB of the record's size.
func xfsHeaders(b []byte) int64 {
	be := binary.BigEndian
	if size := int64(be.Uint32(b[320:])); be.Uint32(b[8:])&2 != 0 && size > 32<<10 {
		return (size + 32<<10 - 1) / (32 << 10)
	}
	return 1
}

// xfsLog reads the log by sectors of 512 bytes.
type xfsLog struct {
	r             io.ReaderAt
	base, sectors int64
	b             [512]byte
}

// read reads sector i, of which the log is a ring, into b.
func (l *xfsLog) read(i int64) error {
	return readFull(l.r, l.b[:], l.base+(i%l.sectors+l.sectors)%l.sectors*512)
}

func (l *xfsLog) cycle(i int64) (uint32, error) {
	if err := l.read(i); err != nil {
		return 0, err
	}
	be := binary.BigEndian
	if be.Uint32(l.b[:]) == xfsLogMagic {
		return be.Uint32(l.b[4:]), nil
	}
	return be.Uint32(l.b[:]), nil
}

// head is the sector after the last that was written: the first of another cycle than
// sector 0.
func (l *xfsLog) head() (int64, error) {
	first, err := l.cycle(0)
	if err != nil {
		return 0, err
	}
	last, err := l.cycle(l.sectors - 1)
	if err != nil {
		return 0, err
	}
	if first == last {
		return l.sectors, nil
	}
	lo, hi := int64(0), l.sectors-1 // lo has the first cycle, hi another
	for hi-lo > 1 {
		mid := (lo + hi) / 2
		c, err := l.cycle(mid)
		if err != nil {
			return 0, err
		}
		if c == first {
			lo = mid
		} else {
			hi = mid
		}
	}
	return hi, nil
}
