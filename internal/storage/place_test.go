package storage

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/machinetest"
	"github.com/mkcdrec/mkcdrec/internal/plan"
)

// A mount point whose parents are links of an archive is below the target; what has no
// path has a place of its own beside it, and is found again to be unmounted.
func TestPlace(t *testing.T) {
	top := t.TempDir()
	outside := filepath.Join(top, "outside")
	target := filepath.Join(top, "target")
	if err := errors.Join(os.MkdirAll(target+"/real", 0o755), os.Mkdir(outside, 0o755), os.Symlink("/real", target+"/data"), os.Symlink(outside, target+"/out"), os.Symlink("../../../outside", target+"/up")); err != nil {
		t.Fatal(err)
	}
	r := &Tree{Target: target}
	at := func(path, dev string) (string, error) {
		return r.Place(&plan.MountFS{Mount: &layout.Mount{Path: path}, FS: &layout.Filesystem{Device: dev}})
	}
	for path, want := range map[string]string{"/": "", "/data/x": "/real/x", "/srv/a/b": "/srv/a/b"} {
		if got, err := at(path, "sda1"); err != nil || got != target+want {
			t.Errorf("%s is at %s, %v; want %s", path, got, err, target+want)
		}
	}
	for _, path := range []string{"/out/x", "/up/x"} {
		if got, err := at(path, "sda1"); err == nil {
			t.Errorf("%s is at %s; want the link to nothing refused", path, got)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside: %v %v", left, err)
	}
	got, err := at("", "vg0/data")
	if err != nil || got != target+".private/vg0-data" || !Below(target, got) {
		t.Errorf("the root of vg0/data is at %s, %v", got, err)
	}
	for at, want := range map[string]bool{target: true, target + "/x": true, target + "2": false, target + ".private": false, "/": false} {
		if Below(target, at) != want {
			t.Errorf("Below(%s) = %v", at, !want)
		}
	}
}

// The root of a file system of which only a subvolume has a path is mounted, too, and
// never on the target itself.
func TestPlanPrivate(t *testing.T) {
	l := &layout.Layout{Filesystems: []layout.Filesystem{{Device: "sda1", Type: "ext4", Private: true}, {Device: "sda2", Type: "ext4", Mounts: []layout.Mount{{Path: "/"}}}}}
	for i := range l.Filesystems {
		f := &l.Filesystems[i]
		for _, m := range f.Parts() {
			r := &Tree{Target: filepath.Join(t.TempDir(), "target")}
			at, err := r.makePlace(&plan.MountFS{Mount: &m, FS: f})
			if err != nil || (at == r.Target) != (m.Path == "/") {
				t.Errorf("%s at %q is mounted on %s, %v", f.Device, m.Path, at, err)
			}
		}
	}
}

// Mount points are those of the machine on which programs run, the last mounted first.
func TestMounted(t *testing.T) {
	m := machinetest.New(t)
	target := m.Path("/mnt/target")
	if err := os.MkdirAll(target+"/home", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{target, target + "/home", m.Path("/run")} {
		if err := m.Mount("tmpfs", at, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Mounted(m, func(at string) bool { return Below(target, at) })
	if want := []string{target + "/home", target}; err != nil || !slices.Equal(got, want) {
		t.Errorf("Mounted() = %q, %v; want %q", got, err, want)
	}
}
