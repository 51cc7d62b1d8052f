package media

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Key is the layout of a bootable stick that holds backup sets:
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
type Key struct {
	ID    string // UUID
	Slots [2]KeyPart
	Data  KeyPart
}

// KeyPart is a place on the stick, in sectors of 512 bytes.
type KeyPart struct{ Start, Count int64 }

// Bytes is the part's size.
func (p KeyPart) Bytes() int64 { return p.Count * keySector }

// image and esp are the two parts of a slot.
func (p KeyPart) image() KeyPart { return KeyPart{p.Start, p.Count - keyESP} }
func (p KeyPart) esp() KeyPart   { return KeyPart{p.Start + p.Count - keyESP, keyESP} }

// Room is how large an image in a slot may be, in bytes.
func (k *Key) Room() int64 { return k.Slots[0].image().Bytes() }

const (
	keySector = 512
	keyAlign  = 8 << 20 / keySector // flash erases in blocks of some MiB
	keyMagic  = "MKCDREC KEY v1\x00\x00"
	// keyMin is the least that is left for backup sets.
	keyMin = 64 << 20
	// keyESP is the end of a slot that the EFI system partition gets, sectors.
	keyESP = 32 << 20 / keySector
	// Types of the table's entries.
	keySlotType, keyESPType, keyDataType = 0x17, 0xEF, 0x83
)

// ErrNoKey says that a disk is no key of ours.
var ErrNoKey = errors.New("it is no mkcdrec key")

// NewKey divides a stick of size bytes; slot is how large a rescue system may
// become, in bytes.
func NewKey(id string, size, slot int64) (*Key, error) {
	s := (slot/keySector + keyESP + keyAlign - 1) / keyAlign * keyAlign
	k := &Key{ID: id, Slots: [2]KeyPart{{keyAlign, s}, {keyAlign + s, s}}}
	k.Data.Start = keyAlign + 2*s
	// A GPT's copy may be at the end; an MBR can say 2^32-1 sectors.
	end := min((size-1<<20)/keySector/2048*2048, 1<<32-1)
	k.Data.Count = end - k.Data.Start
	if k.Data.Bytes() < keyMin {
		return nil, fmt.Errorf("cannot divide the stick: it has %d bytes; two rescue systems of at most %d bytes and at least %d for backup sets have no room there", size, slot, int64(keyMin))
	}
	return k, k.check()
}

func (k *Key) check() error {
	at := int64(2)
	for _, p := range []KeyPart{k.Slots[0], k.Slots[1], k.Data} {
		if p.Start < at || p.Count <= keyESP || p.Start+p.Count > 1<<33 {
			return errors.New("the key's header is damaged: its parts overlap")
		}
		at = p.Start + p.Count
	}
	if len(k.ID) != 36 {
		return errors.New("the key's header is damaged: it has no id")
	}
	return nil
}

// ReadKey reads the header of a stick; ErrNoKey if absent.
func ReadKey(r io.ReaderAt) (*Key, error) {
	b := make([]byte, keySector)
	if _, err := r.ReadAt(b, keySector); err != nil {
		return nil, fmt.Errorf("cannot read the key's header: %w", err)
	}
	if string(b[:16]) != keyMagic {
		return nil, ErrNoKey
	}
	le := binary.LittleEndian
	if le.Uint32(b[508:]) != crc32.ChecksumIEEE(b[:508]) {
		return nil, errors.New("the key's header is damaged: wrong checksum")
	}
	k := &Key{}
	for i, p := range []*KeyPart{&k.Slots[0], &k.Slots[1], &k.Data} {
		p.Start, p.Count = int64(le.Uint64(b[16+16*i:])&(1<<40-1)), int64(le.Uint64(b[24+16*i:])&(1<<40-1))
	}
	k.ID = strings.TrimRight(string(b[64:100]), "\x00")
	return k, k.check()
}

