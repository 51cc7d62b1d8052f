package clone

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// imageFile is a target that is a file: a sparse one behind a loop device, which gets its
// name when it is finished.
type imageFile struct {
	name, part string
	loop       string // the kernel's name of its device
	qcow2      bool
}

// isImageFile reports whether a target is a file, and not a disk.
func isImageFile(m probe.Machine, name string) bool {
	if strings.HasPrefix(name, "/dev/") || m.There(name) {
		return false
	}
	st, err := os.Stat(name)
	return err == nil && st.Mode().IsRegular() || errors.Is(err, os.ErrNotExist) && strings.ContainsAny(name, "/.")
}

// newImageFile makes the file beside its final name, with sectors of sector bytes. One that
// is there is refused.
func newImageFile(ctx context.Context, run tool.Runner, name string, size, sector quantity.Size) (*imageFile, error) {
	if _, err := os.Lstat(name); err == nil {
		return nil, &exit.Refusal{Reason: name + " exists: remove it, or choose another name"}
	}
	i := &imageFile{name: name, part: name + ".part", qcow2: strings.EqualFold(filepath.Ext(name), ".qcow2")}
	if err := storage.LoopDriver(ctx, run); err != nil {
		return nil, fmt.Errorf("cannot make an image file: %w", err)
	}
	f, err := os.OpenFile(i.part, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) // it has everything that is on the disk
	if errors.Is(err, os.ErrExist) {
		return nil, &exit.Refusal{Reason: fmt.Sprintf("%s is there: another clone writes it, or one was killed; if none runs, remove it (losetup -j %s shows the loop device that may still be over it)", i.part, i.part)}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make an image file: %w", err)
	}
	defer f.Close()
	err = f.Truncate(int64(size))
	if err == nil {
		var hold *os.File
		i.loop, hold, err = blockdev.Loop(&unix.LoopConfig{Fd: uint32(f.Fd()), Size: uint32(sector), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_PARTSCAN}})
		if err == nil {
			err = hold.Close()
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make the image file %s: %w", name, err), os.Remove(i.part))
	}
	return i, nil
}

// attach puts a read-only loop device over an image of a disk, for as long as hold is open.
func attach(ctx context.Context, run tool.Runner, name string) (loop string, hold *os.File, err error) {
	if err := storage.LoopDriver(ctx, run); err != nil {
		return "", nil, fmt.Errorf("cannot open the image %s: %w", name, err)
	}
	f, err := os.Open(name)
	if err != nil {
		return "", nil, fmt.Errorf("cannot open the image: %w", err)
	}
	defer f.Close()
	head := make([]byte, 4)
	if _, err := f.ReadAt(head, 0); err == nil && string(head) == "QFI\xfb" {
		return "", nil, fmt.Errorf("cannot open the image %s: it is a qcow2; convert it first: qemu-img convert -O raw %s disk.img", name, name)
	}
	loop, hold, err = blockdev.Loop(&unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_PARTSCAN | unix.LO_FLAGS_AUTOCLEAR}})
	if err != nil {
		return "", nil, fmt.Errorf("cannot open the image %s: %w", name, err)
	}
	return loop, hold, nil
}

// close detaches the device, and gives the file its name if the clone is finished.
func (i *imageFile) close(ctx context.Context, run tool.Runner, finished bool) error {
	f, err := os.Open("/dev/" + i.loop)
	if err == nil {
		err = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
		f.Close()
	}
	if err != nil {
		err = fmt.Errorf("cannot detach /dev/%s from %s: %w", i.loop, i.part, err)
	}
	if !finished || err != nil {
		return errors.Join(err, os.Remove(i.part))
	}
	if !i.qcow2 {
		if err := os.Rename(i.part, i.name); err != nil {
			return fmt.Errorf("cannot finish the image file: %w", err)
		}
		return nil
	}
	packed := i.name + ".part2"
	if f, err := os.OpenFile(packed, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err != nil { // the mode stays
		return errors.Join(fmt.Errorf("cannot convert the image: %w", err), os.Remove(i.part))
	} else if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("cannot convert the image: %w", err), os.RemoveAll(packed), os.Remove(i.part))
	}
	if _, err := run.Run(ctx, tool.New("qemu-img", "convert", "-f", "raw", "-O", "qcow2", i.part, packed)); err != nil {
		return errors.Join(fmt.Errorf("cannot convert the image: %w", err), os.RemoveAll(packed), os.Remove(i.part))
	}
	if err := os.Rename(packed, i.name); err != nil {
		return fmt.Errorf("cannot finish the image file: %w", err)
	}
	return os.Remove(i.part)
}
