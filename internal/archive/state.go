package archive

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// A state is what an increment compares files with: for each member of an archive its inode,
// times and digests, and where its bytes are. It is a file on the machine that is saved:
// blocks of records, packed by zstd, a trailer in JSON, and
// the trailer's length (8 bytes), the SHA-256 of all before it, and stateTag.
const (
	stateKind    = "mkcdrec-state "
	stateTag     = stateKind + "2\n" // 1 had SHA-256 of the content
	stateFoot    = 8 + sha256.Size + len(stateTag)
	stateBlock   = 256 << 10 // bytes of records in a block
	maxTrailer   = 64 << 20
	maxStateText = stateBlock + 4*maxPath + 1<<10
	// stateCache is how many blocks are kept decoded. Files are looked for in the order in
	// which they were written, but for those that were moved.
	stateCache = 6
	// usualRecord is how long a record is that is not long, in bytes.
	usualRecord = 96
)

// digest16 is the first half of a digest: BLAKE3 of the content, which is read by one thread and where
// SHA-256 would be the limit on processors without instructions for it; SHA-256 of the attributes.
type digest16 [16]byte

// stateRecord is one member.
type stateRecord struct {
	typ               Type // TypeFile for all names of a file
	ino               uint64
	csec, cnsec       int64
	sec, nsec         int64
	size              int64
	src               int // index into the sources
	start, end        int64
	meta, content     digest16
	path, link, there string // there: its path at start, "" if that is path
}

// stateTrailer describes the blocks.
type stateTrailer struct {
	Start   [2]int64     `json:"start"` // when the run began: seconds, nanoseconds
	Content bool         `json:"content"`
	Sources []Source     `json:"sources"`
	Blocks  []stateIndex `json:"blocks"`
}

type stateIndex struct {
	Offset int64 `json:"o"`
	Packed int   `json:"p"`
	First  int   `json:"f"` // number of its first record
}

func (r *stateRecord) append(b []byte) []byte {
	b = append(b, byte(r.typ))
	b = binary.AppendUvarint(b, r.ino)
	for _, v := range []int64{r.csec, r.cnsec, r.sec, r.nsec, r.size, int64(r.src), r.start, r.end - r.start} {
		b = binary.AppendVarint(b, v)
	}
	if r.typ == TypeFile {
		b = append(append(b, r.meta[:]...), r.content[:]...)
	}
	for _, s := range []string{r.path, r.link, r.there} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}

var errState = errors.New("damaged record of a state")

// parseStateRecord reads the first record of b and returns what is behind it. text is what b is the end of:
// a record's strings are parts of it.
func parseStateRecord(b []byte, text string, r *stateRecord) ([]byte, error) {
	if len(b) == 0 {
		return nil, errState
	}
	r.typ, b = Type(b[0]), b[1:]
	var n int
	if r.ino, n = binary.Uvarint(b); n <= 0 {
		return nil, errState
	}
	b = b[n:]
	var src, length int64
	for _, to := range []*int64{&r.csec, &r.cnsec, &r.sec, &r.nsec, &r.size, &src, &r.start, &length} {
		if *to, n = binary.Varint(b); n <= 0 {
			return nil, errState
		}
		b = b[n:]
	}
	if src < 0 || src > maxSources || r.start < 0 || length < 0 || r.start+length < r.start {
		return nil, errState
	}
	r.src, r.end = int(src), r.start+length
	if r.typ == TypeFile {
		if len(b) < 32 {
			return nil, errState
		}
		r.meta, r.content, b = digest16(b), digest16(b[16:]), b[32:]
	}
	for _, to := range []*string{&r.path, &r.link, &r.there} {
		l, n := binary.Uvarint(b)
		if n <= 0 || l > maxPath || l > uint64(len(b)-n) {
			return nil, errState
		}
		b = b[n:]
		at := len(text) - len(b)
		*to, b = text[at:at+int(l)], b[l:]
	}
	return b, nil
}

// StateWriter writes the state of an archive while that is made.
type StateWriter struct {
	w       io.Writer
	own     Source
	trailer stateTrailer
	enc     *zstd.Encoder
	sum     hash.Hash
	raw     []byte
	count   int
	first   int // number of the first record in raw
	whole   bool

	packing sync.WaitGroup // one at most: what is below belongs to it
	full    []byte         // the block that is packed
	packed  []byte
	offset  int64
	err     error
}

// NewStateWriter begins the state of the archive own, of which only the digest is not known.
func NewStateWriter(w io.Writer, own Source) (*StateWriter, error) {
	if err := own.check(); err != nil {
		return nil, fmt.Errorf("cannot keep the state: %w", err)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(stateBlock))
	return &StateWriter{w: w, own: own, enc: enc, sum: sha256.New()}, err
}

