package sysconf

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tree makes a tree below a directory whose name looks like a pattern, and a file
// outside of it.
func tree(t *testing.T) (Tree, string, string) {
	t.Helper()
	top := t.TempDir()
	root := filepath.Join(top, "root[1]*")
	for _, d := range []string{"etc/static", "boot/loader/entries", "usr/lib"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	outside := filepath.Join(top, "outside")
	for name, text := range map[string]string{outside: "host", filepath.Join(root, "etc/static/fstab"): "system", filepath.Join(root, "boot/loader/entries/a.conf"): "", filepath.Join(root, "boot/loader/entries/.b.conf"): ""} {
		if err := os.WriteFile(name, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return In(root), root, outside
}

// TestTreeLinks: links are followed as in a chroot, and never out of the tree.
func TestTreeLinks(t *testing.T) {
	tr, root, outside := tree(t)
	for name, to := range map[string]string{"etc/fstab": "/etc/static/fstab", "etc/up": "../../../../../etc/static/fstab", "etc/out": outside, "etc/dots": "../../outside", "lib": "usr/lib", "etc/loop": "loop", "abs": "/etc"} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"/etc/fstab": "/etc/static/fstab", "etc/up": "/etc/static/fstab", "lib/x": "/usr/lib/x", "abs/fstab": "/etc/static/fstab", "/": "/", "..": "/", "etc/..": "/", "etc/dots": "/outside"} {
		if got, err := tr.Real(name); err != nil || got != want {
			t.Errorf("Real(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
	for _, n := range []string{"etc/out", "etc/dots", "etc/loop", "none/x"} {
		if b, err := tr.Read(n); err == nil {
			t.Errorf("Read(%q) = %q", n, b)
		}
	}
	if err := tr.Write("etc/dots", []byte("x"), 0o600); err != nil { // it is /outside of the tree
		t.Error(err)
	}
	if err := tr.Write("etc/fstab", []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(outside); err != nil || string(b) != "host" {
		t.Errorf("the file outside is %q, %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(root, "outside")); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	if to, err := tr.Readlink("etc/fstab"); err != nil || to != "/etc/static/fstab" {
		t.Errorf("the link is %q, %v", to, err)
	}
	if b, err := tr.Read("etc/static/fstab"); err != nil || string(b) != "new" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestTreeWrite: owner, mode and attributes stay, and nothing is left beside the file.
func TestTreeWrite(t *testing.T) {
	tr, root, _ := tree(t)
	file := filepath.Join(root, "etc/static/fstab")
	if os.Getuid() == 0 {
		if err := os.Chown(file, 12, 34); err != nil {
			t.Fatal(err)
		}
	}
	attr := unix.Setxattr(file, "user.test", []byte("v"), 0) == nil
	old := time.Unix(1e9, 0)
	if err := os.Chtimes(file, old, old); err != nil {
		t.Fatal(err)
	}
	if err := tr.Copy("etc/static/fstab", "etc/static/fstab.before-restore"); err != nil {
		t.Fatal(err)
	}
	if err := tr.Write("etc/static/fstab", []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{file, file + ".before-restore"} {
		var st unix.Stat_t
		if err := unix.Stat(f, &st); err != nil || st.Mode&0o7777 != 0o640 || os.Getuid() == 0 && (st.Uid != 12 || st.Gid != 34) {
			t.Errorf("%s: %v %o %d:%d", f, err, st.Mode, st.Uid, st.Gid)
		}
		v := make([]byte, 9)
		if n, err := unix.Getxattr(f, "user.test", v); attr && (err != nil || string(v[:n]) != "v") {
			t.Errorf("%s: attribute %q, %v", f, v, err)
		}
	}
	if st, err := os.Stat(file + ".before-restore"); err != nil || !st.ModTime().Equal(old) {
		t.Errorf("%v %v", st, err)
	}
	if got := strings.Join(tr.List("etc/static"), " "); got != "fstab fstab.before-restore" {
		t.Error(got)
	}
	if err := unix.Mkfifo(filepath.Join(root, "etc/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Read("etc/fifo"); err == nil {
		t.Error("a fifo is read")
	}
}

// TestTreeGlob: the root's own name is not a pattern.
func TestTreeGlob(t *testing.T) {
	tr, _, _ := tree(t)
	if got := tr.Glob("boot", "loader/entries/*.conf"); !slices.Equal(got, []string{"/boot/loader/entries/a.conf"}) {
		t.Error(got)
	}
	if got := tr.Glob("/", "[Bb]oot/*/entries"); !slices.Equal(got, []string{"/boot/loader/entries"}) {
		t.Error(got)
	}
	if err := tr.MkdirAll("/a/b", 0o755); err != nil || !tr.Exists("a/b") {
		t.Error(err)
	}
	if err := tr.Symlink("b", "a/c"); err != nil {
		t.Error(err)
	}
	if err := tr.Remove("a/c"); err != nil || tr.Exists("a/c") || !tr.Exists("a/b") {
		t.Error(err)
	}
}
