package plan

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/commands"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const (
	uuid1 = "11111111-2222-3333-4444-555555555555"
	lvm1  = "abcdef-0123-4567-89ab-cdef-0123-456789"
)

// groupText is the metadata of wanted's group.
const groupText = `vg0 {
id = "` + lvm1 + `"
extent_size = 8192
physical_volumes {
pv0 {
id = "` + lvm1 + `"
pe_start = 2048
pe_count = 1279
}
}
logical_volumes {
root {
status = ["READ", "WRITE", "VISIBLE"]
segment_count = 1
segment1 {
start_extent = 0
extent_count = 768
type = "striped"
stripe_count = 1
stripes = ["pv0", 0]
}
}
home {
status = ["READ", "WRITE", "VISIBLE"]
segment_count = 1
segment1 {
start_extent = 0
extent_count = 256
type = "striped"
stripe_count = 1
stripes = ["pv0", 768]
}
}
swap {
status = ["READ", "WRITE", "VISIBLE"]
segment_count = 1
segment1 {
start_extent = 0
extent_count = 64
type = "striped"
stripe_count = 1
stripes = ["pv0", 1024]
}
}
}
}
`

func wanted() *layout.Layout {
	p := func(n int, start, size quantity.Size, typ, name string) layout.Partition {
		return layout.Partition{Number: n, Device: fmt.Sprintf("vda%d", n), Start: start, Size: size, Type: typ, GUID: fmt.Sprintf("0000000%d-2222-3333-4444-555555555555", n), Name: name}
	}
	return &layout.Layout{Version: layout.Version, Hostname: "h",
		Disks: []layout.Disk{{Name: "vda", Model: "M", Serial: "OLD1", Size: 6 * quantity.GiB, LogicalSector: 512, PhysicalSector: 512, Table: &layout.Table{Label: layout.GPT, GUID: uuid1,
			Partitions: []layout.Partition{p(1, quantity.MiB, quantity.MiB, layout.TypeBIOSBoot, "biosboot"), p(2, 2*quantity.MiB, 512*quantity.MiB, "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "boot"), p(3, 514*quantity.MiB, 5*quantity.GiB, "E6D6D379-F507-44C2-A23C-238F2A3DF928", "lvm")}}}},
		VolumeGroup: []layout.VolumeGroup{{Name: "vg0", UUID: lvm1, ExtentSize: 4 << 20, PVs: []layout.PhysicalVolume{{Device: "vda3", UUID: lvm1, Size: 5 * quantity.GiB}},
			LVs: []layout.LogicalVolume{{Name: "root", UUID: lvm1, Size: 3 * quantity.GiB}, {Name: "home", UUID: lvm1, Size: quantity.GiB}, {Name: "swap", UUID: lvm1, Size: 256 * quantity.MiB}}, Config: groupText}},
		Filesystems: []layout.Filesystem{
			{Device: "vda2", Type: "ext4", UUID: uuid1, Label: "boot", Size: 512 * quantity.MiB, Mounts: []layout.Mount{{Path: "/boot"}}, Geometry: fstype.Geometry{Ext: &fstype.Ext{BlockSize: 4096, ClusterSize: 4096, InodeSize: 128, Inodes: 32768, Reserved: 6553, FlexBG: 16, Features: []string{"has_journal", "filetype", "extent"}, MountOptions: 0xc, MaxMounts: -1, Errors: 1, JournalBlocks: 4096}}},
			{Device: "vg0/root", Type: "ext4", UUID: uuid1, Size: 3 * quantity.GiB, Mounts: []layout.Mount{{Path: "/"}}, Geometry: fstype.Geometry{Ext: &fstype.Ext{BlockSize: 4096, ClusterSize: 4096, InodeSize: 256, Inodes: 196608, Reserved: 15728, Features: []string{"has_journal", "extent", "64bit"}, MaxMounts: -1, Errors: 2}}},
			{Device: "vg0/home", Type: "xfs", UUID: uuid1, Label: "home", Size: quantity.GiB, Mounts: []layout.Mount{{Path: "/home"}}, Geometry: fstype.Geometry{XFS: &fstype.XFS{BlockSize: 4096, SectorSize: 512, InodeSize: 512, DirBlock: 4096, AGCount: 4, LogBlocks: 16384, CRC: true, FType: true, FinoBT: true, Reflink: true, SparseIno: true, BigTime: true, InoBTCount: true}}},
		},
		Swap: []layout.Swap{{Device: "vg0/swap", UUID: uuid1, Label: "swap", Size: 256 * quantity.MiB, Active: true}},
		Boot: layout.Boot{Firmware: layout.BIOS, Loader: layout.GRUB, Disks: []string{"vda"}},
	}
}

func disk(name, serial string, size quantity.Size) layout.Present {
	return layout.Present{Disk: layout.Disk{Name: name, Model: "M", Serial: serial, Size: size, LogicalSector: 512, PhysicalSector: 512}, Holds: "nothing known (blank?)"}
}

func busy(p layout.Present, why string) layout.Present { p.Busy = why; return p }

func TestMapDisks(t *testing.T) {
	const g = quantity.GiB
	for _, c := range []struct {
		name string
		have []layout.Present
		wish Wish
		want string // mapping, or a part of the refusal after "!"
	}{
		{"same serial, other name", []layout.Present{disk("sdb", "X", 6*g), disk("sda", "OLD1", 6*g)}, Wish{}, "sda"},
		{"order swapped, equal sizes", []layout.Present{disk("vda", "NEW", 6*g), disk("vdb", "OLD1", 6*g)}, Wish{}, "vdb"},
		{"named", []layout.Present{disk("sda", "X", 8*g), disk("sdb", "Y", 8*g)}, Wish{Map: map[string]string{"vda": "sdb"}}, "sdb"},
		{"named by serial", []layout.Present{disk("sda", "X", 8*g), disk("sdb", "Y", 8*g)}, Wish{Map: map[string]string{"vda": "Y"}}, "sdb"},
		{"named, but absent", []layout.Present{disk("sda", "X", 8*g)}, Wish{Map: map[string]string{"vda": "sdq"}}, "!0 disks answer"},
		{"named, but too small", []layout.Present{disk("sda", "X", 2*g)}, Wish{Map: map[string]string{"vda": "sda"}}, "!too small"},
		{"named, but busy", []layout.Present{busy(disk("sda", "X", 8*g), "/dev/sda1 is mounted on /mnt")}, Wish{Map: map[string]string{"vda": "sda"}}, "!mounted on /mnt"},
		{"map of an unknown disk", []layout.Present{disk("sda", "X", 8*g)}, Wish{Map: map[string]string{"vdz": "sda"}}, "!--map vdz"},
		{"the only blank one", []layout.Present{busy(disk("vda", "SET", 8*g), "it holds the backup set"), disk("vdb", "N", 6*g)}, Wish{}, "vdb"},
		{"two possible", []layout.Present{disk("sda", "X", 8*g), disk("sdb", "Y", 8*g)}, Wish{}, "!not clear"},
		{"two possible, one confirmed", []layout.Present{disk("sda", "X", 8*g), disk("sdb", "Y", 8*g)}, Wish{Confirmed: []string{"Y"}}, "sdb"},
		{"two possible, another confirmed", []layout.Present{disk("sda", "X", 8*g), disk("sdb", "Y", 8*g)}, Wish{Confirmed: []string{"Z"}}, "!not clear"},
		{"the confirmed one holds the set", []layout.Present{busy(disk("sda", "X", 8*g), "it holds the backup set"), disk("sdb", "Y", 8*g)}, Wish{Confirmed: []string{"X"}}, "!it holds the backup set"},
		{"the old disk is in use by LVM", []layout.Present{busy(disk("sda", "OLD1", 8*g), "it is in use by LVM (vg0/root)")}, Wish{}, "!in use by LVM"},
		{"all too small", []layout.Present{disk("sda", "X", 4*g)}, Wish{}, "!no disk here can be overwritten\n  wanted: /dev/vda (M, serial OLD1, 6.0 GiB), at least 4.6 GiB\n  there:  /dev/sda (M, serial X, 4.0 GiB): too small"},
		{"no disk", nil, Wish{}, "!no disk here can be overwritten"},
		{"no serial, same model and size", []layout.Present{disk("sda", "", 6*g), disk("sdb", "Q", 9*g)}, Wish{}, "!not clear"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := mapDisks(wanted(), c.have, c.wish)
			if want, bad := strings.CutPrefix(c.want, "!"); bad {
				var r *exit.Refusal
				if !errors.As(err, &r) || !strings.Contains(err.Error(), want) {
					t.Errorf("mapDisks = %v, %v; want a refusal with %q", m, err, want)
				}
				var u *Undecided
				if errors.As(err, &u) != (strings.Contains(err.Error(), "not clear") || strings.Contains(err.Error(), "no disk here")) || u != nil && (u.Old.Name != "vda" || u.Least == 0 || len(u.Among) != strings.Count(err.Error(), "possible;")) {
					t.Errorf("undecided: %+v", u)
				}
				return
			}
			if err != nil || m["vda"].Name != c.want {
				t.Errorf("mapDisks = %v, %v; want %s", m["vda"].Name, err, c.want)
			}
		})
	}
}

func TestOtherSectorSize(t *testing.T) {
	large := disk("sda", "OLD1", 8*quantity.GiB)
	large.LogicalSector = 4096
	uefi := func() *layout.Layout {
		l := machine(layout.GPT, []quantity.Size{30 * gib}, [][]part{{{256 * mib, "esp", 0}, {gib, "ext4 /boot", 300 * mib}, {20 * gib, "pv vg0", 0}}}, map[string][]lvol{"vg0": {{"root", "ext4 /", 8 * gib, 3 * gib}, {"home", "xfs /home", 8 * gib, 2 * gib}}})
		v := l.Filesystems[0].VFAT
		*v = fstype.VFAT{Bits: 32, SectorSize: 512, SectorsPerCluster: 1, Reserved: 32, FATs: 2, Media: 0xf8, Hidden: 2048}
		return l
	}
	for name, c := range map[string]struct {
		l    *layout.Layout
		want string
	}{
		"BIOS": {wanted(), "a BIOS starts from sectors of 512 bytes only"},
		"MBR":  {func() *layout.Layout { l := uefi(); l.Disks[0].Table.Label = layout.MBR; return l }(), "--firmware uefi makes a GPT"},
		"ext":  {func() *layout.Layout { l := uefi(); l.Filesystems[1].Ext.BlockSize = 1024; return l }(), "has blocks of 1024 bytes"},
		"LUKS": {func() *layout.Layout {
			l := uefi()
			l.Crypts = []layout.Crypt{{Name: "x", Device: "sda3", LUKS: &superblock.LUKS{Offset: 4096*500 + 512}}}
			return l
		}(), "begins at"},
		"image": {func() *layout.Layout {
			l := uefi()
			l.Images = []layout.Image{{Device: "sda9", File: "x", Type: "ntfs"}}
			l.Disks[0].Table.Partitions[2].Device = "sda9"
			return l
		}(), "block by block"},
	} {
		var r *exit.Refusal
		if _, err := mapDisks(c.l, []layout.Present{large}, Wish{Map: map[string]string{c.l.Disks[0].Name: "sda"}}); !errors.As(err, &r) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want a refusal with %q", name, err, c.want)
		}
	}
	for _, size := range []quantity.Size{12 * gib, 30 * gib, 60 * gib} {
		large.Size = size
		l := uefi()
		m, err := mapDisks(l, []layout.Present{large}, Wish{Map: map[string]string{"sda": "sda"}})
		if err != nil {
			t.Fatal(err)
		}
		is, err := fit(l, m, Wish{})
		if err != nil {
			t.Fatal(err)
		}
		d := is.Disks[0]
		for _, q := range d.Table.Partitions {
			if q.Start%mib != 0 || q.Size%4096 != 0 || q.Start+q.Size > size-5*4096 {
				t.Errorf("%s: %+v", size, q)
			}
		}
		v := is.Filesystems[0].VFAT
		if d.LogicalSector != 4096 || is.Mounted("/home").XFS.SectorSize != 4096 || v.SectorSize != 4096 || v.Bits != 16 || v.Hidden != 256 {
			t.Errorf("%s: %+v %+v", size, d, v)
		}
		p, err := steps(is, m)
		if err != nil || p.Steps[0].(*WriteTable).Sector != 4096 || !strings.Contains(commands.Sfdisk(&d), "sector-size: 4096\n") {
			t.Errorf("%s: %v", size, err)
		}
		run, err := commands.Mkfs(&is.Filesystems[0], "FILE", 256*mib)
		if err != nil {
			t.Fatal(err)
		}
		if i := mk(t, int64(256*mib), run...); i.VFAT == nil || i.VFAT.Bits != 16 || i.VFAT.SectorSize != 4096 {
			t.Errorf("mkfs.fat made %+v", i)
		}
		// And back, onto an ordinary disk.
		small := disk("sda", "OLD1", size)
		if is, err = fit(is, Mapping{"sda": small}, Wish{}); err != nil {
			t.Fatal(err)
		}
		if v := is.Filesystems[0].VFAT; v.SectorSize != 512 || v.SectorsPerCluster != 8 || v.Bits != 16 || is.Disks[0].LogicalSector != 512 {
			t.Errorf("back: %+v", v)
		}
	}
}

// TestPlan compares the whole plan with a golden file; run with -update.
func TestPlan(t *testing.T) {
	l := wanted()
	for name, target := range map[string]layout.Present{"same": disk("vda", "OLD1", 6*quantity.GiB), "nvme": disk("nvme0n1", "OLD1", 20*quantity.GiB)} {
		m, err := mapDisks(l, []layout.Present{target}, Wish{})
		if err != nil {
			t.Fatal(err)
		}
		p, err := steps(l, m)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for i, s := range p.Steps {
			fmt.Fprintf(&b, "%d. %s\n", i+1, s)
			for _, r := range Commands(s) {
				if len(r) == 1 {
					continue // with a key or a file
				}
				fmt.Fprintf(&b, "     %s\n", strings.Join(r, " "))
			}
		}
		golden := filepath.Join("testdata", name+".plan")
		if *update {
			if err := os.MkdirAll("testdata", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if b.String() != string(want) {
			t.Errorf("the plan is\n%s\nwant\n%s", b.String(), want)
		}
		if err := p.Check([]string{"OLD1"}); err != nil {
			t.Errorf("Check(right serial) = %v", err)
		}
		var r *exit.Refusal
		if err := p.Check([]string{"OTHER"}); !errors.As(err, &r) {
			t.Errorf("Check(wrong serial) = %v; want a refusal", err)
		}
	}
}

// TestMkfs has the real programs make file systems from what superblock
// reads, and compares what it reads of the result.
func TestMkfs(t *testing.T) {
	for _, c := range []struct {
		name string
		size int64
		args []string
	}{
		{"ext4", 96 << 20, []string{"mke2fs", "-qF", "-t", "ext4", "-U", uuid1, "-L", "lab", "-m", "3"}},
		{"ext4 old", 96 << 20, []string{"mke2fs", "-qF", "-t", "ext4", "-b", "1024", "-I", "128", "-O", "^64bit,^metadata_csum,uninit_bg,^flex_bg,^huge_file", "-U", uuid1}},
		{"ext4 quota", 96 << 20, []string{"mke2fs", "-qF", "-t", "ext4", "-O", "quota,project,casefold,inline_data", "-I", "512", "-N", "9000", "-U", uuid1}},
		{"ext4 strict", 96 << 20, []string{"mke2fs", "-qF", "-t", "ext4", "-O", "casefold", "-E", "encoding=utf8,encoding_flags=strict", "-U", uuid1}},
		{"ext4 bigalloc", 256 << 20, []string{"mke2fs", "-qF", "-t", "ext4", "-O", "bigalloc", "-C", "65536", "-U", uuid1}},
		{"ext3", 64 << 20, []string{"mke2fs", "-qF", "-t", "ext3", "-U", uuid1}},
		{"ext2", 64 << 20, []string{"mke2fs", "-qF", "-t", "ext2", "-U", uuid1}},
		{"xfs", 512 << 20, []string{"mkfs.xfs", "-q", "-m", "uuid=" + uuid1, "-L", "xlab"}},
		{"xfs without", 512 << 20, []string{"mkfs.xfs", "-q", "-m", "uuid=" + uuid1 + ",rmapbt=0,reflink=0,bigtime=0,inobtcount=0", "-i", "size=1024", "-n", "size=8192"}},
		{"vfat", 64 << 20, []string{"mkfs.fat", "-F", "32", "-n", "ESP", "-i", "1234ABCD"}},
		{"vfat16", 32 << 20, []string{"mkfs.fat", "-F", "16", "-s", "4", "-i", "1234ABCD"}},
		{"exfat", 64 << 20, []string{"mkfs.exfat", "-c", "16K", "-L", "für alle"}},
		{"f2fs", 128 << 20, []string{"mkfs.f2fs", "-q", "-f", "-l", "flash", "-O", "extra_attr,inode_checksum,sb_checksum,compression"}},
		{"f2fs sections", 512 << 20, []string{"mkfs.f2fs", "-q", "-f", "-s", "2", "-z", "2"}},
		{"jfs", 64 << 20, []string{"mkfs.jfs", "-q", "-L", "old"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			first := mk(t, c.size, c.args)
			f := &layout.Filesystem{Type: first.Type, UUID: first.UUID, Label: first.Label, Size: quantity.Size(first.Size), Geometry: first.Geometry}
			runs, err := commands.Mkfs(f, "FILE", quantity.Size(c.size))
			if err != nil {
				t.Fatal(err)
			}
			second := mk(t, c.size, runs...)
			show := func(i *superblock.Info) string {
				return fmt.Sprintf("%s %s %q %d %+v %+v %+v %+v %+v", i.Type, i.UUID, i.Label, i.Size, i.Ext, i.XFS, i.VFAT, i.ExFAT, i.F2FS)
			}
			if show(first) != show(second) {
				t.Errorf("made again by %v:\n%s\nwant\n%s", runs, show(second), show(first))
			}
		})
	}
}

func mk(t *testing.T, size int64, cmds ...[]string) *superblock.Info {
	t.Helper()
	file := filepath.Join(t.TempDir(), "fs")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, args := range cmds {
		if _, err := exec.LookPath(args[0]); err != nil {
			t.Skipf("%s is not installed; make test installs it", args[0])
		}
		a := strings.Split(strings.ReplaceAll(strings.Join(args, "\x00"), "FILE", file), "\x00")
		if a[len(a)-1] != file {
			a = append(a, file)
		}
		if out, err := exec.Command(a[0], a[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", a, err, out)
		}
	}
	i, err := superblock.Probe(f, size)
	if err != nil || i == nil {
		t.Fatalf("Probe: %v, %v", i, err)
	}
	return i
}

// TestSfdisk has sfdisk(8) write our text and write it out again.
func TestSfdisk(t *testing.T) {
	if _, err := exec.LookPath("sfdisk"); err != nil {
		t.Skip("sfdisk is not installed; make test installs it")
	}
	d := &wanted().Disks[0]
	d.Table.Partitions[1].Attributes = 1<<2 | 1<<63
	file := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(d.Size)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	c := exec.Command("sfdisk", "-q", file)
	c.Stdin = strings.NewReader(commands.Sfdisk(d))
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s\n%s", err, out, commands.Sfdisk(d))
	}
	out, err := exec.Command("sfdisk", "-d", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"label-id: " + uuid1, "start=        2048, size=        2048", `name="boot", attrs="LegacyBIOSBootable GUID:63"`, "uuid=00000003-2222-3333-4444-555555555555"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("sfdisk -d has no %q:\n%s", want, out)
		}
	}
}

// TestDigest: a plan is the same when the disk has another name, or holds what
// the first try left; not when it is another disk, or has other sizes.
func TestDigest(t *testing.T) {
	make := func(p layout.Present, w Wish) string {
		t.Helper()
		m := Mapping{"sda": p}
		l, err := fit(plain(), m, w)
		if err != nil {
			t.Fatal(err)
		}
		out, err := steps(l, m)
		if err != nil {
			t.Fatal(err)
		}
		return out.Digest()
	}
	first := disk("sda", "NEW1", 40*gib)
	again := disk("sdb", "NEW1", 40*gib)
	again.Holds = "GPT with 3 partitions"
	want := make(first, Wish{})
	if got := make(again, Wish{}); got != want {
		t.Error("the same disk under another name is another plan")
	}
	if make(disk("sda", "NEW2", 40*gib), Wish{}) == want {
		t.Error("another disk is the same plan")
	}
	if make(first, Wish{Sizes: map[string]quantity.Size{"/": 12 * gib}}) == want {
		t.Error("other sizes are the same plan")
	}
}

// first gives the first step of a type.
func first[S Step](t *testing.T, p *Plan) S {
	t.Helper()
	for _, s := range p.Steps {
		if s, ok := s.(S); ok {
			return s
		}
	}
	t.Fatalf("no such step in %v", p.Steps)
	panic("unreachable")
}
