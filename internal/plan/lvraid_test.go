package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// raidGroup gives a machine with three disks and a group over them with a linear
// volume, a raid1, a raid5, and an old mirror with
// a log; extents lie as LVM would have put them.
func raidGroup(t *testing.T) *layout.Layout {
	t.Helper()
	l := machine(layout.GPT, []quantity.Size{20 * gib, 20 * gib, 20 * gib}, [][]part{{{5 * gib, "ext4 /", gib}, {14 * gib, "pv vg0", 0}}, {{14 * gib, "pv vg0", 0}}, {{14 * gib, "pv vg0", 0}}},
		map[string][]lvol{"vg0": {{"plain", "ext4 /plain", 3 * gib, gib}, {"two", "ext4 /two", 4 * gib, gib}, {"five", "xfs /five", 8 * gib, 2 * gib}, {"old", "ext4 /old", gib, 200 * mib}}})
	g := &l.VolumeGroup[0]
	s, err := lvmtext.Parse(g.Config)
	if err != nil {
		t.Fatal(err)
	}
	lvs := s.Get("vg0", "logical_volumes")
	free := []extents{{"pv0", 0, 3583}, {"pv1", 0, 3583}, {"pv2", 0, 3583}}
	add := func(name string, n int64, on int) {
		lv := &lvmtext.Section{Name: name}
		lv.Set("id", lvmUID(int(n)+on))
		lvs.Nodes = append(lvs.Nodes, lvmtext.Node{Key: name, Section: lv})
		linear(lv, n, &free[on])
	}
	linear(lvs.Get("plain"), 768, &free[0])
	for _, c := range []struct {
		name, typ string
		images    int
		extents   int64 // of an image
	}{{"two", "raid1", 2, 1024}, {"five", "raid5_ls", 3, 1024}, {"old", layout.TypeMirror, 2, 256}} {
		lv := lvs.Get(c.name)
		seg, n := lv.Sections()[0], length(lv)
		seg.Set("extent_count", n)
		lv.Replace(func(string) bool { return true }, seg)
		lv.Set("segment_count", int64(1))
		seg.Nodes = slices.DeleteFunc(seg.Nodes, func(n lvmtext.Node) bool { return strings.HasPrefix(n.Key, "stripe") })
		seg.Set("type", c.typ)
		list := []lvmtext.Value{}
		for i := range c.images {
			on := (i + 1) % 3
			if c.typ == layout.TypeMirror {
				list = append(list, fmt.Sprintf("%s_mimage_%d", c.name, i), int64(0))
				add(fmt.Sprintf("%s_mimage_%d", c.name, i), c.extents, on)
				continue
			}
			list = append(list, fmt.Sprintf("%s_rmeta_%d", c.name, i), fmt.Sprintf("%s_rimage_%d", c.name, i))
			add(fmt.Sprintf("%s_rmeta_%d", c.name, i), 1, on)
			add(fmt.Sprintf("%s_rimage_%d", c.name, i), c.extents, on)
		}
		key := "raids"
		if c.typ == layout.TypeMirror {
			key = "mirrors"
			seg.Set("mirror_log", "old_mlog")
			add("old_mlog", 1, 0)
		}
		seg.Set(key, list)
		for i := range g.LVs {
			if g.LVs[i].Name == c.name {
				g.LVs[i].Type = c.typ
			}
		}
	}
	g.Config = s.String()
	return l
}

