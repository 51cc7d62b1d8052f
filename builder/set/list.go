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

// List lists the sets of a host in dir, newest first, without unfinished ones and those that
// were being removed. unusable are the names of those whose host is unknown because their
// manifest can't be used.
func List(dir, host string) (sets []Listed, unusable []string, err error) {
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
		switch {
		case err != nil:
			unusable = append(unusable, e.Name())
		case m.Host == host:
			sets = append(sets, Listed{e.Name(), m})
		}
	}
	slices.SortFunc(sets, func(a, b Listed) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(b.Name, a.Name))
	})
	return sets, unusable, nil
}
