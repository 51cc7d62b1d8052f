package settorrent

import (
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/store"
)

const errReadOnly = unix.EROFS

// Source reads the torrent's bytes from a set's files. It is safe for several
// goroutines. Files stay open.
type Source struct {
	dir   store.Store
	files []Span

	mu   sync.Mutex
	open map[string]store.File
}

// NewSource reads the files of a store.
func NewSource(dir store.Store, files []Span) *Source {
	return &Source{dir: dir, files: files, open: map[string]store.File{}}
}

// maxOpen bounds the number of open files: a set has few large ones.
const maxOpen = 64

// file opens a file; kept reports whether it stays open.
func (s *Source) file(name string) (f store.File, kept bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.open[name]; f != nil {
		return f, true, nil
	}
	if f, err = s.dir.Open(name); err != nil {
		return nil, false, err
	}
	if kept = len(s.open) < maxOpen; kept {
		s.open[name] = f
	}
	return f, kept, nil
}

// ReadAt implements io.ReaderAt over the bytes of all files, one after the other. A
// file that became shorter is an error.
func (s *Source) ReadAt(p []byte, off int64) (int, error) {
	got := 0
	for _, r := range Ranges(s.files, off, int64(len(p))) {
		f, kept, err := s.file(r.Name)
		if err != nil {
			return got, fmt.Errorf("cannot read %s: %w", r.Name, err)
		}
		n, err := f.ReadAt(p[got:got+int(r.Length)], r.Offset)
		if !kept {
			f.Close()
		}
		got += n
		if n < int(r.Length) {
			if err == io.EOF {
				err = fmt.Errorf("it ends at byte %d, before its size", r.Offset+int64(n))
			}
			return got, fmt.Errorf("cannot read %s: %w", r.Name, err)
		}
	}
	if got < len(p) {
		return got, io.EOF
	}
	return got, nil
}

// Close closes the files.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.open {
		f.Close()
	}
	clear(s.open)
	return nil
}
