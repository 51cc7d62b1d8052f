package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/inroot"
	"github.com/mkcdrec/mkcdrec/internal/store/sealed"
)

// Wanted is which one of several sets is meant. The zero value is any set, as
// long as all of them are of one host.
type Wanted struct {
	// ID is that of the only set that will do.
	ID string
	// Host is the one whose sets are meant.
	Host string
	// Machine is the one of that name, as Manifest.Machine returns it; "" where it has no id, or
	// that is not known. Its sets are preferred to those of other machines with the name.
	Machine string
	// Strict refuses the sets of another host also where there are no others; Own refuses those of
	// another machine with the name of the host.
	Strict, Own bool
}

// Is reports whether a set is the one that is meant, or one of the host's.
func (w Wanted) Is(id, host string) bool {
	return w.ID != "" && id == w.ID || w.Host != "" && host == w.Host
}

// OfHost is what is wanted where a person names a place that holds several sets: the
// newest of the host.
func (w Wanted) OfHost() Wanted { return Wanted{Host: w.Host, Machine: w.Machine} }

// OtherMachine reports whether a set is of another machine than the one that is meant, which has
// the same name. It is false where one of the two has no id.
func (w Wanted) OtherMachine(machine, host string) bool {
	return w.Machine != "" && machine != "" && machine != w.Machine && host == w.Host
}

// Found is a set that was found in a directory.
type Found struct {
	Dir     string
	ID      string
	Host    string
	Created time.Time
	// Machine is as Manifest.Machine returns it, Needs the ids of the earlier sets that it needs.
	Machine string
	Needs   []string
	// Encrypted: nothing else is known of it without a key.
	Encrypted bool
	name      string // of its directory in a home
}

// foundAt is the set in a directory by its manifest, or by the head of an encrypted one.
func foundAt(dir string, m *Manifest, h *sealed.Head) *Found {
	if h != nil {
		f := &Found{Dir: dir, ID: h.ID, Host: h.Host, Created: h.Created, Machine: h.Machine, Encrypted: true}
		for _, n := range h.Needs {
			f.Needs = append(f.Needs, n.ID)
		}
		return f
	}
	f := &Found{Dir: dir, ID: m.ID, Host: m.Host, Created: m.Created, Machine: m.Machine()}
	for _, n := range m.Needs {
		f.Needs = append(f.Needs, n.ID)
	}
	return f
}

// before reports whether a set was made before another one: by what they need, and else by their
// times.
func (f Found) before(g Found) bool {
	switch {
	case slices.Contains(g.Needs, f.ID):
		return true
	case slices.Contains(f.Needs, g.ID):
		return false
	}
	return f.Created.Before(g.Created)
}

// String describes it for people.
func (f Found) String() string {
	return fmt.Sprintf("%s (host %s, made %s, id %s)", f.Dir, f.Host, f.Created.UTC().Format("2006-01-02 15:04 UTC"), f.ID)
}

// future is how far ahead of the clock a set may be dated and still count as the
// newest: a clock that runs in local time is up to 14 hours wrong. aheadOf is from when
// on it is reported.
const (
	future  = 26 * time.Hour
	aheadOf = 2 * time.Minute
)

// Partial is the beginning of the names of directories with sets that are being written, or
// removed.
const Partial = ".mkcdrec-partial-"

// Look finds the sets in dir and in the directories below it, down to depth levels, but not
// those that are being written or removed, or were when their run was killed. A manifest that
// can't be used is among the damaged, and does not stop the search. Links are not followed: dir
// may be on any disk.
func Look(dir string, depth int) (found []Found, damaged []error) {
	f, err := lookIn(dir)
	if err != nil {
		damaged = append(damaged, err)
	} else if f != nil {
		found = append(found, *f)
	}
	if depth == 0 {
		return found, damaged
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		damaged = append(damaged, fmt.Errorf("cannot look for backup sets: %w", err))
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), Partial) {
			continue
		}
		f, d := Look(filepath.Join(dir, e.Name()), depth-1)
		found, damaged = append(found, f...), append(damaged, d...)
	}
	return found, damaged
}

