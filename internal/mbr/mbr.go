// Package mbr reads and writes MBR partition tables with their disk signature
// and logical partitions, which go-diskfs lacks. Offsets are in sectors of
// the size given; https://en.wikipedia.org/wiki/Master_boot_record and
// .../Extended_boot_record describe the bytes.
package mbr

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Table is an MBR with everything but its boot code.
type Table struct {
	Signature  uint32 // disk signature at byte 440
	Partitions []Partition
}

// Partition is one entry. Numbers 1 to 4 are primary, 5 and up logical.
type Partition struct {
	Number int
	Type   byte
	Active bool
	Start  int64 // first sector
	Count  int64 // sectors
	// EBR is the sector of a logical partition's own extended boot record.
	EBR int64
}

// Extended reports whether t is one of the types of an extended partition.
func Extended(t byte) bool { return t == 0x05 || t == 0x0f || t == 0x85 }

// ErrNone means that there is no MBR.
var ErrNone = errors.New("no MBR partition table")

// maxLogical bounds the chain of extended boot records; Linux has no more
// than 60 logical partitions anywhere.
const maxLogical = 128

// Read reads the table of a disk with sectors of ss bytes.
func Read(r io.ReaderAt, ss int64) (*Table, error) {
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("cannot read MBR: %w", err)
	}
	if b[510] != 0x55 || b[511] != 0xAA {
		return nil, ErrNone
	}
	t := &Table{Signature: binary.LittleEndian.Uint32(b[440:])}
	for i := range 4 {
		p, err := entry(b[446+16*i:])
		if err != nil {
			return nil, err
		}
		if p == nil {
			continue
		}
		p.Number = i + 1
		t.Partitions = append(t.Partitions, *p)
	}
	for _, p := range t.Partitions {
		if Extended(p.Type) {
			if err := t.logical(r, ss, p); err != nil {
				return nil, err
			}
			break
		}
	}
	return t, nil
}

func entry(e []byte) (*Partition, error) {
	if e[4] == 0 {
		return nil, nil
	}
	if e[0] != 0 && e[0] != 0x80 {
		return nil, ErrNone // a boot sector of a file system, not a table
	}
	return &Partition{Type: e[4], Active: e[0] == 0x80, Start: int64(binary.LittleEndian.Uint32(e[8:])), Count: int64(binary.LittleEndian.Uint32(e[12:]))}, nil
}

func (t *Table) logical(r io.ReaderAt, ss int64, ext Partition) error {
	b := make([]byte, 512)
	seen := map[int64]bool{}
	for at, n := ext.Start, 5; ; n++ {
		if seen[at] || n > 4+maxLogical || at < ext.Start || at >= ext.Start+ext.Count {
			return fmt.Errorf("cannot read MBR: the chain of logical partitions is broken at sector %d", at)
		}
		seen[at] = true
		if _, err := r.ReadAt(b, at*ss); err != nil {
			return fmt.Errorf("cannot read extended boot record at sector %d: %w", at, err)
		}
		if b[510] != 0x55 || b[511] != 0xAA {
			if n == 5 {
				return nil // an extended partition that is still empty
			}
			return fmt.Errorf("cannot read MBR: no extended boot record at sector %d", at)
		}
		p, err := entry(b[446:])
		if err != nil {
			return fmt.Errorf("cannot read extended boot record at sector %d: %w", at, err)
		}
		if p != nil {
			p.Number, p.EBR, p.Start = n, at, p.Start+at
			t.Partitions = append(t.Partitions, *p)
		} else {
			n--
		}
		next, err := entry(b[462:])
		if err != nil {
			return fmt.Errorf("cannot read extended boot record at sector %d: %w", at, err)
		}
		if next == nil || !Extended(next.Type) {
			return nil
		}
		at = ext.Start + next.Start
	}
}

// Logical returns the logical partitions in the order of their numbers, which is that of
// their chain: where they are on the disk may be another order. The record of the first
// is at the beginning of the extended partition, wherever Read found it.
func (t *Table) Logical() []Partition {
	var out []Partition
	start := int64(0)
	for _, p := range t.Partitions {
		switch {
		case p.Number > 4:
			out = append(out, p)
		case Extended(p.Type):
			start = p.Start
		}
	}
	slices.SortStableFunc(out, func(a, b Partition) int { return cmp.Compare(a.Number, b.Number) })
	if len(out) > 0 {
		out[0].EBR = start
	}
	return out
}

