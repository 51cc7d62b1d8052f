package builder

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/builder/retention"
	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// listed is a set of some size that needs others.
func listed(name string, size int64, needs ...string) set.Listed {
	m := &manifest.Manifest{ID: name, Files: []manifest.FileSum{{Name: "a", Size: quantity.Size(size)}}}
	for _, n := range needs {
		m.Needs = append(m.Needs, manifest.Needed{ID: n, Dir: n})
	}
	return set.Listed{Name: name, Manifest: m}
}

// TestMayNeed: a full set is estimated by full ones, an increment by increments.
func TestMayNeed(t *testing.T) {
	p := &Plan{Archives: []PlannedArchive{{Used: 3000}}}
	full, incr := listed("a", 1000), listed("b", 50, "a")
	for _, c := range []struct {
		sets      []set.Listed
		increment bool
		want      int64
	}{
		{nil, false, 1500},
		{[]set.Listed{full}, false, 1100},
		{[]set.Listed{full}, true, 100},
		{[]set.Listed{incr, full}, true, 55},
		{[]set.Listed{incr, full}, false, 1100},
		{[]set.Listed{incr}, false, 55},
	} {
		if got, by := p.mayNeed(c.sets, c.increment); got != c.want || by == "" {
			t.Errorf("mayNeed(%d sets, increment %v) = %d, %q; want %d", len(c.sets), c.increment, got, by, c.want)
		}
	}
}

// TestMediumNeeds: a small set needs the room in which its medium is made, where that is made beside it.
func TestMediumNeeds(t *testing.T) {
	s := listed("a", 1)
	s.Files = append(s.Files, manifest.FileSum{Name: manifest.RescueISO, Size: 1000})
	for _, c := range []struct {
		free   int64
		beside bool
		fits   bool
	}{{1200, false, true}, {1200, true, false}, {1900, true, true}, {1000, false, false}} {
		if got := (&Plan{}).short("x", c.free, []set.Listed{s}, false, c.beside); (got == "") != c.fits {
			t.Errorf("short(%d free, beside %v) = %q; want that it fits = %v", c.free, c.beside, got, c.fits)
		}
	}
}

// TestRoom: without keep.make_room a run warns; with it, it removes what the rules allow first, and warns if that
// was not enough. Nothing is removed where there is room.
func TestRoom(t *testing.T) {
	for _, c := range []struct {
		what    string
		allowed bool
		free    []int64 // before and after a removal
		fail    error
		removed string
		said    string
	}{
		{"room", true, []int64{2000}, nil, "", ""},
		{"not allowed", false, []int64{100}, nil, "", "warning: the backup will probably not fit: place has 100 B free"},
		{"made", true, []int64{100, 2000}, nil, "old", "removed before the backup, to make room: old"},
		{"not enough", true, []int64{100, 200}, nil, "old", "warning: the backup will probably not fit: place has 200 B free"},
		{"fails", true, []int64{100}, errors.New("refused"), "", ""},
	} {
		said := &notes{}
		b := &Builder{Report: said, Config: &Config{Keep: retention.Keep{Last: 1, MakeRoom: c.allowed}}}
		var next *retention.Next
		at := place{"place", false, func() (n int64, ok bool) {
			n = c.free[0]
			if len(c.free) > 1 {
				c.free = c.free[1:]
			}
			return n, true
		}, func() ([]set.Listed, error) { return []set.Listed{listed("a", 1000)}, nil },
			func(n *retention.Next, _ func() bool) ([]string, error) {
				if next = n; c.fail != nil {
					return nil, c.fail
				}
				return []string{"old"}, nil
			}}
		removed, err := b.room(t.Context(), &Plan{}, at, "new", "id", nil, time.Now())
		if strings.Join(removed, " ") != c.removed || !errors.Is(err, c.fail) {
			t.Errorf("%s: room() = %q, %v; want %q, %v", c.what, removed, err, c.removed, c.fail)
		}
		if c.said != "" && !slices.ContainsFunc(said.lines, func(l string) bool { return strings.HasPrefix(l, c.said) }) || c.said == "" && len(said.lines) > 0 {
			t.Errorf("%s: room() prints %q; want %q", c.what, said.lines, c.said)
		}
		if next != nil && (next.Set != "new" || next.ID != "id") {
			t.Errorf("%s: removed for %+v; want the new set", c.what, next)
		}
	}
}

// TestRoomForNothing: nothing is removed for a run whose medium can't be made.
func TestRoomForNothing(t *testing.T) {
	n := newNightly(t)
	n.b.Config.Keep = retention.Keep{Last: 1, MakeRoom: true}
	n.b.Config.Rescue.Kernel = "/no/such/kernel"
	at := place{"place", true, func() (int64, bool) { return 0, true }, func() ([]set.Listed, error) { return []set.Listed{listed("a", 1000)}, nil },
		func(*retention.Next, func() bool) ([]string, error) {
			t.Error("sets are removed")
			return nil, nil
		}}
	if _, err := n.b.room(t.Context(), machinePlan(t), at, "new", "id", nil, time.Now()); err == nil || !strings.Contains(err.Error(), "kernel") {
		t.Errorf("room() = %v; want the error about the kernel", err)
	}
}

// TestPathMakesRoom: a run removes before it writes what the rules will not keep, and its result names it.
func TestPathMakesRoom(t *testing.T) {
	n := newNightly(t)
	n.b.Config.Generations = Generations{}
	n.b.Config.Keep = retention.Keep{MakeRoom: true}
	n.b.Config.Keep.Last = 9
	a := n.run()
	n.run()
	n.b.Config.Keep.Last = 2
	p := machinePlan(t)
	p.Layout.Hostname = "host"
	at := n.b.directoryPlace(t.Context(), p, n.home, time.Now())
	full := true
	at.free = func() (int64, bool) { return map[bool]int64{true: 0, false: 1 << 40}[full], true }
	remove := at.remove
	at.remove = func(next *retention.Next, enough func() bool) ([]string, error) {
		return remove(next, func() bool { was := enough(); full = false; return was })
	}
	removed, err := n.b.room(t.Context(), p, at, "host-20991231T000000Z", "new", nil, time.Now())
	if want := filepath.Base(a.Dir); err != nil || !slices.Equal(removed, []string{want}) {
		t.Errorf("room() = %q, %v; want %q", removed, err, want)
	}
}
