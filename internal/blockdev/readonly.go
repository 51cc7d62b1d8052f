package blockdev

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
)

// MountReadOnly mounts a device, named with its path, at dir so that not one bit of it is
// written: a log that was not replayed stays as it is, and files that are only in it are
// not seen. options are those of the type, beside.
func MountReadOnly(dev, typ, dir string, options ...string) error {
	var err error
	ways := fstype.Of(typ).ReadOnly
	if ways == nil {
		ways = []string{""}
	}
	for _, o := range ways {
		if o != "" {
			o = strings.Join(append([]string{o}, options...), ",")
		} else {
			o = strings.Join(options, ",")
		}
		err = keptFromWriting(dev, func() error { return unix.Mount(dev, dir, typ, unix.MS_RDONLY|unix.MS_NOATIME, o) })
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINVAL) {
			break
		}
	}
	return fmt.Errorf("cannot mount %s (%s) read-only on %s: %w", dev, typ, dir, err)
}

// keptFromWriting runs fn while the kernel takes a device for one that can't be
// written. ext4 and f2fs remove unlinked files that were still open (orphans) also in
// a read-only mount without their log, unless the device is read-only. One that is in
// use already is left as it is.
func keptFromWriting(dev string, fn func() error) error {
	f, err := os.OpenFile(dev, os.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return fn()
	}
	if err != nil {
		return err
	}
	f.Close() // exclusive, it would keep the mount out
	if f, err = os.Open(dev); err != nil {
		return err
	}
	defer f.Close()
	was, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET)
	if err != nil || was != 0 {
		return fn() // a CD, or not a block device: mount(2) reports that
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, 1); err != nil {
		return err
	}
	return errors.Join(fn(), unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, 0))
}

// ReadOnlyLoop puts a loop device over a device that fails every write, and gives its
// name and what keeps it: it goes away when that is closed and nobody else uses it.
func ReadOnlyLoop(dev string) (name string, hold *os.File, err error) {
	wrong := func(err error) error { return fmt.Errorf("cannot put a read-only device over %s: %w", dev, err) }
	under, err := os.Open(dev)
	if err != nil {
		return "", nil, wrong(err)
	}
	defer under.Close()
	sector, err := unix.IoctlGetInt(int(under.Fd()), unix.BLKSSZGET)
	if err != nil {
		return "", nil, wrong(err)
	}
	c := unix.LoopConfig{Fd: uint32(under.Fd()), Size: uint32(sector), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR}}
	copy(c.Info.File_name[:], dev)
	name, hold, err = Loop(&c)
	if err != nil {
		return "", nil, wrong(err)
	}
	return name, hold, nil
}

// Loop configures a loop device that is free, and gives its name and the open device,
// which LO_FLAGS_AUTOCLEAR wants to be open until it is used.
func Loop(c *unix.LoopConfig) (name string, hold *os.File, err error) {
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", nil, fmt.Errorf("%w (is the module loop loaded?)", err)
	}
	defer ctl.Close()
	mode := os.O_RDWR
	if c.Info.Flags&unix.LO_FLAGS_READ_ONLY != 0 {
		mode = os.O_RDONLY
	}
	for range 10 { // somebody else may take the one that is free
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", nil, err
		}
		name := fmt.Sprintf("loop%d", n)
		dev, err := os.OpenFile("/dev/"+name, mode, 0)
		if err != nil {
			return "", nil, err
		}
		if err = unix.IoctlLoopConfigure(int(dev.Fd()), c); err == nil {
			return name, dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			return "", nil, err
		}
	}
	return "", nil, errors.New("every loop device is taken")
}
