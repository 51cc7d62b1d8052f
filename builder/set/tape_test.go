package set

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// testTape is a set that goes to a drive in memory.
func testTape(t *testing.T, drive tape.Drive, job Job) (*Writer, *Tape) {
	t.Helper()
	id := volume.NewID()
	w := &tape.Writer{Drives: []tape.Drive{drive}, ID: id, Host: "host", Created: time.Unix(1_700_000_000, 0).UTC(), Note: t.Logf}
	sink, err := NewTape(w, t.TempDir(), nil, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	job.Layout, job.Report = &layout.Layout{Version: layout.Version, Hostname: "host", Boot: layout.Boot{Firmware: layout.BIOS}}, progress.None{}
	s, err := Start(job, id.String(), w.Created, sink)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, sink
}

// TestTapeIncomplete: a file system that fails in the middle of its stream, and a
// device that is no image, are not covered. What comes after them on the tape is
// found, and what was begun is marked.
func TestTapeIncomplete(t *testing.T) {
	drive := &model.Drive{Tape: &model.Tape{}}
	ctx := context.Background()
	planned := func(name string) Archive {
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
		return Archive{File: name + ".tar.zst", Device: name, Type: "ext4", Mount: "/" + name, Name: "/" + name, Open: func() (*os.File, error) { return archive.OpenRoot(dir, want) }, Options: archive.CreateOptions{Level: archive.Fastest}}
	}
	huge := filepath.Join(t.TempDir(), "huge")
	if err := os.WriteFile(huge, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := testTape(t, drive, Job{Archives: []Archive{planned("broken"), planned("good")}, Images: []*layout.Image{{Device: "../" + huge, Type: "x", Size: 1 << 60, File: "huge.img.zst"}}})
	s.create = func(ctx context.Context, w io.Writer, root *os.File, opt archive.CreateOptions) (*archive.Summary, error) {
		sum, err := archive.Create(ctx, w, root, opt)
		if _, e := os.Stat(filepath.Join(root.Name(), "broken")); e == nil {
			err = errors.Join(err, errors.New("structure needs cleaning"))
		}
		return sum, err
	}
	if _, err := s.Write(ctx); err != nil {
		t.Fatal(err)
	}
	if n := s.man.NotCovered; len(n) != 2 || !strings.Contains(n[0], "huge") || !strings.Contains(n[1], "structure needs cleaning") {
		t.Errorf("not covered: %q", n)
	}
	store, err := tape.Open(ctx, []tape.Drive{drive}, t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	entries := slices.DeleteFunc(slices.Clone(store.Index.Entries), func(e tape.Entry) bool { return e.Name == tape.FrontName })
	for _, e := range entries {
		if want := e.Name != "good.tar.zst"; e.Incomplete != want {
			t.Errorf("%s: incomplete %v; want %v", e.Name, e.Incomplete, want)
		}
	}
	if a := store.Index.Archives; len(entries) != 3 || len(a) != 1 || a[0].File != "good.tar.zst" || len(s.man.Archives) != 1 {
		t.Errorf("entries %+v, archives %+v", entries, a)
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
	s, _ := testTape(t, drive, Job{Images: []*layout.Image{m}})
	if _, err := s.Write(ctx); err != nil {
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
	set := manifest.At(store)
	if err := set.RestoreImage(ctx, m.File, dst, func(int64) progress.Counter { return progress.None{} }); err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command("mtype", "-i", back, "::text").Output()
	if err != nil || !bytes.Equal(got, text) {
		t.Errorf("read back: %d bytes, %v", len(got), err)
	}
	if f := s.man.Files; !slices.ContainsFunc(f, func(f manifest.FileSum) bool { return f.Name == m.File }) || s.sfv[m.File] == 0 {
		t.Errorf("the manifest has %v", f)
	}
}
