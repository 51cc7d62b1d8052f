package fstype

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestTypes: each type is complete, so that those who ask need no exceptions.
func TestTypes(t *testing.T) {
	seen := map[string]bool{}
	for _, x := range types() {
		if seen[x.Name] || Of(x.Name).Key() != x.Key() {
			t.Errorf("%s is there twice", x.Name)
		}
		seen[x.Name] = true
		switch {
		case x.Mkfs == nil:
			if x.New != nil || x.Least != nil || x.DryRun != "" || x.Grow != nil {
				t.Errorf("%s is not made, and has what belongs to that", x.Name)
			}
		case x.Probe == nil || len(x.Config) == 0 || len(x.Programs) == 0 || x.Programs[0].Optional:
			t.Errorf("%s is made, and lacks how it is recognised, kernel options or programs", x.Name)
		}
		if x.New != nil {
			g := x.New(1 << 30)
			if !slices.Equal(g.Keys(), []string{x.Key()}) || x.Faults(&g) != nil || x.LabelMax == 0 {
				t.Errorf("%s.New = %v; faults %q", x.Name, g.Keys(), x.Faults(&g))
			}
			f := &FS{Info: Info{Type: x.Name, UUID: "u", Label: "l", Size: 1 << 30, Geometry: g}, Devices: 1}
			if c := x.Mkfs(f, "DEV", 1<<30); !slices.Contains(c[0], "DEV") || !slices.Contains(c[0], "l") {
				t.Errorf("%s.Mkfs = %q; want device and label in it", x.Name, c)
			}
		}
	}
	if x := Of("no such"); x.Name != "no such" || x.Mkfs != nil || x.Module() != "no such" || x.Faults(&Geometry{}) != nil {
		t.Errorf("Of(no such) = %+v", x)
	}
}

// TestTools: what lsblk, blkid and mount are told of a type.
func TestTools(t *testing.T) {
	for _, c := range []struct {
		name, version, mount string
		unit                 int64
		g                    Geometry
	}{
		{TypeExt2, "1.0", "ext2 ext4", 1024, Geometry{Ext: &Ext{BlockSize: 1024}}},
		{TypeExt3, "1.0", "ext3 ext4", 0, Geometry{}},
		{TypeExt4, "1.0", "ext4", 4096, Geometry{Ext: &Ext{BlockSize: 4096}}},
		{TypeXFS, "", "xfs", 512, Geometry{XFS: &XFS{BlockSize: 4096, SectorSize: 512}}},
		{TypeVFAT, "FAT16", "vfat", 2048, Geometry{VFAT: &VFAT{Bits: 16, SectorSize: 2048}}},
		{TypeNTFS, "", "ntfs3 ntfs", 0, Geometry{}},
		{TypeISO, "", "iso9660", 0, Geometry{}},
		{TypeSwap, "1", "swap", 0, Geometry{}},
	} {
		x, version := Of(c.name), ""
		if x.Version != nil {
			version = x.Version(&Info{Type: c.name, Geometry: c.g})
		}
		if mount := strings.Join(x.MountTypes(), " "); version != c.version || mount != c.mount || x.UnitOf(&c.g) != c.unit {
			t.Errorf("%s: version %q, mounted as %q, unit %d; want %q, %q, %d", c.name, version, mount, x.UnitOf(&c.g), c.version, c.mount, c.unit)
		}
	}
}

// TestGrow: numbers and layouts of the ioctls, as the kernel's headers have them.
func TestGrow(t *testing.T) {
	head := make([]byte, HeadLen)
	binary.LittleEndian.PutUint32(head[1024+24:], 2) // 4 KiB
	binary.LittleEndian.PutUint64(head[65536+201:], 7)
	n, arg := growExt(head, 1<<30)
	if n != 0x40086610 || binary.NativeEndian.Uint64(arg) != 1<<18 {
		t.Errorf("growExt = %#x, %v", n, arg)
	}
	n, arg = growBtrfs(head, 1<<30)
	if n != 0x50009403 || len(arg) != 4096 || !bytes.HasPrefix(arg[8:], []byte("7:max\x00")) {
		t.Errorf("growBtrfs = %#x, %q", n, arg[:16])
	}
	binary.BigEndian.PutUint32(head[4:], 1024)
	head[127] = 25
	n, arg = growXFS(head, 1<<30)
	if n != 0x4010586e || binary.NativeEndian.Uint64(arg) != 1<<20 || binary.NativeEndian.Uint32(arg[8:]) != 25 {
		t.Errorf("growXFS = %#x, %v", n, arg)
	}
}

// TestNilfs2: what mkfs.nilfs2 made is made again with the same geometry, label and, on a
// device, UUID.
func TestNilfs2(t *testing.T) {
	if _, err := exec.LookPath("mkfs.nilfs2"); err != nil {
		t.Skip("mkfs.nilfs2 is not installed; make test installs it")
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	probe := func(file string) *Info {
		t.Helper()
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		head := make([]byte, HeadLen)
		if _, err := f.ReadAt(head, 0); err != nil {
			t.Fatal(err)
		}
		i := Probe(f, head)
		if i == nil || i.Nilfs2 == nil || Of(i.Type).Faults(&i.Geometry) != nil {
			t.Fatalf("Probe(%s) = %+v", file, i)
		}
		return i
	}
	const size = 300 << 20
	first, second := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	for _, f := range []string{first, second} {
		if err := errors.Join(os.WriteFile(f, nil, 0o600), os.Truncate(f, size)); err != nil {
			t.Fatal(err)
		}
	}
	run("mkfs.nilfs2", "-q", "-f", "-b", "1024", "-B", "4096", "-m", "9", "-L", "home", first)
	was := probe(first)
	cmds := nilfs2.Mkfs(&FS{Info: *was, Devices: 1}, second, size)
	run(cmds[0]...)
	is := probe(second)
	if !reflect.DeepEqual(is.Nilfs2, was.Nilfs2) || is.Label != was.Label || is.Size != was.Size {
		t.Errorf("made %+v %+v; want %+v %+v", is, is.Nilfs2, was, was.Nilfs2)
	}
	dev, err := exec.Command("losetup", "-f", "--show", second).Output()
	if err != nil {
		t.Skipf("losetup: %v (not root?): the UUID is not tried", err)
	}
	defer exec.Command("losetup", "-d", strings.TrimSpace(string(dev))).Run()
	for _, c := range nilfs2.Mkfs(&FS{Info: *was, Devices: 1}, strings.TrimSpace(string(dev)), size) {
		run(c...)
	}
	if is := probe(strings.TrimSpace(string(dev))); is.UUID != was.UUID {
		t.Errorf("UUID %s; want %s", is.UUID, was.UUID)
	}
}
