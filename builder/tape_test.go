package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/target/tape"
	"github.com/mkcdrec/mkcdrec/internal/target/tape/model"
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
	s := &tapeSet{setWriter: setWriter{b: &Builder{Report: progress.None{}}, dir: dir, man: &manifest.Manifest{}, sfv: map[string]uint32{}, log: slog.New(slog.DiscardHandler)}, tails: map[string][]byte{},
		w: &tape.Writer{Drives: []tape.Drive{drive}, ID: volume.NewID(), Host: "host", Created: time.Unix(1_700_000_000, 0).UTC(), Note: t.Logf}}
	if err := s.imageToTape(ctx, m); err != nil {
		t.Fatal(err)
	}
	if err := s.w.Bundle(ctx, tape.SetName, func(entries []tape.Entry, reels int) ([]byte, error) {
		s.index.Version, s.index.ID, s.index.Entries, s.index.Reels = 1, s.w.ID.String(), entries, reels
		j, err := json.Marshal(s.index)
		if err != nil {
			return nil, err
		}
		s.tails[tape.IndexFile] = j
		return tape.Pack(s.tails)
	}); err != nil {
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
