package set

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

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
	running.Start = startOf(running.PID)
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
