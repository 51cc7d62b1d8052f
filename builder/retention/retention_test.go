package retention

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// make1 writes a set with its files below dir, as dir/HOST-TIME, and returns its name.
func make1(t *testing.T, dir, host string, created time.Time) string {
	t.Helper()
	return makeOf(t, dir, host, set.This(host), created)
}

// makeOf is make1 for a set of a machine, whose name begins with prefix.
func makeOf(t *testing.T, dir, prefix string, of set.Machine, created time.Time) string {
	t.Helper()
	name := prefix + "-" + created.UTC().Format("20060102T150405Z")
	d := filepath.Join(dir, name)
	if err := os.Mkdir(d, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d, manifest.Layout), []byte("layout"), 0o600); err != nil {
		t.Fatal(err)
	}
	sums, err := of.Write(d)
	if err != nil {
		t.Fatal(err)
	}
	m := &manifest.Manifest{Version: manifest.Version, ID: uuid.New(), Host: of.Host, Created: created.UTC(), Program: "test", Kernel: "6.1",
		Files: append(sums, manifest.FileSum{Name: manifest.Layout, Size: quantity.Size(len("layout")), SHA256: strings.Repeat("0", 64)})}
	if err := m.Write(d); err != nil {
		t.Fatal(err)
	}
	return name
}

func at(s string) time.Time {
	t, err := time.ParseInLocation("2006-01-02 15:04", s, time.UTC)
	if err != nil {
		panic(err)
	}
	return t
}

// kept returns the names of a plan that stay, without the host, and those that are removed.
func kept(plan []Verdict) (stay, gone string) {
	for _, v := range plan {
		if n := strings.TrimSuffix(v.Set, "00Z"); v.Remove {
			gone += " " + n
		} else {
			stay += " " + n
		}
	}
	return strings.TrimPrefix(stay, " "), strings.TrimPrefix(gone, " ")
}

// TestDecide: rules, damaged sets, and clocks that were wrong.
func TestDecide(t *testing.T) {
	now := at("2026-11-30 07:00") // a Monday
	for _, c := range []struct {
		what    string
		keep    Keep
		sets    string // times, newest first; ! damaged, ? lacks something
		made    string
		in      *time.Location
		removed string
	}{
		{"last", Keep{Last: 2}, "2026-11-30 01:00,2026-11-29 01:00,2026-11-28 01:00", "", time.UTC, "2026-11-28 01:00"},
		{"two at one moment", Keep{Last: 2}, "2026-11-30 01:00,2026-11-30 01:00", "", time.UTC, ""},
		{"more than there are", Keep{Last: 9}, "2026-11-30 01:00", "", time.UTC, ""},
		{"newest of each day", Keep{Daily: 2}, "2026-11-30 01:00,2026-11-29 23:00,2026-11-29 01:00,2026-11-27 01:00", "", time.UTC, "2026-11-29 01:00,2026-11-27 01:00"},
		{"days without a set do not count", Keep{Daily: 2}, "2026-11-30 01:00,2026-01-01 01:00", "", time.UTC, ""},
		{"weeks begin on Monday", Keep{Weekly: 2}, "2026-11-30 01:00,2026-11-29 01:00,2026-11-28 01:00,2026-11-22 01:00", "", time.UTC, "2026-11-28 01:00,2026-11-22 01:00"},
		{"the first week of a year", Keep{Weekly: 1}, "2026-01-01 01:00,2025-12-29 01:00", "", time.UTC, "2025-12-29 01:00"},
		{"months", Keep{Monthly: 2}, "2026-11-30 01:00,2026-11-01 01:00,2026-10-31 23:00,2025-10-31 01:00", "", time.UTC, "2026-11-01 01:00,2025-10-31 01:00"},
		{"days of the machine's time zone", Keep{Daily: 1}, "2026-11-30 01:00,2026-11-29 23:00", "", time.FixedZone("x", 3600), "2026-11-29 23:00"},
		{"the same in another", Keep{Daily: 2}, "2026-11-30 01:00,2026-11-29 23:00", "", time.UTC, ""},
		{"several rules", Keep{Last: 1, Daily: 2, Monthly: 2}, "2026-11-30 02:00,2026-11-30 01:00,2026-11-29 01:00,2026-11-28 01:00,2026-10-01 01:00", "", time.UTC, "2026-11-30 01:00,2026-11-28 01:00"},
		{"the last good one", Keep{Last: 1}, "!2026-11-30 01:00,2026-11-29 01:00,2026-11-28 01:00", "", time.UTC, "2026-11-28 01:00"},
		{"a damaged one that is old", Keep{Last: 1}, "2026-11-30 01:00,!2026-11-29 01:00", "", time.UTC, "2026-11-29 01:00"},
		{"nothing is good", Keep{Last: 1}, "!2026-11-30 01:00,!2026-11-29 01:00", "", time.UTC, ""},
		{"dated in the future", Keep{Last: 1}, "2027-05-01 01:00,2026-11-30 01:00,2026-11-29 01:00", "", time.UTC, "2026-11-29 01:00"},
		{"only in the future", Keep{Last: 1}, "2027-05-01 01:00,2027-04-01 01:00", "", time.UTC, ""},
		{"the clock went back", Keep{Last: 1}, "2026-11-30 06:59,2026-11-30 05:00,2026-11-29 01:00", "2026-11-30 05:00", time.UTC, "2026-11-29 01:00"},
		{"the last that covers everything", Keep{Last: 1}, "?2026-11-30 01:00,?2026-11-29 01:00,2026-11-28 01:00,2026-11-27 01:00", "", time.UTC, "2026-11-29 01:00,2026-11-27 01:00"},
		{"nothing covers everything", Keep{Last: 1}, "?2026-11-30 01:00,?2026-11-29 01:00", "", time.UTC, "2026-11-29 01:00"},
		{"a damaged one covers nothing", Keep{Last: 1}, "?2026-11-30 01:00,!2026-11-29 01:00,2026-11-28 01:00", "", time.UTC, "2026-11-29 01:00"},
		{"no rule at all", Keep{}, "2026-11-30 01:00,2026-11-29 01:00", "", time.UTC, "2026-11-29 01:00"},
	} {
		var vs []*Verdict
		for s := range strings.SplitSeq(c.sets, ",") {
			s, bad := strings.CutPrefix(s, "!")
			s, lacks := strings.CutPrefix(s, "?")
			v := &Verdict{Set: s, Created: at(s), lacks: lacks}
			if bad {
				v.damage = "x"
			}
			vs = append(vs, v)
		}
		c.keep.decide(vs, &Next{Set: c.made}, now, c.in)
		var removed []string
		for _, v := range vs {
			if v.Remove {
				removed = append(removed, v.Set)
			}
			if len(v.Reasons) == 0 {
				t.Errorf("%s: no reason for %s", c.what, v.Set)
			}
		}
		if got := strings.Join(removed, ","); got != c.removed {
			t.Errorf("%s: removed %q; want %q", c.what, got, c.removed)
		}
	}
}

