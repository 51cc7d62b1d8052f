package set

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/process"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// TestHomeLeftover: what a killed run of this machine has left in a home is removed by the
// next one; what others left, what still runs, and what is complete is not.
func TestHomeLeftover(t *testing.T) {
	dir := t.TempDir()
	me := hidden(self("host"))
	dead, other, running := me, me, me
	dead.Start = "1" // the process has another start time
	other.MachineID, other.Start = "0"+me.MachineID, "1"
	running.PID = os.Getppid()
	running.Start = process.Start(running.PID)
	for name, c := range map[string]struct {
		by   *owner
		file string
		left bool
	}{
		"host-20260101T000000Z":  {&dead, "sda1._.tar.zst", false},
		"host-20260102T000000Z":  {&other, "sda1._.tar.zst", true},
		"host-20260103T000000Z":  {&running, "sda1._.tar.zst", true},
		"host-20260104T000000Z":  {nil, "sda1._.tar.zst", true},
		"host-20260105T000000Z":  {&dead, "manifest.json", true},
		"host-20260106T000000Z":  {&dead, "set.json", true},
		"other-20260107T000000Z": {&dead, "sda1._.tar.zst", true},
	} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, c.file), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		if c.by != nil {
			dead := *c.by
			if c.by.Start == "1" {
				dead.PID = os.Getppid()
			}
			b, err := json.Marshal(dead)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name, UnfinishedFile), b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		defer func() {
			if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != c.left {
				t.Errorf("%s (%s): %v; want it left = %v", name, c.file, err, c.left)
			}
			if _, err := os.Stat(filepath.Join(dir, name, UnfinishedFile)); c.by == &dead && err == nil && c.left && name[0] == 'h' {
				t.Errorf("%s is complete, and still has its mark", name)
			}
		}()
	}
	home, err := store.OpenHome(t.Context(), dir, store.Access{})
	if err != nil {
		t.Fatal(err)
	}
	h, err := NewHome(t.Context(), home, t.TempDir(), "host", "id", time.Now(), nil, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, h.Name())); err == nil {
		t.Error("the set that was removed is there")
	}
}

