package plan

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// oddGroup is a group with history, a thin pool with mirrored metadata, linked clones, a
// mirror with integrity and a snapshot, on three disks; the text is one that
// vgcfgrestore takes.
func oddGroup(t *testing.T) *layout.Layout {
	t.Helper()
	b, err := os.ReadFile("testdata/odd.vg")
	if err != nil {
		t.Fatal(err)
	}
	g := layout.VolumeGroup{Name: "vgplan", UUID: "RonoRb-hkXe-bqLe-dDKt-fwtg-T0wy-f6clrB", ExtentSize: 4 * mib, Config: string(b)}
	l := &layout.Layout{Version: layout.Version, Hostname: "h", Boot: layout.Boot{Firmware: layout.BIOS}}
	for i, id := range []string{"sBd", "aBd", "bBd"} {
		name := "sd" + letters(i)
		l.Disks = append(l.Disks, layout.Disk{Name: name, Serial: "OLD-" + name, Size: 300 * mib, LogicalSector: 512, PhysicalSector: 512})
		g.PVs = append(g.PVs, layout.PhysicalVolume{Device: name, UUID: id + "3By-FDT8-l1pL-bUqw-y1tl-JpIX-bZ3RcW", Size: 300 * mib})
	}
	add := func(v layout.LogicalVolume, size quantity.Size) {
		v.UUID, v.Size = lvmUID(len(g.LVs)), size
		g.LVs = append(g.LVs, v)
	}
	add(layout.LogicalVolume{Name: "plain"}, 20*mib)
	add(layout.LogicalVolume{Name: "mir", Type: "raid1"}, 24*mib)
	add(layout.LogicalVolume{Name: "pool", Type: layout.TypeThinPool, ThinPool: &layout.ThinPool{Chunk: 64 * quantity.KiB, Metadata: 4 * mib, Zero: true, Discards: "passdown"}}, 40*mib)
	for _, n := range []string{"base", "child", "linked"} {
		add(layout.LogicalVolume{Name: n, Type: layout.TypeThin, Pool: "pool"}, 16*mib)
	}
	l.VolumeGroup = []layout.VolumeGroup{g}
	l.Swap = []layout.Swap{{Device: "vgplan/plain", UUID: uid(1), Size: 20 * mib, Active: true}}
	return l
}

// TestThinless: nothing refers to what is not there any more, and nothing is left over.
func TestThinless(t *testing.T) {
	l := oddGroup(t)
	if err := l.Validate(); err != nil {
		t.Fatal(err)
	}
	text, err := Thinless(&l.VolumeGroup[0])
	if err != nil {
		t.Fatal(err)
	}
	s, err := lvmtext.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range s.Get("vgplan", "logical_volumes").Sections() {
		names = append(names, v.Name)
	}
	slices.Sort(names)
	if want := []string{"mir", "mir_rimage_0", "mir_rimage_1", "mir_rmeta_0", "mir_rmeta_1", "plain"}; !slices.Equal(names, want) {
		t.Errorf("volumes %q; want %q", names, want)
	}
	for _, w := range []string{"historical", "integrity", "gone", "thin", "pmspare", "snapshot"} {
		if strings.Contains(text, w+" ") || strings.Contains(text, w+"_") || strings.Contains(text, `"`+w) {
			t.Errorf("the text has %s:\n%s", w, text)
		}
	}
	if !strings.Contains(text, `"odd.+#!:&=/"`) {
		t.Error("a tag is missing")
	}
	m := onto(l, 300*mib, 300*mib, 300*mib)
	if _, err := steps(l, m); err != nil {
		t.Error(err)
	}
	// On other disks it is fitted, and still whole.
	m = onto(l, 500*mib, 400*mib, 900*mib)
	fit, err := fit(l, m, Wish{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := steps(fit, m); err != nil {
		t.Error(err)
	}
}

// TestCheckGroup: what a program would refuse after the disks are wiped is refused by the
// plan.
func TestCheckGroup(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{`"mir_rimage_0", "mir_rmeta_1"`, `"mir_rimage_7", "mir_rmeta_1"`, "volume mir refers to mir_rimage_7, which is not there"},
		{`stripes = ["pv0", 0]`, `stripes = ["pv7", 0]`, "volume plain refers to pv7, which is not there"},
		{`stripes = ["pv0", 0]`, `stripes = ["pv0", 70]`, "is on extents 70 to 74 of pv0, which has 74"},
		{`stripes = ["pv0", 0]`, `stripes = ["pv1", 0]`, "of pv1 is used twice"},
		{"pe_count = 74", "pe_count = 75", "75 extents from sector 2048 on are more than"},
		{`id = "sBd3By`, `id = "xBd3By`, "that was missing when the backup was made"},
		{"extent_count = 5\n", "extent_count = 4\n", "volume plain has 16777216 bytes by the metadata, and needs 20971520"},
		{"start_extent = 0\n\t\t\t\textent_count = 5", "start_extent = 1\n\t\t\t\textent_count = 5", "begins at extent 1"},
		{"segment_count = 1", "segment_count = 2", "and its count is 2"},
		{`type = "striped"`, `type = "vdo"`, "volumes of type vdo cannot be made again"},
		{"extent_size = 8192", "extent_size = 4096", "its extents have 4096 sectors by the metadata"},
		{"\n\t\tplain {", "\n\t\tother {", "its metadata has no volume plain"},
		{"vgplan {", "another {", "is not of a group vgplan"},
		{"segment_count", "segment_count {", "cannot read LVM metadata"},
	} {
		l := oddGroup(t)
		g := &l.VolumeGroup[0]
		config := strings.Replace(g.Config, c.from, c.to, 1)
		if config == g.Config {
			t.Fatalf("%q is not in the text", c.from)
		}
		g.Config = config
		_, err := steps(l, onto(l, 300*mib, 300*mib, 300*mib))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v; want %q", c.to, err, c.want)
		}
	}
	l := oddGroup(t)
	l.VolumeGroup[0].LVs[2].Size = 900 * mib
	var r *exit.Refusal
	if _, err := steps(l, onto(l, 300*mib, 300*mib, 300*mib)); !errors.As(err, &r) || !strings.Contains(err.Error(), "thin pools need 227 extents") {
		t.Errorf("no room for a pool: %v", err)
	}
}
