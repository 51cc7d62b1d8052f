package set

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// Listed is a complete set in a directory, with what its manifest has: Host, Created, Size.
type Listed struct {
	Name string // of its directory
	*manifest.Manifest
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
			sets = append(sets, Listed{e.Name(), m})
		} else if doubt != "" {
			doubtful = append(doubtful, Doubtful{e.Name(), doubt})
		}
	}
	slices.SortFunc(sets, func(a, b Listed) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(b.Name, a.Name))
	})
	return sets, doubtful, nil
}
