package manifest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/mkcdrec/mkcdrec/internal/frames"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/volume"
)

// DiscsFile is in a set whose archives are on several discs.
const DiscsFile = "discs.json"

// Discs is the content of discs.json, which every disc of a set has.
type Discs struct {
	Version  int       `json:"version"`
	ID       string    `json:"id"` // of the set
	Discs    []Disc    `json:"discs"`
	Archives []Divided `json:"archives"`
	// This is the number of the disc that the file is on, from 1.
	This int `json:"this"`
}

// Disc is one disc of a set.
type Disc struct {
	Number int    `json:"number"`
	Label  string `json:"label"` // ISO 9660 volume id
}

// Divided is an archive that is in volumes.
type Divided struct {
	File string        `json:"file"`
	Size quantity.Size `json:"size"`
	// Tail is a file that every disc has: the archive's last bytes, from
	// TailAt, where its index is; "" for an object of an encrypted set, whose volumes are its
	// bytes and nothing else.
	Tail    string        `json:"tail"`
	TailAt  quantity.Size `json:"tailAt"`
	Volumes []Volume      `json:"volumes"`
}

// Volume is a part of an archive on one disc.
type Volume struct {
	File   string        `json:"file"`
	Disc   int           `json:"disc"`
	Number int           `json:"number"`
	Offset quantity.Size `json:"offset"` // in the archive
	Size   quantity.Size `json:"size"`   // of the archive
	Length quantity.Size `json:"length"` // of the file
}

func (v Volume) valid(bare bool) bool {
	return v.Size > 0 && (v.Length > v.Size && !bare || v.Length == v.Size && bare) && v.Disc >= 1 && v.File != "" && !strings.Contains(v.File, "/")
}

// bare reports whether the volumes have no frames of their own.
func (a *Divided) bare() bool { return a.Tail == "" }

// ParseDiscs reads discs.json; unknown fields are refused.
func ParseDiscs(b []byte) (*Discs, error) {
	var d Discs
	if err := store.Decode(DiscsFile, b, &d); err != nil {
		return nil, err
	}
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("%s:\n%w", DiscsFile, err)
	}
	return &d, nil
}

// Validate reports all faults at once.
func (d *Discs) Validate() error {
	if d.Version != Version {
		return fmt.Errorf("version: is %d; this program knows %d", d.Version, Version)
	}
	var errs []error
	bad := func(f string, a ...any) { errs = append(errs, fmt.Errorf(f, a...)) }
	for i, x := range d.Discs {
		if x.Number != i+1 || x.Label == "" || len(x.Label) > 32 {
			bad("discs[%d]: number %d, label %q", i, x.Number, x.Label)
		}
	}
	if d.This < 1 || d.This > len(d.Discs) {
		bad("this: %d of %d discs", d.This, len(d.Discs))
	}
	for i, a := range d.Archives {
		errs = append(errs, a.check(fmt.Sprintf("archives[%d]", i), len(d.Discs)))
	}
	return errors.Join(errs...)
}

// check reports the faults of an archive, which has a name in the list, on a number of discs.
func (a *Divided) check(name string, discs int) error {
	var errs []error
	at := quantity.Size(0)
	for j, v := range a.Volumes {
		if v.Number != j+1 || v.Offset != at || v.Disc > discs || !v.valid(a.bare()) {
			errs = append(errs, fmt.Errorf("%s.volumes[%d]: %+v", name, j, v))
		}
		at += v.Size
	}
	if at != a.Size || a.TailAt < 0 || a.TailAt > a.Size || a.File == "" || strings.Contains(a.Tail, "/") {
		errs = append(errs, fmt.Errorf("%s: %s: volumes of %d bytes, size %d, tail at %d", name, a.File, at, a.Size, a.TailAt))
	}
	return errors.Join(errs...)
}

// DiscSource gives discs of a set when they are needed.
type DiscSource interface {
	// Disc gives the set's directory on a disc. It may take as long as it
	// takes a person to put the disc in. Directories that it gave before are
	// no longer valid. problem is why the disc that was given can't be used.
	Disc(ctx context.Context, d Disc, problem error) (dir string, err error)
}

