package set

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/process"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// Partial is the beginning of the names of unfinished sets; ownerSuffix is added
// for the file that names the owner of an unfinished set.
const (
	Partial     = manifest.Partial
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
	MachineID string `json:"machineID"` // Machine.ID; older programs wrote the machine-id itself
	BootID    string `json:"bootID"`
	PIDSpace  string `json:"pidSpace"` // the namespace that PID is of
	PID       int    `json:"pid"`
	Start     string `json:"start"` // of the process, in ticks since the boot

	raw string // what MachineID is made of
}

// self is the owner that this process is.
func self(host string) owner {
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		ns = ""
	}
	m := This(host)
	return owner{Host: host, MachineID: m.ID, raw: m.raw, BootID: process.BootID(), PIDSpace: ns, PID: os.Getpid(), Start: process.Start(os.Getpid())}
}

// ours reports whether a set of o is this machine's, as far as can be known.
func (o owner) ours(me owner) bool {
	if o.MachineID != "" || me.MachineID != "" {
		return o.MachineID == me.MachineID || me.raw != "" && o.MachineID == me.raw
	}
	return o.Host == me.Host
}

// ended reports whether the run of this machine that wrote o is over; age is how
// old its last heartbeat is.
func (o owner) ended(me owner, age time.Duration) bool {
	if o.BootID == me.BootID && o.BootID != "" && o.PIDSpace == me.PIDSpace {
		return o.PID != me.PID && process.Start(o.PID) != o.Start
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
	names, err := partials(dir)
	if err != nil {
		return err
	}
	now := time.Now()
	if mine != nil {
		now = mine.now
	}
	me := self(host)
	for _, n := range names {
		set := filepath.Join(dir, n)
		if mine != nil && set == mine.dir {
			continue
		}
		if err := removeOne(set, me, now, note); err != nil {
			return fmt.Errorf("cannot start the backup: %w", err)
		}
	}
	return nil
}

// maxOwner is the largest owner file that is read, in bytes.
const maxOwner = 64 << 10

// fate is what is known of an unfinished set.
type fate struct {
	over   bool          // it is this machine's, and the run that wrote it has ended
	busy   string        // the process of this machine that writes it; "" for none
	remark string        // why it is left alone, "" where people need not know
	age    time.Duration // since the last heartbeat
	lock   *os.File      // held until it is closed; nil for none
}

// release ends the lock that look took.
func (f fate) release() {
	if f.lock != nil {
		f.lock.Close()
	}
}

// removeOne removes an unfinished set and its owner file, if the run that made it
// was this machine's and is over.
func removeOne(set string, me owner, now time.Time, note func(format string, args ...any)) error {
	f, err := look(set, me, now)
	defer f.release()
	switch {
	case err != nil:
		return err
	case f.over:
		return removeLeftover(set)
	case f.busy != "":
		return fmt.Errorf("another backup is writing %s%s", set, f.busy)
	case f.remark != "":
		note("left alone: %s: %s", set, f.remark)
	}
	return nil
}

// removeLeftover removes an unfinished set and its owner file, if it has one.
func removeLeftover(set string) error {
	err := os.RemoveAll(set)
	if e := os.Remove(set + ownerSuffix); !errors.Is(e, os.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

// look finds out what became of the run that writes an unfinished set. The caller releases the
// fate: until then nobody else locks a set without an owner that is over.
func look(set string, me owner, now time.Time) (f fate, err error) {
	b, err := regular.ReadFile(set+ownerSuffix, maxOwner)
	if errors.Is(err, os.ErrNotExist) {
		return lookUnowned(set, me, now)
	}
	if err != nil {
		return f, err
	}
	st, err := os.Stat(set + ownerSuffix)
	if errors.Is(err, os.ErrNotExist) {
		return f, nil // it ended meanwhile
	}
	if err != nil {
		return f, err
	}
	f.age = now.Sub(st.ModTime())
	var o owner
	if err := json.Unmarshal(b, &o); err != nil {
		if f.age > lifeless { // killed while it was written, or not one of ours
			f.remark = "its owner can't be read; remove it if no backup is running"
		}
		return f, nil
	}
	switch {
	case !o.ours(me):
		if f.age > lifeless {
			f.remark = fmt.Sprintf("an unfinished backup of %s, which nothing has written to for %s; remove it there", o.Host, f.age.Round(time.Minute))
		}
	case o.ended(me, f.age):
		f.over = true
	case o.BootID == me.BootID && o.PIDSpace == me.PIDSpace:
		f.busy = fmt.Sprintf(" (process %d)", o.PID)
	default:
		f.remark = fmt.Sprintf("an unfinished backup of a machine with this machine's id, written to %s ago", f.age.Round(time.Second))
	}
	return f, nil
}

// lookUnowned is look for an unfinished set without an owner: of a program before
// there were any, or an old set that was being removed. Only one that is named
// after this host is over.
func lookUnowned(set string, me owner, now time.Time) (f fate, err error) {
	rest, ok := strings.CutPrefix(filepath.Base(set), Partial+SafeName(me.Host)+"-")
	if _, err := time.Parse("20060102T150405Z", rest); !ok || err != nil {
		f.remark = "an unfinished backup that names no owner; remove it if no backup is running"
		return f, nil
	}
	d, err := os.Open(set)
	if errors.Is(err, os.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	defer func() {
		if f.lock == nil {
			d.Close()
		}
	}()
	st, err := d.Stat()
	if err != nil {
		return f, err
	}
	f.age = now.Sub(st.ModTime())
	switch err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		f.busy = " by a process that holds its lock"
	case err != nil:
		f.remark = fmt.Sprintf("it can't be locked: %v", err)
	default:
		f.over, f.lock = true, d
	}
	return f, nil
}

// Leftover is an unfinished set, or one that was being removed.
type Leftover struct {
	Name string // in its directory
	Age  time.Duration
	Over bool   // its run has ended, and was this machine's
	Why  string // it is left alone; "" if Over
}

// Leftovers lists the unfinished sets in dir, encrypted ones too; host is this machine's name.
func Leftovers(ctx context.Context, dir, host string, now time.Time) ([]Leftover, error) {
	out, err := partialSets(dir, host, now)
	if err != nil {
		return nil, err
	}
	home, err := store.OpenHome(ctx, dir, store.Access{})
	if err != nil {
		return nil, err
	}
	more, err := LeftoversIn(ctx, home, host)
	return append(out, more...), errors.Join(err, home.Close())
}

// partialSets lists what Directory has left.
func partialSets(dir, host string, now time.Time) (out []Leftover, err error) {
	me := self(host)
	names, err := partials(dir)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		f, err := look(filepath.Join(dir, n), me, now)
		f.release()
		if err != nil {
			f = fate{remark: err.Error()}
		}
		l := Leftover{Name: n, Age: f.age, Over: f.over, Why: f.remark}
		switch {
		case f.busy != "":
			l.Why = "a backup is writing it"
		case !f.over && l.Why == "":
			l.Why = "of another machine"
		}
		out = append(out, l)
	}
	return out, nil
}

// partials are the names of the unfinished sets in dir.
func partials(dir string) (names []string, err error) {
	all, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", dir, err)
	}
	for _, e := range all {
		if strings.HasPrefix(e.Name(), Partial) {
			names = append(names, strings.TrimSuffix(e.Name(), ownerSuffix))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// RemoveLeftover removes an unfinished set of Leftovers from dir, if its run still has ended.
// One that is written to by now, or that is missing, is an fs.ErrNotExist.
func RemoveLeftover(ctx context.Context, dir, name, host string) error {
	if !strings.HasPrefix(name, Partial) {
		home, err := store.OpenHome(ctx, dir, store.Access{})
		if err != nil {
			return err
		}
		return errors.Join(RemoveLeftoverIn(ctx, home, name, host), home.Close())
	}
	set := filepath.Join(dir, name)
	f, err := look(set, self(host), time.Now())
	defer f.release()
	switch {
	case err == nil && !f.over:
		return fmt.Errorf("%s is no longer a leftover: %w", set, fs.ErrNotExist)
	case err == nil:
		err = removeLeftover(set)
	}
	if err != nil {
		return fmt.Errorf("cannot remove the unfinished backup %s: %w", name, err)
	}
	return nil
}

// Retire removes a whole set from dir. It is renamed first, so that an interruption
// leaves no half of it under its name.
func Retire(dir, name string) error {
	tmp := filepath.Join(dir, Partial+name)
	err := os.Rename(filepath.Join(dir, name), tmp)
	if err == nil {
		err = os.RemoveAll(tmp)
	}
	if err != nil {
		return fmt.Errorf("cannot remove the old backup %s: %w", name, err)
	}
	return nil
}
