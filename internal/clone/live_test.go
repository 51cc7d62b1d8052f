package clone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == GuardWord {
		if err := Guard(os.Args[2], os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// mounted makes a file system on a loop device, mounts it, and gives the device's name and
// the directory.
func mounted(t *testing.T, size string, mkfs ...string) (dev, at string) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "source")
	run(t, "truncate", "-s", size, image)
	run(t, append(mkfs, image)...)
	out, err := exec.Command("losetup", "-f", "--show", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	loop, dir := strings.TrimSpace(string(out)), t.TempDir()
	t.Cleanup(func() { run(t, "losetup", "-d", loop) })
	run(t, "mount", loop, dir)
	t.Cleanup(func() { run(t, "umount", dir) })
	return strings.TrimPrefix(loop, "/dev/"), dir
}

// busy writes to a directory until the test ends; pause stops that.
func busy(t *testing.T, dir string) {
	t.Helper()
	stop, done := make(chan bool), make(chan bool)
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			_ = os.WriteFile(filepath.Join(dir, fmt.Sprint("new", n%50)), bytes.Repeat([]byte{byte(n)}, 20000), 0o600)
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
}

// TestLive clones file systems that are mounted and written to.
func TestLive(t *testing.T) {
	needsLoops(t)
	ext := []string{"mke2fs", "-q", "-t", "ext4"}
	xfs := []string{"mkfs.xfs", "-q"}
	for name, c := range map[string]struct {
		mkfs   []string
		o      Options
		before func(t *testing.T, dir string)
		says   []string
		check  func(t *testing.T, dir string)
	}{
		"ext4, frozen": {mkfs: ext, o: Options{Identity: Keep, Freeze: true}, says: []string{"is frozen while it is copied", "step: copy the used blocks of loop"}},
		"xfs, frozen":  {mkfs: xfs, o: Options{Identity: Keep, Freeze: true}, says: []string{"is frozen while it is copied", "step: copy the used blocks of loop"}},
		"ext4, as it is": {mkfs: ext, o: Options{Identity: Keep},
			says: []string{"is copied as files: it is in use; they are read while it is in use"}},
		"ext4, frozen but with another UUID": {mkfs: ext, o: Options{Identity: New, Freeze: true},
			says: []string{"is copied as files: it gets a new UUID; they are read while it is in use"}},
		"btrfs": {mkfs: []string{"mkfs.btrfs", "-q"}, o: Options{Identity: New}, says: []string{"they are read from a snapshot of its subvolumes"},
			before: func(t *testing.T, dir string) {
				for _, s := range []string{"sub", "sub/inner", "a=b", "gone"} {
					run(t, "btrfs", "-q", "subvolume", "create", filepath.Join(dir, s))
					if err := os.WriteFile(filepath.Join(dir, s, "file"), data, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			},
			check: func(t *testing.T, dir string) {
				for _, s := range []string{"sub", "sub/inner", "a=b"} {
					var st unix.Stat_t
					b, err := os.ReadFile(filepath.Join(dir, s, "file"))
					if err != nil || !bytes.Equal(b, data) || unix.Stat(filepath.Join(dir, s), &st) != nil || st.Ino != 256 {
						t.Errorf("subvolume %s: file of %d bytes, %v, inode %d; want %d, nil, 256", s, len(b), err, st.Ino, len(data))
					}
				}
			}},
	} {
		t.Run(name, func(t *testing.T) {
			dev, dir := mounted(t, "400M", c.mkfs...)
			if err := os.WriteFile(filepath.Join(dir, "file"), data, 0o600); err != nil {
				t.Fatal(err)
			}
			if c.before != nil {
				c.before(t, dir)
			}
			busy(t, dir)
			s := &recorder{}
			dst := filepath.Join(t.TempDir(), "dst")
			c.o.Source, c.o.Target, c.o.Live = []string{dev}, []string{dst}, true
			rep, err := Run(context.Background(), tool.Exec{}, s, c.o)
			if err != nil && exit.Code(err) != exit.Partial {
				t.Fatalf("Run() = %v\n%s", err, s.text.String())
			}
			for _, w := range c.says {
				if !strings.Contains(s.text.String(), w) {
					t.Errorf("no %q in\n%s", w, s.text.String())
				}
			}
			for _, p := range append(rep.NotCovered, fmt.Sprint(rep.Problems)) {
				if strings.Contains(p, "/file") || strings.Contains(p, "not supported") || strings.Contains(p, "mounted") {
					t.Errorf("not covered: %s", p)
				}
			}
			copied := t.TempDir()
			run(t, "mount", "-o", "loop,ro"+map[bool]string{true: ",nouuid"}[c.mkfs[0] == "mkfs.xfs"], dst, copied)
			defer func() { run(t, "umount", copied) }()
			if b, err := os.ReadFile(filepath.Join(copied, "file")); err != nil || !bytes.Equal(b, data) {
				t.Errorf("the copy's file has %d bytes, %v; want %d", len(b), err, len(data))
			}
			if c.check != nil {
				c.check(t, copied)
			}
			if left, err := filepath.Glob(filepath.Join(dir, ".mkcdrec*")); err != nil || len(left) > 0 {
				t.Errorf("left on the source: %v, %v", left, err)
			}
			// It is not frozen any more.
			d, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if err := unix.IoctlSetInt(int(d.Fd()), fiThaw, 0); !errors.Is(err, unix.EINVAL) {
				t.Errorf("FITHAW = %v; want EINVAL, it is not frozen", err)
			}
		})
	}
}

// TestLiveFscks: a copy of a file system that was frozen has no errors.
func TestLiveFscks(t *testing.T) {
	needsLoops(t)
	dev, dir := mounted(t, "200M", "mke2fs", "-q", "-t", "ext4")
	if err := os.WriteFile(filepath.Join(dir, "file"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	busy(t, dir)
	dst := filepath.Join(t.TempDir(), "dst")
	if _, err := Run(context.Background(), tool.Exec{}, &recorder{}, Options{Source: []string{dev}, Target: []string{dst}, Identity: Keep, Live: true, Freeze: true}); err != nil {
		t.Fatal(err)
	}
	checkExt4(t, dst)
}

// TestLiveRefused: a btrfs with the same UUID can't be used beside its source.
func TestLiveRefused(t *testing.T) {
	needsLoops(t)
	dev, _ := mounted(t, "400M", "mkfs.btrfs", "-q")
	for o, want := range map[*Options]string{
		{Identity: Keep, Live: true, Freeze: true}: "use --identity new",
		{Identity: Keep}: "cannot be cloned while it is in use",
	} {
		dst := filepath.Join(t.TempDir(), "dst")
		o.Source, o.Target = []string{dev}, []string{dst}
		_, err := Run(context.Background(), tool.Exec{}, &recorder{}, *o)
		if !errors.As(err, new(*exit.Refusal)) || !strings.Contains(err.Error(), want) {
			t.Errorf("Run(%+v) = %v; want a refusal with %q", *o, err, want)
		}
		if _, err := os.Stat(dst); err == nil {
			t.Error("the target is there")
		}
	}
}

// TestGuard: a file system is thawed when the process that copies it is killed.
func TestGuard(t *testing.T) {
	needsLoops(t)
	for name, killed := range map[string]bool{"killed": true, "ended": false} {
		t.Run(name, func(t *testing.T) {
			_, dir := mounted(t, "64M", "mke2fs", "-q", "-t", "ext4")
			d, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			g, err := startGuard(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.IoctlSetInt(int(d.Fd()), fiFreeze, 0); err != nil {
				t.Fatal(err)
			}
			g.beat()
			if killed {
				g.pipe.Close()
				_ = g.cmd.Wait()
			} else {
				g.end()
			}
			err = unix.IoctlSetInt(int(d.Fd()), fiThaw, 0)
			if thawed := errors.Is(err, unix.EINVAL); thawed != killed {
				t.Errorf("after the guard, FITHAW = %v; thawed by the guard: %v, want %v", err, thawed, killed)
			}
		})
	}
}
