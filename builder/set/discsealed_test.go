package set

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// sealedSet makes an encrypted set of the files of testSet, without its rescue medium.
func sealedSet(t *testing.T, dir string, to age.Recipient, tails bool) string {
	t.Helper()
	plain := testSet(t, t.TempDir())
	home, err := store.OpenHome(t.Context(), dir, store.Access{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := manifest.Open(plain)
	if err != nil {
		t.Fatal(err)
	}
	h, err := NewHome(t.Context(), home, t.TempDir(), "host", s.Manifest.ID, time.Unix(1_700_000_000, 0), []age.Recipient{to}, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	p := &parts{common: map[string]string{}}
	if err := p.manifest(s, plain, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(plain, manifest.RescueISO)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(h.dir); err != nil {
		t.Fatal(err)
	}
	if h.dir = plain; tails {
		h.Tails = true
		large(t, h, s)
	}
	if err := h.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h.Final()
}

// large moves the archives and images of a set to a home, as a backup writes them.
func large(t *testing.T, h *Home, s *manifest.Set) {
	t.Helper()
	for _, f := range framed(s) {
		name := filepath.Join(h.dir, f.Name)
		l, err := lengths(s, f.Name)
		if err != nil {
			t.Fatal(err)
		}
		tail := filepath.Join(t.TempDir(), "tail")
		if err := copyFrom(name, int64(f.Size)-l[len(l)-1]-l[len(l)-2], tail); err != nil {
			t.Fatal(err)
		}
		index, err := os.Open(tail)
		if err != nil {
			t.Fatal(err)
		}
		defer index.Close()
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Stream(t.Context(), f.Name, func(_ context.Context, w io.Writer) error { _, err := w.Write(b); return err }); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(h.Keep(f.Name, int64(f.Size), index), os.Remove(name)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDiscsSealedTails: with the first disc alone a set can be checked as far as it is there, and listed.
func TestDiscsSealedTails(t *testing.T) {
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	dir, mnt := t.TempDir(), t.TempDir()
	set := sealedSet(t, dir, x.Recipient(), true)
	images, err := makeDiscs(t, set, dir, 16<<20)
	if err != nil || len(images) < 2 {
		t.Fatalf("Divide = %v, %v; want several images", images, err)
	}
	for i, im := range images {
		if out, err := exec.Command("sh", "-ec", `mkdir "$1" && bsdtar -C "$1" -xf "$2"`, "sh", fmt.Sprintf("%s/%d", mnt, i+1), im.File).CombinedOutput(); err != nil {
			t.Fatalf("disc %d: %v\n%s", i+1, err, out)
		}
	}
	away := t.TempDir()
	for i := 2; i <= len(images); i++ {
		if err := os.Rename(fmt.Sprintf("%s/%d", mnt, i), fmt.Sprintf("%s/%d", away, i)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := manifest.Door{Identities: keysOf(x)}.Open(t.Context(), mnt+"/1/"+filepath.Base(set))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Verify(t.Context(), false, progress.None{}); err != nil {
		t.Errorf("Verify of the first disc = %v", err)
	}
	for _, a := range s.Manifest.Archives {
		r, err := s.Archive(a.File)
		if err != nil {
			t.Fatal(err)
		}
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, mnt) {
				t.Errorf("%s is open, and the disc can't be taken out", to)
			}
		}
		n := int64(0)
		if err := errors.Join(r.Entries(func(archive.Entry) error { n++; return nil }), r.Close()); err != nil || n != a.Members {
			t.Errorf("%s lists %d members, %v; want %d", a.File, n, err, a.Members)
		}
	}
	for i := 2; i <= len(images); i++ {
		if err := os.Rename(fmt.Sprintf("%s/%d", away, i), fmt.Sprintf("%s/%d", mnt, i)); err != nil {
			t.Fatal(err)
		}
	}
	s.AllDiscs = true
	if err := s.Verify(t.Context(), true, progress.None{}); err != nil {
		t.Errorf("Verify of all discs = %v", err)
	}
}

// TestDiscsSealed: the discs of an encrypted set are read with its key or passphrase, from any of them and by hand, and
// nobody needs a key to make them.
func TestDiscsSealed(t *testing.T) {
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	phrase, err := agekey.Passphrase([]byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	known, err := agekey.FromPassphrase([]byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		to age.Recipient
		id age.Identity
	}{"key": {x.Recipient(), x}, "passphrase": {phrase, known}} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name == "passphrase" {
				t.Skip("takes a while")
			}
			dir := t.TempDir()
			set := sealedSet(t, dir, c.to, false)
			images, err := makeDiscs(t, set, dir, 16<<20)
			if err != nil || len(images) != 3 {
				t.Fatalf("Divide = %v, %v; want 3 images", images, err)
			}
			mnt, base := t.TempDir(), filepath.Base(set)
			for i, im := range images {
				to := fmt.Sprintf("%s/%d", mnt, i+1)
				if out, err := exec.Command("sh", "-ec", `mkdir "$1" && bsdtar -C "$1" -xf "$2" && cd "$1/$3" && sha256sum --quiet -c SHA256SUMS`, "sh", to, im.File, base).CombinedOutput(); err != nil {
					t.Fatalf("disc %d: %v\n%s", i+1, err, out)
				}
				if out, err := exec.Command("grep", "-rlaE", "sda1|layout.json|RESTORE", to+"/"+base).CombinedOutput(); len(out) > 0 {
					t.Errorf("disc %d tells about the machine: %v\n%s", i+1, err, out)
				}
			}
			asked := false
			door := manifest.Door{Identities: func(passphrase bool) ([]age.Identity, error) {
				asked = passphrase
				return []age.Identity{c.id}, nil
			}}
			for i := range images {
				s, err := door.Open(t.Context(), fmt.Sprintf("%s/%d/%s", mnt, i+1, base))
				if err != nil {
					t.Fatal(err)
				}
				s.AllDiscs = true
				if err := s.Verify(t.Context(), true, progress.None{}); err != nil {
					t.Errorf("from disc %d: %v", i+1, err)
				}
				if got := s.Dirs(); len(got) != 1 || s.Direct() || s.Local() != "" {
					t.Errorf("from disc %d: Dirs = %q, Direct = %v, Local = %q; want a set on discs", i+1, got, s.Direct(), s.Local())
				}
			}
			if asked != (name == "passphrase") {
				t.Errorf("asked for a passphrase: %v", asked)
			}
			// By hand: volumes put together are a file of age.
			if name == "key" {
				key := filepath.Join(t.TempDir(), "key")
				if err := os.WriteFile(key, []byte(x.String()), 0o600); err != nil {
					t.Fatal(err)
				}
				decryptByHand(t, mnt, set, key)
			}
			// One is missing: it is named.
			if err := os.RemoveAll(mnt + "/2"); err != nil {
				t.Fatal(err)
			}
			s, err := door.Open(t.Context(), mnt+"/1/"+base)
			if err != nil {
				t.Fatal(err)
			}
			s.AllDiscs = true
			if err := s.Verify(t.Context(), true, progress.None{}); err == nil || !strings.Contains(err.Error(), "disc 2 of the set is needed, label "+images[1].Label) {
				t.Errorf("without disc 2: %v", err)
			}
		})
	}
}

// decryptByHand puts the volumes of each object together, and decrypts it with another program if there is one.
func decryptByHand(t *testing.T, mnt, set, key string) {
	t.Helper()
	found, err := filepath.Glob(mnt + "/1/*/*.001")
	if err != nil || len(found) == 0 {
		t.Fatalf("no volumes: %v", err)
	}
	for _, f := range found {
		object := strings.TrimSuffix(filepath.Base(f), ".001")
		if out, err := exec.Command("sh", "-ec", `cat "$1"/*/*/"$2".[0-9]* | cmp - "$3/$2"
if command -v age >/dev/null; then cat "$1"/*/*/"$2".[0-9]* | age -d -i "$4" | zstd -dcq | tar -tf - >/dev/null; fi`, "sh", mnt, object, set, key).CombinedOutput(); err != nil {
			t.Errorf("%s by hand: %v\n%s", object, err, out)
		}
	}
}

// TestSealedParts: a set that lacks something is not put onto discs.
func TestSealedParts(t *testing.T) {
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(dir string) error
		want   string
	}{
		"an object is missing": {func(d string) error { return os.Remove(d + "/0001.age") }, "not whole"},
		"an object is cut":     {func(d string) error { return os.Truncate(d+"/0001.age", 10) }, "not whole"},
		"another index":        {func(d string) error { return os.WriteFile(d+"/index.age", []byte("x"), 0o600) }, "not the file that"},
		"no index":             {func(d string) error { return os.Remove(d + "/index.age") }, "index.age"},
		"a head that is none":  {func(d string) error { return os.WriteFile(d+"/set.json", []byte("{}"), 0o600) }, "set.json"},
	} {
		dir := t.TempDir()
		set := sealedSet(t, dir, x.Recipient(), false)
		if err := c.change(set); err != nil {
			t.Fatal(err)
		}
		if images, err := makeDiscs(t, set, dir, 16<<20); err == nil || !strings.Contains(err.Error(), c.want) || len(images) > 0 {
			t.Errorf("%s: Divide = %v, %v; want %q", name, images, err, c.want)
		}
	}
}

// TestSealedTooSmall: an encrypted set that can't be divided stays, as its error reports.
func TestSealedTooSmall(t *testing.T) {
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	home, err := store.OpenHome(t.Context(), dir, store.Access{})
	if err != nil {
		t.Fatal(err)
	}
	id, now := uuid.New(), time.Now()
	h, err := NewHome(t.Context(), home, t.TempDir(), "host", id, now, []age.Recipient{x.Recipient()}, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	sink := &Discs{Placed: h, Into: dir, Work: t.TempDir(), Size: 1 << 20, Medium: dataMedium, Report: progress.None{}}
	w, err := Start(Job{Archives: []Archive{planned(t, "sda1")}, Layout: &layout.Layout{Version: layout.Version, Hostname: "host", Boot: layout.Boot{Firmware: layout.BIOS}}, Report: progress.None{}}, id, now, sink)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	_, err = w.Write(t.Context())
	if err == nil || !strings.Contains(err.Error(), "cdrom --from "+h.Final()) {
		t.Fatalf("Write = %v; want how to continue", err)
	}
	if err := sink.Remove(); err != nil { // as after any error of writing
		t.Fatal(err)
	}
	door := manifest.Door{Identities: func(bool) ([]age.Identity, error) { return []age.Identity{x}, nil }}
	if _, err := door.Open(t.Context(), h.Final()); err != nil {
		t.Errorf("the set that the error names: %v", err)
	}
}

// TestMissing: a set whose medium was moved away opens, verifies but for that, and names it.
func TestMissing(t *testing.T) {
	set := testSet(t, t.TempDir())
	if err := os.Remove(filepath.Join(set, manifest.RescueISO)); err != nil {
		t.Fatal(err)
	}
	said := ""
	s, err := manifest.Door{Say: func(f string, a ...any) { said += fmt.Sprintf(f, a...) }}.Open(t.Context(), set)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), true, progress.None{}); err != nil || !slices.Contains(s.Missing, manifest.RescueISO) || !strings.Contains(said, "rescue.iso") {
		t.Errorf("Verify = %v, missing %q, said %q; want that rescue.iso is missing", err, s.Missing, said)
	}
	if err := os.Remove(filepath.Join(set, s.Manifest.Archives[0].File)); err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Open(set); err == nil || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("without an archive: %v; want an error", err)
	}
}
