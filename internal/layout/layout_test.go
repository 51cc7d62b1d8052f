package layout

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

const (
	guid = "01234567-89AB-CDEF-0123-456789ABCDEF"
	lvm1 = "abcdef-0123-4567-89ab-cdef-0123-456789"
)

// Good is a valid layout: GPT with /boot and LVM, MBR with a logical one.
func good() *Layout {
	part := func(n int, start, size quantity.Size) Partition {
		return Partition{Number: n, Device: fmt.Sprintf("vda%d", n), Start: start, Size: size, Type: TypeBIOSBoot, GUID: strings.Replace(guid, "0", fmt.Sprint(n), 1)}
	}
	ext := &fstype.Ext{BlockSize: 4096, InodeSize: 256, Inodes: 1000}
	return &Layout{Version: Version, Hostname: "h",
		Disks: []Disk{
			{Name: "vda", Serial: "A", Size: quantity.GiB, LogicalSector: 512, PhysicalSector: 512, Table: &Table{Label: GPT, GUID: guid, Partitions: []Partition{part(1, quantity.MiB, 100*quantity.MiB), part(2, 200*quantity.MiB, 500*quantity.MiB)}}},
			{Name: "sda", Serial: "B", Size: quantity.GiB, LogicalSector: 512, PhysicalSector: 4096, Table: &Table{Label: MBR, Signature: "0x12345678", Partitions: []Partition{
				{Number: 1, Device: "sda1", Start: quantity.MiB, Size: 500 * quantity.MiB, Type: "0x05"},
				{Number: 5, Device: "sda5", Start: 3 * quantity.MiB, Size: 100 * quantity.MiB, Type: "0x83", EBR: 2 * quantity.MiB}}}},
		},
		VolumeGroup: []VolumeGroup{{Name: "vg0", UUID: lvm1, ExtentSize: 4 * quantity.MiB, PVs: []PhysicalVolume{{Device: "vda2", UUID: lvm1, Size: 500 * quantity.MiB}}, LVs: []LogicalVolume{{Name: "root", UUID: lvm1, Size: 400 * quantity.MiB}}, Config: "physical_volumes " + lvm1}},
		Filesystems: []Filesystem{
			{Device: "vda1", Type: "ext4", UUID: guid, Size: 100 * quantity.MiB, Geometry: fstype.Geometry{Ext: ext}, Mounts: []Mount{{Path: "/boot"}}},
			{Device: "vg0/root", Type: "ext4", Size: 400 * quantity.MiB, Geometry: fstype.Geometry{Ext: ext}, Mounts: []Mount{{Path: "/"}}},
			{Device: "sda5", Type: "vfat", UUID: "1234-ABCD", Size: 100 * quantity.MiB, Geometry: fstype.Geometry{VFAT: &fstype.VFAT{Bits: 32}}, Mounts: []Mount{}},
		},
		Boot: Boot{Firmware: BIOS, Loader: GRUB, Disks: []string{"vda"}, Targets: []string{"i386-pc"}},
	}
}

func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	if err := good().Write(&b); err != nil {
		t.Fatal(err)
	}
	l, err := Read(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if d := Diff(good(), l); len(d) > 0 {
		t.Errorf("after writing and reading: %v", d)
	}
}

