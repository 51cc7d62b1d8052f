package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"runtime"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"github.com/mkcdrec/mkcdrec/internal/frames"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// Reader reads an archive on something that can seek. Opening
// checks that the archive is whole: seek table, table of contents and size
// agree. Frames are checked against their SHA-256 whenever they are read.
type Reader struct {
	r      io.ReaderAt
	name   string
	closer io.Closer
	toc    []byte
	frames []frames.Frame
	tar    int64
	count  int64
	size   int64
	// inOrder: see InOrder.
	inOrder bool
	// sources are the earlier archives of an increment; earlier opens one, opened has those
	// that are open by their numbers.
	sources []Source
	earlier func(Source) (*Reader, error)
	opened  map[int]*Reader
	live    int64 // bytes of tar streams that members are in
}

// DamagedError is a frame that is not what was written.
type DamagedError struct {
	Archive string
	Frame   int
	Offset  int64 // of the frame in the archive, bytes
	Cause   error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("cannot read %s: frame %d at byte %d is damaged: %v", e.Archive, e.Frame, e.Offset, e.Cause)
}

func (e *DamagedError) Unwrap() error { return e.Cause }

// OpenFile opens the archive in the file called name.
func OpenFile(name string) (*Reader, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot open archive: %w", err)
	}
	st, err := f.Stat()
	if err == nil {
		var r *Reader
		if r, err = Open(f, st.Size(), name); err == nil {
			r.closer = f
			return r, nil
		}
	}
	f.Close()
	return nil, err
}

// Open reads the index of an archive of size bytes; name is for messages.
func Open(r io.ReaderAt, size int64, name string) (*Reader, error) {
	wrap := func(err error) error { return fmt.Errorf("cannot read archive %s: %w", name, err) }
	toc, sizes, err := frames.ReadIndex(r, size)
	if err != nil {
		return nil, wrap(err)
	}
	a := &Reader{r: r, name: name, toc: toc, size: size}
	p, err := parseTOC(toc, len(sizes), func(e Entry) error { a.count, a.live = a.count+1, a.live+e.End-e.Start; return nil })
	if err != nil {
		return nil, wrap(err)
	}
	a.frames, a.tar, a.sources = p.frames, p.tar, p.sources
	if len(sizes) != len(a.frames) {
		return nil, wrap(fmt.Errorf("seek table has %d frames, table of contents %d", len(sizes), len(a.frames)))
	}
	off := int64(0)
	for i, f := range a.frames {
		if f.Offset != off || int64(sizes[i][0]) != f.Packed || int64(sizes[i][1]) != f.Size {
			return nil, wrap(fmt.Errorf("seek table and table of contents differ at frame %d", i))
		}
		off += f.Packed
	}
	return a, nil
}

// CloseWith has Close close c, which Open was given as its reader.
func (a *Reader) CloseWith(c io.Closer) { a.closer = c }

// Close closes the file that OpenFile opened, and earlier archives.
func (a *Reader) Close() error {
	var errs []error
	for _, r := range a.opened {
		errs = append(errs, r.Close())
	}
	if a.closer != nil {
		errs = append(errs, a.closer.Close())
	}
	return errors.Join(errs...)
}

// Size is the archive's length, TarSize the tar stream's, in bytes, of an increment what its
// members have in all streams; Members is the number of entries.
func (a *Reader) Size() int64 { return a.size }

func (a *Reader) TarSize() int64 {
	if a.sources != nil {
		return a.live
	}
	return a.tar
}

func (a *Reader) Members() int64 { return a.count }

// InOrder has the archive read from its beginning to its end by one reader:
// for a medium that is changed on the way, or that can't seek.
func (a *Reader) InOrder() { a.inOrder = true }

// Entries hands every member to fn in archive order.
func (a *Reader) Entries(fn func(Entry) error) error {
	_, err := parseTOC(a.toc, len(a.frames), fn)
	return err
}

// frameAt gives the index of the frame that holds byte off of the tar stream.
func (a *Reader) frameAt(off int64) int {
	return sort.Search(len(a.frames), func(i int) bool { return a.frames[i].TarStart+a.frames[i].Size > off })
}

type decoder struct {
	z      *zstd.Decoder
	packed []byte
}

func newDecoder() (*decoder, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(FrameSize), zstd.WithDecodeAllCapLimit(true))
	return &decoder{z: z}, err
}

// read reads, checks and decodes frame i into dst, which has room for
// FrameSize bytes. With check only the packed bytes are looked at.
func (a *Reader) read(d *decoder, i int, dst []byte, check bool) ([]byte, error) {
	f := a.frames[i]
	if int64(cap(d.packed)) < f.Packed {
		d.packed = make([]byte, maxPacked)
	}
	p := d.packed[:f.Packed]
	if _, err := a.r.ReadAt(p, f.Offset); err != nil {
		return nil, &DamagedError{a.name, i, f.Offset, err}
	}
	return a.decode(d, i, p, dst, check)
}

