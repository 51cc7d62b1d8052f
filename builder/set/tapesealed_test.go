package set

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/store/sealed"
	"github.com/mkcdrec/mkcdrec/internal/store/tape"
	"github.com/mkcdrec/mkcdrec/internal/store/tape/model"
	"github.com/mkcdrec/mkcdrec/internal/volume"
)

// keysOf gives identities to whoever asks.
func keysOf(ids ...age.Identity) agekey.Keys {
	return func(bool) ([]age.Identity, error) { return ids, nil }
}

// sealedTape writes an encrypted set of three archives, of which the first can't be made, and an image to some reels.
func sealedTape(t *testing.T, to age.Recipient) (drives []tape.Drive, content map[string][]byte) {
	t.Helper()
	src, device := t.TempDir(), filepath.Join(t.TempDir(), "device")
	content = map[string][]byte{}
	var archives []Archive
	for i, name := range []string{"broken", "secretone", "secrettwo"} {
		dir := filepath.Join(src, name)
		b := make([]byte, 2_000_000)
		rand.NewChaCha8([32]byte{byte(i)}).Read(b)
		content[name] = b
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, name), b, 0o600)); err != nil {
			t.Fatal(err)
		}
		archives = append(archives, Archive{File: name + ".tar.zst", Device: name, Type: "ext4", Mount: "/" + name, Name: "/" + name, Open: func() (*os.File, error) { return os.Open(dir) }})
	}
	content["image"] = bytes.Repeat([]byte("of the old machine\n"), 300_000)
	if err := os.WriteFile(device, content["image"], 0o600); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		drives = append(drives, &model.Drive{Tape: &model.Tape{Capacity: 8 << 20, Warn: 3 << 20}})
	}
	w := &tape.Writer{Drives: drives, ID: volume.NewID(), Host: "host", Created: time.Unix(1_700_000_000, 0).UTC(), Note: t.Logf}
	sink, err := NewTape(w, t.TempDir(), []age.Recipient{to}, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	l := &layout.Layout{Version: layout.Version, Hostname: "host", Boot: layout.Boot{Firmware: layout.BIOS}}
	job := Job{Layout: l, Report: progress.None{}, Archives: archives, Images: []*layout.Image{{Device: "../" + device, Type: "x", Size: 5_700_000, File: "secretimage.img.zst"}}}
	s, err := Start(job, w.ID.String(), w.Created, sink)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	whole := s.create
	s.create = func(ctx context.Context, w io.Writer, root *os.File, opt archive.CreateOptions) (*archive.Summary, error) {
		sum, err := whole(ctx, w, root, opt)
		if filepath.Base(root.Name()) == "broken" {
			err = errors.Join(err, errors.New("structure needs cleaning"))
		}
		return sum, err
	}
	m, err := s.Write(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(m.NotCovered) != 1 || !strings.Contains(m.NotCovered[0], "structure needs cleaning") || sink.Reels() < 2 {
		t.Errorf("not covered %q, %d reels; want what is broken, and several reels", m.NotCovered, sink.Reels())
	}
	return drives, content
}

// TestTapeSealed: nothing on the tapes tells what the set has; it can be listed without winding, is verified and read.
func TestTapeSealed(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	drives, content := sealedTape(t, id.Recipient())
	for _, d := range drives {
		for _, b := range d.(*model.Drive).Tape.Items {
			for _, word := range []string{"secret", "broken", "layout", "manifest", "old machine", "boot"} {
				if bytes.Contains(b, []byte(word)) {
					t.Fatalf("a block of the tape has %q", word)
				}
			}
		}
	}
	open := func(keys agekey.Keys) (*manifest.Set, error) {
		st, err := tape.Open(t.Context(), drives, t.TempDir(), nil)
		if err != nil {
			t.Fatal(err)
		}
		clear(t, st.Dir)
		return manifest.OpenTape(st, keys)
	}
	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(keysOf(stranger)); !errors.Is(err, sealed.ErrNoIdentity) {
		t.Errorf("OpenTape with another identity = %v", err)
	}
	s, err := open(keysOf(id))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	listed(t, s, drives)
	s.AllDiscs = true
	if err := s.Verify(t.Context(), true, progress.None{}); err != nil {
		t.Errorf("Verify = %v", err)
	}
	to := t.TempDir()
	if _, lost, err := s.ExtractPaths(t.Context(), nil, to, archive.ExtractOptions{NoOwner: true}, progress.None{}); err != nil || len(lost) > 0 {
		t.Errorf("ExtractPaths = %q, %v", lost, err)
	}
	for _, name := range []string{"secretone", "secrettwo"} {
		if got, err := os.ReadFile(filepath.Join(to, name, name)); err != nil || !bytes.Equal(got, content[name]) {
			t.Errorf("%s: the same is %v, %v", name, bytes.Equal(got, content[name]), err)
		}
	}
	back, err := os.Create(filepath.Join(to, "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	if err := s.RestoreImage(t.Context(), "secretimage.img.zst", back, func(int64) progress.Counter { return progress.None{} }); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(back.Name()); err != nil || !bytes.Equal(got, content["image"]) {
		t.Errorf("the image is the same: %v, %v", bytes.Equal(got, content["image"]), err)
	}
}

// clear looks at what can be read without a key: names and texts tell nothing.
func clear(t *testing.T, dir string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		switch sealed := strings.HasSuffix(f.Name(), ".age"); {
		case !sealed && f.Name() != sealedHead && f.Name() != tape.IndexFile:
			t.Errorf("the file %s can be read", f.Name())
		case sealed && !bytes.HasPrefix(b, []byte("age-encryption.org/v1\n")), bytes.Contains(b, []byte("secret")):
			t.Errorf("%s = %.200q", f.Name(), b)
		}
	}
}

const sealedHead = sealed.HeadFile

// listed opens the archives of a set while there is no tape in any drive.
func listed(t *testing.T, s *manifest.Set, drives []tape.Drive) {
	t.Helper()
	var reels []*model.Tape
	for _, d := range drives {
		m := d.(*model.Drive)
		reels = append(reels, m.Tape)
		m.Tape = nil
	}
	names := ""
	for _, a := range s.Manifest.Archives {
		r, err := s.Archive(a.File)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(r.Entries(func(e archive.Entry) error { names += " " + e.Path; return nil }), r.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if want := " . secretone . secrettwo"; names != want {
		t.Errorf("without tapes it lists %q; want %q", names, want)
	}
	for i, d := range drives {
		d.(*model.Drive).Tape = reels[i]
	}
}

// TestTapeSealedFront: what is written first can be decrypted alone, should the end of the tape be lost.
func TestTapeSealedFront(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	sink, err := NewTape(&tape.Writer{ID: volume.NewID()}, t.TempDir(), []age.Recipient{id.Recipient()}, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(name, []byte("the layout"), 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := sink.sealFront(map[string]string{"layout.json": name})
	if err != nil || len(files) != 1 {
		t.Fatalf("sealFront = %v, %v", files, err)
	}
	f, err := os.Open(files[frontSealed])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := age.Decrypt(f, id)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	in := tar.NewReader(z)
	h, err := in.Next()
	if err != nil || h.Name != "layout.json" {
		t.Fatalf("the front has %v, %v", h, err)
	}
	if b, err := io.ReadAll(in); err != nil || string(b) != "the layout" {
		t.Errorf("layout.json = %q, %v", b, err)
	}
}
