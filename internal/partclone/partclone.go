// Package partclone reads images of partclone (https://partclone.org), versions 0002
// (partclone 0.3.0 and newer, 2016) and 0001 (older). An image has a header, a map of used
// blocks, and the content of these blocks in order, with a checksum after every so many of
// them. It is read from a stream, once, from the beginning to the end.
//
// partclone.dd does not write an image, but the bytes of the device: Open refuses those.
// partclone.imager writes an image of type "raw" in which all blocks are used. Images of
// partclone before 0.1.0 on 64-bit machines, whose checksums take 8 bytes, are not read;
// nor does partclone 0.3.47 read them.
//
// The data may be anything: sizes are checked before memory is taken, and what an image
// costs is bounded (see OpenLimit).
package partclone

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// ErrTrailing means that data follows the last block of an image. partclone ignores it;
// here it is an error, since it may mean that the map is not the image's.
var ErrTrailing = errors.New("data follows the last block")

// ErrNoImage means that the data does not begin as an image of partclone.
var ErrNoImage = errors.New("is not a partclone image")

var errDamaged = errors.New("data is damaged")

// Error has the place where an image is invalid.
type Error struct {
	// Offset is the position in the image (decompressed), in bytes: where the damaged part
	// begins, or where the stream ended.
	Offset int64
	// First and Last are the blocks of the device that are concerned; -1 when the header
	// or the map is.
	First, Last int64
	Err         error
}

