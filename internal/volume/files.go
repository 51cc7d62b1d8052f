package volume

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// FileName is the name of a volume's file: NAME.001, NAME.002, ...
func FileName(name string, number int) string { return fmt.Sprintf("%s.%03d", name, number) }

// NewID gives a random UUID, version 4.
func NewID() ID {
	var id ID
	rand.Read(id[:]) // never fails, by its documentation
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// Files writes volumes as files of a directory. A file has its name only when
// it is whole and on the disk.
type Files struct {
	Dir   string
	Name  string
	First int64 // room in the first volume to be written, bytes
	Size  int64 // room in the others
	// Plain: see Cutter.
	Plain bool
	// Path gives the file of a volume; nil is Dir and FileName.
	Path func(number int) string
	// Done is called when a volume is whole, before the next one is begun.
	Done func(ctx context.Context, v Written) error
	// Progress: see Cutter.
	Progress func(n int64)

	state *os.File
}

// Written is a volume that is whole.
type Written struct {
	Header Header
	End    End
	Path   string
	Size   int64 // of the file, bytes
}

// record is a line of the state file, by which a run is taken up again.
type record struct {
	ID      string `json:"id,omitempty"` // the first line
	Name    string `json:"name,omitempty"`
	Created int64  `json:"created,omitempty"`
	Stored  bool   `json:"stored,omitempty"`
	Plain   bool   `json:"plain,omitempty"`
	Chunk   int64  `json:"chunk,omitempty"` // bytes of a chunk that was written
	Sum     string `json:"sum,omitempty"`
	Volume  int    `json:"volume,omitempty"` // a volume that is whole
	Digest  string `json:"digest,omitempty"`
	Last    bool   `json:"last,omitempty"`
	Done    int    `json:"done,omitempty"` // the number of a volume that Done took
}

func (f *Files) statePath() string { return filepath.Join(f.Dir, "."+f.Name+".cutstream") }

func (f *Files) path(number int) string {
	if f.Path != nil {
		return f.Path(number)
	}
	return filepath.Join(f.Dir, FileName(f.Name, number))
}

// ErrUnfinished means that a run before was not finished.
var ErrUnfinished = errors.New("an earlier run was not finished")

// Cut cuts the stream into files. If it fails, a record of the volumes
// that are whole lies beside them, and Resume continues there.
func (f *Files) Cut(ctx context.Context, r io.Reader) error {
	if _, err := os.Lstat(f.statePath()); err == nil {
		return fmt.Errorf("cannot begin: %w: %s records how far it came", ErrUnfinished, f.statePath())
	}
	if f.Path == nil {
		// Of any number: a shorter series must not end in an older one's rest.
		old, err := filepath.Glob(filepath.Join(quoteGlob(f.Dir), quoteGlob(f.Name)+".[0-9][0-9][0-9]*"))
		if err != nil {
			return fmt.Errorf("cannot begin: %w", err)
		}
		if len(old) > 0 {
			return fmt.Errorf("cannot begin: %s is there already", old[0])
		}
	}
	return f.run(ctx, r, &Cutter{Header: Header{ID: NewID(), Name: f.Name, Created: time.Now().UTC().Truncate(time.Second), Number: 1}})
}

// maxState bounds the state file, in bytes: some 150 for 4 MiB of the stream.
const maxState = 1 << 30

// Resume continues a run that failed; r is the same stream from its
// beginning. Done is called for the last whole volume if it did not take it.
func (f *Files) Resume(ctx context.Context, r io.Reader) error {
	c, open, last, err := f.load()
	if err != nil {
		return fmt.Errorf("cannot go on: %w", err)
	}
	if open != nil && f.Done != nil {
		if err := f.Done(ctx, *open); err != nil {
			return err
		}
	}
	if last {
		return os.Remove(f.statePath())
	}
	return f.run(ctx, r, c)
}

// load reads the state file: chunks of volumes that are not whole don't
// count, they are cut again.
func (f *Files) load() (c *Cutter, open *Written, last bool, err error) {
	b, err := ReadSmall(f.statePath(), maxState)
	if err != nil {
		return nil, nil, false, err
	}
	s := state{files: f}
	for i, line := range bytes.Split(bytes.TrimSpace(b), []byte("\n")) {
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			if i > 0 { // cut off by a crash: what came after the last whole volume
				break
			}
			return nil, nil, false, fmt.Errorf("%s, line %d: %w", f.statePath(), i+1, err)
		}
		if i == 0 {
			err = s.begin(r)
		} else {
			err = s.add(r, i+1)
		}
		if err != nil {
			return nil, nil, false, err
		}
	}
	return &s.cutter, s.open, s.last, nil
}

