package restore

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// madeSet makes a set of a host in the directory called name in home. machine is the id of its
// machine; change is done to its manifest.
func madeSet(t *testing.T, home, name, host, machine string, created time.Time, change func(m *manifest.Manifest)) *manifest.Set {
	t.Helper()
	dir := filepath.Join(home, name)
	err := os.Rename(setOfLayout(t, &layout.Layout{}, host), dir)
	if machine != "" {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, manifest.MachineFile), []byte(machine), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := manifest.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := s.Manifest
	m.ID, m.Created = uuid.New(), created
	if machine != "" {
		m.Files = append(m.Files, manifest.FileSum{Name: manifest.MachineFile, Size: quantity.Size(len(machine)), SHA256: digest(machine)})
	}
	if change != nil {
		change(m)
	}
	if err := errors.Join(s.Close(), os.Remove(filepath.Join(dir, manifest.File)), m.Write(dir)); err != nil {
		t.Fatal(err)
	}
	if s, err = manifest.Open(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func digest(machine string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(machine))) }

// TestAge: a person is told of the age of a set where a newer one is known, by the medium or beside
// the set, and of any that is old.
func TestAge(t *testing.T) {
	now := time.Now()
	medium := func(id, host string, ago time.Duration) *rescue.Info {
		return &rescue.Info{SetID: id, Host: host, Created: now.Add(-ago)}
	}
	const own = "the set's"
	for name, c := range map[string]struct {
		ago    time.Duration
		medium *rescue.Info
		beside time.Duration // how long ago another set was made beside it; 0 for none
		host   string        // of that
		want   string
	}{
		"young":                 {ago: time.Hour},
		"beside a newer one":    {ago: 90 * time.Minute, beside: time.Minute, host: "web", want: "was made 90 minutes ago, on"},
		"beside an older one":   {ago: time.Hour, beside: 2 * time.Hour, host: "web"},
		"beside another host's": {ago: time.Hour, beside: time.Minute, host: "db"},
		"beside a namesake's":   {ago: time.Hour, beside: time.Minute, host: "web of another machine"},
		"of the medium":         {ago: time.Hour, medium: medium(own, "web", 0)},
		"before the medium's":   {ago: 5 * time.Hour, medium: medium("x", "web", time.Hour), want: "was made 5 hours ago, on"},
		"after the medium's":    {ago: time.Hour, medium: medium("x", "web", 2*time.Hour)},
		"medium without a set":  {ago: time.Hour, medium: medium("", "web", 0)},
		"medium of another":     {ago: time.Hour, medium: medium("x", "db", 0)},
		"3 days, nothing newer": {ago: 72 * time.Hour},
		"15 days":               {ago: 15 * 24 * time.Hour, want: "was made 15 days ago, on"},
	} {
		home := t.TempDir()
		s := madeSet(t, home, "set", "web", "mine", now.Add(-c.ago), nil)
		if c.beside > 0 {
			host, other, _ := strings.Cut(c.host, " of ")
			madeSet(t, home, "beside", host, map[string]string{"": "mine"}[other]+other, now.Add(-c.beside), nil)
		}
		if c.medium != nil && c.medium.SetID == own {
			c.medium.SetID = s.Manifest.ID
		}
		door, err := (&Restorer{Screen: &notes{}}).ring().Door(t.Context(), manifest.Wanted{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		p := &person{}
		r := &Restorer{Screen: p, opt: Options{Medium: c.medium}}
		if r.set, err = door.Open(t.Context(), filepath.Join(home, "set")); err != nil {
			t.Fatal(err)
		}
		if err := r.trusted(now); err != nil {
			t.Fatal(err)
		}
		r.set.Close()
		if got := strings.Join(p.warned, "; "); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: warned %q; want %q", name, got, c.want)
		}
	}
}

// TestNamesake: a set of another machine with the name of the one that is meant is restored
// unattended only where it was named, or is signed with a known key; a person is warned.
func TestNamesake(t *testing.T) {
	s := madeSet(t, t.TempDir(), "set", "web", "theirs", time.Now(), nil)
	wanted := manifest.Wanted{ID: "x", Host: "web", Machine: digest("mine")}
	ours := wanted
	ours.Machine = digest("theirs")
	byID := wanted
	byID.ID = s.Manifest.ID
	for name, c := range map[string]struct {
		opt     Options
		chosen  bool // it was in a place with sets, which was named
		known   bool
		refused bool
		warned  bool
	}{
		"its own":                  {opt: Options{Request: Request{Yes: true}, Found: true, Wanted: ours}},
		"not known":                {opt: Options{Request: Request{Yes: true}, Found: true, Wanted: manifest.Wanted{Host: "web"}}},
		"the medium's":             {opt: Options{Request: Request{Yes: true}, Found: true, Wanted: byID}},
		"unattended":               {opt: Options{Request: Request{Yes: true}, Found: true, Wanted: wanted}, refused: true},
		"unattended, from a place": {opt: Options{Request: Request{Yes: true}, Wanted: wanted}, chosen: true, refused: true},
		"unattended, named":        {opt: Options{Request: Request{Yes: true}, Wanted: wanted}, warned: true},
		"unattended, signed":       {opt: Options{Request: Request{Yes: true}, Found: true, Wanted: wanted}, known: true, warned: true},
		"a person":                 {opt: Options{Found: true, Wanted: wanted}, warned: true},
	} {
		n := &notes{}
		r := &Restorer{Screen: n, opt: c.opt, set: s, content: setContent{s}, keyKnown: c.known}
		s.Chosen = c.chosen
		err := r.meant()
		if (exit.Code(err) == exit.Refused) != c.refused || (err != nil) != c.refused || (len(n.said) > 0) != c.warned {
			t.Errorf("%s: meant() = %v, said %q; want refused = %v, warned = %v", name, err, n.said, c.refused, c.warned)
		}
		if text := fmt.Sprint(err, n.said); (c.refused || c.warned) && (!strings.Contains(text, "another machine with the name web") || !strings.Contains(text, s.Manifest.ID)) {
			t.Errorf("%s: %s; want the reason, and the id", name, text)
		}
	}
}

// TestWrongSet: a set that is not what it seems is refused, or named, before anything is written
// to a disk.
func TestWrongSet(t *testing.T) {
	now := time.Now()
	wanted := manifest.Wanted{Host: "web", Machine: digest("mine"), Strict: true}
	swap := func(a, b string) error {
		return errors.Join(os.Rename(a, a+"x"), os.Rename(b, a), os.Rename(a+"x", b))
	}
	needs := func(sets ...*manifest.Set) func(m *manifest.Manifest) {
		return func(m *manifest.Manifest) {
			m.Version = manifest.VersionIncrement
			for _, s := range sets {
				m.Needs = append(m.Needs, manifest.Needed{ID: s.Manifest.ID, Dir: filepath.Base(s.String()), Digest: s.Digest})
			}
		}
	}
	for name, c := range map[string]struct {
		make func(t *testing.T, home string) (set string)
		opt  Options
		code int    // 0: it is planned
		want string // of the error, or what is said
	}{
		"increments out of order": {func(t *testing.T, home string) string {
			full := madeSet(t, home, "web-1", "web", "mine", now.Add(-3*time.Hour), nil)
			second := madeSet(t, home, "web-2", "web", "mine", now.Add(-2*time.Hour), needs(full))
			madeSet(t, home, "web-3", "web", "mine", now.Add(-time.Hour), needs(full, second))
			if err := swap(filepath.Join(home, "web-1"), filepath.Join(home, "web-2")); err != nil {
				t.Fatal(err)
			}
			return home
		}, Options{Wanted: wanted}, exit.Failed, "it needs the earlier set web-1"},
		"archive of another set": {func(t *testing.T, home string) string {
			tree := func(content string) string {
				dir := t.TempDir()
				if err := os.WriteFile(filepath.Join(dir, "f"), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				return dir
			}
			l := simple()
			l.Images, l.Filesystems = nil, l.Filesystems[:1]
			mine, other := pairOf(t, l, map[string]string{"/": tree("mine")}), pairOf(t, l, map[string]string{"/": tree("evil")})
			file := mine.Manifest.Archives[0].File
			b, err := os.ReadFile(filepath.Join(other.Local(), file))
			if err := errors.Join(err, os.WriteFile(filepath.Join(mine.Local(), file), b, 0o600)); err != nil {
				t.Fatal(err)
			}
			return mine.Local()
		}, Options{}, exit.Failed, "vda1._x.tar.zst"},
		"clock set back": {func(t *testing.T, home string) string {
			full := madeSet(t, home, "web-1", "web", "mine", now.Add(-time.Hour), nil)
			madeSet(t, home, "web-2", "web", "mine", now.Add(-2*time.Hour), needs(full))
			return home
		}, Options{Wanted: wanted}, 0, "is dated before"},
		"an older set": {func(t *testing.T, home string) string {
			madeSet(t, home, "web-2", "web", "mine", now.Add(-2*time.Hour), nil)
			return home
		}, Options{Wanted: wanted, Medium: &rescue.Info{SetID: "x", Host: "web", Created: now}}, 0, "this medium was made with a newer one"},
		"of two machines": {func(t *testing.T, home string) string {
			madeSet(t, home, "web-1", "web", "mine", now.Add(-2*time.Hour), nil)
			madeSet(t, home, "web-2", "web", "theirs", now.Add(-time.Hour), nil)
			return home
		}, Options{Wanted: wanted}, 0, "were passed over:\n  "},
		"of another machine": {func(t *testing.T, home string) string {
			madeSet(t, home, "web-2", "web", "theirs", now.Add(-time.Hour), nil)
			return home
		}, Options{Wanted: wanted, Request: Request{Yes: true}}, exit.Refused, "another machine with the name web"},
	} {
		t.Run(name, func(t *testing.T) {
			m, r, s := onFake(t, "vda")
			o := c.opt
			o.Outside, o.DataOnly, o.Set = true, true, c.make(t, t.TempDir())
			o.PlanOnly = c.code == 0
			_, err := r.Restore(t.Context(), o)
			if said := strings.Join(s.said, "\n") + fmt.Sprint(err); c.code != 0 && exit.Code(err) != c.code || !strings.Contains(said, c.want) {
				t.Errorf("Restore() = %v; want exit status %d and %q; said\n%s", err, c.code, c.want, said)
			}
			if len(m.Did("open", "mount", "reread")) > 0 {
				t.Errorf("Log() = %q; want nothing written", m.Log())
			}
		})
	}
}