// TestValidate breaks one thing at a time; each is found at its path.
func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name, want string
		spoil      func(*Layout)
	}{
		{"version", "version:", func(l *Layout) { l.Version = 9 }},
		{"overlap", "disks[0].table.partitions[1]: overlaps", func(l *Layout) { l.Disks[0].Table.Partitions[1].Start = 50 * quantity.MiB }},
		{"beyond the disk", "disks[0].table.partitions[1]: bytes", func(l *Layout) { l.Disks[0].Table.Partitions[1].Size = quantity.GiB }},
		{"not whole sectors", "not a whole number of sectors", func(l *Layout) { l.Disks[0].Table.Partitions[0].Start++ }},
		{"number twice", "number 1", func(l *Layout) { l.Disks[0].Table.Partitions[1].Number = 1 }},
		{"logical outside", "overlaps", func(l *Layout) { l.Disks[1].Table.Partitions[0].Size = 3 * quantity.MiB }},
		{"bad GUID", "GUID", func(l *Layout) { l.Disks[0].Table.GUID = "x" }},
		{"sector size", "logicalSector", func(l *Layout) { l.Disks[0].LogicalSector = 500 }},
		{"device twice", "second time", func(l *Layout) { l.Disks[1].Name = "vda" }},
		{"path as device", "not a device name", func(l *Layout) { l.Disks[0].Name = "../vda" }},
		{"option as device", "not a device name", func(l *Layout) { l.Disks[0].Name = "-rf" }},
		{"device used twice", "used a second time", func(l *Layout) { l.Filesystems[1].Device = "vda1" }},
		{"PV not in layout", "volumeGroups[0].pvs[0]: device", func(l *Layout) { l.VolumeGroup[0].PVs[0].Device = "vdz9" }},
		{"group without config", "volumeGroups[0].config", func(l *Layout) { l.VolumeGroup[0].Config = "" }},
		{"geometry missing", "filesystems[0]: has no geometry", func(l *Layout) { l.Filesystems[0].Ext = nil }},
		{"unknown type", "filesystems[0]: type", func(l *Layout) { l.Filesystems[0].Type = "zfs" }},
		{"mounted twice", "filesystems[1].mounts[0]", func(l *Layout) { l.Filesystems[1].Mounts[0].Path = "/boot" }},
		{"relative mount", `path "boot"`, func(l *Layout) { l.Filesystems[0].Mounts[0].Path = "boot" }},
		{"mount above the target", `path "/../x"`, func(l *Layout) { l.Filesystems[0].Mounts[0].Path = "/../x" }},
		{"empty mount point", `path ""`, func(l *Layout) { l.Filesystems[0].Mounts[0].Path = "" }},
		{"mount point of two lines", "filesystems[0].mounts[0]", func(l *Layout) { l.Filesystems[0].Mounts[0].Path = "/a\nb" }},
		{"escape sequence in a serial number", "disks[0].serial", func(l *Layout) { l.Disks[0].Serial = "\x1b[2J" }},
		{"newline in a model", "disks[0].model", func(l *Layout) { l.Disks[0].Model = "a\nb" }},
		{"partition name", "disks[0].table.partitions[1].name", func(l *Layout) { l.Disks[0].Table.Partitions[1].Name = "\x9b31m" }},
		{"label that is not UTF-8", "filesystems[1].label", func(l *Layout) { l.Filesystems[1].Label = "\xff" }},
		{"link", `links["vda"][0]`, func(l *Layout) { l.Links = map[string][]string{"vda": {"by-id/\r"}} }},
		{"reason", "unsupported[0].reason", func(l *Layout) { l.Unsupported = []Unsupported{{Reason: "\u2028"}} }},
		{"null byte in fstab", "fstab", func(l *Layout) { l.Fstab = "a\x00" }},
		{"number over the entries", "number 129; want 1 to 128", func(l *Layout) { l.Disks[0].Table.Entries, l.Disks[0].Table.Partitions[1].Number = 128, 129 }},
		{"entries", "1025 entries", func(l *Layout) { l.Disks[0].Table.Entries = 1025 }},
		{"firmware", "boot.firmware", func(l *Layout) { l.Boot.Firmware = "coreboot" }},
		{"systemd-boot of a BIOS", "boot.loader", func(l *Layout) { l.Boot.Loader = SystemdBoot }},
		{"systemd-boot without an ESP", "boot.loader", func(l *Layout) { l.Boot = Boot{Firmware: UEFI, Loader: SystemdBoot} }},
		{"extlinux of UEFI", "boot.loader", func(l *Layout) { l.Boot.Firmware, l.Boot.Loader = UEFI, Extlinux }},
		{"loader", "boot.loader", func(l *Layout) { l.Boot.Loader = "lilo" }},
		{"loader's directory", "boot.dir", func(l *Layout) { l.Boot.Dir = "/boot/../etc" }},
		{"boot disk", "boot.disks[0]", func(l *Layout) { l.Boot.Disks[0] = "vdq" }},
	} {
		l := good()
		c.spoil(l)
		if err := l.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Validate = %v; want %q", c.name, err, c.want)
		}
	}
	if err := good().Validate(); err != nil {
		t.Errorf("the good layout: %v", err)
	}
	l := good()
	l.Boot.Firmware, l.Disks[0].Table.GUID, l.Filesystems[1].Type = "x", "x", "x"
	if err := l.Validate(); err == nil || strings.Count(err.Error(), "\n") < 2 {
		t.Errorf("three faults give %v; want all at once", err)
	}
}

