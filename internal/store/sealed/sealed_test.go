package sealed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// write encrypts files for an identity, into a new directory.
func write(t *testing.T, files map[string][]byte, to ...age.Recipient) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := NewWriter(to)
	for name, b := range files {
		var out bytes.Buffer
		object := w.Object()
		if err := w.File(context.Background(), name, &out, func(_ context.Context, w io.Writer) error { _, err := w.Write(b); return err }); err != nil {
			t.Fatal(err)
		}
		put(object, out.Bytes())
	}
	index, head, err := w.Finish(Head{ID: "id", Host: "h", Created: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	put(IndexFile, index)
	put(HeadFile, head)
	return dir
}

func identity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func with(ids ...age.Identity) agekey.Keys {
	return func(bool) ([]age.Identity, error) { return ids, nil }
}

func content() map[string][]byte {
	big := make([]byte, 5<<20+123)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range big {
		big[i] = byte(r.Uint32())
	}
	return map[string][]byte{"manifest.json": []byte("{}"), "empty": {}, "log/run.jsonl": []byte("line\n"), "sda1._.tar.zst": big}
}

// Every file is read back, whole and at any offset; nothing readable has a name of the set.
func TestRoundTrip(t *testing.T) {
	x := identity(t)
	h, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	files := content()
	for name, c := range map[string]struct {
		to age.Recipient
		id age.Identity
	}{"X25519": {x.Recipient(), x}, "post-quantum": {h.Recipient(), h}} {
		dir := write(t, files, c.to)
		for _, st := range []store.Store{store.Dir(dir), slow{store.Dir(dir)}} {
			s, err := Open(st, with(c.id))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for n, want := range files {
				got, err := store.ReadFile(s, n, 1<<30)
				if size, e := s.Size(n); err != nil || e != nil || !bytes.Equal(got, want) || size != int64(len(want)) {
					t.Errorf("%s: %s: %v, %v, %d bytes; want %d", name, n, err, e, size, len(want))
				}
			}
			f, err := s.Open("sda1._.tar.zst")
			if err != nil {
				t.Fatal(err)
			}
			want := files["sda1._.tar.zst"]
			r := rand.New(rand.NewPCG(3, 4))
			for range 200 {
				off, n := r.IntN(len(want)), r.IntN(300000)
				b := make([]byte, n)
				k, err := f.ReadAt(b, int64(off))
				if e := min(n, len(want)-off); k != e || !bytes.Equal(b[:k], want[off:off+k]) || (err == nil) != (e == n) {
					t.Fatalf("%s: ReadAt(%d, %d) = %d, %v", name, n, off, k, err)
				}
			}
			if n, err := f.ReadAt(make([]byte, 9), int64(len(want)-9)); n != 9 || err != nil {
				t.Errorf("%s: ReadAt of the last bytes = %d, %v", name, n, err)
			}
			f.Close()
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			for n := range maps.Keys(files) {
				if n != "empty" && (strings.Contains(e.Name(), n) || bytes.Contains(b, []byte(n))) {
					t.Errorf("%s: %s has the name %s", name, e.Name(), n)
				}
			}
		}
	}
}

// slow is a store on a server: reads go through the cache.
type slow struct{ store.Dir }

type slowFile struct{ store.File }

func (s slow) Open(name string) (store.File, error) {
	f, err := s.Dir.Open(name)
	return slowFile{f}, err
}

// What was changed, cut off, exchanged or encrypted for somebody else is an error that names
// the file; no identity is asked for where the set can't be read anyway.
func TestDamaged(t *testing.T) {
	id := identity(t)
	files := content()
	for name, c := range map[string]struct {
		change func(dir string) error
		want   string
		open   bool // the set opens, and reading fails
	}{
		"no index":       {func(dir string) error { return os.Remove(filepath.Join(dir, IndexFile)) }, IndexFile, false},
		"index changed":  {func(dir string) error { return flip(filepath.Join(dir, IndexFile), 300) }, "not the file that set.json was written for", false},
		"head changed":   {func(dir string) error { return os.WriteFile(filepath.Join(dir, HeadFile), []byte("{}"), 0o600) }, "version", false},
		"object changed": {func(dir string) error { return flip(objectOf(t, dir, id, "sda1._.tar.zst"), 2<<20) }, "age", true},
		"header changed": {func(dir string) error { return flip(objectOf(t, dir, id, "sda1._.tar.zst"), 40) }, "age", true},
		"object cut":     {func(dir string) error { return os.Truncate(objectOf(t, dir, id, "sda1._.tar.zst"), 4<<20) }, "bytes, not", true},
		"object missing": {func(dir string) error { return os.Remove(objectOf(t, dir, id, "sda1._.tar.zst")) }, "no such file", true},
		"exchanged": {func(dir string) error {
			a, b := objectOf(t, dir, id, "manifest.json"), objectOf(t, dir, id, "empty")
			return errors.Join(os.Rename(a, a+"x"), os.Rename(b, a), os.Rename(a+"x", b))
		}, "bytes, not", true},
	} {
		dir := write(t, files, id.Recipient())
		if err := c.change(dir); err != nil {
			t.Fatal(err)
		}
		s, err := Open(store.Dir(dir), with(id))
		if (err == nil) != c.open {
			t.Errorf("%s: Open = %v; want ok = %v", name, err, c.open)
			continue
		}
		for n := range files {
			if err == nil {
				_, err = store.ReadFile(s, n, 1<<30)
			}
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
	dir := write(t, files, id.Recipient())
	if _, err := Open(store.Dir(dir), with(identity(t))); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("Open with another identity = %v; want ErrNoIdentity", err)
	}
	nobody := errors.New("nobody")
	if _, err := Open(store.Dir(dir), func(bool) ([]age.Identity, error) { return nil, nobody }); !errors.Is(err, nobody) {
		t.Errorf("Open without identity = %v; want its error", err)
	}
}

// TestRest: of an object that is cut off or damaged all before that is given, and an error at the end.
func TestRest(t *testing.T) {
	id := identity(t)
	files := content()
	const name = "sda1._.tar.zst"
	want := files[name]
	for what, c := range map[string]struct {
		change func(file string) error
		least  int // that is read
		ok     bool
	}{
		"whole":          {func(string) error { return nil }, len(want), true},
		"cut":            {func(file string) error { return os.Truncate(file, 4<<20) }, 4<<20 - 128<<10, false},
		"cut at a chunk": {func(file string) error { return os.Truncate(file, 64<<10+16+300) }, 0, false},
		"flipped":        {func(file string) error { return flip(file, 2<<20) }, 2<<20 - 128<<10, false},
		"longer": {func(file string) error {
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
			if err == nil {
				_, err = f.WriteString("more")
				err = errors.Join(err, f.Close())
			}
			return err
		}, len(want) - 128<<10, false},
	} {
		dir := write(t, files, id.Recipient())
		if err := c.change(objectOf(t, dir, id, name)); err != nil {
			t.Fatal(err)
		}
		s, err := Open(store.Dir(dir), with(id))
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Rest(name)
		if err != nil {
			t.Fatalf("%s: Rest() = %v", what, err)
		}
		got, err := io.ReadAll(r)
		if !bytes.HasPrefix(want, got) || len(got) < c.least || (err == nil) != c.ok {
			t.Errorf("%s: %d right bytes of %d = %v, %v; want at least %d, and ok = %v", what, len(got), len(want), bytes.HasPrefix(want, got), err, c.least, c.ok)
		}
		r.Close()
	}
}

func flip(file string, at int64) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return err
	}
	b[0] ^= 1
	_, err = f.WriteAt(b, at)
	return errors.Join(err, f.Close())
}