// Format writes an empty key: what was on the stick is lost. It has the data
// partition only; Activate adds the others.
func (k *Key) Format(f *os.File, size int64, loader *BIOSLoader) error {
	// Tables and file systems of before, at both ends, must not show through.
	for _, at := range []int64{0, max(0, size-1<<20)} {
		if _, err := f.WriteAt(make([]byte, min(1<<20, size-at)), at); err != nil {
			return fmt.Errorf("cannot clear the stick: %w", err)
		}
	}
	for _, p := range []KeyPart{k.Slots[0], k.Slots[1], k.Data} {
		if _, err := f.WriteAt(make([]byte, 1<<20), p.Start*keySector); err != nil {
			return fmt.Errorf("cannot clear the stick: %w", err)
		}
	}
	b := make([]byte, keySector)
	le := binary.LittleEndian
	copy(b, keyMagic)
	for i, p := range []KeyPart{k.Slots[0], k.Slots[1], k.Data} {
		le.PutUint64(b[16+16*i:], uint64(p.Start))
		le.PutUint64(b[24+16*i:], uint64(p.Count))
	}
	copy(b[64:100], k.ID)
	le.PutUint32(b[508:], crc32.ChecksumIEEE(b[:508]))
	if _, err := f.WriteAt(b, keySector); err != nil {
		return fmt.Errorf("cannot write the key's header: %w", err)
	}
	return k.table(f, loader, -1, 0)
}

// table writes the MBR: one sector, so that it is either the old or the new
// one.
func (k *Key) table(f *os.File, loader *BIOSLoader, slot int, espLen int64) error {
	m := make([]byte, keySector)
	if loader != nil {
		code, err := os.ReadFile(loader.DiskMBR)
		if err != nil {
			return fmt.Errorf("cannot write the key's first sector: %w", err)
		}
		if len(code) > 440 {
			return fmt.Errorf("cannot write the key's first sector: %s has %d bytes, more than 440", loader.DiskMBR, len(code))
		}
		copy(m, code)
	}
	le := binary.LittleEndian
	le.PutUint32(m[440:], crc32.ChecksumIEEE([]byte(k.ID))|1)
	put := func(n int, active bool, typ byte, start, count int64) {
		e := m[446+16*n:]
		if active {
			e[0] = 0x80
		}
		copy(e[1:], []byte{0xFE, 0xFF, 0xFF, typ, 0xFE, 0xFF, 0xFF})
		le.PutUint32(e[8:], uint32(start))
		le.PutUint32(e[12:], uint32(count))
	}
	if slot >= 0 {
		i := k.Slots[slot].image()
		put(0, true, keySlotType, i.Start, i.Count)
		if espLen > 0 {
			put(1, false, keyESPType, k.Slots[slot].esp().Start, espLen)
		}
	}
	put(2, false, keyDataType, k.Data.Start, k.Data.Count)
	m[510], m[511] = 0x55, 0xAA
	if err := writeAndCheck(f, m, 0); err != nil {
		return fmt.Errorf("cannot write the key's first sector: %w", err)
	}
	return nil
}

// writeAndCheck writes b and compares what the device then gives for it.
func writeAndCheck(f *os.File, b []byte, at int64) error {
	if _, err := f.WriteAt(b, at); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), forget(f)); err != nil {
		return err
	}
	back := make([]byte, len(b))
	if _, err := f.ReadAt(back, at); err != nil {
		return err
	}
	if !bytes.Equal(back, b) {
		return errors.New("it reads back differently: is the stick write-protected or worn out?")
	}
	return nil
}

// Active gives the slot that the stick starts from, -1 for none.
func (k *Key) Active(r io.ReaderAt) (int, error) {
	m := make([]byte, keySector)
	if _, err := r.ReadAt(m, 0); err != nil {
		return -1, fmt.Errorf("cannot read the key's first sector: %w", err)
	}
	e := m[446:]
	if e[0] != 0x80 || e[4] != keySlotType {
		return -1, nil
	}
	for i, s := range k.Slots {
		if int64(binary.LittleEndian.Uint32(e[8:])) == s.Start {
			return i, nil
		}
	}
	return -1, nil
}

