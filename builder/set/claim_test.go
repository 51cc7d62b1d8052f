package set

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/process"
)

// unfinished makes an unfinished set with its owner, whose last heartbeat is age
// old.
func unfinished(t *testing.T, dir, name string, o owner, age time.Duration) string {
	t.Helper()
	set := filepath.Join(dir, ".mkcdrec-partial-"+name) // the name in docs/FORMAT.md
	if err := os.MkdirAll(set+"/log", 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(set+ownerSuffix, b, 0o600); err != nil {
		t.Fatal(err)
	}
	when := time.Now().Add(-age)
	if err := os.Chtimes(set+ownerSuffix, when, when); err != nil {
		t.Fatal(err)
	}
	return set
}

// TestStale: what a killed run of this machine has left is removed by the next
// one; what another machine writes or has left never is.
func TestStale(t *testing.T) {
	me := self("h")
	if me.Start == "" || me.BootID == "" || me.PIDSpace == "" {
		t.Fatalf("this process: %+v", me)
	}
	if me.MachineID == "" {
		me.MachineID, me.raw = "none", "raw" // in a container
	}
	with := func(f func(o *owner)) owner { o := me; f(&o); return o }
	dead := with(func(o *owner) { o.PID, o.Start = 1<<22+1, "1" })
	other := with(func(o *owner) { o.MachineID, o.BootID, o.Host = "another machine", "another boot", "other" })
	for _, c := range []struct {
		what    string
		o       owner
		age     time.Duration
		removed bool
		err     string
		note    string
	}{
		{"killed just now", dead, 0, true, "", ""},
		{"another process has its number now", with(func(o *owner) { o.PID, o.Start = 1, "nosuch" }), 0, true, "", ""},
		{"alive", with(func(o *owner) { o.PID, o.Start = 1, process.Start(1) }), time.Hour, false, "another backup", ""},
		{"before the last boot", with(func(o *owner) { o.BootID = "old" }), time.Hour, true, "", ""},
		{"a clone with the same id", with(func(o *owner) { o.BootID = "clone" }), time.Minute, false, "", "left alone"},
		{"in another container", with(func(o *owner) { o.PIDSpace = "pid:[1]"; o.PID = 1 << 22 }), time.Minute, false, "", "left alone"},
		{"of an older program, with the id itself", with(func(o *owner) { o.MachineID, o.PID, o.Start = me.raw, 1<<22+1, "1" }), 0, true, "", ""},
		{"another machine, writing", other, time.Second, false, "", ""},
		{"another machine, dead for a year", other, 365 * 24 * time.Hour, false, "", "left alone"},
		{"another machine of the same name", with(func(o *owner) { o.MachineID, o.BootID = "another machine", "b" }), 24 * time.Hour, false, "", "left alone"},
	} {
		dir := t.TempDir()
		set := unfinished(t, dir, "h-20261121T101010Z", c.o, c.age)
		if _, err := (manifest.Door{}).Open(context.Background(), dir); err == nil {
			t.Error("an unfinished set counts as one")
		}
		var notes []string
		err := removeOne(set, me, time.Now(), func(f string, a ...any) { notes = append(notes, fmt.Sprintf(f, a...)) })
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v; want %q", c.what, err, c.err)
		}
		_, gone := os.Stat(set)
		_, mark := os.Stat(set + ownerSuffix)
		if (gone != nil) != c.removed || (mark != nil) != c.removed {
			t.Errorf("%s: removed: %v, %v; want %v", c.what, gone != nil, mark != nil, c.removed)
		}
		if got := strings.Join(notes, ";"); !strings.Contains(got, c.note) || (got == "") != (c.note == "") {
			t.Errorf("%s: notes %q; want %q", c.what, got, c.note)
		}
	}
}