// objectOf is the file with the object of a file of the set.
func objectOf(t *testing.T, dir string, id age.Identity, name string) string {
	t.Helper()
	s, err := Open(store.Dir(dir), with(id))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, s.index.Files[name].Object)
}

// A file that was given up leaves no trace in the index.
func TestForget(t *testing.T) {
	id := identity(t)
	w := NewWriter([]age.Recipient{id.Recipient()})
	var out bytes.Buffer
	one := func(name string) {
		if err := w.File(context.Background(), name, &out, func(_ context.Context, w io.Writer) error { _, err := io.WriteString(w, name); return err }); err != nil {
			t.Fatal(err)
		}
	}
	one("a")
	one("b")
	if got := w.Forget("b"); got != "0002.age" || w.Object() != "0003.age" {
		t.Errorf("Forget = %s, then Object = %s; want 0002.age, 0003.age", got, w.Object())
	}
	one("c")
	_, head, err := w.Finish(Head{ID: "i", Created: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	h, err := ParseHead(head)
	if err != nil || h.Files != 2 || w.index.Files["c"].Object != "0003.age" {
		t.Errorf("head %+v, %v, objects %v", h, err, w.index.Files)
	}
}

// Nothing of a head or an index is taken as it is.
func FuzzHead(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(`{"version":1,"id":"x","host":"h","index":"%064x"}`, 1)))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = ParseHead(b)
		var x index
		if json.Unmarshal(b, &x) == nil {
			_ = x.validate()
		}
	})
}
