package archive

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxPath is the longest path of a member, in bytes. A path has no limit on the
// disk; this one keeps a line of the table of contents, where one byte can
// take four, within maxLine.
const maxPath = 1 << 20

// Walk visits what Create would archive, without reading any content.
func Walk(ctx context.Context, root *os.File, opt CreateOptions) (*Summary, error) {
	k := &walker{ctx: ctx, opt: opt, sum: &Summary{}, foresee: true}
	links := map[inode]string{}
	k.visit = func(m *Member, _ int, _ string, st *unix.Stat_t) error {
		if st.Nlink > 1 && m.Type != TypeDir {
			id := inode{uint64(st.Dev), st.Ino}
			if first, ok := links[id]; ok {
				m.Type, m.Link, m.Size = TypeHardlink, first, 0
			} else {
				links[id] = m.Path
			}
		}
		if m.Type == TypeFile {
			k.sum.Data += min(m.Size, st.Blocks*512)
		}
		k.count(m)
		return nil
	}
	if err := k.walk(root); err != nil {
		return nil, fmt.Errorf("cannot list %s: %w", root.Name(), err)
	}
	return k.sum, nil
}

type inode struct{ dev, ino uint64 }

// walker goes through one file system: in each directory first all but
// directories, then those, both sorted by name.
type walker struct {
	ctx   context.Context
	opt   CreateOptions
	sum   *Summary
	mount uint64 // id of the mount that root is on
	// visit gets a member with what stat returned; dir and name are where it is.
	// errReplaced has the walker look again at what is there.
	visit func(m *Member, dir int, name string, st *unix.Stat_t) error
	// prefetch begins to open the files of a directory; nil where they are not opened.
	prefetch func(dir int, names []string) *ahead
	early    *ahead // what it began
	// foresee has names looked at before their turn: not where files are opened before it, whose replacement is
	// noticed by what stat returns when they are read.
	foresee bool
	looking time.Duration // how long stat(2) takes, a running mean
	// listed is what visit has listed of the directory that it was called for last, sorted; nil if it did not list it.
	listed []string
}

// errReplaced is returned for a name that stands for another kind of file than
// it did a moment before.
var errReplaced = errors.New("became another kind of file")

// replaceTries is how often a name is looked at that is replaced all the time.
const replaceTries = 5

func (k *walker) problem(path string, kind Kind, detail string) {
	k.sum.Problems = append(k.sum.Problems, Problem{path, kind, detail})
}

func (k *walker) count(m *Member) {
	k.sum.Members++
	if m.Type == TypeFile {
		k.sum.Files++
	}
	if k.opt.OnMember != nil {
		k.opt.OnMember(m)
	}
}

func (k *walker) absolute(path string) string {
	p := strings.TrimSuffix(k.opt.Prefix, "/")
	if path == "." {
		if p == "" {
			return "/"
		}
		return p
	}
	return p + "/" + path
}

