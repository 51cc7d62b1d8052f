// Package inroot opens paths of another system: links in it are followed as that
// system would follow them, an absolute one from its root and ".." not above it, so
// that nothing outside of the root is reached. It needs no openat2(2), which kernels
// before 5.6 lack.
package inroot

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// maxLinks is how many links one path may have, as MAXSYMLINKS of linux/namei.h.
const maxLinks = 40

// walker is a path on its way down.
type walker struct {
	dirs  []int    // from the root; the last is where it stands
	names []string // of all but the root
	links int
}

func (w *walker) close() {
	for _, fd := range w.dirs {
		unix.Close(fd)
	}
}

func (w *walker) here() int { return w.dirs[len(w.dirs)-1] }

// walk follows a path of directories below root. With perm not 0 those that are
// missing are made, but none that a link names. With last false the last component is not followed: it is returned.
func walk(root, name string, perm os.FileMode, last bool) (w *walker, base string, err error) {
	w = &walker{}
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", &os.PathError{Op: "open", Path: root, Err: err}
	}
	w.dirs = []int{fd}
	defer func() {
		if err != nil {
			w.close()
			err = &os.PathError{Op: "open", Path: filepath.Join(root, name), Err: err}
		}
	}()
	todo := strings.Split(name, "/")
	linked := 0 // how many of todo come from links
	for len(todo) > 0 {
		c := todo[0]
		todo = todo[1:]
		mode := perm
		if linked > 0 {
			linked, mode = linked-1, 0
		}
		switch {
		case c == "" || c == ".":
			continue
		case c == "..":
			if len(w.names) > 0 {
				unix.Close(w.here())
				w.dirs, w.names = w.dirs[:len(w.dirs)-1], w.names[:len(w.names)-1]
			}
			continue
		}
		if !last && strings.Trim(strings.Join(todo, ""), "./") == "" && !contains(todo, "..") {
			return w, c, nil
		}
		link, err := w.step(c, mode)
		if err != nil {
			return w, "", err
		}
		if link != "" {
			if w.links++; w.links > maxLinks {
				return w, "", unix.ELOOP
			}
			if path.IsAbs(link) {
				for _, fd := range w.dirs[1:] {
					unix.Close(fd)
				}
				w.dirs, w.names = w.dirs[:1], nil
			}
			parts := strings.Split(link, "/")
			todo, linked = append(parts, todo...), linked+len(parts)
		}
	}
	if !last {
		return w, "", errors.New("it is a directory")
	}
	return w, "", nil
}

func contains(todo []string, c string) bool {
	for _, t := range todo {
		if t == c {
			return true
		}
	}
	return false
}

// step goes into a directory, or gives the target of a link.
func (w *walker) step(c string, perm os.FileMode) (link string, err error) {
	how := unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(w.here(), c, how, 0)
	if errors.Is(err, unix.ENOENT) && perm != 0 {
		if err = unix.Mkdirat(w.here(), c, uint32(perm.Perm())); err == nil || errors.Is(err, unix.EEXIST) {
			fd, err = unix.Openat(w.here(), c, how, 0)
		}
	}
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return "", err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		w.dirs, w.names = append(w.dirs, fd), append(w.names, c)
		return "", nil
	case unix.S_IFLNK:
		defer unix.Close(fd)
		b := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", b)
		if err == nil && n == 0 {
			err = unix.ENOENT
		}
		return string(b[:max(n, 0)]), err
	}
	unix.Close(fd)
	return "", unix.ENOTDIR
}

// Dir gives where a directory of the system at root is, without links. One that is
// missing is an error.
func Dir(root, name string) (string, error) { return dir(root, name, 0) }

// MkdirAll is Dir that makes what is missing, with perm. A link to nothing is an error.
func MkdirAll(root, name string, perm os.FileMode) (string, error) { return dir(root, name, perm) }

func dir(root, name string, perm os.FileMode) (string, error) {
	w, _, err := walk(root, name, perm, true)
	if err != nil {
		return "", err
	}
	defer w.close()
	return filepath.Join(append([]string{root}, w.names...)...), nil
}

// Open opens a regular file of the system at root for reading.
func Open(root, name string) (*os.File, error) {
	for range maxLinks {
		w, base, err := walk(root, name, 0, false)
		if err != nil {
			return nil, err
		}
		at := filepath.Join(append(append([]string{root}, w.names...), base)...)
		fd, err := unix.Openat(w.here(), base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ELOOP) {
			b := make([]byte, unix.PathMax)
			n, e := unix.Readlinkat(w.here(), base, b)
			in := strings.Join(w.names, "/")
			w.close()
			if e != nil {
				return nil, &os.PathError{Op: "readlink", Path: at, Err: e}
			}
			if name = string(b[:n]); !path.IsAbs(name) {
				name = in + "/" + name
			}
			continue
		}
		w.close()
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: at, Err: err}
		}
		f := os.NewFile(uintptr(fd), at)
		st, err := f.Stat()
		if err == nil && !st.Mode().IsRegular() {
			err = fmt.Errorf("cannot read %s: %w", at, regular.Check(st))
		}
		if err != nil {
			f.Close()
			return nil, err
		}
		return f, nil
	}
	return nil, &os.PathError{Op: "open", Path: filepath.Join(root, name), Err: unix.ELOOP}
}

// Create makes a new file of the system at root, and the directories above it with
// mode 0755. What was there under its name, a link above all, is removed.
func Create(root, name string, perm os.FileMode) (*os.File, error) {
	w, base, err := walk(root, name, 0o755, false)
	if err != nil {
		return nil, err
	}
	defer w.close()
	at := filepath.Join(append(append([]string{root}, w.names...), base)...)
	if err := unix.Unlinkat(w.here(), base, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, &os.PathError{Op: "remove", Path: at, Err: err}
	}
	fd, err := unix.Openat(w.here(), base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(perm.Perm()))
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: at, Err: err}
	}
	return os.NewFile(uintptr(fd), at), nil
}
