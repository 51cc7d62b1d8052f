package sysconf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/inroot"
)

// Tree is the file tree of a system that is mounted below a directory. Symbolic
// links in it are the system's own: an absolute one begins at the directory, as in
// a chroot, and none leads out of it. Names are from the tree's root, with or
// without a slash at the beginning, and are never patterns but in Glob.
//
// Package inroot follows the links.
type Tree struct{ dir string }

// maxTreeFile is the size of the largest file that Read takes: configuration.
const maxTreeFile = 64 << 20

// In is the tree below a directory. Nothing is kept open.
func In(dir string) Tree { return Tree{dir} }

// parts divides a name.
func parts(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(s string) bool { return s == "" || s == "." })
}

// walk follows a name and gives an O_PATH descriptor of the directory that its last
// part is in, which the caller closes, the last part, "" for a directory that has no
// name of its own, and the name without links. A last part that is a link is followed
// if follow is true; one that does not exist is not an error.
func (t Tree) walk(name string, follow bool) (dir int, base, real string, err error) {
	for range 40 {
		up := parts(name)
		base = ""
		if n := len(up); n > 0 && up[n-1] != ".." {
			up, base = up[:n-1], up[n-1]
		}
		at, err := inroot.Dir(t.dir, strings.Join(up, "/"))
		if err != nil {
			return -1, "", "", err
		}
		if dir, err = unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return -1, "", "", &fs.PathError{Op: "open", Path: name, Err: err}
		}
		in := strings.TrimPrefix(at, path.Clean(t.dir))
		to, err := readlinkat(dir, base)
		if !follow || base == "" || err != nil {
			return dir, base, path.Join("/", in, base), nil
		}
		unix.Close(dir)
		if name = to; !strings.HasPrefix(to, "/") {
			name = in + "/" + to
		}
	}
	return -1, "", "", &fs.PathError{Op: "open", Path: name, Err: unix.ELOOP}
}

func readlinkat(dir int, name string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// open opens a file by its name; a last part that is a link is followed by walk.
func (t Tree) open(name string, flags int, mode uint32) (*os.File, error) {
	dir, base, real, err := t.walk(name, true)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	if base == "" {
		base = "."
	}
	fd, err := unix.Openat(dir, base, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, mode)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), path.Join(t.dir, real)), nil
}

// Open opens a regular file or directory for reading.
func (t Tree) Open(name string) (*os.File, error) {
	f, err := t.open(name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() && !st.IsDir() {
		f.Close()
		return nil, errors.Join(err, &fs.PathError{Op: "open", Path: name, Err: errors.New("not a file")})
	}
	return f, nil
}

// Read reads a regular file.
func (t Tree) Read(name string) ([]byte, error) {
	f, err := t.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTreeFile+1))
	if err == nil && len(b) > maxTreeFile {
		err = &fs.PathError{Op: "read", Path: name, Err: errors.New("too large")}
	}
	return b, err
}

// Real gives the name of a file without links, from the tree's root. The file need
// not exist, but its directory.
func (t Tree) Real(name string) (string, error) {
	dir, _, real, err := t.walk(name, true)
	if err != nil {
		return "", err
	}
	return real, unix.Close(dir)
}

// Stat returns what is known of a file, behind a link.
func (t Tree) Stat(name string) (fs.FileInfo, error) { return t.stat(name, true) }

// Lstat returns what is known of a file or link.
func (t Tree) Lstat(name string) (fs.FileInfo, error) { return t.stat(name, false) }

func (t Tree) stat(name string, follow bool) (fs.FileInfo, error) {
	dir, base, real, err := t.walk(name, follow)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	if base == "" {
		base = "."
	}
	fd, err := unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), path.Join(t.dir, real))
	defer f.Close()
	return f.Stat()
}

// Exists reports whether a file is there, behind a link.
func (t Tree) Exists(name string) bool {
	_, err := t.Stat(name)
	return err == nil
}

// List lists a directory, sorted; nothing for one that is not there.
func (t Tree) List(name string) []string {
	f, err := t.open(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil
	}
	slices.Sort(names)
	return names
}