// TestLeftoversOfBothKinds: what a run that encrypted has left is listed, and removed by prune and by the next run that
// does not encrypt; what still runs, or is another machine's, stays.
func TestLeftoversOfBothKinds(t *testing.T) {
	me := hidden(self("host"))
	dead, other, running := me, me, me
	dead.PID, dead.Start = os.Getppid(), "1"
	other.MachineID, other.PID, other.Start = "0"+me.MachineID, os.Getppid(), "1"
	running.PID = os.Getppid()
	running.Start = process.Start(running.PID)
	fill := func() string {
		dir := t.TempDir()
		for name, o := range map[string]owner{"host-20260101T000000Z": dead, "host-20260102T000000Z": other, "host-20260103T000000Z": running} {
			b, err := json.Marshal(o)
			if err == nil {
				err = os.MkdirAll(filepath.Join(dir, name), 0o700)
			}
			if err := errors.Join(err, os.WriteFile(filepath.Join(dir, name, UnfinishedFile), b, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	is := func(dir string) (names []string) {
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			names = append(names, e.Name())
		}
		return names
	}
	want := []string{"host-20260102T000000Z", "host-20260103T000000Z"}
	dir := fill()
	list, err := Leftovers(t.Context(), dir, "host", time.Now())
	if err != nil || len(list) != 3 || !list[0].Over || list[1].Over || list[2].Over || list[1].Why != "unfinished, of another machine" || list[2].Why != "a backup is writing it" {
		t.Fatalf("Leftovers() = %+v, %v; want that the first one's run is over", list, err)
	}
	for _, l := range list {
		if err := RemoveLeftover(t.Context(), dir, l.Name, "host"); (err == nil) != l.Over || !l.Over && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("RemoveLeftover(%s) = %v; want that it is removed = %v", l.Name, err, l.Over)
		}
	}
	if got := is(dir); !slices.Equal(got, want) {
		t.Errorf("RemoveLeftover leaves %q; want %q", got, want)
	}
	dir = fill()
	d, err := NewDirectory(dir, "host", time.Now(), progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	if got := is(dir); !slices.Equal(got, want) {
		t.Errorf("NewDirectory leaves %q; want %q", got, want)
	}
}

// TestHidden: the mark of an unfinished set tells nobody the ids of the machine.
func TestHidden(t *testing.T) {
	me := self("host")
	h := hidden(me)
	if h.Host != "" || h.MachineID == me.MachineID && me.MachineID != "" || h.BootID == me.BootID || h.PID != me.PID {
		t.Errorf("hidden(%+v) = %+v", me, h)
	}
	if hidden(me) != h {
		t.Error("hidden is different each time")
	}
}

// hookedHome calls a function before it creates a file.
type hookedHome struct {
	store.Home
	before func(name string) error
}

func (h hookedHome) Create(ctx context.Context, name string) (store.Upload, error) {
	if err := h.before(name); err != nil {
		return nil, err
	}
	return h.Home.Create(ctx, name)
}

// lateHome has another machine write a mark after this one's.
type lateHome struct {
	store.Home
	after func()
}

func (h *lateHome) At(ctx context.Context, name string) store.Store {
	if f := h.after; f != nil && name != "" {
		if _, err := h.Home.At(ctx, name).Size(UnfinishedFile); err == nil {
			h.after = nil
			f()
		}
	}
	return h.Home.At(ctx, name)
}

// TestHomeTaken: of two machines of one name that begin in the same second each has its own set.
func TestHomeTaken(t *testing.T) {
	dir := t.TempDir()
	plain, err := store.OpenHome(t.Context(), dir, store.Access{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 30, 1, 0, 0, 0, time.UTC)
	mark := func(name string) {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, UnfinishedFile), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mark("host-20261130T010000Z")
	late := &lateHome{plain, func() { mark("host-20261130T010001Z") }}
	h, err := NewHome(t.Context(), late, t.TempDir(), "host", "id", now, nil, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	if want := "host-20261130T010002Z"; h.Name() != want {
		t.Errorf("the set is %s; want %s", h.Name(), want)
	}
	for _, name := range []string{"host-20261130T010000Z", "host-20261130T010001Z"} {
		if b, err := os.ReadFile(filepath.Join(dir, name, UnfinishedFile)); err != nil || string(b) != "{}" {
			t.Errorf("the mark of %s is %q, %v", name, b, err)
		}
	}
	if err := h.Remove(); err != nil {
		t.Error(err)
	}
}

// TestRetireIn: a removal that was killed leaves nothing that the next run does not remove, and a
// full server takes no mark, but removes.
func TestRetireIn(t *testing.T) {
	errFull := errors.New("no space left")
	for what, c := range map[string]struct {
		full, killed bool
	}{"removed": {}, "on a full server": {full: true}, "killed": {killed: true}} {
		dir := t.TempDir()
		plain, err := store.OpenHome(t.Context(), dir, store.Access{})
		if err != nil {
			t.Fatal(err)
		}
		const name = "host-20260101T000000Z"
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{"a.tar.zst", "manifest.json"} {
			if err := os.WriteFile(filepath.Join(dir, name, f), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		home := hookedHome{plain, func(string) error {
			if c.full {
				return errFull
			}
			return nil
		}}
		if c.killed { // between the manifest and the rest
			if err := os.Remove(filepath.Join(dir, name, "manifest.json")); err != nil {
				t.Fatal(err)
			}
			dead := hidden(self("host"))
			dead.PID, dead.Start = os.Getppid(), "1"
			b, err := json.Marshal(dead)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name, UnfinishedFile), b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			h, err := NewHome(t.Context(), home, t.TempDir(), "host", "id", time.Now(), nil, progress.None{})
			if err == nil {
				err = h.Remove()
			}
			if err != nil {
				t.Fatal(err)
			}
		} else if err := RetireIn(t.Context(), home, name, "host"); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", what, left, err)
		}
	}
}

// slowHome takes a while for each list of files, and counts how many are wanted at once.
type slowHome struct {
	store.Home
	now, most atomic.Int32
}

func (h *slowHome) Files(ctx context.Context, dir string) ([]store.Info, error) {
	n := h.now.Add(1)
	for m := h.most.Load(); n > m && !h.most.CompareAndSwap(m, n); m = h.most.Load() {
	}
	defer h.now.Add(-1)
	time.Sleep(20 * time.Millisecond)
	if dir == "gone" {
		return nil, errors.New("no such set")
	}
	return h.Home.Files(ctx, dir)
}

// TestDamagesIn: sets are looked at side by side, and what is found keeps their order.
func TestDamagesIn(t *testing.T) {
	dir := t.TempDir()
	home, err := store.OpenHome(t.Context(), dir, store.Access{})
	if err != nil {
		t.Fatal(err)
	}
	slow := &slowHome{Home: home}
	var sets []Listed
	for i := range 60 {
		l := Listed{Name: fmt.Sprintf("set-%02d", i), Manifest: &manifest.Manifest{Files: []manifest.FileSum{{Name: "a", Size: 1}}}}
		if err := os.Mkdir(filepath.Join(dir, l.Name), 0o700); err != nil {
			t.Fatal(err)
		}
		if i%3 > 0 {
			if err := os.WriteFile(filepath.Join(dir, l.Name, "a"), make([]byte, i%3), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		sets = append(sets, l)
	}
	got, err := DamagesIn(t.Context(), slow, sets)
	if err != nil || len(got) != len(sets) {
		t.Fatalf("DamagesIn = %q, %v", got, err)
	}
	for i, why := range got {
		if (why == "") != (i%3 == 1) {
			t.Errorf("set %d: %q", i, why)
		}
	}
	if n := slow.most.Load(); n < 2 || n > readers {
		t.Errorf("%d sets were looked at at once; want 2 to %d", n, readers)
	}
	if _, err := DamagesIn(t.Context(), slow, append(sets, Listed{Name: "gone", Manifest: &manifest.Manifest{}})); err == nil || err.Error() != "no such set" {
		t.Errorf("DamagesIn with a set that can't be listed: %v", err)
	}
}
