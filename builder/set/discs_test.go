package set

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// testSet makes a set of two archives, 30 and 1 MiB of noise.
func testSet(t *testing.T, dir string) string {
	t.Helper()
	set := filepath.Join(dir, "host-20261121T101010Z")
	if err := os.MkdirAll(set+"/log", 0o700); err != nil {
		t.Fatal(err)
	}
	m := &manifest.Manifest{Version: manifest.Version, ID: uuid.New(), Host: "host", Created: time.Unix(1_700_000_000, 0).UTC()}
	rng := rand.New(rand.NewPCG(11, 12))
	for dev, files := range map[string]int{"sda1": 30, "sda2": 1} {
		src := t.TempDir()
		for i := range files {
			b := make([]byte, 1<<20)
			for j := range b {
				b[j] = byte(rng.Uint32())
			}
			if err := os.WriteFile(fmt.Sprintf("%s/f%02d", src, i), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		name := manifest.ArchiveName(dev, "/"+dev)
		f, err := os.Create(filepath.Join(set, name))
		if err != nil {
			t.Fatal(err)
		}
		root, err := os.Open(src)
		if err != nil {
			t.Fatal(err)
		}
		sum, err := archive.Create(context.Background(), f, root, archive.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		root.Close()
		m.Archives = append(m.Archives, manifest.Archive{File: name, Device: dev, Type: "ext4", Mount: "/" + dev, Size: quantity.Size(sum.Packed), Members: sum.Members, SHA256: fmt.Sprintf("%x", sum.SHA256)})
	}
	lf, err := os.Create(filepath.Join(set, manifest.Layout))
	if err != nil {
		t.Fatal(err)
	}
	if err := (&layout.Layout{Version: layout.Version, Boot: layout.Boot{Firmware: layout.BIOS}}).Write(lf); err != nil {
		t.Fatal(err)
	}
	lf.Close()
	for _, n := range []string{"RESTORE.txt", "log/run.jsonl", manifest.RescueISO} {
		if err := os.WriteFile(filepath.Join(set, n), []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{manifest.Layout, "RESTORE.txt", "log/run.jsonl", manifest.RescueISO}
	for _, a := range m.Archives {
		names = append(names, a.File)
	}
	for _, n := range names {
		st, err := os.Stat(filepath.Join(set, n))
		if err != nil {
			t.Fatal(err)
		}
		s, err := manifest.SumFile(context.Background(), filepath.Join(set, n), progress.None{})
		if err != nil {
			t.Fatal(err)
		}
		m.Files = append(m.Files, manifest.FileSum{Name: n, Size: quantity.Size(st.Size()), SHA256: s})
	}
	if err := m.Write(set); err != nil {
		t.Fatal(err)
	}
	return set
}

// makeDiscs divides a set; the first disc gets 3 MiB that stand for the rescue
// system.
func makeDiscs(t *testing.T, set, dir string, size int64) ([]DiscImage, error) {
	t.Helper()
	work := t.TempDir()
	kernel := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(kernel, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &Discs{Report: progress.None{}, Into: dir, Work: work, Size: size, Medium: func(iso string, extra func(*media.ISO)) error {
		img := media.ISO{Data: true, Files: map[string]string{"boot/vmlinuz": kernel}, Content: map[string][]byte{}, Time: time.Unix(1_700_000_000, 0)}
		extra(&img)
		return img.Write(iso)
	}}
	err := d.Divide(context.Background(), set)
	return d.Images, err
}

func TestDiscs(t *testing.T) {
	dir := t.TempDir()
	set := testSet(t, dir)
	images, err := makeDiscs(t, set, dir, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	if len(images) != 3 {
		t.Fatalf("%d discs: %v", len(images), images)
	}
	// As mounted discs: what others take out of the images.
	mnt := t.TempDir()
	base := filepath.Base(set)
	for i, im := range images {
		if im.Size > 16<<20 || im.Size < 10<<20 && i < 2 {
			t.Errorf("disc %d has %d bytes", i+1, im.Size)
		}
		to := fmt.Sprintf("%s/%d", mnt, i+1)
		for _, c := range [][]string{{"mkdir", to}, {"bsdtar", "-C", to, "-xf", im.File}, {"isovfy", im.File}, {"checkisomd5", im.File},
			{"sh", "-c", `cd "$1" && sha256sum --quiet -c SHA256SUMS && cksfv -q -f Checksums.sfv`, "sh", to + "/" + base}} {
			if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("disc %d: %v: %v\n%s", i+1, c, err, out)
			}
		}
	}
	// By hand, with cat, zstd and tar.
	s, err := manifest.Open(set)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range s.Manifest.Archives {
		if out, err := exec.Command("sh", "-c", `cat "$1"/*/*/"$2".[0-9]* | zstd -dcq > "$1/by-hand" && zstd -dcq "$3/$2" | cmp - "$1/by-hand" && tar -tf "$1/by-hand" >/dev/null`, "sh", mnt, a.File, set).CombinedOutput(); err != nil {
			t.Errorf("%s by hand: %v %s", a.File, err, out)
		}
	}
	os.Remove(mnt + "/by-hand")
	// From any of the discs, all others being there.
	for i := range images {
		x, err := manifest.Open(fmt.Sprintf("%s/%d/%s", mnt, i+1, base))
		if err != nil {
			t.Fatal(err)
		}
		x.AllDiscs = true
		if err := x.Verify(context.Background(), true, progress.None{}); err != nil {
			t.Errorf("from disc %d: %v", i+1, err)
		}
		for _, a := range x.Manifest.Archives {
			f, err := x.Archive(a.File)
			if err != nil {
				t.Fatal(err)
			}
			dest := t.TempDir()
			if sum, err := f.Extract(context.Background(), dest, archive.ExtractOptions{NoOwner: true}); err != nil || sum.Members != a.Members {
				t.Errorf("from disc %d: %v, %v", i+1, sum, err)
			}
			f.Close()
		}
	}
	// One is missing: it is named.
	if err := os.Rename(mnt+"/2", filepath.Join(t.TempDir(), "x")); err != nil {
		t.Fatal(err)
	}
	x, err := manifest.Open(mnt + "/1/" + base)
	if err != nil {
		t.Fatal(err)
	}
	x.AllDiscs = true
	if err := x.Verify(context.Background(), true, progress.None{}); err == nil || !strings.Contains(err.Error(), "disc 2 of the set is needed, label "+images[1].Label) {
		t.Errorf("without disc 2: %v", err)
	}
}

// TestDiscSink: a set that is written to discs has its images when it is committed, and
// its directory only if that is wanted, or if the images could not be made.
func TestDiscSink(t *testing.T) {
	for _, c := range []struct {
		name   string
		keep   bool
		size   int64
		images int
		left   bool
		err    string
	}{{"images", false, 16 << 20, 1, false, ""}, {"kept", true, 16 << 20, 1, true, ""}, {"too small", false, 1 << 20, 0, true, "cdrom --from"}} {
		w := newWriter(t, Job{Archives: []Archive{planned(t, "sda1")}})
		d := &Discs{Placed: w.sink.(*Directory), Into: t.TempDir(), Work: t.TempDir(), Size: c.size, KeepSet: c.keep, Report: progress.None{}}
		d.Medium = func(iso string, extra func(*media.ISO)) error {
			img := media.ISO{Data: true, Files: map[string]string{}, Content: map[string][]byte{}}
			extra(&img)
			return img.Write(iso)
		}
		w.sink = d
		_, err := w.Write(t.Context())
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: Write = %v; want %q", c.name, err, c.err)
		}
		if got, e := filepath.Glob(d.Into + "/host-*_*.iso"); e != nil || len(got) != c.images || len(d.Images) != c.images {
			t.Errorf("%s: images %v, %v; want %d", c.name, got, d.Images, c.images)
		}
		if _, e := manifest.Open(d.Final()); (e == nil) != c.left {
			t.Errorf("%s: the set in its directory: %v; want it there: %v", c.name, e, c.left)
		}
	}
}

// source gives discs as a person would who errs.
type source struct {
	dirs     []string
	problems []string
}

func (s *source) Disc(_ context.Context, d manifest.Disc, problem error) (string, error) {
	s.problems = append(s.problems, fmt.Sprint(d.Number, " ", problem))
	if len(s.dirs) == 0 {
		return "", errors.New("no more discs")
	}
	dir := s.dirs[0]
	s.dirs = s.dirs[1:]
	return dir, nil
}

// breaker is a progress.Counter that does something at every step.
type breaker func()

func (b breaker) Add(int64)   { b() }
func (b breaker) Item(string) {}

// Wrong and damaged discs are not taken, and asked for again.
func TestWrongDiscs(t *testing.T) {
	dir := t.TempDir()
	set := testSet(t, dir)
	images, err := makeDiscs(t, set, dir, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	mnt := t.TempDir()
	base := filepath.Base(set)
	at := func(i int) string { return fmt.Sprintf("%s/d%d/%s", mnt, i, base) }
	for i, im := range images {
		if out, err := exec.Command("sh", "-c", `mkdir "$1/d$2" && bsdtar -C "$1/d$2" -xf "$3" && chmod -R u+w "$1"`, "sh", mnt, fmt.Sprint(i+1), im.File).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	x, err := manifest.Open(at(1))
	if err != nil {
		t.Fatal(err)
	}
	// Disc 2 cut off in the middle.
	short := filepath.Join(mnt, "short", base)
	if out, err := exec.Command("sh", "-c", `mkdir -p "$2" && cp "$1"/* "$2" && for f in "$2"/*.0*; do truncate -s -100 "$f"; done`, "sh", at(2), short).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	src := &source{dirs: []string{at(3), short, at(2), at(1), at(3)}}
	x.Use(context.Background(), src)
	var big manifest.Archive
	for _, a := range x.Manifest.Archives {
		if a.Size > big.Size {
			big = a
		}
	}
	f, err := x.Archive(big.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Verify(context.Background(), archive.VerifyOptions{}); err != nil {
		t.Error(err)
	}
	if len(src.problems) < 3 || !strings.HasPrefix(src.problems[0], "2 <nil>") || !strings.Contains(src.problems[1], "no such file") || !strings.Contains(src.problems[2], "cut off") {
		t.Errorf("what was said: %q", src.problems)
	}
	// A disc that can't be read any more in the middle (a scratch, or it was
	// taken out): it is asked for again, and read from there on.
	scratched := filepath.Join(mnt, "scratched", base)
	if out, err := exec.Command("sh", "-ec", `mkdir -p "$2"; cp "$1"/* "$2"`, "sh", at(2), scratched).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if x, err = manifest.Open(at(1)); err != nil {
		t.Fatal(err)
	}
	src = &source{dirs: []string{scratched, scratched, at(2), at(3)}}
	x.Use(context.Background(), src)
	if f, err = x.Archive(big.File); err != nil {
		t.Fatal(err)
	}
	if err := f.Verify(context.Background(), archive.VerifyOptions{Workers: 1, Progress: breaker(func() {
		parts, err := filepath.Glob(scratched + "/*.002")
		if err != nil || len(parts) == 0 {
			t.Fatal(parts, err)
		}
		if len(src.dirs) == 3 { // it is being read
			for _, p := range parts {
				if err := os.Truncate(p, 9<<20); err != nil {
					t.Fatal(err)
				}
			}
		}
	})}); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(filepath.Dir(scratched)); err != nil {
		t.Fatal(err)
	}
	if len(src.dirs) > 0 || !strings.Contains(strings.Join(src.problems, "; "), "on disc 2") {
		t.Errorf("what was said: %q, not asked for: %q", src.problems, src.dirs)
	}
	// A frame that is damaged costs what is in it, no more.
	b, err := os.ReadFile(at(2) + "/" + big.File + ".002")
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(at(2)+"/"+big.File+".002", b, 0o600); err != nil {
		t.Fatal(err)
	}
	x, err = manifest.Open(at(1))
	if err != nil {
		t.Fatal(err)
	}
	if f, err = x.Archive(big.File); err != nil {
		t.Fatal(err)
	}
	dest := t.TempDir()
	sum, err := f.Extract(context.Background(), dest, archive.ExtractOptions{NoOwner: true, Salvage: true})
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for _, p := range sum.Problems {
		if p.Kind == archive.Lost {
			lost++
		}
	}
	left, _ := os.ReadDir(dest)
	if lost == 0 || lost > 5 || len(left) != 30-lost {
		t.Errorf("%d files lost, %d there: %v", lost, len(left), sum.Problems)
	}
	// A disc that is gone for good costs what is on it.
	os.RemoveAll(mnt + "/d2")
	if x, err = manifest.Open(at(1)); err != nil {
		t.Fatal(err)
	}
	if f, err = x.Archive(big.File); err != nil {
		t.Fatal(err)
	}
	dest = t.TempDir()
	if sum, err = f.Extract(context.Background(), dest, archive.ExtractOptions{NoOwner: true, Salvage: true}); err != nil {
		t.Fatal(err)
	}
	left, _ = os.ReadDir(dest)
	if len(sum.Problems) < 10 || len(left)+len(sum.Problems) != 30 {
		t.Errorf("without disc 2: %d lost, %d there", len(sum.Problems), len(left))
	}
	for _, e := range left {
		a, err := os.ReadFile(filepath.Join(dest, e.Name()))
		if err != nil || len(a) != 1<<20 {
			t.Errorf("%s: %d bytes, %v", e.Name(), len(a), err)
		}
	}
}

func TestDiscsTooSmall(t *testing.T) {
	dir := t.TempDir()
	set := testSet(t, dir)
	for _, size := range []int64{1 << 20, 8 << 20} {
		if _, err := makeDiscs(t, set, dir, size); err == nil || !strings.Contains(err.Error(), "left for archives") {
			t.Errorf("discs of %d bytes: %v", size, err)
		}
	}
	if l, _ := filepath.Glob(dir + "/*.iso"); len(l) > 0 {
		t.Errorf("left over: %v", l)
	}
}

// A full file system: the images that are whole stay.
func TestDiscsFull(t *testing.T) {
	set := testSet(t, t.TempDir())
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=24m", "none", dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a small tmpfs: %s; CI can", out)
	}
	defer exec.Command("umount", dir).Run()
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		t.Fatal(err)
	}
	d := &Discs{Report: progress.None{}, Into: dir, Work: work, Size: 16 << 20, Medium: func(iso string, extra func(*media.ISO)) error {
		img := media.ISO{Data: true, Files: map[string]string{}, Content: map[string][]byte{}}
		extra(&img)
		return img.Write(iso)
	}}
	err := d.Divide(context.Background(), set)
	if err == nil || !strings.Contains(err.Error(), "no space left") || !strings.Contains(err.Error(), "disc 2 of") {
		t.Errorf("%v", err)
	}
	if l, _ := filepath.Glob(dir + "/*_1.iso"); len(l) != 1 {
		t.Error("the first image is gone")
	}
	if l, _ := filepath.Glob(dir + "/*_2.iso"); len(l) != 0 {
		t.Error("half an image has its final name")
	}
}
