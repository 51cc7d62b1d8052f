package set

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// stopping is a directory that stops for good at a step, after printing it.
type stopping struct {
	*Directory
	at string
}

func (s *stopping) reach(step string) {
	if s.at == step {
		fmt.Println("at", step)
		select {}
	}
}

func (s *stopping) Begin(ctx context.Context) error {
	s.reach("texts written")
	return s.Directory.Begin(ctx)
}

func (s *stopping) Stream(ctx context.Context, name string, produce func(ctx context.Context, w io.Writer) error) error {
	err := s.Directory.Stream(ctx, name, func(ctx context.Context, w io.Writer) error {
		return produce(ctx, &half{w: w, s: s})
	})
	s.reach("archive written")
	return err
}

// half stops when some of an archive is written.
type half struct {
	w io.Writer
	s *stopping
	n int
}

func (h *half) Write(p []byte) (int, error) {
	if h.n += len(p); h.n > 1<<20 {
		h.s.reach("half an archive")
	}
	return h.w.Write(p)
}

func (s *stopping) Commit(ctx context.Context) error {
	s.reach("manifest written")
	if s.at == "renamed" {
		if err := os.Rename(s.Dir(), s.Final()); err != nil {
			return err
		}
	}
	s.reach("renamed")
	return s.Directory.Commit(ctx)
}

// killSteps are where a run is killed. At the last one the set is complete.
var killSteps = []string{"claimed", "begun", "texts written", "half an archive", "archive written", "manifest written", "renamed"}

// writeSet writes a set of src below dir, as a run does, with a stop at a step; "" for none.
func writeSet(dir, src, at string, created time.Time) (*manifest.Manifest, error) {
	release, err := Lock(dir, "web", func(string, ...any) {})
	if err != nil {
		return nil, err
	}
	d, err := NewDirectory(dir, "web", created, progress.None{})
	if err != nil {
		return nil, errors.Join(err, release())
	}
	s := &stopping{d, at}
	s.reach("claimed")
	job := Job{Layout: &layout.Layout{Version: layout.Version, Hostname: "web", Boot: layout.Boot{Firmware: layout.BIOS}}, Report: progress.None{},
		Archives: []Archive{{File: manifest.ArchiveName("vda1", "/"), Device: "vda1", Type: "ext4", Mount: "/", Name: "/", Open: func() (*os.File, error) { return os.Open(src) }, Options: archive.CreateOptions{}}}}
	m, err := func() (*manifest.Manifest, error) {
		w, err := Start(job, uuid.New(), created, s)
		if err != nil {
			return nil, err
		}
		defer w.Close()
		s.reach("begun")
		return w.Write(context.Background())
	}()
	if err != nil {
		err = errors.Join(err, d.Remove())
	}
	return m, errors.Join(err, release())
}

// randomDir is a directory with data that can't be compressed.
func randomDir(t *testing.T, size int) string {
	t.Helper()
	src := t.TempDir()
	b := make([]byte, size)
	rand.Read(b)
	if err := os.WriteFile(src+"/data", b, 0o600); err != nil {
		t.Fatal(err)
	}
	return src
}

// TestWriteKilled is not a test but the other process of TestKill: it writes a set, and stops at
// a step.
func TestWriteKilled(t *testing.T) {
	dir := os.Getenv("MKCDREC_TEST_KILL")
	if dir == "" {
		t.Skip("for TestKill")
	}
	fmt.Println("begins")
	if _, err := writeSet(dir, os.Getenv("MKCDREC_TEST_SOURCE"), os.Getenv("MKCDREC_TEST_STEP"), time.Now()); err != nil {
		t.Fatal(err)
	}
}

