// Package gpt reads and writes GUID partition tables with any number of entries up to
// MaxEntries, which go-diskfs can't: it makes 128 alone. All places are in logical
// blocks (LBA) of the disk; UEFI specification 2.10, chapter 5.3, describes the bytes.
package gpt

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"unicode/utf16"
)

// Table is a GPT with everything that its header and entries hold.
type Table struct {
	GUID string // of the disk, upper case
	// Entries is how many entries the table has room for; 0 is 128 when writing, or
	// as many as there is room for before the first partition.
	Entries int
	// FirstUsable and LastUsable are the blocks that partitions may use. When
	// writing, 0 is the block behind the entries and the one before their copy.
	FirstUsable, LastUsable int64
	Partitions              []Partition // by number
	// FromCopy is set if the table was read from the copy at the end of the disk,
	// since the one at its beginning is damaged. Linux does not use it then.
	FromCopy bool
}

// Partition is a used entry.
type Partition struct {
	Number      int    // from 1
	Type, GUID  string // upper case
	First, Last int64  // blocks, inclusive
	Attributes  uint64
	Name        string // at most 36 UTF-16 units
	MBR         *InMBR // of a hybrid MBR; nil for a partition that the MBR does not have
}

// InMBR is the entry of a partition in a hybrid MBR, by which systems that do not know a GPT
// find it. Its start and size are those of the partition.
type InMBR struct {
	Slot   int // 0 to 3
	Type   byte
	Active bool
}

const (
	// Default is the number of entries that a table has unless its header has another one:
	// the 16 KiB that the specification demands at least.
	Default = 128
	// MaxEntries is the highest number of entries that is written and read.
	MaxEntries = 1024
	entrySize  = 128
	headerSize = 92
	nameUnits  = 36
	signature  = "EFI PART"
	revision   = 0x00010000
	protective = 0xEE // type of the entry in the MBR
	unused     = "00000000-0000-0000-0000-000000000000"
)

// ErrNone means that there is no GPT: the MBR has no entry of type 0xEE, or neither
// header is there.
var ErrNone = errors.New("no GPT")

// Protective reports whether a disk's first sector marks the disk as having a GPT, as
// Linux asks before it looks for one (is_pmbr_valid in block/partitions/efi.c): an
// entry of type 0xEE that begins at block 1.
func Protective(mbr []byte) bool {
	if len(mbr) < 512 || mbr[510] != 0x55 || mbr[511] != 0xAA {
		return false
	}
	for e := mbr[446:510]; len(e) > 0; e = e[16:] {
		if e[4] == protective && binary.LittleEndian.Uint32(e[8:]) == 1 {
			return true
		}
	}
	return false
}

// Read reads the table of a disk of size bytes with blocks of ss bytes. A damaged
// table is an error with what is wrong with it; one whose copy is whole is read from
// there, with FromCopy. Partitions are not checked: see Check.
func Read(r io.ReaderAt, ss, size int64) (*Table, error) {
	if ss < 512 || ss > 65536 || size < 3*ss {
		return nil, ErrNone
	}
	mbr := make([]byte, 512)
	if _, err := r.ReadAt(mbr, 0); err != nil {
		return nil, fmt.Errorf("cannot read GPT: %w", err)
	}
	if !Protective(mbr) {
		return nil, ErrNone
	}
	t, err := readAt(r, ss, 1, size/ss)
	if err == nil {
		t.readHybrid(mbr)
		return t, nil
	}
	if t, e := readAt(r, ss, size/ss-1, size/ss); e == nil {
		t.FromCopy = true
		t.readHybrid(mbr)
		return t, nil
	}
	return nil, err
}

