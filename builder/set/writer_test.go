package set

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/btrfs/btrfstest"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// newWriter is a set that is begun in a new directory.
func newWriter(t *testing.T, job Job) *Writer {
	t.Helper()
	job.Layout, job.Report = &layout.Layout{Version: layout.Version, Hostname: "host", Boot: layout.Boot{Firmware: layout.BIOS}}, progress.None{}
	sink, err := NewDirectory(t.TempDir(), "host", time.Now(), job.Report)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Remove() })
	w, err := Start(job, uuid.New(), time.Now(), sink)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func notCovered(m *manifest.Manifest) string { return strings.Join(m.NotCovered, "\n") }

// warned keeps warnings.
type warned struct {
	progress.None
	text []string
}

func (w *warned) Warn(format string, args ...any) {
	w.text = append(w.text, fmt.Sprintf(format, args...))
}

// TestSetReadable: a set whose directory, or whose files, others can read is warned
// of, once, before anything is archived; with the modes that it is made with it is not.
func TestSetReadable(t *testing.T) {
	for name, c := range map[string]struct {
		dir, file os.FileMode
		want      string
	}{
		"modes are kept": {0o700, 0o600, ""},
		"FAT":            {0o755, 0o755, "can be read by others (mode 0755)"},
		"a directory":    {0o755, 0o600, "can be read by others (mode 0755)"},
		"a file":         {0o700, 0o644, "can be read by others (mode 0644)"},
	} {
		w := &warned{}
		dir := t.TempDir()
		file := filepath.Join(dir, "log/run.jsonl")
		if err := errors.Join(os.Mkdir(dir+"/log", 0o700), os.WriteFile(file, nil, 0o600), os.Chmod(file, c.file), os.Chmod(dir, c.dir)); err != nil {
			t.Fatal(err)
		}
		d := &Directory{claim: &claim{dir: dir}, final: "/set", report: w}
		if err := d.Begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(w.text, ";"); c.want == "" && got != "" || !strings.Contains(got, c.want) || len(w.text) > 1 || c.want != "" && !strings.Contains(got, "/set") {
			t.Errorf("%s: %q; want %q", name, got, c.want)
		}
	}
}

// TestReadable: where modes can't be set it is said, as on FAT.
func TestReadable(t *testing.T) {
	for m, want := range map[os.FileMode]string{0o600: "", 0o400: "", 0o700: "", 0o644: "x can be read by others (mode 0644)", 0o755: "(mode 0755)", 0o640: "(mode 0640)"} {
		if got := Readable("x", m); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("Readable(%o) = %q; want %q", m, got, want)
		}
	}
}

// An image of a device that can change while it is read is in the set, and named.
func TestImageWriters(t *testing.T) {
	dev := btrfstest.Loop(t, 12<<20)
	m := &layout.Image{Device: strings.TrimPrefix(dev, "/dev/"), Size: 12 << 20}
	save := func() string {
		t.Helper()
		s := newWriter(t, Job{})
		m.File = "x.img.zst"
		if err := s.image(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if len(s.man.Files) != 1 || m.File == "" {
			t.Errorf("it is not in the set: %+v", s.man)
		}
		return notCovered(s.man)
	}
	if got := save(); got != "" {
		t.Errorf("nobody uses it: %s", got)
	}
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := save(); !strings.Contains(got, "has it open for writing") {
		t.Errorf("a program that writes: %q", got)
	}
	f.Close()
	if f, err = os.OpenFile(dev, os.O_RDONLY|unix.O_EXCL, 0); err != nil {
		t.Fatal(err)
	}
	if got := save(); !strings.Contains(got, "exclusively") {
		t.Errorf("somebody holds it: %q", got)
	}
	f.Close()
	btrfstest.Run(t, "mkfs.ext4", "-q", dev)
	dir := t.TempDir()
	for _, c := range []struct{ opt, want string }{{"ro", ""}, {"rw", "it is mounted on " + dir}} {
		btrfstest.Run(t, "mount", "-o", c.opt, dev, dir)
		if got := save(); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("mounted %s: %q", c.opt, got)
		}
		btrfstest.Run(t, "umount", dir)
	}
	// Written to and closed again in between: the count of sectors shows it.
	src, err := openImage(m)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	count := src.use.written()
	if f, err = os.OpenFile(dev, os.O_RDWR|unix.O_SYNC, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("guest"), 4<<20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if n := src.use.written(); count < 0 || n <= count {
		t.Errorf("%d sectors written before, %d after", count, n)
	}
	// A device that is missing is named; the set goes to its end.
	s := newWriter(t, Job{})
	gone := &layout.Image{Device: "no/such", File: "y.img.zst"}
	if err := s.image(t.Context(), gone); err != nil || gone.File != "" || !strings.Contains(notCovered(s.man), "no/such (unknown content)") {
		t.Errorf("a device that is missing: %v, %q", err, notCovered(s.man))
	}
}

// sha256sum(1) reads the lines of any name.
func TestSumLine(t *testing.T) {
	dir := t.TempDir()
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	var all string
	for _, n := range []string{"plain", `back\slash`, "new\nline", "ta\tb", "[x]*", "re\rturn"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		all += sumLine(empty, n)
	}
	if err := os.WriteFile(dir+"/SUMS", []byte(all), 0o600); err != nil {
		t.Fatal(err)
	}
	btrfstest.Run(t, "sh", "-c", `cd "$1" && sha256sum --strict --quiet -c SUMS`, "sh", dir)
}

// What can't be read of a device is listed with its bytes, a few in the manifest.
func TestBadSectorsListed(t *testing.T) {
	s := newWriter(t, Job{})
	m := &layout.Image{Device: "sdb3", Type: "ntfs"}
	sum := &blockcopy.Summary{ReadError: unix.EIO}
	for i := range int64(12) {
		sum.Bad = append(sum.Bad, blockcopy.Extent{Start: i * 8192, Length: 512})
	}
	s.imageProblems(m, sum, nil, &deviceUse{dev: "/no/such"}, -1)
	if got := notCovered(s.man); !strings.Contains(got, "sdb3 (ntfs): 6144 bytes can't be read") || !strings.Contains(got, "bytes 0 to 511, 8192 to 8703") || !strings.Contains(got, "and 2 more ranges") {
		t.Errorf("not covered: %q", got)
	}
}

// What the manifest lists of an archive is bounded, so that it can be read.
func TestManyProblems(t *testing.T) {
	s := newWriter(t, Job{})
	sum := &archive.Summary{}
	for range mostProblems + 5 {
		sum.Problems = append(sum.Problems, archive.Problem{Path: "x", Kind: archive.Unreadable, Detail: "input/output error"})
	}
	s.archived(&Archive{File: "a", Name: "/srv"}, sum, 0, false)
	if n := len(s.man.NotCovered); n != mostProblems+1 || !strings.Contains(s.man.NotCovered[n-1], "/srv: 5 more paths") {
		t.Errorf("%d entries, the last %q", n, s.man.NotCovered[n-1])
	}
}

// planned is an archive of a new directory with one file.
func planned(t *testing.T, device string) Archive {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", bytes.Repeat([]byte(device), 300_000), 0o600); err != nil {
		t.Fatal(err)
	}
	return Archive{File: device + ".tar.zst", Device: device, Type: "ext4", Mount: "/" + device, Name: "/" + device, Open: func() (*os.File, error) { return os.Open(dir) }}
}

