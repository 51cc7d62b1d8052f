// Package volume cuts a stream into volumes, pieces of a medium's size, and
// pastes them back. A volume is a file of zstd frames and nothing else, so
// that zstd(1) and cat(1) are enough to read a series of them by hand:
//
//	cat NAME.* | zstd -dc
//
// What the volumes say of themselves is in skippable frames (RFC 8878
// 3.1.2), which every zstd passes over:
//
//	volume  = header { chunk } end
//	chunk   = frames of the stream, check
//
// Numbers are little-endian. A stream that is zstd already goes in as it is, in
// whole frames, so each volume decodes alone. Any other stream is stored: cut
// at any byte and wrapped in zstd frames of raw blocks. docs/FORMAT.md has the
// bytes.
package volume

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

const (
	skippable = 0x184D2A5B // one of the 16 magics of skippable frames
	zstdMagic = 0xFD2FB528
	tagLen    = 12
	version   = 1

	// ChunkSize is about how many bytes of the stream one check covers.
	ChunkSize = 4 << 20
	// maxChunk is the longest chunk: its length has 32 bits in the end frame. It
	// bounds what a reader keeps in memory.
	maxChunk = 1<<32 - 1
	// MaxFrame is the largest zstd frame that is taken whole, in bytes: the table of
	// contents of an archive is one, and has the same limit (internal/archive).
	MaxFrame = maxChunk - ChunkSize
	// MaxName is the longest name of a stream, in bytes.
	MaxName = 200
	// MaxChunks is how many chunks a volume has at most, 32 TiB of the stream: a
	// writer begins another volume then, and a reader takes no longer list.
	MaxChunks = 8 << 20
	// maxCreated is the latest time of a run, in seconds since 1970.
	maxCreated = 1 << 40
)

// The frames' tags.
var (
	tagHeader = []byte("mkcdrec-vol\x00")
	tagCheck  = []byte("mkcdrec-chk\x00")
	tagEnd    = []byte("mkcdrec-end\x00")
	tagPad    = []byte("mkcdrec-pad\x00")
)

// Pad gives a frame that fills n bytes, for media that are written in blocks;
// n is at least MinPad. Readers pass over it.
func Pad(n int) []byte {
	b := frame(tagPad, n-MinPad)
	return append(b, make([]byte, n-MinPad)...)
}

// MinPad is the length of the shortest padding, in bytes.
const MinPad = 8 + tagLen

// Digest chains volumes: SHA-256 over a volume's header and the digests of its
// chunks.
type Digest [sha256.Size]byte

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// ID distinguishes one run from all others.
type ID [16]byte

func (i ID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", i[:4], i[4:6], i[6:8], i[8:10], i[10:])
}

// ParseID reads a UUID.
func ParseID(s string) (ID, error) {
	var id ID
	b, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(s), []byte("-"), nil)))
	if err != nil || len(b) != len(id) || len(s) != 36 {
		return id, fmt.Errorf("%q is not a UUID", s)
	}
	copy(id[:], b)
	return id, nil
}

// Header is the first frame of a volume.
type Header struct {
	ID       ID        // of the run
	Name     string    // of the stream
	Created  time.Time // of the run, seconds
	Stored   bool      // the stream was not zstd, and is wrapped
	Number   int       // from 1
	Offset   int64     // bytes of the stream in the volumes before
	Previous Digest    // of the volume before; zero for the first
}

// String names a volume for people.
func (h Header) String() string {
	return fmt.Sprintf("volume %d of %s, made %s (%s)", h.Number, h.Name, h.Created.UTC().Format("2006-01-02 15:04:05"), h.ID)
}

const headerFixed = 8 + tagLen + 2 + 2 + 16 + 8 + 4 + 8 + sha256.Size + 1

// Len is the length of the header's frame, in bytes.
func (h Header) Len() int64 { return int64(headerFixed + len(h.Name)) }

func (h Header) encode() []byte {
	b := frame(tagHeader, headerFixed-8-tagLen+len(h.Name))
	le := binary.LittleEndian
	b = le.AppendUint16(b, version)
	flags := uint16(0)
	if h.Stored {
		flags = 1
	}
	b = le.AppendUint16(b, flags)
	b = append(b, h.ID[:]...)
	b = le.AppendUint64(b, uint64(h.Created.Unix()))
	b = le.AppendUint32(b, uint32(h.Number))
	b = le.AppendUint64(b, uint64(h.Offset))
	b = append(b, h.Previous[:]...)
	b = append(b, byte(len(h.Name)))
	return append(b, h.Name...)
}

