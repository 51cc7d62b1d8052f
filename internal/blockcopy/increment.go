package blockcopy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/mkcdrec/mkcdrec/internal/frames"
)

// maxSources is how many earlier images an increment refers to at most.
const maxSources = 4096

// Source is an image of an earlier set.
type Source struct {
	Set  string `json:"set"`  // id
	Dir  string `json:"dir"`  // name of the set's directory, beside that of the increment
	File string `json:"file"` // name of the image in the set
	// Index is the SHA-256, in hex, of the index that the image ends with.
	Index string `json:"index"`
}

// check reports whether the source is a file in a directory beside the increment's.
func (s Source) check() error {
	for _, n := range []string{s.Dir, s.File} {
		if n == "" || n == "." || n == ".." || filepath.Base(n) != n {
			return fmt.Errorf("it refers to an earlier image %q in %q", s.File, s.Dir)
		}
	}
	if b, err := hex.DecodeString(s.Index); err != nil || len(b) != sha256.Size {
		return fmt.Errorf("it refers to an earlier image with the digest %q", s.Index)
	}
	return nil
}

// Base is what an image is compared with: the index of the image before it. Frames are compared by their digests, so
// that a base of another device does no harm.
type Base struct {
	index  *index
	source Source
}

// ReadBase reads the index of the image before, as Summary.Index has it. at is where that image is; its Index is
// filled in.
func ReadBase(r io.ReaderAt, at Source) (*Base, error) {
	p, err := frames.Payload(r)
	if err == nil && p.Size() > frames.MaxPayload {
		err = errors.New("it is too long")
	}
	var payload []byte
	if err == nil {
		payload, err = io.ReadAll(p)
	}
	b := &Base{source: at}
	if err == nil {
		b.index, err = readIndex(payload)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use the index of the image before: %w", err)
	}
	b.source.Index = digest(payload)
	return b, nil
}

func digest(payload []byte) string {
	sum := sha256.Sum256(payload)
	return hex.EncodeToString(sum[:])
}

// sources are those of an increment of the base.
func (b *Base) sources() []Source { return append(slices.Clone(b.index.Sources), b.source) }

// has gives the number of the source that has frame n with a digest, from 1; 0 if none has.
func (b *Base) has(n int64, digest string) int {
	switch {
	case digest == "" || b.index.Sums[n] != digest:
		return 0
	case len(b.index.From) > 0 && b.index.From[n] > 0:
		return b.index.From[n]
	}
	return len(b.index.Sources) + 1
}

// stored counts frame n among those that an increment has itself.
func (s *Summary) stored(n int64) {
	if last := len(s.Runs) - 1; last >= 0 && s.Runs[last][0]+s.Runs[last][1] == n {
		s.Runs[last][1]++
		return
	}
	s.Runs = append(s.Runs, [2]int64{n, 1})
}

// File is an image's file.
type File interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// earlier is an earlier image of an increment, with the place of each frame that it has.
type earlier struct {
	file File
	name string
	at   []span
}

type span struct {
	offset int64
	packed uint32
}

// Sources are the earlier images that have frames of this one.
func (i *Image) Sources() []Source {
	var out []Source
	for k, s := range i.index.Sources {
		if slices.Contains(i.index.From, k+1) {
			out = append(out, s)
		}
	}
	return out
}

// from gives the number of the source that has frame n, from 1; 0 for this image.
func (i *Image) from(n int) int {
	if len(i.index.From) == 0 {
		return 0
	}
	return i.index.From[n]
}

// OpenEarlier opens the images that an increment needs, and checks that each is the one that it was made with, and has
// what is needed. Close closes them.
func (i *Image) OpenEarlier(open func(Source) (File, error)) error {
	if len(i.index.Sources) == 0 {
		return nil
	}
	i.earlier = make([]*earlier, len(i.index.Sources))
	var errs []error
	for k, s := range i.index.Sources {
		if !slices.Contains(i.index.From, k+1) {
			continue
		}
		e, err := i.openSource(k+1, s, open)
		if err != nil {
			errs = append(errs, fmt.Errorf("image %s needs %s of the earlier set %s: %w", i.name, s.File, s.Dir, err))
		}
		i.earlier[k] = e
	}
	if errs == nil {
		return nil
	}
	err := errors.Join(append(errs, i.Close())...)
	i.earlier = nil
	return err
}

// openSource opens the source with a number.
func (i *Image) openSource(number int, s Source, open func(Source) (File, error)) (_ *earlier, err error) {
	f, err := open(s)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	payload, sizes, err := frames.ReadIndex(f, f.Size())
	if err != nil {
		return nil, err
	}
	if digest(payload) != s.Index {
		return nil, errors.New("it is damaged, or another image")
	}
	ix, err := readIndex(payload)
	if err != nil {
		return nil, err
	}
	places, err := ix.place(sizes)
	if err != nil {
		return nil, err
	}
	e := &earlier{file: f, name: s.Dir + "/" + s.File, at: make([]span, len(places))}
	for n, p := range places {
		e.at[n] = span{p.Offset, uint32(p.Packed)}
	}
	for n, k := range i.index.From {
		if k == number && (n >= len(e.at) || e.at[n].packed == 0 || ix.Sums[n] != i.index.Sums[n]) {
			return nil, fmt.Errorf("it does not have frame %d", n)
		}
	}
	return e, nil
}

// Close closes the images that OpenEarlier opened, but not the image's own file.
func (i *Image) Close() error {
	var errs []error
	for _, e := range i.earlier {
		if e != nil {
			errs = append(errs, e.file.Close())
		}
	}
	i.earlier = nil
	return errors.Join(errs...)
}
