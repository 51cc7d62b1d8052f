package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// ExtractOptions says what is extracted and how.
type ExtractOptions struct {
	// Select picks members by path; nil takes all.
	Select   func(path string) bool
	Workers  int
	Progress progress.Counter
	// Salvage leaves out members that lie in frames that can't be read, and
	// lists them as problems of kind Lost. Everything is read twice.
	Salvage bool
	// NoOwner leaves owner, device nodes, projects and the flags that only root
	// can set alone, for callers without root.
	NoOwner bool
	// KeepUnlocked leaves immutable and append-only to SetLocks, for a caller who
	// has to change things still.
	KeepUnlocked bool
}

// Extract writes members below the directory dest, which must exist. Nothing
// is ever written outside of it: a name with "..", an absolute name and a
// name that goes through a symbolic link are errors. Attributes that the
// destination can't hold are listed as problems of kind Metadata.
func (a *Reader) Extract(ctx context.Context, dest string, opt ExtractOptions) (*Summary, error) {
	return extractInto(ctx, a.name, dest, opt, func(x *extractor) error {
		x.a = a
		return x.run()
	})
}

// extractInto prepares dest, has read find the members, and waits until all
// are written.
func extractInto(ctx context.Context, name, dest string, opt ExtractOptions, read func(*extractor) error) (*Summary, error) {
	root, err := unix.Open(dest, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", dest, err)
	}
	if opt.Workers <= 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	x := &extractor{opt: opt, dest: dest, sum: &Summary{}, jobs: make(chan *writeJob, 64), dirs: newDirCache(root)}
	x.ctx, x.cancel = context.WithCancel(ctx)
	defer x.cancel()
	defer x.dirs.close()
	for range opt.Workers + 1 {
		x.wg.Go(x.worker)
	}
	err = read(x)
	close(x.jobs)
	x.wg.Wait()
	if p := x.err.Load(); p != nil {
		err = *p
	}
	if err == nil {
		err = x.late()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot extract %s below %s: %w", name, dest, err)
	}
	return x.sum, nil
}

type extractor struct {
	a      *Reader
	opt    ExtractOptions
	dest   string
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	jobs   chan *writeJob
	dirs   *dirCache
	err    atomic.Pointer[error]
	mu     sync.Mutex // guards sum.Problems
	sum    *Summary
	folder []*Member // directories, whose attributes are set last
	hard   []*Member // hard links, made when all files are there
	locked []*Member // files that can't be changed any more, nor linked to
	// inherit tells that a directory has flags that new files get from it.
	inherit atomic.Bool
}

// writeJob is one regular file; chunks come while the archive is decoded.
type writeJob struct {
	m      *Member
	dir    *dirRef
	base   string
	chunks chan chunk
}

type chunk struct {
	b []byte
	f *frameBuf
}

func (x *extractor) run() error {
	if x.opt.Salvage {
		if err := x.salvage(); err != nil {
			return err
		}
	}
	r := memberReader{a: x.a, ctx: x.ctx, workers: x.opt.Workers, progress: x.opt.Progress}
	r.bad = func(e Entry, err error) { x.add(Problem{e.Path, Lost, err.Error()}) }
	r.fn = func(p *tarParser, m *Member, stored int64, _ Entry) error { return x.member(p, m, stored) }
	if x.opt.Select == nil {
		return r.read(nil)
	}
	return r.read(func(e Entry) bool { return x.opt.Select(e.Path) })
}

