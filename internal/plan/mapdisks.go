package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// Undecided is a refusal for several disks, or none, may take an old one's place.
type Undecided struct {
	exit.Refusal
	Old   layout.Disk
	Least quantity.Size // that the new one must have
	Among []layout.Present
}

func (u *Undecided) Unwrap() error { return &u.Refusal }

// Mapping maps names of disks in the layout to present disks.
type Mapping map[string]layout.Present

// mapDisks finds a present disk for every disk the layout needs: named by the
// administrator; the same WWN; the same serial number; the only one of the
// same model and size; among those confirmed by serial number; or the only
// disk that is left and large enough, which then has to be confirmed. What
// can't be decided is refused with all candidates.
func mapDisks(want *layout.Layout, have []layout.Present, w Wish) (Mapping, error) {
	m := &mapper{want: want, have: layout.Identify(have), wish: w, out: Mapping{}, taken: map[string]bool{}, least: Minimum(want, w), needed: len(want.Needed())}
	var open []*layout.Disk
	for _, n := range want.Needed() {
		d := want.Disk(n)
		if d == nil {
			return nil, fmt.Errorf("cannot map disks: %s is not in the layout", n)
		}
		open = append(open, d)
	}
	if err := knownDisks(want, w); err != nil {
		return nil, err
	}
	for _, find := range []func(*layout.Disk) ([]layout.Present, error){m.named, m.sameWWN, m.sameSerial, m.sameModel, m.confirmed, m.onlyOne} {
		var rest []*layout.Disk
		for _, d := range open {
			c, err := find(d)
			if err != nil {
				return nil, err
			}
			if len(c) != 1 {
				rest = append(rest, d)
				continue
			}
			if err := m.take(d, c[0]); err != nil {
				return nil, err
			}
		}
		open = rest
	}
	open, err := m.allConfirmed(open)
	if err != nil {
		return nil, err
	}
	if len(open) > 0 {
		return nil, m.undecided(open)
	}
	return m.out, nil
}

// knownDisks refuses to map what is not a disk that the layout needs.
func knownDisks(want *layout.Layout, w Wish) error {
	needed := want.Needed()
	for _, old := range slices.Sorted(maps.Keys(w.Map)) {
		if !slices.Contains(needed, old) {
			return refuse("--map %s: the layout needs no disk of that name", old)
		}
	}
	return nil
}

type mapper struct {
	want  *layout.Layout
	have  []layout.Present
	wish  Wish
	out   Mapping
	taken map[string]bool
	least map[string]quantity.Size // of the disks, by name
	// needed is how many disks the layout wants.
	needed int
}

func (m *mapper) pick(ok func(layout.Present) bool) []layout.Present {
	var out []layout.Present
	for _, p := range m.have {
		if !m.taken[p.Name] && ok(p) {
			out = append(out, p)
		}
	}
	return out
}

func (m *mapper) named(d *layout.Disk) ([]layout.Present, error) {
	n, ok := m.wish.Map[d.Name]
	if !ok {
		return nil, nil
	}
	n = strings.TrimPrefix(n, "/dev/")
	c := m.pick(func(p layout.Present) bool { return p.Name == n || p.Is(n) })
	if len(c) == 0 { // several have it: that is said below
		c = m.pick(func(p layout.Present) bool { return n != "" && (p.Serial == n || p.WWN == n) })
	}
	if len(c) != 1 || c[0].Name != n && !c[0].Is(n) {
		return nil, refuse("--map %s=%s: %d disks answer to that name", d.Name, n, len(c))
	}
	return c, nil
}

func (m *mapper) sameWWN(d *layout.Disk) ([]layout.Present, error) {
	if m.several(func(x layout.Disk) bool { return x.WWN == d.WWN }) {
		return nil, nil
	}
	return m.pick(func(p layout.Present) bool { return p.WWN == d.WWN && p.Is(d.WWN) }), nil
}

// several reports whether more than one of the old machine's disks are meant.
func (m *mapper) several(same func(layout.Disk) bool) bool {
	n := 0
	for _, x := range m.want.Disks {
		if same(x) {
			n++
		}
	}
	return n > 1
}

func (m *mapper) sameSerial(d *layout.Disk) ([]layout.Present, error) {
	if m.several(func(x layout.Disk) bool { return x.Serial == d.Serial }) {
		return nil, nil
	}
	return m.pick(func(p layout.Present) bool { return p.Serial == d.Serial && p.Model == d.Model && p.Is(d.Serial) }), nil
}

// sameModel counts only if neither side has two of them, and neither has a
// serial number that contradicts.
func (m *mapper) sameModel(d *layout.Disk) ([]layout.Present, error) {
	same := func(x layout.Disk) bool { return x.Model != "" && x.Model == d.Model && x.Size == d.Size }
	if m.several(same) || !same(*d) || d.Serial != "" {
		return nil, nil
	}
	return m.pick(func(p layout.Present) bool { return same(p.Disk) && p.Serial == "" }), nil
}

