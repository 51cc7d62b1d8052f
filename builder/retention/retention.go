// Package retention decides which backup sets of a machine stay in a directory, and
// removes the others.
package retention

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// Keep is how many sets stay. A set that any rule names stays. The rules but Last keep the
// newest set of each of the last N days, weeks and months that have one.
type Keep struct {
	Last    int `yaml:"last"`
	Daily   int `yaml:"daily"`
	Weekly  int `yaml:"weekly"`
	Monthly int `yaml:"monthly"`
	// MakeRoom has a run remove what the rules do not keep before it writes, where the new set
	// will probably not fit otherwise.
	MakeRoom bool `yaml:"make_room"`
}

// Set reports whether there is any rule.
func (k Keep) Set() bool {
	k.MakeRoom = false
	return k != Keep{}
}

// Next is a set that is being made, or, without an ID, was made by this run.
type Next struct {
	Set     string // name of its directory
	ID      string
	Needs   []string // ids of the earlier sets that it needs
	Created time.Time
}

// name is that of the set, "" for none.
func (n *Next) name() string {
	if n == nil {
		return ""
	}
	return n.Set
}

// with adds the set that is being made to others, newest first.
func (n *Next) with(sets []*Verdict) []*Verdict {
	if n == nil || n.ID == "" || slices.ContainsFunc(sets, func(v *Verdict) bool { return v.Set == n.Set }) {
		return sets
	}
	return append([]*Verdict{{Set: n.Set, Created: n.Created, id: n.ID, needs: n.Needs}}, sets...)
}

// Validate reports all faults at once.
func (k Keep) Validate() error {
	var errs []error
	for _, r := range k.rules() {
		if r.n < 0 {
			errs = append(errs, fmt.Errorf("keep.%s: %d; want 0 or more", r.name, r.n))
		}
	}
	return errors.Join(errs...)
}

type rule struct {
	name   string
	n      int
	period func(time.Time) string // in which only the newest set counts
}

func (k Keep) rules() []rule {
	return []rule{
		{"last", k.Last, func(t time.Time) string { return t.Format(time.RFC3339Nano) }},
		{"daily", k.Daily, func(t time.Time) string { return t.Format(time.DateOnly) }},
		{"weekly", k.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("%d-W%02d", y, w) }},
		{"monthly", k.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
	}
}

// Verdict is what becomes of a set, and why.
type Verdict struct {
	Set     string        `json:"set"` // name of its directory
	Created time.Time     `json:"created,omitzero"`
	Age     int64         `json:"age"` // seconds
	Size    quantity.Size `json:"size"`
	Remove  bool          `json:"remove"`
	// Reasons are the rules that keep it, "daily 3" for the third day, or why it is kept
	// without one, or removed.
	Reasons []string `json:"reasons"`

	host   string // of the machine
	left   bool   // it is an unfinished set
	damage string
	lacks  bool // its manifest names something that is not covered
	id     string
	needs  []string // ids of the earlier sets that it needs
}

// ahead is how far in the future a set may be dated and still count: clocks differ.
const ahead = 2 * time.Minute

// count returns for each set of those that count, newest first, which rules keep it.
func (k Keep) count(sets []*Verdict, in *time.Location) map[*Verdict][]string {
	kept := map[*Verdict][]string{}
	for _, r := range k.rules() {
		last, n := "", 0
		for i, s := range sets {
			p := r.period(s.Created.In(in))
			if n == r.n {
				break
			}
			if i > 0 && p == last && r.name != "last" {
				continue
			}
			last, n = p, n+1
			kept[s] = append(kept[s], fmt.Sprintf("%s %d", r.name, n))
		}
	}
	return kept
}

// decide sets Remove and Reasons of sets, newest first. Periods are those of in. made is the
// set that this run makes, nil for none. While it is not among sets it counts for the rules as a good one, and the last
// good one that is there stays.
func (k Keep) decide(sets []*Verdict, made *Next, now time.Time, in *time.Location) {
	future := func(s *Verdict) bool { return s.Created.Sub(now) > ahead }
	dated := slices.DeleteFunc(slices.Clone(sets), future)
	good := slices.DeleteFunc(slices.Clone(dated), func(s *Verdict) bool { return s.damage != "" })
	whole := slices.IndexFunc(good, func(s *Verdict) bool { return !s.lacks })
	rules, damaged := k.count(made.with(good), in), k.count(made.with(dated), in)
	for _, s := range sets {
		s.Age = int64(now.Sub(s.Created).Seconds())
		if s.damage != "" {
			s.Reasons = append(s.Reasons, "damaged: "+s.damage)
		}
		switch {
		case future(s):
			s.Reasons = append(s.Reasons, "dated in the future")
		case s.damage != "":
			// It takes no other set's place, and stays as long as a good one would.
			s.Remove = damaged[s] == nil
			s.Reasons = append(s.Reasons, damaged[s]...)
		default:
			s.Reasons = append(s.Reasons, rules[s]...)
			if len(good) > 0 && s == good[0] {
				s.Reasons = append(s.Reasons, "last good set")
			} else if whole > 0 && s == good[whole] {
				s.Reasons = append(s.Reasons, "last set that covers everything")
			}
			s.Remove = len(s.Reasons) == 0
		}
		if s.Set == made.name() {
			s.Remove, s.Reasons = false, append(s.Reasons, "made by this run")
		}
		if s.Remove && len(good) == 0 {
			s.Remove, s.Reasons = false, append(s.Reasons, "no set is good")
		}
		if len(s.Reasons) == 0 {
			s.Reasons = []string{"no rule keeps it"}
		}
	}
	keepNeeded(made.with(sets))
}