// state is what the state file has.
type state struct {
	files   *Files
	cutter  Cutter
	pending []Chunk  // of a volume that is not whole yet
	open    *Written // the last whole volume, if Done did not take it
	last    bool     // it is the last of all
}

func (s *state) begin(r record) error {
	id, err := ParseID(r.ID)
	if err != nil || r.Name != asJSON(s.files.Name) || r.Plain != s.files.Plain {
		return fmt.Errorf("%s is of another run", s.files.statePath())
	}
	s.cutter.Header = Header{ID: id, Name: s.files.Name, Created: time.Unix(r.Created, 0).UTC(), Stored: r.Stored, Number: 1}
	return nil
}

func (s *state) add(r record, line int) error {
	d, err := parseDigest(r.Sum + r.Digest)
	c := &s.cutter
	switch {
	case err != nil && (r.Chunk > 0 || r.Volume > 0):
		return fmt.Errorf("%s, line %d: bad digest", s.files.statePath(), line)
	case r.Chunk > 0:
		s.pending = append(s.pending, Chunk{r.Chunk, d})
	case r.Volume > 0:
		w := &Written{Header: c.Header, End: End{Last: r.Last, Digest: d}, Path: s.files.path(r.Volume)}
		for _, k := range s.pending {
			w.End.Size += k.Size
		}
		if st, err := os.Stat(w.Path); err == nil {
			w.Size = st.Size()
		}
		s.open, s.last = w, r.Last
		c.Skip = append(c.Skip, s.pending...)
		s.pending = nil
		c.Header.Number, c.Header.Previous = r.Volume+1, d
		c.Header.Offset += w.End.Size
	case r.Done > 0 && s.open != nil && s.open.Header.Number == r.Done:
		s.open = nil
	}
	return nil
}

func parseDigest(s string) (Digest, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(Digest{}) {
		return Digest{}, errors.New("not a digest")
	}
	return Digest(b), nil
}

// asJSON gives a name as it is after JSON, which has no bytes that are not UTF-8.
func asJSON(name string) string {
	return string([]rune(name))
}