// TestFitLVRAID: RAID volumes shrink and grow with their group. Images stay on
// physical volumes of their own, and no extent is given away twice.
func TestFitLVRAID(t *testing.T) {
	l := raidGroup(t)
	if err := l.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, size := range []quantity.Size{9 * gib, 12 * gib, 20 * gib, 60 * gib} {
		is, err := fit(l, onto(l, size, size, size), Wish{})
		if err != nil {
			t.Fatalf("%s: %v", size, err)
		}
		g := is.VolumeGroup[0]
		if size == 20*gib {
			if g.Config != l.VolumeGroup[0].Config {
				t.Error("the same disks change something")
			}
			continue
		}
		s, err := lvmtext.Parse(g.Config)
		if err != nil {
			t.Fatal(err)
		}
		vg := s.Get("vg0")
		taken := map[string]string{} // extent -> volume
		on := map[string]string{}
		for _, lv := range vg.Get("logical_volumes").Sections() {
			for _, seg := range lv.Sections() {
				list := seg.List("stripes")
				if len(list) != 2 {
					continue
				}
				pv, first := list[0].(string), list[1].(int64)
				k, _ := seg.Int("extent_count")
				count, _ := vg.Get("physical_volumes", pv).Int("pe_count")
				if first+k > count {
					t.Errorf("%s: %s ends at %d of %s, which has %d", size, lv.Name, first+k, pv, count)
				}
				for e := first; e < first+k; e++ {
					at := fmt.Sprint(pv, " ", e)
					if taken[at] != "" {
						t.Fatalf("%s: %s has %s of %s", size, lv.Name, at, taken[at])
					}
					taken[at] = lv.Name
				}
				on[lv.Name] = pv
			}
		}
		for _, c := range []struct {
			name, image string
			images      int
			data        int64
		}{{"two", "two_rimage_", 2, 1}, {"five", "five_rimage_", 3, 2}, {"old", "old_mimage_", 2, 1}} {
			var v layout.LogicalVolume
			for _, x := range g.LVs {
				if x.Name == c.name {
					v = x
				}
			}
			n, _ := vg.Get("logical_volumes", c.name, "segment1").Int("extent_count")
			if quantity.Size(n)*g.ExtentSize != v.Size || n%c.data != 0 {
				t.Errorf("%s: %s has %d extents and %s", size, c.name, n, v.Size)
			}
			pvs := map[string]bool{}
			for i := range c.images {
				name := fmt.Sprint(c.image, i)
				pvs[on[name]] = true
				if k := length(vg.Get("logical_volumes", name)); k != n/c.data {
					t.Errorf("%s: %s has %d extents for %d", size, name, k, n)
				}
				if meta := strings.Replace(name, "rimage", "rmeta", 1); meta != name && on[meta] != on[name] {
					t.Errorf("%s: %s is on %s, its metadata on %s", size, name, on[name], on[meta])
				}
			}
			if len(pvs) != c.images {
				t.Errorf("%s: the images of %s lie on %v", size, c.name, pvs)
			}
			fs := is.Mounted("/" + c.name)
			if least := Least(fs); v.Size < least {
				t.Errorf("%s: %s has %s, and needs %s", size, c.name, v.Size, least)
			}
			if old := l.Mounted("/" + c.name).Size; size > 20*gib && v.Size <= old || size < 10*gib && v.Size >= old {
				t.Errorf("%s: %s has %s, had %s", size, c.name, v.Size, old)
			}
		}
	}
	var r *exit.Refusal
	if _, err := fit(l, onto(l, 3*gib, 3*gib, 2*gib), Wish{}); !errors.As(err, &r) {
		t.Errorf("too small: %v", err)
	}
	if _, err := fit(l, onto(l, 60*gib, 60*gib, 60*gib), Wish{Sizes: map[string]quantity.Size{"/two": 6 * gib}}); err != nil {
		t.Errorf("a size wished for: %v", err)
	}
	// In the middle of a change of its shape it keeps its size.
	g := &l.VolumeGroup[0]
	g.Config = strings.Replace(g.Config, "type = \"raid5_ls\"", "type = \"raid5_ls\"\n\t\t\t\tdata_offset = 8192", 1)
	if _, err := fit(l, onto(l, 20*gib, 20*gib, 12*gib), Wish{}); err == nil || !strings.Contains(err.Error(), "LVM with RAID volumes") {
		t.Errorf("while it is changed: %v", err)
	}
}
