package blockcopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/ioctl"
)

// Target is a block device or a file that is written. Close closes it.
type Target struct {
	f, direct *os.File
	name      string
	sector    int64
	grain     int64
	block     bool
	refuse    *atomic.Bool // direct requests failed with EINVAL
	noPunch   *atomic.Bool // it can't zero ranges by itself
	base      int64
	size      int64
	part      bool
	lent      bool // f is the caller's
}

// OpenTarget opens a device or a regular file for writing. A block device is
// opened for this process alone (O_EXCL): one that is mounted, or used by LVM, MD
// or device mapper, is an error that is EBUSY. A regular file must exist with the
// size that it is to have; its holes stay where zero bytes are copied.
func OpenTarget(name string) (*Target, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	t := &Target{name: name, sector: smallest, refuse: new(atomic.Bool), noPunch: new(atomic.Bool)}
	flags := os.O_RDWR
	switch {
	case st.Mode().IsRegular():
	case st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0:
		flags |= unix.O_EXCL
		t.block = true
	default:
		return nil, fmt.Errorf("cannot write to %s: it is neither a block device nor a regular file", name)
	}
	if t.f, err = os.OpenFile(name, flags, 0); err != nil {
		return nil, err
	}
	return t.opened()
}

// TargetOf is OpenTarget for a device or a regular file that is open for reading and
// writing already, a device for this process alone. Closing the target leaves f open.
func TargetOf(f *os.File) (*Target, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	t := &Target{f: f, name: f.Name(), sector: smallest, refuse: new(atomic.Bool), noPunch: new(atomic.Bool), lent: true}
	t.block = st.Mode()&os.ModeDevice != 0
	return t.opened()
}

// opened finds out what is to be known of an open target. It closes it on error.
func (t *Target) opened() (*Target, error) {
	var err error
	if t.size, err = t.f.Seek(0, io.SeekEnd); err != nil {
		t.Close()
		return nil, fmt.Errorf("cannot find the size of %s: %w", t.name, err)
	}
	if t.block {
		n, err := unix.IoctlGetInt(int(t.f.Fd()), unix.BLKSSZGET)
		if err != nil || n < smallest || n&(n-1) != 0 {
			t.Close()
			return nil, fmt.Errorf("cannot find the sector size of %s: %d, %w", t.name, n, err)
		}
		t.sector = int64(n)
	}
	t.direct, t.grain = openDirect(t.f, os.O_RDWR, t.sector)
	return t, nil
}

// Section is the part of the target that begins at off and has length bytes, as
// far as it is there: a partition in a disk or in an image of one. It writes
// through t, and closing it does nothing.
func (t *Target) Section(off, length int64) *Target {
	s := *t
	off = min(max(off, 0), t.size)
	s.base, s.size, s.part = t.base+off, min(max(length, 0), t.size-off), true
	return &s
}

// Name is the name that the target was opened with.
func (t *Target) Name() string { return t.name }

// Size is the size in bytes when the target was opened.
func (t *Target) Size() int64 { return t.size }

// Close closes the target. It does not wait for the disk: Copy has done so.
func (t *Target) Close() error {
	if t.part {
		return nil
	}
	var errs []error
	if !t.lent {
		errs = append(errs, t.f.Close())
	}
	if t.direct != nil {
		errs = append(errs, t.direct.Close())
	}
	return errors.Join(errs...)
}

// WriteAt writes past the page cache where off, len(b) and the place of b in
// memory allow that, else through it.
func (t *Target) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > t.size || int64(len(b)) > t.size-off {
		return 0, unix.ENOSPC
	}
	if t.direct != nil && !t.refuse.Load() && aligned(b, t.base+off, t.sector, t.grain, t.block) {
		n, err := t.direct.WriteAt(b, t.base+off)
		if !errors.Is(err, unix.EINVAL) {
			return n, err
		}
		t.refuse.Store(true)
	}
	n, err := t.f.WriteAt(b, t.base+off)
	if err == nil {
		// The page cache begins to write at once, not all of it at the next sync.
		_ = unix.SyncFileRange(int(t.f.Fd()), t.base+off, int64(n), unix.SYNC_FILE_RANGE_WRITE)
	}
	return n, err
}

// errNoPunch means that zeroing is not faster than writing zero bytes.
var errNoPunch = errors.New("the device has no command that writes zero bytes")

