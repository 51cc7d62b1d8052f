package manifest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/signing"
	"github.com/mkcdrec/mkcdrec/internal/store/sealed"
)

// TestChooseMachine: of sets of two machines of one name those of the own one are taken, and the
// others are named. Where that can't be decided, none is taken.
func TestChooseMachine(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	f := func(dir, machine string, ago time.Duration, needs ...string) Found {
		return Found{Dir: dir, ID: "id-" + dir, Host: "web", Created: now.Add(-ago), Machine: machine, Needs: needs}
	}
	const mine, other, third = "1111111111", "2222222222", "3333333333"
	own, theirs, none := f("own", mine, 48*time.Hour), f("theirs", other, time.Hour), f("none", "", 2*time.Hour)
	for _, c := range []struct {
		name   string
		found  []Found
		want   Wanted
		dir    string // "" if it is refused
		remark string
	}{
		{"own is older", []Found{theirs, own}, Wanted{Host: "web", Machine: mine}, "own", "of another machine, or of one without an id, and were passed over:\n  theirs"},
		{"one without an id", []Found{none, own}, Wanted{Host: "web", Machine: mine}, "own", "passed over:\n  none"},
		{"may be its own", []Found{none, theirs}, Wanted{Host: "web", Machine: mine}, "none", "passed over:\n  theirs"},
		{"only another's", []Found{theirs}, Wanted{Host: "web", Machine: mine}, "theirs", ""},
		{"only another's, unattended", []Found{theirs}, Wanted{Host: "web", Machine: mine, Strict: true, Own: true}, "", "the backup sets are of another machine with the name web"},
		{"two others", []Found{theirs, f("more", third, 0)}, Wanted{Host: "web", Machine: mine}, "", "several machines with the name web; name the directory of one of them:\n  more of machine 33333333 ("},
		{"not known which", []Found{theirs, own}, Wanted{Host: "web"}, "", "several machines with the name web"},
		{"nothing known", []Found{theirs, own}, Wanted{}, "", "several machines with the name web"},
		{"another host asks", []Found{theirs}, Wanted{Host: "db", Machine: mine}, "theirs", "no backup set here is of db"},
		{"by its id", []Found{theirs, own}, Wanted{ID: "id-theirs", Host: "web", Machine: mine, Own: true}, "theirs", ""},
		{"clock set back", []Found{f("full", mine, time.Hour), f("more", mine, 2*time.Hour, "id-full"), f("last", mine, 3*time.Hour, "id-full", "id-more")}, Wanted{Host: "web"}, "last", "the clock of its machine was set back"},
		{"clock set back, then full", []Found{f("full", mine, time.Hour), f("more", mine, 2*time.Hour, "id-full"), f("next", mine, 0)}, Wanted{Host: "web"}, "next", ""},
		{"needs in a circle", []Found{f("a", mine, 0, "id-b"), f("b", mine, 0, "id-a")}, Wanted{Host: "web"}, "a", ""},
	} {
		best, remarks, err := Choose(c.found, c.want, now)
		var r *exit.Refusal
		text := strings.Join(remarks, "\n")
		if err != nil {
			text = err.Error()
		}
		if best.Dir != c.dir || errors.As(err, &r) != (c.dir == "") || !strings.Contains(text, c.remark) {
			t.Errorf("%s: Choose() = %v, %q, %v; want %q and %q", c.name, best.Dir, remarks, err, c.dir, c.remark)
		}
	}
	w := Wanted{Host: "web", Machine: mine}
	for machine, want := range map[string]bool{mine: false, other: true, "": false} {
		if w.OtherMachine(machine, "web") != want || w.OtherMachine(machine, "db") || (Wanted{Host: "web"}).OtherMachine(machine, "web") {
			t.Errorf("OtherMachine(%q) is not %v", machine, want)
		}
	}
}