func (m *mapper) free(d *layout.Disk) []layout.Present {
	return m.pick(func(p layout.Present) bool {
		return p.Busy == "" && p.Size >= m.least[d.Name] && (p.LogicalSector == d.LogicalSector || checkSector(m.want, d, p) == nil)
	})
}

func (m *mapper) confirmed(d *layout.Disk) ([]layout.Present, error) {
	if m.unmapped() > 1 {
		return nil, nil // which of them goes where would be a guess
	}
	var out []layout.Present
	for _, p := range m.pick(func(layout.Present) bool { return true }) {
		if p.Is(m.wish.Confirmed...) {
			out = append(out, p)
		}
	}
	return out, nil
}

// allConfirmed maps the rest when just as many disks were confirmed: the
// largest gets the largest, and among equals the first one goes to the disk that was
// confirmed first, for a BIOS starts one of them, and the kernel's names change.
// Where that does not fit, the one that needs most gets the largest. All of them
// are overwritten whichever goes where.
func (m *mapper) allConfirmed(open []*layout.Disk) ([]*layout.Disk, error) {
	c := m.pick(func(p layout.Present) bool { return p.Is(m.wish.Confirmed...) })
	if len(open) < 2 || len(c) != len(open) {
		return open, nil
	}
	said := func(p layout.Present) int {
		return slices.IndexFunc(m.wish.Confirmed, func(s string) bool { return p.Is(s) })
	}
	slices.SortStableFunc(c, func(a, b layout.Present) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(said(a), said(b)), byName(a.Name, b.Name))
	})
	slices.SortStableFunc(open, func(a, b *layout.Disk) int { return cmp.Or(cmp.Compare(b.Size, a.Size), byName(a.Name, b.Name)) })
	for i, d := range open {
		if c[i].Size < m.least[d.Name] {
			slices.SortStableFunc(open, func(a, b *layout.Disk) int { return cmp.Compare(m.least[b.Name], m.least[a.Name]) })
			break
		}
	}
	for i, d := range open {
		if err := m.take(d, c[i]); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// byName sorts "sdz" before "sdaa".
func byName(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

func (m *mapper) unmapped() int { return m.needed - len(m.out) }

func (m *mapper) onlyOne(d *layout.Disk) ([]layout.Present, error) {
	if m.unmapped() > 1 || len(m.wish.Confirmed) > 0 {
		return nil, nil
	}
	return m.free(d), nil
}

func (m *mapper) take(d *layout.Disk, p layout.Present) error {
	if p.Busy != "" {
		return refuse("%s would be overwritten with %s, but %s", p.Target(), d.Name, p.Busy)
	}
	if p.LogicalSector != d.LogicalSector {
		if err := checkSector(m.want, d, p); err != nil {
			return err
		}
	}
	if p.Size < m.least[d.Name] {
		return m.tooSmall(d, p)
	}
	m.out[d.Name] = p
	m.taken[p.Name] = true
	return nil
}

// tooSmall returns what d needs, part by part.
func (m *mapper) tooSmall(d *layout.Disk, p layout.Present) error {
	if m.wish.Keep {
		return refuse("the target is too small\n  %-24s %s\n  %-24s %s", "needed for "+d.Name, Need(d), "there on /dev/"+p.Name, p.Size)
	}
	f := &fitter{l: m.want, wish: m.wish, swapShare: 1, size: map[string]quantity.Size{}}
	if err := f.shares(); err != nil {
		return err
	}
	items := []*item{f.item(d.Name, d.Size)}
	if d.Table != nil {
		items = f.items(d)
	}
	return f.refuseDisk(d, p.Size, items)
}

func (m *mapper) undecided(open []*layout.Disk) error {
	var b strings.Builder
	if len(m.free(open[0])) == 0 {
		b.WriteString("no disk here can be overwritten\n")
	} else {
		b.WriteString("it is not clear which disk is to be overwritten\n")
	}
	for _, d := range open {
		fmt.Fprintf(&b, "  wanted: %s, at least %s\n", d.Target(), m.least[d.Name])
	}
	for _, p := range m.have {
		why := p.Busy
		switch {
		case m.taken[p.Name]:
			why = "is mapped already"
		case why == "" && p.Size < m.least[open[0].Name]:
			why = "too small"
		case why == "" && p.LogicalSector != open[0].LogicalSector && checkSector(m.want, open[0], p) != nil:
			why = fmt.Sprintf("its sectors have %d bytes", p.LogicalSector)
		case why == "":
			why = "possible; say --map " + open[0].Name + "=" + p.Name
		}
		fmt.Fprintf(&b, "  there:  %s: %s\n", p.Target(), why)
	}
	return &Undecided{Refusal: exit.Refusal{Reason: strings.TrimRight(b.String(), "\n")}, Old: *open[0], Least: m.least[open[0].Name], Among: m.free(open[0])}
}

// Need is the least size of a disk that d's table fits on: the end of the
// last partition, and for GPT the copy of the table behind it.
func Need(d *layout.Disk) quantity.Size {
	if d.Table == nil {
		return d.Size
	}
	end := quantity.Size(0)
	for _, p := range d.Table.Partitions {
		end = max(end, p.Start+p.Size)
	}
	return end + tableTail(d)
}
