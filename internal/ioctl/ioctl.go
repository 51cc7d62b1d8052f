// Package ioctl makes requests of open files that golang.org/x/sys has no functions for.
package ioctl

import (
	"iter"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Do makes a request of an open file; arg is the argument, or the first byte of it.
func Do[T any](fd uintptr, request uint, arg *T) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(request), uintptr(unsafe.Pointer(arg))); e != 0 {
		return e
	}
	return nil
}

// Extent is a piece of a file, in bytes.
type Extent struct {
	Logical, Physical, Length int64 // in the file; on its file system's device
	// Placed is not set if the device has no bytes of it that are the file's: it is not
	// written yet, or compressed or encrypted.
	Placed bool
}

// Of linux/fs.h and linux/fiemap.h.
const (
	fiemap     = 0xC020660B // FS_IOC_FIEMAP
	fiemapSync = 1          // FIEMAP_FLAG_SYNC
	fiemapLast = 1          // FIEMAP_EXTENT_LAST
	noPlace    = 2 | 4 | 8  // FIEMAP_EXTENT_UNKNOWN, _DELALLOC, _ENCODED
)

// Extents gives the extents of a file in order; after an error there are no more.
func Extents(f *os.File) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		var m struct {
			start, length           uint64
			flags, mapped, count, _ uint32
			extents                 [64]struct {
				logical, physical, length uint64
				_                         [2]uint64
				flags                     uint32
				_                         [3]uint32
			}
		}
		for {
			m.length, m.flags, m.count, m.mapped = ^uint64(0)-m.start, fiemapSync, uint32(len(m.extents)), 0
			if err := Do(f.Fd(), fiemap, &m); err != nil {
				yield(Extent{}, err)
				return
			}
			for _, x := range m.extents[:min(m.mapped, m.count)] {
				e := Extent{int64(x.logical), int64(x.physical), int64(x.length), x.flags&noPlace == 0}
				if !yield(e, nil) || x.flags&fiemapLast != 0 {
					return
				}
				m.start = x.logical + x.length
			}
			if m.mapped == 0 {
				return
			}
		}
	}
}
