package set

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/frames"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/store/sealed"
)

// parts is what a set in a directory consists of, as discs take it.
type parts struct {
	dir, id, host string
	created       time.Time
	// divided are the files that are cut into volumes, in the order in which a restore wants
	// them.
	divided []part
	// common are the files that every disc has, by name, first those that only the first one
	// has.
	common, first map[string]string
	close         func() error
}

// part is a file that is cut into volumes between its pieces.
type part struct {
	name    string
	size    int64
	lengths func() ([]int64, error) // of its pieces, in bytes
	// tail is the name of a file that every disc has with the bytes from tailAt on; "" for
	// none.
	tail   string
	tailAt int64
}

// readParts looks at the set in a directory. The files that discs have and the set has not are
// made in work, and the manifest that is one of them is signed by sign, if that is not nil.
func readParts(from, work string, sign func([]byte) ([]byte, error)) (*parts, error) {
	if _, err := os.Stat(filepath.Join(from, sealed.HeadFile)); err == nil {
		return sealedParts(from)
	}
	s, err := manifest.Open(from)
	if err != nil {
		return nil, err
	}
	p, err := plainParts(s, work, sign)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return p, nil
}

// increment is the fault of a set that discs don't take.
func increment(needs int) error {
	return fmt.Errorf("it is an increment that needs %d earlier sets; discs take full sets only", needs)
}

// plainParts are those of a set that is not encrypted.
func plainParts(s *manifest.Set, work string, sign func([]byte) ([]byte, error)) (*parts, error) {
	p := &parts{dir: s.Local(), id: s.Manifest.ID, host: s.Manifest.Host, created: s.Manifest.Created, common: map[string]string{}, first: map[string]string{}, close: s.Close}
	if p.dir == "" {
		return nil, errors.New("want a backup set in one directory")
	}
	if err := s.SignatureFault; err != nil {
		return nil, fmt.Errorf("the signature of the backup set is not valid: %w", err)
	}
	if n := len(s.Manifest.Needs); n > 0 {
		return nil, increment(n)
	}
	divided := map[string]bool{}
	for _, a := range framed(s) {
		divided[a.Name] = true
		x := part{name: a.Name, size: int64(a.Size), tail: a.Name + ".tail", lengths: func() ([]int64, error) { return lengths(s, a.Name) }}
		l, err := x.lengths()
		if err != nil {
			return nil, err
		}
		x.tailAt = x.size - l[len(l)-1] - l[len(l)-2]
		file := filepath.Join(work, x.tail)
		if err := copyFrom(filepath.Join(p.dir, a.Name), x.tailAt, file); err != nil {
			return nil, err
		}
		p.common[x.tail] = file
		p.divided = append(p.divided, x)
	}
	for _, f := range s.Manifest.Files {
		switch {
		case divided[f.Name], f.Name == manifest.RescueISO:
		case strings.HasPrefix(f.Name, "log/"):
			p.first[f.Name] = filepath.Join(p.dir, f.Name)
		default:
			p.common[f.Name] = filepath.Join(p.dir, f.Name)
		}
	}
	return p, p.manifest(s, work, sign)
}

// manifest makes the manifest of the discs, without rescue.iso: the first image itself stands for
// it. It is signed as the set would be that is made here now.
func (p *parts) manifest(s *manifest.Set, work string, sign func([]byte) ([]byte, error)) error {
	m := *s.Manifest
	m.Files = slices.DeleteFunc(slices.Clone(m.Files), func(f manifest.FileSum) bool { return f.Name == manifest.RescueISO })
	if err := m.Write(work); err != nil {
		return err
	}
	if err := signFile(work, manifest.File, sign); err != nil {
		return err
	}
	p.common[manifest.File] = filepath.Join(work, manifest.File)
	if sign != nil {
		p.common[manifest.Signature] = filepath.Join(work, manifest.Signature)
	}
	return nil
}

// framed are the files that are divided between frames, in the order in which a
// restore wants them: images of devices, then archives.
func framed(s *manifest.Set) []manifest.FileSum {
	var out []manifest.FileSum
	add := func(name string) {
		if f := s.Manifest.Sum(name); f.Name != "" {
			out = append(out, f)
		}
	}
	for _, m := range s.Layout.Images {
		add(m.File)
	}
	for _, a := range s.Manifest.Archives {
		add(a.File)
	}
	return out
}

// lengths are those of a file's frames.
func lengths(s *manifest.Set, name string) ([]int64, error) {
	f, err := s.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l, err := frames.Lengths(f, f.Size())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return l, nil
}

func copyFrom(src string, at int64, dst string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.NewSectionReader(in, at, 1<<62))
	return errors.Join(err, out.Close())
}

// cutAt is the length of the pieces of an encrypted file, in bytes. They mean nothing: it can be cut anywhere.
const cutAt = 1 << 20

// sealedParts are those of an encrypted set, of which nothing is decrypted: nobody here may have a
// key. Its manifest stays as it is, with its signature.
func sealedParts(from string) (*parts, error) {
	h, _, err := sealed.ReadHead(store.Dir(from))
	if err != nil {
		return nil, err
	}
	if n := len(h.Needs); n > 0 {
		return nil, increment(n)
	}
	p := &parts{dir: filepath.Clean(from), id: h.ID, host: h.Host, created: h.Created, common: map[string]string{}, close: func() error { return nil }}
	entries, err := os.ReadDir(from)
	if err != nil {
		return nil, err
	}
	files, size := 0, int64(0)
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			return nil, err
		}
		object := strings.HasSuffix(e.Name(), ".age") && e.Name() != sealed.IndexFile
		if object {
			files, size = files+1, size+st.Size()
		}
		switch {
		case !st.Mode().IsRegular() || !object && e.Name() != sealed.HeadFile && e.Name() != sealed.IndexFile:
		case st.Size() > minVolume:
			p.divided = append(p.divided, part{name: e.Name(), size: st.Size(), tailAt: st.Size(), lengths: func() ([]int64, error) { return pieces(st.Size()), nil }})
		default:
			p.common[e.Name()] = filepath.Join(p.dir, e.Name())
		}
	}
	if files != h.Files || size != h.Size {
		return nil, fmt.Errorf("the set is not whole: it has %d files of %d bytes; want %d of %d", files, size, h.Files, h.Size)
	}
	return p, nil
}

// pieces are the lengths of pieces that a file of some size can be cut into.
func pieces(size int64) []int64 {
	var out []int64
	for ; size > 0; size -= cutAt {
		out = append(out, min(size, cutAt))
	}
	return out
}
