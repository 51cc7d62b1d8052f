package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sync"

	"github.com/anacrolix/torrent/metainfo"
	"github.com/anacrolix/torrent/storage"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/swarm/settorrent"
)

// pieces are where a node keeps the pieces of a set. Offsets are in the piece.
type pieces interface {
	readAt(piece int, p []byte, off int64) (int, error)
	writeAt(piece int, p []byte, off int64) (int, error)
	// state of a piece; known is false for one that has to be read to know.
	state(piece int) (complete, known bool)
	mark(piece int, complete bool)
	close() error
}

// impl makes the library's storage of pieces.
type impl struct{ pieces }

func (s impl) OpenTorrent(context.Context, *metainfo.Info, metainfo.Hash) (storage.TorrentImpl, error) {
	return storage.TorrentImpl{
		Piece: func(p metainfo.Piece) storage.PieceImpl { return pieceImpl{s.pieces, p.Index()} },
		Close: func() error { return nil },
	}, nil
}

type pieceImpl struct {
	s pieces
	i int
}

func (p pieceImpl) ReadAt(b []byte, off int64) (int, error)  { return p.s.readAt(p.i, b, off) }
func (p pieceImpl) WriteAt(b []byte, off int64) (int, error) { return p.s.writeAt(p.i, b, off) }
func (p pieceImpl) MarkComplete() error                      { p.s.mark(p.i, true); return nil }
func (p pieceImpl) MarkNotComplete() error                   { p.s.mark(p.i, false); return nil }
func (p pieceImpl) Completion() storage.Completion {
	complete, known := p.s.state(p.i)
	return storage.Completion{Ok: known, Complete: complete}
}

// seedStore has all pieces, in the set's files, and is never written to.
type seedStore struct {
	src     *settorrent.Source
	piece   int64
	damaged func(error) // told of what cannot be read
}

func (s seedStore) readAt(i int, p []byte, off int64) (int, error) {
	n, err := s.src.ReadAt(p, int64(i)*s.piece+off)
	if err != nil && s.damaged != nil {
		s.damaged(err)
	}
	return n, err
}

func (seedStore) writeAt(int, []byte, int64) (int, error) {
	return 0, errors.New("the set is read only")
}
func (seedStore) state(int) (bool, bool) { return true, true }
func (seedStore) mark(int, bool)         {}
func (s seedStore) close() error         { return s.src.Close() }

// dirStore keeps the set's files in a directory. Nothing leads out of it.
type dirStore struct {
	root  *os.Root
	t     *settorrent.Torrent
	files []settorrent.Span

	mu       sync.Mutex
	open     map[string]*os.File
	complete []bool
	known    []bool
}

// newDirStore opens or makes a directory. What is there of the set's files is to be
// checked, piece by piece.
func newDirStore(dir string, t *settorrent.Torrent) (*dirStore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	n := t.Info.NumPieces()
	s := &dirStore{root: root, t: t, files: t.Files(), open: map[string]*os.File{}, complete: make([]bool, n), known: make([]bool, n)}
	fresh := true
	for _, f := range s.files {
		if d := path.Dir(f.Name); d != "." {
			if err := root.MkdirAll(d, 0o700); err != nil {
				return nil, errors.Join(err, root.Close())
			}
		}
		st, err := root.Lstat(f.Name)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return nil, errors.Join(err, root.Close())
		case !st.Mode().IsRegular():
			return nil, errors.Join(fmt.Errorf("%s is not a regular file", f.Name), root.Close())
		case st.Size() > 0:
			fresh = false
		}
		if f.Length == 0 { // no piece makes it
			if _, err := s.file(f.Name); err != nil {
				return nil, errors.Join(err, root.Close())
			}
		}
	}
	for i := range s.known {
		s.known[i] = fresh
	}
	return s, nil
}

// maxOpen bounds the number of open files.
const maxOpen = 64

func (s *dirStore) file(name string) (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.open[name]; f != nil {
		return f, nil
	}
	f, err := s.root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if len(s.open) >= maxOpen { // in use by nobody else for long: a set has few large files
		for k, o := range s.open {
			delete(s.open, k)
			_ = o.Close()
			break
		}
	}
	s.open[name] = f
	return f, nil
}

