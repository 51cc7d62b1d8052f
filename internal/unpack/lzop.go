package unpack

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/adler32"
	"hash/crc32"
	"io"

	"github.com/anchore/go-lzo"
)

// lzopMagic begins a file of lzop.
const lzopMagic = "\x89LZO\x00\r\n\x1a\n"

// Flags of a file of lzop, of its source's conf.h.
const (
	lzopAdlerData    = 0x0001 // each block has the sum of what was packed,
	lzopAdlerPacked  = 0x0002 // or that of the packed bytes
	lzopExtra        = 0x0040 // a further field follows the header
	lzopCRCData      = 0x0100
	lzopCRCPacked    = 0x0200
	lzopFilter       = 0x0800
	lzopHeaderCRC    = 0x1000
	lzopMaxBlock     = 64 << 20 // bytes, unpacked
	lzopLevelVersion = 0x0940   // from which on the header has a level
)

// LZOP decompresses a file of lzop(1), and further ones behind it. Every sum that it has is
// checked.
func LZOP(r io.Reader) (io.Reader, error) {
	l := &lzopReader{r: bufio.NewReader(r)}
	return l, l.header()
}

type lzopReader struct {
	r      *bufio.Reader
	flags  uint32
	packed []byte
	block  []byte
	rest   []byte // of block
	err    error
}

// Read implements io.Reader.
func (l *lzopReader) Read(p []byte) (int, error) {
	for len(l.rest) == 0 && l.err == nil {
		l.err = l.next()
	}
	if len(l.rest) == 0 {
		return 0, l.err
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

// header reads the header of a file. io.EOF is that nothing follows.
func (l *lzopReader) header() error {
	magic := make([]byte, len(lzopMagic))
	if n, err := io.ReadFull(l.r, magic); err == io.EOF && n == 0 {
		return io.EOF
	} else if err != nil || string(magic) != lzopMagic {
		return errors.New("not a file of lzop")
	}
	var head bytes.Buffer // what its sum is of
	in := io.TeeReader(l.r, &head)
	var v struct{ Version, Library uint16 }
	if err := binary.Read(in, binary.BigEndian, &v); err != nil {
		return cutOff(err)
	}
	fields := []any{new(byte), &l.flags} // the method
	if v.Version >= lzopLevelVersion {
		fields = []any{new(uint16), new(byte), new(byte), &l.flags} // version to extract, method, level
	}
	for _, f := range fields {
		if err := binary.Read(in, binary.BigEndian, f); err != nil {
			return cutOff(err)
		}
	}
	if l.flags&lzopFilter != 0 {
		return errors.New("lzop's filters are not supported")
	}
	skip := 4 + 4 // mode and time
	if v.Version >= lzopLevelVersion {
		skip += 4 // the time's upper half
	}
	if _, err := io.CopyN(io.Discard, in, int64(skip)); err != nil {
		return cutOff(err)
	}
	var name byte
	if err := binary.Read(in, binary.BigEndian, &name); err != nil {
		return cutOff(err)
	}
	if _, err := io.CopyN(io.Discard, in, int64(name)); err != nil {
		return cutOff(err)
	}
	if err := l.sum(head.Bytes(), l.flags&lzopHeaderCRC != 0, "the header"); err != nil {
		return err
	}
	if l.flags&lzopExtra == 0 {
		return nil
	}
	n, err := l.number()
	if err == nil {
		_, err = io.CopyN(io.Discard, l.r, int64(n)+4) // and its sum
	}
	return cutOff(err)
}

// next unpacks the next block.
func (l *lzopReader) next() error {
	size, err := l.number()
	if err != nil {
		return err
	}
	if size == 0 {
		return l.header()
	}
	packed, err := l.number()
	if err != nil {
		return err
	}
	if size > lzopMaxBlock || packed > size {
		return fmt.Errorf("damaged: a block of %d bytes has %d packed", size, packed)
	}
	var sums [4]uint32 // in the order of the flags below
	flags := [4]uint32{lzopAdlerData, lzopCRCData, lzopAdlerPacked, lzopCRCPacked}
	for i, f := range flags {
		if l.flags&f != 0 && (i < 2 || packed < size) {
			if sums[i], err = l.number(); err != nil {
				return err
			}
		}
	}
	if err := l.unpack(size, packed); err != nil {
		return err
	}
	for i, f := range flags {
		of := l.block
		if i > 1 {
			of = l.packed
		}
		if l.flags&f != 0 && (i < 2 || packed < size) && checksum(of, i%2 == 1) != sums[i] {
			return errors.New("damaged: the checksum of a block is wrong")
		}
	}
	l.rest = l.block
	return nil
}

// unpack reads a block, whose bytes are not packed where that would not be shorter.
func (l *lzopReader) unpack(size, packed uint32) error {
	l.packed = grown(l.packed, packed)
	if _, err := io.ReadFull(l.r, l.packed); err != nil {
		return cutOff(err)
	}
	if packed == size {
		l.packed, l.block = l.block, l.packed
		return nil
	}
	l.block = grown(l.block, size)
	n, err := lzo.Decompress(l.packed, l.block)
	if err == nil && n != int(size) {
		err = fmt.Errorf("a block has %d bytes, not %d", n, size)
	}
	if err != nil {
		return fmt.Errorf("damaged: %w", err)
	}
	return nil
}

// sum reads a checksum and compares it with that of b.
func (l *lzopReader) sum(b []byte, crc bool, of string) error {
	want, err := l.number()
	if err == nil && checksum(b, crc) != want {
		err = fmt.Errorf("damaged: the checksum of %s is wrong", of)
	}
	return err
}

func (l *lzopReader) number() (n uint32, err error) {
	err = binary.Read(l.r, binary.BigEndian, &n)
	return n, cutOff(err)
}

func checksum(b []byte, crc bool) uint32 {
	var h hash.Hash32 = adler32.New()
	if crc {
		h = crc32.NewIEEE()
	}
	h.Write(b)
	return h.Sum32()
}

// grown gives a slice of n bytes, b where it is large enough.
func grown(b []byte, n uint32) []byte {
	if uint32(cap(b)) >= n {
		return b[:n]
	}
	return make([]byte, n)
}

// cutOff makes the end of a file an error where more has to follow.
func cutOff(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