// discStore is a store.Store of a set on discs. Files that every disc has are
// read from the one that is there.
type discStore struct {
	index  *Discs
	source DiscSource
	giveUp bool
	ctx    context.Context

	mu   sync.Mutex
	dir  string
	disc int
	open map[string]*openVolume
}

type openVolume struct {
	f *os.File
	v io.ReaderAt
}

// newDiscStore reads discs.json in dir; nil if absent.
func newDiscStore(dir string) (*discStore, error) {
	b, err := store.ReadFile(store.Dir(dir), DiscsFile, MaxText)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d, err := ParseDiscs(b)
	if err != nil {
		return nil, err
	}
	return &discStore{index: d, source: mountedDiscs{dir, d.ID}, ctx: context.Background(), dir: dir, disc: d.This, open: map[string]*openVolume{}}, nil
}

// use has discs come from source, until ctx ends.
func (s *discStore) use(ctx context.Context, source DiscSource) {
	s.ctx, s.source = ctx, source
}

func (s *discStore) String() string { return s.dir }

func (s *discStore) divided(name string) *Divided {
	for i := range s.index.Archives {
		if s.index.Archives[i].File == name {
			return &s.index.Archives[i]
		}
	}
	return nil
}

// Size implements store.Store.
func (s *discStore) Size(name string) (int64, error) {
	if a := s.divided(name); a != nil {
		return int64(a.Size), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return store.Dir(s.dir).Size(name)
}

// Open implements store.Store.
func (s *discStore) Open(name string) (store.File, error) {
	a := s.divided(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if a == nil { // in memory: a disc on which a file is open can't be taken out
		b, err := store.ReadFile(store.Dir(s.dir), name, frames.MaxIndex)
		if err != nil {
			return nil, err
		}
		return memoryFile{bytes.NewReader(b)}, nil
	}
	var tail []byte
	var err error
	if a.Tail != "" {
		tail, err = store.ReadFile(store.Dir(s.dir), a.Tail, frames.MaxIndex)
	}
	if err == nil && int64(len(tail)) != int64(a.Size-a.TailAt) {
		err = fmt.Errorf("%s has %d bytes, not %d", a.Tail, len(tail), int64(a.Size-a.TailAt))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the index of %s: %w", name, err)
	}
	return &dividedFile{s, a, tail}, nil
}

// whole reports whether all of an archive's volumes are on the disc that is
// there.
func (s *discStore) whole(name string) bool {
	a := s.divided(name)
	if a == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range a.Volumes {
		if _, err := os.Stat(filepath.Join(s.dir, v.File)); err != nil {
			return false
		}
	}
	return true
}

func (s *discStore) closeAll() {
	for n, o := range s.open {
		o.f.Close()
		delete(s.open, n)
	}
}

// volume gives an opened volume; it asks for its disc as often as it takes.
func (s *discStore) volume(a *Divided, v Volume) (io.ReaderAt, error) {
	if o := s.open[v.File]; o != nil {
		return o.v, nil
	}
	o, problem := s.openVolume(s.dir, a, v)
	for o == nil {
		if err := s.ctx.Err(); err != nil {
			return nil, err
		}
		s.closeAll()
		d := s.index.Discs[v.Disc-1]
		if v.Disc != s.disc {
			problem = nil // it is not expected to be here
		}
		dir, err := s.source.Disc(s.ctx, d, problem)
		if err != nil {
			return nil, err
		}
		s.dir, s.disc = dir, v.Disc
		o, problem = s.openVolume(dir, a, v)
	}
	s.open[v.File] = o
	return o.v, nil
}

// openVolume checks that the file is the volume that discs.json lists.
func (s *discStore) openVolume(dir string, a *Divided, v Volume) (*openVolume, error) {
	name := filepath.Join(dir, v.File)
	f, err := regular.Open(name)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && a.bare() {
		if st.Size() == int64(v.Size) {
			return &openVolume{f, f}, nil
		}
		err = fmt.Errorf("it has %d bytes, not %d", st.Size(), int64(v.Size))
	}
	var x *volume.File
	if err == nil {
		x, err = volume.OpenFile(f, st.Size())
	}
	if err == nil && (x.Header.ID.String() != s.index.ID || x.Header.Name != a.File || x.Header.Number != v.Number || x.Header.Offset != int64(v.Offset) || x.End.Size != int64(v.Size)) {
		err = fmt.Errorf("it is %v, not volume %d of %s of the set %s", x.Header, v.Number, a.File, s.index.ID)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot use %s: %w", name, err)
	}
	return &openVolume{f, x}, nil
}

// memoryFile is a small file of a disc.
type memoryFile struct{ *bytes.Reader }

func (memoryFile) Close() error { return nil }

type dividedFile struct {
	s    *discStore
	a    *Divided
	tail []byte
}

// InOrder implements sealed.InOrder.
func (f *dividedFile) InOrder() {}

func (f *dividedFile) Size() int64  { return int64(f.a.Size) }
func (f *dividedFile) Close() error { return nil }

// again asks for a disc that can't be read where it has to be: it was taken
// out, or has a scratch. It gives problem back when nobody brings another.
func (s *discStore) again(v Volume, problem error) error {
	if s.giveUp || s.ctx.Err() != nil {
		return problem
	}
	s.closeAll()
	dir, err := s.source.Disc(s.ctx, s.index.Discs[v.Disc-1], problem)
	if err != nil {
		return problem
	}
	s.dir, s.disc = dir, v.Disc
	return nil
}

// ReadAt reads from the volumes, one call at a time.
func (f *dividedFile) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(f.a.TailAt) {
		return bytes.NewReader(f.tail).ReadAt(p, off-int64(f.a.TailAt))
	}
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	done := 0
	for _, v := range f.a.Volumes {
		rel := off - int64(v.Offset)
		if done == len(p) || rel < 0 || rel >= int64(v.Size) {
			continue
		}
		for n := min(int64(len(p)-done), int64(v.Size)-rel); n > 0; {
			x, err := f.s.volume(f.a, v)
			if err != nil {
				return done, err
			}
			k, err := x.ReadAt(p[done:done+int(n)], rel)
			done, off, rel, n = done+k, off+int64(k), rel+int64(k), n-int64(k)
			if n == 0 {
				break
			}
			err = fmt.Errorf("cannot read %s on disc %d: %w", v.File, v.Disc, err)
			if err := f.s.again(v, err); err != nil {
				return done, err
			}
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// mountedDiscs finds discs where they are mounted, or their content copied:
// in the directory itself, and in those of file systems.
type mountedDiscs struct{ dir, id string }

// Disc implements DiscSource; it asks nobody.
func (m mountedDiscs) Disc(_ context.Context, d Disc, problem error) (string, error) {
	if problem != nil {
		return "", problem
	}
	base := filepath.Base(m.dir)
	var dirs []string
	// Beside this disc's directory; its name is not a pattern.
	above := filepath.Dir(filepath.Dir(m.dir))
	if beside, err := os.ReadDir(above); err == nil {
		for _, e := range beside {
			dirs = append(dirs, filepath.Join(above, e.Name(), base))
		}
	}
	mounts, err := sysconf.Mounts("")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("cannot look for disc %d: %w", d.Number, err)
	}
	for _, mi := range mounts {
		if fstype.Of(mi.Type).Medium {
			dirs = append(dirs, filepath.Join(mi.Path, base))
		}
	}
	for _, dir := range dirs {
		if b, err := regular.ReadFile(filepath.Join(dir, DiscsFile), MaxText); err == nil {
			if x, err := ParseDiscs(b); err == nil && x.ID == m.id && x.This == d.Number {
				return dir, nil
			}
		}
	}
	return "", fmt.Errorf("disc %d of the set is needed, label %s: mount it, anywhere", d.Number, d.Label)
}
