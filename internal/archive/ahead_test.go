package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// slowTree makes directories with files, links, fifos and empty files.
func slowTree(t testing.TB, dirs, files int) string {
	t.Helper()
	dir := t.TempDir()
	for i := range dirs {
		d := fmt.Sprintf("%s/d%02d", dir, i)
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		for j := range files {
			f := fmt.Sprintf("%s/f%03d", d, j)
			if err := os.WriteFile(f, bytes.Repeat([]byte{byte(i), byte(j)}, j*37), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(os.Symlink("f000", d+"/a"), unix.Mkfifo(d+"/g", 0o600), os.Link(d+"/f000", d+"/hard")); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// packed archives a tree.
func packed(t testing.TB, dir string, opt CreateOptions) ([32]byte, *Summary) {
	t.Helper()
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	h := sha256.New()
	sum, err := Create(context.Background(), h, root, opt)
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil)), sum
}

// slowOpener takes delay for each file; most is how many it was asked for at once.
func slowOpener(delay time.Duration, most *atomic.Int64) opener {
	var now atomic.Int64
	return func(dir int, name string, flags int) (int, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(delay)
		return openQuietly(dir, name, flags)
	}
}

// TestAhead: where opening files takes long, several are opened at once, and the archive is the same. Where it does not,
// one is opened after the other.
func TestAhead(t *testing.T) {
	dir := slowTree(t, 2, 1500)
	want, sum := packed(t, dir, CreateOptions{})
	for _, c := range []struct {
		delay, slow time.Duration
		least, most int64
	}{{0, time.Hour, 1, 1}, {5 * time.Millisecond, 0, aheadOpeners / 2, aheadOpeners}} {
		var most atomic.Int64
		got, s := packed(t, dir, CreateOptions{open: slowOpener(c.delay, &most), slow: c.slow})
		if got != want || s.Members != sum.Members || len(s.Problems) != 0 {
			t.Errorf("after %v: another archive: %+v", c.delay, s)
		}
		if n := most.Load(); n < c.least || n > c.most {
			t.Errorf("after %v: %d files were opened at once; want %d to %d", c.delay, n, c.least, c.most)
		}
	}
	if n := openFiles(t); n > 0 {
		t.Errorf("%d files of the tree are still open", n)
	}
}

// openFiles is how many files of test trees this process has open.
func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && filepath.Base(to)[0] == 'f' && filepath.Base(filepath.Dir(to))[0] == 'd' {
			n++
		}
	}
	return n
}

// TestAheadReplaced: a file that is replaced after it was opened is archived as it is when its turn comes, and one that
// is removed is named.
func TestAheadReplaced(t *testing.T) {
	dir := slowTree(t, 2, 60)
	var firsts, times atomic.Int64
	replaced := make(chan struct{})
	open := func(d int, name string, flags int) (int, error) {
		time.Sleep(5 * time.Millisecond)
		fd, err := openQuietly(d, name, flags)
		if name == "f000" && firsts.Add(1) == 2 { // in d01: nobody's turn comes before
			<-replaced
		}
		if name == "f020" && times.Add(1) == 2 {
			defer close(replaced)
			d := dir + "/d01/"
			if err := errors.Join(os.WriteFile(d+"new", []byte("new content"), 0o600), os.Rename(d+"new", d+"f020"), os.Remove(d+"f050")); err != nil {
				t.Error(err)
			}
		}
		return fd, err
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var b bytes.Buffer
	sum, err := Create(t.Context(), &b, root, CreateOptions{open: open})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range sum.Problems {
		if p.Kind != Vanished {
			t.Errorf("%+v; want files that vanished only", p)
		}
	}
	if n := openFiles(t); n > 0 {
		t.Errorf("%d files are still open", n)
	}
	r, err := Open(bytes.NewReader(b.Bytes()), int64(b.Len()), "archive")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	to := t.TempDir()
	if _, err := r.Extract(t.Context(), to, ExtractOptions{NoOwner: true}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(to + "/d01/f020"); err != nil || string(got) != "new content" {
		t.Errorf("d01/f020 = %.20q, %v; want the new content", got, err)
	}
}

// TestAheadCanceled: a run that ends early leaves nothing open.
func TestAheadCanceled(t *testing.T) {
	dir := slowTree(t, 2, 200)
	ctx, cancel := context.WithCancel(t.Context())
	n := atomic.Int64{}
	open := func(d int, name string, flags int) (int, error) {
		time.Sleep(5 * time.Millisecond)
		if n.Add(1) == 100 {
			cancel()
		}
		return openQuietly(d, name, flags)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := Create(ctx, &bytes.Buffer{}, root, CreateOptions{open: open}); !errors.Is(err, context.Canceled) {
		t.Errorf("Create = %v; want that it was canceled", err)
	}
	if n := openFiles(t); n > 0 {
		t.Errorf("%d files are still open", n)
	}
}

// BenchmarkSlowOpen is a tree of which opening a file takes 5 ms, with one opener and with several.
func BenchmarkSlowOpen(b *testing.B) {
	dir := slowTree(b, 20, 50)
	for name, one := range map[string]bool{"one": true, "several": false} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				var most atomic.Int64
				o := CreateOptions{open: slowOpener(5*time.Millisecond, &most)}
				o.alone = one
				packed(b, dir, o)
			}
		})
	}
}
