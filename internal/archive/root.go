package archive

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/ioctl"
)

// Root is what the root of a file system is known by. A field that is 0 or ""
// is not compared.
type Root struct {
	// Dev is st_dev of the root directory. On btrfs it is a number that the
	// kernel makes up at every mount: FSID and Subvolume count there.
	Dev uint64
	Ino uint64 // st_ino of the root directory
	// FSID is the UUID of a btrfs, as 32 digits of hex; Subvolume the id of the
	// subvolume that is the root.
	FSID      string
	Subvolume uint64
}

func (r Root) String() string {
	s := fmt.Sprintf("device %d:%d, inode %d", unix.Major(r.Dev), unix.Minor(r.Dev), r.Ino)
	if r.FSID != "" {
		s = fmt.Sprintf("btrfs %s, subvolume %d, inode %d", r.FSID, r.Subvolume, r.Ino)
	}
	return s
}

// same reports whether got can be the root that is wanted.
func (r Root) same(got Root) bool {
	if r.Ino != 0 && r.Ino != got.Ino || r.Subvolume != 0 && r.Subvolume != got.Subvolume {
		return false
	}
	if r.FSID != "" {
		return strings.ReplaceAll(strings.ToLower(r.FSID), "-", "") == got.FSID
	}
	return r.Dev == 0 || r.Dev == got.Dev
}

// OtherRootError is returned for a file system that is not the one that was
// planned: it was unmounted, or another one was mounted over it.
type OtherRootError struct {
	Path      string
	Want, Got Root
}

func (e *OtherRootError) Error() string {
	return fmt.Sprintf("cannot archive %s: another file system is there than was planned (%v instead of %v); it was unmounted, or something was mounted over it", e.Path, e.Got, e.Want)
}

// From linux/btrfs.h: _IOR(0x94, 31, 1024 bytes) and _IOWR(0x94, 18, 4096 bytes).
const (
	iocBtrfsInfo   = 2<<30 | 1024<<16 | 0x94<<8 | 31
	iocBtrfsLookup = 3<<30 | 4096<<16 | 0x94<<8 | 18
)

// RootOf gives what the file system whose root is open as f is known by.
func RootOf(f *os.File) (Root, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Root{}, fmt.Errorf("cannot look at %s: %w", f.Name(), err)
	}
	r := Root{Dev: uint64(st.Dev), Ino: st.Ino}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return r, fmt.Errorf("cannot look at %s: %w", f.Name(), err)
	}
	if uint32(fs.Type) != unix.BTRFS_SUPER_MAGIC {
		return r, nil
	}
	// max_id and num_devices, 8 bytes each, then fsid.
	var info [1024]byte
	if err := ioctl.Do(f.Fd(), iocBtrfsInfo, &info); err != nil {
		return r, fmt.Errorf("cannot tell which btrfs is at %s: %w", f.Name(), err)
	}
	// treeid 0 asks for the subvolume of f; 256 is the object of its root.
	var lookup [4096]byte
	*(*uint64)(unsafe.Pointer(&lookup[8])) = 256
	if err := ioctl.Do(f.Fd(), iocBtrfsLookup, &lookup); err != nil {
		return r, fmt.Errorf("cannot tell the subvolume at %s: %w", f.Name(), err)
	}
	r.FSID, r.Subvolume = hex.EncodeToString(info[16:32]), *(*uint64)(unsafe.Pointer(&lookup[0]))
	return r, nil
}

// OpenRoot opens the file system mounted at path as OpenFS does, and returns
// an *OtherRootError if its root is not want.
func OpenRoot(path string, want Root) (*os.File, error) {
	f, err := OpenFS(path)
	if err != nil {
		return nil, err
	}
	if err := CheckRoot(f, want); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// CheckRoot returns an *OtherRootError if the open directory f is not the root
// that is wanted.
func CheckRoot(f *os.File, want Root) error {
	got, err := RootOf(f)
	if err != nil {
		return err
	}
	if !want.same(got) {
		return &OtherRootError{Path: f.Name(), Want: want, Got: got}
	}
	return nil
}

// OpenFS opens the file system mounted at path, without anything that is
// mounted below it, so that what is hidden under a mount point is seen too:
// by open_tree(2), by a bind mount that is removed at once before Linux 5.2.
// Where neither is allowed it is the directory itself, and Create lists each
// mount point that it can't look beneath as a problem of kind Hidden.
func OpenFS(path string) (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		return nil, fmt.Errorf("cannot open file system at %s: %w", path, err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil {
		// The tree's own descriptor is O_PATH; a readable one keeps the mount alive.
		rd, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		if err != nil {
			return fail(err)
		}
		return os.NewFile(uintptr(rd), path), nil
	}
	if err == unix.ENOSYS {
		if f, err := openBind(path); err == nil {
			return f, nil
		}
	}
	rd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	return os.NewFile(uintptr(rd), path), nil
}

// openBind opens path through a bind mount without submounts, which lives as
// long as the file is open.
func openBind(path string) (*os.File, error) {
	dir, err := os.MkdirTemp("", "mkcdrec-bind-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	if err := unix.Mount(path, dir, "", unix.MS_BIND, ""); err != nil {
		return nil, err
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if e := unix.Unmount(dir, unix.MNT_DETACH); err == nil && e != nil {
		unix.Close(fd)
		err = e
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}
