package builder

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/builder/retention"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/btrfs/btrfstest"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// notes keeps what a run reports.
type notes struct {
	progress.None
	lines []string
}

func (n *notes) Note(f string, a ...any) { n.lines = append(n.lines, fmt.Sprintf(f, a...)) }
func (n *notes) Warn(f string, a ...any) {
	n.lines = append(n.lines, "warning: "+fmt.Sprintf(f, a...))
}

// nightlyRuns is a machine with one file system that is backed up again and again.
type nightlyRuns struct {
	t    *testing.T
	b    *Builder
	src  string
	home string
	said *notes
	uuid string // of the file system
	disk string // a device of diskSize that is saved block by block, "" for none
}

const diskSize = 20<<20 + 4096

func newNightly(t *testing.T) *nightlyRuns {
	n := &nightlyRuns{t: t, b: fakeMachine(t), src: t.TempDir(), home: t.TempDir(), said: &notes{}, uuid: "11111111-2222-3333-4444-555555555555"}
	n.b.Report, n.b.States = n.said, t.TempDir()
	n.b.Config.Generations = Generations{FullEvery: 3}
	n.sh("mkdir d; echo A > a; echo B > d/b; ln d/b link; truncate -s 9000000 sparse")
	return n
}

func (n *nightlyRuns) sh(script string) {
	n.t.Helper()
	c := exec.Command("sh", "-ec", script)
	c.Dir = n.src
	if out, err := c.CombinedOutput(); err != nil {
		n.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// run makes the next set; sets of one second have one name.
func (n *nightlyRuns) run() *Result {
	n.t.Helper()
	time.Sleep(1100 * time.Millisecond)
	n.said.lines = nil
	p := planFor("/dev/no-such-disk", n.src, "ext4")
	p.Layout.Hostname, p.Layout.Kernel.Release = "host", "6.1.0-test"
	p.Layout.Filesystems[0].UUID = n.uuid
	p.archives()
	p.Archives[0].File = "sda1._.tar.zst"
	if n.disk != "" {
		dev := strings.TrimPrefix(n.disk, "/dev/")
		p.Layout.Disks = append(p.Layout.Disks, layout.Disk{Name: dev, Size: diskSize, LogicalSector: 512, PhysicalSector: 512})
		p.Layout.Images = []layout.Image{{Device: dev, Type: "squashfs", Size: diskSize, File: "sdb1.img.zst"}}
		p.Images = []*layout.Image{&p.Layout.Images[0]}
	}
	r, err := n.b.Path(n.t.Context(), p, n.home)
	if err != nil {
		n.t.Fatal(err)
	}
	return r
}

// is extracts a set, and compares it with the source as it is now.
func (n *nightlyRuns) is(dir string) error {
	n.t.Helper()
	s := verified(n.t, dir)
	defer s.Close()
	a, err := s.Archive(s.Manifest.Archives[0].File)
	if err != nil {
		return err
	}
	defer a.Close()
	root, err := os.Open(n.src)
	if err != nil {
		return err
	}
	defer root.Close()
	ds, err := a.Compare(n.t.Context(), root, archive.CompareOptions{})
	for _, d := range ds {
		err = errors.Join(err, errors.New(d.String()))
	}
	return err
}

// extracted lists the files of a set that is extracted, with their content.
func (n *nightlyRuns) extracted(dir string) string {
	n.t.Helper()
	s, err := manifest.Open(dir)
	if err != nil {
		n.t.Fatal(err)
	}
	defer s.Close()
	dest := n.t.TempDir()
	if _, lost, err := s.ExtractPaths(n.t.Context(), nil, dest, archive.ExtractOptions{}, progress.None{}); err != nil || len(lost) > 0 {
		n.t.Fatalf("ExtractPaths = %q, %v", lost, err)
	}
	out, err := exec.Command("sh", "-ec", `cd "$1"; find . -type f -size -100k | sort | while read -r f; do printf '%s=' "$f"; cat "$f"; done`, "sh", filepath.Join(dest, n.src)).Output()
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.ReplaceAll(string(out), "\n", " ")
}

// TestPathIncrement: a full set, two increments, and the next full one; each can be extracted, and by hand.
func TestPathIncrement(t *testing.T) {
	t.Parallel()
	n := newNightly(t)
	var sets []*Result
	for i, do := range []string{":", "echo C > c; rm a", "mv c d/moved; chmod 700 d", ":"} {
		n.sh(do)
		r := n.run()
		sets = append(sets, r)
		if err := n.is(r.Dir); err != nil {
			t.Errorf("set %d differs: %v", i, err)
		}
	}
	for i, want := range []struct {
		version, needs int
		note, content  string
	}{
		{1, 0, "", "./a=A ./d/b=B ./link=B "}, {2, 1, "", "./c=C ./d/b=B ./link=B "}, {2, 2, "", "./d/b=B ./d/moved=C ./link=B "}, {1, 0, "", "./d/b=B ./d/moved=C ./link=B "},
	} {
		m := sets[i].Manifest
		if m.Version != want.version || len(m.Needs) != want.needs || want.needs > 0 && m.Needs[0].ID != sets[0].Manifest.ID {
			t.Errorf("set %d has version %d and needs %+v; want %d, %d sets", i, m.Version, m.Needs, want.version, want.needs)
		}
		if got := n.extracted(sets[i].Dir); got != want.content {
			t.Errorf("set %d has %q; want %q", i, got, want.content)
		}
	}
	if sets[2].Manifest.Archives[0].DataSize != 0 {
		t.Errorf("moving a file saved %d bytes", sets[2].Manifest.Archives[0].DataSize)
	}
	b, err := os.ReadFile(filepath.Join(sets[2].Dir, "RESTORE.txt"))
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, r := range sets[:2] { // in order
		if i := strings.Index(string(b)[at:], "zstd -dc ../"+filepath.Base(r.Dir)+"/"); i < 0 {
			t.Fatalf("RESTORE.txt does not unpack %s:\n%s", r.Dir, b)
		} else {
			at += i
		}
	}
	if strings.Count(string(b), "--listed-incremental=/dev/null") != 3 {
		t.Errorf("RESTORE.txt:\n%s", b)
	}
	left, err := filepath.Glob(n.b.States + "/*/*")
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != sets[3].Manifest.ID {
		t.Errorf("states are left: %q, %v; want those of the last set", left, err)
	}
}

// TestPathImages: increments have what has changed of an image, and give all of it; a set that lacks an earlier image
// is refused.
func TestPathImages(t *testing.T) {
	t.Parallel()
	n := newNightly(t)
	n.disk = btrfstest.Loop(t, diskSize)
	content := make([]byte, diskSize)
	rand.NewChaCha8([32]byte{7}).Read(content)
	var sets []*Result
	var was [][]byte
	for i := range 4 {
		content[i*5<<20]++
		dev, err := os.OpenFile(n.disk, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := dev.Write(content); errors.Join(err, dev.Close()) != nil {
			t.Fatal(err)
		}
		sets, was = append(sets, n.run()), append(was, bytes.Clone(content))
		size := sets[i].Manifest.Sum("sdb1.img.zst").Size
		if full := i%3 == 0; full != (size > 20<<20) || full != (len(sets[i].Manifest.Needs) == 0) || size < 4<<20 || !full && size > 5<<20 {
			t.Errorf("set %d, needs %d: the image has %s; %q", i, len(sets[i].Manifest.Needs), size, n.said.lines)
		}
	}
	restored := func(r *Result) ([]byte, error) {
		s, err := manifest.Open(r.Dir)
		if err != nil {
			return nil, err
		}
		defer s.Close()
		if err := s.Verify(t.Context(), true, progress.None{}); err != nil {
			return nil, err
		}
		f, err := os.Create(filepath.Join(t.TempDir(), "restored"))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if err := s.RestoreImage(t.Context(), "sdb1.img.zst", f, func(int64) progress.Counter { return progress.None{} }); err != nil {
			return nil, err
		}
		return os.ReadFile(f.Name())
	}
	for i, r := range sets {
		if got, err := restored(r); err != nil || !bytes.Equal(got, was[i]) {
			t.Errorf("set %d: the image is the same: %v, %v", i, bytes.Equal(got, was[i]), err)
		}
		script, err := os.ReadFile(r.Dir + "/restore.sh")
		if want := []string{"frames \"$SET\"/log/sdb1.frames", "../" + filepath.Base(sets[0].Dir) + "/sdb1.img.zst"}; err != nil || strings.Contains(string(script), want[0]) != (i%3 != 0) || strings.Contains(string(script), want[1]) != (i == 1 || i == 2) {
			t.Errorf("restore.sh of set %d = %s, %v", i, script, err)
		}
	}
	if got, err := n.byHand(sets[2].Dir); err != nil || !bytes.Equal(got, was[2]) {
		t.Errorf("by hand: the image is the same: %v, %v", bytes.Equal(got, was[2]), err)
	}
	list, err := os.ReadFile(sets[1].Dir + "/log/sdb1.frames")
	if err != nil || string(list) != "1 1\n" {
		t.Errorf("the list of frames = %q, %v", list, err)
	}
	if err := os.Remove(filepath.Join(sets[0].Dir, "sdb1.img.zst")); err != nil {
		t.Fatal(err)
	}
	if _, err := restored(sets[2]); err == nil || !strings.Contains(err.Error(), filepath.Base(sets[0].Dir)) || !strings.Contains(err.Error(), "sdb1.img.zst is missing") {
		t.Errorf("without the first image: %v", err)
	}
}

// byHand restores the image of a set with the lines for it of restore.sh.
func (n *nightlyRuns) byHand(dir string) ([]byte, error) {
	n.t.Helper()
	if _, err := exec.LookPath("zstd"); err != nil {
		n.t.Skip("zstd is not installed; make test installs it")
	}
	text, err := os.ReadFile(dir + "/restore.sh")
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(string(text), "frames() {")
	body, _, _ := strings.Cut(rest, "\n}\n")
	script, to := "frames() {"+body+"\n}\n", filepath.Join(n.t.TempDir(), "device")
	for _, l := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(l, "get()") || strings.Contains(l, ".img.zst |") {
			script += regexp.MustCompile(`"\$disk_\w+"`).ReplaceAllString(l, to) + "\n"
		}
	}
	if out, err := exec.Command("sh", "-euc", "SET=$1\n"+script, "sh", dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s\n%s", err, out, script)
	}
	return os.ReadFile(to)
}

// TestPathFull: what makes a backup full although increments are configured, and what is reported.
func TestPathFull(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		change func(n *nightlyRuns, last *Result) error
		want   string
	}{
		"no state":        {func(n *nightlyRuns, _ *Result) error { return os.RemoveAll(n.b.States) }, "no state is kept on this machine"},
		"damaged state":   {func(n *nightlyRuns, r *Result) error { return os.WriteFile(n.state(r, stateFile), []byte("{"), 0o600) }, "can't be used"},
		"state of one":    {func(n *nightlyRuns, r *Result) error { return os.Truncate(n.state(r, "sda1._.tar.zst"), 100) }, "is saved as a whole"},
		"archive is cut":  {func(_ *nightlyRuns, r *Result) error { return os.Truncate(r.Dir+"/sda1._.tar.zst", 100) }, "has 100 bytes"},
		"set was removed": {func(_ *nightlyRuns, r *Result) error { return os.RemoveAll(r.Dir) }, "there is no other"},
		"set was renamed": {func(_ *nightlyRuns, r *Result) error { return os.Rename(r.Dir, r.Dir+"-x") }, "is not the one that was made here"},
		"another disk":    {func(n *nightlyRuns, _ *Result) error { n.uuid = "21111111-2222-3333-4444-555555555555"; return nil }, "it is another file system than in"},
		"another place":   {func(n *nightlyRuns, _ *Result) error { n.home = n.t.TempDir(); return nil }, "there is no other"},
		"not wanted":      {func(n *nightlyRuns, _ *Result) error { n.b.Config.Generations = Generations{}; return nil }, ""},
	} {
		t.Run(what, func(t *testing.T) {
			n := newNightly(t)
			if err := c.change(n, n.run()); err != nil {
				t.Fatal(err)
			}
			r := n.run()
			if r.Manifest.Version != 1 || len(r.Manifest.Needs) > 0 {
				t.Errorf("the set needs %+v; want a full one", r.Manifest.Needs)
			}
			if got := strings.Join(n.said.lines, "\n"); !strings.Contains(got, c.want) {
				t.Errorf("reported %q; want %q in it", got, c.want)
			}
			if err := n.is(r.Dir); err != nil {
				t.Error(err)
			}
		})
	}
}

func (n *nightlyRuns) state(r *Result, name string) string {
	found, _ := filepath.Glob(filepath.Join(n.b.States, "*", r.Manifest.ID, name))
	if len(found) != 1 {
		n.t.Fatalf("states of %s: %q", r.Manifest.ID, found)
	}
	return found[0]
}

// TestPathNeeds: an earlier set that is missing, damaged or another one is named before anything is read, and one that
// is needed is not removed.
func TestPathNeeds(t *testing.T) {
	n := newNightly(t)
	n.b.Config.Keep = retention.Keep{Last: 1}
	full := n.run()
	n.sh("echo 2 > two")
	incr := n.run()
	if _, err := os.Stat(full.Dir); err != nil || len(incr.Removed) > 0 {
		t.Fatalf("the run has removed %q", incr.Removed)
	}
	plan, err := n.b.Config.Keep.Plan(t.Context(), n.home, "host", nil, time.Now())
	if err != nil || len(plan) != 2 || plan[1].Remove || !slices.Equal(plan[1].Reasons, []string{"needed by " + filepath.Base(incr.Dir)}) {
		t.Errorf("Plan = %+v, %v; want the full set needed by the increment", plan, err)
	}
	base := filepath.Base(full.Dir)
	bad := func(what, want string, change, back func() error) {
		t.Helper()
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if s, err := manifest.Open(incr.Dir); err == nil {
			err = s.Verify(t.Context(), false, progress.None{})
			if err == nil || !strings.Contains(err.Error(), base) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: Verify = %v; want %q and %s", what, err, want, base)
			}
		} else if !strings.Contains(err.Error(), base) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: Open = %v; want %q and %s", what, err, want, base)
		}
		if err := back(); err != nil {
			t.Fatal(err)
		}
	}
	bad("missing", "it is missing", func() error { return os.Rename(full.Dir, full.Dir+"~") }, func() error { return os.Rename(full.Dir+"~", full.Dir) })
	for _, f := range []struct{ name, want string }{{"sda1._.tar.zst", "frame 0 at byte 0 is damaged"}, {manifest.File, "manifest.json is damaged"}} {
		name := filepath.Join(full.Dir, f.name)
		good, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		bad(f.name, f.want, func() error {
			b := slices.Clone(good)
			b[20] ^= 1
			return os.WriteFile(name, b, 0o600)
		}, func() error { return os.WriteFile(name, good, 0o600) })
		bad(f.name+" cut off", "", func() error { return os.Truncate(name, 30) }, func() error { return os.WriteFile(name, good, 0o600) })
	}
	if err := n.is(incr.Dir); err != nil {
		t.Errorf("after all was put back: %v", err)
	}
	if err := os.RemoveAll(full.Dir); err != nil {
		t.Fatal(err)
	}
	plan, err = n.b.Config.Keep.Plan(t.Context(), n.home, "host", nil, time.Now())
	if err != nil || len(plan) != 1 || !strings.Contains(plan[0].Reasons[0], "the earlier set "+base+", which it needs, is missing") {
		t.Errorf("Plan without the full set = %+v, %v", plan, err)
	}
	if _, err := n.b.Discs(t.Context(), machinePlan(t), t.TempDir(), DiscOptions{Size: 64 << 20, From: incr.Dir}); err == nil || !strings.Contains(err.Error(), base) {
		t.Errorf("Discs of an increment without its base = %v", err)
	}
}

