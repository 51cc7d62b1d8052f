package plan

import (
	"errors"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

func at(p layout.Present, slot string) layout.Present {
	p.Place = layout.Place{Path: slot + "/block/" + p.Name, Dev: "8:0", Seq: 7}
	return p
}

// TestSharedSerial: a serial number or WWN that two present disks have identifies and
// confirms neither; the slot does then.
func TestSharedSerial(t *testing.T) {
	const g = quantity.GiB
	same := []layout.Present{at(disk("sda", "OLD1", 6*g), "pci/1"), at(disk("sdb", "OLD1", 6*g), "pci/2")}
	if m, err := mapDisks(wanted(), same, Wish{}); err == nil {
		t.Errorf("mapped by a serial number that two have: %v", m)
	}
	if m, err := mapDisks(wanted(), same, Wish{Confirmed: []string{"OLD1"}}); err == nil {
		t.Errorf("confirmed by a serial number that two have: %v", m)
	}
	if m, err := mapDisks(wanted(), same, Wish{Map: map[string]string{"vda": "OLD1"}}); err == nil {
		t.Errorf("named by a serial number that two have: %v", m)
	}
	w := Wish{Map: map[string]string{"vda": "sdb"}}
	m, err := mapDisks(wanted(), same, w)
	if err != nil {
		t.Fatal(err)
	}
	p, err := steps(wanted(), m)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		said string
		ok   bool
	}{{"OLD1", false}, {"sdb", false}, {"/dev/sdb", false}, {"", false}, {"pci/1", false}, {"pci/2", true}} {
		if err := p.Check([]string{c.said}); (err == nil) != c.ok {
			t.Errorf("Check(%q) = %v", c.said, err)
		}
	}
	if want := "the path of its slot (pci/2)"; p.Disks[0].Ask() != want {
		t.Errorf("Ask() = %q; want %q", p.Disks[0].Ask(), want)
	}
	// The other one's WWN is this one's serial number.
	mixed := []layout.Present{disk("sda", "X", 6*g), disk("sdb", "Y", 6*g)}
	mixed[1].WWN = "X"
	for _, q := range layout.Identify(mixed) {
		if q.Is("X") {
			t.Errorf("X confirms %s", q.Name)
		}
	}
	// With a different WWN each, that is what confirms them.
	same[0].WWN, same[1].WWN = "w1", "w2"
	if m, err := mapDisks(wanted(), same, Wish{Confirmed: []string{"w2"}}); err != nil || m["vda"].Name != "sdb" {
		t.Errorf("%v, %v", m, err)
	}
	// Nothing at all tells them apart: neither can be confirmed.
	bare := []layout.Present{disk("sda", "S", 6*g), disk("sdb", "S", 6*g)}
	m, err = mapDisks(wanted(), bare, w)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = steps(wanted(), m); err != nil {
		t.Fatal(err)
	}
	if err := p.Check([]string{"S", "sdb", ""}); err == nil || !strings.Contains(err.Error(), "cannot be confirmed") {
		t.Errorf("Check = %v", err)
	}
	// Where a disk is says nothing of what the plan makes.
	moved := at(same[1], "pci/9")
	q, err := steps(wanted(), Mapping{"vda": moved})
	if err != nil {
		t.Fatal(err)
	}
	first, err := steps(wanted(), Mapping{"vda": same[1]})
	if err != nil || first.Digest() != q.Digest() {
		t.Errorf("the digest depends on the slot: %v", err)
	}
}

