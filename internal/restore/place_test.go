package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/storage"
)

// pair makes a set with an archive of each tree.
func pair(t *testing.T, trees map[string]string) *manifest.Set {
	t.Helper()
	return pairOf(t, &layout.Layout{}, trees)
}

// pairOf is pair for a machine that has this layout.
func pairOf(t *testing.T, l *layout.Layout, trees map[string]string) *manifest.Set {
	t.Helper()
	dir := setOfLayout(t, l, "web")
	set, err := manifest.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := set.Manifest
	set.Close()
	if err := os.Remove(filepath.Join(dir, manifest.File)); err != nil {
		t.Fatal(err)
	}
	for mount, tree := range trees {
		name := fmt.Sprintf("vda%d._x.tar.zst", len(m.Archives)+1)
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		root, err := os.Open(tree)
		if err != nil {
			t.Fatal(err)
		}
		sum, err := archive.Create(context.Background(), f, root, archive.CreateOptions{})
		if err = errors.Join(err, f.Close(), root.Close()); err != nil {
			t.Fatal(err)
		}
		hex := fmt.Sprintf("%x", sum.SHA256)
		m.Files = append(m.Files, manifest.FileSum{Name: name, Size: quantity.Size(sum.Packed), SHA256: hex})
		m.Archives = append(m.Archives, manifest.Archive{File: name, Device: "vda1", Type: "ext4", Mount: mount, Size: quantity.Size(sum.Packed), Members: sum.Members, SHA256: hex})
	}
	if err := m.Write(dir); err != nil {
		t.Fatal(err)
	}
	if set, err = manifest.Open(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { set.Close() })
	return set
}

// The link that the root's archive has where /home is mounted leads the archive of /home
// nowhere: not when the mount point is made, and not when it is unpacked.
func TestHostilePair(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("archives are restored by root")
	}
	top, root, home := t.TempDir(), t.TempDir(), t.TempDir()
	target, outside := filepath.Join(top, "mnt", "target"), filepath.Join(top, "outside")
	if err := errors.Join(os.MkdirAll(target, 0o755), os.Mkdir(outside, 0o700), os.Symlink("../../outside", root+"/home"), os.WriteFile(home+"/escaped", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	r := &Restorer{Screen: &notes{}, opt: Options{Target: target}, content: setContent{pair(t, map[string]string{"/": root, "/home": home})}, plan: &plan.Plan{Layout: &layout.Layout{}}}
	step := func(mount string) *plan.MountFS {
		return &plan.MountFS{Device: "vda1", Mount: &layout.Mount{Path: mount}, FS: &layout.Filesystem{Device: "vda1"}}
	}
	if _, err := r.unpack(context.Background(), step("/"), place{dest: target}); err != nil {
		t.Fatal(err)
	}
	if l, err := os.Readlink(target + "/home"); err != nil || l != "../../outside" {
		t.Fatalf("the hostile link is not there: %s %v", l, err)
	}
	rec := &storage.Tree{Target: target}
	if at, err := rec.Place(step("/home")); err == nil {
		t.Errorf("/home would be mounted on %s", at)
	}
	in, err := r.placeOf(step("/home"), target+"/home")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.unpack(context.Background(), step("/home"), in); err == nil || !strings.Contains(err.Error(), "refused to go through home") {
		t.Errorf("unpack of /home = %v", err)
	}
	if err := in.isMounted(kernel.Linux{}, step("/home")); err == nil {
		t.Error("a link counts as the mounted file system")
	}
	r.locks = []lockedPlace{{in, "/home", []archive.Lock{{Path: "escaped"}}}}
	if err := r.lock(); err == nil {
		t.Error("locks are set through the link")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside: %v %v", left, err)
	}
	for _, at := range []string{outside, "/", target + "/../x"} {
		if in, err := r.placeOf(step("/home"), at); err == nil {
			t.Errorf("%s is the place %v", at, in)
		}
	}
}

// Content goes to the file system of its step only: not into the directory below it, and
// not onto another device.
func TestIsMounted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	target := t.TempDir()
	img := filepath.Join(t.TempDir(), "img")
	if err := errors.Join(os.Mkdir(target+"/home", 0o755), os.WriteFile(img, nil, 0o600), os.Truncate(img, 4<<20)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", img).CombinedOutput(); err != nil {
		t.Skipf("mkfs.ext4: %v %s", err, out)
	}
	out, err := exec.Command("losetup", "-f", "--show", img).Output()
	if err != nil {
		t.Skipf("losetup: %v", err)
	}
	dev := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "-d", dev).Run()
	in := place{target, "home"}
	step := &plan.MountFS{Device: strings.TrimPrefix(dev, "/dev/"), Mount: &layout.Mount{Path: "/home"}}
	if err := in.isMounted(kernel.Linux{}, step); err == nil || !strings.Contains(err.Error(), "nothing is mounted") {
		t.Errorf("of a directory: %v", err)
	}
	if err := unix.Mount(dev, target+"/home", "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(target+"/home", 0)
	if err := in.isMounted(kernel.Linux{}, step); err != nil {
		t.Error(err)
	}
	step.Device = "null"
	if err := in.isMounted(kernel.Linux{}, step); err == nil {
		t.Error("another device is taken for it")
	}
}
