package regular

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKinds: what is not a regular file is refused at once, with its kind.
func TestKinds(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", dir+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(os.WriteFile(dir+"/file", []byte("text"), 0o600), os.Symlink("fifo", dir+"/link"), os.Symlink("file", dir+"/good")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{dir + "/fifo": "it is a fifo", dir + "/link": "it is a fifo", dir: "it is a directory", "/dev/zero": "it is a character device"} {
		if _, err := ReadFile(path, 10); !errors.Is(err, ErrNot) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v; want %s", path, err, want)
		}
	}
	if _, err := ReadFile(dir+"/socket", 10); err == nil {
		t.Error("a socket is taken")
	}
	if b, err := ReadFile(dir+"/good", 4); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := ReadFile(dir+"/file", 3); err == nil {
		t.Error("a file over the limit is taken")
	}
}

func TestBehind(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := &Behind{File: f}
	piece := bytes.Repeat([]byte("0123456789abcdef"), 5<<16)
	var want []byte
	for i := range 8 {
		if n, err := w.Write(piece[i:]); n != len(piece)-i || err != nil {
			t.Fatalf("Write(%d bytes) = %d, %v", len(piece)-i, n, err)
		}
		want = append(want, piece[i:]...)
	}
	if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file has %d bytes, %v; want the %d that were written", len(got), err, len(want))
	}
	if w.asked != 32<<20 {
		t.Errorf("after %d bytes the kernel was asked for %d; want %d", len(want), w.asked, 32<<20)
	}
}

// TestOpenTrusted: root reads nothing that others could change, but for the user of sudo.
func TestOpenTrusted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it is for root")
	}
	for _, c := range []struct {
		uid  int
		mode os.FileMode
		sudo string
		ok   bool
	}{{0, 0o644, "", true}, {0, 0o666, "", false}, {4242, 0o600, "", false}, {4242, 0o600, "4242", true}, {4242, 0o646, "4242", false}, {4242, 0o600, "7", false}, {4242, 0o600, "x", false}} {
		t.Setenv("SUDO_UID", c.sudo)
		name := filepath.Join(t.TempDir(), "f")
		if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Chown(name, c.uid, 0), os.Chmod(name, c.mode)); err != nil {
			t.Fatal(err)
		}
		f, err := OpenTrusted(name)
		if (err == nil) != c.ok {
			t.Errorf("%+v: %v; want ok = %v", c, err, c.ok)
		}
		if err == nil {
			f.Close()
		}
	}
}
