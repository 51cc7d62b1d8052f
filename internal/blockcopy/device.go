package blockcopy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// page is the least alignment of direct requests here, in bytes: that of memory
// pages and of the sectors of 4Kn disks.
const page = 4096

// ErrVanished is the cause where a device was disconnected while it was read.
var ErrVanished = errors.New("the device was disconnected")

// Device is a block device or a file that is read. Close closes it.
type Device struct {
	*os.File
	direct *os.File // nil where it can't be opened so
	sector int64
	grain  int64 // alignment of direct requests, in bytes
	block  bool
	refuse *atomic.Bool // direct requests failed with EINVAL
	// base and size are the part of the file that this is.
	base, size int64
	part       bool // the files are another Device's
}

// OpenDevice opens a device or a regular file for reading. Where the file system
// or the device allows it, ReadSectors and Copy read past the page cache.
func OpenDevice(name string) (*Device, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	d := &Device{File: f, sector: smallest, refuse: new(atomic.Bool)}
	if d.size, err = f.Seek(0, io.SeekEnd); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot find the size of %s: %w", name, err)
	}
	if n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); err == nil && n >= smallest && n&(n-1) == 0 {
		d.sector, d.block = int64(n), true
	}
	d.direct, d.grain = openDirect(f, os.O_RDONLY, d.sector)
	return d, nil
}

// openDirect opens what f has again for direct I/O; nil where that is not
// possible. grain is the alignment of requests in bytes, at least a page.
func openDirect(f *os.File, flags int, sector int64) (direct *os.File, grain int64) {
	grain = max(page, sector)
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st); err == nil && st.Mask&unix.STATX_DIOALIGN != 0 {
		if st.Dio_offset_align == 0 {
			return nil, grain
		}
		grain = max(grain, int64(st.Dio_offset_align), int64(st.Dio_mem_align))
	}
	if grain&(grain-1) != 0 || grain > 1<<20 {
		return nil, max(page, sector)
	}
	g, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flags|unix.O_DIRECT, 0)
	if err != nil {
		if g, err = os.OpenFile(f.Name(), flags|unix.O_DIRECT, 0); err != nil {
			return nil, grain
		}
	}
	return g, grain
}

// Section is the part of the device that begins at off and has length bytes, as
// far as it is there. It reads through d, and closing it does nothing.
func (d *Device) Section(off, length int64) *Device {
	s := *d
	off = min(max(off, 0), d.size)
	s.base, s.size, s.part = d.base+off, min(max(length, 0), d.size-off), true
	return &s
}

// Size is the size in bytes when the device was opened.
func (d *Device) Size() int64 { return d.size }

// Sector is the logical sector size in bytes.
func (d *Device) Sector() int64 { return d.sector }

// ReadAt reads through the page cache.
func (d *Device) ReadAt(b []byte, off int64) (int, error) {
	b, eof, err := d.clip(b, off)
	if err != nil {
		return 0, err
	}
	n, err := d.File.ReadAt(b, d.base+off)
	if err == nil {
		err = eof
	}
	return n, err
}

// clip keeps a request inside of the device.
func (d *Device) clip(b []byte, off int64) (in []byte, eof, err error) {
	if off < 0 {
		return nil, nil, os.ErrInvalid
	}
	if off >= d.size {
		return nil, nil, io.EOF
	}
	if int64(len(b)) > d.size-off {
		return b[:d.size-off], io.EOF, nil
	}
	return b, nil, nil
}

// past reads past the page cache where that is possible.
type past struct{ *Device }

// ReadAt reads past the page cache where off and len(b) and the place of b in
// memory are multiples of what direct I/O wants, else through it.
func (d past) ReadAt(b []byte, off int64) (int, error) {
	in, eof, err := d.clip(b, off)
	if err != nil {
		return 0, err
	}
	if d.direct == nil || d.refuse.Load() || !aligned(in, d.base+off, d.sector, d.grain, d.block) {
		return d.Device.ReadAt(b, off)
	}
	n, err := d.direct.ReadAt(in, d.base+off)
	if errors.Is(err, unix.EINVAL) {
		d.refuse.Store(true)
		return d.Device.ReadAt(b, off)
	}
	if err == nil {
		err = eof
	}
	if err != nil && err != io.EOF && d.removed() || err == io.EOF && n < len(in) && d.removed() {
		err = fmt.Errorf("%w (%v)", ErrVanished, err)
	}
	return n, err
}

// removed reports whether a block device has no more sectors: the kernel sets the
// size of a disk that was removed to 0.
func (d *Device) removed() bool {
	if !d.block {
		return false
	}
	n, err := unix.IoctlGetInt(int(d.Fd()), unix.BLKGETSIZE64)
	return err != nil || n == 0
}

// aligned reports whether a request suits direct I/O: block devices want whole
// sectors, files want multiples of grain.
func aligned(b []byte, off, sector, grain int64, block bool) bool {
	if block {
		grain = sector
	}
	at := int64(uintptr(unsafe.Pointer(unsafe.SliceData(b))))
	return len(b) > 0 && (off|int64(len(b)))&(grain-1) == 0 && at&(min(grain, smallest)-1) == 0
}

// ReadSectors reads past the page cache where the device allows that.
func (d *Device) ReadSectors(b []byte, off int64) error {
	if d.direct == nil || d.refuse.Load() {
		return readFull(d, b, off)
	}
	if aligned(b, d.base+off, d.sector, d.grain, d.block) {
		return readFull(past{d}, b, off)
	}
	// O_DIRECT needs memory that is aligned to the device's sectors; open(2).
	buf := make([]byte, len(b)+page)
	at := -uintptr(unsafe.Pointer(unsafe.SliceData(buf))) & (page - 1)
	if err := readFull(past{d}, buf[at:at+uintptr(len(b))], off); err != nil {
		return err
	}
	copy(b, buf[at:])
	return nil
}

// Close closes the device.
func (d *Device) Close() error {
	if d.part {
		return nil
	}
	err := d.File.Close()
	if d.direct != nil {
		err = errors.Join(err, d.direct.Close())
	}
	return err
}

// Forget drops what the page cache has of the device, so that the next buffered
// read comes from the disk.
func (d *Device) Forget() {
	if d.block {
		_ = unix.IoctlSetInt(int(d.Fd()), unix.BLKFLSBUF, 0) // needs root; fadvise is for the others
	}
	_ = unix.Fadvise(int(d.Fd()), d.base, d.size, unix.FADV_DONTNEED)
}

// rotational reports what /sys has about the disk under an open device or file:
// whether it has heads that move. Virtual disks often report it, too. Of a loop
// device it is the disk under its file.
func rotational(f *os.File) bool {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	for range 8 { // loop devices over files on loop devices
		dev := st.Dev
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			dev = st.Rdev
		}
		dir := fmt.Sprintf("/sys/dev/block/%d:%d/", unix.Major(dev), unix.Minor(dev))
		if b, err := os.ReadFile(dir + "loop/backing_file"); err == nil {
			if unix.Stat(strings.TrimSuffix(string(b), "\n"), &st) != nil {
				return false
			}
			continue
		}
		for _, q := range []string{"queue/rotational", "../queue/rotational"} {
			if b, err := os.ReadFile(dir + q); err == nil {
				return strings.TrimSpace(string(b)) == "1"
			}
		}
		return false
	}
	return false
}
