package store

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBeside: the set beside another one, in a directory and on a web server; only by a name.
func TestBeside(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(dir, n), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, n, "f"), []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer srv.Close()
	t.Chdir(filepath.Join(dir, "one"))
	for _, place := range []string{dir + "/one", ".", dir + "/one/", srv.URL + "/one", srv.URL + "/one/"} {
		st, err := New(place)
		if err != nil {
			t.Fatal(err)
		}
		at, err := Beside(st, "two")
		if err != nil {
			t.Fatalf("Beside(%s) = %v", place, err)
		}
		if b, err := ReadFile(at, "f", 10); err != nil || string(b) != "two" || !strings.HasSuffix(at.String(), "/two") {
			t.Errorf("beside %s is %s with %q, %v", place, at, b, err)
		}
		for _, bad := range []string{"", ".", "..", "a/b", "../x", "/etc"} {
			if _, err := Beside(st, bad); err == nil {
				t.Errorf("Beside(%s, %q) is accepted", place, bad)
			}
		}
	}
	if _, err := Beside(alone{}, "two"); err == nil || !strings.Contains(err.Error(), "only single sets") {
		t.Errorf("Beside of another store = %v", err)
	}
}

type alone struct{ Store }

func (alone) String() string { return "alone" }