func TestReadBad(t *testing.T) {
	for in, want := range map[string]string{
		"{\n  \"version\": 1,\n  \"nosuch\": 2}":     "nosuch",
		"{\n  \"version\": \"one\"}":                 "line 2",
		"{\n \"version\": 1,\n ]":                    "line 3",
		`{"version":1,"boot":{"firmware":"bios"}} x`: "text after the end",
		"": "EOF",
	} {
		if _, err := Read(strings.NewReader(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Read(%q) = %v; want %q", in, err, want)
		}
	}
}

func TestDiff(t *testing.T) {
	a, b := good(), good()
	b.Disks = append([]Disk{{Name: "aaa", Size: 1 << 30, LogicalSector: 512, PhysicalSector: 512}}, b.Disks...)
	b.Filesystems[0].Label = "new"
	b.Filesystems[0].Used = 12345
	b.Kernel.Release = "7"
	got := fmt.Sprint(Diff(a, b))
	if !strings.Contains(got, `+ filesystems[vda1].label: "new"`) || !strings.Contains(got, "+ disks[aaa].size") || strings.Contains(got, "sda") || strings.Contains(got, "used") || strings.Contains(got, "release") {
		t.Errorf("Diff = %s", got)
	}
}

// TestDiffLong: a text that is too long to show differs also where it is cut off.
func TestDiffLong(t *testing.T) {
	a, b := good(), good()
	a.Fstab = strings.Repeat("# a comment\n", 20) + "UUID=1 / ext4\n"
	b.Fstab = strings.Repeat("# a comment\n", 20) + "UUID=2 / ext4\n"
	if got := Diff(a, b); len(got) != 1 || got[0].Path != "fstab" || len(got[0].String()) > 300 {
		t.Errorf("Diff() = %v; want a short line of fstab", got)
	}
	if a.Fingerprint() == b.Fingerprint() {
		t.Error("Fingerprint() is equal for two that differ")
	}
	b.Fstab, b.Filesystems[0].Used = a.Fstab, 12345
	if a.Fingerprint() != b.Fingerprint() {
		t.Error("Fingerprint() differs for two that Diff() takes for equal")
	}
}

// TestDiffDecisions: what a backup decided is no difference; everything else of the same things
// is one, and so is a swap file that no decision explains.
func TestDiffDecisions(t *testing.T) {
	raw := func() *Layout {
		l := good()
		l.Images = []Image{{Device: "sdb1", Type: "ntfs", Size: 5}}
		l.SwapFiles = []SwapFile{{Path: "/boot/a/swap", Mount: "/boot", Size: 1 << 20}}
		return l
	}
	for what, c := range map[string]struct {
		was, is func(l *Layout)
		want    string
	}{
		"an image":                {func(l *Layout) { l.Images[0].File = "x" }, func(*Layout) {}, "[]"},
		"an image left out":       {func(l *Layout) { l.Images[0].Excluded = "rule" }, func(l *Layout) { l.Images[0].Size = 6 }, "[~ images[sdb1].size: 5 -> 6]"},
		"file system left out":    {func(l *Layout) { l.Filesystems[0].Excluded, l.SwapFiles = "rule", nil }, func(*Layout) {}, "[]"},
		"and it has changed":      {func(l *Layout) { l.Filesystems[0].Excluded, l.SwapFiles = "rule", nil }, func(l *Layout) { l.Filesystems[0].Label = "x" }, `[+ filesystems[vda1].label: "x"]`},
		"the other way around":    {func(*Layout) {}, func(l *Layout) { l.Filesystems[0].Excluded, l.SwapFiles = "rule", nil }, "[]"},
		"swap file not included":  {func(l *Layout) { l.Filesystems[0].Included, l.SwapFiles = []string{"/boot/b"}, nil }, func(*Layout) {}, "[]"},
		"included and new":        {func(l *Layout) { l.Filesystems[0].Included, l.SwapFiles = []string{"/boot/a"}, nil }, func(*Layout) {}, "[+ swapFiles[/boot/a/swap].mount: \"/boot\" + swapFiles[/boot/a/swap].path: \"/boot/a/swap\" + swapFiles[/boot/a/swap].size: 1048576]"},
		"included, another size":  {func(l *Layout) { l.Filesystems[0].Included = []string{"/boot/a"} }, func(l *Layout) { l.SwapFiles[0].Size++ }, "[~ swapFiles[/boot/a/swap].size: 1048576 -> 1048577]"},
		"new, nothing is decided": {func(l *Layout) { l.SwapFiles[0].Label = "x" }, func(l *Layout) { l.SwapFiles[0].Label = "y" }, `[~ swapFiles[/boot/a/swap].label: "x" -> "y"]`},
		"another is left out":     {func(l *Layout) { l.Filesystems[1].Excluded = "rule" }, func(l *Layout) { l.SwapFiles = nil }, "[- swapFiles[/boot/a/swap].mount: \"/boot\" - swapFiles[/boot/a/swap].path: \"/boot/a/swap\" - swapFiles[/boot/a/swap].size: 1048576]"},
	} {
		was, is := raw(), raw()
		c.was(was)
		c.is(is)
		if got := fmt.Sprint(Diff(was, is)); got != c.want {
			t.Errorf("%s: Diff() = %s; want %s", what, got, c.want)
		}
	}
}

func TestNeeded(t *testing.T) {
	l := good()
	if got := fmt.Sprint(l.Needed()); got != "[sda vda]" {
		t.Errorf("Needed = %s", got)
	}
	l.Filesystems[2].Excluded = "by rule"
	if got := fmt.Sprint(l.Needed()); got != "[vda]" {
		t.Errorf("Needed without sda5 = %s; a disk that nothing needs must not be overwritten", got)
	}
}

func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	if err := good().Write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := Read(bytes.NewReader(b)); err == nil {
			l.Needed()
			Diff(l, l)
		}
	})
}

