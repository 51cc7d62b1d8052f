package repair

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/bootloader"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/storage"
)

// Load gives the kernel another one to start: kexec_file_load(2), whose flags are those of
// linux/kexec.h. initrd is nil if absent.
type Load func(kernel, initrd *os.File, cmdline string, flags int) error

// KexecLoad is Load by the kernel.
func KexecLoad(kernel, initrd *os.File, cmdline string, flags int) error {
	fd := -1
	if initrd != nil {
		fd = int(initrd.Fd())
	}
	return unix.KexecFileLoad(int(kernel.Fd()), fd, cmdline, flags)
}

// Boot finds the layout's system, loads the kernel, initial RAM disks and command line of
// its first boot entry, and closes the system again. Nothing is written to its disks. The
// kernel starts when process 1 restarts the machine with LINUX_REBOOT_CMD_KEXEC.
func (r *Opener) Boot(ctx context.Context, l *layout.Layout, load Load) (e *bootloader.Entry, err error) {
	r.Access = storage.ReadOnly
	if _, err = r.Mount(ctx, l); err != nil {
		return nil, err
	}
	e, err = loadEntry(r.Target, l, load)
	return e, errors.Join(err, r.Unmount(ctx, l))
}

// loadEntry loads the first boot entry of the system at root.
func loadEntry(root string, l *layout.Layout, load Load) (*bootloader.Entry, error) {
	s := &bootloader.System{Root: root, Layout: l}
	e, err := s.FirstEntry()
	if err != nil {
		return nil, err
	}
	kernel, err := s.Open(e.Linux)
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	flags := unix.KEXEC_FILE_NO_INITRAMFS
	var initrd *os.File
	if len(e.Initrd) > 0 {
		flags = 0
		if initrd, err = joined(s, e.Initrd); err != nil {
			return nil, err
		}
		defer initrd.Close()
	}
	if err := load(kernel, initrd, e.Options, flags); err != nil {
		return nil, fmt.Errorf("cannot load the kernel %s: %w", e.Linux, err)
	}
	return e, nil
}

// joined is one file with initial RAM disks one after the other, each at a multiple of 4
// bytes, as the kernel reads them (Documentation/driver-api/early-userspace/buffer-format.rst).
func joined(s *bootloader.System, names []string) (f *os.File, err error) {
	if len(names) == 1 {
		return s.Open(names[0])
	}
	fd, err := unix.MemfdCreate("initrd", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot load initial RAM disks: %w", err)
	}
	f = os.NewFile(uintptr(fd), "initrd")
	for _, n := range names {
		in, err := s.Open(n)
		if err == nil {
			var size int64
			size, err = io.Copy(f, in)
			in.Close()
			if err == nil {
				_, err = f.Write(make([]byte, -size&3))
			}
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("cannot read %s: %w", n, err)
		}
	}
	return f, nil
}