// lookIn finds the set in dir itself; nil for none.
func lookIn(dir string) (f *Found, err error) {
	b, err := readText(dir, File)
	if err == nil {
		var m *Manifest
		if m, err = Parse(b); err == nil {
			return foundAt(dir, m, nil), nil
		}
	} else if errors.Is(err, os.ErrNotExist) {
		var h *sealed.Head
		if b, err = readText(dir, sealed.HeadFile); errors.Is(err, os.ErrNotExist) {
			return nil, nil
		} else if err == nil {
			if h, err = sealed.ParseHead(b); err == nil {
				return foundAt(dir, nil, h), nil
			}
		}
	}
	return nil, fmt.Errorf("cannot use backup set %s: %w", dir, err)
}

// readText reads a text of a set that may be anybody's: a file, and not too large.
func readText(dir, name string) ([]byte, error) {
	f, err := inroot.Open(dir, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxText+1))
	if err == nil && len(b) > MaxText {
		err = fmt.Errorf("cannot read %s: it has more than %d bytes", f.Name(), MaxText)
	}
	return b, err
}

// Choose gives the newest set of those that are wanted, and remarks for people. It
// refuses to choose among several hosts, or machines of one name, and gives the table of what
// there is. A set that is dated in the future counts only where there are no others. One of
// another machine with the name of the one that is wanted is chosen only where that one has
// none, without a remark: who opens it asks Wanted.OtherMachine.
func Choose(found []Found, want Wanted, now time.Time) (best Found, remarks []string, err error) {
	mine := slices.DeleteFunc(slices.Clone(found), func(f Found) bool {
		if want.ID != "" {
			return f.ID != want.ID
		}
		return want.Host != "" && f.Host != want.Host
	})
	if len(mine) == 0 && (want.ID != "" || want.Strict || len(found) == 0) {
		return Found{}, nil, &exit.Refusal{Reason: "none of the backup sets is of " + wantedName(want) + ":\n" + Table(found)}
	}
	if len(mine) == 0 {
		mine = found
		remarks = append(remarks, fmt.Sprintf("no backup set here is of %s", want.Host))
	}
	if i := slices.IndexFunc(mine, func(f Found) bool { return f.Host != mine[0].Host }); i > 0 {
		return Found{}, nil, &exit.Refusal{Reason: "the backup sets are of several hosts; name the directory of one of them:\n" + Table(mine)}
	}
	mine, namesakes, err := want.ofMachine(mine)
	if err != nil {
		return Found{}, nil, err
	}
	slices.SortStableFunc(mine, func(a, b Found) int {
		return cmp.Or(cmp.Compare(btoi(a.Created.Sub(now) > future), btoi(b.Created.Sub(now) > future)), b.Created.Compare(a.Created))
	})
	best, back := last(mine)
	remarks = append(remarks, back...)
	for _, f := range mine {
		if f.Created.Sub(now) > aheadOf {
			remarks = append(remarks, fmt.Sprintf("the backup set %v is dated in the future: the clock here or that of its machine is wrong", f))
		}
	}
	if len(namesakes) > 0 {
		remarks = append(remarks, fmt.Sprintf("these backup sets have the name %s, but are of another machine, or of one without an id, and were passed over:\n%s", best.Host, Table(namesakes)))
	}
	others := slices.DeleteFunc(slices.Clone(found), func(f Found) bool {
		return f.Dir == best.Dir || slices.ContainsFunc(namesakes, func(n Found) bool { return n.Dir == f.Dir })
	})
	if len(others) > 0 {
		remarks = append(remarks, fmt.Sprintf("backup set %v was chosen; there are others:\n%s", best, Table(others)))
	} else if len(namesakes) > 0 {
		remarks = append(remarks, fmt.Sprintf("backup set %v was chosen", best))
	}
	return best, remarks, nil
}

