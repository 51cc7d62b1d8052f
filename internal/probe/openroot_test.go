package probe

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/btrfs/btrfstest"
	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// What is not to be seen at any path is read through the root that OpenRoot gives, and
// can't be written to; a file system that is not mounted is refused, unchanged.
func TestOpenRoot(t *testing.T) {
	for typ, size := range map[string]int64{"ext4": 16 << 20, "xfs": 300 << 20, "btrfs": 120 << 20} {
		for _, ro := range []bool{false, true} {
			dev, dir := btrfstest.MountOther(t, typ, size)
			sub := filepath.Join(dir, "sub")
			if typ == "btrfs" {
				if err := btrfs.Create(sub); err != nil {
					t.Fatal(err)
				}
			} else if err := os.Mkdir(sub, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.WriteFile(dir+"/hidden", []byte("data"), 0o600), os.WriteFile(sub+"/seen", nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			if ro {
				if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
					t.Fatal(err)
				}
			}
			at := t.TempDir()
			if err := errors.Join(unix.Mount(sub, at, "", unix.MS_BIND, ""), unix.Unmount(dir, 0)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
			f := &layout.Filesystem{Device: strings.TrimPrefix(dev, "/dev/"), Type: typ}
			for name, open := range map[string]func() (*os.File, error){"fsopen": func() (*os.File, error) { return Machine{}.OpenRoot(f) }, "mount": func() (*os.File, error) { return inNamespace(dev, typ, ro) }} {
				root, err := open()
				if err != nil {
					t.Errorf("%s, read-only %v, %s: %v", typ, ro, name, err)
					continue
				}
				fd, err := unix.Openat(int(root.Fd()), "hidden", unix.O_RDONLY, 0)
				b := make([]byte, 4)
				if err == nil {
					_, err = unix.Read(fd, b)
					unix.Close(fd)
				}
				if err != nil || string(b) != "data" {
					t.Errorf("%s, %s: %q %v", typ, name, b, err)
				}
				if err := unix.Mkdirat(int(root.Fd()), "new", 0o755); !errors.Is(err, unix.EROFS) {
					t.Errorf("%s, %s: something was written: %v", typ, name, err)
				}
				if text, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Count(string(text), dev+" ") != 1 {
					t.Errorf("%s, %s: the mount is to be seen", typ, name)
				}
				root.Close()
			}
			if !(Machine{}).superblockInUse(typ, f.Device) {
				t.Errorf("%s is not seen as in use", typ)
			}
			if err := unix.Unmount(at, 0); err != nil {
				t.Fatal(err)
			}
			for n := 0; (Machine{}).superblockInUse(typ, f.Device) && n < 6000; n++ {
				time.Sleep(10 * time.Millisecond) // the thread of inNamespace may not have ended yet
			}
			// What is mounted nowhere any more is written a moment later; then nobody has the device.
			for n := 0; n < 6000; n++ {
				fd, err := unix.Open(dev, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
				if err == nil {
					unix.Close(fd)
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			before := sum(t, dev)
			if _, err := (Machine{}).OpenRoot(f); err == nil || !strings.Contains(err.Error(), "not mounted any more") {
				t.Errorf("%s that is not mounted: %v", typ, err)
			}
			if (Machine{}).superblockInUse(typ, f.Device) {
				t.Errorf("%s is seen as in use", typ)
			}
			if sum(t, dev) != before {
				t.Errorf("%s was written to", typ)
			}
		}
	}
}

func sum(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return string(h.Sum(nil))
}
