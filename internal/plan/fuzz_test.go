package plan

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// FuzzGroup: no text of a volume group, which comes from a set, makes the plan panic: it
// is planned for smaller and larger disks, or refused.
func FuzzGroup(f *testing.F) {
	odd, err := os.ReadFile("testdata/odd.vg")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(odd))
	const head = "vg0 {\nextent_size = 8192\nphysical_volumes {\npv0 {\nid = \"sBd3By-FDT8-l1pL-bUqw-y1tl-JpIX-bZ3RcW\"\ndev_size = 16777216\npe_start = 2048\npe_count = 2000\n}\n}\nlogical_volumes {\n"
	for _, seg := range []string{
		"type = \"striped\"\nstripe_count = 1\nstripes = [\"pv0\", 0]",
		"type = \"striped\"\nstripe_count = 2\nstripe_size = 128\nstripes = [\"pv0\", 0, \"pv0\", 500]",
		"type = \"raid1\"\ndevice_count = 2\nregion_size = 4096\nraids = [\"a_rmeta_0\", \"a_rimage_0\", \"a_rmeta_1\", \"a_rimage_1\"]",
		"type = \"mirror\"\nmirror_count = 2\nmirror_log = \"a_mlog\"\nregion_size = 4096\nmirrors = [\"a\", 0, \"a\", 0]",
	} {
		f.Add(head + "mir {\nid = \"aBd3By-FDT8-l1pL-bUqw-y1tl-JpIX-bZ3RcW\"\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\nsegment_count = 1\nsegment1 {\nstart_extent = 0\nextent_count = 100\n" + seg + "\n}\n}\n}\n}\n")
	}
	f.Fuzz(func(t *testing.T, text string) {
		name := "vg0"
		if strings.Contains(text, "vgplan {") {
			name = "vgplan"
		}
		l := twoDisks()
		l.Filesystems = slices.DeleteFunc(l.Filesystems, func(fs layout.Filesystem) bool { return strings.HasPrefix(fs.Device, "vg0/") })
		g := &l.VolumeGroup[0]
		g.Config, g.Name = text, name
		g.LVs = []layout.LogicalVolume{{Name: "plain", Size: 400 * mib}, {Name: "mir", Type: "raid1", Size: 400 * mib}}
		for _, size := range []int64{15, 20, 30} {
			m := onto(l, 10*gib, gib*quantity.Size(size))
			if is, err := fit(l, m, Wish{}); err == nil {
				_, _ = steps(is, m)
			}
		}
		if c, err := Thinless(g); err == nil {
			_ = checkGroup(l, g, c)
		}
	})
}
