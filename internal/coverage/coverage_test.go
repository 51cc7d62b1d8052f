package coverage

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/net/html"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

const mib = quantity.MiB

// example is a machine with each state on its first disk: GPT with a boot loader's
// partition, LVM in LUKS, an NTFS, a btrfs, swap, a ZFS; a disk for backups; MBR.
func example() (*layout.Layout, Marks) {
	part := func(disk string, n int, start, size quantity.Size, typ string) layout.Partition {
		return layout.Partition{Number: n, Device: layout.PartitionName(disk, n), Start: start * mib, Size: size * mib, Type: typ}
	}
	const linux = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	l := &layout.Layout{Version: layout.Version, Hostname: "host", Boot: layout.Boot{Firmware: layout.BIOS, Disks: []string{"vdc"}},
		Disks: []layout.Disk{
			{Name: "vda", Model: "DISK", Serial: "S1", Size: 1000 * mib, LogicalSector: 512, Table: &layout.Table{Label: layout.GPT, Partitions: []layout.Partition{
				part("vda", 1, 1, 1, layout.TypeBIOSBoot), part("vda", 2, 2, 300, linux), part("vda", 3, 302, 100, linux), part("vda", 4, 402, 50, linux), part("vda", 5, 452, 200, linux), part("vda", 6, 700, 100, linux), part("vda", 7, 800, 10, linux)}}},
			{Name: "vdb", Size: 500 * mib, LogicalSector: 512},
			{Name: "vdc", Size: 100 * mib, LogicalSector: 512, Table: &layout.Table{Label: layout.MBR, Partitions: []layout.Partition{
				part("vdc", 1, 1, 20, "0x83"), part("vdc", 2, 21, 60, "0x05"), {Number: 5, Device: "vdc5", Start: 23 * mib, Size: 10 * mib, Type: "0x82", EBR: 22 * mib}}}},
		},
		Crypts:      []layout.Crypt{{Name: "c", Device: "vda2", Size: 284 * mib, LUKS: &superblock.LUKS{Version: 2, Offset: 16 << 20}}},
		VolumeGroup: []layout.VolumeGroup{{Name: "vg0", ExtentSize: 4 * mib, Snapshots: []string{"old"}, PVs: []layout.PhysicalVolume{{Device: "mapper/c", UUID: "id", Size: 284 * mib}}, LVs: []layout.LogicalVolume{{Name: "root", Size: 200 * mib}}, Config: group}},
		Images:      []layout.Image{{Device: "vda3", Type: "ntfs", Size: 100 * mib, File: "vda3.img.zst"}, {Device: "vda7", Size: 10 * mib, Blank: true, Excluded: "it is blank"}},
		Swap:        []layout.Swap{{Device: "vda4", Size: 50 * mib, Active: true}, {Device: "vdc5", Size: 10 * mib}},
		Filesystems: []layout.Filesystem{
			{Device: "vg0/root", Type: "ext4", Size: 200 * mib, Mounts: []layout.Mount{{Path: "/"}}},
			{Device: "vda5", Type: fstype.TypeBtrfs, Size: 200 * mib, Mounts: []layout.Mount{{Path: "/home", Subvolume: "@home"}, {Path: "/srv", Subvolume: "@srv"}}, Subvolumes: []layout.Subvolume{{Path: "@home"}, {Path: "@home/in"}, {Path: "@srv"}}, Snapshots: []string{"snap"}},
			{Device: "vdb", Type: "ext4", Size: 499 * mib, Mounts: []layout.Mount{{Path: "/backup"}}, Excluded: "it holds the backup set"},
			{Device: "vdc1", Type: "ext4", Size: 20 * mib, Mounts: []layout.Mount{{Path: "/boot"}}},
		},
		Unsupported: []layout.Unsupported{{What: "vda6", Device: "vda6", Reason: "zfs_member is not supported"}, {What: "x", Device: "vda5:@odd", Reason: "a name that is not text"}},
	}
	return l, Marks{NotCovered: []string{"vda6: zfs_member is not supported"}, Exclude: []string{"/tmp/*"}}
}

