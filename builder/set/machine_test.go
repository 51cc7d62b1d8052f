package set

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// TestSpecific: the example of systemd's own test-id128.c, and what is not an id.
func TestSpecific(t *testing.T) {
	for _, c := range []struct{ id, app, want string }{
		{"51df0b4bc3b04c9780e299b98ca373b8", "f03daaeb1c334b43a732172944bf772e", "1dee5954-e75c-4d6f-b96c-c6c04ca18a86"},
		{"", appID, ""},
		{"uninitialized", appID, ""},
		{"51df0b4bc3b04c9780e299b98ca373", appID, ""},
		{"51df0b4bc3b04c9780e299b98ca373b8", "x", ""},
	} {
		if got := specific(c.id, c.app); got != c.want {
			t.Errorf("specific(%q, %q) = %q; want %q", c.id, c.app, got, c.want)
		}
	}
}

// TestMachineFile: a set names its machine, and has no file with the machine-id itself. The
// manifest has what its sets are recognised by.
func TestMachineFile(t *testing.T) {
	me := This("host")
	if me.ID == "" {
		t.Skip("this machine has no machine-id")
	}
	dir := t.TempDir()
	sink, err := NewDirectory(dir, "host", time.Now(), progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	mark, err := os.ReadFile(sink.claim.file)
	if err != nil || strings.Contains(string(mark), me.raw) || !strings.Contains(string(mark), me.ID) {
		t.Errorf("the owner's file: %s, %v; want %s and not the machine-id", mark, err, me.ID)
	}
	job := Job{Layout: &layout.Layout{Version: layout.Version, Hostname: "host", Boot: layout.Boot{Firmware: layout.BIOS}}, Report: progress.None{}}
	w, err := Start(job, uuid.New(), time.Now(), sink)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	m, err := w.Write(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(sink.Final(), MachineFile)); err != nil || string(b) != me.ID+"\n" {
		t.Errorf("%s: %q, %v; want %q", MachineFile, b, err, me.ID)
	}
	if mine, doubt := me.owns(m); !mine {
		t.Errorf("owns() = false, %q; want true", doubt)
	}
	if sets, doubtful, err := List(dir, me); err != nil || len(sets) != 1 || len(doubtful) != 0 {
		t.Errorf("List() = %v, %v, %v; want the set", sets, doubtful, err)
	}
	if _, err := manifest.Open(sink.Final()); err != nil {
		t.Error(err)
	}
	if err := filepath.WalkDir(sink.Final(), func(p string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if strings.Contains(string(b), me.raw) {
			t.Errorf("%s has the machine-id", p)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// TestSameSecond: machines of one name that begin at the same time both get a directory, beside
// the set of an earlier run of that time.
func TestSameSecond(t *testing.T) {
	dir, at := t.TempDir(), time.Date(2026, 11, 30, 2, 30, 0, 0, time.UTC)
	other := self("web")
	other.MachineID, other.BootID = "other", "other"
	theirs := unfinished(t, dir, "web-20261130T023000Z", other, 0)
	if err := os.Mkdir(dir+"/web-20261130T023001Z", 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := NewDirectory(dir, "web", at, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Final() != dir+"/web-20261130T023002Z" {
		t.Errorf("Final() = %s; want the second after the two", d.Final())
	}
	if err := d.Commit(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(theirs); err != nil {
		t.Errorf("the other machine's unfinished set: %v", err)
	}
}

// TestLockMachines: machines of one name do not wait for each other.
func TestLockMachines(t *testing.T) {
	one, two := Machine{Host: "web", ID: "11111111-1111-4111-8111-111111111111"}, Machine{Host: "web", ID: "22222222-2222-4222-8222-222222222222"}
	if a, b, c := one.lock(), two.lock(), (Machine{Host: "web"}).lock(); a == b || c != LockPrefix+"web" || a != LockPrefix+"web-11111111" {
		t.Errorf("lock() = %q, %q, %q; want three names", a, b, c)
	}
}
