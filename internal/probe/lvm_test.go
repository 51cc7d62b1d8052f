package probe

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
)

// TestCacheless takes the caches out of what vgcfgbackup(8) of LVM 2.03.16 wrote
// of a group with a cache pool, a cache volume before a striped volume, a pool
// of nobody and a mirror with a log.
func TestCacheless(t *testing.T) {
	b, err := os.ReadFile("testdata/caches.vg")
	if err != nil {
		t.Fatal(err)
	}
	g := layout.VolumeGroup{Name: "vg0", Config: string(b), Caches: []string{"home", "str", "idle"},
		LVs: []layout.LogicalVolume{{Name: "home"}, {Name: "str"}, {Name: "wc"}, {Name: "wfast"}, {Name: "om", Type: layout.TypeMirror}}}
	if err := cacheless(&g); err != nil {
		t.Fatal(err)
	}
	text, err := lvmtext.Parse(g.Config)
	if err != nil {
		t.Fatal(err)
	}
	lvs := text.Get("vg0", "logical_volumes")
	var names []string
	for _, s := range lvs.Sections() {
		names = append(names, s.Name)
	}
	if want := "home str wc wfast om om_mimage_0 om_mimage_1 om_mlog"; strings.Join(names, " ") != want {
		t.Errorf("volumes %s; want %s", names, want)
	}
	if s := lvs.Get("home", "segment1"); s.Type() != "striped" || !slices.Equal(s.List("stripes"), []lvmtext.Value{"pv0", int64(0)}) || lvs.Get("home").Str("id") != "xWrV3R-zCA0-rj5v-LKLj-KlRA-3PET-1Xrt1G" {
		t.Errorf("home is %s", lvs.Get("home"))
	}
	if g.LVs[0].Type != "" || g.LVs[1].Type != "striped" {
		t.Errorf("types %+v", g.LVs)
	}
	if strings.Contains(g.Config, "cache") && !strings.Contains(g.Config, "vgcfgbackup") {
		t.Error("something of the caches is left")
	}
	for _, bad := range []string{"nosuch", "wc"} {
		g := layout.VolumeGroup{Name: "vg0", Config: string(b), Caches: []string{bad}}
		if err := cacheless(&g); err == nil {
			t.Errorf("%s is taken for a cached volume", bad)
		}
	}
}

// FuzzCacheless: whatever vgcfgbackup writes of a group with caches is understood or is an
// error.
func FuzzCacheless(f *testing.F) {
	b, err := os.ReadFile("testdata/caches.vg")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(b))
	f.Fuzz(func(t *testing.T, text string) {
		g := layout.VolumeGroup{Name: "vg0", Config: text, Caches: []string{"home", "str", "idle"},
			LVs: []layout.LogicalVolume{{Name: "home"}, {Name: "str"}, {Name: "wc"}, {Name: "om", Type: layout.TypeMirror}}}
		if cacheless(&g) == nil {
			if _, err := lvmtext.Parse(g.Config); err != nil {
				t.Errorf("it wrote what it does not read: %v", err)
			}
		}
	})
}
