// Package blockdev has the kernel take note of new partition tables, and opens devices
// so that nothing is written to them. It writes nothing.
package blockdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// Reread has the kernel read the partition table of an open disk; it may be
// busy for a moment.
func Reread(ctx context.Context, f *os.File) error {
	var err error
	for range 50 {
		if err = unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0); err == nil {
			return nil
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("cannot make the kernel read the new partition table of %s: %w", f.Name(), err)
}

// Forget writes what the kernel keeps of an open disk in memory, and forgets it: what is read
// then comes from the disk.
func Forget(f *os.File) error {
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("cannot flush the buffers of %s: %w", f.Name(), err)
	}
	return nil
}

// Await waits until a device, named without /dev/, is there with its new size.
func Await(ctx context.Context, dev string, size quantity.Size) error {
	last := errors.New("it does not appear")
	for range 100 {
		f, err := os.Open("/dev/" + dev)
		if err == nil {
			n, e := f.Seek(0, 2)
			f.Close()
			if e == nil && n == int64(size) {
				return nil
			}
			last = fmt.Errorf("it has %d bytes, not %d", n, size)
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("cannot use /dev/%s after partitioning: %w", dev, last)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