// TestPlan: in a directory with two hosts, damaged and unfinished sets, links and other files,
// only what may be removed is, and a second run removes nothing.
func TestPlan(t *testing.T) {
	dir, now := t.TempDir(), time.Now().UTC()
	day := func(n int) time.Time { return now.AddDate(0, 0, -n) }
	newest, middle, old := make1(t, dir, "web", day(1)), make1(t, dir, "web", day(2)), make1(t, dir, "web", day(3))
	other, otherOld := make1(t, dir, "db", day(1)), make1(t, dir, "db", day(90))
	if err := os.Truncate(filepath.Join(dir, newest, manifest.Layout), 2); err != nil {
		t.Fatal(err)
	}
	unusable := make1(t, dir, "web", day(5))
	if err := os.WriteFile(filepath.Join(dir, unusable, manifest.File), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	if err := os.Symlink(filepath.Join(elsewhere, make1(t, elsewhere, "web", day(40))), filepath.Join(dir, "web-link")); err != nil {
		t.Fatal(err)
	}
	halves := map[string]bool{} // removed?
	half := func(host string, age int, want bool) {
		name := set.Partial + host + "-" + day(age).Format("20060102T150405Z")
		halves[name] = want
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(dir, name), day(age), day(age)); err != nil {
			t.Fatal(err)
		}
	}
	half("web", 0, false)
	half("web", 4, true)
	half("db", 4, false)
	running, err := set.NewDirectory(dir, "other-machine", now, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	halves[filepath.Base(running.Dir())] = false
	old30 := now.AddDate(0, 0, -30)
	if err := os.Chtimes(running.Dir()+".owner", old30, old30); err != nil {
		t.Fatal(err)
	}
	keep := Keep{Last: 1}
	plan, err := keep.Plan(t.Context(), dir, "web", nil, now)
	if err != nil {
		t.Fatal(err)
	}
	for name := range halves {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Errorf("Plan has removed %s", name)
		}
	}
	removed, err := Apply(t.Context(), dir, plan, nil)
	if err != nil || len(removed) != 2 || removed[1] != old {
		t.Errorf("Apply = %q, %v; want an unfinished set and %s", removed, err, old)
	}
	want := map[string]bool{newest: true, middle: true, old: false, other: true, otherOld: true, unusable: true, "web-link": true}
	for n, gone := range halves {
		want[n] = !gone
	}
	for name, there := range want {
		if _, err := os.Lstat(filepath.Join(dir, name)); (err == nil) != there {
			t.Errorf("%s is there: %v; want %v", name, err == nil, there)
		}
	}
	if plan, err = keep.Plan(t.Context(), dir, "web", nil, now); err != nil {
		t.Fatal(err)
	}
	if removed, err := Apply(t.Context(), dir, plan, nil); err != nil || len(removed) > 0 {
		t.Errorf("the second run removes %q, %v", removed, err)
	}
	if stay, _ := kept(plan); !strings.Contains(stay, unusable[:len(unusable)-3]) {
		t.Errorf("the plan does not name the set with an unusable manifest: %s", stay)
	}
}

