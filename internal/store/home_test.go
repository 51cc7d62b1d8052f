package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// quick are limits for tests: a server that is started again within a second is waited for.
var quick = limits{header: 5 * time.Second, stall: 5 * time.Second, pause: 20 * time.Millisecond, tries: 10, all: 1000}

// site is a server, or a directory, in which homes can be.
type site struct {
	url    string
	access Access
	// hidden are secrets, which no text may have.
	hidden []string
	// ghosts is set for a server that lists directories of which all was removed.
	ghosts bool
}

// open opens the home.
func (s *site) open(t *testing.T) Home {
	t.Helper()
	s.access.limits = quick
	h, err := OpenHome(t.Context(), s.url, s.access)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return h
}

// kinds are what each kind of home is tested with.
func kinds() map[string]func(t *testing.T) *site {
	return map[string]func(t *testing.T) *site{
		"dir":    func(t *testing.T) *site { return &site{url: filepath.Join(t.TempDir(), "home")} },
		"sftp":   func(t *testing.T) *site { s := startSFTP(t); return s.site(t, "127.0.0.1:"+s.port) },
		"webdav": davSite(false), "webdav parts": davSite(true),
		"rclone":  rcloneSite,
		"s3 fake": func(t *testing.T) *site { f := newFakeS3(t); return f.site(f.addr) },
		"s3": func(t *testing.T) *site {
			v := startVersity(t, t.TempDir())
			return v.site("127.0.0.1:" + v.port)
		},
		"s3 locked": func(t *testing.T) *site {
			v := startLocked(t)
			s := v.site("127.0.0.1:" + v.port)
			s.ghosts = true // versitygw lists directories with nothing but delete markers
			return s
		},
		"nfs": func(t *testing.T) *site { return mountSite(t, "nfs://127.0.0.1/export/home") },
		"smb": func(t *testing.T) *site { return mountSite(t, "smb://me@127.0.0.1/share/a/b") },
	}
}

// TestHomes: each kind of home does the same.
func TestHomes(t *testing.T) {
	for name, start := range kinds() {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && slices.Contains([]string{"sftp", "s3", "s3 locked", "rclone"}, name) {
				t.Skip("takes a while")
			}
			s := start(t)
			for what, check := range map[string]func(*testing.T, *site, Home){
				"commit": checkCommit, "abort": checkAbort, "read": checkRead, "lists": checkLists, "remove": checkRemove,
				"names": checkNames, "parallel": checkParallel, "set": checkSet, "cancel": checkCancel,
			} {
				t.Run(what, func(t *testing.T) { check(t, s, s.open(t)) })
			}
		})
	}
}

// secretFree fails if a text has one of the site's secrets.
func (s *site) secretFree(t *testing.T, texts ...any) {
	t.Helper()
	for _, x := range texts {
		if x == nil {
			continue
		}
		text := fmt.Sprintf("%v %+v %#v", x, x, x)
		if err, ok := x.(error); ok {
			text = err.Error()
		} else if h, ok := x.(fmt.Stringer); ok {
			text = h.String()
		}
		for _, secret := range s.hidden {
			if strings.Contains(text, secret) {
				t.Errorf("a secret is in %q", text)
			}
		}
	}
}