// TestDuplicates: what is on disks that stay is refused where it would be mixed up with
// what is restored, and a warning where it is harmless.
func TestDuplicates(t *testing.T) {
	l := wanted()
	l.Arrays = []layout.Array{{Name: "md0", UUID: "1:2:3:4", Level: "raid1", Devices: 2, Members: []layout.Member{{Device: "vda1"}}}}
	l.Filesystems[1].UUID = "22222222-2222-3333-4444-555555555555"
	l.Filesystems[2].UUID = "33333333-2222-3333-4444-555555555555"
	l.Swap[0].UUID = "44444444-2222-3333-4444-555555555555"
	have := []layout.Present{disk("sda", "OLD1", 6*quantity.GiB), disk("sdb", "DATA", 6*quantity.GiB)}
	have[1].Table = l.Disks[0].Table
	p, err := steps(l, Mapping{"vda": have[0]})
	if err != nil {
		t.Fatal(err)
	}
	there := func(dev, disk, typ, uuid, name string) []Identity {
		return []Identity{{Device: dev, Disks: []string{disk}, Type: typ, UUID: uuid, Name: name}}
	}
	for _, c := range []struct {
		name       string
		there      []Identity
		want, warn string
	}{
		{"physical volume", there("sdb3", "sdb", superblock.TypeLVM, lvm1, ""), "/dev/sdb3 holds an LVM physical volume", ""},
		{"group by name", there("sdb3", "sdb", TypeGroup, "other", "vg0"), "volume group vg0", ""},
		{"group by UUID", there("sdb3", "sdb", TypeGroup, lvm1, "other"), "volume group other", ""},
		{"array", there("sdb1", "sdb", superblock.TypeMD, "1:2:3:4", ""), "a member of a RAID array", ""},
		{"xfs", there("sdb1", "sdb", fstype.TypeXFS, strings.ToUpper(l.Filesystems[2].UUID), ""), "file system of type xfs", ""},
		{"xfs where an ext4 is made", there("sdb1", "sdb", fstype.TypeXFS, l.Filesystems[1].UUID, ""), "file system of type xfs", ""},
		{"btrfs", there("sdb1", "sdb", fstype.TypeBtrfs, l.Filesystems[1].UUID, ""), "file system of type btrfs", ""},
		{"ext4", there("sdb1", "sdb", fstype.TypeExt4, l.Filesystems[1].UUID, ""), "", "/dev/sdb1 holds a file system of type ext4 with the UUID 22222222"},
		{"swap", there("sdb1", "sdb", fstype.TypeSwap, l.Swap[0].UUID, ""), "", "/dev/sdb1 holds swap"},
		{"on the disk that is overwritten", there("sda3", "sda", superblock.TypeLVM, lvm1, ""), "", ""},
		{"a group half of which is", []Identity{{Device: "sda3", Disks: []string{"sda", "sdb"}, Type: TypeGroup, Name: "vg0"}}, "volume group vg0", ""},
		{"another UUID", there("sdb1", "sdb", fstype.TypeXFS, "55555555-2222-3333-4444-555555555555", ""), "", ""},
	} {
		warn, err := p.Duplicates(have[:1], c.there)
		var r *exit.Refusal
		if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &r) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
		if (c.warn == "") != (len(warn) == 0) || !strings.Contains(strings.Join(warn, "\n"), c.warn) {
			t.Errorf("%s: warnings %q; want %q", c.name, warn, c.warn)
		}
	}
	if warn, err := p.Duplicates(have, nil); err != nil || len(warn) != 1 || !strings.Contains(warn[0], "the table of /dev/sdb has the identifier") {
		t.Errorf("tables: %q, %v", warn, err)
	}
	// One partition alone is made again: others of its disk stay.
	only, err := Only(l, Wish{}, "/home", "sda9", 2*quantity.GiB, have[:1])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := only.Duplicates(nil, there("sda3", "sda", fstype.TypeXFS, l.Filesystems[2].UUID, "")); err == nil {
		t.Error("--only beside the old one is accepted")
	}
	if _, err := only.Duplicates(nil, there("sda9", "sda", fstype.TypeXFS, l.Filesystems[2].UUID, "")); err != nil {
		t.Errorf("--only on the old one: %v", err)
	}
}

// TestOddTablePresent: a damaged table of a disk that stays stops nothing.
func TestOddTablePresent(t *testing.T) {
	odd := disk("sdb", "DATA", 6*quantity.GiB)
	odd.Table = &layout.Table{Label: layout.GPT, Partitions: []layout.Partition{{Number: 1, Start: 512, Size: 1 << 50}, {Number: 1, Start: 0, Size: 100}, {Number: 999, Start: -5, Size: -7}}}
	have := []layout.Present{disk("sda", "OLD1", 6*quantity.GiB), odd}
	m, err := mapDisks(wanted(), have, Wish{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := steps(wanted(), m)
	if err != nil || m["vda"].Name != "sda" {
		t.Fatalf("%v, %v", m["vda"].Name, err)
	}
	if warn, err := p.Duplicates(have, nil); err != nil || len(warn) > 0 {
		t.Errorf("%q, %v", warn, err)
	}
}

// TestUnusedGroup: a group without anything to be restored, half of which is on a disk
// that is not needed, is left out and stops nothing.
func TestUnusedGroup(t *testing.T) {
	l := machine(layout.GPT, []quantity.Size{20 * gib, 20 * gib}, [][]part{{{5 * gib, "ext4 /", gib}, {9 * gib, "pv vg0", 0}}, {{9 * gib, "pv vg0", 0}}}, map[string][]lvol{"vg0": {{"unused", "raw", gib, 0}}})
	if got := l.Needed(); len(got) != 1 {
		t.Fatalf("needed: %q", got)
	}
	p, err := steps(l, Mapping{"sda": disk("vda", "N", 20*gib)})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range p.Steps {
		switch s.(type) {
		case *MakePV, *RestoreVG:
			t.Errorf("%s", s)
		}
	}
}
