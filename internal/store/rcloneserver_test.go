package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// countedRclone puts a program before rclone that counts its starts by their first argument, and that
// refuses to serve where refuse is set.
func countedRclone(t *testing.T, refuse bool) (starts func(what string) int) {
	t.Helper()
	real, err := exec.LookPath("rclone")
	if err != nil {
		t.Skip("needs rclone")
	}
	dir := t.TempDir()
	program := "#!/bin/sh\necho \"$1\" >>" + dir + "/starts\n"
	if refuse {
		program += "[ \"$1\" = serve ] && exit 1\n"
	}
	if err := os.WriteFile(dir+"/rclone", []byte(program+"exec "+real+" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func(what string) int {
		b, err := os.ReadFile(dir + "/starts")
		if err != nil {
			t.Fatal(err)
		}
		return len(slices.DeleteFunc(strings.Fields(string(b)), func(s string) bool { return s != what }))
	}
}

// manySets writes n sets with small files into the home of rcloneAt(t, dir).
func manySets(t *testing.T, dir string, n int) {
	t.Helper()
	for i := range n {
		at := filepath.Join(dir, "ho me/x", fmt.Sprintf("set%04d", i))
		if err := errors.Join(os.MkdirAll(at+"/log", 0o700), os.WriteFile(at+"/set.json", fmt.Append(nil, i), 0o600), os.WriteFile(at+"/log/x", []byte("log"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// readSets asks what a list of sets asks, by several readers.
func readSets(t *testing.T, h Home, n int) {
	t.Helper()
	dirs, err := h.Dirs(t.Context())
	if err != nil || len(dirs) != n {
		t.Fatalf("Dirs = %d, %v; want %d", len(dirs), err, n)
	}
	var wg sync.WaitGroup
	next := make(chan int)
	for range 16 {
		wg.Go(func() {
			for i := range next {
				st := h.At(t.Context(), dirs[i])
				if _, err := st.Open("manifest.json"); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("a missing file: %v", err)
				}
				if b, err := ReadFile(st, "set.json", 100); err != nil || string(b) != fmt.Sprint(i) {
					t.Errorf("set.json of %s = %q, %v", dirs[i], b, err)
				}
				files, err := h.Files(t.Context(), dirs[i])
				if err != nil || len(files) != 2 || files[0].Name != "log/x" || files[1].Size != int64(len(fmt.Sprint(i))) || time.Since(files[0].Time) > time.Hour {
					t.Errorf("Files(%s) = %v, %v", dirs[i], files, err)
				}
			}
		})
	}
	for i := range dirs {
		next <- i
	}
	close(next)
	wg.Wait()
}

// TestRcloneMany: the small files and the lists of many sets are read by one program. Where that can't
// be started, each has a program of its own.
func TestRcloneMany(t *testing.T) {
	for _, c := range []struct {
		name   string
		refuse bool
		sets   int
		most   int // starts
	}{{"served", false, 200, 4}, {"not served", true, 3, 100}} {
		t.Run(c.name, func(t *testing.T) {
			starts := countedRclone(t, c.refuse)
			dir := t.TempDir()
			manySets(t, dir, c.sets)
			h := rcloneAt(t, dir).open(t)
			readSets(t, h, c.sets)
			total := starts("lsjson") + starts("cat") + starts("serve")
			if total > c.most || starts("serve") != 1 {
				t.Errorf("rclone was started %d times, %d of them to serve; want at most %d", total, starts("serve"), c.most)
			}
		})
	}
}

// TestRcloneServed: the program that serves is replaced when it ended, when it was idle, and when something
// was written; it ends with the home.
func TestRcloneServed(t *testing.T) {
	starts := countedRclone(t, false)
	dir := t.TempDir()
	manySets(t, dir, 1)
	s := rcloneAt(t, dir)
	h, err := OpenHome(t.Context(), s.url, s.access)
	if err != nil {
		t.Fatal(err)
	}
	server := &h.(*rcloneHome).server
	read := func(want string, serving int) {
		t.Helper()
		if b, err := ReadFile(h.At(t.Context(), "set0000"), "set.json", 100); err != nil || string(b) != want {
			t.Errorf("ReadFile = %q, %v; want %q", b, err, want)
		}
		if got := starts("serve"); got != serving {
			t.Errorf("rclone was started %d times to serve; want %d", got, serving)
		}
	}
	read("0", 1)
	read("0", 1)
	server.now.stop() // killed
	<-server.now.done
	read("0", 2)
	put(t, h, "set0000/set.json", []byte("new"))
	read("new", 3)
	if err := os.WriteFile(filepath.Join(dir, "ho me/x/set0000/set.json"), []byte("of another machine"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(rcloneFresh + 100*time.Millisecond)
	read("of another machine", 3)
	if err := h.Remove(t.Context(), "set0000/log/x"); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, h, "set0000"); !slices.Equal(got, []string{"set.json 18"}) {
		t.Errorf("after Remove: %q", got)
	}
	large := random(largeBlock+5, 1)
	put(t, h, "set0000/large", large)
	if got := content(t, h, "set0000/large"); !bytes.Equal(got, large) {
		t.Errorf("a large file has %d bytes that differ from the %d written", len(got), len(large))
	}
	server.idle = 10 * time.Millisecond
	read("of another machine", 5)
	<-server.now.done
	server.idle = time.Minute
	read("of another machine", 6)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.At(ctx, "set0000").Size("set.json"); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
	read("of another machine", 6)
	ended := server.now.done
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-ended:
	default:
		t.Error("after Close the program runs")
	}
}
