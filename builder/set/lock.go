package set

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/process"
)

// LockPrefix is the beginning of the names of locks in a directory with sets.
const LockPrefix = ".mkcdrec-lock-"

// holder is what a lock has about the run that holds it.
type holder struct {
	owner
	Since time.Time `json:"since"`
}

// alive reports whether the run is a process of this machine that still runs.
func (h holder) alive(me owner) bool {
	return h.BootID == me.BootID && h.BootID != "" && h.PIDSpace == me.PIDSpace && h.PID != me.PID && h.Start != "" && process.Start(h.PID) == h.Start
}

// Lock has this run be the only one of this machine, host, that writes sets to dir, until
// release is called. Another one is an exit.Refusal that names it. The locks of other machines
// do not matter, also if their name is the same. A lock whose run has ended is taken over, and
// note is told.
func Lock(dir, host string, note func(format string, args ...any)) (release func() error, err error) {
	return LockFile(filepath.Join(dir, This(host).lock()), host, dir, note)
}

// lock is the name of the machine's lock.
func (m Machine) lock() string {
	name := LockPrefix + SafeName(m.Host)
	if m.ID != "" {
		name += "-" + m.ID[:8]
	}
	return name
}

// LockFile is Lock with the name of the lock; dir is for messages. The kernel's lock counts,
// and the content where file systems have none and for messages.
func LockFile(name, host, dir string, note func(format string, args ...any)) (release func() error, err error) {
	for {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if err != nil {
			return nil, fmt.Errorf("cannot lock %s: %w", dir, err)
		}
		again, err := take(f, host, dir, note)
		if err == nil && !again {
			return func() error {
				defer f.Close()
				if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
					return fmt.Errorf("cannot unlock %s: %w", dir, err)
				}
				return nil
			}, nil
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
}

// take takes the lock that f is. It has to be opened again if its last holder has removed it
// meanwhile.
func take(f *os.File, host, dir string, note func(format string, args ...any)) (again bool, err error) {
	fail := func(err error) (bool, error) { return false, fmt.Errorf("cannot lock %s: %w", dir, err) }
	is, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	if !is.Mode().IsRegular() {
		return fail(fmt.Errorf("%s is not a regular file", f.Name()))
	}
	locked := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if there, err := os.Lstat(f.Name()); errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(is, there) {
		return true, nil
	} else if err != nil {
		return fail(err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxOwner))
	if err != nil {
		return fail(err)
	}
	var h holder
	known := json.Unmarshal(b, &h) == nil
	me := self(host)
	if held := errors.Is(locked, unix.EWOULDBLOCK); held || known && h.alive(me) {
		by := "another process" // which has not written its name yet
		if known {
			by = fmt.Sprintf("process %d of %s, since %s", h.PID, h.Host, h.Since.Local().Format("2006-01-02 15:04:05 MST"))
		}
		return false, &exit.Refusal{Reason: fmt.Sprintf("a backup of %s to %s is running already: %s", host, dir, by)}
	}
	if known {
		note("the lock of process %d, which began at %s and has ended, is taken over", h.PID, h.Since.Local().Format("2006-01-02 15:04:05 MST"))
	}
	if b, err = json.Marshal(holder{me, time.Now().UTC().Truncate(time.Second)}); err != nil {
		return fail(err)
	}
	if err := f.Truncate(0); err != nil {
		return fail(err)
	}
	if _, err := f.WriteAt(append(b, '\n'), 0); err != nil {
		return fail(errors.Join(err, os.Remove(f.Name())))
	}
	return false, nil
}
