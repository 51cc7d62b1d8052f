package restore

import (
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
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
