package smalltools

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// Clear clears the screen.
func Clear(s IO, _ []string) error {
	_, err := fmt.Fprint(s.Out, "\x1b[H\x1b[2J\x1b[3J")
	return err
}

// Swapon and Swapoff switch swap devices and files.
func Swapon(s IO, args []string) error  { return swap(s, "swapon", unix.SYS_SWAPON, args) }
func Swapoff(s IO, args []string) error { return swap(s, "swapoff", unix.SYS_SWAPOFF, args) }

func swap(s IO, name string, call uintptr, args []string) error {
	f := flags(s, name, "[-a] DEVICE...")
	all := f.Bool("a", false, "all: every swap device that is found, or is in use")
	args, err := parse(f, args)
	if err != nil {
		return err
	}
	if *all {
		more, err := swaps(call == unix.SYS_SWAPOFF)
		if err != nil {
			return err
		}
		args = append(args, more...)
	}
	if len(args) == 0 && !*all {
		return usage{errors.New("which device?")}
	}
	var errs []error
	for _, d := range args {
		p, err := unix.BytePtrFromString(d)
		if err != nil {
			return err
		}
		if _, _, e := unix.Syscall(call, uintptr(unsafe.Pointer(p)), 0, 0); e != 0 {
			errs = append(errs, fmt.Errorf("%s: %w", d, e))
		}
	}
	return errors.Join(errs...)
}

// swaps lists the devices in use, or those that hold a swap header.
func swaps(used bool) ([]string, error) {
	var out []string
	if used {
		areas, err := sysconf.SwapAreas("")
		for _, a := range areas {
			out = append(out, a.Path)
		}
		return out, err
	}
	names, err := os.ReadDir("/sys/class/block")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if i, err := superblock.ProbePath("/dev/" + n.Name()); err == nil && i != nil && i.Type == fstype.TypeSwap {
			out = append(out, "/dev/"+n.Name())
		}
	}
	return out, nil
}

// Blockdev reads or sets something of a device: blockdev --getsize64|--getss|--getro|--rereadpt|--flushbufs DEVICE...
func Blockdev(s IO, args []string) error {
	if len(args) < 2 {
		return usage{errors.New("want --getsize64, --getss, --getpbsz, --getro, --setro, --setrw, --rereadpt or --flushbufs, and a device")}
	}
	var errs []error
	for _, d := range args[1:] {
		f, err := os.Open(d)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, blockdev(s, f, args[0]))
		f.Close()
	}
	return errors.Join(errs...)
}

func blockdev(s IO, f *os.File, what string) error {
	get := func(req uint) error {
		v, err := unix.IoctlGetInt(int(f.Fd()), req)
		if err == nil {
			fmt.Fprintln(s.Out, v)
		}
		return err
	}
	switch what {
	case "--getsize64":
		n, err := f.Seek(0, 2)
		if err == nil {
			fmt.Fprintln(s.Out, n)
		}
		return err
	case "--getss":
		return get(unix.BLKSSZGET)
	case "--getpbsz":
		return get(unix.BLKPBSZGET)
	case "--getro":
		return get(unix.BLKROGET)
	case "--setro":
		return unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, 1)
	case "--setrw":
		return unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, 0)
	case "--rereadpt":
		return unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0)
	case "--flushbufs":
		return unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
	}
	return usage{fmt.Errorf("%s is not known", what)}
}
