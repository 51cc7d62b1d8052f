package clone

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/storage"
)

// TestPutPartclone: an image that partclone made of a real file system is that file system
// again, on a device that had something else.
func TestPutPartclone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	src, img, dst := filepath.Join(dir, "src"), filepath.Join(dir, "img"), filepath.Join(dir, "dst")
	const size = 64 << 20
	if err := os.Mkdir(filepath.Join(dir, "tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tree/file"), bytes.Repeat([]byte("content "), 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{{"truncate", "-s", "64M", src}, {"mke2fs", "-q", "-t", "ext4", "-d", filepath.Join(dir, "tree"), src}, {"partclone.ext4", "-q", "-c", "-s", src, "-o", img}} {
		if _, err := exec.LookPath(c[0]); err != nil {
			t.Skipf("%s is missing", c[0])
		}
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v %s", c, err, out)
		}
	}
	put := func(size int64, damage func([]byte) []byte) (*os.File, error) {
		b, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dst, bytes.Repeat([]byte{0xa5}, int(size)), 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(dst, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f, putPartclone(bytes.NewReader(damage(b)), f, size, func(int64) progress.Counter { return progress.None{} })
	}
	same := func(b []byte) []byte { return b }
	made, err := put(size, same)
	if err != nil {
		t.Fatal(err)
	}
	compare := func() error {
		c, err := comparing(made)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		if err := putPartclone(bytes.NewReader(b), c, size, func(int64) progress.Counter { return progress.None{} }); err != nil {
			t.Fatal(err)
		}
		return c.differ()
	}
	if err := compare(); err != nil {
		t.Errorf("verified: %v", err)
	}
	was := make([]byte, 1)
	if _, err := made.ReadAt(was, 1080); err != nil { // in the superblock
		t.Fatal(err)
	}
	if _, err := made.WriteAt([]byte{^was[0]}, 1080); err != nil {
		t.Fatal(err)
	}
	if err := compare(); err == nil || !strings.Contains(err.Error(), "1 bytes differ, the first is byte 1080") {
		t.Errorf("a byte that differs: %v", err)
	}
	if _, err := made.WriteAt(was, 1080); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("e2fsck", "-fn", dst).CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
	if out, err := exec.Command("debugfs", "-R", "cat /file", dst).Output(); err != nil || !bytes.Equal(out, bytes.Repeat([]byte("content "), 1<<20)) {
		t.Errorf("the file has %d bytes, %v", len(out), err)
	}
	if _, err := put(size/2, same); err == nil || !strings.Contains(err.Error(), "the device") {
		t.Errorf("a device that is too small: %v", err)
	}
	if _, err := put(size, func(b []byte) []byte { return b[:len(b)-100] }); err == nil {
		t.Error("an image that was cut off")
	}
	if _, err := put(size, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }); err == nil {
		t.Error("an image with a flipped bit")
	}
}

// source is one with these file systems, each of 100 MiB on 200 MiB of a file.
func source(t *testing.T, fs ...layout.Filesystem) *Source {
	t.Helper()
	s := &Source{rep: progress.None{}, paths: map[string]string{}, System: true, layout: &layout.Layout{}}
	tab := &layout.Table{Label: layout.MBR}
	for i, f := range fs {
		f.Size = 100 << 20
		s.layout.Filesystems = append(s.layout.Filesystems, f)
		tab.Partitions = append(tab.Partitions, layout.Partition{Number: i + 1, Device: f.Device, Start: quantity.Size(i*200+1) << 20, Size: 200 << 20})
	}
	s.layout.Disks = []layout.Disk{{Name: "vda", LogicalSector: 512, Size: 4 << 30, Table: tab}}
	return s
}