// readAt reads the header at a block and its entries, and checks both sums.
func readAt(r io.ReaderAt, ss, lba, blocks int64) (*Table, error) {
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, lba*ss); err != nil {
		return nil, fmt.Errorf("cannot read GPT: %w", err)
	}
	le := binary.LittleEndian
	if string(b[:8]) != signature {
		return nil, ErrNone
	}
	n := le.Uint32(b[12:])
	if n < headerSize || n > 512 {
		return nil, fmt.Errorf("cannot read GPT: its header has %d bytes", n)
	}
	sum := le.Uint32(b[16:])
	h := slices.Clone(b[:n])
	clear(h[16:20])
	if crc32.ChecksumIEEE(h) != sum {
		return nil, errors.New("cannot read GPT: its header is damaged (wrong checksum)")
	}
	count, each, at := le.Uint32(b[80:]), le.Uint32(b[84:]), le.Uint64(b[72:])
	switch {
	case le.Uint64(b[24:]) != uint64(lba):
		return nil, fmt.Errorf("cannot read GPT: its header at block %d is for block %d", lba, le.Uint64(b[24:]))
	case each != entrySize:
		return nil, fmt.Errorf("cannot read GPT: entries of %d bytes are not supported", each)
	case count == 0 || count > MaxEntries:
		return nil, fmt.Errorf("cannot read GPT: it has %d entries; 1 to %d are supported", count, MaxEntries)
	case at < 2 || at >= uint64(blocks):
		return nil, fmt.Errorf("cannot read GPT: its entries are at block %d of %d", at, blocks)
	}
	t := &Table{GUID: guid(b[56:72]), Entries: int(count), FirstUsable: int64(le.Uint64(b[40:])), LastUsable: int64(le.Uint64(b[48:]))}
	e := make([]byte, count*entrySize)
	if _, err := r.ReadAt(e, int64(at)*ss); err != nil {
		return nil, fmt.Errorf("cannot read the entries of the GPT: %w", err)
	}
	if crc32.ChecksumIEEE(e) != le.Uint32(b[88:]) {
		return nil, errors.New("cannot read GPT: its entries are damaged (wrong checksum)")
	}
	for i := range int(count) {
		if p := parse(e[i*entrySize:]); p != nil {
			p.Number = i + 1
			t.Partitions = append(t.Partitions, *p)
		}
	}
	return t, nil
}

