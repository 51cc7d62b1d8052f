package archive

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// hardLink is one more name of a file.
type hardLink struct{ path, link string }

// maxPending is how many hard links are kept in memory before they are made.
const maxPending = 1 << 16

// late makes the hard links and then sets the directories' attributes, the
// deepest first, so that nothing written later changes their times.
func (x *extractor) late() error {
	if err := x.links(); err != nil {
		return err
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
			if fatal(err) {
				return fmt.Errorf("cannot finish directory %s: %w", Quote(m.Path), err)
			}
			x.problem(m.Path, fmt.Sprintf("cannot finish the directory: %v", err))
			continue
		}
		x.lock(m)
	}
	return nil
}

// links makes the hard links that are there so far.
func (x *extractor) links() error {
	for _, l := range x.hard {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		if err := x.hardlink(l); err != nil {
			err = fmt.Errorf("cannot link %s to %s: %w", Quote(l.path), Quote(l.link), err)
			switch {
			case fatal(err):
				return err
			case errors.Is(err, errOutside):
				x.refuse(err)
			default:
				x.fail(Problem{l.path, Failed, err.Error()})
			}
		}
	}
	x.hard = x.hard[:0]
	return nil
}

// isFailed reports whether a member could not be written.
func (x *extractor) isFailed(path string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.failed[path]
}

// finishDir sets what a directory has. Each thing is tried, independent of
// the others.
func (x *extractor) finishDir(fd int, m *Member) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	// Not what it got from the directory above.
	for name, text := range map[string]string{xattrACLAccess: m.ACLAccess, xattrACLDefault: m.ACLDefault} {
		if text == "" {
			if err := unix.Fremovexattr(fd, name); err != nil && err != unix.ENODATA && err != unix.ENOTSUP && err != unix.ENOSYS {
				x.problem(m.Path, fmt.Sprintf("cannot remove attribute %s: %v", name, err))
			}
		}
	}
	has := &dirRef{gid: int(st.Gid)}
	if st.Uid != 0 && !x.opt.NoOwner {
		has.gid = -1
	}
	mode := x.own(m, has, func(uid, gid int) error { return unix.Fchown(fd, uid, gid) })
	if err := unix.Fchmod(fd, mode); err != nil {
		x.problem(m.Path, fmt.Sprintf("cannot set mode %04o: %v", mode, err))
	}
	x.attributes(m, func(n string, v []byte) error { return unix.Fsetxattr(fd, n, v, 0) })
	x.flags(fd, m)
	if err := futimens(fd, m); err != nil {
		x.problem(m.Path, fmt.Sprintf("cannot set its time: %v", err))
	}
	return nil
}

// hardlink makes one more name of a file. Where that can't be, it gets a copy.
func (x *extractor) hardlink(l hardLink) error {
	from := cmp.Or(x.copies[l.link], x.borrow[l.link], l.link)
	x.dirs.lookOnly = true
	src, err := x.dirs.open(path.Dir(from))
	x.dirs.lookOnly = false
	if err != nil {
		return err
	}
	defer src.release()
	switch {
	case x.targets != nil && !x.targets.have(l.link):
		return errors.New("the archive does not have that file")
	case l.path == from:
		return nil // it got the content itself, or is listed already
	case x.isFailed(from):
		return errors.New("that file could not be extracted")
	}
	to, err := x.dirs.open(path.Dir(l.path))
	if err != nil {
		return err
	}
	defer to.release()
	base := path.Base(l.path)
	link := x.opt.link
	if link == nil {
		link = func(od int, o string, nd int, n string) error { return unix.Linkat(od, o, nd, n, 0) }
	}
	err = replace(to.fd, base, func() error { return link(src.fd, path.Base(from), to.fd, base) })
	if err == nil || fatal(err) || err == unix.ENOENT || err == unix.EISDIR || err == unix.ENOTDIR || err == unix.EEXIST {
		return err
	}
	if e := x.copy(l.path, src.fd, path.Base(from), to); e != nil {
		return errors.Join(err, e)
	}
	x.copies[l.link] = l.path
	x.problem(l.path, fmt.Sprintf("is a file of its own, with the same content: cannot link it to %s: %v", Quote(l.link), err))
	return nil
}