func (f *Files) note(r record) error {
	b, err := json.Marshal(r)
	if err == nil {
		_, err = f.state.Write(append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", f.statePath(), err)
	}
	return nil
}

// frameRoom is what a volume with one frame takes besides that.
const frameRoom = headerFixed + MaxName + checkLen + endFixed + 8

func (f *Files) run(ctx context.Context, r io.Reader, c *Cutter) error {
	h := c.Header
	if h.Number == 1 {
		var err error
		if h.Stored, r, err = Stored(r, min(f.First, f.Size)-frameRoom); err != nil {
			return fmt.Errorf("cannot read the stream: %w", err)
		}
		h.Stored = h.Stored || f.Plain
		c.Header.Stored = h.Stored
	}
	if err := f.begin(h, c.Skip); err != nil {
		return err
	}
	defer f.state.Close()
	var chunks []Chunk
	c.Plain, c.Progress = f.Plain, f.Progress
	c.Wrote = func(k Chunk) error { chunks = append(chunks, k); return nil }
	whole := h.Number - 1
	first := true
	// A run that was killed may have left the file of the volume that it did not
	// noted yet. The programs of mkCDrec's protocol take away one and the same file.
	old := func(n int) bool { return f.Path != nil || n > 1 && n == c.Header.Number }
	c.Next = func(ctx context.Context, h Header) (Medium, error) {
		room := f.Size
		if first {
			room, first = f.First, false
		}
		path := f.path(h.Number)
		if err := free(path, old(h.Number)); err != nil {
			return nil, fmt.Errorf("cannot write %v: %w", h, err)
		}
		o, err := os.CreateTemp(filepath.Dir(path), ".volume-*")
		if err != nil {
			return nil, fmt.Errorf("cannot write %v: %w", h, err)
		}
		chunks = nil
		return &fileMedium{f: f, ctx: ctx, h: h, file: o, room: room, path: path, old: old(h.Number), whole: func(w Written) error {
			for _, k := range chunks {
				if err := f.note(record{Chunk: k.Size, Sum: k.Sum.String()}); err != nil {
					return err
				}
			}
			whole = h.Number
			return errors.Join(f.note(record{Volume: h.Number, Digest: w.End.Digest.String(), Last: w.End.Last}), f.state.Sync())
		}}, nil
	}
	_, err := c.Cut(ctx, r)
	if err != nil && whole > 0 {
		return err
	}
	// Done, or nothing is there that could be continued.
	return errors.Join(err, os.Remove(f.statePath()))
}

// begin writes a state file with what was done of volumes before the one of h.
func (f *Files) begin(h Header, done []Chunk) (err error) {
	tmp, err := os.CreateTemp(f.Dir, ".cutstream-*")
	if err != nil {
		return fmt.Errorf("cannot write volumes: %w", err)
	}
	f.state = tmp
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	err = f.note(record{ID: h.ID.String(), Name: h.Name, Created: h.Created.Unix(), Stored: h.Stored, Plain: f.Plain})
	if h.Number > 1 {
		for _, k := range done {
			err = errors.Join(err, f.note(record{Chunk: k.Size, Sum: k.Sum.String()}))
		}
		err = errors.Join(err, f.note(record{Volume: h.Number - 1, Digest: h.Previous.String()}), f.note(record{Done: h.Number - 1}))
	}
	if err = errors.Join(err, tmp.Sync()); err == nil {
		err = os.Rename(tmp.Name(), f.statePath())
	}
	return err
}

type fileMedium struct {
	f     *Files
	ctx   context.Context
	h     Header
	file  *os.File
	room  int64
	size  int64
	path  string
	old   bool // a regular file at path may be replaced
	whole func(Written) error
	ended bool
}

func (m *fileMedium) Write(p []byte) (int, error) {
	n, err := m.file.Write(p)
	m.size += int64(n)
	return n, err
}

// Abort removes what was written of a volume that will not be whole.
func (m *fileMedium) Abort() {
	m.file.Close()
	os.Remove(m.file.Name())
}

func (m *fileMedium) Room() int64 { return m.room }
func (m *fileMedium) Full() bool  { return false }

func (m *fileMedium) Close(e End) error {
	if m.ended {
		return nil
	}
	m.ended = true
	if err := errors.Join(m.file.Sync(), m.file.Close()); err != nil {
		os.Remove(m.file.Name())
		return fmt.Errorf("cannot write %s: %w", m.path, err)
	}
	if err := rename(m.file.Name(), m.path, m.old); err != nil {
		os.Remove(m.file.Name())
		return fmt.Errorf("cannot write %s: %w", m.path, err)
	}
	w := Written{Header: m.h, End: e, Path: m.path, Size: m.size}
	if err := m.whole(w); err != nil {
		return err
	}
	if m.f.Done == nil {
		return nil
	}
	if err := m.f.Done(m.ctx, w); err != nil {
		return err
	}
	return m.f.note(record{Done: m.h.Number})
}

// Finder finds volumes among files and directories, and asks for those that
// are not there.
type Finder struct {
	Name   string   // of the stream; "" takes what the first volume has
	Places []string // files or devices, or directories that hold NAME.NNN
	// Ask is called when the volume is at none of the places; problem is
	// what was found instead. It returns when it may be there, or an error to
	// give up. nil gives up.
	Ask func(ctx context.Context, w Want, problem error) error
	// Note, if not nil, is told of what was found and not taken.
	Note func(problem error)
}

// Next is a Paster's Next.
func (f *Finder) Next(ctx context.Context, w Want, problem error) (io.ReadCloser, error) {
	var damaged *DamagedError
	if errors.As(problem, &damaged) {
		// At the same place lies the same damage.
		if f.Ask == nil {
			return nil, problem
		}
		if err := f.Ask(ctx, w, problem); err != nil {
			return nil, err
		}
		problem = nil
	}
	for {
		in, wrong := f.find(w)
		if in != nil {
			return in, nil
		}
		if problem == nil {
			problem = wrong
		}
		if f.Ask == nil {
			if problem == nil {
				problem = f.missing(w)
			}
			return nil, problem
		}
		if err := f.Ask(ctx, w, problem); err != nil {
			return nil, err
		}
		problem = nil
	}
}

// missing is the error for a volume that was not found, with the places that are not there at all.
func (f *Finder) missing(w Want) error {
	gone := slices.DeleteFunc(slices.Clone(f.Places), func(p string) bool {
		_, err := os.Stat(p)
		return !errors.Is(err, os.ErrNotExist)
	})
	if len(gone) > 0 {
		return fmt.Errorf("%v is not there: no such file or directory: %s", w, strings.Join(gone, ", "))
	}
	return fmt.Errorf("%v is not there", w)
}

// find looks for the volume by what the files' headers say, the likely name
// first. What is not it is told to Note, once each.
func (f *Finder) find(w Want) (io.ReadCloser, error) {
	name := cmp.Or(w.Header.Name, f.Name)
	files, named, err := f.candidates(name, w.Number)
	if err != nil {
		return nil, err
	}
	var first error
	say := func(err error) {
		if first == nil {
			first = err
		}
		if f.Note != nil {
			f.Note(err)
		}
	}
	for _, p := range files {
		in, err := Open(p, named[p])
		if err != nil {
			if !errors.Is(err, os.ErrNotExist) {
				say(err)
			}
			continue
		}
		h, _, err := ReadHeader(in)
		switch {
		case err != nil:
			say(&WrongError{w, h, fmt.Sprintf("%s: wanted %v: %v", p, w, err)})
		case name != "" && h.Name != name, w.Header.ID != (ID{}) && h.ID != w.Header.ID:
			say(&WrongError{w, h, fmt.Sprintf("%s: wanted %v: this is %v", p, w, h)})
		case h.Number == w.Number:
			if _, err := in.Seek(0, io.SeekStart); err != nil {
				say(err)
				break
			}
			return in, nil
		}
		in.Close()
	}
	return nil, first
}

// candidates are the files that may be a volume; named has those that the caller named, who
// may mean a device.
func (f *Finder) candidates(name string, number int) (files []string, named map[string]bool, err error) {
	pattern := cmp.Or(quoteGlob(name), "*")
	named = map[string]bool{}
	for _, p := range f.Places {
		if st, err := os.Stat(p); err != nil || !st.IsDir() {
			files = append(files, p)
			named[p] = true
			continue
		}
		m, err := filepath.Glob(filepath.Join(quoteGlob(p), fmt.Sprintf("%s.%03d", pattern, number)))
		if err != nil {
			return nil, nil, err
		}
		files = append(files, m...)
	}
	return files, named, nil
}

// quoteGlob has filepath.Glob take a name as it is.
func quoteGlob(s string) string {
	var b []byte
	for i := range len(s) {
		switch s[i] {
		case '*', '?', '[', '\\':
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return string(b)
}
