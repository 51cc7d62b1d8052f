package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// Difference is one thing in which a file system differs from an archive.
type Difference struct {
	Path string `json:"path"`
	What string `json:"what"`
}

func (d Difference) String() string { return Quote(d.Path) + ": " + d.What }

// CompareOptions defines how a comparison is done.
type CompareOptions struct {
	Workers  int
	Progress progress.Counter
	// NoOwner leaves owners out, for callers without root.
	NoOwner bool
	// Inner and Apart are the subvolumes that the archive was made with, as in
	// CreateOptions.
	Inner, Apart []string
	// Unlocked ignores the flags immutable and append-only: a copy gets them when
	// everything else is done.
	Unlocked bool
}

// Compare compares every member with what is below root, a directory as OpenFS
// gives it: kind, mode, owner, size, time, content, link, device, attributes;
// and lists what is there and not in the archive. Nothing is written. The error
// is that of reading the archive.
func (a *Reader) Compare(ctx context.Context, root *os.File, opt CompareOptions) ([]Difference, error) {
	if opt.Workers <= 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	return compareWith(ctx, root, opt, "is not in the archive", func(c *comparer) error {
		if a.count == 0 {
			return nil
		}
		if err := c.read(ctx, a); err != nil {
			return fmt.Errorf("cannot compare %s: %w", a.name, err)
		}
		return nil
	})
}

// CompareCopy compares what Copy copies of root, with the same options, with what is below
// the directory dest, as Compare does. What was written to the disk before is read from
// there, and not from the page cache. The error is that of reading root.
func CompareCopy(ctx context.Context, root, dest *os.File, from CreateOptions, opt CompareOptions) ([]Difference, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pr, pw := io.Pipe()
	read := make(chan error, 1)
	go func() {
		_, err := createPlain(ctx, pw, root, from)
		pw.CloseWithError(err)
		read <- err
	}()
	out, err := compareWith(ctx, dest, opt, "is not on the source", func(c *comparer) error {
		s := plainStream(ctx, pr)
		defer s.stop()
		return c.stream(ctx, &tarParser{s: s})
	})
	if err != nil {
		pr.CloseWithError(err)
		cancel()
	}
	if e := <-read; e != nil && (err == nil || !errors.Is(e, context.Canceled)) {
		err = e
	}
	if err != nil {
		return nil, fmt.Errorf("cannot compare %s with its copy: %w", root.Name(), err)
	}
	return out, nil
}

// compareWith compares the members that read gives to its comparer with what is below root.
// more is what is said of members below root that read did not give.
func compareWith(ctx context.Context, root *os.File, opt CompareOptions, more string, read func(*comparer) error) ([]Difference, error) {
	fd, err := unix.Openat(int(root.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", root.Name(), err)
	}
	c := &comparer{opt: opt, dirs: newDirCache(fd), seen: map[string]bool{}, attr: creator{walker: walker{sum: &Summary{}}}, buf: make([]byte, 256<<10)}
	c.dirs.lookOnly = true
	defer c.dirs.close()
	if err := read(c); err != nil {
		return nil, err
	}
	k := &walker{ctx: ctx, opt: CreateOptions{Inner: opt.Inner, Apart: opt.Apart}, sum: &Summary{}, visit: func(m *Member, _ int, _ string, _ *unix.Stat_t) error {
		if !c.seen[m.Path] {
			c.differ(m.Path, "%s", more)
		}
		return ctx.Err()
	}}
	if err := k.walk(root); err != nil {
		return nil, err
	}
	for _, p := range append(c.attr.sum.Problems, k.sum.Problems...) {
		if p.Kind != Socket {
			c.differ(p.Path, "%s", p.Detail)
		}
	}
	return c.out, nil
}

type comparer struct {
	opt  CompareOptions
	dirs *dirCache
	seen map[string]bool
	attr creator // reads attributes
	buf  []byte
	out  []Difference
}

func (c *comparer) differ(p, format string, a ...any) {
	c.out = append(c.out, Difference{p, fmt.Sprintf(format, a...)})
}

func (c *comparer) read(ctx context.Context, a *Reader) error {
	r := memberReader{a: a, ctx: ctx, workers: c.opt.Workers, progress: c.opt.Progress}
	r.bad = func(e Entry, err error) {
		c.seen[e.Path] = true
		c.differ(e.Path, "cannot be compared: %v", err)
	}
	r.fn = func(p *tarParser, m *Member, stored int64, _ Entry) error { return c.next(p, m, stored) }
	return r.read(nil)
}

// stream compares all members of a tar stream.
func (c *comparer) stream(ctx context.Context, p *tarParser) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		m, stored, err := p.next()
		if err != nil || m == nil {
			return err
		}
		end := p.s.pos + stored + padding(stored)
		if err := c.next(p, m, stored); err != nil {
			return err
		}
		if err := p.skip(end - p.s.pos); err != nil {
			return err
		}
	}
}

