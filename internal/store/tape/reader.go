package tape

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/unpack"
	"github.com/mkcdrec/mkcdrec/internal/volume"
)

// IndexFile is the name, in SetName, of the list of what lies where.
const IndexFile = "tape.json"

// Index is its content.
type Index struct {
	Version  int       `json:"version"`
	ID       string    `json:"id"`
	Reels    int       `json:"reels"`
	Entries  []Entry   `json:"entries"`
	Archives []Archive `json:"archives"`
}

// Archive is an archive on tape. Its index is in SetName as Tail, from TailAt
// of the archive's bytes. The object of an encrypted set has no Tail here.
type Archive struct {
	File   string `json:"file"`
	Size   int64  `json:"size"`
	Tail   string `json:"tail,omitempty"`
	TailAt int64  `json:"tailAt"`
}

// valid reports whether an entry can be of a set on a number of reels.
func (e Entry) valid(reels int) bool {
	return e.Reel >= 1 && e.Reel <= reels && e.File >= 1 && e.Number >= 1 && e.Size >= 0 && e.Offset >= 0
}

func parseIndex(b []byte) (*Index, error) {
	var x Index
	if err := store.Decode(IndexFile, b, &x); err != nil {
		return nil, err
	}
	if x.Version != labelVersion {
		return nil, fmt.Errorf("%s has version %d; this program knows %d", IndexFile, x.Version, labelVersion)
	}
	if _, err := volume.ParseID(x.ID); err != nil || x.Reels < 1 {
		return nil, fmt.Errorf("%s is damaged", IndexFile)
	}
	for i, e := range x.Entries {
		if !e.valid(x.Reels) {
			return nil, fmt.Errorf("%s: entries[%d]: %+v", IndexFile, i, e)
		}
	}
	for i, a := range x.Archives {
		if a.Size < 0 || a.TailAt < 0 || a.TailAt > a.Size || a.Tail == "" && a.TailAt != a.Size {
			return nil, fmt.Errorf("%s: archives[%d]: %+v", IndexFile, i, a)
		}
	}
	return &x, nil
}

// Store reads a set from tape. It is a store.Store; archives can be read
// forward only.
type Store struct {
	Index *Index
	Label *Label
	// Dir holds the small files.
	Dir string

	drives []Drive
	ask    Ask
	ctx    context.Context
	drive  Drive // that has the reel
	reel   int
	at     int // tape file that comes next; -1 unknown
}

// Ask asks for a reel; problem is why the one that is there can't be used. It
// returns when it may have been put in.
type Ask func(ctx context.Context, d Drive, what string, problem error) error

// Open reads where everything is on the tapes, from the last reel, and puts the
// set's small files into dir.
func Open(ctx context.Context, drives []Drive, dir string, ask Ask) (*Store, error) {
	s := &Store{drives: drives, Dir: dir, ask: ask, ctx: ctx}
	var problem error
	what := "the set's last reel"
	for {
		for _, d := range drives {
			err := s.openIndex(d)
			if err == nil {
				return s, nil
			}
			if p, e := d.Position(); problem == nil || e == nil && p.Online {
				problem = fmt.Errorf("%v: %w", d, err)
			}
			var u unfinished
			if errors.As(err, &u) {
				what = fmt.Sprintf("the last reel of the backup of %s, made %s", u.l.Host, u.l.Created.UTC().Format("2006-01-02 15:04"))
			}
		}
		if ask == nil {
			return nil, fmt.Errorf("cannot read the set from tape: %w", problem)
		}
		if err := ask(ctx, drives[0], what, problem); err != nil {
			return nil, err
		}
		problem = nil
	}
}

// unfinished is a reel that has no list of what lies where.
type unfinished struct{ l *Label }

func (u unfinished) Error() string {
	return fmt.Sprintf("this is %v, and it does not hold the end of the set: another reel does, or the backup was not finished", u.l)
}

func (s *Store) openIndex(d Drive) error {
	l, _, err := readLabel(d)
	if err != nil {
		return err
	}
	if err := d.ToEnd(); err != nil {
		return err
	}
	// Its number is not asked for: not every drive knows it.
	if err := d.Back(2); err != nil {
		return unfinished{l}
	}
	if err := d.Forward(1); err != nil {
		return err
	}
	id, err := volume.ParseID(l.ID)
	if err != nil {
		return err
	}
	var wrong *volume.WrongError
	if err := s.unpack(d, id); errors.As(err, &wrong) {
		return unfinished{l}
	} else if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(s.Dir, IndexFile))
	if err != nil {
		return err
	}
	if s.Index, err = parseIndex(b); err != nil {
		return err
	}
	if s.Index.ID != l.ID {
		return fmt.Errorf("%s is of the set %s", IndexFile, s.Index.ID)
	}
	s.Label, s.drive, s.reel, s.at = l, d, l.Reel, -1
	return nil
}

