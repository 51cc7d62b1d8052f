package probe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// OpenRoot opens the root of a file system that the kernel has in use, for a btrfs its
// top level, through a read-only mount of our own that no path shows and that ends when
// the file is closed. It is how the content of a Private file system is read. A file
// system that is not in use is refused: mounting it would write to it.
//
// fsopen(2), fsmount(2); kernels before 5.2, and that of RHEL 8, get a mount in a
// namespace of its own.
func (m Machine) OpenRoot(f *layout.Filesystem) (*os.File, error) {
	dev := m.path("/dev/" + f.Device)
	cannot := func(err error) error { return fmt.Errorf("cannot open the root of %s: %w", dev, err) }
	// The kernel gives a device exclusively only while nothing has it mounted.
	if fd, err := unix.Open(dev, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0); err == nil {
		unix.Close(fd)
		return nil, cannot(errors.New("it is not mounted any more"))
	} else if !errors.Is(err, unix.EBUSY) {
		return nil, cannot(err)
	}
	var errs []error
	for _, ro := range m.readOnlyFirst(f) {
		root, err := detached(dev, f.Type, ro)
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
			root, err = inNamespace(dev, f.Type, ro)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := isRoot(root, dev, f.Type); err != nil {
			root.Close()
			return nil, cannot(err)
		}
		return root, nil
	}
	return nil, cannot(errors.Join(errs...))
}

// readOnlyFirst orders the ways to ask for a superblock: it must be asked for as it is
// in use, for reading only or not.
func (m Machine) readOnlyFirst(f *layout.Filesystem) []bool {
	mounts, err := m.Mounts()
	if err == nil && slices.ContainsFunc(mounts, func(mi MountInfo) bool { return slices.Contains(f.Devs(), mi.Device) && mi.SuperReadOnly }) {
		return []bool{true, false}
	}
	return []bool{false, true}
}

// topLevel is the option that mounts the top level of a btrfs.
const topLevel = "subvolid"

func detached(dev, typ string, ro bool) (*os.File, error) {
	fs, err := unix.Fsopen(typ, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", dev); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	if ro {
		if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
			return nil, os.NewSyscallError("fsconfig", err)
		}
	}
	if typ == fstype.TypeBtrfs {
		if err := unix.FsconfigSetString(fs, topLevel, fmt.Sprint(btrfs.TopLevel)); err != nil {
			return nil, os.NewSyscallError("fsconfig", err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOATIME|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(mnt)
	fd, err := unix.Openat(mnt, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	return os.NewFile(uintptr(fd), dev), nil
}

// inNamespace does the same with mount(2): in a mount namespace that ends with its
// thread, so that nothing of it is seen by others.
func inNamespace(dev, typ string, ro bool) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The process's first thread does not end, and /proc/self shows its mounts: it
			// waits here for another one.
			f, err := inNamespace(dev, typ, ro)
			runtime.UnlockOSThread()
			done <- result{f, err}
			return
		}
		f, err := mountAlone(dev, typ, ro) // never unlocked: the thread ends with the goroutine
		done <- result{f, err}
	}()
	r := <-done
	return r.f, r.err
}

func mountAlone(dev, typ string, ro bool) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return nil, os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, os.NewSyscallError("mount", err)
	}
	dir, err := os.MkdirTemp("", "mkcdrec-root")
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	data, flags := "", uintptr(unix.MS_NOATIME|unix.MS_NODEV|unix.MS_NOSUID)
	if typ == fstype.TypeBtrfs {
		data = fmt.Sprintf("%s=%d", topLevel, btrfs.TopLevel)
	}
	if ro {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount(dev, dir, typ, flags, data); err != nil {
		return nil, os.NewSyscallError("mount", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }() // the thread's end does it, too
	if err := unix.Mount("", dir, "", flags|unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return nil, os.NewSyscallError("mount", err)
	}
	return os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
}

// isRoot checks that what was opened is on the device, and its root.
func isRoot(root *os.File, dev, typ string) error {
	if typ == fstype.TypeBtrfs { // it has device numbers of its own
		id, err := btrfs.ID(fmt.Sprintf("/proc/self/fd/%d", root.Fd()))
		if err == nil && id != btrfs.TopLevel {
			err = fmt.Errorf("got the subvolume %d", id)
		}
		return err
	}
	var a, b unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &a); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if err := unix.Stat(dev, &b); err != nil {
		return os.NewSyscallError("stat", err)
	}
	if a.Dev != b.Rdev {
		return errors.New("got another file system")
	}
	return nil
}

// superblockInUse reports whether the kernel has a file system in use, wherever it is
// mounted: ext4, XFS, f2fs and btrfs show that in sysfs.
func (m Machine) superblockInUse(typ, dev string) bool {
	if typ == fstype.TypeBtrfs {
		return m.btrfsOn(dev) != ""
	}
	_, err := os.Stat(filepath.Join(m.path("/sys/fs/"+fstype.Of(typ).Module()), m.kernelName(dev)))
	return err == nil
}