func (w *StateWriter) add(r *stateRecord) {
	w.raw = r.append(w.raw)
	w.count++
	if len(w.raw) >= stateBlock {
		w.flush()
	}
}

// flush begins to pack the block, while the next one is filled.
func (w *StateWriter) flush() {
	w.packing.Wait()
	if len(w.raw) == 0 {
		return
	}
	w.full, w.raw = w.raw, w.full[:0]
	first := w.first
	w.first = w.count
	w.packing.Go(func() {
		w.packed = w.enc.EncodeAll(w.full, w.packed[:0])
		w.trailer.Blocks = append(w.trailer.Blocks, stateIndex{w.offset, len(w.packed), first})
		w.write(w.packed)
	})
}

func (w *StateWriter) write(b []byte) {
	w.sum.Write(b)
	w.offset += int64(len(b))
	if w.err == nil {
		_, w.err = w.w.Write(b)
	}
}

// finish ends the state. toc is the digest of the archive's table of contents.
func (w *StateWriter) finish(toc [32]byte) {
	w.flush()
	w.packing.Wait()
	w.own.TOC = toc
	w.trailer.Sources = append(slices.Clone(w.trailer.Sources), w.own)
	for i := range w.trailer.Sources {
		w.trailer.Sources[i].Sum = hex.EncodeToString(w.trailer.Sources[i].TOC[:])
	}
	b, err := json.Marshal(w.trailer)
	if err != nil && w.err == nil {
		w.err = err
	}
	w.write(b)
	w.write(binary.LittleEndian.AppendUint64(nil, uint64(len(b))))
	w.write(append(w.sum.Sum(nil), stateTag...))
	w.whole = w.err == nil
}

// Err is why there is no whole state, nil if there is one.
func (w *StateWriter) Err() error {
	w.packing.Wait()
	switch {
	case w.err != nil:
		return fmt.Errorf("cannot keep the state: %w", w.err)
	case !w.whole:
		return errors.New("cannot keep the state: the archive was not made")
	}
	return nil
}

// State is the state of an earlier archive.
type State struct {
	f       *os.File
	trailer stateTrailer
	// inodes are hashes of the inodes with the numbers of their records, sorted: 8 bytes for
	// each member.
	inodes []uint64
	dec    *zstd.Decoder
	cache  []stateCached
}

type stateCached struct {
	block   int
	records []stateRecord
}

// OpenState opens the state in a file, and checks all of it.
func OpenState(name string) (*State, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open state: %w", err)
	}
	s := &State{f: f}
	if err := s.load(); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot use state %s: %w", name, err)
	}
	return s, nil
}

// Close closes the file.
func (s *State) Close() error {
	s.dec.Close()
	return s.f.Close()
}

// Sources are the archives that the state's members are in, the newest last.
func (s *State) Sources() []Source { return s.trailer.Sources }

func (s *State) load() error {
	var err error
	if s.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxStateText)); err != nil {
		return err
	}
	st, err := s.f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Size() < int64(stateFoot) {
		return errors.New("it is cut off, or not a state")
	}
	foot := make([]byte, stateFoot)
	if _, err := s.f.ReadAt(foot, st.Size()-int64(stateFoot)); err != nil {
		return err
	}
	n := int64(binary.LittleEndian.Uint64(foot))
	tag := string(foot[8+sha256.Size:])
	if tag != stateTag && strings.HasPrefix(tag, stateKind) {
		return fmt.Errorf("it was written by another version of mkcdrec: %s", strings.TrimSpace(tag))
	}
	if tag != stateTag || n < 0 || n > maxTrailer || n > st.Size()-int64(stateFoot) {
		return errors.New("it is cut off, or not a state")
	}
	h := sha256.New()
	if _, err := io.Copy(h, bufio.NewReaderSize(io.NewSectionReader(s.f, 0, st.Size()-int64(stateFoot)+8), 1<<20)); err != nil {
		return err
	}
	if !bytes.Equal(h.Sum(nil), foot[8:8+sha256.Size]) {
		return errors.New("it is damaged: its SHA-256 is wrong")
	}
	text := make([]byte, n)
	if _, err := s.f.ReadAt(text, st.Size()-int64(stateFoot)-n); err != nil {
		return err
	}
	if err := s.parseTrailer(text, st.Size()-int64(stateFoot)-n); err != nil {
		return err
	}
	return s.index()
}