// unpack unpacks the archive of headers, index and sums, which is at the tape's position.
func (s *Store) unpack(d Drive, id volume.ID) error {
	first := true
	ps := &volume.Paster{ID: id, Name: SetName, Next: func(_ context.Context, _ volume.Want, problem error) (io.ReadCloser, error) {
		if problem != nil {
			return nil, problem
		}
		if !first {
			return nil, errors.New("the list of what lies where is on two reels")
		}
		first = false
		return newBlocks(d), nil
	}}
	// Unpacked while it is read: the memory for all of it is not there twice.
	r, w := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		err := unpackInto(r, s.Dir)
		if err == nil {
			_, err = io.Copy(io.Discard, r) // what is behind the archive's end
		}
		r.CloseWithError(err)
		unpacked <- err
	}()
	err := ps.Chunks(s.ctx, func(b []byte) error { _, err := w.Write(b); return err })
	w.CloseWithError(err)
	if failed := <-unpacked; failed != nil && (err == nil || errors.Is(err, failed)) {
		return fmt.Errorf("cannot unpack %s: %w", SetName, failed)
	}
	return err
}

// unpackInto puts the files of a small tar.zst below dir.
func unpackInto(r io.Reader, dir string) error {
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(1<<30))
	if err != nil {
		return err
	}
	defer z.Close()
	return unpack.Tar(z, unpack.Into(dir))
}

// blocks reads a tape file.
type blocks struct {
	d    Drive
	buf  []byte
	rest []byte
	end  error
}

func newBlocks(d Drive) *blocks { return &blocks{d: d, buf: make([]byte, 1<<20)} }

func (b *blocks) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.end != nil {
			return 0, io.EOF
		}
		n, err := b.d.Read(b.buf)
		if err == io.EOF || errors.Is(err, ErrBlank) {
			b.end = err
			continue
		}
		if err != nil {
			return 0, err
		}
		b.rest = b.buf[:n]
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *blocks) Close() error  { return nil }
func (b *blocks) TapeEnd() bool { return b.end != nil }

// String implements store.Store.
func (s *Store) String() string { return s.drives[0].String() }

func (s *Store) archive(name string) *Archive {
	for i := range s.Index.Archives {
		if s.Index.Archives[i].File == name {
			return &s.Index.Archives[i]
		}
	}
	return nil
}

// Has reports whether a file is an archive on the tape.
func (s *Store) Has(name string) bool { return s.archive(name) != nil }

// Size implements store.Store.
func (s *Store) Size(name string) (int64, error) {
	if a := s.archive(name); a != nil {
		return a.Size, nil
	}
	return store.Dir(s.Dir).Size(name)
}