// chain makes a full set and its increments in one directory, each a day after the one before.
// The sets are encrypted for to, if it is not nil.
func chain(t *testing.T, to age.Recipient, sets int) (home string, names []string) {
	t.Helper()
	plain := t.TempDir()
	var needs []Needed
	for i := range sets {
		name := fmt.Sprint("web-", i)
		dir := setAs(t, plain, name, "web", time.Unix(1e9, 0).AddDate(0, 0, i), i+1)
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		m := s.Manifest
		s.Close()
		if m.Needs = slices.Clone(needs); i > 0 {
			m.Version = VersionIncrement
		}
		if err := errors.Join(os.Remove(filepath.Join(dir, File)), m.Write(dir)); err != nil {
			t.Fatal(err)
		}
		writeLists(t, dir)
		if s, err = Open(dir); err != nil {
			t.Fatal(err)
		}
		needs = append(needs, Needed{ID: m.ID, Dir: name, Digest: s.Digest})
		names = append(names, name)
		s.Close()
	}
	if to == nil {
		return plain, names
	}
	return encryptAll(t, plain, names, to), names
}

// encryptAll encrypts sets into another directory.
func encryptAll(t *testing.T, plain string, names []string, to age.Recipient) (home string) {
	t.Helper()
	home = t.TempDir()
	for _, n := range names {
		s, err := Open(filepath.Join(plain, n))
		if err != nil {
			t.Fatal(err)
		}
		dir, _ := encrypt(t, s, to, "")
		if err := errors.Join(s.Close(), os.Rename(dir, filepath.Join(home, n))); err != nil {
			t.Fatal(err)
		}
	}
	return home
}

// TestSwappedSets: an increment whose earlier sets are not those that it was made with is refused
// when it is opened, with the name of the wrong one.
func TestSwappedSets(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	d := Door{Identities: func(bool) ([]age.Identity, error) { return []age.Identity{id}, nil }}
	for _, to := range []age.Recipient{nil, id.Recipient()} {
		home, names := chain(t, to, 4)
		at := func(i int) string { return filepath.Join(home, names[i]) }
		s, err := d.Open(t.Context(), home)
		if err != nil || s.Manifest.ID != fmt.Sprintf("%08d-89ab-cdef-0123-456789abcdef", 4) {
			t.Fatalf("Open() = %v, %v; want the last increment", s, err)
		}
		s.Close()
		if err := errors.Join(os.Rename(at(0), at(1)+"x"), os.Rename(at(1), at(0)), os.Rename(at(1)+"x", at(1))); err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{"it needs the earlier set web-0", "", "it needs the earlier set web-1", "it needs the earlier set web-0"} {
			s, err := d.Open(t.Context(), at(i))
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("encrypted %v: Open(%s) = %v; want %q", to != nil, names[i], err, want)
			}
			if err == nil {
				s.Close()
			}
		}
	}
}

// TestClockSetBack: an increment that is dated before the set that it needs is the newest all the
// same, in a directory and encrypted, and that is said.
func TestClockSetBack(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []age.Recipient{nil, id.Recipient()} {
		home, names := chain(t, nil, 2)
		dir := filepath.Join(home, names[1])
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		m := s.Manifest
		m.Created = m.Created.AddDate(0, 0, -2)
		if err := errors.Join(s.Close(), os.Remove(filepath.Join(dir, File)), m.Write(dir)); err != nil {
			t.Fatal(err)
		}
		if to != nil {
			home = encryptAll(t, home, names, to)
		}
		var said []string
		d := Door{Say: func(f string, a ...any) { said = append(said, fmt.Sprintf(f, a...)) }, Identities: func(bool) ([]age.Identity, error) { return []age.Identity{id}, nil }}
		s, err = d.Open(t.Context(), home)
		if err != nil || !strings.HasSuffix(s.String(), names[1]) || !strings.Contains(strings.Join(said, "\n"), "is dated before") {
			t.Fatalf("encrypted %v: Open() = %v, %v, said %q; want the increment, and why", to != nil, s, err, said)
		}
		if n := s.Newer(time.Now()); n != nil {
			t.Errorf("Newer() = %v; want none", n)
		}
		s.Close()
		if s, err = d.Open(t.Context(), filepath.Join(home, names[0])); err != nil {
			t.Fatal(err)
		}
		if n := s.Newer(time.Now()); n == nil || filepath.Base(n.Dir) != names[1] {
			t.Errorf("Newer() = %v; want the increment", n)
		}
		s.Close()
	}
}

