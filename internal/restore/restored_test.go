package restore

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/inroot"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/plan"
)

func recording(host, id, digest string, made time.Time, l *layout.Layout, serials ...string) *Restorer {
	p := &plan.Plan{Layout: l}
	for _, s := range serials {
		p.Disks = append(p.Disks, plan.Disk{New: layout.Disk{Name: "sd" + s, Serial: s}})
	}
	set := &manifest.Set{Manifest: &manifest.Manifest{ID: id, Host: host, Created: made}, Digest: digest, Layout: l}
	return &Restorer{Screen: &notes{}, plan: p, set: set, content: setContent{set}}
}

// A restore leaves a record on every file system that can be looked into at the next
// boot, in the place where each of them is mounted.
func TestRecord(t *testing.T) {
	fs := func(dev string, mounts ...layout.Mount) layout.Filesystem {
		return layout.Filesystem{Device: dev, Type: "ext4", Mounts: mounts}
	}
	l := &layout.Layout{Filesystems: []layout.Filesystem{
		fs("vg0/root", layout.Mount{Path: "/"}), fs("sda2", layout.Mount{Path: "/boot"}), fs("sda1", layout.Mount{Path: "/boot/efi"}),
		fs("sdb", layout.Mount{Path: "/var", Subvolume: "@/var"}, layout.Mount{Path: "/home", Subvolume: "@home"})}, Boot: layout.Boot{ESP: "sda1"}}
	want := []string{"sdb lib/mkcdrec/restored.json", "sda2 mkcdrec-restored.json", "sda1 mkcdrec-restored.json"}
	places := recordPlaces(l)
	for i, p := range places {
		if got := p.fs.Device + " " + p.rel; i >= len(want) || got != want[i] {
			t.Errorf("place %d: %s; want %v", i, got, want)
		}
	}
	if len(places) != len(want) {
		t.Fatalf("%d places", len(places))
	}
	if one := recordPlaces(&layout.Layout{Filesystems: l.Filesystems[:1]}); len(one) != 1 || one[0].rel != "var/lib/mkcdrec/restored.json" {
		t.Errorf("one file system: %+v", one)
	}
	r := recording("web", "id", "sum", time.Now(), l, "B", "A")
	r.opt.Target = t.TempDir()
	if err := r.record(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/var/lib/mkcdrec/restored.json", "/boot/mkcdrec-restored.json", "/boot/efi/mkcdrec-restored.json"} {
		rec, err := readRecord(r.opt.Target, name)
		if err != nil || rec.Set != "id" || rec.Manifest != "sum" || rec.Host != "web" || strings.Join(rec.Disks, " ") != "A B" || time.Since(rec.Restored) > time.Minute {
			t.Errorf("%s: %+v %v", name, rec, err)
		}
	}
	if _, err := readRecord(r.opt.Target, "missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no record: %v", err)
	}
	f, err := inroot.Create(r.opt.Target, "bad", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, `{"version":9}`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := readRecord(r.opt.Target, "bad"); err == nil {
		t.Error("an unknown version is read")
	}
}

// What was restored from this set is not restored again, nor overwritten by a newer
// backup of itself; another disk or an older set is another matter.
func TestRepeats(t *testing.T) {
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	rec := &Record{Set: "id", Manifest: "sum", Host: "web", Restored: at, Disks: []string{"A", "B"}}
	for _, c := range []struct {
		name string
		r    *Restorer
		want bool
	}{
		{"the same set", recording("web", "id", "sum", at.Add(-time.Hour), nil, "A", "B"), true},
		{"one of its disks", recording("web", "id", "sum", at.Add(-time.Hour), nil, "B"), true},
		{"a new disk", recording("web", "id", "sum", at.Add(-time.Hour), nil, "A", "C"), false},
		{"a backup of what was restored", recording("web", "id2", "sum2", at.Add(24*time.Hour), nil, "A", "B"), true},
		{"an older set", recording("web", "id0", "sum0", at.Add(-24*time.Hour), nil, "A", "B"), false},
		{"another machine's", recording("db", "id3", "sum3", at.Add(24*time.Hour), nil, "A", "B"), false},
	} {
		if got := c.r.repeats(rec); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	var refused *exit.Refusal
	if !errors.As(error(&Untouched{&Repeated{exit.Refusal{Reason: "x"}, *rec}}), &refused) {
		t.Error("it is not exit status 4")
	}
}
