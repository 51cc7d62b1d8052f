package tools

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxXattr is the most that the kernel gives of a list of names, and of a value.
const maxXattr = 64 << 10

// Xattrs gives the names of a file's extended attributes in order: with link those of a symbolic
// link itself. A file system without any has the error ENOTSUP.
func Xattrs(path string, link bool) ([]string, error) {
	list := unix.Listxattr
	if link {
		list = unix.Llistxattr
	}
	buf := make([]byte, maxXattr)
	n, err := list(path, buf)
	if err != nil || n == 0 {
		return nil, err
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	return names, nil
}

// Xattr gives the value of an extended attribute.
func Xattr(path, name string, link bool) ([]byte, error) {
	get := unix.Getxattr
	if link {
		get = unix.Lgetxattr
	}
	buf := make([]byte, maxXattr)
	n, err := get(path, name, buf)
	return buf[:max(n, 0)], err
}

// Replacement is a file that takes the place of another one when it is complete.
type Replacement struct {
	*os.File
	path string
	old  fs.FileInfo
}

// Replace makes a file beside path that Commit gives its name to. Discard has to be called in
// any case.
func Replace(path string) (*Replacement, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return nil, err
	}
	return &Replacement{f, path, st}, nil
}

// Commit gives the new file the owner, mode and extended attributes of the old one, of which
// SELinux' label is one, and its name. With a backup the old file gets that name. After an error
// the old file is unchanged.
func (r *Replacement) Commit(backup string) error {
	err := errors.Join(CopyOwner(r.File, r.old), copyXattrs(r.File, r.path), r.Sync())
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if backup != "" {
		_ = os.Remove(backup) // Link reports what stays
		if err := os.Link(r.path, backup); err != nil {
			if err := os.Rename(r.path, backup); err != nil { // a file system without hard links
				return err
			}
		}
	}
	if err := os.Rename(r.Name(), r.path); err != nil {
		return err
	}
	if d, err := os.Open(filepath.Dir(r.path)); err == nil {
		_ = d.Sync() // not every file system has that
		d.Close()
	}
	return nil
}

// Discard removes the new file, unless it has replaced the old one.
func (r *Replacement) Discard() {
	r.Close()
	_ = os.Remove(r.Name()) // it has another name after Commit
}

// copyXattrs copies the extended attributes that do not depend on the content.
func copyXattrs(f *os.File, from string) error {
	names, err := Xattrs(from, false)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	for _, n := range names {
		if n == "security.ima" || n == "security.evm" {
			continue
		}
		v, e := Xattr(from, n, false)
		if errors.Is(e, unix.ENODATA) {
			continue // it was removed
		}
		if e == nil {
			e = unix.Fsetxattr(int(f.Fd()), n, v, 0)
		}
		if e != nil && (os.Geteuid() == 0 || !errors.Is(e, unix.EPERM)) {
			err = errors.Join(err, fmt.Errorf("attribute %s: %w", n, e))
		}
	}
	return err
}

// CopyOwner gives f the owner and mode of st.
func CopyOwner(f *os.File, st fs.FileInfo) error {
	u, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("no owner known")
	}
	if err := f.Chown(int(u.Uid), int(u.Gid)); err != nil && os.Geteuid() == 0 {
		return err
	}
	return syscall.Fchmod(int(f.Fd()), u.Mode&0o7777)
}