// TestKilled: a removal that was interrupted leaves no half set under its name, and the next
// run removes the rest.
func TestKilled(t *testing.T) {
	dir, now := t.TempDir(), time.Now().UTC()
	old := make1(t, dir, "web", now.AddDate(0, 0, -9))
	make1(t, dir, "web", now)
	hidden := filepath.Join(dir, set.Partial+old)
	if err := os.Rename(filepath.Join(dir, old), hidden); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(hidden, now.AddDate(0, 0, -9), now.AddDate(0, 0, -9)); err != nil {
		t.Fatal(err)
	}
	plan, err := Keep{Last: 5}.Plan(t.Context(), dir, "web", nil, now)
	if err != nil {
		t.Fatal(err)
	}
	if removed, err := Apply(t.Context(), dir, plan, nil); err != nil || len(removed) != 1 || removed[0] != set.Partial+old {
		t.Errorf("Apply = %q, %v; want what was left of %s", removed, err, old)
	}
}

// TestTwoMachines: two machines of one name have sets in one directory, beside older sets that
// name no machine. Each removes its own only, and lists the others with the reason.
func TestTwoMachines(t *testing.T) {
	dir, now := t.TempDir(), time.Now().UTC()
	one, two, none := set.Machine{Host: "web", ID: "11111111-1111-4111-8111-111111111111"}, set.Machine{Host: "web", ID: "22222222-2222-4222-8222-222222222222"}, set.Machine{Host: "web"}
	names := map[set.Machine][]string{}
	for day := range 3 {
		for prefix, m := range map[string]set.Machine{"one": one, "two": two, "none": none} {
			names[m] = append(names[m], makeOf(t, dir, prefix, m, now.AddDate(0, 0, -day)))
		}
	}
	left := 9
	for _, c := range []struct {
		m      set.Machine
		other  set.Machine
		reason string
	}{{one, two, "of another machine with this one's name"}, {two, none, "it has no machine's id"}, {none, one, "of another machine with this one's name"}} {
		plan, err := Keep{Last: 1}.plan(t.Context(), dir, c.m, nil, now)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range plan {
			if v.Set == names[c.other][0] && (v.Remove || !strings.Contains(v.Reasons[0], c.reason)) {
				t.Errorf("for %q the plan has %+v; want it kept, since %q", c.m.ID, v, c.reason)
			}
		}
		removed, err := Apply(t.Context(), dir, plan, nil)
		if err != nil || len(removed) != 2 || removed[0] != names[c.m][2] || removed[1] != names[c.m][1] {
			t.Errorf("for %q Apply() = %q, %v; want its two older sets", c.m.ID, removed, err)
		}
		left -= 2
		if is, err := os.ReadDir(dir); err != nil || len(is) != left {
			t.Errorf("for %q %d sets are left, %v; want %d", c.m.ID, len(is), err, left)
		}
	}
}

// TestLacking: nightly sets that lack a disk do not push out the last one that has all.
func TestLacking(t *testing.T) {
	dir, now := t.TempDir(), time.Now().UTC()
	whole := make1(t, dir, "web", now.AddDate(0, 0, -9))
	for day := range 3 {
		d := filepath.Join(dir, make1(t, dir, "web", now.AddDate(0, 0, -day)))
		b, err := os.ReadFile(filepath.Join(d, manifest.File))
		if err != nil {
			t.Fatal(err)
		}
		m, err := manifest.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		m.NotCovered = []string{"vdb1 (ext4): not mounted"}
		if err := m.Write(d); err != nil {
			t.Fatal(err)
		}
	}
	plan, err := Keep{Last: 1}.Plan(t.Context(), dir, "web", nil, now)
	if err != nil || len(plan) != 4 {
		t.Fatalf("Plan() = %v, %v", plan, err)
	}
	if v := plan[3]; v.Set != whole || v.Remove || strings.Join(v.Reasons, ",") != "last set that covers everything" || !plan[1].Remove {
		t.Errorf("Plan() = %+v; want %s kept, the last that covers everything", plan, whole)
	}
}

