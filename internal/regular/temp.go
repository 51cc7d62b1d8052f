package regular

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// TempDir makes a directory PREFIX* of mode 0700 below parent, the system's for temporary files if that is "". end removes
// it. Those of processes that have ended without that are removed: a running one holds the lock of its own. parent
// must be of this machine alone.
func TempDir(parent, prefix string) (dir string, end func(), err error) {
	if parent == "" {
		parent = os.TempDir()
	}
	if names, err := filepath.Glob(filepath.Join(quoteGlob(parent), prefix+"*")); err == nil {
		for _, n := range names {
			if f := lockDir(n); f != nil {
				os.RemoveAll(n)
				f.Close()
			}
		}
	}
	for range 100 {
		if dir, err = os.MkdirTemp(parent, prefix+"*"); err != nil {
			return "", nil, err
		}
		// Another process may take it for one that was left before it is locked.
		if f := lockDir(dir); f != nil {
			return dir, func() { os.RemoveAll(dir); f.Close() }, nil
		}
	}
	return "", nil, &os.PathError{Op: "lock", Path: dir, Err: errors.New("it is locked, or removed, by another process")}
}

// lockDir takes the lock of a directory of this user; nil if it is not one, or another process has the lock.
func lockDir(name string) *os.File {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil
	}
	var st, now unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || int(st.Uid) != os.Geteuid() || unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil ||
		unix.Lstat(name, &now) != nil || st.Dev != now.Dev || st.Ino != now.Ino { // removed before it was locked
		f.Close()
		return nil
	}
	return f
}

// quoteGlob has filepath.Glob take a path literally.
func quoteGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}
