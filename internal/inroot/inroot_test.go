package inroot

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// links of the system lead to places in it, never out of it.
func TestInRoot(t *testing.T) {
	out := t.TempDir()
	if err := os.WriteFile(out+"/secret", []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, d := range []string{"data/log", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(root+"/etc/key", []byte("inside"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"out": out, "var": "/data", "up": "../../../../data", "loop": "loop", "key": "/etc/key", "data/key": "../etc/key", "far": out + "/secret"} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ name, want string }{
		{"/", ""}, {"/var/log", "/data/log"}, {"/up/log", "/data/log"}, {"/../../etc", "/etc"}, {"/data/../etc", "/etc"}, {"/new/a/b", "/new/a/b"}, {"/var/new", "/data/new"},
	} {
		got, err := MkdirAll(root, c.name, 0o755)
		if err != nil || got != root+c.want {
			t.Errorf("MkdirAll %s = %q, %v; want %q", c.name, got, err, root+c.want)
		}
		if st, err := os.Lstat(got); err != nil || !st.IsDir() {
			t.Errorf("%s: %v", got, err)
		}
	}
	if got, err := MkdirAll(root, "/out/x", 0o755); err == nil {
		t.Errorf("a link to nothing was followed to %s", got)
	}
	if left, err := os.ReadDir(out); err != nil || len(left) != 1 {
		t.Errorf("outside of the root: %v %v", left, err)
	}
	for _, bad := range []string{"/loop/x", "/etc/key/x", "/missing"} {
		if got, err := Dir(root, bad); err == nil {
			t.Errorf("Dir %s = %s", bad, got)
		}
	}
	for _, name := range []string{"/etc/key", "/key", "/data/key", "/var/key"} {
		f, err := Open(root, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if b, err := io.ReadAll(f); string(b) != "inside" || err != nil {
			t.Errorf("%s has %q %v", name, b, err)
		}
		f.Close()
	}
	if f, err := Open(root, "/far"); err == nil {
		t.Errorf("a file outside was opened: %s", f.Name())
	}
	f, err := Create(root, "/far", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("new"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if b, err := os.ReadFile(out + "/secret"); string(b) != "outside" || err != nil {
		t.Errorf("the file outside has %q %v", b, err)
	}
	if st, err := os.Lstat(root + "/far"); err != nil || !st.Mode().IsRegular() {
		t.Errorf("what was made: %v %v", st, err)
	}
	if f, err = Create(root, "/var/log/mkcdrec/x", 0o600); err != nil || !strings.HasPrefix(f.Name(), root+"/data/log/mkcdrec") {
		t.Errorf("Create: %v %v", f, err)
	}
}
