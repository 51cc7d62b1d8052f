package media

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// ReadFile reads a file of at most limit bytes from an image that Write has made, without
// mounting it. It is an fs.ErrNotExist if the image has no such file.
func ReadFile(image, name string, limit int64) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("cannot read %s of %s: %w", name, image, err) }
	f, err := os.Open(image)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	if _, err := VolumeSize(f); err != nil {
		return fail(err)
	}
	pvd := make([]byte, sector)
	if _, err := f.ReadAt(pvd, 16*sector); err != nil {
		return fail(err)
	}
	found, is := extent{}, false
	want := path.Clean("/" + name)
	s := &stamper{f: unwritten{f}, seen: func(p string, e extent) {
		if p == want {
			found, is = e, true
		}
	}}
	le := binary.LittleEndian
	if err := s.directory(extent{le.Uint32(pvd[156+2:]), le.Uint32(pvd[156+10:])}, "", 0); err != nil {
		return fail(err)
	}
	switch {
	case !is:
		return fail(fs.ErrNotExist)
	case int64(found.size) > limit:
		return fail(fmt.Errorf("it has %d bytes, more than %d", found.size, limit))
	}
	b := make([]byte, found.size)
	if _, err := f.ReadAt(b, int64(found.block)*sector); err != nil {
		return fail(err)
	}
	return b, nil
}

// unwritten drops what is written to it.
type unwritten struct{ io.ReaderAt }

func (unwritten) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
