package manifest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/store/sealed"
)

// encrypt writes the encrypted form of a set in a directory, and returns its directory and the object that has a file.
func encrypt(t *testing.T, from *Set, to age.Recipient, file string) (dir, object string) {
	t.Helper()
	dir = t.TempDir()
	w := sealed.NewWriter([]age.Recipient{to})
	list, err := os.ReadDir(from.Local())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		in, err := os.Open(filepath.Join(from.Local(), e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, w.Object())
		out, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		err = w.File(t.Context(), e.Name(), out, func(_ context.Context, w io.Writer) error {
			_, err := io.Copy(w, in)
			return err
		})
		if err = errors.Join(err, in.Close(), out.Close()); err != nil {
			t.Fatal(err)
		}
		if e.Name() == file {
			object = name
		}
	}
	head := sealed.Head{ID: from.Manifest.ID, Host: from.Manifest.Host, Created: from.Manifest.Created, Machine: from.Manifest.Machine()}
	for _, n := range from.Manifest.Needs {
		head.Needs = append(head.Needs, sealed.Need{ID: n.ID, Dir: n.Dir})
	}
	index, text, err := w.Finish(head)
	if err := errors.Join(err, os.WriteFile(filepath.Join(dir, sealed.IndexFile), index, 0o600), os.WriteFile(filepath.Join(dir, sealed.HeadFile), text, 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir, object
}

// TestSalvageEncrypted: of an encrypted archive that is cut off, damaged or missing, every file before that is
// extracted, and what is lost is named.
func TestSalvageEncrypted(t *testing.T) {
	tree := t.TempDir()
	random := make([]byte, 9<<20)
	_, _ = rand.NewChaCha8([32]byte{4}).Read(random) // never fails
	file(t, tree+"/a", "first")
	file(t, tree+"/b", string(random))
	file(t, tree+"/c", "last")
	plain := many(t, map[string]string{"/": tree})
	name := plain.Manifest.Archives[0].File
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	change := func(from, n int) func(object string) error {
		return func(object string) error {
			b, err := os.ReadFile(object)
			if err != nil {
				return err
			}
			for i := range b[from : from+n] {
				b[from+i] ^= 1
			}
			return os.WriteFile(object, b, 0o600)
		}
	}
	for what, c := range map[string]struct {
		damage     func(object string) error
		first, end bool // a and c are extracted
		lost       string
	}{
		"cut":            {func(object string) error { return os.Truncate(object, 6<<20) }, true, false, "nothing behind it can be read"},
		"cut soon":       {func(object string) error { return os.Truncate(object, 100) }, false, false, "all of it"},
		"missing":        {os.Remove, false, false, "all of it"},
		"flipped":        {change(5<<20, 1), true, true, "/b"},
		"header":         {change(40, 1), true, true, ""},
		"sector":         {change(0, 4096), false, true, "/a"},
		"header and cut": {func(object string) error { return errors.Join(os.Truncate(object, 6<<20), change(40, 1)(object)) }, true, false, "nothing behind it can be read"},
	} {
		dir, object := encrypt(t, plain, id.Recipient(), name)
		if err := c.damage(object); err != nil {
			t.Fatal(err)
		}
		d := Door{Identities: func(bool) ([]age.Identity, error) { return []age.Identity{id}, nil }}
		opt := archive.ExtractOptions{NoOwner: os.Geteuid() != 0}
		if strings.Contains(what, "cut") || what == "missing" {
			if s, err := d.Open(t.Context(), dir); err == nil {
				s.Close()
				t.Errorf("%s: the set opens without Salvage", what)
			}
		}
		if what == "header" || what == "sector" {
			s, err := d.Open(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.ExtractPaths(t.Context(), nil, t.TempDir(), opt, progress.None{}); err == nil {
				t.Errorf("%s: it is extracted without Salvage", what)
			}
			s.Close()
		}
		d.Salvage, opt.Salvage = true, true
		s, err := d.Open(t.Context(), dir)
		if err != nil {
			t.Errorf("%s: Open() = %v", what, err)
			continue
		}
		to := t.TempDir()
		said := &warnings{}
		_, lost, err := s.ExtractPaths(t.Context(), nil, to, opt, said)
		if got := strings.Contains(said.text, "is damaged at its beginning"); got != (what == "header" || what == "sector") {
			t.Errorf("%s: ExtractPaths prints %q; want that it reports the damage = %v", what, said.text, !got)
		}
		if err != nil || !strings.Contains(strings.Join(lost, "\n"), c.lost) {
			t.Errorf("%s: ExtractPaths() = %q, %v; want %q", what, lost, err, c.lost)
		}
		for path, want := range map[string]bool{"a": c.first, "c": c.end, "b": what == "header"} {
			if _, err := os.Stat(filepath.Join(to, path)); (err == nil) != want {
				t.Errorf("%s: %s is extracted = %v; want %v", what, path, err == nil, want)
			}
		}
		s.Close()
	}
}

// TestContradictions: a set whose lists, head or size of a text for people are wrong can be read, and Verify names it; one
// that has two kinds of manifests is refused.
func TestContradictions(t *testing.T) {
	tree := t.TempDir()
	file(t, tree+"/a", "first")
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		change  func(dir string) error
		encrypt bool
		want    string // of Verify; of Open if it begins with !
	}{
		"right": {func(string) error { return nil }, false, ""},
		"list":  {func(dir string) error { return os.WriteFile(filepath.Join(dir, SHA256), []byte("0000  a\n"), 0o600) }, false, "SHA256SUMS contradicts the manifest"},
		"short": {func(dir string) error { return os.WriteFile(filepath.Join(dir, SHA256), nil, 0o600) }, false, "SHA256SUMS lacks"},
		"text":  {func(dir string) error { return os.WriteFile(filepath.Join(dir, "RESTORE.txt"), []byte("other"), 0o600) }, false, "RESTORE.txt"},
		"both":  {func(dir string) error { return os.WriteFile(filepath.Join(dir, sealed.HeadFile), []byte("{}"), 0o600) }, false, "!one of them was put there"},
		"sound": {func(string) error { return nil }, true, ""},
		"head": {func(dir string) error {
			name := filepath.Join(dir, sealed.HeadFile)
			b, err := os.ReadFile(name)
			return errors.Join(err, os.WriteFile(name, []byte(strings.Replace(string(b), `"host": "h"`, `"host": "x"`, 1)), 0o600))
		}, true, "set.json is damaged, or was changed"},
	} {
		s := many(t, map[string]string{"/": tree})
		dir := s.Local()
		text := filepath.Join(dir, "RESTORE.txt")
		if err := errors.Join(os.WriteFile(text, []byte("steps"), 0o600)); err != nil {
			t.Fatal(err)
		}
		sum, err := SumFile(t.Context(), text, progress.None{})
		if err != nil {
			t.Fatal(err)
		}
		s.Manifest.Files = append(s.Manifest.Files, FileSum{"RESTORE.txt", 5, sum})
		if err := errors.Join(os.Remove(filepath.Join(dir, File)), s.Manifest.Write(dir)); err != nil {
			t.Fatal(err)
		}
		if c.encrypt {
			dir, _ = encrypt(t, s, id.Recipient(), "")
		}
		if err := c.change(dir); err != nil {
			t.Fatal(err)
		}
		d := Door{Identities: func(bool) ([]age.Identity, error) { return []age.Identity{id}, nil }}
		opened, err := d.Open(t.Context(), dir)
		if want, refused := strings.CutPrefix(c.want, "!"); refused {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: Open() = %v; want %q", what, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: Open() = %v; want that it can be read", what, err)
			continue
		}
		err = errors.Join(opened.Verify(t.Context(), true, progress.None{}), opened.ListFault)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Verify() = %v; want %q", what, err, c.want)
		}
		opened.Close()
	}
}

// warnings keeps what was warned of.
type warnings struct {
	progress.None
	text string
}

func (w *warnings) Warn(format string, args ...any) { w.text += fmt.Sprintf(format, args...) + "\n" }
