// Package btrfstest mounts new btrfs, and others, for tests.
package btrfstest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Run runs a program of which nothing may fail.
func Run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// Loop gives a loop device of a size in bytes; the test is skipped without one.
func Loop(t *testing.T, size int64) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, size); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "-f", "--show", img).CombinedOutput()
	if err != nil {
		t.Skipf("no loop devices here: %s", out)
	}
	d := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "-d", d).Run() })
	return d
}

// Mount makes a btrfs over n loop devices, with options of mkfs.btrfs, and
// gives the directory that it is mounted on.
func Mount(t *testing.T, n int, args ...string) string {
	t.Helper()
	needs(t, "btrfs")
	var devs []string
	for range n {
		devs = append(devs, Loop(t, 256<<20))
	}
	Run(t, append(append([]string{"mkfs.btrfs", "-q", "-f"}, args...), devs...)...)
	dir := filepath.Join(t.TempDir(), fmt.Sprint("btrfs", n))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(devs[0], dir, "btrfs", 0, "device="+strings.Join(devs, ",device=")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// MountOther makes a file system of another type on a loop device of a size in
// bytes, and gives that and the directory that it is mounted on.
func MountOther(t *testing.T, typ string, size int64) (dev, dir string) {
	t.Helper()
	needs(t, typ)
	dev, dir = Loop(t, size), t.TempDir()
	Run(t, "mkfs."+typ, "-q", dev)
	if err := unix.Mount(dev, dir, typ, 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dev, dir
}

// needs skips the test where the kernel has no such file system.
func needs(t *testing.T, typ string) {
	t.Helper()
	if b, err := os.ReadFile("/proc/filesystems"); os.Getuid() != 0 || err != nil || !strings.Contains(string(b), "\t"+typ+"\n") {
		t.Skip("wants root and a kernel with " + typ + "; CI has both")
	}
}