func (k *walker) walk(root *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return err
	}
	k.mount = mountID(int(root.Fd()))
	m := &Member{Path: "."}
	fill(m, &st)
	if err := k.visit(m, int(root.Fd()), ".", &st); err != nil {
		return err
	}
	fd, err := unix.Openat(int(root.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return k.dir(os.NewFile(uintptr(fd), root.Name()), "", uint64(st.Dev))
}

// dir archives what is in d, on the device dev, and closes it.
func (k *walker) dir(d *os.File, prefix string, dev uint64) error {
	defer d.Close()
	names, err := k.listed, error(nil)
	if k.listed = nil; names == nil {
		names, err = d.Readdirnames(-1)
		slices.Sort(names)
	}
	if err != nil {
		path := strings.TrimSuffix(prefix, "/")
		if path == "" {
			path = "."
		}
		if errors.Is(err, unix.ENOENT) {
			k.problem(path, Vanished, "removed while it was read")
		} else {
			k.problem(path, Unreadable, fmt.Sprintf("cannot list the directory: %v; what it lists behind %d names is not saved", err, len(names)))
		}
	}
	names = slices.Compact(names) // a directory that changes may list a name twice
	names = slices.DeleteFunc(names, func(n string) bool {
		path := prefix + n
		if k.leftOut(path) {
			return true
		}
		if len(path) > maxPath {
			k.problem(path[:200]+"...", Unreadable, fmt.Sprintf("its path of %d bytes is longer than an archive can have (%d)", len(path), maxPath))
		}
		return len(path) > maxPath
	})
	subs, err := k.entries(d, prefix, names)
	if err != nil {
		return err
	}
	for _, path := range subs {
		if err := k.again(path, func() error { return k.replacedDir(int(d.Fd()), path[len(prefix):], path, dev) }); err != nil {
			return err
		}
	}
	return nil
}

// entries visits what the directory d has under names, and lists the directories among them.
func (k *walker) entries(d *os.File, prefix string, names []string) (subs []string, err error) {
	var seen *looks
	from := 0 // the number of its first name
	defer func() {
		k.early.close()
		k.early = nil
		seen.close()
	}()
	for i, n := range names {
		if err := k.ctx.Err(); err != nil {
			return nil, err
		}
		if i%lookNames == 0 {
			seen.close()
			seen, from = k.lookAhead(int(d.Fd()), names[i:]), i
		}
		if k.prefetch != nil && !k.early.has(n) {
			k.early.close()
			k.early = k.prefetch(int(d.Fd()), names[i:])
		}
		path := prefix + n
		isDir := false
		err := k.again(path, func() (err error) {
			isDir, err = k.entry(int(d.Fd()), n, path, seen.take(i-from))
			return err
		})
		if err != nil {
			return nil, err
		}
		if isDir {
			subs = append(subs, path)
		}
		k.early.passed(n)
	}
	return subs, nil
}

// leftOut reports whether a rule leaves path out.
func (k *walker) leftOut(path string) bool {
	rule := ""
	if k.opt.Exclude != nil {
		rule = k.opt.Exclude.Match(k.absolute(path))
	}
	if rule == "" {
		rule = k.opt.LeftOut[path]
	}
	if rule == "" && k.opt.Only != nil && !k.included(k.absolute(path)) {
		rule = "include"
	}
	if rule == "" {
		return false
	}
	k.sum.Excluded++
	if k.opt.OnExcluded != nil {
		k.opt.OnExcluded(k.absolute(path), rule)
	}
	return true
}

// included reports whether an absolute path is one of those that are archived, or above or
// below one.
func (k *walker) included(path string) bool {
	return slices.ContainsFunc(k.opt.Only, func(o string) bool {
		return o == "/" || o == path || strings.HasPrefix(path, o+"/") || strings.HasPrefix(o, path+"/")
	})
}

// again calls fn until what it looks at stays the same kind of file.
func (k *walker) again(path string, fn func() error) error {
	for range replaceTries {
		if err := fn(); err != errReplaced {
			return err
		}
	}
	k.problem(path, Replaced, "not saved: it became another kind of file each time it was opened")
	return nil
}

// replacedDir archives what was a directory a moment before.
func (k *walker) replacedDir(dir int, name, path string, dev uint64) error {
	err := k.subdir(dir, name, path, dev)
	if err != errReplaced {
		return err
	}
	if isDir, err := k.entry(dir, name, path, nil); !isDir {
		return err
	}
	return errReplaced
}

// entry visits a name, unless it is a directory. seen is what it was a moment before, if that is known.
func (k *walker) entry(dir int, name, path string, seen *look) (isDir bool, err error) {
	if seen == nil {
		seen = &look{}
		begin := time.Now()
		if err := quietly(func() error { return unix.Fstatat(dir, name, &seen.st, unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
			k.gone(path, err)
			return false, nil
		}
		seen.took = time.Since(begin)
	}
	k.looking += (seen.took - k.looking) / 16
	st := seen.st
	m := &Member{Path: path}
	if !fill(m, &st) {
		if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
			k.problem(path, Socket, "not saved")
		} else {
			k.problem(path, Unreadable, fmt.Sprintf("unknown file type %#o", st.Mode&unix.S_IFMT))
		}
		return false, nil
	}
	if m.Type == TypeDir {
		return true, nil
	}
	return false, k.visit(m, dir, name, &st)
}

func (k *walker) gone(path string, err error) {
	if errors.Is(err, unix.ENOENT) {
		k.problem(path, Vanished, "deleted before it was read")
		return
	}
	k.problem(path, Unreadable, "cannot open: "+err.Error())
}

func (k *walker) subdir(dir int, name, path string, dev uint64) error {
	fd, err := openQuietly(dir, name, unix.O_DIRECTORY)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return errReplaced
	}
	if err != nil {
		k.gone(path, err)
		return nil
	}
	d := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		d.Close()
		return err
	}
	m := &Member{Path: path}
	fill(m, &st)
	if err := k.visit(m, fd, ".", &st); err != nil {
		d.Close()
		return err
	}
	switch {
	case mountID(fd) != k.mount:
		// A view without submounts, as OpenFS gives it, has none of these.
		k.problem(path, Hidden, "something is mounted here, and what is hidden beneath it can't be read: only the mount point is saved")
	case uint64(st.Dev) != dev && slices.Contains(k.opt.Apart, path):
	case uint64(st.Dev) != dev && !slices.Contains(k.opt.Inner, path):
		k.problem(path, Foreign, "belongs to another file system (a subvolume?): only the directory is saved")
	default:
		return k.dir(d, path+"/", uint64(st.Dev))
	}
	d.Close()
	return nil
}