// parse reads an entry; nil for one that is not used.
func parse(b []byte) *Partition {
	le := binary.LittleEndian
	p := &Partition{Type: guid(b[:16]), GUID: guid(b[16:32]), First: int64(le.Uint64(b[32:])), Last: int64(le.Uint64(b[40:])), Attributes: le.Uint64(b[48:])}
	if p.Type == unused {
		return nil
	}
	var u []uint16
	for i := range nameUnits {
		c := le.Uint16(b[56+2*i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	p.Name = string(utf16.Decode(u))
	return p
}

// guid is the text of a GUID, whose first three numbers are little-endian.
func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08X-%04X-%04X-%04X-%012X", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

func putGUID(b []byte, text string) error {
	u, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(u) != 16 {
		return fmt.Errorf("%q is not a GUID", text)
	}
	u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7] = u[3], u[2], u[1], u[0], u[5], u[4], u[7], u[6]
	copy(b, u)
	return nil
}

// Overhead is how many blocks of ss bytes a table of that many entries, 0 for the
// default, takes at the end of a disk. At the beginning it is one more.
func Overhead(entries int, ss int64) int64 {
	if entries == 0 {
		entries = Default
	}
	return 1 + (int64(entries)*entrySize+ss-1)/ss
}

// whole is the table with its zero values replaced by what is written for them.
func (t *Table) whole(ss, size int64) Table {
	w := *t
	if w.Entries == 0 {
		w.Entries = Default
		first, highest := int64(1<<62), 1
		for _, p := range t.Partitions {
			first, highest = min(first, p.First), max(highest, p.Number)
		}
		w.Entries = max(w.Entries, highest)
		// A table that was made smaller, for a partition to begin sooner.
		if room := (first - 2) * ss / entrySize; room < int64(w.Entries) && room >= int64(highest) {
			w.Entries = int(room)
		}
	}
	if w.FirstUsable == 0 {
		w.FirstUsable = 1 + Overhead(w.Entries, ss)
	}
	if w.LastUsable == 0 {
		w.LastUsable = size/ss - 1 - Overhead(w.Entries, ss)
	}
	return w
}

// Check returns everything that keeps the table from being written on a disk of size
// bytes with blocks of ss bytes, joined.
func (t *Table) Check(ss, size int64) error {
	w := t.whole(ss, size)
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if w.Entries < 1 || w.Entries > MaxEntries {
		bad("%d entries; 1 to %d can be written", w.Entries, MaxEntries)
		return errors.Join(errs...)
	}
	if least := 1 + Overhead(w.Entries, ss); w.FirstUsable < least {
		bad("the first usable block %d is inside the table, which ends at block %d", w.FirstUsable, least-1)
	}
	if most := size/ss - 1 - Overhead(w.Entries, ss); w.LastUsable > most {
		bad("the last usable block %d is inside the copy of the table, which begins behind block %d", w.LastUsable, most)
	}
	if err := putGUID(make([]byte, 16), t.GUID); err != nil {
		bad("the disk's %w", err)
	}
	by := slices.Clone(t.Partitions)
	slices.SortStableFunc(by, func(a, b Partition) int {
		if a.First != b.First {
			return int(max(min(a.First-b.First, 1), -1))
		}
		return a.Number - b.Number
	})
	seen := map[int]bool{}
	for i, p := range by {
		if err := p.check(w); err != nil {
			bad("partition %d: %w", p.Number, err)
		}
		if seen[p.Number] {
			bad("partition %d: its number is used twice", p.Number)
		}
		seen[p.Number] = true
		if i > 0 && p.First <= by[i-1].Last {
			bad("partition %d: it overlaps partition %d", p.Number, by[i-1].Number)
		}
	}
	return errors.Join(errs...)
}

func (p *Partition) check(t Table) error {
	b := make([]byte, entrySize)
	var errs []error
	if p.Number < 1 || p.Number > t.Entries {
		errs = append(errs, fmt.Errorf("the table has numbers 1 to %d", t.Entries))
	}
	if p.First > p.Last || p.First < t.FirstUsable || p.Last > t.LastUsable {
		errs = append(errs, fmt.Errorf("blocks %d to %d are not within %d to %d", p.First, p.Last, t.FirstUsable, t.LastUsable))
	}
	if p.Type == unused {
		errs = append(errs, errors.New("it has no type"))
	}
	return errors.Join(append(errs, p.put(b))...)
}

func (p *Partition) put(b []byte) error {
	le := binary.LittleEndian
	u := utf16.Encode([]rune(p.Name))
	if len(u) > nameUnits {
		return fmt.Errorf("its name has %d characters, and %d can be stored", len(u), nameUnits)
	}
	for i, c := range u {
		le.PutUint16(b[56+2*i:], c)
	}
	le.PutUint64(b[32:], uint64(p.First))
	le.PutUint64(b[40:], uint64(p.Last))
	le.PutUint64(b[48:], p.Attributes)
	return errors.Join(putGUID(b, p.Type), putGUID(b[16:], p.GUID))
}

// Write writes the table, its copy at the end of the disk and a protective MBR, whose
// boot code stays as it is. It checks the table before. The header comes after the
// entries, the copy before both: a table that was half written is never valid.
func (t *Table) Write(f interface {
	io.ReaderAt
	io.WriterAt
}, ss, size int64) error {
	if err := t.Check(ss, size); err != nil {
		return fmt.Errorf("cannot write GPT: %w", err)
	}
	w := t.whole(ss, size)
	entries := make([]byte, int64(w.Entries)*entrySize)
	for _, p := range w.Partitions {
		if err := p.put(entries[(p.Number-1)*entrySize:]); err != nil {
			return fmt.Errorf("cannot write GPT: %w", err)
		}
	}
	mbr := make([]byte, 512)
	if _, err := f.ReadAt(mbr, 0); err != nil {
		return fmt.Errorf("cannot read MBR: %w", err)
	}
	last := size/ss - 1
	w.putMBR(mbr, last)
	padded := make([]byte, (Overhead(w.Entries, ss)-1)*ss)
	copy(padded, entries)
	sum := crc32.ChecksumIEEE(entries)
	for _, part := range []struct {
		at int64
		b  []byte
	}{
		{last - int64(len(padded))/ss, padded},
		{last, w.header(ss, last, 1, last-int64(len(padded))/ss, sum)},
		{2, padded},
		{1, w.header(ss, 1, last, 2, sum)},
		{0, mbr},
	} {
		if _, err := f.WriteAt(part.b, part.at*ss); err != nil {
			return fmt.Errorf("cannot write GPT at block %d: %w", part.at, err)
		}
	}
	return nil
}

// header is one at block at, whose copy is at other, for entries with that sum.
func (t *Table) header(ss, at, other, entries int64, sum uint32) []byte {
	b := make([]byte, ss)
	le := binary.LittleEndian
	copy(b, signature)
	le.PutUint32(b[8:], revision)
	le.PutUint32(b[12:], headerSize)
	le.PutUint64(b[24:], uint64(at))
	le.PutUint64(b[32:], uint64(other))
	le.PutUint64(b[40:], uint64(t.FirstUsable))
	le.PutUint64(b[48:], uint64(t.LastUsable))
	_ = putGUID(b[56:], t.GUID) // Check has tried it
	le.PutUint64(b[72:], uint64(entries))
	le.PutUint32(b[80:], uint32(t.Entries))
	le.PutUint32(b[84:], entrySize)
	le.PutUint32(b[88:], sum)
	le.PutUint32(b[16:], crc32.ChecksumIEEE(b[:headerSize]))
	return b
}

// readHybrid finds the partitions that the MBR has, too.
func (t *Table) readHybrid(mbr []byte) {
	for slot := range 4 {
		e := mbr[446+16*slot:]
		if e[4] == 0 || e[4] == protective {
			continue
		}
		first, n := int64(binary.LittleEndian.Uint32(e[8:])), int64(binary.LittleEndian.Uint32(e[12:]))
		i := slices.IndexFunc(t.Partitions, func(p Partition) bool { return p.First == first && p.Last == first+n-1 && p.MBR == nil })
		if i < 0 {
			continue
		}
		t.Partitions[i].MBR = &InMBR{Slot: slot, Type: e[4], Active: e[0] == 0x80}
	}
}

// putMBR puts one entry for the whole disk into an MBR (UEFI 2.10, section 5.2.3), and beside
// it those of a hybrid MBR; the entry for the disk then ends before the first of them, as
// gdisk(8) has it. A partition that an MBR cannot name is left out.
func (t *Table) putMBR(mbr []byte, last int64) {
	clear(mbr[440:510])
	mbr[510], mbr[511] = 0x55, 0xAA
	le := binary.LittleEndian
	taken := [4]bool{}
	for _, p := range t.Partitions {
		if p.MBR == nil || p.MBR.Slot < 0 || p.MBR.Slot > 3 || taken[p.MBR.Slot] || p.Last > 0xFFFFFFFF {
			continue
		}
		taken[p.MBR.Slot] = true
		e := mbr[446+16*p.MBR.Slot:]
		copy(e, []byte{0, 0xFE, 0xFF, 0xFF, p.MBR.Type, 0xFE, 0xFF, 0xFF}) // no cylinders
		if p.MBR.Active {
			e[0] = 0x80
		}
		le.PutUint32(e[8:], uint32(p.First))
		le.PutUint32(e[12:], uint32(p.Last-p.First+1))
		last = min(last, p.First-1)
	}
	slot := slices.Index(taken[:], false)
	if slot < 0 {
		slot = 3 // without an entry for the disk there is no GPT
	}
	e := mbr[446+16*slot:]
	clear(e[:16])
	copy(e, []byte{0, 0x00, 0x02, 0x00, protective, 0xFF, 0xFF, 0xFF})
	le.PutUint32(e[8:], 1)
	le.PutUint32(e[12:], uint32(min(last, 0xFFFFFFFF)))
}
