package builder

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// keySet writes a set's manifest below dir.
func keySet(t *testing.T, dir, name, host string, day int, size int64) {
	t.Helper()
	d := filepath.Join(dir, name)
	if err := os.Mkdir(d, 0o755); err != nil {
		t.Fatal(err)
	}
	sums, err := set.This(host).Write(d)
	if err != nil {
		t.Fatal(err)
	}
	m := &manifest.Manifest{Version: manifest.Version, ID: uuid.New(), Host: host, Created: time.Date(2026, 11, day, 0, 0, 0, 0, time.UTC), Program: "test", Kernel: "6.1",
		Files: append(sums, manifest.FileSum{Name: manifest.Layout, Size: quantity.Size(size), SHA256: strings.Repeat("0", 64)})}
	if err := m.Write(d); err != nil {
		t.Fatal(err)
	}
}

func namesOf(gs []set.Listed) string {
	var out []string
	for _, g := range gs {
		out = append(out, g.Name)
	}
	return strings.Join(out, " ")
}

// TestGenerations: a machine's own sets, newest first; what is another's, or
// can't be read as a set, is never among what may be removed.
func TestGenerations(t *testing.T) {
	dir := t.TempDir()
	keySet(t, dir, "web-1", "web", 1, 100)
	keySet(t, dir, "web-3", "web", 3, 300)
	keySet(t, dir, "web-2", "web", 2, 200)
	keySet(t, dir, "db-9", "db", 9, 100)
	if err := os.MkdirAll(filepath.Join(dir, "broken"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "broken", manifest.File), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	gs := generations(dir, "web")
	if got := namesOf(gs); got != "web-3 web-2 web-1" {
		t.Fatalf("generations %s", got)
	}
	if gs[0].Size() < 300 {
		t.Errorf("size %d", gs[0].Size())
	}
	if err := set.Retire(dir, "web-1"); err != nil {
		t.Fatal(err)
	}
	if err := set.Retire(dir, "none"); err == nil {
		t.Error("a set that is not there was removed")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 4 {
		t.Errorf("left: %v, %v", left, err)
	}
	if got := namesOf(generations(dir, "web")); got != "web-3 web-2" {
		t.Errorf("after removing: %s", got)
	}
}

// TestRetired: what an interrupted removal has left is not a generation, nor what the size of
// the next set is guessed from.
func TestRetired(t *testing.T) {
	dir := t.TempDir()
	keySet(t, dir, "web-1", "web", 1, 100)
	keySet(t, dir, set.Partial+"web-2", "web", 2, 1<<60)
	p := &Plan{Layout: &layout.Layout{Hostname: "web"}}
	if got := namesOf(generations(dir, "web")); got != "web-1" {
		t.Errorf("generations() = %s; want web-1", got)
	}
	if got := (&Builder{Config: &Config{}}).Short(p, dir); got != "" {
		t.Errorf("Short() = %q; want nothing: a tenth more than web-1 will fit", got)
	}
}

// TestMakeRoom: nothing goes unless that was allowed; then the oldest, and
// only this machine's.
func TestMakeRoom(t *testing.T) {
	dir := t.TempDir()
	keySet(t, dir, "web-1", "web", 1, 100)
	keySet(t, dir, "web-2", "web", 2, 1<<60) // the next one will need more than there is
	keySet(t, dir, "db-1", "db", 1, 100)
	p := Unprobed()
	p.Layout.Hostname = "web"
	w := &keyWriter{b: &Builder{Report: progress.None{}}}
	res := &KeyResult{}
	if err := w.room(dir, p, res); err != nil || len(res.Removed) > 0 {
		t.Errorf("removed %v, %v", res.Removed, err)
	}
	w.opt.MakeRoom = true
	if err := w.room(dir, p, res); err != nil || strings.Join(res.Removed, " ") != "web-1 web-2" {
		t.Errorf("removed %v, %v", res.Removed, err)
	}
	if got := namesOf(generations(dir, "db")); got != "db-1" {
		t.Errorf("another machine has %q left", got)
	}
}

// TestLockDisk: somebody who only looks at a disk is waited for; somebody who
// stays there is not, for ever.
func TestLockDisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	open := func() *os.File {
		t.Helper()
		f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	other := open()
	if err := unix.Flock(int(other.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	if err := lockDisk(open(), 100*time.Millisecond); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("a disk that somebody holds: %v", err)
	}
	time.AfterFunc(200*time.Millisecond, func() { unix.Flock(int(other.Fd()), unix.LOCK_UN) })
	if err := lockDisk(open(), time.Minute); err != nil {
		t.Errorf("a disk that somebody held: %v", err)
	}
}

// TestShort: a destination without enough room is named before anything is written.
func TestShort(t *testing.T) {
	dir := t.TempDir()
	p := &Plan{Layout: &layout.Layout{Hostname: "web"}, Archives: []PlannedArchive{{Used: 1 << 20}}}
	if got := (&Builder{Config: &Config{}}).Short(p, dir); got != "" {
		t.Errorf("Short = %q; want nothing: 512 KiB will fit", got)
	}
	p.Archives[0].Used = 1 << 60
	if got := (&Builder{Config: &Config{}}).Short(p, dir); !strings.HasPrefix(got, "the backup will probably not fit: "+dir+" has ") || !strings.HasSuffix(got, "about 524288.0 TiB are needed, by half of the space in use here") {
		t.Errorf("Short = %q; want the room and what is needed", got)
	}
	if got := (&Builder{Config: &Config{}}).Short(p, dir+"/none"); got == "" {
		t.Errorf("Short of a directory that is not there yet = %q; want that of the one above", got)
	}
}
