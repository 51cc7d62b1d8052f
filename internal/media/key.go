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

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/stick"
)

// Key is a bootable stick that holds backup sets.
type Key struct{ *stick.Header }

// Types of the table's entries.
const keySlotType, keyESPType, keyDataType = 0x17, 0xEF, 0x83

// Format writes an empty key: what was on the stick is lost. It has the data
// partition only; Activate adds the others.
func (k Key) Format(f *os.File, size int64, loader *BIOSLoader) error {
	// Tables and file systems of before, at both ends, must not show through.
	for _, at := range []int64{0, max(0, size-1<<20)} {
		if _, err := f.WriteAt(make([]byte, min(1<<20, size-at)), at); err != nil {
			return fmt.Errorf("cannot clear the stick: %w", err)
		}
	}
	for _, p := range []stick.Part{k.Slots[0], k.Slots[1], k.Data} {
		if _, err := f.WriteAt(make([]byte, 1<<20), p.Start*stick.Sector); err != nil {
			return fmt.Errorf("cannot clear the stick: %w", err)
		}
	}
	if _, err := f.WriteAt(k.Encode(), stick.Sector); err != nil {
		return fmt.Errorf("cannot write the key's header: %w", err)
	}
	return k.table(f, loader, -1, 0)
}

// table writes the MBR: one sector, so that it is either the old or the new
// one.
func (k Key) table(f *os.File, loader *BIOSLoader, slot int, espLen int64) error {
	m := make([]byte, stick.Sector)
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
		i := k.Slots[slot].Image()
		put(0, true, keySlotType, i.Start, i.Count)
		if espLen > 0 {
			put(1, false, keyESPType, k.Slots[slot].ESP().Start, espLen)
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
func (k Key) Active(r io.ReaderAt) (int, error) {
	m := make([]byte, stick.Sector)
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
func (k Key) Put(ctx context.Context, f *os.File, slot int, iso string, add func(int64)) error {
	in, err := os.Open(iso)
	if err != nil {
		return fmt.Errorf("cannot write the rescue system to the stick: %w", err)
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	p := k.Slots[slot].Image()
	if st.Size() > p.Bytes() {
		return fmt.Errorf("cannot write the rescue system to the stick: it has %d bytes, and the place for it %d", st.Size(), p.Bytes())
	}
	h := sha256.New()
	if err = copyAt(ctx, io.NewOffsetWriter(f, p.Start*stick.Sector), io.TeeReader(in, h), add); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("cannot write the rescue system to the stick: %w", err)
	}
	if err := forget(f); err != nil {
		return err
	}
	back := sha256.New()
	if err := copyAt(ctx, back, io.NewSectionReader(f, p.Start*stick.Sector, st.Size()), add); err != nil {
		return fmt.Errorf("cannot read the rescue system back from the stick: %w", err)
	}
	if a, b := h.Sum(nil), back.Sum(nil); !bytes.Equal(a, b) {
		return fmt.Errorf("the rescue system reads back from the stick differently (%s, written was %s): the stick is worn out or smaller than it reports", hex.EncodeToString(b[:8]), hex.EncodeToString(a[:8]))
	}
	return k.putESP(f, slot, in)
}

// putESP copies an image's EFI system partition to the end of the slot.
func (k Key) putESP(f *os.File, slot int, iso io.ReaderAt) error {
	at, n, err := espOf(iso)
	if err != nil || n == 0 {
		return err
	}
	if n > k.Slots[slot].ESP().Count {
		return fmt.Errorf("cannot write the rescue system to the stick: its EFI system partition has %d sectors, more than %d", n, k.Slots[slot].ESP().Count)
	}
	b := make([]byte, n*stick.Sector)
	if _, err := iso.ReadAt(b, at*stick.Sector); err != nil {
		return fmt.Errorf("cannot read the image's EFI system partition: %w", err)
	}
	if err := writeAndCheck(f, b, k.Slots[slot].ESP().Start*stick.Sector); err != nil {
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
func (k Key) Activate(f *os.File, slot int, loader *BIOSLoader) error {
	p := k.Slots[slot].Image()
	_, n, err := espOf(io.NewSectionReader(f, p.Start*stick.Sector, p.Bytes()))
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
