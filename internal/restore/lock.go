package restore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/storage"
)

// lockName is the file whose lock a running restore has.
const lockName = "restore.lock"

// Lock makes sure that no other restore works on this machine's disks until release is
// called; dir is rescue.StateDir. Another one is a *exit.Refusal with its process ID. The
// kernel releases the lock of a program that is killed.
func Lock(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the lock of restore: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot make the lock of restore: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("cannot lock %s: %w", f.Name(), err)
		}
		pid, _ := io.ReadAll(io.LimitReader(f, 20)) // only to name it
		return nil, &exit.Refusal{Reason: fmt.Sprintf("another restore is running, process %s: wait until it is done, or stop it", strings.TrimSpace(string(pid)))}
	}
	if err = f.Truncate(0); err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot write %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// tempNames begin the names of the directories that a restore and its steps make below
// os.TempDir(), for mounts and for files, while they have the lock: restore --plan, which
// has none, makes mkcdrec-rehearse, too.
var tempNames = []string{"mkcdrec-look", "mkcdrec-btrfs", "mkcdrec-luks", "mkcdrec-vg"}

// Sweep unmounts and removes what a restore that was killed has left in tmp, and returns
// its names. The caller has the lock, so that nobody uses them.
func Sweep(tmp string) (swept []string, err error) {
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return nil, fmt.Errorf("cannot look for what an earlier restore has left: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || !slices.ContainsFunc(tempNames, func(n string) bool { return strings.HasPrefix(e.Name(), n) }) {
			continue
		}
		dir := filepath.Join(tmp, e.Name())
		if err := sweepDir(tmp, dir); err != nil {
			errs = append(errs, fmt.Errorf("cannot remove %s, which an earlier restore has left: %w", dir, err))
			continue
		}
		swept = append(swept, dir)
	}
	return swept, errors.Join(errs...)
}

// sweepDir removes a directory, but nothing that is mounted in it.
func sweepDir(tmp, dir string) error {
	mounts, err := storage.Mounted(kernel.Linux{}, func(at string) bool { return at == dir || strings.HasPrefix(at, dir+"/") })
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if err := unix.Unmount(m, 0); err != nil {
			return fmt.Errorf("cannot unmount %s: %w", m, err)
		}
	}
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return err
	}
	defer root.Close()
	name := filepath.Base(dir)
	var above, st unix.Stat_t
	if err := errors.Join(unix.Stat(tmp, &above), unix.Lstat(dir, &st)); err != nil {
		return err
	}
	if above.Dev != st.Dev { // what mountinfo did not show
		return errors.New("another file system is mounted there")
	}
	return root.RemoveAll(name)
}
