package partclone

import (
	"bytes"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"
	"github.com/zeebo/xxh3"
)

// summer makes a checksum as the image has it: little-endian, since images of other
// machines are refused.
type summer interface {
	Write(p []byte)
	Sum(to []byte) []byte
	Reset()
}

// newSummer returns the summer of a mode; nil for None.
func newSummer(c Checksum) summer {
	switch c {
	case CRC32:
		return new(crcSum)
	case CRC32First:
		return new(firstSum)
	case XXH64:
		return &xxh64Sum{xxhash.New()}
	case XXH128:
		return &xxh128Sum{xxh3.New()}
	}
	return nil
}

// crcSum is crc32 of partclone's src/checksum.c.
type crcSum struct{ crc uint32 }

func (s *crcSum) Write(p []byte)       { s.crc = crc32.Update(s.crc, crc32.IEEETable, p) }
func (s *crcSum) Sum(to []byte) []byte { return le.AppendUint32(to, ^s.crc) }
func (s *crcSum) Reset()               { s.crc = 0 }

// firstSum is crc32_0001 there, which takes the first byte of a block as often as the
// block has bytes. Every Write is one block.
type firstSum struct {
	crcSum
	same []byte
}

func (s *firstSum) Write(p []byte) {
	if len(s.same) != len(p) || s.same[0] != p[0] {
		s.same = bytes.Repeat(p[:1], len(p))
	}
	s.crcSum.Write(s.same)
}

// xxh64Sum is XXH64 with seed 0. Its value can be asked for without ending the sum.
type xxh64Sum struct{ d *xxhash.Digest }

func (s *xxh64Sum) Write(p []byte)       { _, _ = s.d.Write(p) } // it never fails
func (s *xxh64Sum) Sum(to []byte) []byte { return le.AppendUint64(to, s.d.Sum64()) }
func (s *xxh64Sum) Reset()               { s.d.Reset() }

// xxh128Sum is XXH3 with 128 bits and no seed; XXH128_hash_t has the low half first.
type xxh128Sum struct{ h *xxh3.Hasher }

func (s *xxh128Sum) Write(p []byte) { _, _ = s.h.Write(p) } // it never fails
func (s *xxh128Sum) Sum(to []byte) []byte {
	v := s.h.Sum128()
	return le.AppendUint64(le.AppendUint64(to, v.Lo), v.Hi)
}
func (s *xxh128Sum) Reset() { s.h.Reset() }
