package store

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

// TestNames: a name of a manifest stays below its place, and is only a name; links
// of a person who put a set together are followed.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/set", 0o700), os.WriteFile(dir+"/elsewhere", []byte("elsewhere"), 0o600), os.Symlink("../elsewhere", dir+"/set/link"), os.Mkdir(dir+"/set/a%2fb", 0o700),
		os.WriteFile(dir+"/set/a%2fb/c d", []byte("below"), 0o600), os.WriteFile(dir+"/set/100%?#x;+&", []byte("odd"), 0o600), os.WriteFile(dir+"/set/%41", []byte("escape"), 0o600)); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer srv.Close()
	for _, place := range []string{dir + "/set", srv.URL + "/set", srv.URL + "/set/"} {
		s, err := New(place)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"../elsewhere", "/etc/passwd", "a/../../elsewhere", ""} {
			if b, err := ReadFile(s, name, 100); err == nil {
				t.Errorf("%s: %q is %q; want it refused", s, name, b)
			}
			if n, err := s.Size(name); err == nil {
				t.Errorf("%s: %q has %d bytes; want it refused", s, name, n)
			}
		}
		for name, want := range map[string]string{"link": "elsewhere", "100%?#x;+&": "odd", "%41": "escape", "a%2fb/c d": "below"} {
			if b, err := ReadFile(s, name, 100); string(b) != want || err != nil {
				t.Errorf("%s: %s is %q, %v", s, name, b, err)
			}
		}
	}
}

// TestDecode: unknown fields, and text behind the end, are refused with the file and the
// place.
func TestDecode(t *testing.T) {
	for text, want := range map[string]string{`{"a":1}` + "\n": "", `{"a":1,"b":2}`: "f.json, byte", `{"a":1} {}`: "text after the end", `{"a":`: "f.json, byte", "": "f.json, byte 0"} {
		var v struct{ A int }
		err := Decode("f.json", []byte(text), &v)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) || want == "" && v.A != 1 {
			t.Errorf("Decode(%q) = %v, %+v; want %q", text, err, v, want)
		}
	}
}