// next compares a member whose header was read.
func (c *comparer) next(p *tarParser, m *Member, stored int64) error {
	if err := clean(m.Path); err != nil {
		return err
	}
	c.seen[m.Path] = true
	if c.opt.Progress != nil {
		c.opt.Progress.Item(m.Path)
	}
	body := stored
	if m.Type == TypeFile && m.IsSparse {
		var err error
		if body, err = p.sparseMap(m, stored); err != nil {
			return err
		}
	}
	return c.member(p, m, body)
}

// member compares one member; of its body it may read less than there is.
func (c *comparer) member(p *tarParser, m *Member, body int64) error {
	dir, err := c.dirs.open(path.Dir(m.Path))
	if err != nil {
		c.differ(m.Path, "is missing")
		return nil
	}
	defer dir.release()
	base := path.Base(m.Path)
	var st unix.Stat_t
	if err := unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			c.differ(m.Path, "is missing")
		} else {
			c.differ(m.Path, "%v", err)
		}
		return nil
	}
	if m.Type == TypeHardlink {
		c.hardlink(m, &st)
		return nil
	}
	is := &Member{Path: m.Path}
	if !fill(is, &st) || is.Type != m.Type {
		c.differ(m.Path, "is of another kind: %q was %q", is.Type, m.Type)
		return nil
	}
	c.status(m, is)
	if m.Type == TypeSymlink {
		n, err := unix.Readlinkat(dir.fd, base, c.buf)
		if err != nil || string(c.buf[:n]) != m.Link {
			c.differ(m.Path, "points to %s, pointed to %s", Quote(string(c.buf[:max(n, 0)])), Quote(m.Link))
		}
	}
	at, err := unix.Openat(dir.fd, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		c.differ(m.Path, "cannot be read: %v", err)
		return nil
	}
	c.attr.attributes(is, at, fmt.Sprintf("/proc/self/fd/%d", at))
	unix.Close(at)
	c.attributes(m, is)
	if m.Type != TypeDir && m.Type != TypeFile {
		return nil
	}
	fd, err := openQuietly(dir.fd, base, unix.O_NONBLOCK)
	if err != nil {
		c.differ(m.Path, "cannot be read: %v", err)
		return nil
	}
	defer unix.Close(fd)
	c.flags(m, is, fd)
	if m.Type == TypeFile {
		return c.file(p, m, is, fd, body)
	}
	return nil
}

// status compares what stat(2) returns.
func (c *comparer) status(m, is *Member) {
	if is.Mode != m.Mode && m.Type != TypeSymlink {
		c.differ(m.Path, "mode is %04o, was %04o", is.Mode, m.Mode)
	}
	if (is.UID != m.UID || is.GID != m.GID) && !c.opt.NoOwner {
		c.differ(m.Path, "owner is %d:%d, was %d:%d", is.UID, is.GID, m.UID, m.GID)
	}
	if is.Sec != m.Sec || is.Nsec != m.Nsec {
		c.differ(m.Path, "time is %d.%09d, was %d.%09d", is.Sec, is.Nsec, m.Sec, m.Nsec)
	}
	if is.Major != m.Major || is.Minor != m.Minor {
		c.differ(m.Path, "device is %d:%d, was %d:%d", is.Major, is.Minor, m.Major, m.Minor)
	}
}