// kill runs the other process until it has reached a step, or for a time, and kills it.
func kill(t *testing.T, dir, src, step string, after time.Duration) {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run=^TestWriteKilled$")
	c.Env = append(os.Environ(), "MKCDREC_TEST_KILL="+dir, "MKCDREC_TEST_SOURCE="+src, "MKCDREC_TEST_STEP="+step)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewScanner(out)
	for want := "at " + step; in.Scan(); {
		if step == "" && in.Text() == "begins" {
			time.Sleep(after)
			break
		}
		if in.Text() == want {
			break
		}
	}
	if in.Err() != nil || in.Text() == "" {
		t.Fatalf("the other process ended before %q: %v", step, in.Err())
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // killed
}

// newest is the set that list and restore take of a directory.
func newest(t *testing.T, dir string) string {
	t.Helper()
	s, err := manifest.Door{Say: t.Logf}.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return s.Manifest.ID
}

// TestKill: wherever a run is killed, the earlier set stays and is the one that is taken; the next
// run removes what the killed one left, and its lock.
func TestKill(t *testing.T) {
	src, dir := randomDir(t, 4<<20), t.TempDir()
	begin := time.Now().Add(-time.Hour)
	first, err := writeSet(dir, src, "", begin)
	if err != nil {
		t.Fatal(err)
	}
	long := time.Now()
	if _, err := writeSet(t.TempDir(), src, "", begin); err != nil {
		t.Fatal(err)
	}
	took := time.Since(long)
	type point struct {
		step  string
		after time.Duration
	}
	var points []point
	for _, s := range killSteps {
		points = append(points, point{step: s})
	}
	for i := range 6 {
		points = append(points, point{after: took * time.Duration(i) / 6})
	}
	for i, p := range points {
		kill(t, dir, src, p.step, p.after)
		sets, doubtful, err := List(dir, This("web"))
		if err != nil || len(doubtful) > 0 {
			t.Fatalf("killed at %+v: List() = %v, %v", p, doubtful, err)
		}
		whole := 1
		if p.step == "renamed" || p.step == "" && len(sets) == 2 {
			whole = 2
		}
		if len(sets) != whole || sets[whole-1].ID != first.ID || newest(t, dir) != sets[0].ID {
			t.Fatalf("killed at %+v: %d sets; want %d, the first of them %s", p, len(sets), whole, first.ID)
		}
		left, err := Leftovers(t.Context(), dir, "web", time.Now())
		for _, l := range left {
			if !l.Over {
				t.Errorf("killed at %+v: %+v; want a leftover of a run that has ended", p, l)
			}
		}
		if err != nil || p.step != "" && len(left) != 1 {
			t.Errorf("killed at %+v: leftovers %v, %v; want one", p, left, err)
		}
		for _, s := range sets[:whole-1] {
			if err := Retire(dir, s.Name); err != nil {
				t.Fatal(err)
			}
		}
		m, err := writeSet(dir, src, "", begin.Add(time.Duration(i+1)*time.Minute))
		if err != nil {
			t.Fatalf("the run after one killed at %+v: %v", p, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 2 || newest(t, dir) != m.ID {
			t.Fatalf("after the run that follows one killed at %+v: %v, %v; want two sets and nothing else", p, entries, err)
		}
		if err := Retire(dir, entries[1].Name()); err != nil {
			t.Fatal(err)
		}
	}
	s, err := manifest.Door{Say: t.Logf}.Open(t.Context(), dir)
	if err != nil || s.Manifest.ID != first.ID {
		t.Fatalf("the first set: %v", err)
	}
	if err := s.Verify(t.Context(), true, progress.None{}); err != nil {
		t.Errorf("the first set after all: %v", err)
	}
}

// TestFull: with any room that is too little, the run fails for that reason, leaves nothing, and
// the earlier set stays; with more it succeeds.
func TestFull(t *testing.T) {
	dir, src := t.TempDir(), randomDir(t, 300<<10)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m,mode=0700"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	begin := time.Now().Add(-time.Hour)
	first, err := writeSet(dir, src, "", begin)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	used := int64(st.Blocks-st.Bfree) * st.Bsize
	failed := map[string]bool{}
	for room := int64(4 << 10); room < 2<<20; room += 12 << 10 {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d", used+room)); err != nil {
			t.Fatal(err)
		}
		m, err := writeSet(dir, src, "", begin.Add(time.Minute))
		if err == nil {
			if newest(t, dir) != m.ID || len(failed) < 3 {
				t.Errorf("with %d bytes the set is not the newest, or the run failed at %d places only: %v", room, len(failed), failed)
			}
			return
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("with %d bytes: %v; want that the disk is full", room, err)
		}
		what, _, _ := strings.Cut(strings.ReplaceAll(err.Error(), dir, ""), ":")
		failed[what] = true
		entries, e := os.ReadDir(dir)
		if e != nil || len(entries) != 1 || newest(t, dir) != first.ID {
			t.Fatalf("with %d bytes (%v) there are %v, %v; want the first set", room, err, entries, e)
		}
	}
	t.Errorf("the set needs more than 2 MiB; it failed at %v", failed)
}