// quietly calls fn again while a signal interrupts it, which FUSE and network
// file systems report.
func quietly(fn func() error) error {
	for {
		if err := fn(); err != unix.EINTR {
			return err
		}
	}
}

// openQuietly opens a file or directory for reading, not through a link, and
// without changing its time of access where the caller may ask for that.
func openQuietly(dir int, name string, flags int) (fd int, err error) {
	flags |= unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	err = quietly(func() (err error) {
		fd, err = unix.Openat(dir, name, flags|unix.O_NOATIME, 0)
		if err == unix.EPERM {
			fd, err = unix.Openat(dir, name, flags, 0)
		}
		return err
	})
	return fd, err
}

// opener is openQuietly.
type opener func(dir int, name string, flags int) (fd int, err error)

// open is what opens files.
func (c *creator) open() opener {
	if c.opt.open != nil {
		return c.opt.open
	}
	return openQuietly
}

// openPatiently opens a regular file for reading. A lease of another process
// (Samba, NFS) has the kernel refuse with EAGAIN until that process gives it up,
// or until the kernel takes it away, after lease-break-time.
func (c *creator) openPatiently(dir int, name string, st *unix.Stat_t) (int, error) {
	if fd, took, ok := c.early.take(name, st); ok {
		c.opening += (took - c.opening) / 16
		return fd, nil
	}
	begin := time.Now()
	wait := 5 * time.Millisecond
	for end := time.Now().Add(c.patience()); ; {
		fd, err := c.open()(dir, name, unix.O_NONBLOCK)
		if err != unix.EAGAIN || time.Now().After(end) {
			c.opening += (time.Since(begin) - c.opening) / 16
			return fd, err
		}
		select {
		case <-c.ctx.Done():
			return -1, c.ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Second)
	}
}

// patience is how long a file is waited for that someone else has a claim on:
// longer than the kernel waits for the holder of a lease.
func (c *creator) patience() time.Duration {
	if c.opt.patience == 0 {
		s := 45 // the kernel's default, in seconds
		if b, err := os.ReadFile("/proc/sys/fs/lease-break-time"); err == nil {
			if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
				s = min(n, 600)
			}
		}
		c.opt.patience = time.Duration(s+15) * time.Second
	}
	return c.opt.patience
}

// mountID gives the id of the mount that an open file is on: from statx(2) since
// Linux 5.8, before that from /proc; 0 where neither can tell.
func mountID(fd int) uint64 {
	var sx unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &sx); err == nil && sx.Mask&unix.STATX_MNT_ID != 0 {
		return sx.Mnt_id
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "mnt_id:"); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}

// fill sets what stat(2) returns; false for sockets and unknown types.
func fill(m *Member, st *unix.Stat_t) bool {
	m.Mode, m.UID, m.GID = st.Mode&0o7777, int64(st.Uid), int64(st.Gid)
	m.Sec, m.Nsec = st.Mtim.Sec, st.Mtim.Nsec
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		m.Type, m.Size = TypeFile, st.Size
	case unix.S_IFDIR:
		m.Type = TypeDir
	case unix.S_IFLNK:
		m.Type = TypeSymlink
	case unix.S_IFIFO:
		m.Type = TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		m.Type = TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			m.Type = TypeBlock
		}
		m.Major, m.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	default:
		return false
	}
	return true
}