// Put writes an image, made with ISO.InPartition, into a slot and reads it
// back. add counts bytes: the image's size twice.
func (k *Key) Put(ctx context.Context, f *os.File, slot int, iso string, add func(int64)) error {
	in, err := os.Open(iso)
	if err != nil {
		return fmt.Errorf("cannot write the rescue system to the stick: %w", err)
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	p := k.Slots[slot].image()
	if st.Size() > p.Bytes() {
		return fmt.Errorf("cannot write the rescue system to the stick: it has %d bytes, and the place for it %d", st.Size(), p.Bytes())
	}
	h := sha256.New()
	if err = copyAt(ctx, io.NewOffsetWriter(f, p.Start*keySector), io.TeeReader(in, h), add); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("cannot write the rescue system to the stick: %w", err)
	}
	if err := forget(f); err != nil {
		return err
	}
	back := sha256.New()
	if err := copyAt(ctx, back, io.NewSectionReader(f, p.Start*keySector, st.Size()), add); err != nil {
		return fmt.Errorf("cannot read the rescue system back from the stick: %w", err)
	}
	if a, b := h.Sum(nil), back.Sum(nil); !bytes.Equal(a, b) {
		return fmt.Errorf("the rescue system reads back from the stick differently (%s, written was %s): the stick is worn out or smaller than it says", hex.EncodeToString(b[:8]), hex.EncodeToString(a[:8]))
	}
	return k.putESP(f, slot, in)
}

// putESP copies an image's EFI system partition to the end of the slot.
func (k *Key) putESP(f *os.File, slot int, iso io.ReaderAt) error {
	at, n, err := espOf(iso)
	if err != nil || n == 0 {
		return err
	}
	if n > keyESP {
		return fmt.Errorf("cannot write the rescue system to the stick: its EFI system partition has %d sectors, more than %d", n, int64(keyESP))
	}
	b := make([]byte, n*keySector)
	if _, err := iso.ReadAt(b, at*keySector); err != nil {
		return fmt.Errorf("cannot read the image's EFI system partition: %w", err)
	}
	if err := writeAndCheck(f, b, k.Slots[slot].esp().Start*keySector); err != nil {
		return fmt.Errorf("cannot write the EFI system partition to the stick: %w", err)
	}
	return nil
}

func copyAt(ctx context.Context, w io.Writer, r io.Reader, add func(int64)) error {
	b := make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(r, b)
		if n > 0 {
			if _, err := w.Write(b[:n]); err != nil {
				return err
			}
			add(int64(n))
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// forget has the kernel forget what it has in memory of a block device, so
// that the next read comes from the device.
func forget(f *os.File) error {
	st, err := f.Stat()
	if err != nil || st.Mode()&os.ModeDevice == 0 {
		return err
	}
	if _, err := unix.IoctlRetInt(int(f.Fd()), unix.BLKFLSBUF); err != nil {
		return fmt.Errorf("cannot read %s again: %w", f.Name(), err)
	}
	return nil
}

// PartitionSector gives an image that ISO made the first sector that it has
// with InPartition, as far as its implanted sum is not asked for.
func PartitionSector(image string, loader *BIOSLoader) error {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = hybrid(f, loader.PartitionCode, 0, false)
	return err
}

// Activate makes the stick start from a slot, which holds an image.
func (k *Key) Activate(f *os.File, slot int, loader *BIOSLoader) error {
	p := k.Slots[slot].image()
	_, n, err := espOf(io.NewSectionReader(f, p.Start*keySector, p.Bytes()))
	if err != nil {
		return fmt.Errorf("cannot start the stick from slot %d: %w", slot, err)
	}
	return k.table(f, loader, slot, n)
}

// espOf finds the EFI system partition of an image through its boot catalog,
// in sectors of 512 bytes; none is a length of 0.
func espOf(iso io.ReaderAt) (at, count int64, err error) {
	cat, err := bootCatalog(iso)
	if err != nil {
		return 0, 0, err
	}
	le := binary.LittleEndian
	// The first entry is the default one, the next ones have section headers.
	if cat[1] == 0xEF {
		return int64(le.Uint32(cat[0x28:])) * 4, int64(le.Uint16(cat[0x26:])), nil
	}
	for o := 0x40; o+0x40 <= len(cat) && (cat[o] == 0x90 || cat[o] == 0x91); o += 0x40 {
		if cat[o+1] == 0xEF {
			return int64(le.Uint32(cat[o+0x28:])) * 4, int64(le.Uint16(cat[o+0x26:])), nil
		}
	}
	return 0, 0, nil
}