func (s *dirStore) each(i int, p []byte, off int64, fn func(f *os.File, p []byte, off int64) (int, error)) (int, error) {
	done := 0
	for _, r := range settorrent.Ranges(s.files, int64(i)*s.t.Info.PieceLength+off, int64(len(p))) {
		n, err := 0, error(nil)
		for range 3 { // another goroutine may have closed it
			var f *os.File
			if f, err = s.file(r.Name); err == nil {
				n, err = fn(f, p[done:done+int(r.Length)], r.Offset)
			}
			if !errors.Is(err, os.ErrClosed) {
				break
			}
		}
		if done += n; err != nil {
			return done, err
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

func (s *dirStore) readAt(i int, p []byte, off int64) (int, error) {
	return s.each(i, p, off, func(f *os.File, p []byte, off int64) (int, error) {
		n, err := f.ReadAt(p, off)
		if n < len(p) && err == io.EOF {
			err = io.ErrUnexpectedEOF
		} else if n == len(p) {
			err = nil
		}
		return n, err
	})
}

func (s *dirStore) writeAt(i int, p []byte, off int64) (int, error) {
	return s.each(i, p, off, (*os.File).WriteAt)
}

func (s *dirStore) state(i int) (bool, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.complete[i], s.known[i]
}

func (s *dirStore) mark(i int, complete bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.complete[i], s.known[i] = complete, true
}

func (s *dirStore) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for k, f := range s.open {
		errs = append(errs, f.Close())
		delete(s.open, k)
	}
	return errors.Join(append(errs, s.root.Close())...)
}

// remove closes the store and removes the set's files from its directory.
func (s *dirStore) remove() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for k, f := range s.open {
		errs = append(errs, f.Close())
		delete(s.open, k)
	}
	for _, f := range s.files {
		if err := s.root.Remove(f.Name); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, s.root.Close())...)
}

// free returns the bytes that are free in the directory's file system, and its size.
func (s *dirStore) free() (free, size int64, err error) {
	d, err := s.root.Open(".")
	if err != nil {
		return 0, 0, err
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return 0, 0, err
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}

// changing is a directory that is given up for a ring of memory when it is full.
type changing struct {
	mu  sync.RWMutex
	now pieces
}

func (c *changing) readAt(i int, p []byte, off int64) (int, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.now.readAt(i, p, off)
}

func (c *changing) writeAt(i int, p []byte, off int64) (int, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.now.writeAt(i, p, off)
}

func (c *changing) state(i int) (bool, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.now.state(i)
}

func (c *changing) mark(i int, complete bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	c.now.mark(i, complete)
}

func (c *changing) close() error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.now.close()
}

// blockSize is what peers ask for at once (BEP 3).
const blockSize = 16 << 10

// slot is a piece in memory.
type slot struct {
	b       []byte
	written []bool // of each block
}

// ring keeps pieces in memory. When it is full, the piece goes that is first in the
// order, but those that are pinned and those that the reader has not had.
type ring struct {
	size  int64 // of a piece
	total int64 // of all pieces
	cap   int   // pieces
	rank  []int // of a piece in the order

	mu       sync.Mutex
	slots    map[int]*slot
	complete map[int]bool
	pinned   map[int]bool
	wanted   map[int]bool // a reader waits for it
	reader   int          // the rank of the piece that the reader is at
	evicted  func(piece int)
}

// newRing makes a ring of at most memory bytes.
func newRing(memory int64, t *settorrent.Torrent) (*ring, error) {
	n := t.Info.NumPieces()
	r := &ring{size: t.Info.PieceLength, total: t.Total(), cap: int(min(memory/t.Info.PieceLength, int64(n))), rank: make([]int, n), slots: map[int]*slot{}, complete: map[int]bool{}, pinned: map[int]bool{}, wanted: map[int]bool{}}
	for rank, p := range t.Order() {
		r.rank[p] = rank
	}
	for i, p := range t.Head {
		if i < r.cap/2 {
			r.pinned[p] = true
		}
	}
	if least := min(n, 8); r.cap < least {
		return nil, fmt.Errorf("memory for %d pieces of %d bytes is needed at least", least, r.size)
	}
	return r, nil
}