const group = `vg0 { id = "g" extent_size = 8192
physical_volumes { pv0 { id = "id" pe_start = 2048 pe_count = 70 } }
logical_volumes {
root { status = ["READ", "VISIBLE"] segment_count = 2
segment1 { start_extent = 0 extent_count = 40 type = "striped" stripe_count = 1 stripes = ["pv0", 10] }
segment2 { start_extent = 40 extent_count = 10 type = "striped" stripe_count = 1 stripes = ["pv0", 0] } }
old { status = ["READ", "VISIBLE"] segment_count = 1
segment1 { start_extent = 0 extent_count = 5 type = "striped" stripe_count = 1 stripes = ["pv0", 60] } } } }
`

func of(t *testing.T, l *layout.Layout, m Marks) *Report {
	t.Helper()
	r, err := Of(l, m)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// text has ranges one a line, in MiB where they are whole ones.
func text(ranges []Range) string {
	var b strings.Builder
	for _, x := range ranges {
		n := fmt.Sprint(int64(x.Size/mib), "M")
		if x.Size%mib != 0 {
			n = fmt.Sprint(int64(x.Size))
		}
		fmt.Fprintf(&b, "%s %s %s %s %s\n", n, x.State, x.Device, x.What, x.Why)
	}
	return regexp.MustCompile(" +").ReplaceAllString(strings.ReplaceAll(b.String(), " \n", "\n"), " ")
}

func TestOf(t *testing.T) {
	r := of(t, func() *layout.Layout { l, _ := example(); return l }(), Marks{})
	for i, want := range []string{`17408 recreated partition table
1031168 unallocated unallocated
1M recreated vda1 boot loader
16M recreated vda2 LUKS header
1M recreated mapper/c metadata of volume group vg0
40M files vg0/root ext4 on /
160M files vg0/root ext4 on /
40M unallocated mapper/c free extents of volume group vg0
20M excluded vg0/old snapshot snapshots are not saved
23M unallocated mapper/c free extents of volume group vg0
100M image vda3 ntfs
50M recreated vda4 swap
200M files vda5 btrfs on /home, /srv
48M unallocated unallocated
100M notCovered vda6 unsupported content zfs_member is not supported
10M excluded vda7 unknown content it is blank
199212544 unallocated unallocated
16896 recreated partition table
`, `499M excluded vdb ext4 on /backup it holds the backup set
1M unallocated vdb behind the file system
`, `512 recreated partition table
1048064 recreated boot loader
20M files vdc1 ext4 on /boot
1M unallocated unallocated
512 recreated partition table
1048064 unallocated unallocated
10M recreated vdc5 swap
67M unallocated unallocated
`} {
		if got := text(r.Disks[i].Ranges); got != want {
			t.Errorf("Of(example()).Disks[%d] =\n%s; want\n%s", i, got, want)
		}
	}
	if got := text(of(t, unneeded(), Marks{}).Disks[0].Ranges); !strings.HasPrefix(got, "17408 excluded partition table nothing on this disk is restored\n") {
		t.Errorf("a disk that is excluded has\n%s", got)
	}
}

// unneeded is a disk on which all is excluded.
func unneeded() *layout.Layout {
	l, _ := example()
	l.Disks[0].Table.Partitions = l.Disks[0].Table.Partitions[4:5]
	return &layout.Layout{Disks: l.Disks[:1], Filesystems: []layout.Filesystem{{Device: "vda5", Type: "ext4", Excluded: "exclude_devices: vda"}}}
}

// TestItems: each device, file system and subvolume has its state and reason.
func TestItems(t *testing.T) {
	l, m := example()
	m.Missing = []Part{{"vda5", "/srv"}}
	m.Rules = map[int]string{1: "exclude_devices: @odd"}
	var b strings.Builder
	for _, i := range of(t, l, m).Items {
		fmt.Fprintf(&b, "%s %s %s %s\n", i.Kind, i.Name, i.State, i.Why)
	}
	const unread = "its files could not be read when the backup was made"
	for _, want := range []string{"disk vda notCovered", "partition vda2 files", "partition vda3 image", "rest vda recreated", "luks mapper/c files", "group vg0 files", "volume vg0/root files", "volume vg0/old excluded", "filesystem vg0/root files",
		"filesystem vda5 notCovered " + unread, "subvolume vda5:@home files", "subvolume vda5:@home/in files", "subvolume vda5:@srv notCovered " + unread, "subvolume vda5:snap excluded", "subvolume vda5:@odd excluded exclude_devices: @odd",
		"swap vda4 recreated", "image vda7 excluded it is blank", "filesystem vdb excluded it holds the backup set"} {
		if !strings.Contains("\n"+b.String(), "\n"+want) {
			t.Errorf("no item %q in\n%s", want, b.String())
		}
	}
}

// TestFilesystem: what is not a rule of the administrator's is not covered.
func TestFilesystem(t *testing.T) {
	for _, c := range []struct {
		spoil func(f *layout.Filesystem, m *Marks)
		want  State
	}{
		{func(*layout.Filesystem, *Marks) {}, Files},
		{func(f *layout.Filesystem, m *Marks) { f.Included = []string{"/boot/x"} }, Files},
		{func(f *layout.Filesystem, m *Marks) { f.Excluded = "exclude_devices: vdc1" }, Excluded},
		{func(f *layout.Filesystem, m *Marks) {
			f.Excluded, m.Lacking = "no room", map[string]bool{"vdc1": true}
		}, NotCovered},
		{func(f *layout.Filesystem, m *Marks) { m.Missing = []Part{{"vdc1", "/boot"}} }, NotCovered},
		{func(f *layout.Filesystem, m *Marks) { f.Mounts = nil }, NotCovered},
	} {
		l, m := example()
		c.spoil(&l.Filesystems[3], &m)
		r := of(t, l, m)
		if got := r.Disks[2].Ranges[2]; got.Device != "vdc1" || got.State != c.want || c.want != Files && got.Why == "" {
			t.Errorf("vdc1 is %+v; want %s with a reason", got, c.want)
		}
	}
}

// TestCheck: a gap, an overlap, a wrong end and wrong sums are errors that name the place.
func TestCheck(t *testing.T) {
	for want, spoil := range map[string]func(d *Disk){
		"a gap of 512 bytes at 1024":         func(d *Disk) { d.Ranges[1].Start += 512 },
		"an overlap of 1 bytes at 1023":      func(d *Disk) { d.Ranges[1].Start-- },
		"ends at byte 4095, and the disk":    func(d *Disk) { d.Ranges[1].Size-- },
		"ends at byte 1024, and the disk":    func(d *Disk) { d.Ranges = d.Ranges[:1] },
		"has 0 bytes":                        func(d *Disk) { d.Ranges[0].Size = 0 },
		`unknown state "lost" of /dev/x1`:    func(d *Disk) { d.Ranges[0].State = "lost" },
		"the sums are not":                   func(d *Disk) { d.Sums[0].Size++ },
		"has 9223372036854775807 bytes at 1": func(d *Disk) { d.Ranges[1].Size = 1<<63 - 1 },
	} {
		d := Disk{Name: "x", Size: 4096, Ranges: []Range{{0, 1024, Files, "x1", "ext4", ""}, {1024, 3072, Unallocated, "", "unallocated", ""}}}
		d.Sums = sums(d.Ranges)
		r := &Report{Version: Version, Disks: []Disk{d}}
		if err := r.Check(); err != nil {
			t.Fatalf("Check() = %v; want nil", err)
		}
		spoil(&r.Disks[0])
		if err := r.Check(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "/dev/x") {
			t.Errorf("Check() = %v; want %q", err, want)
		}
	}
	l, m := example()
	l.Disks[0].Table.Partitions[3].Size += mib
	if _, err := Of(l, m); err == nil || !strings.Contains(err.Error(), "an overlap of 1048576 bytes at 473956352 of /dev/vda4 (") {
		t.Errorf("Of(partitions that overlap) = %v; want the place", err)
	}
	l, m = example()
	l.VolumeGroup[0].Config = strings.Replace(group, `["pv0", 60]`, `["pv0", 45]`, 1)
	if _, err := Of(l, m); err == nil || !strings.Contains(err.Error(), "an overlap of 20971520 bytes") {
		t.Errorf("Of(volumes that overlap) = %v; want the place", err)
	}
}

func TestReadWrite(t *testing.T) {
	l, m := example()
	var b bytes.Buffer
	if err := of(t, l, m).Write(&b); err != nil {
		t.Fatal(err)
	}
	good := b.String()
	r, err := Read(strings.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	if b.Reset(); r.Write(&b) != nil || b.String() != good {
		t.Errorf("after reading and writing: %s; want %s", b.String(), good)
	}
	for _, bad := range []string{"", "{}", strings.Replace(good, `"version": 1`, `"version": 2`, 1), strings.Replace(good, `"hostname"`, `"nosuch"`, 1), strings.Replace(good, `"start": 0`, `"start": 1`, 1)} {
		if _, err := Read(strings.NewReader(bad)); err == nil {
			t.Errorf("Read(%.60s) = nil; want an error", bad)
		}
	}
}

// FuzzRead: a report of a set is data: it is read, drawn and written as a page, or refused.
func FuzzRead(f *testing.F) {
	l, m := example()
	r, err := Of(l, m)
	if err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(`{"version":1,"disks":[{"name":"a","size":-5,"ranges":null,"sums":[]}],"items":[{"state":"?"}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := Read(bytes.NewReader(in))
		if err != nil {
			return
		}
		var text, page bytes.Buffer
		if err := r.Draw(&text); err != nil || strings.ContainsRune(text.String(), '\x1b') {
			t.Errorf("Draw = %v\n%q", err, &text)
		}
		if err := r.HTML(&page); err != nil {
			t.Errorf("HTML = %v", err)
		}
	})
}

// evil is a name that must be harmless in a terminal and on a page.
const evil = "\x1b[31m<script>alert(1)</script>\"'>"

func TestDraw(t *testing.T) {
	l, m := example()
	l.Disks[0].Model, m.NotCovered = evil, append(m.NotCovered, strings.Repeat("long ", 40))
	var b bytes.Buffer
	if err := of(t, l, m).Draw(&b); err != nil {
		t.Fatal(err)
	}
	bar := regexp.MustCompile(`\[([!FIxm.]+)\]`).FindStringSubmatch(b.String())
	if len(bar) < 2 || len(bar[1]) != barWidth || !strings.HasPrefix(bar[1], "mFFF") || strings.Count(bar[1], "!") != 6 || strings.Count(bar[1], "I") != 6 {
		t.Errorf("bar %q; want 60 letters in proportion", bar)
	}
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(line) - 1; n > columns {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
	for _, want := range []string{"F saved as files        400.0 MiB   40.0 %", "! partition   vda6", "not covered: zfs_member is not supported", "left out by rule: /tmp/*", "NOT COVERED: vda6"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("Draw has no %q:\n%s", want, &b)
		}
	}
	if strings.ContainsRune(b.String(), '\x1b') {
		t.Errorf("Draw passes control characters on: %q", &b)
	}
	small := Disk{Size: 1 << 40, Ranges: []Range{{0, 1<<40 - 512, Files, "", "", ""}, {1<<40 - 512, 512, NotCovered, "", "", ""}}}
	if got, want := small.bar(), strings.Repeat("F", barWidth-1)+"!"; got != want {
		t.Errorf("bar() = %s; want %s", got, want)
	}
}

// TestOmitted: what rules leave out of a file system is taken from what is saved of it; the sums are its size.
func TestOmitted(t *testing.T) {
	l, m := example()
	l.Filesystems[0].Used = 120 * mib
	m.Exclude = []string{"/tmp/*", "/none"}
	m.Omitted = []Omitted{{Rule: "/tmp/*", Device: "vg0/root", Paths: 3, Files: 40, Size: 30 * mib}}
	r, err := Of(l, m)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(r.Items, func(i Item) bool { return i.Kind == "filesystem" && i.Name == "vg0/root" })
	if want := []Sum{{Files, 90 * mib}, {Excluded, 30 * mib}, {Unallocated, 80 * mib}}; !slices.Equal(r.Items[i].Sums, want) {
		t.Errorf("the file system has %v; want %v", r.Items[i].Sums, want)
	}
	var b, page bytes.Buffer
	if err := r.Draw(&b); err != nil {
		t.Fatal(err)
	}
	if err := r.HTML(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/tmp/*: 30.0 MiB of vg0/root, files: 40", "/none: nothing", "saved as files 90.0 MiB, excluded 30.0 MiB, free 80.0 MiB"} {
		if !strings.Contains(b.String(), want) || !strings.Contains(page.String(), want) {
			t.Errorf("no %q in picture or page:\n%s", want, b.String())
		}
	}
}

// TestHTML: the page is well formed, has no script and loads nothing, and its rectangles are
// as wide as the disk.
func TestHTML(t *testing.T) {
	l, m := example()
	l.Hostname, l.Disks[0].Serial, l.Filesystems[0].Mounts[0].Path, m.NotCovered = evil, evil, "/"+evil, []string{evil}
	l.Disks[0].Model = "a\x1b[2Jb\u202e"
	var b bytes.Buffer
	if err := of(t, l, m).HTML(&b); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(b.String(), "\x1b\u202e") {
		t.Error("the page has what a terminal acts on")
	}
	root, err := html.Parse(&b)
	if err != nil {
		t.Fatal(err)
	}
	rects, width := 0, 0.0
	for n := range root.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		if n.Data == "script" || n.Data == "link" || n.Data == "img" {
			t.Errorf("the page has a %s", n.Data)
		}
		for _, a := range n.Attr {
			if a.Key == "src" || a.Key == "href" || strings.HasPrefix(a.Key, "on") {
				t.Errorf("the page has %s=%s", a.Key, a.Val)
			}
			if n.Data == "rect" && a.Key == "width" {
				var w float64
				if _, err := fmt.Sscan(a.Val, &w); err != nil {
					t.Errorf("width %q: %v", a.Val, err)
				}
				rects, width = rects+1, width+w
			}
		}
	}
	if rects != 28 || width < 299.99 || width > 300.01 {
		t.Errorf("%d rectangles of %g %%; want 28 of 300", rects, width)
	}
}

func TestLost(t *testing.T) {
	l, m := example()
	if got, want := strings.Join(of(t, l, m).Lost(), "\n"), "not restored of 1.6 GiB on disks: 529.0 MiB excluded by rules, 100.0 MiB not covered\nfiles left out of the backup by rules: /tmp/*"; got != want {
		t.Errorf("Lost() = %q; want %q", got, want)
	}
	i := slices.IndexFunc(l.Filesystems, func(f layout.Filesystem) bool { return f.InUse() && f.Excluded == "" })
	l.Filesystems[i].Included = []string{"/boot/x"}
	if got, want := strings.Join(of(t, l, m).Lost(), "\n"), "\nnot all of "+l.Filesystems[i].Device+" ("; !strings.Contains(got, want) || !strings.Contains(got, "only /boot/x") {
		t.Errorf("Lost() with include = %q; want %q in it", got, want)
	}
	if got := (&Report{}).Lost(); got != nil {
		t.Errorf("Lost() = %q; want nil", got)
	}
}

// TestMembers: members of an array have its content as far as each has it.
func TestMembers(t *testing.T) {
	for _, c := range []struct {
		level            string
		part, size, used quantity.Size
		want             [2]string
	}{
		{"linear", 0, 198, 120, [2]string{"1M recreated, 99M files", "1M recreated, 21M files, 78M unallocated"}},
		{"raid1", 50, 50, 40, [2]string{"1M recreated, 40M files, 10M unallocated, 49M recreated", "1M recreated, 40M files, 10M unallocated, 49M recreated"}},
		{"raid0", 0, 198, 120, [2]string{"1M recreated, 60M files, 39M unallocated", "1M recreated, 60M files, 39M unallocated"}},
	} {
		l := &layout.Layout{Disks: []layout.Disk{{Name: "a", Size: 100 * mib}, {Name: "b", Size: 100 * mib}},
			Arrays:      []layout.Array{{Name: "md0", Level: c.level, Metadata: "1.2", Devices: 2, Members: []layout.Member{{Device: "a"}, {Device: "b", Role: 1}}, Data: mib, Part: c.part * mib, Size: c.size * mib}},
			Filesystems: []layout.Filesystem{{Device: "md0", Type: "ext4", Size: c.used * mib, Mounts: []layout.Mount{{Path: "/"}}}}}
		r := of(t, l, Marks{})
		for i, want := range c.want {
			var got []string
			for line := range strings.Lines(text(r.Disks[i].Ranges)) {
				got = append(got, strings.Join(strings.Fields(line)[:2], " "))
			}
			if strings.Join(got, ", ") != want {
				t.Errorf("%s: member %d has %s; want %s", c.level, i, strings.Join(got, ", "), want)
			}
		}
	}
}