// random gives n bytes that differ for each seed.
func random(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

// write writes a file in odd pieces.
func write(ctx context.Context, h Home, name string, b []byte) error {
	u, err := h.Create(ctx, name)
	for err == nil && len(b) > 0 {
		n := min(len(b), 700_001)
		_, err = u.Write(b[:n])
		b = b[n:]
	}
	if err == nil {
		err = u.Commit()
	}
	if u != nil {
		err = errors.Join(err, u.Abort())
	}
	return err
}

func put(t *testing.T, h Home, name string, b []byte) {
	t.Helper()
	if err := write(t.Context(), h, name, b); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, h Home, name string) []byte {
	t.Helper()
	b, err := ReadFile(h.At(t.Context(), ""), name, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func listed(t *testing.T, h Home, dir string) []string {
	t.Helper()
	files, err := h.Files(t.Context(), dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var out []string
	for _, f := range files {
		out = append(out, fmt.Sprintf("%s %d", f.Name, f.Size))
	}
	return out
}

// checkCommit: a file is seen once it is committed, and replaces another one then.
func checkCommit(t *testing.T, s *site, h Home) {
	for i, size := range []int{0, 1, 5 << 20, 17<<20 + 3} {
		name, want := fmt.Sprintf("commit/f%d", i), random(size, uint64(i))
		u, err := h.Create(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Write(want); err != nil {
			t.Fatal(err)
		}
		if _, err := h.At(t.Context(), "commit").Size(fmt.Sprint("f", i)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("before Commit: %v; want that it does not exist", err)
		}
		if got := listed(t, h, "commit"); len(got) != i {
			t.Errorf("before Commit: %v", got)
		}
		if err := u.Commit(); err != nil {
			t.Fatal(err)
		}
		if u.Commit() == nil {
			t.Error("a second Commit succeeds")
		}
		if n, err := u.Write([]byte("x")); err == nil {
			t.Errorf("writing after Commit: %d", n)
		}
		if got := content(t, h, name); !bytes.Equal(got, want) {
			t.Errorf("%s has %d bytes that differ from the %d written", name, len(got), size)
		}
	}
	put(t, h, "commit/f3", []byte("short"))
	if got := content(t, h, "commit/f3"); string(got) != "short" {
		t.Errorf("a replaced file has %d bytes", len(got))
	}
}

// checkAbort: an aborted file leaves nothing, and not the end of the one that it would have replaced.
func checkAbort(t *testing.T, s *site, h Home) {
	put(t, h, "abort/kept", []byte("kept"))
	for _, name := range []string{"abort/kept", "abort/new"} {
		for _, size := range []int{0, 100, 20 << 20} {
			u, err := h.Create(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := u.Write(random(size, 1)); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(u.Abort(), u.Abort()); err != nil {
				t.Errorf("Abort: %v", err)
			}
			if u.Commit() == nil {
				t.Error("Commit after Abort succeeds")
			}
		}
	}
	if got := listed(t, h, "abort"); !slices.Equal(got, []string{"kept 4"}) {
		t.Errorf("after Abort: %v", got)
	}
	if got := content(t, h, "abort/kept"); string(got) != "kept" {
		t.Errorf("after Abort: %q", got)
	}
}

// checkRead: a file is read at any offset, and what is missing is os.ErrNotExist.
func checkRead(t *testing.T, s *site, h Home) {
	want := random(9<<20+77, 7)
	put(t, h, "read/big", want)
	st := h.At(t.Context(), "read")
	f, err := st.Open("big")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := st.Size("big"); n != int64(len(want)) || err != nil || f.Size() != n {
		t.Errorf("Size: %d, %d, %v", n, f.Size(), err)
	}
	for _, c := range []struct{ off, n int }{{0, 1}, {1, 0}, {5, 100}, {1<<20 - 1, 2}, {0, 4 << 20}, {3 << 20, 4 << 20}, {len(want) - 1, 1}, {len(want) - 5, 5}} {
		b := make([]byte, c.n)
		if n, err := f.ReadAt(b, int64(c.off)); n != c.n || err != nil && !(err == io.EOF && c.off+c.n == len(want)) || !bytes.Equal(b, want[c.off:c.off+c.n]) {
			t.Errorf("ReadAt(%d bytes, %d) = %d, %v", c.n, c.off, n, err)
		}
	}
	b := make([]byte, 10)
	if n, err := f.ReadAt(b, int64(len(want)-3)); n != 3 || err != io.EOF || !bytes.Equal(b[:3], want[len(want)-3:]) {
		t.Errorf("ReadAt at the end: %d, %v", n, err)
	}
	for _, off := range []int64{int64(len(want)), int64(len(want)) + 9} {
		if n, err := f.ReadAt(b, off); n != 0 || err != io.EOF {
			t.Errorf("ReadAt behind the end: %d, %v", n, err)
		}
	}
	if n, err := f.ReadAt(b, -1); n != 0 || err == nil {
		t.Errorf("ReadAt before the beginning: %d, %v", n, err)
	}
	if got, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size())); err != nil || !bytes.Equal(got, want) {
		t.Errorf("in small pieces: %d bytes, %v", len(got), err)
	}
	for _, name := range []string{"no", "no/no", "big/no"} {
		_, err := st.Open(name)
		_, err2 := st.Size(name)
		if !errors.Is(err, os.ErrNotExist) && name != "big/no" || err == nil || err2 == nil {
			t.Errorf("%s: %v, %v", name, err, err2)
		}
		s.secretFree(t, err, err2)
	}
	if _, err := st.Open("."); err == nil {
		t.Error("a directory is opened")
	}
}

// checkLists: directories and files are listed, sorted, and unfinished files are not.
func checkLists(t *testing.T, s *site, h Home) {
	for _, n := range []string{"lists/b", "lists/a/x", "lists/a/deep/er", "lists/sp ace/ä&<%?#", "lists-2/y"} {
		put(t, h, n, []byte(n))
	}
	u, err := h.Create(t.Context(), "lists-3/unfinished")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Abort()
	dirs, err := h.Dirs(t.Context())
	if err != nil || !slices.Contains(dirs, "lists") || !slices.Contains(dirs, "lists-2") || !slices.IsSorted(dirs) || slices.Contains(dirs, "deep") {
		t.Errorf("Dirs: %q, %v", dirs, err)
	}
	want := []string{"a/deep/er 15", "a/x 9", "b 7", "sp ace/ä&<%?# 20"}
	if got := listed(t, h, "lists"); !slices.Equal(got, want) {
		t.Errorf("Files: %q; want %q", got, want)
	}
	if got := listed(t, h, "lists/a"); !slices.Equal(got, []string{"deep/er 15", "x 9"}) {
		t.Errorf("Files: %q", got)
	}
	if got := listed(t, h, "lists-3"); len(got) != 0 {
		t.Errorf("Files with an unfinished one: %q", got)
	}
	if got := listed(t, h, "lists-none"); len(got) != 0 {
		t.Errorf("Files of a missing directory: %q", got)
	}
	if got := content(t, h, "lists/sp ace/ä&<%?#"); string(got) != "lists/sp ace/ä&<%?#" {
		t.Errorf("%q", got)
	}
	files, err := h.Files(t.Context(), "lists-2")
	if err != nil || len(files) != 1 || time.Since(files[0].Time).Abs() > time.Hour {
		t.Errorf("Files: %v, %v", files, err)
	}
}

// checkRemove: files and directories are removed, with nothing else.
func checkRemove(t *testing.T, s *site, h Home) {
	for _, n := range []string{"remove/manifest.json", "remove/a/x", "remove/a/y", "remove/b", "remove-2/x"} {
		put(t, h, n, []byte(n))
	}
	for _, c := range []struct {
		name string
		left []string
	}{
		{"remove/b", []string{"a/x 10", "a/y 10", "manifest.json 20"}}, {"remove/none", []string{"a/x 10", "a/y 10", "manifest.json 20"}},
		{"remove/a", []string{"manifest.json 20"}}, {"remove/b/c", []string{"manifest.json 20"}}, {"remove", nil}, {"remove", nil},
	} {
		if err := h.Remove(t.Context(), c.name); err != nil {
			t.Errorf("Remove(%s): %v", c.name, err)
		}
		if got := listed(t, h, "remove"); !slices.Equal(got, c.left) {
			t.Errorf("after Remove(%s): %q; want %q", c.name, got, c.left)
		}
	}
	if dirs, err := h.Dirs(t.Context()); err != nil || slices.Contains(dirs, "remove") && !s.ghosts {
		t.Errorf("after Remove: %q, %v", dirs, err)
	}
	if got := listed(t, h, "remove-2"); len(got) != 1 {
		t.Errorf("Remove took another directory: %q", got)
	}
	u, err := h.Create(t.Context(), "remove/unfinished")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(u.Abort(), h.Remove(t.Context(), "remove")); err != nil {
		t.Error(err)
	}
}

// hostile are names that lead elsewhere, or that not every server takes.
var hostile = []string{"..", "../x", "a/../../x", "/etc/passwd", "a/../b", "a//b", "a/", "./a", ".", "a\x00b", "a\nb", "a\\b", "a\xff", partialPrefix + "x", "a/" + partialPrefix + "x", strings.Repeat("x", 1000)}

// checkNames: hostile names are refused before they reach a server.
func checkNames(t *testing.T, s *site, h Home) {
	for _, n := range append([]string{""}, hostile...) {
		if u, err := h.Create(t.Context(), n); err == nil {
			t.Errorf("Create(%q) succeeds", n)
			_ = u.Abort()
		}
		if err := h.Remove(t.Context(), n); err == nil {
			t.Errorf("Remove(%q) succeeds", n)
		}
	}
	for _, n := range hostile {
		if _, err := h.Files(t.Context(), n); err == nil {
			t.Errorf("Files(%q) succeeds", n)
		}
		if _, err := h.At(t.Context(), n).Open("x"); err == nil {
			t.Errorf("At(%q).Open succeeds", n)
		}
		if _, err := h.At(t.Context(), "").Open(n); err == nil {
			t.Errorf("Open(%q) succeeds", n)
		}
	}
}

// checkParallel: files are written and read by several goroutines.
func checkParallel(t *testing.T, s *site, h Home) {
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			u, err := h.Create(t.Context(), fmt.Sprintf("parallel/%d", i))
			if err == nil {
				if _, err = u.Write(random(6<<20, uint64(i))); err == nil {
					err = u.Commit()
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 2 {
		f, err := h.At(t.Context(), "parallel").Open(fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		want := random(6<<20, uint64(i))
		for k := range 6 {
			wg.Go(func() {
				for n := range 8 {
					size := []int{4 << 20, 300, 64 << 10, 1 << 20}[n%4]
					off := (k*1_100_003 + n*333_333) % (len(want) - size)
					b := make([]byte, size)
					if got, err := f.ReadAt(b, int64(off)); got != size || err != nil || !bytes.Equal(b, want[off:off+size]) {
						t.Errorf("ReadAt(%d bytes, %d) = %d, %v", size, off, got, err)
					}
				}
			})
		}
		wg.Wait()
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// checkSet: OpenSet gives a set in the home by its own URL; no text has a secret.
func checkSet(t *testing.T, s *site, h Home) {
	put(t, h, "set-1/sub/file", []byte("text"))
	st, end, err := OpenSet(t.Context(), Join(s.url, "set-1"), s.access)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := ReadFile(st, "sub/file", 10); string(b) != "text" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	for _, x := range []interface{ String() string }{h, st, h.At(t.Context(), "set-1")} {
		if text := x.String(); strings.HasSuffix(text, "/") || !strings.Contains(text, "/") {
			t.Errorf("String() = %q", text)
		}
		s.secretFree(t, x)
	}
	if got, want := st.String(), h.At(t.Context(), "set-1").String(); got != want {
		t.Errorf("a set's place is %q and %q", got, want)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}

// checkCancel: a cancelled upload fails, and leaves nothing.
func checkCancel(t *testing.T, s *site, h Home) {
	ctx, cancel := context.WithCancel(t.Context())
	u, err := h.Create(ctx, "cancel/x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(random(1<<20, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err = u.Write(random(40<<20, 1))
	if err == nil {
		err = u.Commit()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
	if err := u.Abort(); err != nil {
		t.Errorf("Abort after cancel: %v", err)
	}
	if got := listed(t, h, "cancel"); len(got) != 0 {
		t.Errorf("after cancel: %q", got)
	}
}
