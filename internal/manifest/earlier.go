package manifest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// VersionIncrement is the version of manifest.json of sets that need earlier ones.
const VersionIncrement = 2

// Needed is an earlier set that an increment needs.
type Needed struct {
	ID  string `json:"id"`
	Dir string `json:"dir"` // name of its directory, beside that of the increment
	// Digest is the SHA-256 of its manifest.json, in hex.
	Digest string `json:"sha256"`
}

// maxNeeds is how many sets one needs at most.
const maxNeeds = 4096

// checkNeeds checks the list of earlier sets, and that it fits the version.
func (m *Manifest) checkNeeds(bad func(where, f string, a ...any)) {
	if (m.Version == VersionIncrement) != (len(m.Needs) > 0) || len(m.Needs) > maxNeeds {
		bad("needs", "%d earlier sets in version %d", len(m.Needs), m.Version)
	}
	seen := map[string]bool{m.ID: true}
	for i, n := range m.Needs {
		w := fmt.Sprintf("needs[%d]", i)
		if !validID(n.ID) || seen[n.ID] {
			bad(w, "id %q is not one, or is there twice", n.ID)
		}
		if n.Dir == "" || n.Dir == "." || n.Dir == ".." || strings.ContainsRune(n.Dir, '/') || unprintable(n.Dir) || len(n.Dir) > maxName {
			bad(w, "dir %q", n.Dir)
		}
		if b, err := hex.DecodeString(n.Digest); err != nil || len(b) != sha256.Size {
			bad(w, "SHA-256 %q", n.Digest)
		}
		seen[n.ID] = true
	}
}

// earlierSet is a set that another one needs, as it is.
type earlierSet struct {
	files
	Needed
	manifest *Manifest
}

// openNeeds opens the sets that an increment needs: each is there, is the one that it was made
// with, and has its archives and images with their sizes.
func (s *Set) openNeeds() error {
	var errs []error
	for _, n := range s.Manifest.Needs {
		e, err := openNeeded(s.place, n)
		if err != nil {
			errs = append(errs, fmt.Errorf("it needs the earlier set %s (id %s): %w", n.Dir, n.ID, err))
			continue
		}
		s.needs = append(s.needs, *e)
	}
	return errors.Join(errs...)
}

func openNeeded(at place, n Needed) (*earlierSet, error) {
	st, err := beside(at, n.Dir)
	if err != nil {
		return nil, err
	}
	b, err := store.ReadFile(st, File, MaxText)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("it is missing")
	}
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != n.Digest {
		return nil, fmt.Errorf("its %s is damaged, or it is another set", File)
	}
	m, err := Parse(b)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, f := range m.content() {
		size, err := st.Size(f.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			errs = append(errs, fmt.Errorf("%s is missing", f.Name))
		case err != nil:
			errs = append(errs, err)
		case size != int64(f.Size):
			errs = append(errs, fmt.Errorf("%s has %d bytes, not %d", f.Name, size, f.Size))
		}
	}
	return &earlierSet{files{Store: st}, n, m}, errors.Join(errs...)
}

// content are the files of a set that later ones may need: archives and images.
func (m *Manifest) content() []FileSum {
	var out []FileSum
	for _, f := range m.Files {
		if strings.HasSuffix(f.Name, ImageSuffix) || slices.ContainsFunc(m.Archives, func(a Archive) bool { return a.File == f.Name }) {
			out = append(out, f)
		}
	}
	return out
}

// beside is the store of the set in the directory called name beside that of st.
func beside(st store.Store, name string) (store.Store, error) {
	if f, ok := st.(interface{ inner() store.Store }); ok {
		st = f.inner()
	}
	return store.Beside(st, name)
}

// inner is the store that the files are in.
func (f files) inner() store.Store { return f.Store }

// earlier opens an archive of an earlier set.
func (f files) earlier(s archive.Source) (*archive.Reader, error) {
	st, err := store.Beside(f.Store, s.Dir)
	if err != nil {
		return nil, err
	}
	return files{Store: st}.Archive(s.File)
}

// needsSize is what verifyNeeds reads.
func (s *Set) needsSize() (n int64) {
	for _, e := range s.needs {
		for _, f := range e.manifest.content() {
			n += int64(f.Size)
		}
	}
	return n
}

// verifyNeeds compares the archives and images of earlier sets with their SHA-256.
func (s *Set) verifyNeeds(ctx context.Context, p progress.Counter) error {
	var errs []error
	for _, e := range s.needs {
		at := &Set{Manifest: e.manifest, place: web{e.files}}
		for _, f := range e.manifest.content() {
			p.Item(e.Dir + "/" + f.Name)
			got, err := sumFile(ctx, at, f.Name, p)
			switch {
			case err != nil:
				errs = append(errs, fmt.Errorf("the earlier set %s: %w", e.Dir, err))
			case got != f.SHA256:
				errs = append(errs, fmt.Errorf("the earlier set %s: %w", e.Dir, at.where(ctx, f.Name)))
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return errors.Join(errs...)
}
