package store

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// Neighbor is a store that can give the store of another set beside it.
type Neighbor interface {
	// Beside is the store in the directory called name beside that of this one.
	Beside(name string) (Store, error)
}

// Beside gives the store in the directory called name beside that of st: an increment has the
// content of unchanged files in sets that were made before it.
func Beside(st Store, name string) (Store, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return nil, fmt.Errorf("cannot look for %q beside %s: it is not a name", name, st)
	}
	n, ok := st.(Neighbor)
	if !ok {
		return nil, fmt.Errorf("cannot look for %s beside %s: only single sets are read from there", name, st)
	}
	return n.Beside(name)
}

// Beside implements Neighbor.
func (d Dir) Beside(name string) (Store, error) {
	at, err := filepath.Abs(string(d))
	if err != nil {
		return nil, err
	}
	return Dir(filepath.Join(filepath.Dir(at), name)), nil
}

// Beside implements Neighbor.
func (w *web) Beside(name string) (Store, error) {
	n, u := *w, *w.base
	u.Path = path.Join("/", u.Path, "..", name)
	u.RawPath = ""
	n.base, n.redacted = &u, sysconf.RedactURL(u.String())
	return &n, nil
}