// Open implements store.Store.
func (s *Store) Open(name string) (store.File, error) {
	a := s.archive(name)
	if a == nil {
		return store.Dir(s.Dir).Open(name)
	}
	if a.Tail == "" {
		return &forward{s: s, a: a}, nil
	}
	tail, err := store.Dir(s.Dir).Open(a.Tail)
	if err == nil && tail.Size() != a.Size-a.TailAt {
		err = errors.Join(fmt.Errorf("%s has %d bytes, not %d", a.Tail, tail.Size(), a.Size-a.TailAt), tail.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the index of %s: %w", name, err)
	}
	return &forward{s: s, a: a, tail: tail}, nil
}

// locate winds to a volume and gives its bytes.
func (s *Store) locate(ctx context.Context, name string, number int, problem error) (io.ReadCloser, error) {
	var e *Entry
	for i := range s.Index.Entries {
		if x := &s.Index.Entries[i]; x.Name == name && x.Number == number {
			e = x
		}
	}
	if e == nil {
		return nil, fmt.Errorf("volume %d of %s is on no reel", number, name)
	}
	for {
		d, err := s.find(e.Reel)
		if err == nil && problem == nil {
			if err = d.Rewind(); err == nil {
				err = d.SetBlock(0)
			}
			if err == nil {
				err = d.Forward(e.File)
			}
			if err == nil {
				return newBlocks(d), nil
			}
		}
		if problem == nil {
			problem = err
		}
		if s.ask == nil {
			return nil, problem
		}
		if err := s.ask(ctx, s.drives[0], fmt.Sprintf("reel %d of %d of the backup of %s", e.Reel, s.Index.Reels, s.Label.Host), problem); err != nil {
			return nil, err
		}
		s.drive, problem = nil, nil
	}
}

// find looks for a reel in the drives.
func (s *Store) find(reel int) (Drive, error) {
	if s.drive != nil && s.reel == reel {
		return s.drive, nil
	}
	var problem error
	for _, d := range s.drives {
		if p, err := d.Position(); err != nil || !p.Online {
			problem = errors.Join(problem, fmt.Errorf("there is no tape in %v", d))
			continue
		}
		l, err := ReadLabel(d)
		switch {
		case err != nil:
			problem = errors.Join(problem, fmt.Errorf("the tape in %v: %w", d, err))
		case l.ID != s.Index.ID:
			problem = errors.Join(problem, fmt.Errorf("in %v is another set: %v", d, l))
		case l.Reel != reel:
			problem = errors.Join(problem, fmt.Errorf("in %v is reel %d", d, l.Reel))
		default:
			s.drive, s.reel = d, reel
			return d, nil
		}
	}
	return nil, problem
}

// forward is an archive that is read from its beginning to its end.
type forward struct {
	s    *Store
	a    *Archive
	tail store.File // not read as a whole: it may have some GiB; nil for none

	started bool
	pos     int64
	chunks  chan []byte
	next    chan struct{}
	done    chan error
	cancel  context.CancelFunc
	rest    []byte
}

func (f *forward) Size() int64 { return f.a.Size }

// ReadAt reads forward; the archive's last bytes, its index, at any time.
func (f *forward) ReadAt(p []byte, off int64) (int, error) {
	if off >= f.a.Size {
		return 0, io.EOF
	}
	if off >= f.a.TailAt {
		return f.tail.ReadAt(p, off-f.a.TailAt)
	}
	var end error
	if n := f.a.Size - off; n < int64(len(p)) {
		p, end = p[:n], io.EOF
	}
	if f.started && off < f.pos {
		f.stop() // back: from the beginning again
	}
	if !f.started {
		f.start()
	}
	done := 0
	for done < len(p) {
		if len(f.rest) == 0 {
			if err := f.more(); err != nil {
				return done, err
			}
			continue
		}
		if off > f.pos {
			n := min(int64(len(f.rest)), off-f.pos)
			f.rest, f.pos = f.rest[n:], f.pos+n
			continue
		}
		n := copy(p[done:], f.rest)
		f.rest = f.rest[n:]
		done, off, f.pos = done+n, off+int64(n), f.pos+int64(n)
	}
	return done, end
}

func (f *forward) start() {
	ctx, cancel := context.WithCancel(f.s.ctx)
	f.started, f.pos, f.rest, f.cancel = true, 0, nil, cancel
	f.chunks, f.next, f.done = make(chan []byte), make(chan struct{}), make(chan error, 1)
	id, err := volume.ParseID(f.s.Index.ID)
	if err != nil {
		f.done <- err
		close(f.chunks)
		return
	}
	chunks, next := f.chunks, f.next
	go func() {
		defer close(chunks)
		p := &volume.Paster{ID: id, Name: f.a.File, Next: func(ctx context.Context, w volume.Want, problem error) (io.ReadCloser, error) {
			return f.s.locate(ctx, f.a.File, w.Number, problem)
		}}
		err := p.Chunks(ctx, func(b []byte) error {
			select {
			case chunks <- b:
			case <-ctx.Done():
				return ctx.Err()
			}
			select {
			case <-next: // the bytes are used up
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if err == nil {
			err = io.ErrUnexpectedEOF // more was wanted than there is
		}
		f.done <- err
	}()
}

// more gets the next chunk.
func (f *forward) more() error {
	if f.pos > 0 {
		select {
		case f.next <- struct{}{}:
		case err := <-f.done:
			f.done <- err
			return err
		}
	}
	b, ok := <-f.chunks
	if !ok {
		err := <-f.done
		f.done <- err
		return err
	}
	f.rest = b
	return nil
}

func (f *forward) stop() {
	if f.started {
		f.cancel()
		for range f.chunks {
		}
		f.started = false
	}
}

// InOrder implements sealed.InOrder.
func (f *forward) InOrder() {}

// Close implements store.File.
func (f *forward) Close() error {
	f.stop()
	if f.tail == nil {
		return nil
	}
	return f.tail.Close()
}