// punch makes a range read as zero bytes without writing them: a hole in a file,
// the command of the disk for it. For a block device, fallocate(2) with
// FALLOC_FL_PUNCH_HOLE fails where the disk has none (block/fops.c asks for
// BLKDEV_ZERO_NOFALLBACK); BLKDISCARD makes no promise of what is read afterwards.
func (t *Target) punch(off, length int64) error {
	if t.noPunch.Load() {
		return errNoPunch
	}
	if off < 0 || off > t.size || length > t.size-off {
		return unix.ENOSPC
	}
	err := unix.Fallocate(int(t.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, t.base+off, length)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) {
		t.noPunch.Store(true)
		return errNoPunch
	}
	return err
}

// Sync returns when the disk has everything that was written.
func (t *Target) Sync() error { return unix.Fsync(int(t.f.Fd())) }

// least returns the shortest run of zero bytes for which punch is worth a call.
func (t *Target) least() int64 {
	if t.block {
		return 256 << 10
	}
	return minHole
}

// Clear is what Copy does to the target before it copies.
type Clear int

// What can be done. All of the target is cleared but what an earlier run has
// finished.
const (
	// ClearNothing leaves the target as it is; Copy writes the zero bytes of the
	// source.
	ClearNothing Clear = iota
	// ClearDiscard has the target free its blocks, if that is quick: by zeroing where
	// the disk does that by itself, else by BLKDISCARD, after which Copy writes the
	// zero bytes of the source, since it is unknown what is read where it was
	// discarded.
	ClearDiscard
	// ClearZero makes all bytes of the target zero, however long that takes.
	ClearZero
)

// What clearing did, in CopyResult.Cleared.
const (
	ClearedZero    = "zeroed"
	ClearedDiscard = "discarded"
)

// clearStep is how much is cleared at once, in bytes, and slowClear how long that
// may take, before ClearDiscard takes the disk for one that really writes.
const (
	clearStep = 1 << 30
	slowClear = time.Second
)

// clear carries out c on the given ranges, multiples of the grain. It returns
// ClearedZero only if all of them read as zero bytes afterwards.
func (t *Target) clear(ctx context.Context, c Clear, ranges []Extent) (string, error) {
	if c == ClearNothing {
		return "", nil
	}
	err := steps(ctx, ranges, func(off, n int64) error {
		start := time.Now()
		err := t.punch(off, n)
		if err == nil && c == ClearDiscard && t.block && time.Since(start) > slowClear {
			return errNoPunch
		}
		return err
	})
	switch {
	case err == nil:
		return ClearedZero, nil
	case !errors.Is(err, errNoPunch):
		return "", fmt.Errorf("cannot clear %s: %w", t.name, err)
	case c == ClearZero && t.block:
		err = steps(ctx, ranges, func(off, n int64) error { return t.ioctl(unix.BLKZEROOUT, off, n) })
	case c == ClearZero:
		err = steps(ctx, ranges, func(off, n int64) error { return errors.Join(t.writeZero(off, n), ctx.Err()) })
	case t.block:
		err = steps(ctx, ranges, func(off, n int64) error { return t.ioctl(unix.BLKDISCARD, off, n) })
		if slices.ContainsFunc([]error{unix.EOPNOTSUPP, unix.ENOTTY, unix.EINVAL}, func(e error) bool { return errors.Is(err, e) }) {
			return "", nil
		}
		if err == nil {
			return ClearedDiscard, nil
		}
	default:
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot clear %s: %w", t.name, err)
	}
	return ClearedZero, nil
}

func (t *Target) writeZero(off, n int64) error {
	zero := make([]byte, min(n, 1<<20))
	for n > 0 {
		k, err := t.f.WriteAt(zero[:min(n, int64(len(zero)))], t.base+off)
		if err != nil {
			return err
		}
		off, n = off+int64(k), n-int64(k)
	}
	return nil
}

func (t *Target) ioctl(request uint, off, length int64) error {
	return ioctl.Do(t.f.Fd(), request, &[2]uint64{uint64(t.base + off), uint64(length)})
}

// steps calls fn for ranges, at most clearStep bytes at once.
func steps(ctx context.Context, ranges []Extent, fn func(off, n int64) error) error {
	for _, e := range ranges {
		for e.Length > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(e.Length, clearStep)
			if err := fn(e.Start, n); err != nil {
				return err
			}
			e.Start, e.Length = e.Start+n, e.Length-n
		}
	}
	return nil
}
