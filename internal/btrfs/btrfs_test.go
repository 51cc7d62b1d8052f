package btrfs

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/btrfs/btrfstest"
)

// What is made is what btrfs(8) lists, and what btrfs(8) makes is what we list.
func TestSubvolumes(t *testing.T) {
	dir := btrfstest.Mount(t, 2, "-d", "raid1", "-m", "raid1")
	for _, p := range []string{"@", "@home", "@/deep/in/a directory/sub", "@/var"} {
		if err := Create(filepath.Join(dir, p)); err != nil {
			t.Fatal(err)
		}
	}
	btrfstest.Run(t, "btrfs", "subvolume", "snapshot", "-r", dir+"/@", dir+"/@/snap")
	btrfstest.Run(t, "btrfs", "subvolume", "create", dir+"/gone")
	btrfstest.Run(t, "btrfs", "subvolume", "delete", dir+"/gone")
	if err := SetReadOnly(dir + "/@/var"); err != nil {
		t.Fatal(err)
	}
	if err := SetDefault(dir + "/@"); err != nil {
		t.Fatal(err)
	}
	list, def, err := Subvolumes(dir + "/@home")
	if err != nil {
		t.Fatal(err)
	}
	var ours []string
	for _, s := range list {
		ours = append(ours, fmt.Sprintf("%d %s snapshot=%v ro=%v", s.ID, s.Path, s.Snapshot, s.ReadOnly))
	}
	var theirs []string
	re := regexp.MustCompile(`ID (\d+) gen \d+ top level \d+ parent_uuid (\S+)\s+uuid \S+ path (.*)`)
	for _, g := range re.FindAllStringSubmatch(btrfstest.Run(t, "btrfs", "subvolume", "list", "-uq", dir), -1) {
		ro := btrfstest.Run(t, "btrfs", "property", "get", filepath.Join(dir, g[3]), "ro")
		theirs = append(theirs, fmt.Sprintf("%s %s snapshot=%v ro=%s", g[1], g[3], g[2] != "-", strings.TrimPrefix(ro, "ro=")))
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	if len(ours) != 5 || !slices.Equal(ours, theirs) {
		t.Errorf("ours:\n%s\ntheirs:\n%s", strings.Join(ours, "\n"), strings.Join(theirs, "\n"))
	}
	id, err := ID(dir + "/@")
	if err != nil || id != def {
		t.Errorf("default is %d, @ is %d (%v)", def, id, err)
	}
	if out := btrfstest.Run(t, "btrfs", "subvolume", "get-default", dir); !strings.Contains(out, "path @") {
		t.Errorf("btrfs says %q", out)
	}
	if d, m, err := Profiles(dir); err != nil || d != "raid1" || m != "raid1" {
		t.Errorf("profiles %s, %s: %v", d, m, err)
	}
	if err := Create(dir + "/@"); err == nil {
		t.Error("made twice")
	}
}

// More subvolumes than one answer of the kernel has room for.
func TestMany(t *testing.T) {
	dir := btrfstest.Mount(t, 1)
	for i := range 300 {
		if err := Create(fmt.Sprintf("%s/sub/%03d", dir, i)); err != nil {
			t.Fatal(err)
		}
	}
	list, def, err := Subvolumes(dir)
	if err != nil || len(list) != 300 || list[299].Path != "sub/299" || def != TopLevel {
		t.Errorf("%d subvolumes, default %d: %v", len(list), def, err)
	}
	if d, m, err := Profiles(dir); err != nil || d != "single" || m != "dup" {
		t.Errorf("profiles %s, %s: %v", d, m, err)
	}
}

func TestNoBtrfs(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := Subvolumes(dir); err == nil {
		t.Error("a directory elsewhere has subvolumes")
	}
	if _, _, err := Profiles(dir); err == nil {
		t.Error("a directory elsewhere has profiles")
	}
}
