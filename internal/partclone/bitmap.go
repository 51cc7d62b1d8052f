package partclone

import (
	"fmt"
	"io"
	"math/bits"
)

// pageBytes of the map, 262144 blocks, are kept together. Pages of nothing but free or
// nothing but used blocks take no room.
const pageBytes = 32 << 10

// blockMap records which blocks are used.
type blockMap struct {
	total int64
	pages [][]byte // nil: free; shorter than pageBytes: all used; last one padded
	used  int64
}

// allUsed stands for a page of used blocks.
var allUsed = []byte{0xFF}

// readMap reads total blocks, perByte of them (8 or 1) in each byte, and passes the bytes
// to see. Pages that are neither free nor used as a whole may take limit bytes.
func readMap(r io.Reader, total int64, perByte int, limit int64, see func([]byte)) (*blockMap, error) {
	m := &blockMap{total: total}
	raw := make([]byte, pageBytes*8/perByte)
	page := raw
	if perByte == 1 {
		page = make([]byte, pageBytes)
	}
	for left := total; left > 0; {
		n := min(left, pageBytes*8)
		in := raw[:(n+int64(perByte)-1)/int64(perByte)]
		if _, err := io.ReadFull(r, in); err != nil {
			return nil, err
		}
		see(in)
		p := page[:(n+7)/8]
		if perByte == 1 {
			pack(p, in)
		} else if last := n % 8; last != 0 {
			p[len(p)-1] &= 1<<last - 1 // partclone.imager sets the bits behind the last block
		}
		if err := m.add(p, n, &limit); err != nil {
			return nil, err
		}
		left -= n
	}
	return m, nil
}

// pack makes bits of a map of bytes: 1 is a used block, any other value a free one, as
// load_image_bitmap_bytes has it.
func pack(p, in []byte) {
	clear(p)
	for i, b := range in {
		if b == 1 {
			p[i/8] |= 1 << (i % 8)
		}
	}
}

// add appends a page of n blocks.
func (m *blockMap) add(p []byte, n int64, limit *int64) error {
	used := count(p)
	m.used += used
	switch used {
	case 0:
		m.pages = append(m.pages, nil)
		return nil
	case n:
		m.pages = append(m.pages, allUsed)
		return nil
	}
	if *limit -= pageBytes; *limit < 0 {
		return fmt.Errorf("bitmap needs more memory than the limit allows, at block %d of %d", int64(len(m.pages))*pageBytes*8, m.total)
	}
	full := make([]byte, pageBytes)
	copy(full, p)
	m.pages = append(m.pages, full)
	return nil
}

func count(p []byte) (n int64) {
	for len(p) >= 8 {
		n += int64(bits.OnesCount64(le.Uint64(p)))
		p = p[8:]
	}
	for _, b := range p {
		n += int64(bits.OnesCount8(b))
	}
	return n
}

// full is a map without free blocks.
func full(total int64) *blockMap { return &blockMap{total: total, used: total} }

// find returns the first block from b on that is used, or free; total if absent.
func (m *blockMap) find(b int64, used bool) int64 {
	if m.pages == nil { // full
		if used {
			return min(b, m.total)
		}
		return m.total
	}
	var flip byte
	if !used {
		flip = 0xFF
	}
	const n = pageBytes * 8
	for ; b < m.total; b = (b/n + 1) * n {
		page := m.pages[b/n]
		if len(page) < pageBytes { // all alike
			if (page != nil) == used {
				return b
			}
			continue
		}
		at := b % n
		i := at / 8
		x := (page[i] ^ flip) >> (at % 8) << (at % 8)
		if x == 0 {
			i += 1 + skip(page[i+1:], flip)
			if i == pageBytes {
				continue
			}
			x = page[i] ^ flip
		}
		return min(b-at+i*8+int64(bits.TrailingZeros8(x)), m.total)
	}
	return m.total
}

// skip returns how many bytes at the beginning of p are v, which is 0 or 0xFF.
func skip(p []byte, v byte) int64 {
	i := 0
	for words := uint64(v) * 0x0101010101010101; i+8 <= len(p) && le.Uint64(p[i:]) == words; {
		i += 8
	}
	for i < len(p) && p[i] == v {
		i++
	}
	return int64(i)
}
