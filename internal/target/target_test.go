package target

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

func TestStores(t *testing.T) {
	dir := t.TempDir()
	want := bytes.Repeat([]byte("0123456789"), 300000)
	if err := os.WriteFile(filepath.Join(dir, "a b"), want, 0o600); err != nil {
		t.Fatal(err)
	}
	// Every third connection breaks off in the middle.
	var count atomic.Int64
	files := http.FileServer(http.Dir(dir))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && count.Add(1)%3 == 0 {
			w.Header().Set("Content-Length", "100")
			w.Header().Set("Content-Range", r.Header.Get("Range")[:0]+"bytes "+strings.TrimPrefix(r.Header.Get("Range"), "bytes=")+"/*")
			w.WriteHeader(http.StatusPartialContent)
			return
		}
		files.ServeHTTP(w, r)
	}))
	defer srv.Close()
	for _, place := range []string{dir, "file://" + dir, srv.URL + "/"} {
		s, err := New(place)
		if err != nil {
			t.Fatal(err)
		}
		f, err := s.Open("a b")
		if err != nil || f.Size() != int64(len(want)) {
			t.Fatalf("%s: Open = %v, %v", place, f, err)
		}
		got := make([]byte, len(want))
		for off := 0; off < len(want); off += 1 << 20 {
			n := min(1<<20, len(want)-off)
			if k, err := f.ReadAt(got[off:off+n], int64(off)); k != n || err != nil && err != io.EOF {
				t.Fatalf("%s: ReadAt(%d) = %d, %v", place, off, k, err)
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: other bytes", place)
		}
		if n, err := f.ReadAt(make([]byte, 100), int64(len(want))-10); n != 10 || err != io.EOF {
			t.Errorf("%s: ReadAt over the end = %d, %v", place, n, err)
		}
		if _, err := s.Open("nosuch"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: Open(nosuch) = %v", place, err)
		}
		if b, err := ReadFile(s, "a b", 1<<30); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s: ReadFile = %d bytes, %v", place, len(b), err)
		}
		if _, err := ReadFile(s, "a b", 10); err == nil {
			t.Errorf("%s: a file over the limit is read", place)
		}
		f.Close()
	}
	for _, bad := range []string{"ftp://x/y", "http://", "s3://b"} {
		if _, err := New(bad); err == nil {
			t.Errorf("New(%q) is accepted", bad)
		}
	}
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "4")
		if r.Method == http.MethodGet {
			_, _ = w.Write([]byte("abcd"))
		}
	}))
	defer plain.Close()
	s, err := New(plain.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(s, "x", 100); err == nil || !strings.Contains(err.Error(), "no range requests") {
		t.Errorf("a server without ranges: %v", err)
	}
}
