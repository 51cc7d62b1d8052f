package recreate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// noCopyOnWrite is FS_NOCOW_FL of linux/fs.h: a btrfs takes no other swap files. It
// can be set while a file is empty only.
const noCopyOnWrite = 0x00800000

// makeSwapFile makes a swap file. Every block of it is written: what is only
// reserved is a hole to some kernels, and no swap file may have one, swapon(8). The
// header comes last. Its directory keeps the times that it had.
func (r *Recreator) makeSwapFile(ctx context.Context, s *plan.MakeSwapFile) error {
	wrong := func(err error) error { return fmt.Errorf("cannot make the swap file %s: %w", s.SwapFile.Path, err) }
	dir, err := r.openDir(path.Dir(s.SwapFile.Path))
	if err != nil {
		return wrong(err)
	}
	defer unix.Close(dir)
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return wrong(err)
	}
	name := path.Base(s.SwapFile.Path)
	// Of a run that was stopped.
	if err := unix.Unlinkat(dir, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return wrong(err)
	}
	fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return wrong(err)
	}
	f := os.NewFile(uintptr(fd), s.SwapFile.Path)
	err = errors.Join(r.fillSwapFile(ctx, f, s), f.Close())
	if err == nil {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", dir), []unix.Timespec{st.Atim, st.Mtim}, 0)
	}
	if err != nil {
		return wrong(errors.Join(err, unix.Unlinkat(dir, name, 0)))
	}
	return nil
}

func (r *Recreator) fillSwapFile(ctx context.Context, f *os.File, s *plan.MakeSwapFile) error {
	if s.FSType == fstype.TypeBtrfs {
		if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, noCopyOnWrite); err != nil {
			return fmt.Errorf("cannot set its no-copy-on-write flag: %w", err)
		}
	}
	size := int64(s.SwapFile.Size)
	// In one piece, where the file system can; and at once, when there is no room.
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	if r.Sparse {
		if err := f.Truncate(size); err != nil {
			return err
		}
	} else {
		var p progress.Counter = r.Report.Phase("making "+s.SwapFile.Path, size)
		b := make([]byte, 1<<20)
		for at := int64(0); at < size; {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := f.WriteAt(b[:min(int64(len(b)), size-at)], at)
			if err != nil {
				return err
			}
			at += int64(n)
			p.Add(int64(n))
		}
	}
	return makeSwap(f, s.SwapFile.Path, s.SwapFile.UUID, s.SwapFile.Label)
}

// openDir opens a directory of the restored system, and makes what is not there of
// it. No link is followed: a hostile set may have some.
func (r *Recreator) openDir(dir string) (int, error) {
	fd, err := unix.Open(r.Target, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	for _, n := range strings.Split(strings.Trim(dir, "/"), "/") {
		if n == "" {
			continue
		}
		if err := unix.Mkdirat(fd, n, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			unix.Close(fd)
			return -1, fmt.Errorf("%s: %w", n, err)
		}
		next, err := unix.Openat(fd, n, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		if err != nil {
			return -1, fmt.Errorf("%s: %w", n, err)
		}
		fd = next
	}
	return fd, nil
}