// frame starts a skippable frame with a tag and n more bytes.
func frame(tag []byte, n int) []byte {
	b := make([]byte, 0, 8+tagLen+n)
	b = binary.LittleEndian.AppendUint32(b, skippable)
	b = binary.LittleEndian.AppendUint32(b, uint32(tagLen+n))
	return append(b, tag...)
}

// check returns an error for a header that ReadHeader would refuse.
func (h Header) check() error {
	switch created := h.Created.Unix(); {
	case len(h.Name) > MaxName:
		return fmt.Errorf("the name has %d bytes, more than %d", len(h.Name), MaxName)
	case h.Number < 1 || int64(h.Number) > math.MaxUint32:
		return fmt.Errorf("volumes have numbers from 1 to %d, not %d", uint32(math.MaxUint32), h.Number)
	case created < 0 || created > maxCreated:
		return fmt.Errorf("the time %v is before 1970, or too late", h.Created)
	case h.Offset < 0:
		return fmt.Errorf("an offset of %d bytes", h.Offset)
	}
	return nil
}

// ErrNoVolume means that something is not a volume at all.
var ErrNoVolume = errors.New("it is not a volume of mkcdrec")

// ReadHeader reads a volume's first frame.
func ReadHeader(r io.Reader) (Header, []byte, error) {
	var h Header
	b := make([]byte, headerFixed)
	if _, err := io.ReadFull(r, b); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = ErrNoVolume
		}
		return h, nil, err
	}
	le := binary.LittleEndian
	if le.Uint32(b) != skippable || !bytes.Equal(b[8:8+tagLen], tagHeader) {
		return h, nil, ErrNoVolume
	}
	n := int(b[headerFixed-1])
	if int(le.Uint32(b[4:])) != headerFixed-8+n || n > MaxName {
		return h, nil, errors.New("its header is damaged")
	}
	b = append(b, make([]byte, n)...)
	if _, err := io.ReadFull(r, b[headerFixed:]); err != nil {
		return h, nil, errors.New("its header is cut off")
	}
	p := b[8+tagLen:]
	if v := le.Uint16(p); v != version {
		return h, nil, fmt.Errorf("it has version %d; this program knows %d", v, version)
	}
	flags := le.Uint16(p[2:])
	if flags > 1 {
		return h, nil, fmt.Errorf("it has unknown flags %#x", flags)
	}
	h.Stored = flags == 1
	copy(h.ID[:], p[4:])
	created, off := int64(le.Uint64(p[20:])), int64(le.Uint64(p[32:]))
	h.Number = int(le.Uint32(p[28:]))
	h.Created, h.Offset = time.Unix(created, 0).UTC(), off
	if h.check() != nil {
		return h, nil, errors.New("its header is damaged")
	}
	copy(h.Previous[:], p[40:])
	h.Name = string(b[headerFixed:])
	return h, b, nil
}

// checkLen is the length of the frame behind each chunk.
const checkLen = 8 + tagLen + 4 + 8 + sha256.Size

func encodeCheck(index int, n int64, sum Digest) []byte {
	b := frame(tagCheck, checkLen-8-tagLen)
	b = binary.LittleEndian.AppendUint32(b, uint32(index))
	b = binary.LittleEndian.AppendUint64(b, uint64(n))
	return append(b, sum[:]...)
}

// End is the last frame of a volume.
type End struct {
	Last   bool   // of the stream
	Size   int64  // bytes of the stream in this volume
	Digest Digest // of this volume
	// Chunks are the lengths of the chunks as they lie in the volume, without
	// their checks, in bytes; Streams the bytes of the stream in each.
	Chunks  []int64
	Streams []int64
}

const endFixed = 8 + tagLen + 2 + 4 + 8 + sha256.Size + 4 + tagLen

// endLen is the length of the last frame of a volume with so many chunks. Its
// own length comes once more before the tag at its end, so that it can be
// found from there.
func endLen(chunks int) int64 { return int64(endFixed + 8*chunks) }

func (e End) encode() []byte {
	b := frame(tagEnd, int(endLen(len(e.Chunks)))-8-tagLen)
	le := binary.LittleEndian
	flags := uint16(0)
	if e.Last {
		flags = 1
	}
	b = le.AppendUint16(b, flags)
	b = le.AppendUint32(b, uint32(len(e.Chunks)))
	b = le.AppendUint64(b, uint64(e.Size))
	b = append(b, e.Digest[:]...)
	for i := range e.Chunks {
		b = le.AppendUint32(b, uint32(e.Chunks[i]))
		b = le.AppendUint32(b, uint32(e.Streams[i]))
	}
	b = le.AppendUint32(b, uint32(endLen(len(e.Chunks))))
	return append(b, tagEnd...)
}

