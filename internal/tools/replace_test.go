package tools

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReplace: the new file has the owner, mode and attributes of the old one, which keeps its
// content when something fails, and nothing else is left in the directory.
func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := errors.Join(os.WriteFile(path, []byte("old"), 0o600), os.Chmod(path, 0o2751)); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Chown(path, 7, 8), os.Chmod(path, 0o2751)); err != nil {
			t.Fatal(err)
		}
	}
	labelled := unix.Setxattr(path, "user.label", []byte("kept"), 0) == nil
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(name, content string) {
		t.Helper()
		b, err := os.ReadFile(name)
		st, err2 := os.Stat(name)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		a, c := before.Sys().(*syscall.Stat_t), st.Sys().(*syscall.Stat_t)
		if string(b) != content || a.Mode != c.Mode || a.Uid != c.Uid || a.Gid != c.Gid {
			t.Errorf("%s: %q %o %d:%d; want %q %o %d:%d", name, b, c.Mode, c.Uid, c.Gid, content, a.Mode, a.Uid, a.Gid)
		}
		if v, err := Xattr(name, "user.label", false); labelled && (err != nil || string(v) != "kept") {
			t.Errorf("%s: attribute %q, %v; want kept", name, v, err)
		}
	}
	replace := func(content, backup string, commit bool) error {
		r, err := Replace(path)
		if err != nil {
			return err
		}
		defer r.Discard()
		if _, err := r.WriteString(content); err != nil || !commit {
			return err
		}
		return r.Commit(backup)
	}
	if err := replace("cut off", "", false); err != nil {
		t.Fatal(err)
	}
	check(path, "old")
	if err := replace("new", "", true); err != nil {
		t.Fatal(err)
	}
	check(path, "new")
	if err := replace("third", path+"~", true); err != nil {
		t.Fatal(err)
	}
	check(path, "third")
	check(path+"~", "new")
	if err := replace("fourth", filepath.Dir(path)+"/no/backup", true); err == nil {
		t.Error("a backup that cannot be made is no error")
	}
	check(path, "third")
	es, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(es) != 2 {
		t.Errorf("left: %v, %v; want the file and its backup", es, err)
	}
	if _, err := Replace(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Replace of a missing file: %v", err)
	}
}
