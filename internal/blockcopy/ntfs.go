package blockcopy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// ntfs reads what is needed of an NTFS to find its bitmap: the master file
// table, runlists, the root directory. Offsets are those of the on-disk format
// as the Linux kernel's fs/ntfs3/ntfs.h has them.
type ntfs struct {
	r       io.ReaderAt
	cluster int64
	sector  int64
	record  int64
	total   int64 // clusters
	mft     []run
	index   int64 // bytes of an index block
}

// run is a piece of a file: count clusters from lcn, or a hole (lcn -1).
type run struct{ lcn, count int64 }

// Records of the master file table.
const (
	ntfsVolume = 3
	ntfsRoot   = 5
	ntfsBitmap = 6
)

// Types of attributes.
const (
	attrList      = 0x20
	attrVolume    = 0x70
	attrData      = 0x80
	attrIndexRoot = 0x90
	attrIndex     = 0xA0
)

// maxBitmap is enough for 16 TiB in clusters of 4 KiB.
const maxBitmap = 512 << 20

// openNTFS reads the boot sector and the place of the file table; size is the
// device's, in bytes. No number that it returns leads outside of the device.
func openNTFS(r io.ReaderAt, size int64) (*ntfs, error) {
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	n := &ntfs{r: r, sector: int64(le.Uint16(b[11:]))}
	spc := int64(b[13])
	if spc > 128 {
		spc = 1 << (256 - spc)
	}
	if !pow2(n.sector, 256, 4096) || !between(spc, 1, 4096) {
		return nil, fmt.Errorf("its boot sector has %d bytes to a sector, %d sectors to a cluster", n.sector, spc)
	}
	n.cluster = n.sector * spc
	length := func(v int8) int64 {
		if v < 0 {
			return 1 << min(-int64(v), 30)
		}
		return int64(v) * n.cluster
	}
	n.record, n.index = length(int8(b[64])), length(int8(b[68]))
	n.total = int64(le.Uint64(b[40:])) / spc
	at := int64(le.Uint64(b[48:]))
	if !between(n.record, 512, 64<<10) || !between(n.index, 512, 1<<20) || !between(at, 1, n.total-1) {
		return nil, fmt.Errorf("its boot sector has records of %d bytes, and the file table at cluster %d of %d", n.record, at, n.total)
	}
	if n.total > size/n.cluster {
		return nil, fmt.Errorf("it has %d clusters of %d bytes, more than its device", n.total, n.cluster)
	}
	// The first record is that of the file table itself.
	n.mft = []run{{at, (n.record + n.cluster - 1) / n.cluster}}
	rec, err := n.read(0)
	if err != nil {
		return nil, err
	}
	a, err := attribute(rec, attrData, "")
	if err != nil {
		return nil, fmt.Errorf("the file table: %w", err)
	}
	if n.mft, err = n.runs(a); err != nil {
		return nil, fmt.Errorf("the file table: %w", err)
	}
	return n, nil
}

// read returns a record of the file table.
func (n *ntfs) read(number int64) ([]byte, error) {
	if number < 0 || number > n.total*n.cluster/n.record {
		return nil, fmt.Errorf("record %d is not in the file table", number)
	}
	b := make([]byte, n.record)
	if err := n.readRuns(n.mft, b, number*n.record); err != nil {
		return nil, fmt.Errorf("record %d of the file table: %w", number, err)
	}
	if string(b[:4]) != "FILE" {
		return nil, fmt.Errorf("record %d of the file table has no signature", number)
	}
	if err := fixup(b); err != nil {
		return nil, fmt.Errorf("record %d of the file table: %w", number, err)
	}
	return b, nil
}

// readRuns reads a part of a file that is in runs.
func (n *ntfs) readRuns(runs []run, b []byte, off int64) error {
	for _, x := range runs {
		l := x.count * n.cluster
		if off >= l {
			off -= l
			continue
		}
		k := min(int64(len(b)), l-off)
		if x.lcn < 0 {
			clear(b[:k])
		} else if _, err := n.r.ReadAt(b[:k], x.lcn*n.cluster+off); err != nil {
			return err
		}
		if b, off = b[k:], 0; len(b) == 0 {
			return nil
		}
	}
	return io.ErrUnexpectedEOF
}

// fixup puts back the ends of sectors, which are replaced by a number that
// shows torn writes.
func fixup(b []byte) error {
	le := binary.LittleEndian
	at, count := int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	if count < 1 || at+2*count > len(b) || (count-1)*512 > len(b) {
		return errors.New("it has no update sequence")
	}
	for i := 1; i < count; i++ {
		end := i*512 - 2
		if b[end] != b[at] || b[end+1] != b[at+1] {
			return errors.New("it was not written as a whole")
		}
		copy(b[end:], b[at+2*i:at+2*i+2])
	}
	return nil
}