// decode checks and decodes the bytes p of frame i.
func (a *Reader) decode(d *decoder, i int, p, dst []byte, check bool) ([]byte, error) {
	f := a.frames[i]
	bad := func(err error) error { return &DamagedError{a.name, i, f.Offset, err} }
	if sha256.Sum256(p) != f.SHA256 {
		return nil, bad(errors.New("its SHA-256 is not the recorded one"))
	}
	if check {
		return nil, nil
	}
	out, err := d.z.DecodeAll(p, dst[:0])
	if err != nil {
		return nil, bad(err)
	}
	if int64(len(out)) != f.Size {
		return nil, bad(fmt.Errorf("it holds %d bytes, not %d", len(out), f.Size))
	}
	return out, nil
}

// VerifyOptions defines how deep Verify looks.
type VerifyOptions struct {
	// Decode also decompresses every frame and walks through the tar stream.
	Decode   bool
	Workers  int
	Progress progress.Counter
}

// Verify checks every frame. All damaged frames are reported, joined, each a
// *DamagedError.
func (a *Reader) Verify(ctx context.Context, opt VerifyOptions) error {
	if opt.Decode {
		return a.verifyDeep(ctx, opt)
	}
	if opt.Workers <= 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	if a.inOrder {
		opt.Workers = 1
	}
	var next atomic.Int64
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for range opt.Workers {
		d := &decoder{}
		wg.Go(func() {
			for {
				i := int(next.Add(1) - 1)
				if i >= len(a.frames) || ctx.Err() != nil {
					return
				}
				_, err := a.read(d, i, nil, true)
				if opt.Progress != nil {
					opt.Progress.Add(a.frames[i].Packed)
				}
				if err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.Join(errs...)
}

// verifyDeep decodes everything, parses the tar stream as Extract does, and
// compares it with the table of contents.
func (a *Reader) verifyDeep(ctx context.Context, opt VerifyOptions) error {
	var errs []error
	more := 0
	report := func(err error) {
		if len(errs) < maxFaults {
			errs = append(errs, fmt.Errorf("cannot read %s: %w", a.name, err))
		} else {
			more++
		}
	}
	var targets *linkTargets
	x := memberReader{a: a, ctx: ctx, workers: opt.Workers, progress: opt.Progress}
	frame := -1
	x.damaged = func(err *DamagedError, _ *Entry) error {
		if err.Frame != frame {
			frame, errs = err.Frame, append(errs, err)
		}
		return nil
	}
	x.bad = func(e Entry, err error) { report(fmt.Errorf("%s: %w", Quote(e.Path), err)) }
	x.fn = func(p *tarParser, m *Member, stored int64, e Entry) error {
		if m.Size != e.Size {
			return fmt.Errorf("%w: its size is not the one of the table of contents", errHeader)
		}
		if err := clean(m.Path); err != nil {
			return fmt.Errorf("%w: %w", errHeader, err)
		}
		for _, text := range []string{m.ACLAccess, m.ACLDefault} {
			if _, err := aclBinary(text); err != nil {
				return fmt.Errorf("%w: %w", errHeader, err)
			}
		}
		if m.Type == TypeHardlink && !targets.have(m.Link) {
			return fmt.Errorf("%w: it is a hard link to %s, which is not before it in the archive", errHeader, Quote(m.Link))
		}
		if m.IsSparse {
			if _, err := p.sparseMap(m, stored); err != nil {
				return err
			}
		}
		targets.seen(m)
		return nil
	}
	targets, err := a.linkTargets(nil)
	if err == nil {
		err = x.read(nil)
	}
	if more > 0 {
		errs = append(errs, fmt.Errorf("and %d more faults of this kind", more))
	}
	return errors.Join(append(errs, err)...)
}

// maxFaults is how many faulty members Verify reports one by one.
const maxFaults = 100

// linkTargets are the files that hard links need, and which of them were seen. It
// keeps hashes of their paths: there can be millions.
type linkTargets struct {
	seed maphash.Seed
	m    map[uint64]bool
}

// linkTargets finds the targets of the selected hard links.
func (a *Reader) linkTargets(pick func(string) bool) (*linkTargets, error) {
	t := &linkTargets{maphash.MakeSeed(), map[uint64]bool{}}
	return t, a.Entries(func(e Entry) error {
		if e.Type == TypeHardlink && (pick == nil || pick(e.Path)) {
			t.m[maphash.String(t.seed, e.Link)] = false
		}
		return nil
	})
}

// seen marks a member, if it is a target.
func (t *linkTargets) seen(m *Member) {
	if len(t.m) == 0 || m.Type == TypeHardlink || m.Type == TypeDir {
		return
	}
	h := maphash.String(t.seed, m.Path)
	if _, ok := t.m[h]; ok {
		t.m[h] = true
	}
}

func (t *linkTargets) have(path string) bool { return t.m[maphash.String(t.seed, path)] }

// tarRange is a run of the tar stream that holds members to be read.
type tarRange struct {
	start, end int64
	members    int64 // of them that are read
}

// memberReader reads members of an archive one after the other, in archive order.
type memberReader struct {
	a        *Reader // has the list of members
	data     *Reader // has the frames of those that are read; a for full archives
	ctx      context.Context
	workers  int
	progress progress.Counter
	// fn gets a member whose header was read; of its body it may read less than
	// there is. An error of errHeader's class is handed to bad, and reading
	// continues behind the member; any other ends it.
	fn  func(p *tarParser, m *Member, stored int64, e Entry) error
	bad func(e Entry, err error)
	// damaged, if not nil, gets each damaged frame, with nil, and each member of it
	// that was to be read; these are left out. An error ends the reading, as a
	// damaged frame does where this is nil.
	damaged func(*DamagedError, *Entry) error

	s    *frameStream
	last *DamagedError // the frame that s could not give
}

// read reads the members that pick selects, all if it is nil. Of an increment, those come first
// whose bytes it has itself, then those of each earlier archive, then hard links.
func (x *memberReader) read(pick func(Entry) bool) error {
	if x.data = x.a; x.a.sources == nil {
		return x.one(pick)
	}
	used := make([]bool, len(x.a.sources)+1)
	if err := x.a.Entries(func(e Entry) error {
		used[e.From] = used[e.From] || pick == nil || pick(e)
		return nil
	}); err != nil {
		return err
	}
	for n := range used {
		if !used[n] {
			continue
		}
		var err error
		if x.data, err = x.a.from(n); err != nil {
			return err
		}
		if err := x.one(func(e Entry) bool {
			return e.From == n && e.Type != TypeHardlink && (pick == nil || pick(e))
		}); err != nil {
			return err
		}
	}
	return x.a.Entries(func(e Entry) error {
		if e.Type != TypeHardlink || pick != nil && !pick(e) {
			return x.ctx.Err()
		}
		err := x.fn(nil, &Member{Path: e.Path, Link: e.Link, Type: e.Type, Mode: e.Mode, UID: e.UID, GID: e.GID, Sec: e.Sec, Nsec: e.Nsec}, 0, e)
		if errors.Is(err, errHeader) {
			x.bad(e, err)
			err = nil
		}
		return errors.Join(err, x.ctx.Err())
	})
}

// ranges are the parts of the tar stream with the members that pick selects.
func (x *memberReader) ranges(pick func(Entry) bool) (out []tarRange, err error) {
	if pick == nil {
		return []tarRange{{0, x.data.tar - 2*blockSize, x.a.count}}, nil
	}
	err = x.a.Entries(func(e Entry) error {
		if !pick(e) {
			return nil
		}
		if e.End > x.data.tar-2*blockSize {
			return fmt.Errorf("cannot read %s: it has no bytes %d to %d of the tar stream, where %s should be", x.data.name, e.Start, e.End, Quote(e.Path))
		}
		// What is in the same frame, or in the next, is not worth a new beginning. Of an earlier
		// archive members are also wanted in another order.
		if n := len(out); n > 0 && e.Start >= out[n-1].end && x.data.frameAt(e.Start) <= x.data.frameAt(out[n-1].end-1)+1 {
			out[n-1].end = e.End
			out[n-1].members++
		} else {
			out = append(out, tarRange{e.Start, e.End, 1})
		}
		return nil
	})
	return out, err
}

// one reads the members that pick selects, all if it is nil, which are in x.data.
func (x *memberReader) one(pick func(Entry) bool) error {
	ranges, err := x.ranges(pick)
	if err != nil {
		return err
	}
	defer x.close()
	var p *tarParser
	return x.a.Entries(func(e Entry) error {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		if pick != nil && !pick(e) {
			return nil
		}
		if x.s == nil || ranges[0].members == 0 {
			if x.s != nil {
				x.close()
				ranges = ranges[1:]
			}
			r := ranges[0]
			var err error
			if x.s, err = x.data.stream(x.ctx, x.data.frameAt(r.start), x.data.frameAt(r.end-1)+1, x.workers, x.progress); err != nil {
				return err
			}
			p = &tarParser{s: x.s}
		}
		ranges[0].members--
		return x.member(p, e)
	})
}

// member reads one member, and leaves the stream behind it.
func (x *memberReader) member(p *tarParser, e Entry) error {
	if err := x.skipTo(p, e.Start); err != nil {
		return err
	}
	if p.s.pos > e.Start {
		return x.damaged(x.last, &e)
	}
	p.s.limit = e.End
	err := x.try(p, e)
	p.s.limit = 0
	var d *DamagedError
	switch {
	case err == nil:
	case x.damaged != nil && errors.As(err, &d):
		x.last = d
		if err := x.damaged(d, &e); err != nil {
			return err
		}
	case errors.Is(err, errHeader):
		x.bad(e, err)
	default:
		return err
	}
	return x.skipTo(p, e.End)
}

func (x *memberReader) try(p *tarParser, e Entry) error {
	m, stored, err := p.next()
	if err != nil {
		return err
	}
	if m == nil || m.Path != e.There || m.Type != e.Type {
		return fmt.Errorf("%w: the table of contents does not agree with the tar stream at %s", errHeader, Quote(e.Path))
	}
	if stored+padding(stored) != e.End-p.s.pos {
		return fmt.Errorf("%w: it has %d bytes, and there are %d up to the next member", errHeader, stored, e.End-p.s.pos)
	}
	m.Path = e.Path
	return x.fn(p, m, stored, e)
}

// skipTo goes to byte at of the tar stream, or behind it if a damaged frame is
// in the way.
func (x *memberReader) skipTo(p *tarParser, at int64) error {
	for p.s.pos < at {
		err := p.skip(at - p.s.pos)
		var d *DamagedError
		if err == nil || x.damaged == nil || !errors.As(err, &d) {
			return err
		}
		x.last = d
		if err := x.damaged(d, nil); err != nil {
			return err
		}
	}
	return nil
}

// close ends the stream that is being read.
func (x *memberReader) close() {
	if x.s == nil {
		return
	}
	x.s.stop()
	x.s = nil
}

// tarParser walks through a tar stream.
type tarParser struct {
	s     *frameStream
	block [blockSize]byte
}

// full gives n bytes, copied together when they are in two frames.
func (p *tarParser) full(n int64) ([]byte, error) {
	b, err := p.s.chunk(n)
	if err != nil {
		return nil, noEOF(err)
	}
	if int64(len(b)) == n {
		return b, nil
	}
	out := append(make([]byte, 0, n), b...)
	for int64(len(out)) < n {
		if b, err = p.s.chunk(n - int64(len(out))); err != nil {
			return nil, noEOF(err)
		}
		out = append(out, b...)
	}
	return out, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return fmt.Errorf("%w: it ends too early", errHeader)
	}
	return err
}

func (p *tarParser) skip(n int64) error {
	for n > 0 {
		b, err := p.s.chunk(n)
		if err != nil {
			return noEOF(err)
		}
		n -= int64(len(b))
	}
	return nil
}

// next reads headers up to the next member; nil at the end of the archive.
func (p *tarParser) next() (*Member, int64, error) {
	var pax map[string]string
	for {
		b, err := p.full(blockSize)
		if err != nil {
			return nil, 0, err
		}
		p.block = [blockSize]byte(b)
		m, stored, err := parseHeader(p.block[:], pax)
		if err != nil || m == nil {
			return nil, 0, err
		}
		if m.Type != 'x' {
			return m, stored, nil
		}
		if pax != nil || stored > maxPax {
			return nil, 0, fmt.Errorf("%w: pax header of %d bytes", errHeader, stored)
		}
		if pax, err = readPax(stored, p.full); err != nil {
			return nil, 0, err
		}
		if err := p.skip(padding(stored)); err != nil {
			return nil, 0, err
		}
	}
}

// sparseMap reads the map at the start of a sparse member's body and gives
// the bytes that are left of it.
func (p *tarParser) sparseMap(m *Member, stored int64) (int64, error) {
	sr := &sparseReader{want: -1}
	for {
		if stored < blockSize {
			return 0, fmt.Errorf("%w: sparse map of %s is cut off", errHeader, Quote(m.Path))
		}
		b, err := p.full(blockSize)
		if err != nil {
			return 0, err
		}
		stored -= blockSize
		done, err := sr.feed(b)
		if err != nil {
			return 0, err
		}
		if done {
			m.Sparse, err = sr.segments(m.Size, stored)
			return stored, err
		}
	}
}

// IndexText reads the table of contents, as zstd-compressed text, out of what CreateOptions.Index got.
func IndexText(index io.ReaderAt) (io.Reader, error) {
	const start = int64(len(tocTag) + sha256.Size)
	p, err := frames.Payload(index)
	if err != nil {
		return nil, err
	}
	if p.Size() < start {
		return nil, frames.ErrNone
	}
	return io.NewSectionReader(p, start, p.Size()-start), nil
}
