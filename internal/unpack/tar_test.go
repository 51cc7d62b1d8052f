package unpack

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTar: files are unpacked below the directory, again over those of before, and nothing
// else is made; a name that leads out of it is an error.
func TestTar(t *testing.T) {
	pack := func(headers ...tar.Header) *bytes.Buffer {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			text := ""
			if h.Typeflag == tar.TypeReg {
				text = "in " + h.Name
			}
			h.Size, h.Mode = int64(len(text)), 0o777
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return &b
	}
	above := t.TempDir()
	dir := filepath.Join(above, "dir")
	for range 2 {
		if err := Tar(pack(tar.Header{Name: "a", Typeflag: tar.TypeReg}, tar.Header{Name: "link", Linkname: "/etc", Typeflag: tar.TypeSymlink}, tar.Header{Name: "sub/b", Typeflag: tar.TypeReg}), Into(dir)); err != nil {
			t.Fatalf("Tar = %v", err)
		}
	}
	for _, n := range []string{"a", "sub/b"} {
		b, err := os.ReadFile(filepath.Join(dir, n))
		st, e := os.Stat(filepath.Join(dir, n))
		if err != nil || e != nil || string(b) != "in "+n || st.Mode() != 0o600 {
			t.Errorf("%s = %q, %v, %v; want what is in it, mode 0600", n, b, st, err)
		}
	}
	if _, err := os.Lstat(dir + "/link"); err == nil {
		t.Error("a link was made")
	}
	for _, n := range []string{"../out", "/out", "sub/../../out"} {
		if err := Tar(pack(tar.Header{Name: n, Typeflag: tar.TypeReg}), Into(dir)); err == nil || !strings.Contains(err.Error(), "leads out") {
			t.Errorf("Tar with %s = %v; want an error", n, err)
		}
	}
	if all, err := os.ReadDir(above); err != nil || len(all) != 1 {
		t.Errorf("beside the directory: %v, %v; want nothing", all, err)
	}
	b := pack(tar.Header{Name: "a", Typeflag: tar.TypeReg})
	b.Truncate(514)
	if err := Tar(b, Into(dir)); err == nil {
		t.Error("Tar of what is cut off = nil; want an error")
	}
}
