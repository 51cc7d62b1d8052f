package builder

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// TestInclude: only what is named is saved, with the directories above it; disks that hold
// nothing of it are not recreated; all else is left out by the rule, and not missing.
func TestInclude(t *testing.T) {
	root, data := t.TempDir(), t.TempDir()
	for _, f := range []string{root + "/etc/conf", root + "/usr/bin/x", root + "/srv/a/b/deep", root + "/srv/a/other", data + "/file"} {
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(root+"/srv/a/b", root+"/link"); err != nil {
		t.Fatal(err)
	}
	fresh := func() *layout.Layout {
		l := twoDisks(data)
		l.Boot.Disks = []string{"vda"}
		// What is mounted at / is not looked at: the tests' directory is another mount.
		l.Filesystems = append(l.Filesystems, layout.Filesystem{Device: "vdd1", Type: fstype.TypeExt4, Size: 1, Mounts: []layout.Mount{{Path: root}}})
		l.Images = []layout.Image{{Device: "vdb9", Type: "ntfs"}}
		return l
	}
	for name, c := range map[string]struct {
		include      []string
		archives     string // of mounts, with what is in them
		needed       []string
		images, lack int
	}{
		"directories": {[]string{root + "/etc", root + "/srv/a/b"}, root + ": . etc etc/conf srv srv/a srv/a/b srv/a/b/deep", []string{"vdd"}, 0, 1},
		"a mount":     {[]string{data}, data + ": . file", []string{"vdb"}, 0, 0},
		"a link":      {[]string{root + "/link"}, root + ": . link srv srv/a srv/a/b srv/a/b/deep", []string{"vdd"}, 0, 1},
		"devices":     {[]string{"/dev/vdb1", "/dev/vdb9"}, data + ": . file", []string{"vdb"}, 1, 0},
		"overlapping": {[]string{root + "/srv", root + "/srv/a/b/deep"}, root + ": . srv srv/a srv/a/b srv/a/b/deep srv/a/other", []string{"vdd"}, 0, 1},
		"missing":     {[]string{data, "/no/such/path"}, data + ": . file", []string{"vdb"}, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			l := fresh()
			p, err := NewPlan(&Config{Include: c.include}, l, nil, "")
			if err != nil {
				t.Fatal(err)
			}
			for i := range p.Archives {
				p.Archives[i].root = archive.Root{}
			}
			got := map[string]string{}
			if _, err := p.List(t.Context(), &Builder{}, func(a PlannedArchive, m *archive.Member) error {
				got[a.Mount] += " " + m.Path
				return nil
			}, nil); err != nil {
				t.Fatal(err)
			}
			var all []string
			for at, files := range got {
				words := strings.Fields(files)
				slices.Sort(words)
				all = append(all, at+": "+strings.Join(words, " "))
			}
			if strings.Join(all, "; ") != c.archives {
				t.Errorf("saved %q; want %q", all, c.archives)
			}
			if !l.DataOnly() || len(p.Images) != c.images || len(p.NotCovered) > 1 {
				t.Errorf("data only %v, images %d, not covered %q", l.DataOnly(), len(p.Images), p.NotCovered)
			}
			if n := slices.DeleteFunc(l.Needed(), func(d string) bool { return d == "" }); !slices.Equal(n, c.needed) {
				t.Errorf("Needed() = %q; want %q", n, c.needed)
			}
			if left := strings.Join(p.LeftOut, "\n"); !strings.Contains(left, "vda1 (ext4): include: only ") || !strings.Contains(left, "/odd: include") {
				t.Errorf("left out:\n%s", left)
			}
		})
	}
	if _, err := NewPlan(&Config{Include: []string{"/no/such/path"}}, fresh(), nil, ""); err == nil || !strings.Contains(err.Error(), "/no/such/path") {
		t.Errorf("NewPlan(nothing) = %v; want an error", err)
	}
	p, err := NewPlan(&Config{Include: []string{root + "/etc", "/dev/vdb1"}}, fresh(), nil, "")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{root + "/etc": true, root + "/etc/conf": true, root + "/etcetera": false, root + "/srv/a": false, data + "/file": true, "/nowhere": false} {
		if got := p.saves()(path); got != want {
			t.Errorf("saves(%q) = %v; want %v", path, got, want)
		}
	}
	if (&Plan{}).saves() != nil {
		t.Error("saves() of a plan for everything is not nil")
	}
	// A file system of fstab that is not mounted is named, unless nothing of it is wanted.
	for line, lacks := range map[string]bool{
		"/dev/vdx1 " + root + "/srv/a ext4 defaults 0 2": true, "/dev/vdx1 " + root + "/usr ext4 defaults 0 2": false, "/dev/vdx1 " + root + "/srv/a ext4 noauto 0 2": false,
		"/dev/vdd1 " + root + " ext4 defaults 0 1": false, "/dev/vdx2 none swap sw 0 0": false, "/dev/vdx1 " + root + "/srv/a/b/deep/er ext4 defaults 0 2": true,
	} {
		l := fresh()
		l.Fstab = line + "\n"
		p, err := NewPlan(&Config{Include: []string{root + "/srv/a/b"}}, l, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(strings.Join(p.NotCovered, "\n"), "and it is not mounted"); got != lacks {
			t.Errorf("with %q not covered: %q; want the file system named: %v", line, p.NotCovered, lacks)
		}
	}
	for _, bad := range []string{"etc", "/etc/", "/a/../b", ""} {
		if err := (&Config{Include: []string{bad}}).checkInclude(); err == nil || !strings.Contains(err.Error(), "include") {
			t.Errorf("checkInclude(%q) = %v; want an error", bad, err)
		}
	}
	l := twoDisks(data)
	if p, err := NewPlan(&Config{Include: []string{"/"}}, l, nil, ""); err != nil || l.DataOnly() || len(p.Archives) != 2 {
		t.Errorf("NewPlan(/) = %v, data only %v; want everything", err, l.DataOnly())
	}
}
