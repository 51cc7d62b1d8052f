package blockdev

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// loop puts a loop device over a file for the test.
func loop(t *testing.T, file string) string {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	name, hold, err := Loop(&unix.LoopConfig{Fd: uint32(f.Fd()), Size: 512})
	if err != nil {
		t.Skip("no loop devices here: ", err)
	}
	t.Cleanup(func() {
		if _, err := unix.IoctlRetInt(int(hold.Fd()), unix.LOOP_CLR_FD); err != nil {
			t.Error(err)
		}
		hold.Close()
	})
	return "/dev/" + name
}

func sum(t *testing.T, file string) [32]byte {
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
	return [32]byte(h.Sum(nil))
}

// crashed is the image of a file system as a crash leaves it: with a log to be replayed.
func crashed(t *testing.T, typ string, mkfs ...string) string {
	t.Helper()
	if _, err := exec.LookPath(mkfs[0]); err != nil || os.Getuid() != 0 {
		t.Skipf("%s is not installed, or this is not root; make test has both", mkfs[0])
	}
	dir := t.TempDir()
	file, after, mnt := filepath.Join(dir, "image"), filepath.Join(dir, "after"), filepath.Join(dir, "mnt")
	if err := errors.Join(os.Mkdir(mnt, 0o700), os.WriteFile(file, nil, 0o600), os.Truncate(file, 320<<20)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], file)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", mkfs, err, out)
	}
	dev := loop(t, file)
	if err := unix.Mount(dev, mnt, typ, 0, ""); err != nil {
		t.Skipf("%s can't be mounted here: %v", typ, err)
	}
	defer unix.Unmount(mnt, 0)
	// Committed, then changed in the log alone.
	if err := os.WriteFile(mnt+"/old", []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Removed while it is open: an orphan, which a mount removes from the disk.
	o, err := os.Create(mnt + "/orphan")
	if err == nil {
		defer o.Close()
		_, err = o.Write(make([]byte, 1<<20))
		err = errors.Join(err, o.Sync(), os.Remove(mnt+"/orphan"))
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Sync()
	f, err := os.Create(mnt + "/new")
	if err == nil {
		_, err = f.WriteString("only in the log")
		err = errors.Join(err, f.Sync(), os.Remove(mnt+"/old"), f.Sync(), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "--sparse=always", file, after).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	return after
}

// TestMountReadOnly: a file system with a log to be replayed is the same to the bit after
// it was mounted; an ordinary read-only mount changes it, which shows that there was one.
func TestMountReadOnly(t *testing.T) {
	for typ, mkfs := range map[string][]string{"ext4": {"mkfs.ext4", "-q"}, "xfs": {"mkfs.xfs", "-q"}, "btrfs": {"mkfs.btrfs", "-q"}} {
		t.Run(typ, func(t *testing.T) {
			file := crashed(t, typ, mkfs...)
			before := sum(t, file)
			dev, mnt := loop(t, file), t.TempDir()
			if typ == "btrfs" { // one of its UUID at a time
				if c, err := os.OpenFile("/dev/btrfs-control", os.O_RDWR, 0); err == nil {
					_ = unix.IoctlSetInt(int(c.Fd()), 0x90009405, 0) // BTRFS_IOC_FORGET_DEV: all that are not mounted
					c.Close()
				}
			}
			if err := MountReadOnly(dev, typ, mnt); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(mnt); err != nil {
				t.Error(err)
			}
			if err := unix.Unmount(mnt, 0); err != nil {
				t.Fatal(err)
			}
			unix.Sync()
			if sum(t, file) != before {
				t.Error("the device was written to")
			}
			data := ""
			if typ == "xfs" {
				data = "nouuid"
			}
			if err := unix.Mount(dev, mnt, typ, unix.MS_RDONLY, data); err != nil {
				t.Fatal(err)
			}
			if err := unix.Unmount(mnt, 0); err != nil {
				t.Fatal(err)
			}
			unix.Sync()
			if sum(t, file) == before {
				t.Error("there was no log to be replayed: the test shows nothing")
			}
		})
	}
}

// TestReadOnlyLoop: what is over a device fails every write, and goes away when closed.
func TestReadOnlyLoop(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 1<<20)); err != nil {
		t.Fatal(err)
	}
	name, hold, err := ReadOnlyLoop(loop(t, file))
	if err != nil {
		t.Fatal(err)
	}
	if f, err := os.OpenFile("/dev/"+name, os.O_RDWR, 0); err == nil {
		if _, err = f.WriteAt([]byte("x"), 0); err == nil {
			err = f.Sync()
		}
		if f.Close(); err == nil {
			t.Error("it can be written to")
		}
	}
	if b, err := os.ReadFile("/sys/block/" + name + "/ro"); err != nil || b[0] != '1' {
		t.Errorf("ro is %q, %v", b, err)
	}
	hold.Close()
	for range 50 {
		if _, err := os.Stat("/sys/block/" + name + "/loop"); err != nil {
			return
		}
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e8}, nil)
	}
	t.Errorf("%s is still there", name)
}