// TestNotByBlocks: the reasons for which used blocks are not copied.
func TestNotByBlocks(t *testing.T) {
	ext := layout.Filesystem{Device: "vda1", Type: fstype.TypeExt4}
	for want, c := range map[string]struct {
		was, now layout.Filesystem
		size     quantity.Size
		sector   quantity.Size
		identity string
	}{
		"its type changes from ext4 to xfs": {ext, layout.Filesystem{Device: "vda1", Type: "xfs"}, 200 << 20, 512, Keep},
		"it gets a new UUID":                {layout.Filesystem{Device: "vda1", Type: "btrfs"}, layout.Filesystem{Device: "vda1", Type: "btrfs"}, 200 << 20, 512, New},
		"it gets 99.0 MiB instead of 100.0": {ext, ext, 99 << 20, 512, Keep},
		"the target has larger sectors":     {ext, ext, 200 << 20, 4096, Keep},
		"a jfs can't be grown":              {layout.Filesystem{Device: "vda1", Type: "jfs"}, layout.Filesystem{Device: "vda1", Type: "jfs"}, 200 << 20, 512, Keep},
		"it is on several devices":          {layout.Filesystem{Device: "vda1", Type: "btrfs", Others: []string{"vdb1"}}, layout.Filesystem{Device: "vda1", Type: "btrfs"}, 200 << 20, 512, Keep},
	} {
		s := source(t, c.was)
		now := *s.layout
		now.Disks = []layout.Disk{{Name: "vda", LogicalSector: c.sector, Size: 4 << 30, Table: &layout.Table{Label: layout.MBR, Partitions: []layout.Partition{{Number: 1, Device: "vda1", Start: 1 << 20, Size: c.size}}}}}
		d := &plan.Draft{Layout: &now, Disks: plan.Mapping{"vda": {Disk: layout.Disk{Name: "sdb", LogicalSector: c.sector}}}}
		why, err := s.notByBlocks(d, &c.now, &s.layout.Filesystems[0], c.identity)
		if err != nil || !strings.HasPrefix(why, want) {
			t.Errorf("%q, %v; want %q", why, err, want)
		}
	}
	// A btrfs can't be copied as files beside itself.
	s := source(t, layout.Filesystem{Device: "vda1", Type: fstype.TypeBtrfs, Others: []string{"vda2"}, Mounts: []layout.Mount{{Path: "/"}}})
	var no *exit.Refusal
	if err := s.decide(&plan.Draft{Layout: s.layout, Disks: plan.Mapping{}}, func(d string) string { return d }, Keep); !errors.As(err, &no) || !strings.Contains(err.Error(), "--identity new") {
		t.Errorf("a btrfs on two devices: %v", err)
	}
}

// TestNeedsSmaller: a file system whose blocks are as large as the target's sectors can be
// copied by blocks.
func TestNeedsSmaller(t *testing.T) {
	for _, c := range []struct {
		fs   layout.Filesystem
		want bool
	}{
		{layout.Filesystem{Type: "ext4", Geometry: fstype.Geometry{Ext: &fstype.Ext{BlockSize: 4096}}}, false},
		{layout.Filesystem{Type: "ext4", Geometry: fstype.Geometry{Ext: &fstype.Ext{BlockSize: 1024}}}, true},
		{layout.Filesystem{Type: "xfs", Geometry: fstype.Geometry{XFS: &fstype.XFS{BlockSize: 4096, SectorSize: 512}}}, true},
		{layout.Filesystem{Type: "xfs", Geometry: fstype.Geometry{XFS: &fstype.XFS{BlockSize: 4096, SectorSize: 4096}}}, false},
		{layout.Filesystem{Type: "btrfs", Geometry: fstype.Geometry{Btrfs: &fstype.Btrfs{SectorSize: 4096}}}, false},
		{layout.Filesystem{Type: "vfat", Geometry: fstype.Geometry{VFAT: &fstype.VFAT{SectorSize: 512}}}, true},
		{layout.Filesystem{Type: "vfat", Geometry: fstype.Geometry{VFAT: &fstype.VFAT{SectorSize: 4096}}}, false},
	} {
		c.fs.Device = "vda1"
		s := source(t, c.fs)
		for sector, want := range map[quantity.Size]bool{512: false, 4096: c.want} {
			d := &plan.Draft{Layout: s.layout, Disks: plan.Mapping{"vda": {Disk: layout.Disk{Name: "sdb", LogicalSector: sector}}}}
			if got := s.needsSmaller(d, &c.fs); got != want {
				t.Errorf("%s on sectors of %d bytes: %v; want %v", c.fs.Type, sector, got, want)
			}
		}
	}
}