// Glob lists files below a directory whose names match a pattern of path.Match,
// sorted; the directory's name is not a pattern. A star does not match a dot at the
// beginning of a name.
func (t Tree) Glob(dir, pattern string) []string {
	found := []string{path.Clean("/" + dir)}
	for _, p := range parts(pattern) {
		var next []string
		for _, d := range found {
			if !strings.ContainsAny(p, `*?[\`) {
				if n := path.Join(d, p); t.Exists(n) {
					next = append(next, n)
				}
				continue
			}
			for _, n := range t.List(d) {
				if ok, err := path.Match(p, n); err == nil && ok && (n[0] != '.' || p[0] == '.') {
					next = append(next, path.Join(d, n))
				}
			}
		}
		found = next
	}
	return found
}

// MkdirAll makes a directory and what is above it.
func (t Tree) MkdirAll(name string, mode uint32) error {
	done := ""
	for _, p := range parts(name) {
		done += "/" + p
		dir, base, _, err := t.walk(done, true)
		if err != nil {
			return err
		}
		if base != "" {
			err = unix.Mkdirat(dir, base, mode)
		}
		unix.Close(dir)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return &fs.PathError{Op: "mkdir", Path: name, Err: err}
		}
	}
	return nil
}

// Write writes a file as a whole: it gets the content at once or not at all. A file
// that was there is followed through links, and its owner, mode and extended
// attributes stay; a new one is root's, with the mode given.
func (t Tree) Write(name string, b []byte, mode uint32) error {
	return t.write(name, b, mode, name)
}

// Copy writes a file with the content, owner, mode, attributes and times of another.
func (t Tree) Copy(from, to string) error {
	b, err := t.Read(from)
	if err != nil {
		return err
	}
	st, err := t.Stat(from)
	if err != nil {
		return err
	}
	if err := t.write(to, b, uint32(st.Mode().Perm()), from); err != nil {
		return err
	}
	dir, base, _, err := t.walk(to, false)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	ts := unix.NsecToTimespec(st.ModTime().UnixNano())
	return unix.UtimesNanoAt(dir, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// write writes a file with the owner, mode and attributes of another, if that is
// there.
func (t Tree) write(name string, b []byte, mode uint32, like string) (err error) {
	dir, base, _, err := t.walk(name, true)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if base == "" {
		return &fs.PathError{Op: "write", Path: name, Err: unix.EISDIR}
	}
	old, err := t.Open(like)
	if err == nil {
		defer old.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, temp, err := createIn(dir, base, mode)
	if err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	defer func() {
		if err != nil {
			err = errors.Join(&fs.PathError{Op: "write", Path: name, Err: err}, unix.Unlinkat(dir, temp, 0))
		}
	}()
	_, err = f.Write(b)
	if err == nil && old != nil {
		err = likeOld(f, old)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return unix.Renameat(dir, temp, dir, base)
}

// createIn makes a new file beside the one that it is to replace. Its name is hidden,
// and short: vfat and directories of configuration read every other.
func createIn(dir int, base string, mode uint32) (*os.File, string, error) {
	for n := 0; ; n++ {
		temp := "." + base[:min(len(base), 200)] + ".new" + strconv.Itoa(n)
		fd, err := unix.Openat(dir, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode&0o777)
		if errors.Is(err, unix.EEXIST) && n < 100 {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		f := os.NewFile(uintptr(fd), temp)
		return f, temp, unix.Fchmod(fd, mode&0o7777)
	}
}

// likeOld gives a file another's owner, mode and extended attributes. On a file
// system without owners they are all alike.
func likeOld(f, old *os.File) error {
	var st, now unix.Stat_t
	if err := errors.Join(unix.Fstat(int(old.Fd()), &st), unix.Fstat(int(f.Fd()), &now)); err != nil {
		return err
	}
	if st.Uid != now.Uid || st.Gid != now.Gid {
		if err := unix.Fchown(int(f.Fd()), int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if st.Mode != now.Mode {
		if err := unix.Fchmod(int(f.Fd()), st.Mode&0o7777); err != nil {
			return err
		}
	}
	size, err := unix.Flistxattr(int(old.Fd()), nil)
	if err != nil || size == 0 {
		return nil // none, or a file system without
	}
	names := make([]byte, size)
	if size, err = unix.Flistxattr(int(old.Fd()), names); err != nil {
		return err
	}
	for _, n := range strings.Split(strings.TrimRight(string(names[:size]), "\x00"), "\x00") {
		v := make([]byte, 64<<10)
		k, err := unix.Fgetxattr(int(old.Fd()), n, v)
		if err != nil {
			continue
		}
		if err := unix.Fsetxattr(int(f.Fd()), n, v[:k], 0); err != nil {
			return fmt.Errorf("cannot keep its attribute %s: %w", n, err)
		}
	}
	return nil
}

// Remove removes a file or link; one that is not there is no error.
func (t Tree) Remove(name string) error {
	dir, base, _, err := t.walk(name, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := unix.Unlinkat(dir, base, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

// Symlink makes a link.
func (t Tree) Symlink(to, name string) error {
	dir, base, _, err := t.walk(name, false)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := unix.Symlinkat(to, dir, base); err != nil {
		return &fs.PathError{Op: "symlink", Path: name, Err: err}
	}
	return nil
}

// Readlink reads a link.
func (t Tree) Readlink(name string) (string, error) {
	dir, base, _, err := t.walk(name, false)
	if err != nil {
		return "", err
	}
	defer unix.Close(dir)
	return readlinkat(dir, base)
}