// Check returns everything that keeps the table from being written on a disk of the given
// number of sectors, joined: the same conditions that sfdisk(8) has, and that no record
// of the chain is inside a partition, where it would be overwritten.
func (t *Table) Check(sectors int64) error {
	var errs []error
	bad := func(n int, format string, a ...any) {
		errs = append(errs, fmt.Errorf("partition %d: %s", n, fmt.Sprintf(format, a...)))
	}
	var ext *Partition
	seen := map[int]bool{}
	for i := range t.Partitions {
		p := &t.Partitions[i]
		if p.Number < 1 || p.Number > 4+maxLogical || seen[p.Number] {
			bad(p.Number, "the number is not possible, or used twice")
		}
		seen[p.Number] = true
		if p.Start < 1 || p.Count < 1 || p.Start+p.Count > sectors {
			bad(p.Number, "sectors %d to %d are not on a disk of %d sectors", p.Start, p.Start+p.Count-1, sectors)
		}
		if p.Start > 0xffffffff || p.Count > 0xffffffff {
			bad(p.Number, "is beyond what an MBR can address (2 TiB with sectors of 512 bytes)")
		}
		switch {
		case !Extended(p.Type):
		case p.Number > 4:
			bad(p.Number, "is an extended partition inside another")
		case ext != nil:
			bad(p.Number, "is a second extended partition")
			fallthrough
		default:
			ext = p
		}
		for _, q := range t.Partitions[:i] {
			if p.overlaps(&q) {
				bad(p.Number, "overlaps partition %d", q.Number)
			}
		}
	}
	return errors.Join(append(errs, t.checkChain(ext)...)...)
}

// overlaps reports whether two partitions have sectors in common. Logical partitions are
// inside the extended one.
func (p *Partition) overlaps(q *Partition) bool {
	inside := p.Number > 4 && q.Number <= 4 && Extended(q.Type) || q.Number > 4 && p.Number <= 4 && Extended(p.Type)
	return !inside && p.Start < q.Start+q.Count && q.Start < p.Start+p.Count
}

func (t *Table) checkChain(ext *Partition) []error {
	var errs []error
	list := t.Logical()
	at := map[int64]int{}
	for i, p := range list {
		bad := func(format string, a ...any) {
			errs = append(errs, fmt.Errorf("partition %d: %s", p.Number, fmt.Sprintf(format, a...)))
		}
		if ext == nil || p.EBR < ext.Start || p.EBR >= ext.Start+ext.Count || p.Start <= p.EBR || p.Start+p.Count > ext.Start+ext.Count {
			bad("is not inside the extended partition")
			continue
		}
		if i > 0 && p.Number != list[i-1].Number+1 || i == 0 && p.Number != 5 {
			bad("numbers of logical partitions count from 5 without gaps")
		}
		if n, ok := at[p.EBR]; ok {
			bad("its record is at sector %d, where that of partition %d is", p.EBR, n)
		}
		at[p.EBR] = p.Number
		for _, q := range list {
			if p.EBR >= q.Start && p.EBR < q.Start+q.Count {
				bad("its record at sector %d is inside partition %d", p.EBR, q.Number)
			}
		}
	}
	return errs
}

// Write writes the table and its extended boot records; boot code is kept as
// it is on the disk. The caller has checked it with Check.
func (t *Table) Write(f interface {
	io.ReaderAt
	io.WriterAt
}, ss int64) error {
	b := make([]byte, 512)
	if _, err := f.ReadAt(b, 0); err != nil {
		return fmt.Errorf("cannot read MBR: %w", err)
	}
	binary.LittleEndian.PutUint32(b[440:], t.Signature)
	clear(b[444:])
	b[510], b[511] = 0x55, 0xAA
	var ext Partition
	for _, p := range t.Partitions {
		if p.Number > 4 {
			continue
		}
		put(b[446+16*(p.Number-1):], p, 0)
		if Extended(p.Type) {
			ext = p
		}
	}
	// The chain first: a table must not point to records that aren't there.
	logical := t.Logical()
	for i, p := range logical {
		e := make([]byte, 512)
		put(e[446:], p, p.EBR)
		if i+1 < len(logical) {
			n := logical[i+1]
			put(e[462:], Partition{Type: 0x05, Start: n.EBR, Count: n.Start + n.Count - n.EBR}, ext.Start)
		}
		e[510], e[511] = 0x55, 0xAA
		if _, err := f.WriteAt(e, p.EBR*ss); err != nil {
			return fmt.Errorf("cannot write extended boot record at sector %d: %w", p.EBR, err)
		}
	}
	if len(logical) == 0 && ext.Count > 0 {
		if _, err := f.WriteAt(make([]byte, 512), ext.Start*ss); err != nil {
			return fmt.Errorf("cannot clear extended boot record: %w", err)
		}
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		return fmt.Errorf("cannot write MBR: %w", err)
	}
	return nil
}

func put(e []byte, p Partition, base int64) {
	clear(e[:16])
	if p.Active {
		e[0] = 0x80
	}
	chs(e[1:4], p.Start)
	e[4] = p.Type
	chs(e[5:8], p.Start+p.Count-1)
	binary.LittleEndian.PutUint32(e[8:], uint32(p.Start-base))
	binary.LittleEndian.PutUint32(e[12:], uint32(p.Count))
}

// chs stores cylinder, head and sector for 255 heads and 63 sectors, or the
// highest value where it does not fit, as every partitioner does.
func chs(e []byte, lba int64) {
	c, h, s := lba/(255*63), lba/63%255, lba%63+1
	if c > 1023 {
		c, h, s = 1023, 254, 63
	}
	e[0], e[1], e[2] = byte(h), byte(s)|byte(c>>8<<6), byte(c)
}
