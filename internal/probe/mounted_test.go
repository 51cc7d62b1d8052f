package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/btrfs/btrfstest"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// onLoop reads what this machine has on one loop device.
func onLoop(t *testing.T, dev string) (*layout.Layout, *layout.Filesystem) {
	t.Helper()
	name := strings.TrimPrefix(dev, "/dev/")
	l, err := Machine{Run: &tool.Recorder{}, Only: []string{name}}.Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Validate(); err != nil {
		t.Fatal(err)
	}
	return l, l.On(name)
}

// A machine that SUSE installed and that was rolled back: @ is not mounted, what is
// mounted as / is a writable snapshot, there are quota groups, and containers that began
// as writable snapshots. All of it is content; the read-only snapshot is not.
func TestSUSE(t *testing.T) {
	dir := btrfstest.Mount(t, 1)
	mounts, err := Machine{}.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	loop := "/dev/" + MountOver(mounts, dir).Device
	for _, s := range []string{"@", "@/.snapshots", "@/var", "@/home", "@/boot/grub2/x86_64-efi", "@/usr/local", "@/.snapshots/1/snapshot"} {
		if err := btrfs.Create(filepath.Join(dir, s)); err != nil {
			t.Fatal(err)
		}
	}
	one, two, five := dir+"/@/.snapshots/1/snapshot", dir+"/@/.snapshots/2/snapshot", dir+"/@/.snapshots/5/snapshot"
	var errs []error
	for _, d := range []string{one + "/.snapshots", one + "/var", filepath.Dir(two), filepath.Dir(five), dir + "/@/var/lib"} {
		errs = append(errs, os.MkdirAll(d, 0o755))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	btrfstest.Run(t, "btrfs", "subvolume", "snapshot", "-r", one, two)
	btrfstest.Run(t, "btrfs", "subvolume", "snapshot", two, five)
	btrfstest.Run(t, "btrfs", "quota", "enable", dir)
	btrfstest.Run(t, "btrfs", "qgroup", "create", "1/0", dir)
	btrfstest.Run(t, "btrfs", "subvolume", "create", dir+"/@/var/lib/base")
	btrfstest.Run(t, "btrfs", "subvolume", "snapshot", dir+"/@/var/lib/base", dir+"/@/var/lib/clone")
	if err := errors.Join(btrfs.SetDefault(five), unix.Unmount(dir, 0)); err != nil {
		t.Fatal(err)
	}
	mount := func(at, sub string) {
		t.Helper()
		if err := unix.Mount(loop, at, "btrfs", 0, sub); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	}
	mount(dir, "")
	mount(dir+"/.snapshots", "subvol=@/.snapshots")
	mount(dir+"/var", "subvol=@/var")
	l, f := onLoop(t, loop)
	if f == nil {
		t.Fatalf("not recorded: %+v", l.Unsupported)
	}
	if why := told(l, f.Device); why != "" || slices.ContainsFunc(l.Unsupported, func(u layout.Unsupported) bool { return strings.HasPrefix(u.Device, f.Device) }) {
		t.Errorf("not covered: %+v", l.Unsupported)
	}
	var subs []string
	for _, s := range f.Subvolumes {
		subs = append(subs, s.Path)
	}
	if got, want := strings.Join(subs, " "), "@ @/.snapshots @/.snapshots/1/snapshot @/.snapshots/5/snapshot @/boot/grub2/x86_64-efi @/home @/usr/local @/var @/var/lib/base @/var/lib/clone"; got != want {
		t.Errorf("subvolumes\n%s; want\n%s", got, want)
	}
	if fmt.Sprint(f.Snapshots) != "[@/.snapshots/2/snapshot]" || !f.Private {
		t.Errorf("snapshots %v, private %v", f.Snapshots, f.Private)
	}
	parts := f.Parts()
	if last := parts[len(parts)-1]; last.Path != "" || fmt.Sprint(f.Inner(last)) != "[@ @/boot/grub2/x86_64-efi @/home @/usr/local]" {
		t.Errorf("parts %+v, in the top level %v", parts, f.Inner(last))
	}
	if !slices.ContainsFunc(l.LeftAlone, func(u layout.Unsupported) bool {
		return u.Device == f.Device && strings.Contains(u.Reason, "quota groups")
	}) {
		t.Errorf("quota groups are not listed: %+v", l.LeftAlone)
	}
}

// Of a common btrfs, @ and @home mounted, the top level is no part of its own; with a
// file in it it is.
func TestTopLevel(t *testing.T) {
	dir := btrfstest.Mount(t, 1)
	mounts, err := Machine{}.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	loop, at := "/dev/"+MountOver(mounts, dir).Device, t.TempDir()
	if err := errors.Join(btrfs.Create(dir+"/@"), btrfs.Create(dir+"/sub/@home"), unix.Mount(loop, at, "btrfs", 0, "subvol=@")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	home := t.TempDir()
	if err := unix.Mount(loop, home, "btrfs", 0, "subvol=sub/@home"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(home, unix.MNT_DETACH) })
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if _, f := onLoop(t, loop); f == nil || f.Private || len(f.Mounts) != 2 {
		t.Errorf("%+v", f)
	}
	if err := unix.Mount(loop, dir, "btrfs", 0, "subvolid=5"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(dir+"/sub/file", nil, 0o600), unix.Unmount(dir, 0)); err != nil {
		t.Fatal(err)
	}
	if _, f := onLoop(t, loop); f == nil || !f.Private || len(f.Mounts) != 2 {
		t.Errorf("a file in the top level is lost: %+v", f)
	}
}

// A file system of which only a directory is mounted, that another mount hides, or that
// is mounted at a path that is not text, is in use: all of it is content.
func TestPrivate(t *testing.T) {
	dev, dir := btrfstest.MountOther(t, "ext4", 16<<20)
	if _, f := onLoop(t, dev); f == nil || f.Private || len(f.Mounts) != 1 {
		t.Errorf("mounted: %+v", f)
	}
	at := t.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/sub", 0o755), unix.Mount(dir+"/sub", at, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	if _, f := onLoop(t, dev); f == nil || f.Private || len(f.Mounts) != 1 || f.Mounts[0].Path != dir {
		t.Errorf("mounted and bound: %+v", f)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if l, f := onLoop(t, dev); f == nil || !f.Private || len(f.Mounts) != 0 || f.Used == 0 || told(l, f.Device) != "" {
		t.Errorf("hidden: %+v", f)
	}
	if err := errors.Join(unix.Unmount(dir, 0), unix.Unmount(dir, 0)); err != nil {
		t.Fatal(err)
	}
	if l, f := onLoop(t, dev); f == nil || !f.Private || told(l, f.Device) != "" {
		t.Errorf("only a directory of it is mounted: %+v", f)
	}
	odd := t.TempDir() + "/a\nb"
	if err := errors.Join(unix.Unmount(at, 0), os.Mkdir(odd, 0o755), unix.Mount(dev, odd, "ext4", 0, "")); err != nil {
		t.Fatal(err)
	}
	if l, f := onLoop(t, dev); f == nil || !f.Private || len(f.Mounts) != 0 || told(l, f.Device) != "" {
		t.Errorf("at a path of two lines: %+v", f)
	}
	if err := unix.Unmount(odd, 0); err != nil {
		t.Fatal(err)
	}
	if l, f := onLoop(t, dev); f == nil || f.InUse() || !strings.Contains(told(l, f.Device), "not mounted") {
		t.Errorf("not mounted: %+v %+v", f, l.Unsupported)
	}
}

// Of several mounts on one place the last one counts.
func TestVisible(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(root+"/proc/self", 0o755); err != nil {
		t.Fatal(err)
	}
	text := strings.Join([]string{
		"1 0 0:1 / / rw - rootfs rootfs rw",
		"22 1 8:1 / / rw - ext4 /dev/sda1 rw",
		"23 22 8:2 / /mnt rw - ext4 /dev/sda2 rw",
		"24 23 8:3 / /mnt rw - ext4 /dev/sda3 rw",
		"25 22 8:4 / /a/b rw - ext4 /dev/sda4 rw",
		"26 22 0:9 / /a rw - tmpfs tmpfs rw",
		"27 26 8:5 / /a/c rw - ext4 /dev/sda5 rw",
		"28 22 8:6 / /mntx rw - ext4 /dev/sda6 rw", ""}, "\n")
	if err := os.WriteFile(root+"/proc/self/mountinfo", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	mounts, err := Machine{Root: root}.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	var hidden []string
	for _, m := range mounts {
		if m.Hidden {
			hidden = append(hidden, m.Source)
		}
	}
	if got := strings.Join(hidden, " "); got != "rootfs /dev/sda2 /dev/sda4" {
		t.Errorf("hidden: %s", got)
	}
}

// A stick or USB disk that nothing refers to is loose; one that fstab names, by its
// label, is not, nor is a disk inside. Serial numbers and labels with control characters
// do not stop a backup.
func TestLooseAndLinks(t *testing.T) {
	root := machine(t)
	for i, name := range []string{"sdb", "sdc", "sdd"} {
		img := addDisk(t, root, name, 16<<20)
		if out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-L", fmt.Sprint("disk", i), img).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	put := func(p, s string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(root+p), 0o755), os.WriteFile(root+p, []byte(s), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	put("/sys/block/sdb/removable", "1\n")
	put("/sys/block/sdb/device/serial", "a\x1b[2Jb\nc\xff\n")
	put("/sys/block/sdc/removable", "1\n")
	put("/etc/fstab", "/dev/vda1 / ext4 defaults 0 1\nLABEL=disk1 /srv ext4 nofail 0 2\n")
	for n, to := range map[string]string{"by-id/virtio-SER1-part1": "vda1", "by-path/pci-0-part1": "vda1", "by-id/dvd": "sr0", "by-id/gone": "xyz", "by-id/odd\nname": "vda1"} {
		put("/dev/disk/"+filepath.Dir(n)+"/x", "")
		if err := os.Symlink("../../"+to, root+"/dev/disk/"+n); err != nil {
			t.Fatal(err)
		}
	}
	write(t, root+"/dev/sdd", 1024+120, "\xffodd\n")
	l := readFake(t, root)
	for name, want := range map[string]bool{"sdb": true, "sdc": false, "sdd": false, "vda": false} {
		if got := l.Disk(name).Loose; got != want {
			t.Errorf("%s: loose %v", name, got)
		}
	}
	if got := l.Disk("sdb").Serial; got != `a\x1b[2Jb\nc\xff` {
		t.Errorf("serial number %q", got)
	}
	if f := l.On("sdd"); f.Label != `\xffodd\n` || f.ExactLabel() != "\xffodd\n" {
		t.Errorf("label %q, %q", f.Label, f.ExactLabel())
	}
	if got := fmt.Sprint(l.Links); got != "map[vda1:[by-id/virtio-SER1-part1 by-path/pci-0-part1]]" {
		t.Errorf("links %s", got)
	}
}
