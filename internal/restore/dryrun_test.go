package restore

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
	"github.com/mkcdrec/mkcdrec/internal/plan"
)

// A btrfs on two devices is the same one, whichever of them comes first: loop
// devices get other numbers when a dry run is resumed.
func TestStorage(t *testing.T) {
	btrfs := func(first, other string, extra ...layout.Subvolume) *layout.Layout {
		return &layout.Layout{Filesystems: []layout.Filesystem{{Device: first, Others: []string{other}, Type: "btrfs", UUID: "AB", Label: "root", Subvolumes: append([]layout.Subvolume{{Path: "@", Default: true}}, extra...)}}}
	}
	names := map[string]string{"loop0p2": "vdb2", "loop1p2": "vda2"}
	want := parts(btrfs("vda2", "vdb2"), nil, map[string]string{"vda2": "loop1p2", "vdb2": "loop0p2"})
	if got := strings.Join(want, "; "); got != `btrfs on vda2 and vdb2 ab "root"; subvolume @ of vda2 and vdb2, default true` {
		t.Errorf("planned: %s", got)
	}
	for _, l := range []*layout.Layout{btrfs("loop0p2", "loop1p2"), btrfs("loop1p2", "loop0p2")} {
		if got := parts(l, names, nil); !slices.Equal(got, want) {
			t.Errorf("made: %q; want %q", got, want)
		}
	}
	if got := parts(btrfs("loop0p2", "loop1p2", layout.Subvolume{Path: "@home"}), names, nil); slices.Equal(got, want) {
		t.Errorf("a subvolume too many is not seen: %q", got)
	}
	if got := parts(btrfs("sda1", "sdb1"), nil, map[string]string{"vda2": "loop1p2"}); len(got) != 0 {
		t.Errorf("what was not made counts: %q", got)
	}
}

// RAID volumes of a dry run are brought in step slowly, and nothing else changes.
func TestSlowly(t *testing.T) {
	lv := func(name, typ string) string {
		return name + " {\nstatus = [\"READ\"]\nsegment1 {\ntype = \"" + typ + "\"\n}\n}\n"
	}
	g := layout.VolumeGroup{Name: "vg", Config: "vg {\nlogical_volumes {\n" + lv("a", "raid1") + lv("b", "striped") + lv("c", "mirror") + lv("d", "raid0") + lv("e", "raid5_ls") + "}\n}\n"}
	if err := slowly(&g); err != nil {
		t.Fatal(err)
	}
	p, err := lvmtext.Parse(g.Config)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, lv := range p.Get("vg", "logical_volumes").Sections() {
		n, _ := lv.Get("segment1").Int("min_recovery_rate")
		x, _ := lv.Get("segment1").Int("max_recovery_rate")
		got += fmt.Sprint(lv.Name, n, x, " ")
	}
	if got != "a1 1 b0 0 c0 0 d0 0 e1 1 " {
		t.Error(got)
	}
	g.Config = "vg {"
	if err := slowly(&g); err == nil {
		t.Error("a text without end is taken")
	}
}

func TestInMemory(t *testing.T) {
	for _, c := range []struct {
		kind, run, want string
	}{
		{"array", "mdadm --create /dev/md0 --run", "mdadm --create /dev/md0 --assume-clean --run"},
		{"ext3", "mke2fs -E stride=16 /dev/x", "mke2fs -E stride=16,lazy_itable_init=1,lazy_journal_init=1 /dev/x"},
		{"xfs", "mkfs.xfs /dev/x", "mkfs.xfs /dev/x"},
	} {
		run := strings.Fields(c.run)
		var s plan.Step = &plan.MakeArray{Run: [][]string{run}}
		if c.kind != "array" {
			s = &plan.MakeFS{FS: &layout.Filesystem{Type: c.kind}, Run: [][]string{run}}
		}
		inMemory(s)
		if got := strings.Join(plan.Commands(s)[0], " "); got != c.want || strings.Join(run, " ") != c.run {
			t.Errorf("%s: %s; the plan's own: %s", c.run, got, run)
		}
	}
}
