// Package kernel is the seam between code that gives orders and the machine that it gives
// them to: mounts, device nodes and the files of /dev, /proc, /sys and /run. A test puts a
// fake machine in the place of the real one, see internal/machinetest.
package kernel

import (
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/ioctl"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Kernel is what a machine's kernel is asked for. Devices are named without /dev/.
type Kernel interface {
	// Path is where a file of the machine is found, "/proc/cmdline" for example.
	Path(p string) string
	// Mount is mount(2); dir was given by Path.
	Mount(source, dir, typ string, flags uintptr, data string) error
	// MountReadOnly is that of package blockdev.
	MountReadOnly(dev, typ, dir string, options ...string) error
	// Unmount is umount(2).
	Unmount(dir string) error
	// MountRoot reports whether an open directory is the root of a mounted file system, as far as
	// the kernel reports, and gives the number of its device, "" for a type such as btrfs
	// whose numbers are not those of its disks.
	MountRoot(dir *os.File) (root bool, number string, err error)
	// Sync is sync(2).
	Sync()
	// Open opens the node of a device; flag is that of os.OpenFile.
	Open(dev string, flag int) (*os.File, error)
	// Number gives the number of an open block device, "8:0", and the kernel's sequence
	// number of its disk, 0 where that is not known. What is not a block device has "0:0".
	Number(f *os.File) (number string, seq uint64, err error)
	// Geometry, MemoryLoop and ReadOnlyLoop are those of package blockdev, with devices named
	// as here.
	Geometry(dev string) (size quantity.Size, number string, err error)
	MemoryLoop(label string, size quantity.Size) (name string, hold io.Closer, err error)
	ReadOnlyLoop(dev string) (name string, hold io.Closer, err error)
	// Loop puts a loop device with sectors of a size over a file, and gives its name and what
	// has it open. With LO_FLAGS_AUTOCLEAR it is freed when that is closed and nobody else
	// uses it, otherwise by Detach.
	Loop(file *os.File, sector quantity.Size, flags uint32) (name string, hold io.Closer, err error)
	// Detach frees a loop device.
	Detach(dev string) error
	// Forget, Reread and Await are those of package blockdev.
	Forget(f *os.File) error
	Reread(ctx context.Context, f *os.File) error
	Await(ctx context.Context, dev string, size quantity.Size) error
	// Ioctl is an ioctl(2) whose argument also has the answer.
	Ioctl(f *os.File, req uintptr, arg []byte) error
}

// Of gives the kernel of the machine that a runner's programs run on: a fake machine is
// both, so that none is half real. The programs of all others run on this machine.
func Of(run tool.Runner) Kernel {
	if k, ok := run.(Kernel); ok {
		return k
	}
	return Linux{}
}

// Linux is the kernel of the machine that this program runs on.
type Linux struct{}

// Path implements Kernel: it is the same.
func (Linux) Path(p string) string { return p }

// Mount implements Kernel.
func (Linux) Mount(source, dir, typ string, flags uintptr, data string) error {
	return unix.Mount(source, dir, typ, flags, data)
}

// MountReadOnly implements Kernel.
func (Linux) MountReadOnly(dev, typ, dir string, options ...string) error {
	return blockdev.MountReadOnly(dev, typ, dir, options...)
}

// Unmount implements Kernel.
func (Linux) Unmount(dir string) error { return unix.Unmount(dir, 0) }

// MountRoot implements Kernel. Kernels before 5.8 take any directory for a root.
func (Linux) MountRoot(dir *os.File) (root bool, number string, err error) {
	var st unix.Statx_t
	if err := unix.Statx(int(dir.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return false, "", fmt.Errorf("cannot look at %s: %w", dir.Name(), err)
	}
	if st.Dev_major != 0 {
		number = fmt.Sprintf("%d:%d", st.Dev_major, st.Dev_minor)
	}
	return st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, number, nil
}

// Sync implements Kernel.
func (Linux) Sync() { unix.Sync() }

// Open implements Kernel.
func (Linux) Open(dev string, flag int) (*os.File, error) { return os.OpenFile("/dev/"+dev, flag, 0) }

// Number implements Kernel.
func (Linux) Number(f *os.File) (number string, seq uint64, err error) {
	const blkGetDiskSeq = 0x80081280 // BLKGETDISKSEQ of linux/fs.h, since Linux 5.15
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", 0, fmt.Errorf("cannot look at %s: %w", f.Name(), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return "0:0", 0, nil
	}
	if n, err := unix.IoctlGetInt(int(f.Fd()), blkGetDiskSeq); err == nil {
		seq = uint64(n)
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), seq, nil
}

// Geometry implements Kernel.
func (Linux) Geometry(dev string) (size quantity.Size, number string, err error) {
	return blockdev.Geometry("/dev/" + dev)
}

// MemoryLoop implements Kernel.
func (Linux) MemoryLoop(label string, size quantity.Size) (name string, hold io.Closer, err error) {
	return blockdev.MemoryLoop(label, size)
}

// ReadOnlyLoop implements Kernel.
func (Linux) ReadOnlyLoop(dev string) (name string, hold io.Closer, err error) {
	return blockdev.ReadOnlyLoop("/dev/" + dev)
}

// Loop implements Kernel.
func (Linux) Loop(file *os.File, sector quantity.Size, flags uint32) (name string, hold io.Closer, err error) {
	return blockdev.Loop(&unix.LoopConfig{Fd: uint32(file.Fd()), Size: uint32(sector), Info: unix.LoopInfo64{Flags: flags}})
}

// Detach implements Kernel.
func (l Linux) Detach(dev string) error {
	f, err := l.Open(dev, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = unix.IoctlRetInt(int(f.Fd()), unix.LOOP_CLR_FD)
	return err
}

// Forget implements Kernel.
func (Linux) Forget(f *os.File) error { return blockdev.Forget(f) }

// Reread implements Kernel.
func (Linux) Reread(ctx context.Context, f *os.File) error { return blockdev.Reread(ctx, f) }

// Await implements Kernel.
func (Linux) Await(ctx context.Context, dev string, size quantity.Size) error {
	return blockdev.Await(ctx, dev, size)
}

// Ioctl implements Kernel.
func (Linux) Ioctl(f *os.File, req uintptr, arg []byte) error {
	return ioctl.Do(f.Fd(), uint(req), &arg[0])
}