// TestNewer: newer sets of the machine in the place of a set are known, however the set was named.
func TestNewer(t *testing.T) {
	now := time.Now()
	dir := t.TempDir()
	old := setAs(t, dir, "web-1", "web", now.Add(-72*time.Hour), 1)
	mid := setAs(t, dir, "web-2", "web", now.Add(-48*time.Hour), 2)
	setAs(t, dir, "db-1", "db", now.Add(-time.Hour), 3)
	setAs(t, dir, "web-9", "web", now.AddDate(1, 0, 0), 4)
	for place, want := range map[string]string{old: mid, mid: "", "file://" + old: mid, dir: ""} {
		s, err := Door{Want: Wanted{Host: "web"}}.Open(t.Context(), place)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if n := s.Newer(now); n != nil {
			got = n.Dir
		}
		if got != want || s.Chosen != (place == dir) {
			t.Errorf("Newer() of %s = %q, chosen %v; want %q", place, got, s.Chosen, want)
		}
		s.Close()
	}
}

// TestForeignArchive: an archive of another set under the name of one of this set's is named, with
// all sums adjusted that can be without the key: in a directory all but the signature, in an
// encrypted set those of set.json.
func TestForeignArchive(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	const name = "vda1._.tar.zst"
	key, _, err := signing.LoadKey(filepath.Join(t.TempDir(), "key"), "h")
	if err != nil {
		t.Fatal(err)
	}
	signed := func(content string) string {
		src := t.TempDir()
		file(t, src+"/f", content)
		dir := setOf(t, src)
		writeLists(t, dir)
		b, err := os.ReadFile(filepath.Join(dir, File))
		if err != nil {
			t.Fatal(err)
		}
		sig, err := key.Sign(b)
		if err := errors.Join(err, os.WriteFile(filepath.Join(dir, Signature), sig, 0o600)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	copyTo := func(to, from string) {
		b, err := os.ReadFile(from)
		if err := errors.Join(err, os.WriteFile(to, b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what, dir, want string, signature bool) {
		t.Helper()
		d := Door{Identities: func(bool) ([]age.Identity, error) { return []age.Identity{id}, nil }}
		s, err := d.Open(t.Context(), dir)
		if err == nil {
			defer s.Close()
			if signature = signature && s.SignatureFault != nil; !signature {
				err = s.Verify(t.Context(), true, progress.None{})
			}
		}
		if !signature && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v; want an error with %q", what, err, want)
		}
	}
	mine, other := signed("mine"), signed("evil") // of one length
	copyTo(filepath.Join(mine, name), filepath.Join(other, name))
	check("archive only", mine, name, false)
	copyTo(filepath.Join(mine, SHA256), filepath.Join(other, SHA256))
	copyTo(filepath.Join(mine, SFV), filepath.Join(other, SFV))
	check("with its lists", mine, name, false)
	copyTo(filepath.Join(mine, File), filepath.Join(other, File))
	check("with its manifest", mine, "", true)

	for _, content := range []string{"evil", "another length, and so other sizes"} {
		var objects, dirs []string
		for _, c := range []string{"mine", content} {
			s, err := Open(signed(c))
			if err != nil {
				t.Fatal(err)
			}
			dir, object := encrypt(t, s, id.Recipient(), name)
			dirs, objects = append(dirs, dir), append(objects, object)
			s.Close()
		}
		copyTo(objects[0], objects[1])
		check("encrypted", dirs[0], name, false)
		copyTo(filepath.Join(dirs[0], sealed.HeadFile), filepath.Join(dirs[1], sealed.HeadFile))
		check("encrypted, with its head", dirs[0], "index.age is not the file that set.json was written for", false)
		copyTo(filepath.Join(dirs[0], sealed.IndexFile), filepath.Join(dirs[1], sealed.IndexFile))
		check("encrypted, with its index", dirs[0], "", false)
	}
}
