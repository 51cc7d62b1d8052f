package volume

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// ErrNotRegular is the cause of an error for a fifo, a device or a directory in the
// place of a file.
var ErrNotRegular = regular.ErrNot

// Open opens a file for reading, and waits for nothing: what is neither a regular
// file, nor a device where devices is true, is an ErrNotRegular. A link is followed.
func Open(path string, devices bool) (*os.File, error) {
	// Without O_NONBLOCK a fifo would be waited for; for regular files it has no
	// effect.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		if !devices || st.Mode()&os.ModeDevice == 0 {
			err = &os.PathError{Op: "open", Path: path, Err: regular.Check(st)}
		} else {
			err = unix.SetNonblock(int(f.Fd()), false)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ReadSmall reads a regular file of at most limit bytes.
func ReadSmall(path string, limit int64) ([]byte, error) {
	return regular.ReadFile(path, limit)
}

// free returns an error if something is at path that a volume must not replace: all
// but a regular file, and that, too, unless old is true.
func free(path string, old bool) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return &os.PathError{Op: "replace", Path: path, Err: regular.Check(st)}
	case !old:
		return &os.PathError{Op: "replace", Path: path, Err: os.ErrExist}
	}
	return nil
}

// rename gives a volume that is whole its name. It replaces nothing but, where old
// is true, a regular file.
func rename(from, to string, old bool) error {
	if err := free(to, old); err != nil {
		return err
	}
	if old {
		return os.Rename(from, to)
	}
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, syscall.ENOSYS) {
		return os.Rename(from, to) // a file system, or kernel, that can't do more
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}
