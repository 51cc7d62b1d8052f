package set

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
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

// List lists the sets of a machine in dir, encrypted ones too, newest first, without unfinished ones and those that
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
		x, err := manifest.Describe(store.Dir(filepath.Join(dir, e.Name())))
		of.sort(e.Name(), x, err, &sets, &doubtful)
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
		return func() { of.sort(name, x, err, &sets, &doubtful) }
	})
	newestFirst(sets)
	return sets, doubtful, err
}

// Named is ListHome for sets whose names are known, where the home can't be listed; those that can't be read are left
// out.
func Named(ctx context.Context, home store.Home, names []string, of Machine) (sets []Listed) {
	slices.Sort(names)
	for _, n := range slices.Compact(names) {
		x, err := manifest.Describe(home.At(ctx, n))
		of.sort(n, x, err, &sets, new([]Doubtful))
	}
	newestFirst(sets)
	return sets
}

// sort adds a set to those of the machine, or to the doubtful ones; x is what describes it, nil for what is not a set.
func (m Machine) sort(name string, x *manifest.Description, err error, sets *[]Listed, doubtful *[]Doubtful) {
	if err != nil {
		*doubtful = append(*doubtful, Doubtful{name, "its manifest can't be used: look at it, and remove it by hand"})
	}
	if x == nil || err != nil {
		return
	}
	l := Listed{name, x.Manifest, x.Digest, x.Head}
	if l.Head != nil {
		l.Manifest = m.described(l.Head)
	}
	if at, err := time.Parse(nameTime, name[max(0, len(name)-len(nameTime)):]); err == nil && l.Head != nil && at.Sub(l.Created).Abs() > 2*time.Minute {
		*doubtful = append(*doubtful, Doubtful{name, "its set.json has another time than its name: look at it, and remove it by hand"})
	} else if mine, doubt := m.owns(l.Manifest); mine {
		*sets = append(*sets, l)
	} else if doubt != "" {
		*doubtful = append(*doubtful, Doubtful{name, doubt})
	}
}

// Bytes is what the files of the set have.
func (l Listed) Bytes() quantity.Size {
	if l.Head != nil {
		return quantity.Size(l.Head.Size)
	}
	return l.Size()
}

// DamageOf is Damage for a set in a directory; of an encrypted set it is what its head knows.
func (l Listed) DamageOf(dir string) string {
	at := filepath.Join(dir, l.Name)
	if l.Head == nil {
		return l.Damage(store.Dir(at).Size)
	}
	entries, err := os.ReadDir(at)
	if err != nil {
		return err.Error()
	}
	sizes := map[string]int64{}
	for _, e := range entries {
		if i, err := e.Info(); err == nil {
			sizes[e.Name()] = i.Size()
		}
	}
	return incomplete(l.Head, sizes)
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

// Damage is what is wrong with the files that the manifest of a set names, whose sizes are given;
// "" for nothing.
func (l Listed) Damage(size func(name string) (int64, error)) string {
	for _, f := range l.Files {
		n, err := size(f.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return f.Name + " is missing"
		case err != nil:
			return err.Error()
		case n != int64(f.Size):
			return fmt.Sprintf("%s has %d bytes, not %d", f.Name, n, f.Size)
		}
	}
	return ""
}

// DamageIn is Damage for a set in a home. Of an encrypted set it is what its head knows: how many
// objects there are, and the bytes that they have.
func (l Listed) DamageIn(ctx context.Context, home store.Home) (string, error) {
	files, err := home.Files(ctx, l.Name)
	if errors.Is(err, fs.ErrPermission) { // what can't be listed can be asked for by name
		return l.damageByName(home.At(ctx, l.Name)), nil
	}
	if err != nil {
		return "", err
	}
	sizes := map[string]int64{}
	for _, f := range files {
		sizes[f.Name] = f.Size
	}
	if l.Head != nil {
		return incomplete(l.Head, sizes), nil
	}
	return l.Damage(func(name string) (int64, error) {
		if n, ok := sizes[name]; ok {
			return n, nil
		}
		return 0, fs.ErrNotExist
	}), nil
}

// damageByName is DamageIn where nothing can be listed.
func (l Listed) damageByName(at store.Store) string {
	if l.Head == nil {
		return l.Damage(at.Size)
	}
	sizes, objects := map[string]int64{}, 0
	if n, err := at.Size(sealed.IndexFile); err == nil {
		sizes[sealed.IndexFile] = n
	}
	for i := 1; objects < l.Head.Files && i <= l.Head.Files+maxDropped; i++ {
		name := sealed.ObjectName(i)
		if n, err := at.Size(name); err == nil {
			sizes[name] = n
			objects++
		}
	}
	return incomplete(l.Head, sizes)
}

// maxDropped is how many objects an encrypted set may lack among its numbers: of archives that could not be made.
const maxDropped = 100

// readers is how many sets of a home are looked at at once: each may be a request to a server.
const readers = 16

// DamagesIn is DamageIn for several sets, several at once.
func DamagesIn(ctx context.Context, home store.Home, sets []Listed) ([]string, error) {
	out := make([]string, len(sets))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for i, s := range sets {
		g.Go(func() (err error) {
			out[i], err = s.DamageIn(ctx, home)
			return err
		})
	}
	return out, g.Wait()
}

// incomplete is what is wrong with the objects of an encrypted set, as far as its head knows.
func incomplete(h *sealed.Head, sizes map[string]int64) string {
	n, total := 0, int64(0)
	for name, size := range sizes {
		if path.Ext(name) == ".age" && name != sealed.IndexFile {
			n, total = n+1, total+size
		}
	}
	if _, ok := sizes[sealed.IndexFile]; !ok {
		return sealed.IndexFile + " is missing"
	}
	if n != h.Files || total != h.Size {
		return fmt.Sprintf("it has %d objects of %d bytes, not %d of %d", n, total, h.Files, h.Size)
	}
	return ""
}
