package restore

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
)

// A btrfs on two devices is the same one, whichever of them comes first: loop
// devices get other numbers when a dry run is resumed.
func TestStorage(t *testing.T) {
	btrfs := func(first, other string, extra ...layout.Subvolume) *layout.Layout {
		return &layout.Layout{Filesystems: []layout.Filesystem{{Device: first, Others: []string{other}, Type: "btrfs", UUID: "AB", Label: "root", Subvolumes: append([]layout.Subvolume{{Path: "@", Default: true}}, extra...)}}}
	}
	names := map[string]string{"loop0p2": "vdb2", "loop1p2": "vda2"}
	want := storage(btrfs("vda2", "vdb2"), nil, map[string]string{"vda2": "loop1p2", "vdb2": "loop0p2"})
	if got := strings.Join(want, "; "); got != `btrfs on vda2 and vdb2 ab "root"; subvolume @ of vda2 and vdb2, default true` {
		t.Errorf("planned: %s", got)
	}
	for _, l := range []*layout.Layout{btrfs("loop0p2", "loop1p2"), btrfs("loop1p2", "loop0p2")} {
		if got := storage(l, names, nil); !slices.Equal(got, want) {
			t.Errorf("made: %q; want %q", got, want)
		}
	}
	if got := storage(btrfs("loop0p2", "loop1p2", layout.Subvolume{Path: "@home"}), names, nil); slices.Equal(got, want) {
		t.Errorf("a subvolume too many is not seen: %q", got)
	}
	if got := storage(btrfs("sda1", "sdb1"), nil, map[string]string{"vda2": "loop1p2"}); len(got) != 0 {
		t.Errorf("what was not made counts: %q", got)
	}
}

// RAID volumes and mirrors of a dry run are in step, and nothing else changes.
func TestInStep(t *testing.T) {
	lv := func(name, status, typ string) string {
		return name + " {\nstatus = [" + status + "]\nsegment1 {\ntype = \"" + typ + "\"\n}\n}\n"
	}
	g := layout.VolumeGroup{Name: "vg", Config: "vg {\nlogical_volumes {\n" + lv("a", `"READ"`, "raid1") + lv("b", `"READ"`, "striped") + lv("c", `"READ", "NOTSYNCED"`, "mirror") + lv("d", `"READ"`, "raid0") + lv("e", `"READ"`, "raid5_ls") + "}\n}\n"}
	if err := inStep(&g); err != nil {
		t.Fatal(err)
	}
	p, err := lvmtext.Parse(g.Config)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, lv := range p.Get("vg", "logical_volumes").Sections() {
		got += fmt.Sprint(lv.Name, lv.List("status"), " ")
	}
	if got != "a[READ NOTSYNCED] b[READ] c[READ NOTSYNCED] d[READ] e[READ NOTSYNCED] " {
		t.Error(got)
	}
	g.Config = "vg {"
	if err := inStep(&g); err == nil {
		t.Error("a text without end is taken")
	}
}
