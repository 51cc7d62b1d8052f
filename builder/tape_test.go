package builder

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/store/tape"
	"github.com/mkcdrec/mkcdrec/internal/store/tape/model"
	"github.com/mkcdrec/mkcdrec/internal/volume"
)

// The directory that a run works in is not backed up, whatever it is called.
func TestLeaveOut(t *testing.T) {
	p := &Plan{}
	if err := p.leaveOut([]string{"/tmp/*"}, `/root/a*b[c]\d/.mkcdrec-tape-1`); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{`/root/a*b[c]\d/.mkcdrec-tape-1`: true, `/root/axb[c]\d/.mkcdrec-tape-1`: false, "/tmp/x": true, "/root": false} {
		if got := p.exclude.Match(path) != ""; got != want {
			t.Errorf("%s: left out %v; want %v", path, got, want)
		}
	}
	if err := p.leaveOut(nil, `/srv/[a]*/work`); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{`/srv/[a]*/work`: true, `/srv/[a]*/work/set`: false, `/srv/a/work`: false, `/srv/[a]*`: false, `/srv/[a]*/other`: false, `/srv/[a]x/work`: false} {
		if got := p.exclude.Match(path) != ""; got != want {
			t.Errorf("%s: left out %v; want %v", path, got, want)
		}
	}
}

// testTape is a set that goes to a drive in memory.
func testTape(t *testing.T, drive tape.Drive) *tapeSet {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "set")
	if err := os.MkdirAll(filepath.Join(dir, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	id := volume.NewID()
	p := &Plan{Layout: &layout.Layout{}, level: archive.Fastest}
	return &tapeSet{tails: map[string]string{}, create: archive.Create,
		setWriter: setWriter{b: &Builder{Report: progress.None{}}, p: p, dir: dir, man: &manifest.Manifest{ID: id.String()}, sfv: map[string]uint32{}, log: slog.New(slog.DiscardHandler)},
		w:         &tape.Writer{Drives: []tape.Drive{drive}, ID: id, Host: "host", Created: time.Unix(1_700_000_000, 0).UTC(), Note: t.Logf}}
}

// TestTapeIncomplete: a file system that fails in the middle of its stream, and a
// device that is no image, are not covered. What comes after them on the tape is
// found, and what was begun is marked.
func TestTapeIncomplete(t *testing.T) {
	drive := &model.Drive{Tape: &model.Tape{}}
	ctx := context.Background()
	s := testTape(t, drive)
	planned := func(name string) PlannedArchive {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/"+name, bytes.Repeat([]byte(name), 100_000), 0o600); err != nil {
			t.Fatal(err)
		}
		root, err := archive.OpenFS(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		want, err := archive.RootOf(root)
		if err != nil {
			t.Fatal(err)
		}
		return PlannedArchive{File: name + ".tar.zst", Device: name, Type: "ext4", Mount: dir, root: want}
	}
	real := s.create
	s.create = func(ctx context.Context, w io.Writer, root *os.File, opt archive.CreateOptions) (*archive.Summary, error) {
		if !strings.Contains(root.Name(), "broken") {
			return real(ctx, w, root, opt)
		}
		sum, err := real(ctx, w, root, opt)
		return sum, errors.Join(err, errors.New("structure needs cleaning"))
	}
	broken, good := planned("broken"), planned("good")
	moved := filepath.Join(filepath.Dir(broken.Mount), "broken-mount")
	if err := os.Rename(broken.Mount, moved); err != nil {
		t.Fatal(err)
	}
	broken.Mount = moved
	if err := s.toTape(ctx, broken); err != nil {
		t.Fatal(err)
	}
	huge := filepath.Join(t.TempDir(), "huge")
	if err := os.WriteFile(huge, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.imageToTape(ctx, &layout.Image{Device: "../" + huge, Type: "x", Size: 1 << 60, File: "huge.img.zst"}); err != nil {
		t.Fatal(err)
	}
	if err := s.toTape(ctx, good); err != nil {
		t.Fatal(err)
	}
	if n := s.man.NotCovered; len(n) != 2 || !strings.Contains(n[0], "structure needs cleaning") || !strings.Contains(n[1], "huge") {
		t.Errorf("not covered: %q", n)
	}
	if err := s.w.Bundle(ctx, tape.SetName, s.bundle); err != nil {
		t.Fatal(err)
	}
	store, err := tape.Open(ctx, []tape.Drive{drive}, t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range store.Index.Entries {
		if want := e.Name != "good.tar.zst"; e.Incomplete != want {
			t.Errorf("%s: incomplete %v; want %v", e.Name, e.Incomplete, want)
		}
	}
	if a := store.Index.Archives; len(store.Index.Entries) != 3 || len(a) != 1 || a[0].File != "good.tar.zst" || len(s.man.Archives) != 1 {
		t.Errorf("entries %+v, archives %+v", store.Index.Entries, a)
	}
	f, err := store.Open("good.tar.zst")
	if err != nil {
		t.Fatal(err)
	}
	r, err := archive.Open(f, f.Size(), "good.tar.zst")
	if err != nil {
		t.Fatal(err)
	}
	r.CloseWith(f)
	defer r.Close()
	r.InOrder()
	if err := r.Verify(ctx, archive.VerifyOptions{Decode: true}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(store.Dir, "log/good.files.zst")); err != nil {
		t.Error(err)
	}
}

// TestTapeImage saves a FAT volume to a tape, block by block, reads it back as a
// restore does, and compares it with mtools(1).
func TestTapeImage(t *testing.T) {
	dir := t.TempDir()
	fat, back := filepath.Join(dir, "fat"), filepath.Join(dir, "back")
	const size = 48 << 20
	for _, f := range []string{fat, back} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(f, size); err != nil {
			t.Fatal(err)
		}
	}
	text := bytes.Repeat([]byte("of the old machine\n"), 100_000)
	if err := os.WriteFile(filepath.Join(dir, "text"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{{"mkfs.fat", "-F", "16", fat}, {"mcopy", "-i", fat, filepath.Join(dir, "text"), "::text"}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%v: %v: %s", c, err, out)
		}
	}
	m := &layout.Image{Device: "../" + fat, Type: "vfat", Size: size, File: "vda3.img.zst"}
	drive := &model.Drive{Tape: &model.Tape{}}
	ctx := context.Background()
	s := testTape(t, drive)
	if err := s.imageToTape(ctx, m); err != nil {
		t.Fatal(err)
	}
	if err := s.w.Bundle(ctx, tape.SetName, s.bundle); err != nil {
		t.Fatal(err)
	}
	store, err := tape.Open(ctx, []tape.Drive{drive}, t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	dst, err := os.OpenFile(back, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	set := &manifest.Set{Store: store}
	if err := set.RestoreImage(ctx, m.File, dst, func(int64) progress.Counter { return progress.None{} }); err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command("mtype", "-i", back, "::text").Output()
	if err != nil || !bytes.Equal(got, text) {
		t.Errorf("read back: %d bytes, %v", len(got), err)
	}
	if f := s.man.Files; len(f) != 1 || f[0].Name != m.File || s.sfv[m.File] == 0 {
		t.Errorf("the manifest has %v", f)
	}
}