// room is how many pieces behind the reader may be fetched: a quarter is kept of what
// was read, for the machine behind.
func (r *ring) room() int {
	if r.cap == len(r.rank) {
		return r.cap
	}
	return max(2, r.cap-len(r.pinned)-(r.cap-len(r.pinned))/4)
}

// readAt fails for what was not written since the piece got its slot: the library then
// knows that not the peer is to blame for a wrong hash.
func (r *ring) readAt(i int, p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.slots[i]
	if s == nil {
		return 0, errors.New("the piece is no longer in memory")
	}
	length := min(r.size, r.total-int64(i)*r.size)
	n := min(int64(len(p)), max(0, length-off))
	for at := off - off%blockSize; at < off+n; at += blockSize {
		if !s.written[at/blockSize] {
			return 0, errors.New("a part of the piece is not in memory")
		}
	}
	if copy(p, s.b[min(off, length):length]) < len(p) {
		return int(n), io.EOF
	}
	return len(p), nil
}

func (r *ring) writeAt(i int, p []byte, off int64) (int, error) {
	r.mu.Lock()
	if off < 0 || off+int64(len(p)) > r.size {
		r.mu.Unlock()
		return 0, io.ErrShortWrite
	}
	gone := -1
	s := r.slots[i]
	if s == nil {
		if len(r.slots) >= r.cap {
			if gone = r.victim(i); gone < 0 {
				r.mu.Unlock()
				return 0, errors.New("the memory for pieces is full")
			}
			s = r.slots[gone]
			clear(s.written)
			delete(r.slots, gone)
			delete(r.complete, gone)
		} else {
			s = &slot{make([]byte, r.size), make([]bool, (r.size+blockSize-1)/blockSize)}
		}
		r.slots[i] = s
	}
	n := copy(s.b[off:], p)
	end, length := off+int64(n), min(r.size, r.total-int64(i)*r.size)
	for at := (off + blockSize - 1) / blockSize * blockSize; at < end && (at+blockSize <= end || end >= length); at += blockSize {
		s.written[at/blockSize] = true
	}
	r.mu.Unlock()
	if gone >= 0 && r.evicted != nil {
		r.evicted(gone)
	}
	return n, nil
}

// victim chooses the piece that makes room for another; -1 for none. It is the first in
// the order that the reader has had, else the last that is behind the other one. For one
// that a second reader waits for, far behind the first, it is also one so far behind.
func (r *ring) victim(other int) int {
	first, last, far := -1, -1, -1
	lower := func(a, b int) int {
		if a < 0 || r.rank[b] < r.rank[a] {
			return b
		}
		return a
	}
	for p := range r.slots {
		rank := r.rank[p]
		if p == other || r.pinned[p] {
			continue
		}
		if rank < r.reader {
			first = lower(first, p)
		}
		if rank > r.rank[other] && (last < 0 || rank > r.rank[last]) {
			last = p
		}
		if r.wanted[other] && !r.wanted[p] && rank > r.reader+r.room() {
			far = lower(far, p)
		}
	}
	switch {
	case first >= 0:
		return first
	case last >= 0:
		return last
	}
	return far
}

// wait notes whether a reader waits for a piece.
func (r *ring) wait(piece int, waits bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if waits {
		r.wanted[piece] = true
	} else {
		delete(r.wanted, piece)
	}
}

func (r *ring) state(i int) (bool, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.complete[i], true
}

func (r *ring) mark(i int, complete bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.slots[i]; complete && ok {
		r.complete[i] = true
	} else {
		delete(r.complete, i)
	}
}

// setReader sets the rank of the piece that the reader is at.
func (r *ring) setReader(rank int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reader = rank
}

func (r *ring) readerRank() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reader
}

func (r *ring) close() error { return nil }
