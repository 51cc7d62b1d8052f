package sealed

import (
	"errors"
	"fmt"
	"io"
	"os"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/store"
)

// InOrder is a file that is read from its beginning to its end, as those on a tape are.
type InOrder interface {
	store.File
	// InOrder tells such a file from others.
	InOrder()
}

// TailSuffix follows the name of a file in that of the file with its last bytes, which are wanted first. There is one
// for each file that is read in order.
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
	in := &inOrder{object: f, key: o.Key, size: o.Size, name: o.Object, tailAt: o.Size}
	tail, err := s.Open(name + TailSuffix)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return fail(err)
	default:
		in.tail = tail
		if in.tailAt -= tail.Size(); in.tailAt < 0 {
			return fail(errors.Join(fmt.Errorf("it has %d bytes, and its end %d", o.Size, tail.Size()), tail.Close()))
		}
	}
	return in, nil
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
	err := f.object.Close()
	if f.tail != nil {
		err = errors.Join(err, f.tail.Close())
	}
	return err
}
