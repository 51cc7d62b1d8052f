package sealed

import (
	"errors"
	"fmt"
	"io"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/store"
)

// InOrder is a file that is best read from its beginning to its end, as those on a tape or on several discs are.
type InOrder interface {
	store.File
	// InOrder marks such a file.
	InOrder()
}

// TailSuffix follows the name of a file in that of the file with its last bytes, which are wanted first. A file that has
// one is read in order.
const TailSuffix = ".tail"

// inOrder is the content of an object that is read in order. Its last bytes are there at any time.
type inOrder struct {
	object store.File
	key    []byte
	size   int64
	name   string // of the object
	tail   store.File
	tailAt int64

	r   io.Reader // nil until something is read
	pos int64     // of r
}

// openInOrder opens a file of which f is the object.
func (s *Store) openInOrder(name string, o object, f store.File) (store.File, error) {
	fail := func(err error) (store.File, error) {
		return nil, errors.Join(fmt.Errorf("cannot read %s/%s, which has %s: %w", s.Store, o.Object, name, err), f.Close())
	}
	if f.Size() != o.Packed {
		return fail(fmt.Errorf("it has %d bytes, not %d", f.Size(), o.Packed))
	}
	tail, err := s.Open(name + TailSuffix)
	if err != nil {
		return fail(err)
	}
	if tail.Size() > o.Size {
		return fail(errors.Join(fmt.Errorf("it has %d bytes, and its end %d", o.Size, tail.Size()), tail.Close()))
	}
	return &inOrder{object: f, key: o.Key, size: o.Size, name: o.Object, tail: tail, tailAt: o.Size - tail.Size()}, nil
}

func (f *inOrder) Size() int64 { return f.size }

// ReadAt implements store.File. Going back is from the beginning again.
func (f *inOrder) ReadAt(p []byte, off int64) (int, error) {
	if off >= f.size {
		return 0, io.EOF
	}
	if off >= f.tailAt {
		return f.tail.ReadAt(p, off-f.tailAt)
	}
	var end error
	if n := f.size - off; n <= int64(len(p)) {
		p, end = p[:n], io.EOF
	}
	n, err := f.read(p, off)
	if err != nil {
		f.r = nil
		return n, fmt.Errorf("cannot decrypt %s: %w", f.name, err)
	}
	return n, end
}

// read reads all of p.
func (f *inOrder) read(p []byte, off int64) (int, error) {
	if f.r == nil || off < f.pos {
		r, err := age.Decrypt(io.NewSectionReader(f.object, 0, f.object.Size()), age.NewInjectedFileKeyIdentity(f.key))
		if err != nil {
			return 0, err
		}
		f.r, f.pos = r, 0
	}
	n, err := io.CopyN(io.Discard, f.r, off-f.pos)
	if f.pos += n; err != nil {
		return 0, err
	}
	k, err := io.ReadFull(f.r, p)
	f.pos += int64(k)
	return k, err
}

// Close implements store.File.
func (f *inOrder) Close() error {
	return errors.Join(f.object.Close(), f.tail.Close())
}
