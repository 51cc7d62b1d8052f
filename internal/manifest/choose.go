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
	// Strict refuses the sets of another host also where there are no others.
	Strict bool
}

// Is reports whether a set is the one that is meant, or one of the host's.
func (w Wanted) Is(id, host string) bool {
	return w.ID != "" && id == w.ID || w.Host != "" && host == w.Host
}

// OfHost is what is wanted where a person names a place that holds several sets: the
// newest of the host.
func (w Wanted) OfHost() Wanted { return Wanted{Host: w.Host} }

// Found is a set that was found in a directory.
type Found struct {
	Dir     string
	ID      string
	Host    string
	Created time.Time
	// Encrypted: nothing else is known of it without a key.
	Encrypted bool
	name      string // of its directory in a home
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
			return &Found{Dir: dir, ID: m.ID, Host: m.Host, Created: m.Created}, nil
		}
	} else if errors.Is(err, os.ErrNotExist) {
		var h *sealed.Head
		if b, err = readText(dir, sealed.HeadFile); errors.Is(err, os.ErrNotExist) {
			return nil, nil
		} else if err == nil {
			if h, err = sealed.ParseHead(b); err == nil {
				return &Found{Dir: dir, ID: h.ID, Host: h.Host, Created: h.Created, Encrypted: true}, nil
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
// refuses to choose among several hosts, and gives the table of what there is. A
// set that is dated in the future counts only where there are no others.
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
	slices.SortStableFunc(mine, func(a, b Found) int {
		return cmp.Or(cmp.Compare(btoi(a.Created.Sub(now) > future), btoi(b.Created.Sub(now) > future)), b.Created.Compare(a.Created))
	})
	best = mine[0]
	for _, f := range mine {
		if f.Created.Sub(now) > aheadOf {
			remarks = append(remarks, fmt.Sprintf("the backup set %v is dated in the future: the clock here or that of its machine is wrong", f))
		}
	}
	if len(found) > 1 {
		others := slices.DeleteFunc(slices.Clone(found), func(f Found) bool { return f.Dir == best.Dir })
		remarks = append(remarks, fmt.Sprintf("backup set %v was chosen; there are others:\n%s", best, Table(others)))
	}
	return best, remarks, nil
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

// Table lists sets, one a line, by host and time.
func Table(found []Found) string {
	f := slices.SortedFunc(slices.Values(found), func(a, b Found) int {
		return cmp.Or(strings.Compare(a.Host, b.Host), b.Created.Compare(a.Created))
	})
	var lines []string
	for i, s := range f {
		if i == maxTable {
			lines = append(lines, fmt.Sprintf("  and %d more", len(f)-i))
			break
		}
		lines = append(lines, "  "+s.String())
	}
	return strings.Join(lines, "\n")
}
