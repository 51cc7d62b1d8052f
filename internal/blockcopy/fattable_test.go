package blockcopy

import (
	"encoding/binary"
	"io"
	"testing"
)

// longest notes the longest read of a device, in bytes.
type longest struct {
	io.ReaderAt
	n int
}

func (l *longest) ReadAt(b []byte, off int64) (int, error) {
	l.n = max(l.n, len(b))
	return l.ReaderAt.ReadAt(b, off)
}

// Of a file allocation table only what the clusters need is read: a boot sector that
// claims a table of a GiB for a few clusters takes no GiB of memory.
func TestTableOfFewClusters(t *testing.T) {
	le := binary.LittleEndian
	const table = maxFAT / 512 // sectors
	fat := make([]byte, 4096)
	le.PutUint16(fat[11:], 512) // bytes of a sector
	fat[13] = 1                 // sectors of a cluster
	le.PutUint16(fat[14:], 1)   // reserved sectors
	fat[16] = 1                 // tables
	le.PutUint32(fat[32:], 1+table+100)
	le.PutUint32(fat[36:], table)

	ex := make([]byte, 64<<10)
	le.PutUint32(ex[80:], 1)     // sector of the table
	le.PutUint32(ex[84:], table) // its sectors
	le.PutUint32(ex[88:], 16)    // sector of cluster 2
	le.PutUint32(ex[92:], 10)    // clusters
	le.PutUint32(ex[96:], 2)     // cluster of the root directory
	ex[108], ex[109], ex[110] = 9, 3, 1
	for n := 2; n < 4; n++ {
		le.PutUint32(ex[512+4*n:], 0xFFFFFFFF) // the last cluster of its chain
	}
	ex[16*512] = 0x81               // the bitmap
	le.PutUint32(ex[16*512+20:], 3) // its cluster
	le.PutUint64(ex[16*512+24:], 2) // its bytes
	ex[16*512+4096], ex[16*512+4097] = 3, 0

	for _, c := range []struct {
		kind  string
		read  func(io.ReaderAt, int64) (*Map, error)
		bytes []byte
		end   int64
	}{
		{"FAT", fatMap, fat, (1 + table + 100) * 512},
		{"exFAT", exfatMap, ex, 16*512 + 10*4096},
	} {
		dev := &longest{ReaderAt: zeros(c.bytes)}
		m, err := c.read(dev, maxFAT+1<<20)
		if err != nil {
			t.Errorf("%s: %v", c.kind, err)
			continue
		}
		if m.End != c.end || dev.n > 4096 {
			t.Errorf("%s: ends at %d, %d bytes were read at once; want %d and at most 4096", c.kind, m.End, dev.n, c.end)
		}
	}
}
