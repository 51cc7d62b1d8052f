package regular

import (
	"os"
	"path/filepath"
	"testing"
)

// TestTempDir: what a process has left that was killed is removed, what one uses is not, and nothing else is.
func TestTempDir(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "a[b")
	for _, n := range []string{"mkcdrec-set-1/in", "mkcdrec-other-1", "mkcdrec-target/in"} {
		if err := os.MkdirAll(filepath.Join(parent, n), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("mkcdrec-target", filepath.Join(parent, "mkcdrec-set-link")); err != nil {
		t.Fatal(err)
	}
	first, end, err := TempDir(parent, "mkcdrec-set-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(first, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	second, endSecond, err := TempDir(parent, "mkcdrec-set-")
	if err != nil {
		t.Fatal(err)
	}
	there := func(n string) bool { _, err := os.Lstat(filepath.Join(parent, n)); return err == nil }
	for n, want := range map[string]bool{"mkcdrec-set-1": false, "mkcdrec-other-1": true, "mkcdrec-target/in": true, "mkcdrec-set-link": true,
		filepath.Base(first) + "/f": true, filepath.Base(second): true} {
		if there(n) != want {
			t.Errorf("%s is there = %v; want %v", n, !want, want)
		}
	}
	end()
	endSecond()
	if there(filepath.Base(first)) || there(filepath.Base(second)) {
		t.Error("a directory is there after its end")
	}
}