// attr is an attribute of a record.
type attr struct{ b []byte }

func attribute(rec []byte, typ uint32, name string) (*attr, error) {
	le := binary.LittleEndian
	var list bool
	for at := int(le.Uint16(rec[20:])); at+24 <= len(rec); {
		t, l := le.Uint32(rec[at:]), int(le.Uint32(rec[at+4:]))
		if t == 0xFFFFFFFF {
			break
		}
		if l < 24 || at+l > len(rec) {
			return nil, errors.New("it has a damaged attribute")
		}
		a := rec[at : at+l]
		nameAt, nameLen := int(le.Uint16(a[10:])), int(a[9])
		if nameAt+2*nameLen > l {
			return nil, errors.New("it has a damaged attribute")
		}
		if t == typ && utf16le(a[nameAt:nameAt+2*nameLen]) == name {
			return &attr{a}, nil
		}
		list = list || t == attrList
		at += l
	}
	if list {
		return nil, errors.New("its attributes are spread over several records")
	}
	return nil, fmt.Errorf("it has no attribute %#x", typ)
}

func utf16le(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

func (a *attr) resident() bool { return a.b[8] == 0 }

// value is the content of a resident attribute.
func (a *attr) value() ([]byte, error) {
	l, at := int(binary.LittleEndian.Uint32(a.b[16:])), int(binary.LittleEndian.Uint16(a.b[20:]))
	if l < 0 || at+l > len(a.b) {
		return nil, errors.New("it has a damaged attribute")
	}
	return a.b[at : at+l], nil
}

// size of the content that is not resident, bytes.
func (a *attr) size() int64 {
	if len(a.b) < 64 {
		return -1
	}
	return int64(binary.LittleEndian.Uint64(a.b[48:]))
}

// runs decodes a runlist: each has a byte with the lengths of two numbers. All
// of its clusters are the file system's.
func (n *ntfs) runs(a *attr) ([]run, error) {
	if a.resident() || len(a.b) < 64 {
		return nil, errors.New("it is resident")
	}
	p := int(binary.LittleEndian.Uint16(a.b[32:]))
	if p >= len(a.b) {
		return nil, errors.New("it has a damaged runlist")
	}
	var out []run
	lcn := int64(0)
	for b := a.b[p:]; len(b) > 0 && b[0] != 0; {
		nl, no := int(b[0]&15), int(b[0]>>4)
		if nl == 0 || nl > 8 || no > 8 || 1+nl+no > len(b) {
			return nil, errors.New("it has a damaged runlist")
		}
		count, delta := number(b[1:1+nl]), number(b[1+nl:1+nl+no])
		if count <= 0 || count > n.total {
			return nil, errors.New("it has a damaged runlist")
		}
		if no == 0 {
			out = append(out, run{-1, count})
		} else {
			if lcn += delta; lcn < 0 || lcn > n.total-count {
				return nil, errors.New("it has a damaged runlist")
			}
			out = append(out, run{lcn, count})
		}
		b = b[1+nl+no:]
	}
	return out, nil
}

// number is a signed one of up to eight bytes.
func number(b []byte) int64 {
	v := int64(0)
	for i := len(b) - 1; i >= 0; i-- {
		v = v<<8 | int64(b[i])
	}
	if len(b) > 0 && len(b) < 8 && b[len(b)-1]&0x80 != 0 {
		v -= 1 << (8 * len(b))
	}
	return v
}

// content reads an attribute as a whole.
func (n *ntfs) content(a *attr, limit int64) ([]byte, error) {
	if a.resident() {
		return a.value()
	}
	size := a.size()
	if size < 0 || size > limit {
		return nil, fmt.Errorf("it has %d bytes", size)
	}
	runs, err := n.runs(a)
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	return b, n.readRuns(runs, b, 0)
}

// ntfsMap reads the bitmap of an NTFS that was left in order. One that is
// dirty, or that a sleeping Windows has parts of in its memory, is an error: its
// bitmap may be behind.
func ntfsMap(r io.ReaderAt, size int64) (*Map, error) {
	n, err := openNTFS(r, size)
	if err != nil {
		return nil, err
	}
	rec, err := n.read(ntfsVolume)
	if err != nil {
		return nil, err
	}
	info, err := attribute(rec, attrVolume, "")
	if err != nil {
		return nil, fmt.Errorf("the volume's record: %w", err)
	}
	v, err := info.value()
	if err != nil || len(v) < 12 {
		return nil, errors.New("the volume's record is damaged")
	}
	if binary.LittleEndian.Uint16(v[10:])&1 != 0 {
		return nil, errors.New("it was not shut down cleanly")
	}
	asleep, err := n.hibernated()
	if err != nil {
		return nil, err
	}
	if asleep {
		return nil, errors.New("it has a Windows that is hibernated (or was shut down with fast startup)")
	}
	if rec, err = n.read(ntfsBitmap); err != nil {
		return nil, err
	}
	a, err := attribute(rec, attrData, "")
	if err != nil {
		return nil, fmt.Errorf("the bitmap: %w", err)
	}
	bits, err := n.content(a, min(maxBitmap, size))
	if err != nil {
		return nil, fmt.Errorf("the bitmap: %w", err)
	}
	if int64(len(bits))*8 < n.total {
		return nil, fmt.Errorf("the bitmap has %d bits for %d clusters", len(bits)*8, n.total)
	}
	bits = bits[:(n.total+7)/8]
	m := &Map{Size: size, How: "ntfs bitmap", End: min(size, (n.total+1)*n.cluster)}
	m.bits(bits, n.total, 0, n.cluster)
	m.add(0, n.cluster)
	// Behind the last whole cluster: the copy of the boot sector.
	m.add(n.total*n.cluster, size-n.total*n.cluster)
	return m, nil
}

// bits adds the ranges of a bitmap of count bits, of units from base on.
func (m *Map) bits(bits []byte, count, base, unit int64) {
	for i := int64(0); i < count; {
		if i%8 == 0 && bits[i/8] == 0 {
			i += 8
			continue
		}
		if bits[i/8]>>(i%8)&1 == 0 {
			i++
			continue
		}
		j := i
		for j < count {
			if j%8 == 0 && bits[j/8] == 0xFF && j+8 <= count {
				j += 8
			} else if bits[j/8]>>(j%8)&1 == 1 {
				j++
			} else {
				break
			}
		}
		m.add(base+i*unit, (j-i)*unit)
		i = j
	}
}

// hibernated reports whether the root directory has a hiberfil.sys that holds a
// sleeping Windows.
func (n *ntfs) hibernated() (bool, error) {
	file, err := n.hiberfil()
	if err != nil || file < 0 {
		return false, err
	}
	rec, err := n.read(file)
	if err != nil {
		return false, err
	}
	a, err := attribute(rec, attrData, "")
	if err != nil {
		return true, nil // too many pieces to be sure
	}
	var head []byte
	if a.resident() {
		if head, err = a.value(); err != nil {
			return false, err
		}
	} else {
		runs, err := n.runs(a)
		if err != nil {
			return false, err
		}
		head = make([]byte, min(n.cluster, max(a.size(), 0)))
		if err := n.readRuns(runs, head, 0); err != nil {
			return false, err
		}
	}
	// A used one begins with zero bytes or "wake".
	return len(head) >= 4 && strings.EqualFold(string(head[:4]), "hibr"), nil
}

// hiberfil gives the number of hiberfil.sys in the root directory, -1 if it is missing.
func (n *ntfs) hiberfil() (int64, error) {
	rec, err := n.read(ntfsRoot)
	if err != nil {
		return 0, err
	}
	root, err := attribute(rec, attrIndexRoot, "$I30")
	if err != nil {
		return 0, fmt.Errorf("the root directory: %w", err)
	}
	v, err := root.value()
	if err != nil {
		return 0, err
	}
	file := inIndex(v, 16, "hiberfil.sys")
	if a, err := attribute(rec, attrIndex, "$I30"); err == nil {
		all, err := n.content(a, 64<<20)
		if err != nil {
			return 0, fmt.Errorf("the root directory: %w", err)
		}
		for ; int64(len(all)) >= n.index; all = all[n.index:] {
			b := all[:n.index]
			if string(b[:4]) == "INDX" && fixup(b) == nil {
				file = max(file, inIndex(b, 24, "hiberfil.sys"))
			}
		}
	}
	return file, nil
}

// inIndex looks for a name in the entries of the index whose header is at b[at:], and gives
// the file's number, -1 if it is not there.
func inIndex(b []byte, at int, name string) int64 {
	if at+16 > len(b) {
		return -1
	}
	first, used := int(binary.LittleEndian.Uint32(b[at:])), int(binary.LittleEndian.Uint32(b[at+4:]))
	if first < 0 || used < first || at+used > len(b) {
		return -1
	}
	for entries := b[at+first : at+used]; len(entries) >= 16; {
		l, k := int(binary.LittleEndian.Uint16(entries[8:])), int(binary.LittleEndian.Uint16(entries[10:]))
		if l < 16 || l > len(entries) || 16+k > l {
			break
		}
		if key := entries[16 : 16+k]; k >= 66 && 66+2*int(key[64]) <= k && strings.EqualFold(utf16le(key[66:66+2*int(key[64])]), name) {
			return int64(binary.LittleEndian.Uint64(entries) & (1<<48 - 1))
		}
		if entries[12]&2 != 0 {
			break
		}
		entries = entries[l:]
	}
	return -1
}
