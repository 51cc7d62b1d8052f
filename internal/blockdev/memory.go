package blockdev

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// OverlayPrefix begins device-mapper's names of overlays: devices whose writes go into memory
// (see internal/storage). A digit follows.
const OverlayPrefix = "mkcdrec"

// IsOverlay reports whether a name of device-mapper is an overlay's.
func IsOverlay(name string) bool {
	rest, ok := strings.CutPrefix(name, OverlayPrefix)
	return ok && rest != "" && rest[0] >= '0' && rest[0] <= '9'
}

// MemoryLoop puts a loop device over size bytes of memory, which is only taken where
// something is written, and gives its name and what keeps it. Device and memory are freed
// when hold is closed and nobody else uses the device. The kernel shows the file behind it
// as "/memfd:LABEL (deleted)".
func MemoryLoop(label string, size quantity.Size) (name string, hold *os.File, err error) {
	wrong := func(err error) error { return fmt.Errorf("cannot make a device in memory of %v: %w", size, err) }
	fd, err := unix.MemfdCreate(label, unix.MFD_CLOEXEC)
	if err != nil {
		return "", nil, wrong(err)
	}
	file := os.NewFile(uintptr(fd), label)
	defer file.Close()
	if err := file.Truncate(int64(size)); err != nil {
		return "", nil, wrong(err)
	}
	c := unix.LoopConfig{Fd: uint32(fd), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
	copy(c.Info.File_name[:], label)
	name, hold, err = Loop(&c)
	if err != nil {
		return "", nil, wrong(err)
	}
	return name, hold, nil
}

// Sectors gives the size of an open device or file, and of its sectors, in bytes: 512 where the
// kernel has no other.
func Sectors(f *os.File) (size, sector int64, err error) {
	if size, err = f.Seek(0, io.SeekEnd); err != nil {
		return 0, 0, fmt.Errorf("cannot find the size of %s: %w", f.Name(), err)
	}
	if n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); err == nil && n > 512 {
		return size, int64(n), nil
	}
	return size, 512, nil
}

// Geometry gives the size of a block device in bytes, and its number as sysfs writes it
// ("8:1"). dev has its path.
func Geometry(dev string) (size quantity.Size, number string, err error) {
	f, err := os.Open(dev)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	n, err := f.Seek(0, 2)
	if err != nil {
		return 0, "", fmt.Errorf("cannot find the size of %s: %w", dev, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, "", fmt.Errorf("cannot find the number of %s: %w", dev, err)
	}
	return quantity.Size(n), fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
}