// TestLinked: a set whose files are links to where they were moved is as good as the reader
// takes it for; a link to nothing, or a directory, is damage with its name.
func TestLinked(t *testing.T) {
	dir, now := t.TempDir(), time.Now().UTC()
	for i, c := range []struct {
		damage string
		spoil  func(file string) error
	}{
		{"", func(string) error { return nil }},
		{manifest.Layout + " is missing", func(file string) error { return os.Remove(file + ".moved") }},
		{"cannot use ", func(file string) error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) }},
	} {
		file := filepath.Join(dir, make1(t, dir, "web", now.AddDate(0, 0, -i)), manifest.Layout)
		if err := errors.Join(os.Rename(file, file+".moved"), os.Symlink(filepath.Base(file)+".moved", file), c.spoil(file)); err != nil {
			t.Fatal(err)
		}
		plan, err := Keep{Last: 9}.Plan(t.Context(), dir, "web", nil, now)
		if err != nil || len(plan) != i+1 {
			t.Fatalf("Plan() = %v, %v", plan, err)
		}
		if v := plan[i]; (v.damage == "") != (c.damage == "") || !strings.HasPrefix(v.damage, c.damage) {
			t.Errorf("set %d: damage %q; want %q", i, v.damage, c.damage)
		}
	}
}

// TestThousand: of 1,000 sets in a directory, the plan keeps what restic keeps.
func TestThousand(t *testing.T) {
	dir, now := t.TempDir(), at("2026-11-30 07:00")
	for i := range 1000 {
		make1(t, dir, "web", now.Add(-time.Duration(i)*17*time.Hour))
	}
	begin := time.Now()
	plan, err := Keep{Last: 3, Daily: 7, Weekly: 4, Monthly: 6}.Plan(t.Context(), dir, "web", nil, now)
	if err != nil {
		t.Fatal(err)
	}
	if sets, _, err := set.List(dir, set.This("web")); err != nil || len(sets) != 1000 {
		t.Errorf("List() = %d sets, %v; want 1000", len(sets), err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("listing and planning take %v; want a few seconds at most", took)
	} else {
		t.Logf("listing and planning take %v", took)
	}
	stay, _ := kept(plan)
	if removed, err := Apply(t.Context(), dir, plan, nil); err != nil || len(removed)+len(strings.Fields(stay)) != 1000 {
		t.Fatalf("%d removed, %d kept, %v", len(removed), len(strings.Fields(stay)), err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != len(strings.Fields(stay)) || len(left) < 13 || len(left) > 20 {
		t.Errorf("%d are left, %v; want those of the plan, between 13 and 20", len(left), err)
	}
}

// TestRestic: restic keeps the same of the same times.
func TestRestic(t *testing.T) {
	if _, err := exec.LookPath("restic"); err != nil {
		t.Skip("restic is not installed")
	}
	repo, now := t.TempDir(), at("2026-11-30 07:00")
	run := func(args ...string) []byte {
		t.Helper()
		c := exec.Command("restic", append([]string{"-q", "--no-cache", "-r", repo}, args...)...)
		c.Env = append(os.Environ(), "RESTIC_PASSWORD=x", "TZ=UTC")
		out, err := c.Output()
		if err != nil {
			t.Fatalf("restic %s: %v", args, err)
		}
		return out
	}
	run("init")
	data := t.TempDir() + "/f"
	if err := os.WriteFile(data, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var vs []*Verdict
	for i := range 40 {
		when := now.Add(-time.Duration(i*i) * time.Hour * 5)
		run("backup", "--time", when.Format(time.DateTime), data)
		vs = append(vs, &Verdict{Set: when.Format(time.DateTime), Created: when})
	}
	var groups []struct {
		Keep []struct{ Time time.Time }
	}
	if err := json.Unmarshal(run("forget", "-n", "--json", "--group-by", "host", "--keep-last", "3", "--keep-daily", "7", "--keep-weekly", "4", "--keep-monthly", "6"), &groups); err != nil || len(groups) != 1 {
		t.Fatalf("%d groups, %v", len(groups), err)
	}
	want := map[string]bool{}
	for _, s := range groups[0].Keep {
		want[s.Time.UTC().Format(time.DateTime)] = true
	}
	Keep{Last: 3, Daily: 7, Weekly: 4, Monthly: 6}.decide(vs, nil, now, time.UTC)
	for _, v := range vs {
		if v.Remove == want[v.Set] {
			t.Errorf("%s: removed: %v (%v); restic keeps it: %v", v.Set, v.Remove, v.Reasons, want[v.Set])
		}
	}
}

func TestValidate(t *testing.T) {
	if err := (Keep{Daily: -1, Monthly: -2}).Validate(); err == nil || !strings.Contains(err.Error(), "keep.daily: -1") || !strings.Contains(err.Error(), "keep.monthly: -2") {
		t.Errorf("Validate() = %v", err)
	}
	if err := (Keep{Last: 1}).Validate(); err != nil {
		t.Error(err)
	}
	if fmt.Sprint(Keep{}.Set(), Keep{Weekly: 1}.Set()) != "false true" {
		t.Error("Set")
	}
}