func (c *comparer) hardlink(m *Member, st *unix.Stat_t) {
	dir, err := c.dirs.open(path.Dir(m.Link))
	if err != nil {
		c.differ(m.Path, "%s, which it is a link to, is missing", Quote(m.Link))
		return
	}
	defer dir.release()
	var to unix.Stat_t
	if err := unix.Fstatat(dir.fd, path.Base(m.Link), &to, unix.AT_SYMLINK_NOFOLLOW); err != nil || to.Ino != st.Ino || to.Dev != st.Dev {
		c.differ(m.Path, "is not a hard link to %s any more", Quote(m.Link))
	}
}

func (c *comparer) attributes(m, is *Member) {
	if m.ACLAccess != is.ACLAccess || m.ACLDefault != is.ACLDefault {
		c.differ(m.Path, "has another ACL")
	}
	if !slices.Equal(m.Xattrs, is.Xattrs) {
		var names []string
		for _, x := range append(slices.Clone(m.Xattrs), is.Xattrs...) {
			if slices.Contains(m.Xattrs, x) != slices.Contains(is.Xattrs, x) && !slices.Contains(names, x.Name) {
				names = append(names, x.Name)
			}
		}
		c.differ(m.Path, "has other extended attributes: %s", strings.Join(names, ", "))
	}
}

func (c *comparer) flags(m, is *Member, fd int) {
	is.readFlags(fd)
	now, was := is.Flags, m.Flags
	if c.opt.Unlocked {
		now, was = now&^flagLocks, was&^flagLocks
	}
	if now != was {
		c.differ(m.Path, "flags are %q, were %q", now, was)
	}
	if is.Project != m.Project {
		c.differ(m.Path, "project is %d, was %d", is.Project, m.Project)
	}
}

// file compares content, and that holes read as zero bytes.
func (c *comparer) file(p *tarParser, m, is *Member, fd int, body int64) error {
	if is.Size != m.Size {
		c.differ(m.Path, "has %d bytes, had %d", is.Size, m.Size)
		return nil
	}
	_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) // from the disk
	segs := m.Sparse
	if !m.IsSparse {
		segs = []Segment{{0, m.Size}}
	}
	at := int64(0)
	for _, s := range segs {
		if off := c.notZero(fd, at, s.Offset-at); off >= 0 {
			c.differ(m.Path, "differs at byte %d", off)
			return nil
		}
		for off, left := s.Offset, s.Length; left > 0; {
			b, err := p.s.chunk(min(left, int64(len(c.buf))))
			if err != nil {
				return noEOF(err)
			}
			got := c.buf[:len(b)]
			if n, err := unix.Pread(fd, got, off); err != nil || n != len(b) || !bytes.Equal(got, b) {
				c.differ(m.Path, "differs between bytes %d and %d", off, off+int64(len(b)))
				return nil
			}
			off, left = off+int64(len(b)), left-int64(len(b))
		}
		at = s.Offset + s.Length
	}
	if off := c.notZero(fd, at, m.Size-at); off >= 0 {
		c.differ(m.Path, "differs at byte %d", off)
	}
	return nil
}

// notZero gives where a range that should be a hole has something, -1 for
// nowhere. Holes are not read.
func (c *comparer) notZero(fd int, at, n int64) int64 {
	for end := at + n; at < end; {
		d, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO || err == nil && d >= end {
			return -1
		}
		if err == nil && d > at {
			at = d
		}
		k, err := unix.Pread(fd, c.buf[:min(end-at, int64(len(c.buf)))], at)
		if err != nil || k == 0 {
			return at
		}
		if i := bytes.IndexFunc(c.buf[:k], func(r rune) bool { return r != 0 }); i >= 0 {
			return at + int64(i)
		}
		at += int64(k)
	}
	return -1
}