func (e *Error) Error() string {
	if e.First < 0 {
		return fmt.Sprintf("cannot read partclone image: byte %d: %v", e.Offset, e.Err)
	}
	return fmt.Sprintf("cannot read partclone image: byte %d, blocks %d to %d: %v", e.Offset, e.First, e.Last, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Extent is a part of the device, in bytes.
type Extent struct{ Offset, Length int64 }

// DefaultLimit is the memory that Open lets a map take, in bytes: a file system of
// 32 TiB with blocks of 4 KiB, however fragmented. Parts of the map in which all blocks
// are used, or none, take no room.
const DefaultLimit = 1 << 30

// Sizes in which data is read, in bytes. The data that one checksum covers is held until
// the checksum was compared, up to maxStrip.
const (
	chunk    = 1 << 20
	maxStrip = 64 << 20
)

// Image is an image that is being read.
type Image struct {
	Header
	in     *progress.Reader
	blocks *blockMap
	sum    summer
	want   []byte // the checksum that was read
	got    []byte

	buf     []byte
	data    []byte // the bytes of buf that were not read yet
	per     int64  // blocks that buf takes
	strip   int64  // blocks since the last checksum
	read    int64  // used blocks that were read
	next    int64  // the block that data begins with
	stop    int64  // the end of its run of used blocks
	failure error
}

// Open reads the header and the map of an image. Errors are of type *Error. Memory is
// bounded by DefaultLimit for the map and 64 MiB (or one block, if that is larger) for
// the data.
func Open(r io.Reader) (*Image, error) { return OpenLimit(r, DefaultLimit) }

// OpenLimit is Open with another limit on the memory for the map, in bytes.
func OpenLimit(r io.Reader, limit int64) (*Image, error) {
	m := &Image{in: &progress.Reader{R: bufio.NewReaderSize(r, 256<<10)}}
	if err := m.open(limit); err != nil {
		return nil, m.fail(m.in.N, -1, -1, err)
	}
	return m, nil
}

func (m *Image) open(limit int64) error {
	b := make([]byte, sizeV2)
	if n, err := io.ReadFull(m.in, b); err != nil {
		if n < len(magic) || string(b[:len(magic)]) != magic {
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				return ErrNoImage
			}
		}
		return err
	}
	h, err := parse(b, m.more)
	if err != nil {
		return err
	}
	m.Header = *h
	if err := m.readMap(limit); err != nil {
		return err
	}
	switch {
	case m.blocks.used == h.UsedBlocks:
	case h.Version == 1: // partclone fixes it, too ("some super block record incorrect", src/main.c)
		m.UsedBlocks = m.blocks.used
	default:
		return fmt.Errorf("%d blocks are marked as used in the bitmap, %d in the header", m.blocks.used, h.UsedBlocks)
	}
	m.sum = newSummer(h.Checksum)
	m.got, m.want = make([]byte, 0, 16), make([]byte, h.Checksum.Size())
	m.per = max(1, chunk/h.BlockSize)
	if n := h.BlocksPerChecksum; n > 0 {
		m.per = max(1, min(n, maxStrip/h.BlockSize))
	}
	m.per = max(1, min(m.per, m.UsedBlocks))
	m.stop = m.blocks.find(0, true)
	m.next = m.stop
	return nil
}

func (m *Image) more(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(m.in, b)
	return b, err
}

func (m *Image) readMap(limit int64) (err error) {
	switch m.Header.Bitmap {
	case BitmapNone: // nor is there a CRC32
		m.blocks = full(m.Blocks)
	case BitmapByte:
		if m.blocks, err = readMap(m.in, m.Blocks, 1, limit, func([]byte) {}); err != nil {
			return err
		}
		b, err := m.more(len(bitMagic))
		if err == nil && string(b) != bitMagic {
			err = fmt.Errorf("%q follows the map of used blocks, not %q", b, bitMagic)
		}
		return err
	default:
		s := newSummer(CRC32)
		if m.blocks, err = readMap(m.in, m.Blocks, 8, limit, s.Write); err != nil {
			return err
		}
		b, err := m.more(4)
		if err == nil && string(s.Sum(nil)) != string(b) {
			err = fmt.Errorf("bitmap is damaged: its CRC32 is %x, not %x", s.Sum(nil), b)
		}
		return err
	}
	return nil
}

// Extents returns the used parts of the device in order, neighbours joined. It reads
// nothing, and may be called at any time.
func (m *Image) Extents() iter.Seq[Extent] {
	return func(yield func(Extent) bool) {
		for b := m.blocks.find(0, true); b < m.Blocks; {
			end := m.blocks.find(b, false)
			if !yield(Extent{b * m.BlockSize, (end - b) * m.BlockSize}) {
				return
			}
			b = m.blocks.find(end, true)
		}
	}
}

// Next returns the next piece of data and its place on the device, in bytes; pieces come in
// order and are in one extent each. data is valid until the next call. At the end of the
// image it is io.EOF: only then was the whole stream read and found correct.
//
// data was compared with its checksum before it is given, if the image has checksums
// and one of them covers at most 64 MiB. Of data that a checksum covers beyond that, it is
// the last piece that fails.
func (m *Image) Next() (offset int64, data []byte, err error) {
	if m.failure != nil {
		return 0, nil, m.failure
	}
	if len(m.data) == 0 {
		if m.failure = m.fill(); m.failure != nil {
			return 0, nil, m.failure
		}
	}
	if m.next == m.stop {
		m.next = m.blocks.find(m.stop, true)
		m.stop = m.blocks.find(m.next, false)
	}
	n := min(m.stop-m.next, int64(len(m.data))/m.BlockSize)
	offset, data = m.next*m.BlockSize, m.data[:n*m.BlockSize:n*m.BlockSize]
	m.data, m.next = m.data[len(data):], m.next+n
	return offset, data, nil
}

// fill reads the blocks up to the next checksum, or as many as there is room for.
func (m *Image) fill() error {
	left := m.UsedBlocks - m.read
	if left == 0 {
		return m.end()
	}
	n := min(m.per, left)
	if m.BlocksPerChecksum > 0 {
		n = min(n, m.BlocksPerChecksum-m.strip)
	}
	if m.buf == nil {
		m.buf = make([]byte, m.per*m.BlockSize)
	}
	at, data := m.in.N, m.buf[:n*m.BlockSize]
	if _, err := io.ReadFull(m.in, data); err != nil {
		first, last := m.span(n)
		return m.fail(m.in.N, first, last, err)
	}
	if m.BlocksPerChecksum > 0 {
		m.sum.Write(data)
		m.strip += n
		if m.strip == m.BlocksPerChecksum || n == left { // the last one may cover fewer blocks
			if err := m.compare(); err != nil {
				if !errors.Is(err, errDamaged) {
					at = m.in.N
				}
				first, last := m.span(n)
				return m.fail(at, first, last, err)
			}
		}
	}
	m.read += n
	m.data = data
	return nil
}

// compare reads a checksum and compares it.
func (m *Image) compare() error {
	if _, err := io.ReadFull(m.in, m.want); err != nil {
		return err
	}
	m.got = m.sum.Sum(m.got[:0])
	if string(m.got) != string(m.want) {
		return fmt.Errorf("%w: %s of %d blocks is %x, not %x", errDamaged, m.Checksum, m.strip, m.got, m.want)
	}
	m.strip = 0
	if m.Reseed {
		m.sum.Reset()
	}
	return nil
}

// end reads what is behind the last block: nothing, and that also makes a decompressor
// compare its own checksum.
func (m *Image) end() error {
	switch _, err := io.ReadFull(m.in, make([]byte, 1)); {
	case err == nil:
		return m.fail(m.in.N-1, -1, -1, ErrTrailing)
	case err != io.EOF:
		return m.fail(m.in.N, -1, -1, err)
	}
	return io.EOF
}

// span returns the first and the last of the next n used blocks.
func (m *Image) span(n int64) (first, last int64) {
	b, stop := m.next, m.stop
	for first = -1; n > 0; {
		if b == stop {
			b = m.blocks.find(stop, true)
			stop = m.blocks.find(b, false)
		}
		if first < 0 {
			first = b
		}
		k := min(n, stop-b)
		b, n = b+k, n-k
	}
	return first, b - 1
}

func (m *Image) fail(offset, first, last int64, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("image ends too early: %w", io.ErrUnexpectedEOF)
	}
	return &Error{offset, first, last, err}
}
