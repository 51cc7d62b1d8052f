// Package journal reads the files of systemd's journal, which may be damaged or still in use
// by a system that crashed; https://systemd.io/JOURNAL_FILE_FORMAT. It writes nothing.
package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// Incompatible flags of a file, and its types of objects.
const (
	flagXZ, flagLZ4, flagKeyed, flagZstd, flagCompact = 1, 2, 4, 8, 16

	objectData, objectEntry, objectArray = 1, 3, 6
)

// maxData is the most that one field is unpacked to.
const maxData = 64 << 20

// File is an open file of a journal.
type File struct {
	r        io.ReaderAt
	close    func() error
	size     int64
	compact  bool
	SeqnumID string // of the numbers of its entries
	entries  []uint64
	blocks   map[int64][]byte
	prepare  sync.Once
	zstd     *zstd.Decoder
}

// Entry is one of a journal, without its fields.
type Entry struct {
	Seqnum, Realtime, Monotonic, Hash uint64 // times in microseconds
	Boot                              string // 32 hexadecimal digits
	items                             []uint64
}

// Field is a name and a value.
type Field struct {
	Name  string
	Value []byte
}

// Open opens a file. Its entries are found, but not read.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	j, err := New(f, st.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot read the journal %s: %w", path, err)
	}
	j.close = f.Close
	return j, nil
}

// Close closes the file.
func (f *File) Close() error {
	if f.close == nil {
		return nil
	}
	return f.close()
}

// New reads a journal of size bytes.
func New(r io.ReaderAt, size int64) (*File, error) {
	f := &File{r: r, size: size, blocks: map[int64][]byte{}}
	h, err := f.bytes(0, 208)
	if err != nil {
		return nil, fmt.Errorf("it has no whole header: %w", err)
	}
	le := binary.LittleEndian
	if string(h[:8]) != "LPKSHHRH" {
		return nil, errors.New("it is not a journal file")
	}
	flags := le.Uint32(h[12:])
	if unknown := flags &^ (flagXZ | flagLZ4 | flagKeyed | flagZstd | flagCompact); unknown != 0 {
		return nil, fmt.Errorf("it has a form that is not known here (flags %#x)", unknown)
	}
	f.compact = flags&flagCompact != 0
	f.SeqnumID = hex.EncodeToString(h[72:88])
	f.readArrays(le.Uint64(h[176:]), le.Uint64(h[152:]))
	return f, nil
}

// readArrays collects where the entries are. What is damaged ends the list.
func (f *File) readArrays(at, n uint64) {
	width := uint64(8)
	if f.compact {
		width = 4
	}
	for last := uint64(0); at > last && n > uint64(len(f.entries)); { // arrays are appended
		o, err := f.object(at, objectArray, 24)
		if err != nil {
			return
		}
		for items := o[24:]; uint64(len(items)) >= width && uint64(len(f.entries)) < n; items = items[width:] {
			e := f.item(items)
			if e == 0 {
				break
			}
			f.entries = append(f.entries, e)
		}
		last, at = at, binary.LittleEndian.Uint64(o[16:])
	}
}

func (f *File) item(b []byte) uint64 {
	if f.compact {
		return uint64(binary.LittleEndian.Uint32(b))
	}
	return binary.LittleEndian.Uint64(b)
}

const block = 64 << 10

// bytes gives n bytes at an offset.
func (f *File) bytes(at uint64, n uint64) ([]byte, error) {
	if at > uint64(f.size) || n > uint64(f.size)-at {
		return nil, io.ErrUnexpectedEOF
	}
	if n > block {
		b := make([]byte, n)
		_, err := f.r.ReadAt(b, int64(at))
		return b, err
	}
	out := make([]byte, 0, n)
	for uint64(len(out)) < n {
		pos := int64(at) + int64(len(out))
		b, err := f.block(pos / block)
		if err != nil {
			return nil, err
		}
		from := pos % block
		if from >= int64(len(b)) {
			return nil, io.ErrUnexpectedEOF
		}
		out = append(out, b[from:min(int64(len(b)), from+int64(n)-int64(len(out)))]...)
	}
	return out, nil
}

// block gives a block of the file, of which some are kept.
func (f *File) block(i int64) ([]byte, error) {
	if b, ok := f.blocks[i]; ok {
		return b, nil
	}
	for k := range f.blocks { // any one
		if len(f.blocks) < 128 {
			break
		}
		delete(f.blocks, k)
	}
	b := make([]byte, min(block, f.size-i*block))
	if _, err := f.r.ReadAt(b, i*block); err != nil {
		return nil, err
	}
	f.blocks[i] = b
	return b, nil
}

// object gives an object of a type and at least a size.
func (f *File) object(at uint64, typ byte, least uint64) ([]byte, error) {
	h, err := f.bytes(at, 16)
	if err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(h[8:])
	if at%8 != 0 || h[0] != typ || n < least {
		return nil, fmt.Errorf("the object at %d is damaged", at)
	}
	return f.bytes(at, n)
}

// Len is the number of entries.
func (f *File) Len() int { return len(f.entries) }

// Entry reads an entry, without its fields.
func (f *File) Entry(i int) (Entry, error) {
	o, err := f.object(f.entries[i], objectEntry, 64)
	if err != nil {
		return Entry{}, err
	}
	le := binary.LittleEndian
	e := Entry{Seqnum: le.Uint64(o[16:]), Realtime: le.Uint64(o[24:]), Monotonic: le.Uint64(o[32:]), Boot: hex.EncodeToString(o[40:56]), Hash: le.Uint64(o[56:])}
	width := 16
	if f.compact {
		width = 4
	}
	for items := o[64:]; len(items) >= width; items = items[width:] {
		e.items = append(e.items, f.item(items))
	}
	return e, nil
}

// Fields reads the fields of an entry. Those that are damaged are left out.
func (f *File) Fields(e Entry) []Field {
	var out []Field
	for _, at := range e.items {
		head := 64
		if f.compact {
			head = 72
		}
		o, err := f.object(at, objectData, uint64(head))
		if err != nil {
			continue
		}
		b, err := f.unpack(o[1], o[head:])
		if err != nil {
			continue
		}
		if name, value, ok := bytes.Cut(b, []byte{'='}); ok {
			out = append(out, Field{string(name), value})
		}
	}
	return out
}

// unpack gives the content of a field, which may be compressed.
func (f *File) unpack(flags byte, b []byte) ([]byte, error) {
	switch flags & 7 {
	case 0:
		return b, nil
	case 1:
		r, err := xz.ReaderConfig{DictCap: 8 << 20}.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(io.LimitReader(r, maxData))
	case 2:
		if len(b) < 8 {
			return nil, io.ErrUnexpectedEOF
		}
		n := binary.LittleEndian.Uint64(b)
		if n > maxData || n > uint64(len(b))*255 { // the most that LZ4 packs
			return nil, errors.New("the compressed field is damaged")
		}
		out := make([]byte, n)
		m, err := lz4.UncompressBlock(b[8:], out)
		return out[:max(m, 0)], err
	case 4:
		var err error
		f.prepare.Do(func() {
			f.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxData))
		})
		if err != nil || f.zstd == nil {
			return nil, errors.New("no decoder")
		}
		return f.zstd.DecodeAll(b, nil)
	}
	return nil, errors.New("unknown compression")
}