// ofMachine divides sets of one host: those of the machine that is wanted, or if there are none
// those that may be its, or else those of the one other machine; and those that are passed over.
func (w Wanted) ofMachine(sets []Found) (mine, others []Found, err error) {
	if w.ID != "" || w.Host != "" && sets[0].Host != w.Host {
		w.Machine, w.Own = "", false
	}
	if w.ID != "" {
		return sets, nil, nil
	}
	for _, is := range []func(Found) bool{
		func(f Found) bool { return w.Machine != "" && f.Machine == w.Machine },
		func(f Found) bool { return w.Machine != "" && f.Machine == "" },
	} {
		for _, f := range sets {
			if is(f) {
				mine = append(mine, f)
			} else {
				others = append(others, f)
			}
		}
		if len(mine) > 0 {
			return mine, others, nil
		}
		others = nil
	}
	if w.Machine != "" && w.Own {
		return nil, nil, &exit.Refusal{Reason: fmt.Sprintf("the backup sets are of another machine with the name %s:\n%s", w.Host, Table(sets))}
	}
	if several(sets) {
		return nil, nil, &exit.Refusal{Reason: fmt.Sprintf("the backup sets are of several machines with the name %s; name the directory of one of them:\n%s", sets[0].Host, Table(sets))}
	}
	return sets, nil, nil
}

// several reports whether sets are of several machines of one name.
func several(sets []Found) bool {
	machines := map[string]string{}
	for _, f := range sets {
		if m := machines[f.Host]; m != "" && f.Machine != "" && f.Machine != m {
			return true
		}
		if f.Machine != "" {
			machines[f.Host] = f.Machine
		}
	}
	return false
}

// last is the set that was made last of those that are sorted by their times, the newest first:
// an increment was made after what it needs, even if its clock was set back. The remark names one whose
// time contradicts that.
func last(sorted []Found) (best Found, remarks []string) {
	best = sorted[0]
	for range sorted {
		i := slices.IndexFunc(sorted, func(f Found) bool { return slices.Contains(f.Needs, best.ID) })
		if i < 0 {
			break
		}
		remarks = []string{fmt.Sprintf("the backup set %v is dated before %v, which it needs: the clock of its machine was set back", sorted[i], best)}
		best = sorted[i]
	}
	return best, remarks
}

// Newer returns the newest of the sets in the place where this one is that are of the same host
// and machine, and were made after it; nil for none, or where that can't be known. One that is
// dated so far in the future that Choose would not take it does not count.
func (s *Set) Newer(now time.Time) (newest *Found) {
	if s.beside == nil {
		return nil
	}
	this := foundAt("", s.Manifest, nil)
	for _, f := range s.beside() {
		w := Wanted{Host: this.Host, Machine: this.Machine}
		if f.ID == this.ID || f.Host != this.Host || w.OtherMachine(f.Machine, f.Host) || f.Created.Sub(now) > future || !this.before(f) {
			continue
		}
		if newest == nil || newest.before(f) {
			newest = &f
		}
	}
	return newest
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func wantedName(w Wanted) string {
	switch {
	case w.ID != "":
		return "id " + w.ID
	case w.Host != "":
		return "host " + w.Host
	}
	return "any host"
}

// maxTable is how many sets a table shows.
const maxTable = 20

// Table lists sets, one a line, by host and time. Machines of one name are told apart by the
// beginnings of their ids.
func Table(found []Found) string {
	machines := several(found)
	f := slices.SortedFunc(slices.Values(found), func(a, b Found) int {
		return cmp.Or(strings.Compare(a.Host, b.Host), b.Created.Compare(a.Created))
	})
	var lines []string
	for i, s := range f {
		if i == maxTable {
			lines = append(lines, fmt.Sprintf("  and %d more", len(f)-i))
			break
		}
		if machines {
			s.Dir += " of machine " + cmp.Or(s.Machine[:min(8, len(s.Machine))], "unknown")
		}
		lines = append(lines, "  "+s.String())
	}
	return strings.Join(lines, "\n")
}
