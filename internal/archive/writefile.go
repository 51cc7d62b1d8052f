package archive

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

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
	whole := body <= int64(len(p.s.rest))
	if whole && body > 0 {
		if err := x.send(p, j, body); err != nil {
			dir.release()
			return err
		}
	}
	if whole {
		close(j.chunks)
	}
	x.pending.Add(1)
	select {
	case x.jobs <- j:
	case <-x.ctx.Done():
		x.pending.Done()
		return x.ctx.Err()
	}
	if !whole {
		defer func() {
			j.broken.Store(err != nil) // the end of the chunks is not the file's then
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
	return nil
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
		switch {
		case err == nil || err == errBroken || errors.Is(err, context.Canceled):
		case fatal(err):
			err = fmt.Errorf("cannot write %s: %w", Quote(j.m.Path), err)
			x.err.CompareAndSwap(nil, &err)
			x.cancel()
		default:
			x.fail(Problem{j.m.Path, Failed, "cannot write it: " + err.Error()})
		}
		x.pending.Done()
	}
}

// drain yields what is still in c until it is closed or the run is over.
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

// errBroken is returned for a file that could not be read to its end, which who
// reads it lists.
var errBroken = errors.New("not all of it could be read")

func (x *extractor) write(j *writeJob) error {
	fd, err := x.create(j.m, j.dir, j.base)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := x.fill(fd, j); err != nil {
		// Half a file would be taken for the whole.
		_ = unix.Unlinkat(j.dir.fd, j.base, 0)
		return err
	}
	x.finishFile(fd, j.m, j.dir)
	return nil
}

// create makes a new file, in the place of what has its name.
func (x *extractor) create(m *Member, dir *dirRef, base string) (fd int, err error) {
	if err = replace(dir.fd, base, func() (err error) {
		fd, err = unix.Openat(dir.fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	}); err != nil {
		return -1, err
	}
	if m.Flags&flagEarlyFile != 0 || x.inherit.Load() {
		if err := setFlags(fd, m.Flags, x.may(flagEarlyFile)); err != nil {
			x.problem(m.Path, err.Error())
		}
	}
	return fd, nil
}

// fill writes the chunks of a file.
func (x *extractor) fill(fd int, j *writeJob) error {
	m := j.m
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
	if j.broken.Load() {
		return errBroken
	}
	return x.ctx.Err()
}

// finishFile sets what a file has. Each thing is tried, independent of the
// others.
func (x *extractor) finishFile(fd int, m *Member, dir *dirRef) {
	mode := x.own(m, dir, func(uid, gid int) error { return unix.Fchown(fd, uid, gid) })
	if dir.acl { // what the file got from its directory
		if err := unix.Fremovexattr(fd, xattrACLAccess); err != nil && err != unix.ENODATA && err != unix.ENOTSUP {
			x.problem(m.Path, fmt.Sprintf("cannot remove the ACL that its directory gave it: %v", err))
		}
	}
	// After chown, which takes setuid away and clears capabilities.
	if err := unix.Fchmod(fd, mode); err != nil {
		x.problem(m.Path, fmt.Sprintf("cannot set mode %04o: %v", mode, err))
	}
	if m.ACLAccess != "" || len(m.Xattrs) > 0 {
		x.attributes(m, func(n string, v []byte) error { return unix.Fsetxattr(fd, n, v, 0) })
	}
	x.flags(fd, m)
	if err := futimens(fd, m); err != nil {
		x.problem(m.Path, fmt.Sprintf("cannot set its time: %v", err))
	}
}

// futimens sets the time of an open file.
func futimens(fd int, m *Member) error {
	ts := timespecs(m)
	_, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	runtime.KeepAlive(&ts)
	if e != 0 {
		return e
	}
	return nil
}

// flags sets the flags that are set last, but for locks.
func (x *extractor) flags(fd int, m *Member) {
	inherited := x.inherit.Load()
	mask := m.Flags &^ flagLocks
	if inherited {
		mask |= flagInherited
	}
	if mask != 0 {
		if err := setFlags(fd, m.Flags, x.may(mask)); err != nil {
			x.problem(m.Path, err.Error())
		}
	}
	if (m.Project != 0 || inherited) && !x.opt.NoOwner {
		if err := setProject(fd, m.Project); err != nil && m.Project != 0 {
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
// SetLocksBelow.
func (x *extractor) lock(m *Member) {
	l := Lock{m.Path, m.Flags & x.may(flagLocks)}
	if l.Flags == 0 || x.isFailed(m.Path) {
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

// copy makes path, in the directory to, a file with the content and attributes of
// name in the directory from.
func (x *extractor) copy(path string, from int, name string, to *dirRef) error {
	in, err := openQuietly(from, name, unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil {
		return err
	}
	is := &Member{Path: path}
	if !fill(is, &st) || is.Type != TypeFile {
		return errors.New("only files can be copied")
	}
	c := creator{walker: walker{ctx: x.ctx, sum: &Summary{}}}
	c.attributes(is, in, "")
	is.readFlags(in)
	base := lastElement(path)
	out, err := x.create(is, to, base)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	segs, ok := holes(in, is.Size)
	if !ok {
		segs = []Segment{{0, is.Size}}
	}
	err = unix.Ftruncate(out, is.Size)
	buf := make([]byte, 256<<10)
	for _, s := range segs {
		for s.Length > 0 && err == nil {
			var n int
			if n, err = unix.Pread(in, buf[:min(s.Length, int64(len(buf)))], s.Offset); n <= 0 {
				break
			}
			n, err = unix.Pwrite(out, buf[:n], s.Offset)
			s.Offset, s.Length = s.Offset+int64(n), s.Length-int64(n)
		}
		if err == nil && s.Length > 0 {
			err = errors.New("it became shorter while it was copied")
		}
	}
	if err != nil {
		_ = unix.Unlinkat(to.fd, base, 0)
		return err
	}
	x.finishFile(out, is, to)
	return x.ctx.Err()
}