// salvage finds the members that touch a damaged frame, and selects all
// others.
func (x *extractor) salvage() error {
	err := x.a.Verify(x.ctx, VerifyOptions{Workers: x.opt.Workers})
	if err == nil || x.ctx.Err() != nil {
		return err
	}
	bad := map[int]error{}
	var collect func(error) error
	collect = func(err error) error {
		var d *DamagedError
		if j, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range j.Unwrap() {
				if err := collect(e); err != nil {
					return err
				}
			}
			return nil
		}
		if !errors.As(err, &d) {
			return err
		}
		bad[d.Frame] = d
		return nil
	}
	if err := collect(err); err != nil {
		return err
	}
	wanted := x.opt.Select
	lost := map[string]bool{}
	if err := x.a.Entries(func(e Entry) error {
		for i := x.a.frameAt(e.Start); i <= x.a.frameAt(e.End-1) && i < len(x.a.frames); i++ {
			if bad[i] != nil {
				lost[e.Path] = true
				if wanted == nil || wanted(e.Path) {
					x.sum.Problems = append(x.sum.Problems, Problem{e.Path, Lost, bad[i].Error()})
				}
				return nil
			}
		}
		if e.Type == TypeHardlink && lost[e.Link] {
			lost[e.Path] = true
			x.sum.Problems = append(x.sum.Problems, Problem{e.Path, Lost, "it is a link to " + Quote(e.Link) + ", which is lost"})
			return nil
		}
		return nil
	}); err != nil {
		return err
	}
	x.opt.Select = func(p string) bool { return !lost[p] && (wanted == nil || wanted(p)) }
	return nil
}

// clean checks a member's name: relative, without "." and "..".
func clean(p string) error {
	if p == "." {
		return nil
	}
	if p == "" || strings.HasPrefix(p, "/") || strings.Contains(p, "\x00") {
		return fmt.Errorf("refused member %q: its name is not below the root", Quote(p))
	}
	for _, e := range strings.Split(p, "/") {
		if e == "" || e == "." || e == ".." {
			return fmt.Errorf("refused member %q: its name is not below the root", Quote(p))
		}
	}
	return nil
}

func (x *extractor) member(p *tarParser, m *Member, stored int64) error {
	if err := clean(m.Path); err != nil {
		return err
	}
	x.sum.Members++
	if x.opt.Progress != nil {
		x.opt.Progress.Item(m.Path)
	}
	if m.Type == TypeHardlink {
		if err := clean(m.Link); err != nil {
			return err
		}
		x.hard = append(x.hard, m)
		return nil
	}
	if m.Flags&flagLocks != 0 && m.Type == TypeFile {
		x.locked = append(x.locked, m)
	}
	if m.Path == "." {
		x.folder = append(x.folder, m)
		return x.earlyDir(m)
	}
	dir, err := x.dirs.open(path.Dir(m.Path))
	if err != nil {
		return err
	}
	base := path.Base(m.Path)
	if m.Type == TypeFile {
		x.sum.Files++
		return x.file(p, m, stored, dir, base)
	}
	defer dir.release()
	if m.Type == TypeDir {
		x.folder = append(x.folder, m)
		return x.mkdir(dir.fd, base, m)
	}
	if err := x.node(m, dir.fd, base); err != nil {
		return fmt.Errorf("cannot make %s: %w", Quote(m.Path), err)
	}
	return nil
}

