package set

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/store/sealed"
)

// Listed is a complete set in a directory, with what its manifest has: Host, Created, Size. Of
// an encrypted set these are only what its head has.
type Listed struct {
	Name string // of its directory
	*manifest.Manifest
	Digest string       // of the manifest of a set in a home; "" where that can't be read
	Head   *sealed.Head // of an encrypted set
}

// Doubtful is a set that may be a machine's.
type Doubtful struct {
	Name string // of its directory
	Why  string // it is not certain
}

// List lists the sets of a machine in dir, newest first, without unfinished ones and those that
// were being removed. doubtful are those that may be the machine's: their manifests can't be
// used, or they have the machine's name and not its id.
func List(dir string, of Machine) (sets []Listed, doubtful []Doubtful, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot look for backup sets: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), Partial) {
			continue
		}
		b, err := regular.ReadFile(filepath.Join(dir, e.Name(), manifest.File), manifest.MaxText)
		if errors.Is(err, fs.ErrNotExist) {
			continue // not a set
		}
		var m *manifest.Manifest
		if err == nil {
			m, err = manifest.Parse(b)
		}
		if err != nil {
			doubtful = append(doubtful, Doubtful{e.Name(), "its manifest can't be used: look at it, and remove it by hand"})
		} else if mine, doubt := of.owns(m); mine {
			sets = append(sets, Listed{Name: e.Name(), Manifest: m})
		} else if doubt != "" {
			doubtful = append(doubtful, Doubtful{e.Name(), doubt})
		}
	}
	newestFirst(sets)
	return sets, doubtful, nil
}

func newestFirst(sets []Listed) {
	slices.SortFunc(sets, func(a, b Listed) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(b.Name, a.Name))
	})
}

// ListHome is List for a home, where sets may be encrypted.
func ListHome(ctx context.Context, home store.Home, of Machine) (sets []Listed, doubtful []Doubtful, err error) {
	err = manifest.EachSet(ctx, home, func(name string, st store.Store) func() {
		x, err := manifest.Describe(st)
		return func() {
			if err != nil {
				doubtful = append(doubtful, Doubtful{name, "its manifest can't be used: look at it, and remove it by hand"})
			}
			if x == nil || err != nil {
				return
			}
			l := Listed{name, x.Manifest, x.Digest, x.Head}
			if l.Head != nil {
				l.Manifest = of.described(l.Head)
			}
			if mine, doubt := of.owns(l.Manifest); mine {
				sets = append(sets, l)
			} else if doubt != "" {
				doubtful = append(doubtful, Doubtful{name, doubt})
			}
		}
	})
	newestFirst(sets)
	return sets, doubtful, err
}

// described is as much of the manifest of an encrypted set as its head has.
func (m Machine) described(h *sealed.Head) *manifest.Manifest {
	out := &manifest.Manifest{ID: h.ID, Host: h.Host, Created: h.Created, NotCovered: make([]string, h.NotCovered), Files: []manifest.FileSum{{Name: sealed.IndexFile}}}
	if h.Machine != "" {
		f := manifest.FileSum{Name: MachineFile, SHA256: h.Machine}
		if mine := m.sums(); mine != nil && mine[0].SHA256 == h.Machine {
			f = mine[0]
		}
		out.Files = append(out.Files, f)
	}
	for _, n := range h.Needs {
		out.Needs = append(out.Needs, manifest.Needed{ID: n.ID, Dir: n.Dir})
	}
	return out
}