// TestFutureSet: a set that is dated in the future, and of which no state is kept here, does not end increments.
func TestFutureSet(t *testing.T) {
	n := newNightly(t)
	a := n.run()
	future := filepath.Join(n.home, "host-20991231T000000Z")
	if err := os.CopyFS(future, os.DirFS(a.Dir)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(future, manifest.File)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.ReplaceAll(b, []byte(a.Manifest.ID), []byte("00000000-0000-4000-8000-000000000000"))
	b = regexp.MustCompile(`"created": "\d{4}`).ReplaceAll(b, []byte(`"created": "2099`))
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if sets := generations(n.home, "host"); len(sets) != 2 || sets[0].Name != filepath.Base(future) {
		t.Fatalf("%d sets, %v; want the one of the future to be the newest", len(sets), sets)
	}
	if r := n.run(); len(r.Manifest.Needs) != 1 || r.Manifest.Needs[0].ID != a.Manifest.ID {
		t.Errorf("the next set needs %v; want %s\n%s", r.Manifest.Needs, a.Manifest.ID, strings.Join(n.said.lines, "\n"))
	}
}

// TestGenerations: when the next full backup is due.
func TestGenerationsDue(t *testing.T) {
	at := func(s string) time.Time {
		tm, err := time.ParseInLocation("2006-01-02 15:04", s, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		return tm
	}
	for _, c := range []struct {
		g         Generations
		full, now string
		sets      int
		want      bool
	}{
		{Generations{FullEvery: 7}, "2026-01-01 02:00", "2026-06-01 02:00", 6, false},
		{Generations{FullEvery: 7}, "2026-01-01 02:00", "2026-01-01 03:00", 7, true},
		{Generations{FullEvery: 1}, "2026-01-01 02:00", "2026-01-01 03:00", 1, true},
		{Generations{Full: "weekly"}, "2026-11-23 02:00", "2026-11-29 23:59", 7, false},
		{Generations{Full: "weekly"}, "2026-11-23 02:00", "2026-11-30 00:01", 7, true},
		{Generations{Full: "weekly"}, "2025-12-31 02:00", "2026-01-01 02:00", 1, false},
		{Generations{Full: "monthly"}, "2026-11-01 02:00", "2026-11-30 02:00", 30, false},
		{Generations{Full: "monthly"}, "2026-11-30 02:00", "2026-12-01 02:00", 2, true},
		{Generations{Full: "monthly"}, "2025-11-30 02:00", "2026-11-30 02:00", 2, true},
		{Generations{Full: "weekly"}, "2026-11-30 02:00", "2026-11-26 02:00", 1, true},
		{Generations{Full: "weekly"}, "2026-11-30 02:00", "2026-11-30 01:00", 1, false},
		{Generations{Full: "monthly"}, "2026-11-01 02:00", "2026-11-30 02:00", maxChain, true},
	} {
		if why := c.g.due(at(c.full), c.sets, at(c.now)); (why != "") != c.want {
			t.Errorf("%+v, full of %s, %d sets, at %s: due %q; want %v", c.g, c.full, c.sets, c.now, why, c.want)
		}
	}
	for _, g := range []Generations{{Full: "daily"}, {FullEvery: -1}, {FullEvery: maxChain + 1}, {Full: "weekly", FullEvery: 7}} {
		if err := g.Validate(); err == nil || !strings.Contains(err.Error(), "generations") {
			t.Errorf("%+v: %v; want an error with the key", g, err)
		}
	}
	if err := (Generations{Full: "weekly"}).Validate(); err != nil {
		t.Error(err)
	}
}