// parseTrailer reads the trailer of a state with size bytes of blocks.
func (s *State) parseTrailer(text []byte, size int64) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s.trailer); err != nil {
		return fmt.Errorf("damaged trailer: %w", err)
	}
	if n := len(s.trailer.Sources); n == 0 || n > maxSources {
		return fmt.Errorf("damaged trailer: %d sources", n)
	}
	for i := range s.trailer.Sources {
		src := &s.trailer.Sources[i]
		b, err := hex.DecodeString(src.Sum)
		if err != nil || len(b) != 32 {
			return errors.New("damaged trailer: digest of a source")
		}
		if src.TOC = [32]byte(b); src.check() != nil {
			return fmt.Errorf("damaged trailer: %w", src.check())
		}
	}
	off, first := int64(0), -1
	for _, b := range s.trailer.Blocks {
		if b.Offset != off || b.Packed <= 0 || int64(b.Packed) > size-off || b.First <= first || b.First > 1<<32-1 {
			return errors.New("damaged trailer: blocks")
		}
		off, first = off+int64(b.Packed), b.First
	}
	if off != size {
		return errors.New("damaged trailer: blocks")
	}
	return nil
}

// inodeHash is the part of an inode number that the index has.
func inodeHash(ino uint64) uint64 { return (ino * 0x9E3779B97F4A7C15) &^ (1<<32 - 1) }

// index notes where the record of each inode is.
func (s *State) index() error {
	if n := len(s.trailer.Blocks); n > 0 {
		s.inodes = make([]uint64, 0, s.trailer.Blocks[n-1].First*(n+1)/n)
	}
	err := s.all(func(i int, r *stateRecord) error {
		s.inodes = append(s.inodes, inodeHash(r.ino)|uint64(i))
		return nil
	})
	slices.Sort(s.inodes)
	return err
}

// all hands every record out, in the order of the archive.
func (s *State) all(fn func(i int, r *stateRecord) error) error {
	for n, b := range s.trailer.Blocks {
		list, err := s.decode(n)
		if err != nil {
			return err
		}
		for i := range list {
			if err := fn(b.First+i, &list[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *State) decode(n int) ([]stateRecord, error) {
	b := s.trailer.Blocks[n]
	packed := make([]byte, b.Packed)
	if _, err := s.f.ReadAt(packed, b.Offset); err != nil {
		return nil, fmt.Errorf("cannot read state: %w", err)
	}
	return parseStateBlock(s.dec, packed, len(s.trailer.Sources))
}

func parseStateBlock(dec *zstd.Decoder, packed []byte, sources int) ([]stateRecord, error) {
	raw, err := dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot read state: %w", err)
	}
	text := string(raw)
	out := make([]stateRecord, 0, len(raw)/usualRecord)
	for len(raw) > 0 {
		var r stateRecord
		if raw, err = parseStateRecord(raw, text, &r); err != nil {
			return nil, err
		}
		if r.src >= sources {
			return nil, errState
		}
		out = append(out, r)
	}
	return out, nil
}

// record returns a record by its number. It is valid until the next call.
func (s *State) record(i int) (*stateRecord, error) {
	blocks := s.trailer.Blocks
	n := sort.Search(len(blocks), func(k int) bool { return blocks[k].First > i }) - 1
	at := slices.IndexFunc(s.cache, func(c stateCached) bool { return c.block == n })
	if at < 0 {
		list, err := s.decode(n)
		if err != nil {
			return nil, err
		}
		if len(s.cache) == stateCache {
			s.cache = s.cache[1:]
		}
		s.cache = append(s.cache, stateCached{n, list})
		at = len(s.cache) - 1
	}
	list := s.cache[at].records
	if k := i - blocks[n].First; k < len(list) {
		return &list[k], nil
	}
	return nil, errState
}

// find calls fn for each record of an inode until it returns true.
func (s *State) find(ino uint64, fn func(r *stateRecord) bool) error {
	h := inodeHash(ino)
	i, _ := slices.BinarySearchFunc(s.inodes, h, func(e, h uint64) int { return cmp.Compare(e&^(1<<32-1), h) })
	for ; i < len(s.inodes) && s.inodes[i]&^(1<<32-1) == h; i++ {
		r, err := s.record(int(s.inodes[i] & (1<<32 - 1)))
		if err != nil {
			return err
		}
		if r.ino == ino && fn(r) {
			return nil
		}
	}
	return nil
}

// above yields the directories above a path, the deepest first, without the root.
func above(path string, fn func(dir string)) {
	for i := strings.LastIndexByte(path, '/'); i > 0; i = strings.LastIndexByte(path[:i], '/') {
		fn(path[:i])
	}
}
