package builder

import (
	"context"
	"fmt"
	"time"

	"github.com/mkcdrec/mkcdrec/builder/retention"
	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// mayNeed estimates the size of the next set in bytes, and describes by what: a tenth more than the newest of sets of
// the same kind, full or an increment; a tenth of the newest full one for the first increment; without any, half of the
// space in use and all of the devices that are saved as images.
func (p *Plan) mayNeed(sets []set.Listed, increment bool) (need int64, by string) {
	for _, s := range sets {
		if (len(s.Needs) > 0) == increment {
			n := int64(s.Bytes())
			return n + n/10, "the size of the last backup of its kind and a tenth"
		}
	}
	if len(sets) > 0 {
		n := int64(sets[0].Bytes())
		if increment { // all of sets are full
			return n / 10, "a tenth of the last full backup"
		}
		return n + n/10, "the size of the last backup and a tenth"
	}
	for _, a := range p.Archives {
		if a.only == nil { // of parts of it, how much they have is not known
			need += a.Used / 2
		}
	}
	for _, m := range p.Images {
		need += int64(m.Size)
	}
	return need, "half of the space in use here"
}

// medium is about how much is needed while the medium of the next set is made beside it: the image and what it is made
// of. It is more than the whole set if that is small.
func medium(sets []set.Listed) int64 {
	if len(sets) == 0 {
		return 0
	}
	iso := int64(sets[0].Sum(manifest.RescueISO).Size)
	return iso + iso*4/5
}

// short returns a warning, in a sentence, if the next set will probably not fit into a place, "" if it will. beside is set
// if its medium is made there.
func (p *Plan) short(place string, free int64, sets []set.Listed, increment, beside bool) string {
	need, by := p.mayNeed(sets, increment)
	if m := medium(sets); beside && m > need {
		need, by = m, "what making its rescue medium takes"
	}
	if free >= need {
		return ""
	}
	return fmt.Sprintf("the backup will probably not fit: %s has %s free, and about %s are needed, by %s", place, quantity.Size(free), quantity.Size(need), by)
}

// Short returns a warning if the next set will probably not fit into dir, and "" if it will or if the free space can't
// be read: writing finds that out.
func (b *Builder) Short(p *Plan, dir string) string {
	free, ok := store.FreeIn(dir)
	if !ok {
		return ""
	}
	sets, increment := generations(dir, p.Layout.Hostname), false
	if g := b.Config.Generations; g.Set() && len(sets) > 0 {
		if full := lastFull(sets); full != nil {
			increment = g.due(full.Created, len(sets[0].Needs)+1, time.Now()) == ""
		}
	}
	return p.short(dir, free, sets, increment, !b.Config.Encrypt)
}

// WouldRemove are the sets in dir that a run may remove before it writes, where keep.make_room allows that.
func (b *Builder) WouldRemove(ctx context.Context, p *Plan, dir string) (names []string) {
	if !b.Config.Keep.MakeRoom || !b.Config.Keep.Set() {
		return nil
	}
	now := time.Now()
	plan, err := b.Config.Keep.Plan(ctx, dir, p.Layout.Hostname, &retention.Next{ID: "next", Created: now}, now)
	if err != nil {
		return nil // the run reports it
	}
	for _, v := range plan {
		if v.Remove {
			names = append(names, v.Set)
		}
	}
	return names
}

// lastFull is the newest of sets that is not an increment, nil if there is none.
func lastFull(sets []set.Listed) *set.Listed {
	for i := range sets {
		if len(sets[i].Needs) == 0 {
			return &sets[i]
		}
	}
	return nil
}

// try reports whether the medium of a backup can be made; tests have none.
func (b *Builder) try(ctx context.Context, p *Plan) error {
	if p.Layout == nil {
		return nil
	}
	return b.Maker().Try(ctx, p.Machine())
}

// place is where a set will be, as far as room looks at it.
type place struct {
	name   string
	beside bool // the medium is made there
	free   func() (int64, bool)
	sets   func() ([]set.Listed, error)
	// remove removes sets by the rules, as they will be with the next set, until there is enough room; nil removes all that
	// the rules do not keep.
	remove func(next *retention.Next, enough func() bool) ([]string, error)
}

// directoryPlace is a directory with sets.
func (b *Builder) directoryPlace(ctx context.Context, p *Plan, dir string, now time.Time) place {
	return place{dir, !b.Config.Encrypt, func() (int64, bool) { return store.FreeIn(dir) },
		func() ([]set.Listed, error) { return generations(dir, p.Layout.Hostname), nil },
		func(next *retention.Next, enough func() bool) ([]string, error) {
			sets, err := b.Config.Keep.Plan(ctx, dir, p.Layout.Hostname, next, now)
			if err != nil {
				return nil, err
			}
			return retention.Apply(ctx, dir, sets, enough)
		}}
}

// homePlace is a home; what its server does not tell is not asked for.
func (b *Builder) homePlace(ctx context.Context, p *Plan, home store.Home, now time.Time) place {
	return place{home.String(), false, func() (int64, bool) {
		if f, ok := home.(store.FreeSpace); ok {
			return f.Free(ctx)
		}
		return 0, false
	}, func() ([]set.Listed, error) {
		sets, _, err := set.ListHome(ctx, home, set.This(p.Layout.Hostname))
		return sets, err
	}, func(next *retention.Next, enough func() bool) ([]string, error) {
		sets, err := b.Config.Keep.PlanHome(ctx, home, p.Layout.Hostname, next, now)
		if err != nil {
			return nil, err
		}
		return retention.ApplyHome(ctx, home, sets, enough)
	}}
}

// room warns if the next set, called name, will probably not fit. With keep.make_room it removes old sets before that, as
// many as needed of those that the rules will not keep once the set is there. Nothing is removed for a run whose medium
// can't be made.
func (b *Builder) room(ctx context.Context, p *Plan, at place, name, id string, needs []manifest.Needed, now time.Time) (removed []string, err error) {
	free, ok := at.free()
	if !ok {
		return nil, nil
	}
	sets, err := at.sets()
	if err != nil {
		return nil, nil // a login that may not list; and writing finds other reasons
	}
	short := p.short(at.name, free, sets, len(needs) > 0, at.beside)
	if short != "" && b.Config.Keep.MakeRoom && !b.Config.Keep.Set() {
		b.Report.Warn("keep.make_room has no effect: no other key of keep defines what may be removed")
	} else if short != "" && b.Config.Keep.MakeRoom {
		next := &retention.Next{Set: name, ID: id, Created: now}
		for _, n := range needs {
			next.Needs = append(next.Needs, n.ID)
		}
		if err := b.try(ctx, p); err != nil {
			return nil, err
		}
		removed, err = at.remove(next, func() bool {
			free, ok := at.free()
			return ok && p.short(at.name, free, sets, len(needs) > 0, at.beside) == ""
		})
		for _, s := range removed {
			b.Report.Note("removed before the backup, to make room: %s", s)
		}
		if err != nil {
			return removed, fmt.Errorf("cannot make room for the backup: %w", err)
		}
		if free, ok = at.free(); ok {
			short = p.short(at.name, free, sets, len(needs) > 0, at.beside)
		}
	}
	if short != "" {
		b.Report.Warn("%s", short)
	}
	return removed, nil
}
