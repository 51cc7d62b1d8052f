package archive

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// dirRef is an open directory below the root.
type dirRef struct {
	fd   int
	path string
	refs atomic.Int32
	// What is made in it gets from it: a group, an ACL.
	gid int
	acl bool
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
	// made, if not nil, is called for every directory that was missing; inherit
	// gets true when a directory has flags that new files get from it.
	made    func(path string, fd int)
	inherit *atomic.Bool
}

const dirCacheSize = 128

func newDirCache(root int) *dirCache {
	r := &dirRef{fd: root, path: "."}
	r.refs.Store(1)
	return &dirCache{root: r, cache: map[string]*dirRef{}}
}

// flagInherited are the flags that the kernel gives what is made in a directory
// that has them.
const flagInherited = flagAll &^ (flagLocks | flagTopDir)

// look finds what is made in d would get from it.
func (c *dirCache) look(d *dirRef) error {
	if c.inherit == nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return err
	}
	d.gid = int(st.Gid)
	if n, err := unix.Fgetxattr(d.fd, xattrACLDefault, nil); err == nil && n > 0 {
		d.acl = true
	}
	if !c.inherit.Load() {
		if f, err := allFlags(d.fd); err == nil && Flags(f)&flagInherited != 0 {
			c.inherit.Store(true)
		}
	}
	return nil
}

// open gives the directory p, held; missing ones are made, unless lookOnly.
func (c *dirCache) open(p string) (*dirRef, error) {
	if d := c.cache[p]; d != nil {
		d.refs.Add(1)
		return d, nil
	}
	c.root.refs.Add(1)
	if p == "." {
		return c.root, nil
	}
	// From the deepest one that is open; one at a time, for a path can have more
	// directories than a process may have open.
	d, at := c.root, 0
	for i := strings.LastIndexByte(p, '/'); i > 0; i = strings.LastIndexByte(p[:i], '/') {
		if k := c.cache[p[:i]]; k != nil {
			k.refs.Add(1)
			d.release()
			d, at = k, i+1
			break
		}
	}
	for at <= len(p) {
		end := len(p)
		if i := strings.IndexByte(p[at:], '/'); i >= 0 {
			end = at + i
		}
		next, err := c.step(d, p[:end], p[at:end])
		d.release()
		if err != nil {
			return nil, err
		}
		d, at = next, end+1
	}
	return d, nil
}

// step opens the directory p, base in d, and keeps it.
func (c *dirCache) step(d *dirRef, p, base string) (*dirRef, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(d.fd, base, flags, 0)
	if err == unix.ENOENT && !c.lookOnly {
		if err = unix.Mkdirat(d.fd, base, 0o755); err == nil {
			if fd, err = unix.Openat(d.fd, base, flags, 0); err == nil && c.made != nil {
				c.made(p, fd)
			}
		}
	}
	if err == unix.ELOOP || err == unix.ENOTDIR {
		return nil, fmt.Errorf("%w to go through %s: it is not a directory", errOutside, Quote(p))
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: Quote(p), Err: err}
	}
	n := &dirRef{fd: fd, path: p}
	n.refs.Store(2) // the cache's and the caller's
	if err := c.look(n); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if len(c.order) >= dirCacheSize {
		old := c.order[0]
		c.order = c.order[1:]
		c.cache[old].release()
		delete(c.cache, old)
	}
	c.cache[p] = n
	c.order = append(c.order, p)
	return n, nil
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
		return -1, errors.New("it is not a file or directory")
	}
	return unix.Openat(d.fd, path.Base(p), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

func (c *dirCache) close() {
	for _, d := range c.cache {
		d.release()
	}
	c.root.release()
}

// OpenBelow opens the directory below, "a/b" or "/a/b", below dest without following a
// symbolic link behind dest; with create, missing directories are made.
func OpenBelow(dest, below string, create bool) (*os.File, error) {
	fd, _, err := openBelow(dest, below, create)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path.Join(dest, below)), nil
}

func openBelow(dest, below string, create bool) (fd int, made bool, err error) {
	fd, err = unix.Open(dest, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, false, fmt.Errorf("cannot open %s: %w", dest, err)
	}
	p := strings.Trim(below, "/")
	if p == "" || p == "." {
		return fd, false, nil
	}
	c := newDirCache(fd)
	defer c.close()
	c.lookOnly = !create
	c.made = func(at string, _ int) { made = made || at == p }
	if err := clean(p); err != nil {
		return -1, false, fmt.Errorf("cannot open %s below %s: %w", below, dest, err)
	}
	d, err := c.open(p)
	if err != nil {
		return -1, false, fmt.Errorf("cannot open %s below %s: %w", below, dest, err)
	}
	defer d.release()
	fd, err = unix.Openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, false, fmt.Errorf("cannot open %s below %s: %w", below, dest, err)
	}
	return fd, made, nil
}
