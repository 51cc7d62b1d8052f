package retention

import (
	"strings"
	"testing"
	"time"
)

// TestNeeded: what a set that stays needs stays, and says so; what is removed goes in an order in
// which each set that is left can be restored.
func TestNeeded(t *testing.T) {
	now := at("2026-11-30 07:00")
	for _, c := range []struct {
		what    string
		keep    Keep
		sets    string // newest first; name of a set, + the ones that it needs
		stay    string
		removed string // in order
	}{
		{"an increment", Keep{Last: 1}, "c+a+b b+a a", "c b a", ""},
		{"the chain before", Keep{Last: 2}, "f+e e d+c c b+a a", "f e", "b a d c"},
		{"a full one", Keep{Last: 1}, "d c+a+b b+a a", "d", "c b a"},
		{"one of two chains", Keep{Last: 3}, "e d+c c b+a a", "e d c", "b a"},
		{"none of a chain that is older", Keep{Last: 1}, "e b+a a d c", "e", "c d b a"},
		{"what is needed by one that stays for another reason", Keep{Last: 1}, "e d+b+c c+b b a", "e", "a d c b"},
	} {
		var list []*Verdict
		for i, f := range strings.Fields(c.sets) {
			n := strings.Split(f, "+")
			list = append(list, &Verdict{Set: n[0], id: n[0], needs: n[1:], Created: now.Add(-time.Duration(i+1) * time.Hour)})
		}
		c.keep.decide(list, nil, now, time.UTC)
		var plan []Verdict
		for _, v := range list {
			plan = append(plan, *v)
			if !v.Remove && v != list[0] && c.what == "an increment" && v.Reasons[0] != "needed by c" {
				t.Errorf("%s: %s stays: %q; want it needed by c", c.what, v.Set, v.Reasons)
			}
		}
		stay, _ := kept(plan)
		var removed []string
		for _, v := range inOrder(plan) {
			removed = append(removed, v.Set)
		}
		if got := strings.Join(removed, " "); stay != c.stay || got != c.removed {
			t.Errorf("%s: %q stays, %q is removed; want %q, %q", c.what, stay, got, c.stay, c.removed)
		}
	}
}

// TestDamagedNeeded: what needs a damaged set is damaged, too, and takes no good set's place.
func TestDamagedNeeded(t *testing.T) {
	now := at("2026-11-30 07:00")
	list := []*Verdict{
		{Set: "d", id: "d", needs: []string{"b", "c"}},
		{Set: "c", id: "c", needs: []string{"b"}},
		{Set: "b", id: "b", damage: "a.tar.zst is missing"},
		{Set: "a", id: "a"},
	}
	for i, v := range list {
		v.Created = now.Add(-time.Duration(i+1) * time.Hour)
	}
	spread(list)
	Keep{Last: 1}.decide(list, nil, now, time.UTC)
	if v := list[3]; v.Remove {
		t.Errorf("the only good set is removed: %q", v.Reasons)
	}
	for _, v := range list[:2] {
		if want := "damaged: the earlier set b, which it needs, is damaged"; len(v.Reasons) == 0 || v.Reasons[0] != want {
			t.Errorf("%s: %q; want %q", v.Set, v.Reasons, want)
		}
	}
}

// TestNext: before a set is made, what goes is what the rules will not keep once it is there; what it needs stays, and
// the last good set.
func TestNext(t *testing.T) {
	now := at("2026-11-30 07:00")
	for _, c := range []struct {
		what string
		keep Keep
		sets string // newest first; name of a set, + the ones that it needs, ! for a damaged one
		next string
		stay string
	}{
		{"a full one after others", Keep{Last: 3}, "d c b a", "e", "d c"},
		{"the last good set", Keep{Last: 1}, "c b a", "d", "c"},
		{"the last good set is not the newest", Keep{Last: 1}, "c! b a", "d", "b"},
		{"what it needs", Keep{Last: 1}, "c+b b a", "d+b+c", "c b"},
		{"a full one after a chain", Keep{Last: 2}, "c+a+b b+a a", "d", "c b a"},
		{"nothing", Keep{Last: 9}, "c b a", "d", "c b a"},
	} {
		var list []*Verdict
		for i, f := range strings.Fields(c.sets) {
			name, bad := strings.CutSuffix(f, "!")
			n := strings.Split(name, "+")
			v := &Verdict{Set: n[0], id: n[0], needs: n[1:], Created: now.Add(-time.Duration(i+1) * time.Hour)}
			if bad {
				v.damage = "a.tar.zst is missing"
			}
			list = append(list, v)
		}
		n := strings.Split(c.next, "+")
		c.keep.decide(list, &Next{Set: n[0], ID: n[0], Needs: n[1:], Created: now}, now, time.UTC)
		var plan []Verdict
		for _, v := range list {
			plan = append(plan, *v)
		}
		if stay, _ := kept(plan); stay != c.stay {
			t.Errorf("%s: %q stays; want %q", c.what, stay, c.stay)
		}
	}
}