// TestDirectory: a set in a directory has everything that it lists, under its name, and
// nothing else is left beside it. What could not be read is not covered.
func TestDirectory(t *testing.T) {
	dev := filepath.Join(t.TempDir(), "dev")
	if err := os.WriteFile(dev, bytes.Repeat([]byte("x"), 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := planned(t, "broken")
	broken.Open = func() (*os.File, error) { return nil, errors.New("structure needs cleaning") }
	w := newWriter(t, Job{Archives: []Archive{planned(t, "sda1"), broken}, Images: []*layout.Image{{Device: "../" + dev, Size: 100_000, File: "dev.img.zst"}, {Device: "no/such", File: "gone.img.zst"}},
		LeftOut: []string{"sdb: a rule"}, NotCovered: []string{"/odd: not supported"}})
	final := w.sink.(*Directory).Final()
	if _, err := os.Stat(final); err == nil {
		t.Error("the set has its name before it is whole")
	}
	m, err := w.Write(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(m.NotCovered) != 3 || !strings.HasPrefix(m.NotCovered[0], "/odd") || !strings.Contains(notCovered(m), "structure needs cleaning") || !strings.Contains(notCovered(m), "no/such") {
		t.Errorf("not covered: %q", m.NotCovered)
	}
	s, err := manifest.Open(final)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), true, progress.None{}); err != nil {
		t.Error(err)
	}
	var names []string
	for _, f := range m.Files {
		if f.Name != MachineFile { // which not every machine has
			names = append(names, f.Name)
		}
	}
	if got, want := strings.Join(names, " "), "RESTORE.txt coverage.json dev.img.zst layout.json log/run.jsonl log/sda1.files.zst restore.sh sda1.tar.zst"; got != want {
		t.Errorf("files %q; want %q", got, want)
	}
	btrfstest.Run(t, "sh", "-c", `cd "$1" && sha256sum --strict --quiet -c SHA256SUMS && cksfv -q -f Checksums.sfv`, "sh", final)
	if beside, err := os.ReadDir(filepath.Dir(final)); err != nil || len(beside) != 1 {
		t.Errorf("beside the set: %v, %v", beside, err)
	}
}

// fullSink is a directory on a full disk.
type fullSink struct {
	*Directory
	room int
}

func (f *fullSink) Stream(ctx context.Context, name string, produce func(ctx context.Context, w io.Writer) error) error {
	return f.Directory.Stream(ctx, name, func(ctx context.Context, w io.Writer) error { return produce(ctx, f) })
}

func (f *fullSink) Write(p []byte) (int, error) {
	if f.room -= len(p); f.room < 0 {
		return 0, unix.ENOSPC
	}
	return len(p), nil
}

// TestOnlyWritingIsFatal: an error of writing ends the run and leaves nothing.
func TestOnlyWritingIsFatal(t *testing.T) {
	dev := filepath.Join(t.TempDir(), "dev")
	if err := os.WriteFile(dev, bytes.Repeat([]byte("x"), 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, job := range map[string]Job{
		"archive": {Archives: []Archive{planned(t, "sda1")}},
		"image":   {Images: []*layout.Image{{Device: "../" + dev, Size: 100_000, File: "dev.img.zst"}}},
	} {
		w := newWriter(t, job)
		d := w.sink.(*Directory)
		w.sink = &fullSink{d, 10}
		if _, err := w.Write(t.Context()); !errors.Is(err, unix.ENOSPC) || len(w.man.NotCovered) > 0 {
			t.Errorf("%s: Write = %v, not covered %q; want %v", name, err, w.man.NotCovered, unix.ENOSPC)
		}
		if err := d.Remove(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(filepath.Dir(d.Final())); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
	}
	w := newWriter(t, Job{Archives: []Archive{planned(t, "sda1")}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Write(ctx); !errors.Is(err, context.Canceled) || len(w.man.NotCovered) > 0 {
		t.Errorf("cancelled: Write = %v, not covered %q", err, w.man.NotCovered)
	}
}