// A GPT may have more than 128 entries, fstab several lines, and a file system a root
// that is mounted nowhere: it is a part of its own.
func TestOddAndRight(t *testing.T) {
	l := good()
	l.Disks[0].Table.Entries, l.Disks[0].Table.Partitions[1].Number, l.Disks[0].Table.FirstUsable = 256, 130, 66*512
	l.Fstab = "# a\tb\nUUID=x / ext4\n"
	l.Filesystems[0].Private = true
	if err := l.Validate(); err != nil {
		t.Error(err)
	}
	f := l.Filesystems[0]
	if got := f.Parts(); len(got) != 1 || got[0].Path != "/boot" {
		t.Errorf("its root is mounted: %+v", got)
	}
	f.Mounts = []Mount{{Path: "/srv", Subvolume: "@srv"}}
	f.Subvolumes = []Subvolume{{Path: "@"}, {Path: "@/var"}, {Path: "@srv"}}
	got := f.Parts()
	if len(got) != 2 || got[1].Path != "" || fmt.Sprint(f.Inner(got[1])) != "[@ @/var]" || !f.InUse() {
		t.Errorf("parts %+v, in its root %v", got, f.Inner(got[1]))
	}
	// SUSE: the default one is mounted on /, those in its parent are, too.
	f.Mounts = []Mount{{Path: "/", Subvolume: "@/.snapshots/5/snapshot"}, {Path: "/.snapshots", Subvolume: "@/.snapshots"}, {Path: "/var", Subvolume: "@/var"}}
	f.Subvolumes = []Subvolume{{Path: "@"}, {Path: "@/.snapshots"}, {Path: "@/var"}, {Path: "@/.snapshots/1/snapshot"}, {Path: "@/.snapshots/5/snapshot"}, {Path: "@/var/lib/base"}}
	var parts []string
	for _, m := range f.Parts() {
		parts = append(parts, fmt.Sprint(m.Path, f.Inner(m), f.Apart(m)))
	}
	if got, want := strings.Join(parts, " "), "/[] [] /.snapshots[1/snapshot] [5/snapshot] /var[lib/base] [] [@] [@/.snapshots @/var]"; got != want {
		t.Errorf("parts of SUSE: %s; want %s", got, want)
	}
	f = Filesystem{Label: `a\xff`, LabelBytes: []byte("a\xff")}
	if f.ExactLabel() != "a\xff" || (&Filesystem{Label: "x"}).ExactLabel() != "x" {
		t.Errorf("label %q", f.ExactLabel())
	}
}

// What is written is read: both have the same limit.
func TestLimit(t *testing.T) {
	l := good()
	l.Fstab = strings.Repeat("# 64 MiB was the limit of the reader alone, once\n", 65<<20/49)
	var b bytes.Buffer
	if err := l.Write(&b); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(&b); err != nil {
		t.Error(err)
	}
	b.Reset()
	l = good()
	if err := l.Write(&b); err != nil {
		t.Fatal(err)
	}
	n := b.Len()
	if _, err := read(bytes.NewReader(b.Bytes()), int64(n)); err != nil || l.write(io.Discard, n) != nil {
		t.Errorf("at the limit: %v", err)
	}
	b.Reset()
	if err := l.write(&b, n-1); err == nil || !strings.Contains(err.Error(), "more than") || b.Len() > 0 {
		t.Errorf("a layout that can't be read is written: %v", err)
	}
}