// An unfinished set without an owner is removed only if it has this host's name
// and nobody locks it.
func TestUnowned(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"h-20261121T101010Z", "h-other-20261121T101010Z", "x-20261121T101010Z", "h-notes"} {
		if err := os.Mkdir(filepath.Join(dir, Partial+n), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ours := filepath.Join(dir, Partial+"h-20261121T101010Z")
	f, err := os.Open(ours)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	quiet := func(string, ...any) {}
	if err := removeStale(dir, "h", nil, quiet); err == nil || !strings.Contains(err.Error(), "another backup") {
		t.Errorf("removeStale while it is written = %v", err)
	}
	f.Close()
	if err := removeStale(dir, "h", nil, quiet); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 3 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(ours); err == nil {
		t.Error("the unfinished set of this host is still there")
	}
}

// TestRemoveLeftover: what was a leftover when the list was made is looked at again, and stays
// locked until it is removed.
func TestRemoveLeftover(t *testing.T) {
	dir := t.TempDir()
	name := Partial + "h-20261121T101010Z"
	if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
		t.Fatal(err)
	}
	lock := func() (*os.File, error) {
		t.Helper()
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return f, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if l, err := Leftovers(t.Context(), dir, "h", time.Now()); err != nil || len(l) != 1 || !l[0].Over {
		t.Fatalf("Leftovers() = %v, %v; want one whose run has ended", l, err)
	}
	f, err := lock()
	if err != nil {
		t.Fatalf("Leftovers() keeps a lock: %v", err)
	}
	if err := RemoveLeftover(t.Context(), dir, name, "h"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("RemoveLeftover() of one that is written to = %v; want fs.ErrNotExist", err)
	}
	f.Close()
	found, err := look(filepath.Join(dir, name), self("h"), time.Now())
	if err != nil || !found.over {
		t.Fatalf("look() = %+v, %v; want one that is over", found, err)
	}
	f, err = lock()
	f.Close()
	if !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("locking what look() has found = %v; want EWOULDBLOCK", err)
	}
	found.release()
	if err := RemoveLeftover(t.Context(), dir, name, "h"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
		t.Error("the leftover is still there")
	}
	killed := self("h")
	killed.BootID = "old"
	owned := filepath.Base(unfinished(t, dir, "h-20261122T101010Z", killed, time.Minute))
	if err := RemoveLeftover(t.Context(), dir, owned, "h"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("RemoveLeftover() with a heartbeat a minute ago = %v; want fs.ErrNotExist", err)
	}
}

// Two machines write into one directory: each sees the other's unfinished set, and
// leaves it alone. A name with characters of a pattern is only a name.
func TestClaim(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sets [of *] all\nhosts")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	o := self("other")
	o.MachineID, o.BootID = "other", "other"
	theirs := unfinished(t, dir, "other-20261121T101010Z", o, 0)
	killed := self("h")
	killed.PID, killed.Start = 1<<22+1, "1"
	old := unfinished(t, dir, "h-20261121T101010Z", killed, 0)
	c, err := newClaim(dir, "h-20261122T101010Z", "h")
	if err != nil {
		t.Fatal(err)
	}
	if err := removeStale(dir, "h", c, func(string, ...any) {}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{theirs: true, theirs + ownerSuffix: true, old: false, old + ownerSuffix: false, c.dir: true, c.file: true} {
		if _, err := os.Stat(name); (err == nil) != want {
			t.Errorf("%s: %v; want %v", filepath.Base(name), err == nil, want)
		}
	}
	if _, err := newClaim(dir, "h-20261122T101010Z", "h"); err == nil {
		t.Error("a name is given twice")
	}
	if err := c.release(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(c.file); err == nil {
		t.Error("the mark is still there")
	}
}

// The heartbeat renews the mark's time.
func TestHeartbeat(t *testing.T) {
	c, err := newClaim(t.TempDir(), "h-20261122T101010Z", "h")
	if err != nil {
		t.Fatal(err)
	}
	defer c.release()
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(c.file, long, long); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go c.beat(ctx, 10*time.Millisecond)
	for range 500 {
		st, err := os.Stat(c.file)
		if err != nil {
			t.Fatal(err)
		}
		if time.Since(st.ModTime()) < time.Minute {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the time of the mark was not renewed")
}

func TestSafeName(t *testing.T) {
	for in, want := range map[string]string{"web-1.example": "web-1.example", "../x": "_x", "a/b c": "a_b_c", "": "host", "-rf": "rf"} {
		if got := SafeName(in); got != want {
			t.Errorf("SafeName(%q) = %q; want %q", in, got, want)
		}
	}
}
