// Package regular reads files that somebody named, and waits for nothing: a fifo or
// a terminal in the place of a file would never end, and reading a device may do
// things. What it writes appears whole or not at all.
package regular

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNot is the cause of an error for what is not a regular file.
var ErrNot = errors.New("not a regular file")

// Check returns an ErrNot that names the kind of what is not a regular file: "it is
// a fifo, not a regular file".
func Check(st os.FileInfo) error {
	kind := "of another kind"
	switch m := st.Mode(); {
	case m.IsRegular():
		return nil
	case m.IsDir():
		kind = "a directory"
	case m&os.ModeNamedPipe != 0:
		kind = "a fifo"
	case m&os.ModeSocket != 0:
		kind = "a socket"
	case m&os.ModeCharDevice != 0:
		kind = "a character device"
	case m&os.ModeDevice != 0:
		kind = "a block device"
	case m&os.ModeSymlink != 0:
		kind = "a symbolic link"
	}
	return fmt.Errorf("it is %s, %w", kind, ErrNot)
}

// Open opens a regular file for reading; a link to one is followed.
func Open(path string) (*os.File, error) {
	// Without O_NONBLOCK a fifo would be waited for; for regular files it has no
	// effect.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil {
		if err = Check(st); err != nil {
			err = &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ReadFile reads a regular file of at most limit bytes.
func ReadFile(path string, limit int64) ([]byte, error) { return readBy(Open, path, limit) }

func readBy(open func(string) (*os.File, error), path string, limit int64) ([]byte, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return read(f, path, limit)
}

// read reads an open file to its end.
func read(f *os.File, path string, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return b, err
}

// ReadSecret is ReadFile for a file that only root, or who reads it, may have, and nobody else may use.
func ReadSecret(path string, limit int64) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, other users can use it\nrun `chmod 600 %s`", path, st.Mode().Perm(), path)
	}
	if s, ok := st.Sys().(*syscall.Stat_t); ok && s.Uid != 0 && int(s.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("%s belongs to another user\nrun `chown root %s`", path, path)
	}
	return read(f, path, limit)
}

// Changeable gives who else may change a file or directory, "" for nobody.
func Changeable(st os.FileInfo) string { return changeable(st, os.Geteuid()) }

// changeable is Changeable where a user besides root may.
func changeable(st os.FileInfo, besides int) string {
	sys, ok := st.Sys().(*syscall.Stat_t)
	mode := st.Mode()
	switch {
	case !ok:
		return "has no known owner"
	case sys.Uid != 0 && int(sys.Uid) != besides:
		return fmt.Sprintf("belongs to user %d: run chown root", sys.Uid)
	case mode&os.ModeSymlink != 0, mode.IsDir() && mode&os.ModeSticky != 0:
		return ""
	case mode.Perm()&0o002 != 0:
		return "is writable by everyone: run chmod o-w"
	case mode.Perm()&0o020 != 0 && sys.Gid != 0:
		return fmt.Sprintf("is writable by group %d: run chmod g-w", sys.Gid)
	}
	return ""
}

// ReadTrusted is ReadFile for a file as OpenTrusted is for.
func ReadTrusted(path string, limit int64) ([]byte, error) { return readBy(OpenTrusted, path, limit) }

// OpenTrusted is Open for a file that decides what root runs, or who can read what root writes: one that others could
// change is an error for root. The user who became root by sudo(8) may.
func OpenTrusted(path string) (*os.File, error) {
	f, err := Open(path)
	if err != nil || os.Geteuid() != 0 {
		return f, err
	}
	st, err := f.Stat()
	if err == nil {
		besides, e := strconv.Atoi(os.Getenv("SUDO_UID"))
		if e != nil {
			besides = 0
		}
		if why := changeable(st, besides); why != "" {
			err = fmt.Errorf("%s %s %s", path, why, path)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Output returns an ErrNot for a name that a file can't be written under: what is there is another kind of file, which a
// file that is renamed would take the place of.
func Output(name string) error {
	st, err := os.Stat(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = Check(st)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return nil
}

// WriteFile writes a file of mode 0600 that appears whole or not at all.
func WriteFile(name string, b []byte) error { return WriteFileMode(name, b, 0o600) }

// WriteFileMode is WriteFile with another mode.
func WriteFileMode(name string, b []byte, mode os.FileMode) error {
	if err := Output(name); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return nil
}

// behindPiece is after how many bytes the kernel is asked to write: left to itself it begins late, and what is made for
// a long time would wait for its disk at the end.
const behindPiece = 16 << 20

// Behind writes to a file, from the offset where it is, and has the kernel write to the disk what is there while more is
// made. That is a hint, the file has to be synced in any case.
type Behind struct {
	File  *os.File
	at    int64
	asked int64 // up to where
}

// Write implements io.Writer.
func (w *Behind) Write(b []byte) (int, error) {
	n, err := w.File.Write(b)
	w.Wrote(w.at + int64(n))
	return n, err
}

// Wrote is for what was written in another way: all that is before the offset at.
func (w *Behind) Wrote(at int64) {
	w.at = at
	if end := at / behindPiece * behindPiece; end > w.asked {
		_ = unix.SyncFileRange(int(w.File.Fd()), w.asked, end-w.asked, unix.SYNC_FILE_RANGE_WRITE)
		w.asked = end
	}
}
