// Package stick is the header of a bootable stick that holds backup sets: media writes
// such sticks, and probe leaves them out of a machine's layout.
package stick

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
)

// Header is the layout of a bootable stick that holds backup sets:
//
//	sector 0   MBR: syslinux' code, and the table below
//	sector 1   header: magic, three extents, id, CRC-32; written once
//	8 MiB      slot 0: an ISO image with the code of a partition's first sector;
//	           in the slot's last 32 MiB its EFI system partition once more
//	...        slot 1, likewise
//	...        data, a Linux file system whose UUID is the key's id
//
// The table names one slot, the active one: entry 1 is its image (bootable,
// type 17h, which other systems leave alone), entry 2 its EFI system partition
// (firmware refuses a table whose partitions overlap, hence the copy), entry 3
// the data. A new rescue system is written into the other slot, and becomes
// active by the writing of one sector.
type Header struct {
	ID    string // UUID
	Slots [2]Part
	Data  Part
}

// Part is a place on the stick, in sectors of 512 bytes.
type Part struct{ Start, Count int64 }

// Bytes is the part's size.
func (p Part) Bytes() int64 { return p.Count * Sector }

// Image is the part of a slot that the image gets.
func (p Part) Image() Part { return Part{p.Start, p.Count - espSize} }

// ESP is the part of a slot that its EFI system partition gets.
func (p Part) ESP() Part { return Part{p.Start + p.Count - espSize, espSize} }

// Room is how large an image in a slot may be, in bytes.
func (k *Header) Room() int64 { return k.Slots[0].Image().Bytes() }

// Sizes, in bytes and in sectors.
const (
	Sector = 512
	align  = 8 << 20 / Sector // flash erases in blocks of some MiB
	magic  = "MKCDREC KEY v1\x00\x00"
	// least is the room for backup sets, at least.
	least = 64 << 20
	// espSize is the end of a slot that the EFI system partition gets, sectors.
	espSize = 32 << 20 / Sector
)

// ErrNone means that a disk is not a key of ours.
var ErrNone = errors.New("it is not a mkcdrec key")

// New divides a stick of size bytes; slot is how large a rescue system may
// become, in bytes.
func New(id string, size, slot int64) (*Header, error) {
	s := (slot/Sector + espSize + align - 1) / align * align
	k := &Header{ID: id, Slots: [2]Part{{align, s}, {align + s, s}}}
	k.Data.Start = align + 2*s
	// A GPT's copy may be at the end; an MBR can say 2^32-1 sectors.
	end := min((size-1<<20)/Sector/2048*2048, 1<<32-1)
	k.Data.Count = end - k.Data.Start
	if k.Data.Bytes() < least {
		return nil, fmt.Errorf("cannot divide the stick: it has %d bytes; two rescue systems of at most %d bytes and at least %d for backup sets have no room there", size, slot, int64(least))
	}
	return k, k.check()
}

func (k *Header) check() error {
	at := int64(2)
	for _, p := range []Part{k.Slots[0], k.Slots[1], k.Data} {
		if p.Start < at || p.Count <= espSize || p.Start+p.Count > 1<<33 {
			return errors.New("the key's header is damaged: its parts overlap")
		}
		at = p.Start + p.Count
	}
	if len(k.ID) != 36 {
		return errors.New("the key's header is damaged: it has no id")
	}
	return nil
}

// Read reads the header of a stick; ErrNone if absent.
func Read(r io.ReaderAt) (*Header, error) {
	b := make([]byte, Sector)
	if _, err := r.ReadAt(b, Sector); err != nil {
		return nil, fmt.Errorf("cannot read the key's header: %w", err)
	}
	if string(b[:16]) != magic {
		return nil, ErrNone
	}
	le := binary.LittleEndian
	if le.Uint32(b[508:]) != crc32.ChecksumIEEE(b[:508]) {
		return nil, errors.New("the key's header is damaged: wrong checksum")
	}
	k := &Header{}
	for i, p := range []*Part{&k.Slots[0], &k.Slots[1], &k.Data} {
		p.Start, p.Count = int64(le.Uint64(b[16+16*i:])&(1<<40-1)), int64(le.Uint64(b[24+16*i:])&(1<<40-1))
	}
	k.ID = strings.TrimRight(string(b[64:100]), "\x00")
	return k, k.check()
}

// Encode gives the sector that Read reads.
func (k *Header) Encode() []byte {
	b := make([]byte, Sector)
	le := binary.LittleEndian
	copy(b, magic)
	for i, p := range []Part{k.Slots[0], k.Slots[1], k.Data} {
		le.PutUint64(b[16+16*i:], uint64(p.Start))
		le.PutUint64(b[24+16*i:], uint64(p.Count))
	}
	copy(b[64:100], k.ID)
	le.PutUint32(b[508:], crc32.ChecksumIEEE(b[:508]))
	return b
}
