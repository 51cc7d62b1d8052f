package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// lvRAID is how a RAID volume or an old mirror is in its group, lvmraid(7): each
// image, with its metadata, on a physical volume of its own.
type lvRAID struct {
	seg           *lvmtext.Section // of the volume itself
	images, metas []*lvmtext.Section
	log           *lvmtext.Section // of a mirror; nil for none
	data          int64            // as many images as carry data that no other has
}

// raidVolume reads a volume's RAID from its group's volumes; nil when it has a
// form that is not known, and keeps its size.
func raidVolume(lvs *lvmtext.Section, v layout.LogicalVolume) *lvRAID {
	lv := lvs.Get(v.Name)
	if lv == nil || len(lv.Sections()) != 1 {
		return nil
	}
	r := &lvRAID{seg: lv.Sections()[0]}
	mirror := v.Type == layout.TypeMirror
	images := "raids"
	if mirror {
		images = "mirrors"
	}
	list := r.seg.List(images)
	if len(list) < 2 || len(list)%2 != 0 || r.seg.Type() != v.Type {
		return nil
	}
	for i := 0; i < len(list); i += 2 {
		image, meta := list[i+1], list[i]
		if mirror { // names, and where they begin
			image, meta = list[i], nil
		}
		name, _ := image.(string) // without a name there is no volume
		s := unstriped(lvs, name)
		if s == nil {
			return nil
		}
		r.images = append(r.images, s)
		if meta != nil {
			name, _ := meta.(string)
			if s = unstriped(lvs, name); s == nil {
				return nil
			}
			r.metas = append(r.metas, s)
		}
	}
	if l := r.seg.Str("mirror_log"); l != "" {
		if r.log = unstriped(lvs, l); r.log == nil {
			return nil
		}
	}
	r.data = dataImages(v.Type, r.seg, int64(len(r.images)))
	set := func(key string) bool { _, ok := r.seg.Int(key); return ok }
	unfinished := slices.ContainsFunc([]string{"data_offset", "reshape_count", "delta_disks"}, set) // a change
	if unfinished || r.data < 1 {
		return nil
	}
	return r
}

func length(s *lvmtext.Section) int64 {
	n := int64(0)
	for _, seg := range s.Sections() {
		k, _ := seg.Int("extent_count") // absent is damage, which placing finds
		n += k
	}
	return n
}

// beside is how many extents metadata and log take.
func (r *lvRAID) beside() int64 {
	n := int64(0)
	for _, m := range r.metas {
		n += length(m)
	}
	if r.log != nil {
		n += length(r.log)
	}
	return n
}

// raw is how many extents a volume of n takes, net how many it has in raw.
func (r *lvRAID) raw(n int64) int64 {
	return (n+r.data-1)/r.data*int64(len(r.images)) + r.beside()
}

func (r *lvRAID) net(raw int64) int64 {
	return max(raw-r.beside(), 0) / int64(len(r.images)) * r.data
}

// place gives the volume n extents, each image on another physical volume, those
// with most room.
func (r *lvRAID) place(n int64, free []extents) error {
	each := n / r.data
	by := make([]*extents, len(free))
	for i := range free {
		by[i] = &free[i]
	}
	slices.SortStableFunc(by, func(a, b *extents) int { return cmp.Compare(b.count, a.count) })
	if len(by) < len(r.images) || each == 0 {
		return &exit.Refusal{Reason: fmt.Sprintf("%d images of %d extents have no room on physical volumes of their own", len(r.images), each)}
	}
	for i, im := range r.images {
		want := each
		if r.metas != nil {
			want += length(r.metas[i])
		}
		if by[i].count < want {
			return &exit.Refusal{Reason: fmt.Sprintf("%d images of %d extents have no room on physical volumes of their own", len(r.images), each)}
		}
		if r.metas != nil {
			linear(r.metas[i], length(r.metas[i]), by[i])
		}
		linear(im, each, by[i])
	}
	if r.log != nil {
		k := length(r.log)
		i := slices.IndexFunc(by, func(e *extents) bool { return e.count >= k })
		if i < 0 {
			return &exit.Refusal{Reason: "the mirror's log has no room"}
		}
		linear(r.log, k, by[i])
	}
	r.seg.Set("extent_count", n)
	return nil
}

// linear gives a volume n extents from the beginning of what is free.
func linear(lv *lvmtext.Section, n int64, e *extents) {
	s := &lvmtext.Section{Name: "segment1"}
	s.Set("start_extent", int64(0))
	s.Set("extent_count", n)
	s.Set("type", "striped")
	s.Set("stripe_count", int64(1))
	s.Set("stripes", []lvmtext.Value{e.pv, e.first})
	e.first, e.count = e.first+n, e.count-n
	lv.Replace(func(name string) bool { return strings.HasPrefix(name, "segment") }, s)
	lv.Set("segment_count", int64(1))
}

// raids reads the RAID volumes of a group, by name; rigid is set if one of them
// keeps its size, and with it the group.
func (f *fitter) raids(g *layout.VolumeGroup) (found map[string]*lvRAID, rigid bool) {
	if !g.Rigid() {
		return nil, false
	}
	if have, ok := f.lvRAIDs[g.Name]; ok {
		return have, have == nil
	}
	found = map[string]*lvRAID{}
	var t *lvmtext.Section
	config, err := Thinless(g)
	if err == nil {
		t, err = lvmtext.Parse(config)
	}
	lvs := t.Get(g.Name, "logical_volumes")
	for _, v := range g.LVs {
		if err != nil || !v.RAID() {
			continue
		}
		r := raidVolume(lvs, v)
		if r == nil {
			found = nil
			break
		}
		found[v.Name] = r
	}
	if err != nil {
		found = nil
	}
	if f.lvRAIDs == nil {
		f.lvRAIDs = map[string]map[string]*lvRAID{}
	}
	f.lvRAIDs[g.Name] = found
	return found, found == nil
}

// grown is n bytes as extents of what a RAID volume takes for them.
func (r *lvRAID) grown(n, extent quantity.Size) quantity.Size {
	return quantity.Size(r.raw(int64(n.AlignUp(extent)/extent))) * extent
}

// unstriped is a volume without stripes, nil for another one.
func unstriped(lvs *lvmtext.Section, name string) *lvmtext.Section {
	s := lvs.Get(name)
	for _, seg := range s.Sections() {
		if n, _ := seg.Int("stripe_count"); seg.Type() != "striped" || n != 1 {
			return nil
		}
	}
	if len(s.Sections()) == 0 {
		return nil
	}
	return s
}

// dataImages is how many of k images of a RAID volume have data of their own; 0 where that
// is not known.
func dataImages(typ string, seg *lvmtext.Section, k int64) int64 {
	switch {
	case typ == "raid1" || typ == layout.TypeMirror:
		return 1
	case typ == "raid4" || strings.HasPrefix(typ, "raid5"):
		return k - 1
	case strings.HasPrefix(typ, "raid6"):
		return k - 2
	case strings.HasPrefix(typ, "raid10"):
		copies, ok := seg.Int("data_copies")
		if !ok {
			copies = 2
		}
		if copies >= 1 && k%copies == 0 {
			return k / copies
		}
	}
	return 0
}
