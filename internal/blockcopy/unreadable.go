package blockcopy

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Bounds of reading a damaged device.
const (
	// smallest is the least that is read at once, in bytes, where the device
	// reports no sector size.
	smallest = 512
	// skipAfter is after how many frames without one readable byte only the first
	// bytes of the next ones are tried: 64 MiB of an image, 1 MiB of a copy.
	skipAfter = 16
)

// A sectorReader reads single sectors past the page cache, which reads whole
// pages and so loses the good sectors beside a bad one.
type sectorReader interface {
	// ReadSectors fills b from off on; both are multiples of Sector.
	ReadSectors(b []byte, off int64) error
	// Sector is the device's logical sector size in bytes.
	Sector() int64
}

// unreadable collects what can't be read of a device.
type unreadable struct {
	mu  sync.Mutex
	bad []Extent
	err error // the first
	// lost is how many frames in a row had nothing that could be read.
	lost atomic.Int64
	// skipped counts the frames of which only the first bytes were tried.
	skipped int
}

func (u *unreadable) add(off, length int64, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if n := len(u.bad); n > 0 && u.bad[n-1].Start+u.bad[n-1].Length == off {
		u.bad[n-1].Length += length
	} else {
		u.bad = append(u.bad, Extent{off, length})
	}
	if u.err == nil {
		u.err = err
	}
}

// extents are the ranges that could not be read, sorted, none touching another.
func (u *unreadable) extents() []Extent {
	u.mu.Lock()
	defer u.mu.Unlock()
	m := Map{Used: slices.Clone(u.bad)}
	return m.tidy().Used
}

// readAt fills b from off on. What can't be read is tried again in halves, down
// to a sector, filled with zero bytes, and collected in u. The result is only an
// error once ctx is over.
func (u *unreadable) readAt(ctx context.Context, dev io.ReaderAt, b []byte, off int64) error {
	err := readFull(dev, b, off)
	if err == nil {
		u.lost.Store(0)
		return nil
	}
	// A device that is missing, or a long range without anything: one try is enough.
	probe := int64(len(b)) > smallest && u.lost.Load() >= skipAfter
	if probe {
		probe = u.smallest(dev, b[:smallest], off) != nil
	}
	if probe || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOMEDIUM) {
		clear(b)
		u.lost.Add(1)
		u.add(off, int64(len(b)), err)
		u.mu.Lock()
		u.skipped++
		u.mu.Unlock()
		return ctx.Err()
	}
	good := false
	if err := u.halves(ctx, dev, b, off, err, &good); err != nil {
		return err
	}
	if good {
		u.lost.Store(0)
	} else {
		u.lost.Add(1)
	}
	return nil
}

// halves reads a range that failed as a whole.
func (u *unreadable) halves(ctx context.Context, dev io.ReaderAt, b []byte, off int64, cause error, good *bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	sector := int64(smallest)
	if s, ok := dev.(sectorReader); ok {
		sector = s.Sector()
	}
	if int64(len(b)) <= sector {
		if err := u.smallest(dev, b, off); err != nil {
			clear(b)
			u.add(off, int64(len(b)), err)
			return nil
		}
		*good = true
		return nil
	}
	half := (off+int64(len(b))/2)/sector*sector - off
	if half <= 0 {
		half = min(int64(len(b)), sector-off%sector)
	}
	for _, p := range []struct {
		b   []byte
		off int64
	}{{b[:half], off}, {b[half:], off + half}} {
		if len(p.b) == 0 {
			continue
		}
		err := readFull(dev, p.b, p.off)
		if err == nil {
			*good = true
			continue
		}
		if err := u.halves(ctx, dev, p.b, p.off, err, good); err != nil {
			return err
		}
	}
	return nil
}

// smallest reads at most a sector, past the page cache if the device can.
func (u *unreadable) smallest(dev io.ReaderAt, b []byte, off int64) error {
	s, ok := dev.(sectorReader)
	if !ok {
		return readFull(dev, b, off)
	}
	n := s.Sector()
	start := off / n * n
	whole := make([]byte, (off+int64(len(b))+n-1)/n*n-start)
	if err := s.ReadSectors(whole, start); err != nil {
		return err
	}
	copy(b, whole[off-start:])
	return nil
}

// readFull is ReadAt; the end of the device in the middle is an error.
func readFull(dev io.ReaderAt, b []byte, off int64) error {
	n, err := dev.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