// parseEnd reads the payload of an end frame behind its tag.
func parseEnd(p []byte) (End, error) {
	var e End
	le := binary.LittleEndian
	bad := errors.New("its last frame is damaged")
	if len(p) < endFixed-8-tagLen || le.Uint16(p) > 1 {
		return e, bad
	}
	n := int64(le.Uint32(p[2:]))
	if n > MaxChunks {
		return e, fmt.Errorf("its last frame lists %d chunks, more than %d", n, MaxChunks)
	}
	if int64(len(p)) != endLen(0)-8-tagLen+8*n || int64(le.Uint32(p[len(p)-4-tagLen:])) != endLen(int(n)) || !bytes.Equal(p[len(p)-tagLen:], tagEnd) {
		return e, bad
	}
	e.Last, e.Size = le.Uint16(p) == 1, int64(le.Uint64(p[6:]))
	copy(e.Digest[:], p[14:])
	e.Chunks, e.Streams = make([]int64, 0, n), make([]int64, 0, n)
	sum := int64(0)
	for i := range n {
		c := p[14+sha256.Size+8*i:]
		e.Chunks = append(e.Chunks, int64(le.Uint32(c)))
		e.Streams = append(e.Streams, int64(le.Uint32(c[4:])))
		sum += e.Streams[i]
	}
	if sum != e.Size {
		return e, bad
	}
	return e, nil
}

// ReadEnd reads the last frame of a volume of size bytes.
func ReadEnd(r io.ReaderAt, size int64) (End, error) {
	t := make([]byte, 4+tagLen)
	cut := errors.New("it is cut off: its last frame is missing")
	if size < headerFixed+endFixed {
		return End{}, cut
	}
	if _, err := r.ReadAt(t, size-int64(len(t))); err != nil {
		return End{}, err
	}
	n := int64(binary.LittleEndian.Uint32(t))
	if !bytes.Equal(t[4:], tagEnd) || n < endFixed || n > size || n > endLen(MaxChunks) {
		return End{}, cut
	}
	b := make([]byte, n)
	if _, err := r.ReadAt(b, size-n); err != nil {
		return End{}, err
	}
	if binary.LittleEndian.Uint32(b) != skippable || int64(binary.LittleEndian.Uint32(b[4:])) != n-8 || !bytes.Equal(b[8:8+tagLen], tagEnd) {
		return End{}, errors.New("its last frame is damaged")
	}
	return parseEnd(b[8+tagLen:])
}

// The zstd frame that a stored piece is wrapped in: a single segment with the
// content's size in 4 bytes, raw blocks of at most 128 KiB (RFC 8878 3.1.1).
const (
	storedHead  = 4 + 1 + 4
	storedBlock = 128 << 10
)

// storedLen is the length of n stored bytes as they lie in a volume.
func storedLen(n int64) int64 {
	if n == 0 {
		return 0
	}
	return storedHead + 3*((n+storedBlock-1)/storedBlock) + n
}

// storedFit is how many bytes can be stored in room bytes.
func storedFit(room int64) int64 {
	room -= storedHead
	if room <= 3 {
		return 0
	}
	n := room / (storedBlock + 3) * storedBlock
	if r := room % (storedBlock + 3); r > 3 {
		n += r - 3
	}
	return n
}

// wrap hands the pieces of a stored frame of b to write.
func wrap(b []byte, write func([]byte) error) error {
	h := binary.LittleEndian.AppendUint32(nil, zstdMagic)
	h = append(h, 0xA0)
	h = binary.LittleEndian.AppendUint32(h, uint32(len(b)))
	if err := write(h); err != nil {
		return err
	}
	for len(b) > 0 {
		n := min(len(b), storedBlock)
		v := uint32(n) << 3
		if n == len(b) {
			v |= 1
		}
		if err := write([]byte{byte(v), byte(v >> 8), byte(v >> 16)}); err != nil {
			return err
		}
		if err := write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// unwrap takes the content out of a stored frame, in place.
func unwrap(b []byte) ([]byte, error) {
	bad := errors.New("a stored frame is damaged")
	if len(b) == 0 {
		return b, nil
	}
	if len(b) < storedHead || binary.LittleEndian.Uint32(b) != zstdMagic || b[4] != 0xA0 {
		return nil, bad
	}
	size := int(binary.LittleEndian.Uint32(b[5:]))
	out := b[:0]
	for p := storedHead; ; {
		if p+3 > len(b) {
			return nil, bad
		}
		v := uint32(b[p]) | uint32(b[p+1])<<8 | uint32(b[p+2])<<16
		n := int(v >> 3)
		if v>>1&3 != 0 || p+3+n > len(b) {
			return nil, bad
		}
		out = append(out, b[p+3:p+3+n]...)
		p += 3 + n
		if v&1 == 1 {
			if p != len(b) || len(out) != size {
				return nil, bad
			}
			return out, nil
		}
	}
}
