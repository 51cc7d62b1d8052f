package set

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// Partial is the beginning of the names of unfinished sets; ownerSuffix is added
// for the file that names the owner of an unfinished set.
const (
	Partial     = ".mkcdrec-partial-"
	ownerSuffix = ".owner"
)

// A run renews its owner file's time every heartbeat; one that is older than
// lifeless belongs to a run that has ended. Both are measured by the clock of the
// file system, which may be another machine's.
const (
	heartbeat = 30 * time.Second
	lifeless  = 10 * time.Minute
)

// owner is the run that an unfinished set belongs to. Locks of the kernel are not
// enough: they do not work on every NFS and SMB server.
type owner struct {
	Host      string `json:"host"`
	MachineID string `json:"machineID"`
	BootID    string `json:"bootID"`
	PIDSpace  string `json:"pidSpace"` // the namespace that PID is of
	PID       int    `json:"pid"`
	Start     string `json:"start"` // of the process, in ticks since the boot
}

// self is the owner that this process is.
func self(host string) owner {
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		ns = ""
	}
	id := read("/etc/machine-id")
	if id == "" {
		id = read("/var/lib/dbus/machine-id")
	}
	return owner{Host: host, MachineID: id, BootID: read("/proc/sys/kernel/random/boot_id"), PIDSpace: ns, PID: os.Getpid(), Start: startOf(os.Getpid())}
}

// startOf is when a process was started, "" if absent; proc(5), stat,
// field 22.
func startOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return ""
	}
	return f[19]
}

// ours reports whether a set of o is this machine's, as far as can be known.
func (o owner) ours(me owner) bool {
	if o.MachineID != "" || me.MachineID != "" {
		return o.MachineID == me.MachineID
	}
	return o.Host == me.Host
}

// ended reports whether the run of this machine that wrote o is over; age is how
// old its last heartbeat is.
func (o owner) ended(me owner, age time.Duration) bool {
	if o.BootID == me.BootID && o.BootID != "" && o.PIDSpace == me.PIDSpace {
		return o.PID != me.PID && startOf(o.PID) != o.Start
	}
	// Started before the last boot; or a machine with the same id, a clone.
	return age > lifeless
}

// claim is an unfinished set of this run.
type claim struct {
	dir  string // where the set is written
	file string // its owner file
	now  time.Time
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// newClaim makes the directory of an unfinished set called name below dir, with
// its owner beside it.
func newClaim(dir, name, host string) (*claim, error) {
	c := &claim{dir: filepath.Join(dir, Partial+name)}
	c.file = c.dir + ownerSuffix
	fail := func(err error) (*claim, error) { return nil, fmt.Errorf("cannot write the set: %w", err) }
	b, err := json.Marshal(self(host))
	if err != nil {
		return fail(err)
	}
	f, err := os.OpenFile(c.file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fail(err)
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Mkdir(c.dir, 0o700)
	}
	if err == nil {
		var st os.FileInfo
		if st, err = os.Stat(c.file); err == nil {
			c.now = st.ModTime()
		}
	}
	if err != nil {
		return fail(errors.Join(err, os.Remove(c.file)))
	}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.wg.Go(func() { c.beat(ctx, heartbeat) })
	return c, nil
}

// beat renews the time of the owner file. Errors are not reported: the set's own
// files have the same, and others then only see a run that seems to have ended.
func (c *claim) beat(ctx context.Context, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			// Both times "now": the file server's clock.
			now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
			_ = unix.UtimesNanoAt(unix.AT_FDCWD, c.file, now, 0)
		}
	}
}

// release ends the claim; the set has its name by then, or was removed.
func (c *claim) release() error {
	c.stop()
	c.wg.Wait()
	if err := os.Remove(c.file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove the mark of the unfinished set: %w", err)
	}
	return nil
}

// RemoveStale removes what a killed run of this machine has left below dir.
func RemoveStale(dir, host string, note func(format string, args ...any)) error {
	return removeStale(dir, host, nil, note)
}

// removeStale removes what a killed run of this machine has left below dir. What
// another machine left, or still writes, is not touched; note is told of it. A run
// of this machine that is still alive is an error. mine is this run's claim, whose
// time is the file system's "now"; nil takes the clock's.
func removeStale(dir, host string, mine *claim, note func(format string, args ...any)) error {
	all, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot use %s: %w", dir, err)
	}
	now := time.Now()
	if mine != nil {
		now = mine.now
	}
	me := self(host)
	for _, e := range all {
		name := e.Name()
		if !strings.HasPrefix(name, Partial) || mine != nil && (filepath.Join(dir, name) == mine.dir || filepath.Join(dir, name) == mine.file) {
			continue
		}
		set := filepath.Join(dir, strings.TrimSuffix(name, ownerSuffix))
		if err := removeOne(set, me, now, note); err != nil {
			return fmt.Errorf("cannot start the backup: %w", err)
		}
	}
	return nil
}

// maxOwner is the largest owner file that is read, in bytes.
const maxOwner = 64 << 10

// removeOne removes an unfinished set and its owner file, if the run that made it
// was this machine's and is over.
func removeOne(set string, me owner, now time.Time, note func(format string, args ...any)) error {
	b, err := regular.ReadFile(set+ownerSuffix, maxOwner)
	if errors.Is(err, os.ErrNotExist) {
		return removeUnowned(set, me, note)
	}
	if err != nil {
		return err
	}
	st, err := os.Stat(set + ownerSuffix)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it ended meanwhile
	}
	if err != nil {
		return err
	}
	age := now.Sub(st.ModTime())
	var o owner
	if err := json.Unmarshal(b, &o); err != nil {
		if age > lifeless { // killed while it was written, or not one of ours
			note("left alone: %s: its owner can't be read; remove it if no backup is running", set)
		}
		return nil
	}
	switch {
	case !o.ours(me):
		if age > lifeless {
			note("left alone: %s: an unfinished backup of %s, which nothing has written to for %s; remove it there", set, o.Host, age.Round(time.Minute))
		}
		return nil
	case o.ended(me, age):
		return errors.Join(os.RemoveAll(set), os.Remove(set+ownerSuffix))
	case o.BootID == me.BootID && o.PIDSpace == me.PIDSpace:
		return fmt.Errorf("another backup is writing %s (process %d)", set, o.PID)
	}
	note("left alone: %s: an unfinished backup of a machine with this machine's id, written to %s ago", set, age.Round(time.Second))
	return nil
}

// removeUnowned removes an unfinished set without an owner: of a program before
// there were any, or an old set that was being removed. Only one that is named
// after this host is removed.
func removeUnowned(set string, me owner, note func(format string, args ...any)) error {
	rest, ok := strings.CutPrefix(filepath.Base(set), Partial+SafeName(me.Host)+"-")
	if _, err := time.Parse("20060102T150405Z", rest); !ok || err != nil {
		note("left alone: %s: an unfinished backup that names no owner; remove it if no backup is running", set)
		return nil
	}
	f, err := os.Open(set)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("another backup is writing %s", set)
	case err != nil:
		note("left alone: %s: it can't be locked: %v", set, err)
		return nil
	}
	return os.RemoveAll(set)
}
