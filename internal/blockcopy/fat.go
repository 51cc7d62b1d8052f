package blockcopy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// maxFAT is the largest table that is read: FAT32 has at most 2^28 entries.
const maxFAT = 1 << 30

// fatMap reads the file allocation table of a FAT12, FAT16 or FAT32; fatgen103.
func fatMap(r io.ReaderAt, size int64) (*Map, error) {
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	sector, spc, reserved, fats := int64(le.Uint16(b[11:])), int64(b[13]), int64(le.Uint16(b[14:])), int64(b[16])
	roots, total, fatLen := int64(le.Uint16(b[17:])), int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	if fatLen == 0 {
		fatLen = int64(le.Uint32(b[36:]))
	}
	if sector < 512 || spc < 1 || reserved < 1 || fats < 1 || fatLen < 1 || fatLen*sector > min(maxFAT, size) || total*sector > size {
		return nil, errors.New("its boot sector is damaged, or it is larger than its device")
	}
	data := reserved + fats*fatLen + (roots*32+sector-1)/sector
	clusters := (total - data) / spc
	if clusters < 1 {
		return nil, errors.New("its boot sector leaves no room for files")
	}
	// Of the table only what the clusters need: at most four bytes for each.
	fat := make([]byte, min(fatLen*sector, 4*(clusters+2)))
	if _, err := r.ReadAt(fat, reserved*sector); err != nil {
		return nil, err
	}
	m := &Map{Size: size, How: "FAT", End: (data + clusters*spc) * sector}
	m.add(0, data*sector)
	for n := int64(2); n < clusters+2; n++ {
		if fatEntry(fat, n, clusters) != 0 {
			m.add((data+(n-2)*spc)*sector, spc*sector)
		}
	}
	m.add(m.End, size-m.End)
	return m, nil
}

// fatEntry is entry n of the table of a file system with so many clusters.
func fatEntry(fat []byte, n, clusters int64) uint32 {
	le := binary.LittleEndian
	switch {
	case clusters < 4085:
		if v := n + n/2; v+1 < int64(len(fat)) {
			return uint32(le.Uint16(fat[v:])) >> (4 * (n & 1)) & 0xfff
		}
	case clusters < 65525:
		if 2*n+1 < int64(len(fat)) {
			return uint32(le.Uint16(fat[2*n:]))
		}
	default:
		if 4*n+3 < int64(len(fat)) {
			return le.Uint32(fat[4*n:]) & 0x0fffffff
		}
	}
	return 1 // no entry: in use, to be safe
}

// exfatMap reads the allocation bitmap of an exFAT; exFAT file system
// specification 1.00, §3 and 7.1.
func exfatMap(r io.ReaderAt, size int64) (*Map, error) {
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if !between(int64(b[108]), 9, 12) || b[109] > 25-b[108] {
		return nil, errors.New("its boot sector is damaged")
	}
	sector := int64(1) << b[108]
	cluster := sector << b[109]
	fatAt, fatLen, heap, count := int64(le.Uint32(b[80:])), int64(le.Uint32(b[84:])), int64(le.Uint32(b[88:])), int64(le.Uint32(b[92:]))
	root := int64(le.Uint32(b[96:]))
	if fatLen*sector > min(maxFAT, size) || count < 1 || heap*sector+count*cluster > size || b[110] < 1 {
		return nil, errors.New("its boot sector is damaged, or it is larger than its device")
	}
	if le.Uint16(b[106:])&2 != 0 {
		return nil, errors.New("it was not unmounted cleanly")
	}
	fat := make([]byte, min(fatLen*sector, 4*(count+2)))
	if _, err := r.ReadAt(fat, fatAt*sector); err != nil {
		return nil, err
	}
	t := exfat{r: r, fat: fat, heap: heap * sector, cluster: cluster, count: count}
	dir, err := t.chain(root, 64<<20)
	if err != nil {
		return nil, err
	}
	bits, err := t.bitmap(dir)
	if err != nil {
		return nil, err
	}
	m := &Map{Size: size, How: "exfat bitmap", End: heap*sector + count*cluster}
	m.add(0, heap*sector)
	m.bits(bits, count, heap*sector, cluster)
	m.add(m.End, size-m.End)
	return m, nil
}

type exfat struct {
	r              io.ReaderAt
	fat            []byte
	heap           int64 // where clusters begin, bytes
	cluster, count int64 // bytes of one; how many
}

// chain reads the clusters that begin at n, as far as limit bytes.
func (x *exfat) chain(n, limit int64) ([]byte, error) {
	var out []byte
	for range x.count {
		if n < 2 || n >= x.count+2 || 4*n+4 > int64(len(x.fat)) {
			return nil, fmt.Errorf("it has a chain that goes to cluster %d of %d", n, x.count)
		}
		c := make([]byte, x.cluster)
		if _, err := x.r.ReadAt(c, x.heap+(n-2)*x.cluster); err != nil {
			return nil, err
		}
		out = append(out, c...)
		if n = int64(binary.LittleEndian.Uint32(x.fat[4*n:])); n >= 0xFFFFFFF8 || int64(len(out)) >= limit {
			return out, nil
		}
	}
	return nil, errors.New("it has a chain without end")
}

// bitmap reads the clusters in use, which an entry of the root directory names.
func (x *exfat) bitmap(dir []byte) ([]byte, error) {
	le := binary.LittleEndian
	for e := dir; len(e) >= 32 && e[0] != 0; e = e[32:] {
		if e[0] != 0x81 || e[1]&1 != 0 {
			continue // the second bitmap is that of TexFAT
		}
		l := int64(le.Uint64(e[24:]))
		if l < (x.count+7)/8 || l > maxBitmap {
			return nil, fmt.Errorf("its bitmap has %d bytes for %d clusters", l, x.count)
		}
		return x.chain(int64(le.Uint32(e[20:])), l)
	}
	return nil, errors.New("it has no bitmap")
}