// keepNeeded keeps what sets that stay need. Such a set needs no more than what the one that
// needs it names, too.
func keepNeeded(sets []*Verdict) {
	by := map[string]*Verdict{}
	for _, s := range sets {
		by[s.id] = s
	}
	for _, s := range sets {
		if s.Remove {
			continue
		}
		for _, id := range s.needs {
			if n := by[id]; n != nil && n.Remove {
				n.Remove, n.Reasons = false, []string{"needed by " + s.Set}
				if n.damage != "" {
					n.Reasons = append([]string{"damaged: " + n.damage}, n.Reasons...)
				}
			}
		}
	}
}

// of begins the verdict on a set, one of all, with what is wrong with its files, or with what it
// needs.
func of(s set.Listed, all []set.Listed, damage string) *Verdict {
	v := &Verdict{Set: s.Name, Created: s.Created, Size: s.Bytes(), damage: damage, lacks: len(s.NotCovered) > 0, id: s.ID}
	if s.Head != nil {
		v.Size = quantity.Size(s.Head.Size)
	}
	for _, n := range s.Needs {
		v.needs = append(v.needs, n.ID)
		if !slices.ContainsFunc(all, func(o set.Listed) bool { return o.ID == n.ID && o.Name == n.Dir }) && v.damage == "" {
			v.damage = "the earlier set " + n.Dir + ", which it needs, is missing"
		}
	}
	return v
}

// spread has the sets that need a damaged one count as damaged.
func spread(sets []*Verdict) {
	damaged := map[string]*Verdict{}
	for _, s := range sets {
		if s.damage != "" {
			damaged[s.id] = s
		}
	}
	for _, s := range sets {
		for _, id := range s.needs {
			if d := damaged[id]; d != nil && s.damage == "" {
				s.damage = "the earlier set " + d.Set + ", which it needs, is damaged"
			}
		}
	}
}

// leftoverAge is how old an unfinished set must be to be removed.
const leftoverAge = 24 * time.Hour

// Plan returns what becomes of each set of this machine, whose name is host, in dir, newest
// first, then of each unfinished one and each that may be another machine's. Nothing is changed.
// made is the set that this run makes or has made, nil for none; periods are those of now's time
// zone.
func (k Keep) Plan(ctx context.Context, dir, host string, made *Next, now time.Time) ([]Verdict, error) {
	return k.plan(ctx, dir, set.This(host), made, now)
}

func (k Keep) plan(ctx context.Context, dir string, m set.Machine, made *Next, now time.Time) ([]Verdict, error) {
	sets, doubtful, err := set.List(dir, m)
	if err != nil {
		return nil, err
	}
	var damage []string
	for _, s := range sets {
		damage = append(damage, s.DamageOf(dir))
	}
	out := k.verdicts(sets, damage, made, now)
	left, err := set.Leftovers(ctx, dir, m.Host, now)
	if err != nil {
		return nil, err
	}
	return append(append(out, leftovers(left, m.Host, made.name())...), doubts(doubtful)...), nil
}

// leftovers are the verdicts on unfinished sets but the one of this run.
func leftovers(list []set.Leftover, host, made string) (out []Verdict) {
	for _, l := range list {
		if l.Name == made {
			continue
		}
		v := Verdict{Set: l.Name, Age: int64(l.Age.Seconds()), Reasons: []string{l.Why}, host: host, left: true}
		if l.Over {
			v.Remove, v.Reasons[0] = l.Age > leftoverAge, "unfinished, and its run has ended"
		}
		if l.Over && !v.Remove {
			v.Reasons = append(v.Reasons, "less than a day old")
		}
		out = append(out, v)
	}
	return out
}

// verdicts decides about sets, newest first, with what is wrong with the files of each.
func (k Keep) verdicts(sets []set.Listed, damage []string, made *Next, now time.Time) []Verdict {
	var mine []*Verdict
	for i, s := range sets {
		mine = append(mine, of(s, sets, damage[i]))
	}
	spread(mine)
	k.decide(mine, made, now, now.Location())
	out := make([]Verdict, 0, len(mine))
	for _, s := range mine {
		out = append(out, *s)
	}
	return out
}

func doubts(list []set.Doubtful) (out []Verdict) {
	for _, d := range list {
		out = append(out, Verdict{Set: d.Name, Reasons: []string{d.Why}})
	}
	return out
}

// inOrder gives the sets that are removed, oldest first, but none before those that need it: a
// run that is interrupted leaves no set that can't be restored.
func inOrder(plan []Verdict) (out []Verdict) {
	done := map[string]bool{}
	for _, v := range slices.Backward(plan) {
		for _, n := range plan { // the newest first
			if n.Remove && !done[n.Set] && v.Remove && v.id != "" && slices.Contains(n.needs, v.id) {
				out, done[n.Set] = append(out, n), true
			}
		}
		if v.Remove && !done[v.Set] {
			out, done[v.Set] = append(out, v), true
		}
	}
	return out
}

// Apply removes the sets of a plan, oldest first, but each after those that need it. It stops at
// the first that can't be removed; one that is missing was removed by another run. Leftovers are looked at again.
// With enough it stops as soon as that returns true.
func Apply(ctx context.Context, dir string, plan []Verdict, enough func() bool) (removed []string, err error) {
	for _, v := range inOrder(plan) {
		if enough != nil && enough() {
			break
		}
		var err error
		if v.left {
			err = set.RemoveLeftover(ctx, dir, v.Set, v.host)
		} else {
			err = set.Retire(dir, v.Set)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return removed, err
		}
		removed = append(removed, v.Set)
	}
	return removed, nil
}
