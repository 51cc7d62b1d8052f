package regular

import (
	"errors"
	"net"
	"os"
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
