package manifest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// many makes a set of several archives, by mount point.
func many(t *testing.T, trees map[string]string) *Set {
	t.Helper()
	dir := setOf(t, trees["/"])
	m, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	man := m.Manifest
	m.Close()
	if err := os.Remove(filepath.Join(dir, "manifest.json")); err != nil {
		t.Fatal(err)
	}
	for i, mount := range []string{"/home", "/srv/da[t]a"} {
		if trees[mount] == "" {
			continue
		}
		name := fmt.Sprintf("vdb%d._x.tar.zst", i)
		root, err := os.Open(trees[mount])
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		sum, err := archive.Create(context.Background(), f, root, archive.CreateOptions{})
		if err = errors.Join(err, f.Close(), root.Close()); err != nil {
			t.Fatal(err)
		}
		hex := fmt.Sprintf("%x", sum.SHA256)
		man.Files = append(man.Files, FileSum{name, quantity.Size(sum.Packed), hex})
		man.Archives = append(man.Archives, Archive{File: name, Device: "vdb1", Type: "ext4", Mount: mount, Size: quantity.Size(sum.Packed), Members: sum.Members, SHA256: hex})
	}
	if err := man.Write(dir); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func file(t *testing.T, name, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// TestExtractLeavesNothing: links that one archive makes lead another one nowhere.
func TestExtractLeavesNothing(t *testing.T) {
	root, home, outside := t.TempDir(), t.TempDir(), t.TempDir()
	if err := errors.Join(os.Symlink(outside, root+"/home"), os.Chmod(outside, 0o700)); err != nil {
		t.Fatal(err)
	}
	file(t, home+"/escaped", "x")
	s := many(t, map[string]string{"/": root, "/home": home})
	_, _, err := s.ExtractPaths(context.Background(), nil, t.TempDir(), archive.ExtractOptions{NoOwner: os.Geteuid() != 0}, progress.None{})
	if err == nil || !strings.Contains(err.Error(), "refused to go through home") {
		t.Errorf("ExtractPaths = %v", err)
	}
	if _, err := os.Stat(outside + "/escaped"); err == nil {
		t.Error("a file was written outside")
	}
}

// TestExtractMissing: what is not in the set is named, beside what is.
func TestExtractMissing(t *testing.T) {
	root := t.TempDir()
	file(t, root+"/etc/passwd", "x")
	s := many(t, map[string]string{"/": root})
	opt := archive.ExtractOptions{NoOwner: os.Geteuid() != 0}
	n, lost, err := s.ExtractPaths(context.Background(), []string{"/etc/passwd", "/nonexistent", "/etc/pass"}, t.TempDir(), opt, progress.None{})
	if err != nil || n != 1 || fmt.Sprint(lost) != "[/nonexistent: not in the set /etc/pass: not in the set]" {
		t.Errorf("%d members, lost %q, %v", n, lost, err)
	}
	// The directory is made, but not for nothing.
	for path, made := range map[string]bool{"/etc/passwd": true, "/nonexistent": false} {
		dir := t.TempDir() + "/a/b"
		_, _, err := s.ExtractPaths(context.Background(), []string{path}, dir, opt, progress.None{})
		if _, there := os.Stat(dir); (err == nil) != made || (there == nil) != made {
			t.Errorf("%s into a new directory: %v, made: %v", path, err, there == nil)
		}
	}
	if _, _, err := s.ExtractPaths(context.Background(), []string{"/nonexistent"}, t.TempDir(), opt, progress.None{}); err == nil {
		t.Error("nothing was found, and there is no error")
	}
}

// TestExtractParents: the directories above are what they were, in whichever archive
// they are; the directory that was named is not changed. Brackets are no pattern.
func TestExtractParents(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	root, data := t.TempDir(), t.TempDir()
	file(t, root+"/etc/ssl/key", "x")
	file(t, root+"/srv/da[t]a/hidden", "x")
	file(t, data+"/deep/file", "content")
	old := time.Unix(1234567890, 0)
	for n, mode := range map[string]os.FileMode{root + "/etc/ssl": 0o710, root + "/srv": 0o751, data + "/deep": 0o700, data: 0o711, root: 0o555, root + "/srv/da[t]a": 0o500} {
		if err := errors.Join(os.Chmod(n, mode), os.Chtimes(n, old, old)); err != nil {
			t.Fatal(err)
		}
	}
	s := many(t, map[string]string{"/": root, "/srv/da[t]a": data})
	dst := t.TempDir()
	if err := os.Chmod(dst, 0o770|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(dst)
	if err != nil {
		t.Fatal(err)
	}
	opt := archive.ExtractOptions{NoOwner: os.Geteuid() != 0}
	n, lost, err := s.ExtractPaths(context.Background(), []string{"/srv/da[t]a/deep/file", "/etc/ssl/key"}, dst, opt, progress.None{})
	if err != nil || n != 2 || len(lost) > 0 {
		t.Fatalf("%d members, lost %q, %v", n, lost, err)
	}
	for n, mode := range map[string]os.FileMode{"etc/ssl": 0o710, "srv": 0o751, "srv/da[t]a": 0o711, "srv/da[t]a/deep": 0o700, "etc": 0o755} {
		st, err := os.Stat(filepath.Join(dst, n))
		if err != nil || st.Mode() != os.ModeDir|mode || n != "etc" && !st.ModTime().Equal(old) {
			t.Errorf("%s: %v %v, %v; want %v", n, st.Mode(), st.ModTime(), err, mode)
		}
	}
	if _, err := os.Stat(dst + "/srv/da[t]a/hidden"); err == nil {
		t.Error("what was not asked for is there")
	}
	// All of it: still not the directory that was named.
	if _, lost, err := s.ExtractPaths(context.Background(), nil, dst, opt, progress.None{}); err != nil || len(lost) > 0 {
		t.Fatal(lost, err)
	}
	after, err := os.Stat(dst)
	if err != nil || after.Mode() != before.Mode() {
		t.Errorf("the directory named with -C has mode %v, had %v", after.Mode(), before.Mode())
	}
	if st, err := os.Stat(dst + "/srv/da[t]a"); err != nil || st.Mode().Perm() != 0o711 {
		t.Errorf("the mount point: %v %v", st.Mode(), err)
	}
	// What is hidden beneath the mount point is there, too.
	if b, err := os.ReadFile(dst + "/srv/da[t]a/hidden"); err != nil || string(b) != "x" {
		t.Errorf("%q %v", b, err)
	}
}
