package store

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// TestPlainWeb: a set on a web server that knows no WebDAV is read, whatever the server answers
// to PROPFIND.
func TestPlainWeb(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := http.FileServer(http.Dir(dir)) // answers every method
	for name, handler := range map[string]http.HandlerFunc{
		"as GET": files.ServeHTTP,
		"405":    func(w http.ResponseWriter, r *http.Request) { only(w, r, files, http.StatusMethodNotAllowed) },
		"501":    func(w http.ResponseWriter, r *http.Request) { only(w, r, files, http.StatusNotImplemented) },
		"400":    func(w http.ResponseWriter, r *http.Request) { only(w, r, files, http.StatusBadRequest) },
	} {
		srv := httptest.NewServer(handler)
		h, err := OpenHome(t.Context(), srv.URL, Access{})
		if err != nil {
			t.Errorf("%s: OpenHome = %v", name, err)
		} else if b, err := ReadFile(h.At(t.Context(), ""), "manifest.json", 10); err != nil || string(b) != "{}" {
			t.Errorf("%s: ReadFile = %q, %v", name, b, err)
		}
		srv.Close()
	}
}

// only serves GET and HEAD.
func only(w http.ResponseWriter, r *http.Request, files http.Handler, code int) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "no", code)
		return
	}
	files.ServeHTTP(w, r)
}