func (x *extractor) mkdir(dir int, base string, m *Member) error {
	err := replace(dir, base, func() error {
		err := unix.Mkdirat(dir, base, 0o700)
		if err == unix.EEXIST {
			var st unix.Stat_t
			if e := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); e == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
				return nil
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot make directory %s: %w", Quote(m.Path), err)
	}
	return x.earlyDir(m)
}

// earlyDir sets the flags that what is made in the directory gets from it.
func (x *extractor) earlyDir(m *Member) error {
	if m.Flags&flagEarlyDir == 0 && !x.inherit.Load() {
		return nil
	}
	x.inherit.Store(true)
	d, err := x.dirs.open(m.Path)
	if err != nil {
		return err
	}
	defer d.release()
	// What the file system has not is said where all flags are set.
	_ = setFlags(d.fd, m.Flags, flagEarlyDir)
	return nil
}

// replace does make, and once more after removing what is in the way.
func replace(dir int, base string, make func() error) error {
	err := make()
	if err == unix.EEXIST {
		if err = unix.Unlinkat(dir, base, 0); err == nil {
			err = make()
		}
	}
	return err
}

// node makes a link, device or fifo with its attributes.
func (x *extractor) node(m *Member, dir int, base string) error {
	kind := map[Type]uint32{TypeChar: unix.S_IFCHR, TypeBlock: unix.S_IFBLK, TypeFifo: unix.S_IFIFO}[m.Type]
	err := replace(dir, base, func() error {
		if m.Type == TypeSymlink {
			return unix.Symlinkat(m.Link, dir, base)
		}
		if x.opt.NoOwner && m.Type != TypeFifo {
			x.problem(m.Path, "device node not made without root")
			return nil
		}
		return unix.Mknodat(dir, base, kind|0o600, int(unix.Mkdev(m.Major, m.Minor)))
	})
	if err != nil || x.opt.NoOwner && kind != unix.S_IFIFO && m.Type != TypeSymlink {
		return err
	}
	if !x.opt.NoOwner {
		if err := unix.Fchownat(dir, base, int(m.UID), int(m.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	if m.Type != TypeSymlink {
		// The node was made just now in a directory of ours: not a link.
		if err := unix.Fchmodat(dir, base, m.Mode, 0); err != nil {
			return err
		}
	}
	x.attributes(m, func(n string, v []byte) error {
		return unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", dir, base), n, v, 0)
	})
	return times(dir, base, m)
}

func times(dir int, base string, m *Member) error {
	ts := []unix.Timespec{{Sec: m.Sec, Nsec: m.Nsec}, {Sec: m.Sec, Nsec: m.Nsec}}
	return unix.UtimesNanoAt(dir, base, ts, unix.AT_SYMLINK_NOFOLLOW)
}

func (x *extractor) problem(p, detail string) { x.add(Problem{p, Metadata, detail}) }

func (x *extractor) add(p Problem) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sum.Problems = append(x.sum.Problems, p)
}

// attributes sets ACLs and extended attributes. What the file system can't
// hold is a problem to be listed, not a reason to lose the file.
func (x *extractor) attributes(m *Member, set func(name string, value []byte) error) {
	try := func(n string, v []byte) {
		if err := set(n, v); err != nil {
			x.problem(m.Path, fmt.Sprintf("cannot set attribute %s: %v", n, err))
		}
	}
	for _, a := range []struct{ name, text string }{{xattrACLAccess, m.ACLAccess}, {xattrACLDefault, m.ACLDefault}} {
		if a.text == "" {
			continue
		}
		if b, err := aclBinary(a.text); err != nil {
			x.problem(m.Path, err.Error())
		} else {
			try(a.name, b)
		}
	}
	for _, a := range m.Xattrs {
		try(a.Name, []byte(a.Value))
	}
}

// file hands the body of a regular file to a worker, chunk by chunk.
func (x *extractor) file(p *tarParser, m *Member, stored int64, dir *dirRef, base string) (err error) {
	body := stored
	if m.IsSparse {
		if body, err = p.sparseMap(m, stored); err != nil {
			dir.release()
			return err
		}
	} else if m.Size > 0 {
		m.Sparse = []Segment{{0, m.Size}}
	}
	x.sum.Data += body
	j := &writeJob{m: m, dir: dir, base: base, chunks: make(chan chunk, 2)}
	pad := padding(stored)
	whole := body <= int64(len(p.s.rest))
	if whole && body > 0 {
		if err := x.send(p, j, body); err != nil {
			return err
		}
	}
	if whole {
		close(j.chunks)
	}
	select {
	case x.jobs <- j:
	case <-x.ctx.Done():
		return x.ctx.Err()
	}
	if !whole {
		defer func() {
			if err != nil {
				x.cancel() // the worker must not take the end of the chunks for the file's
			}
			close(j.chunks)
		}()
		for body > 0 {
			n := len(p.s.rest)
			if n == 0 {
				n = FrameSize
			}
			before := p.s.pos
			if err := x.send(p, j, min(body, int64(n))); err != nil {
				return err
			}
			body -= p.s.pos - before
		}
	}
	return p.skip(pad)
}

// send gives the next bytes, up to n, to the job's worker.
func (x *extractor) send(p *tarParser, j *writeJob, n int64) error {
	b, err := p.s.chunk(n)
	if err != nil {
		return noEOF(err)
	}
	p.s.cur.hold()
	select {
	case j.chunks <- chunk{b, p.s.cur}:
		return nil
	case <-x.ctx.Done():
		p.s.cur.release()
		return x.ctx.Err()
	}
}

func (x *extractor) worker() {
	for j := range x.jobs {
		err := x.write(j)
		for c := range drain(x.ctx, j.chunks) {
			c.f.release()
		}
		j.dir.release()
		if err != nil && !errors.Is(err, context.Canceled) {
			err = fmt.Errorf("cannot write %s: %w", Quote(j.m.Path), err)
			x.err.CompareAndSwap(nil, &err)
			x.cancel()
		}
	}
}

// drain yields what is left in c until it is closed or the run is over.
func drain(ctx context.Context, c chan chunk) func(func(chunk) bool) {
	return func(yield func(chunk) bool) {
		for {
			select {
			case k, ok := <-c:
				if !ok || !yield(k) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

func (x *extractor) write(j *writeJob) error {
	m := j.m
	var fd int
	err := replace(j.dir.fd, j.base, func() (err error) {
		fd, err = unix.Openat(j.dir.fd, j.base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if m.Flags&flagEarlyFile != 0 || x.inherit.Load() {
		if err := setFlags(fd, m.Flags, x.may(flagEarlyFile)); err != nil {
			x.problem(m.Path, err.Error())
		}
	}
	if m.IsSparse {
		if err := unix.Ftruncate(fd, m.Size); err != nil {
			return err
		}
	}
	segs := m.Sparse
	off := int64(0)
	left := int64(0)
	if len(segs) > 0 {
		off, left = segs[0].Offset, segs[0].Length
	}
	for c := range drain(x.ctx, j.chunks) {
		b := c.b
		for len(b) > 0 {
			if left == 0 {
				segs = segs[1:]
				off, left = segs[0].Offset, segs[0].Length
			}
			n, err := unix.Pwrite(fd, b[:min(left, int64(len(b)))], off)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				c.f.release()
				return err
			}
			b, off, left = b[n:], off+int64(n), left-int64(n)
		}
		c.f.release()
	}
	if err := x.ctx.Err(); err != nil {
		return err
	}
	return x.finishFile(fd, j)
}

func (x *extractor) finishFile(fd int, j *writeJob) error {
	m := j.m
	if !x.opt.NoOwner && (m.UID != 0 || m.GID != 0) {
		if err := unix.Fchown(fd, int(m.UID), int(m.GID)); err != nil {
			return err
		}
	}
	// After chown, which takes setuid away and clears capabilities.
	if err := unix.Fchmod(fd, m.Mode); err != nil {
		return err
	}
	if m.ACLAccess != "" || len(m.Xattrs) > 0 {
		x.attributes(m, func(n string, v []byte) error { return unix.Fsetxattr(fd, n, v, 0) })
	}
	x.flags(fd, m)
	return times(j.dir.fd, j.base, m)
}

// flags sets the flags that are set last, but for locks.
func (x *extractor) flags(fd int, m *Member) {
	if m.Flags&^flagLocks != 0 {
		if err := setFlags(fd, m.Flags, x.may(m.Flags&^flagLocks)); err != nil {
			x.problem(m.Path, err.Error())
		}
	}
	if m.Project != 0 && !x.opt.NoOwner {
		if err := setProject(fd, m.Project); err != nil {
			x.problem(m.Path, err.Error())
		}
	}
}

// may leaves out the flags that the caller can't set.
func (x *extractor) may(f Flags) Flags {
	if x.opt.NoOwner {
		f &^= flagLocks | flagJournal
	}
	return f
}

// lock sets immutable and append-only of a file or directory, or leaves that to
// SetLocks.
func (x *extractor) lock(m *Member) {
	l := Lock{m.Path, m.Flags & x.may(flagLocks)}
	if l.Flags == 0 {
		return
	}
	if x.opt.KeepUnlocked {
		x.sum.Locks = append(x.sum.Locks, l)
		return
	}
	if err := x.dirs.lock(l); err != nil {
		x.problem(m.Path, err.Error())
	}
}

// late makes the hard links and then sets the directories' attributes, the
// deepest first, so that nothing written later changes their times.
func (x *extractor) late() error {
	for _, m := range x.hard {
		if err := x.hardlink(m); err != nil {
			return fmt.Errorf("cannot link %s to %s: %w", Quote(m.Path), Quote(m.Link), err)
		}
	}
	for _, m := range x.locked {
		x.lock(m)
	}
	for _, m := range slices.Backward(x.folder) {
		d, err := x.dirs.open(m.Path)
		if err == nil {
			err = x.finishDir(d.fd, m)
			d.release()
		}
		if err != nil {
			return fmt.Errorf("cannot finish directory %s: %w", Quote(m.Path), err)
		}
		x.lock(m)
	}
	return nil
}

func (x *extractor) finishDir(fd int, m *Member) error {
	if !x.opt.NoOwner {
		if err := unix.Fchown(fd, int(m.UID), int(m.GID)); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(fd, m.Mode); err != nil {
		return err
	}
	x.attributes(m, func(n string, v []byte) error { return unix.Fsetxattr(fd, n, v, 0) })
	x.flags(fd, m)
	return times(fd, ".", m)
}

func (x *extractor) hardlink(m *Member) error {
	to, err := x.dirs.open(path.Dir(m.Path))
	if err != nil {
		return err
	}
	defer to.release()
	from, err := x.dirs.open(path.Dir(m.Link))
	if err != nil {
		return err
	}
	defer from.release()
	base := path.Base(m.Path)
	err = replace(to.fd, base, func() error { return unix.Linkat(from.fd, path.Base(m.Link), to.fd, base, 0) })
	if errors.Is(err, unix.ENOENT) && x.opt.Select != nil {
		x.problem(m.Path, "not made: the file it is a hard link to, "+Quote(m.Link)+", was not selected")
		return nil
	}
	return err
}

// dirRef is an open directory below the root.
type dirRef struct {
	fd   int
	path string
	refs atomic.Int32
}

func (d *dirRef) release() {
	if d.refs.Add(-1) == 0 {
		unix.Close(d.fd)
	}
}

// dirCache opens directories below a root, never through a symbolic link,
// and keeps the ones used last. Only the parser's goroutine opens.
type dirCache struct {
	root  *dirRef
	cache map[string]*dirRef
	order []string
	// lookOnly makes no missing directory.
	lookOnly bool
}

const dirCacheSize = 128

func newDirCache(root int) *dirCache {
	r := &dirRef{fd: root, path: "."}
	r.refs.Store(1)
	return &dirCache{root: r, cache: map[string]*dirRef{}}
}

// open gives the directory p, held; missing ones are made when members were
// selected singly.
func (c *dirCache) open(p string) (*dirRef, error) {
	if p == "." {
		c.root.refs.Add(1)
		return c.root, nil
	}
	if d := c.cache[p]; d != nil {
		d.refs.Add(1)
		return d, nil
	}
	parent, err := c.open(path.Dir(p))
	if err != nil {
		return nil, err
	}
	defer parent.release()
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(parent.fd, path.Base(p), flags, 0)
	if err == unix.ENOENT && !c.lookOnly {
		if err = unix.Mkdirat(parent.fd, path.Base(p), 0o755); err == nil {
			fd, err = unix.Openat(parent.fd, path.Base(p), flags, 0)
		}
	}
	if err != nil {
		if err == unix.ELOOP || err == unix.ENOTDIR {
			return nil, fmt.Errorf("refused to go through %s: it is not a directory", Quote(p))
		}
		return nil, &os.PathError{Op: "open", Path: Quote(p), Err: err}
	}
	d := &dirRef{fd: fd, path: p}
	d.refs.Store(2) // the cache's and the caller's
	if len(c.order) >= dirCacheSize {
		old := c.order[0]
		c.order = c.order[1:]
		c.cache[old].release()
		delete(c.cache, old)
	}
	c.cache[p] = d
	c.order = append(c.order, p)
	return d, nil
}

// openAny opens a file or directory to lock it; the caller closes it.
// Nothing else is opened, for a device may do something then.
func (c *dirCache) openAny(p string) (int, error) {
	d, err := c.open(path.Dir(p))
	if err != nil {
		return -1, err
	}
	defer d.release()
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, path.Base(p), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return -1, err
	}
	if k := st.Mode & unix.S_IFMT; k != unix.S_IFREG && k != unix.S_IFDIR {
		return -1, errors.New("it is no file or directory")
	}
	return unix.Openat(d.fd, path.Base(p), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

func (c *dirCache) close() {
	for _, d := range c.cache {
		d.release()
	}
	c.root.release()
}