// TestHideLVM: LVM sees the target's devices, and not the same physical volumes in the
// source's open LUKS devices and arrays.
func TestHideLVM(t *testing.T) {
	dir, err := hideLVM([]string{"vdb", "nvme0n1", "cciss!c0d0"}, []string{"luks-6d6b6364-7265", "md127"})
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	b, err := os.ReadFile(filepath.Join(dir, "lvm.conf"))
	if err != nil {
		t.Fatal(err)
	}
	rules := regexp.MustCompile(`"([ar])\|([^"]*)\|"`).FindAllStringSubmatch(strings.SplitN(string(b), "\n", 4)[2], -1)
	for dev, want := range map[string]string{
		"vdb": "a", "vdb3": "a", "nvme0n1p2": "a", "cciss/c0d0p1": "a", "mapper/secret": "a", "md0": "a", "vda": "r", "vda3": "r", "vdb3x": "r",
		"mapper/luks-6d6b6364-7265": "r", "md127": "r", "md12": "a", "mapper/mkcdrec1-x": "r", "mapper/" + storage.HiddenPrefix + "x": "r",
	} {
		i := slices.IndexFunc(rules, func(r []string) bool { return regexp.MustCompile(r[2]).MatchString("/dev/" + dev) })
		if i < 0 || rules[i][1] != want {
			t.Errorf("/dev/%s: rule %d of %v; want %s", dev, i, rules, want)
		}
	}
}

// TestHideLVMReal has LVM itself read the configuration, with loop devices in the place of arrays.
func TestHideLVMReal(t *testing.T) {
	dir, err := hideLVM([]string{"vdb"}, []string{"luks-1-2", "md1", "md127"})
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var loops []string
	for range 2 {
		f := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(f, make([]byte, 32<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		loop, hold, err := attachWritable(t, f)
		if err != nil {
			t.Skip("no loop devices here: ", err)
		}
		defer hold.Close()
		loops = append(loops, loop)
	}
	conf := filepath.Join(dir, "lvm.conf")
	b, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("md127"), []byte(loops[0])), []byte("/dev/md["), []byte("/dev/loop["))
	if err := os.WriteFile(conf, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, true} {
		c := exec.Command("lvm", "pvcreate", "-y", "/dev/"+loops[i])
		c.Env = append(os.Environ(), "LVM_SYSTEM_DIR="+dir)
		if out, err := c.CombinedOutput(); (err == nil) != want {
			t.Errorf("pvcreate of loop device %d: %v, %s; want success = %v", i, err, out, want)
		}
	}
}

// attachWritable puts a loop device over a file for as long as hold is open.
func attachWritable(t *testing.T, file string) (name string, hold *os.File, err error) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return blockdev.Loop(&unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}})
}

// TestSettleSwap: a disk that has only swap is cloned too.
func TestSettleSwap(t *testing.T) {
	s := source(t, layout.Filesystem{Device: "vda1", Type: "ext4", UUID: "1-1"})
	s.layout.Disks = append(s.layout.Disks, layout.Disk{Name: "vdb", LogicalSector: 512, Size: 1 << 30, Table: &layout.Table{Label: layout.MBR, Partitions: []layout.Partition{{Number: 1, Device: "vdb1", Start: 1 << 20, Size: 1 << 28}}}})
	s.layout.Swap = []layout.Swap{{Device: "vdb1", UUID: "2-2", Size: 1 << 28}}
	if err := s.settle(t.Context(), &layout.Layout{}, ""); err != nil {
		t.Fatal(err)
	}
	if got := s.layout.Needed(); !slices.Equal(got, []string{"vda", "vdb"}) {
		t.Errorf("needed: %q", got)
	}
}

// TestLeftOut: read-only snapshots that nothing refers to are left out, as in a backup.
func TestLeftOut(t *testing.T) {
	s := &Source{rep: progress.None{}, layout: &layout.Layout{SwapFiles: []layout.SwapFile{{Path: "/home/.swap/file", Mount: "/home"}, {Path: "/swapfile", Mount: "/"}}}}
	f := &layout.Filesystem{Device: "vda2", Snapshots: []string{"@/.snapshots/1/home", "@home/old"}}
	for at, want := range map[string][]string{"/": {".snapshots/1/home", "swapfile"}, "/home": {".swap/file", "old"}} {
		got := s.leftOut(f, layout.Mount{Path: at, Subvolume: map[string]string{"/": "@", "/home": "@home"}[at]})
		if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
			t.Errorf("%s: %q; want %q", at, names, want)
		}
	}
}
