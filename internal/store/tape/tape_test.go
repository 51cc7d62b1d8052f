package tape_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/mkcdrec/mkcdrec/internal/store/tape"
	"github.com/mkcdrec/mkcdrec/internal/store/tape/model"
	"github.com/mkcdrec/mkcdrec/internal/volume"
)

var ctx = context.Background()

// pack makes a zstd stream of n frames of 300 KB of noise.
func pack(t *testing.T, n int) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(2, uint64(n)))
	var out []byte
	b := make([]byte, 300_000)
	for range n {
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		out = z.EncodeAll(b, out)
	}
	return out
}

const tailLen = 1000

// writeSet writes two archives and the list of what lies where.
func writeSet(t *testing.T, w *tape.Writer, archives map[string][]byte) error {
	t.Helper()
	w.Note = t.Logf
	if w.ID == (volume.ID{}) {
		w.ID, w.Host, w.Created = volume.NewID(), "host", time.Unix(1_700_000_000, 0).UTC()
	}
	x := tape.Index{Version: 1, ID: w.ID.String()}
	files := map[string]string{}
	keep := func(name string, b []byte) {
		files[name] = filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(files[name], b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"a", "b"} {
		if archives[n] == nil {
			continue
		}
		if err := w.Cut(ctx, n, bytes.NewReader(archives[n])); err != nil {
			return err
		}
		at := int64(len(archives[n]) - tailLen)
		x.Archives = append(x.Archives, tape.Archive{File: n, Size: int64(len(archives[n])), Tail: n + ".tail", TailAt: at})
		keep(n+".tail", archives[n][at:])
	}
	return w.Bundle(ctx, tape.SetName, func(entries []tape.Entry, reels int) (map[string]string, error) {
		x.Entries, x.Reels = entries, reels
		j, err := json.Marshal(x)
		if err != nil {
			return nil, err
		}
		keep(tape.IndexFile, j)
		return files, nil
	})
}

// read opens the set and reads its archives forward, in pieces.
func read(t *testing.T, drives []tape.Drive, ask tape.Ask, archives map[string][]byte) error {
	t.Helper()
	s, err := tape.Open(ctx, drives, t.TempDir(), ask)
	if err != nil {
		return err
	}
	for _, n := range []string{"b", "a"} { // never by order
		want := archives[n]
		f, err := s.Open(n)
		if err != nil {
			return err
		}
		if n, err := f.ReadAt(make([]byte, 10), f.Size()-10); n != 10 {
			return fmt.Errorf("index: %d, %v", n, err)
		}
		got := make([]byte, f.Size())
		for off := 0; off < len(got); {
			k, err := f.ReadAt(got[off:min(len(got), off+100_001)], int64(off))
			off += k
			if err != nil && !(err == io.EOF && off == len(got)) {
				if k == 0 {
					return err
				}
			}
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s is not what was written", n)
		}
		// Part of it, with a gap, and back to the beginning.
		p := make([]byte, 5)
		for _, at := range []int64{7, 1000, 3} {
			if _, err := f.ReadAt(p, at); err != nil || !bytes.Equal(p, want[at:at+5]) {
				return fmt.Errorf("%s at %d: %v", n, at, err)
			}
		}
		f.Close()
	}
	return nil
}

func TestOneReel(t *testing.T) {
	archives := map[string][]byte{"a": pack(t, 40), "b": pack(t, 3)}
	r := &model.Tape{}
	d := &model.Drive{Tape: r}
	if err := writeSet(t, &tape.Writer{Drives: []tape.Drive{d}}, archives); err != nil {
		t.Fatal(err)
	}
	if err := read(t, []tape.Drive{d}, nil, archives); err != nil {
		t.Error(err)
	}
	// By hand: the second tape file with zstd alone.
	var file []byte
	marks := 0
	for _, i := range r.Items {
		if i == nil {
			marks++
		} else if marks == 1 {
			if len(i) != tape.BlockSize {
				t.Fatalf("a block of %d bytes", len(i))
			}
			file = append(file, i...)
		}
	}
	c := exec.Command("zstd", "-dcq")
	c.Stdin = bytes.NewReader(file)
	out, err := c.Output()
	if err != nil || len(out) != 40*300_000 {
		t.Errorf("by hand: %d bytes, %v", len(out), err)
	}
	// The next set goes over it.
	small := map[string][]byte{"a": pack(t, 1), "b": pack(t, 2)}
	if err := writeSet(t, &tape.Writer{Drives: []tape.Drive{d}}, small); err != nil {
		t.Fatal(err)
	}
	if err := read(t, []tape.Drive{d}, nil, small); err != nil {
		t.Error(err)
	}
}

// Reels that end everywhere, with and without a warning, changed by a person
// or in two drives.
func TestTwoReels(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: not with -short")
	}
	archives := map[string][]byte{"a": pack(t, 40), "b": pack(t, 3)}
	whole := int64(len(archives["a"]) + len(archives["b"]))
	for _, warn := range []int64{0, 200_000} {
		for capacity := whole*3/4 - 300_000; capacity < whole*3/4+300_000; capacity += 47_000 {
			one, two := &model.Tape{Capacity: capacity, Warn: warn}, &model.Tape{Capacity: capacity, Warn: warn}
			d := &model.Drive{Tape: one}
			asked := 0
			w := &tape.Writer{Drives: []tape.Drive{d}, NextReel: func(_ context.Context, _ tape.Drive, reel int, problem error) error {
				if asked++; asked == 2 {
					d.Tape = two
				} // at first the same tape is put in again
				if asked > 5 {
					return fmt.Errorf("asked for reel %d: %w", reel, problem)
				}
				return nil
			}}
			if err := writeSet(t, w, archives); err != nil {
				t.Fatalf("capacity %d, warning %d: %v", capacity, warn, err)
			}
			if asked != 2 || d.Ejected != 1 {
				t.Errorf("capacity %d: asked %d times, ejected %d", capacity, asked, d.Ejected)
			}
			ask := func(_ context.Context, _ tape.Drive, what string, problem error) error {
				switch {
				case strings.Contains(what, "last reel"), strings.Contains(what, "reel 2 of 2"):
					d.Tape = two
				case strings.Contains(what, "reel 1 of 2"):
					d.Tape = one
				default:
					return fmt.Errorf("asked for %q: %v", what, problem)
				}
				return nil
			}
			d.Tape = one
			if err := read(t, []tape.Drive{d}, ask, archives); err != nil {
				t.Errorf("capacity %d, warning %d: %v", capacity, warn, err)
			}
			both := []tape.Drive{&model.Drive{Tape: one}, &model.Drive{Tape: two}}
			if err := read(t, both, nil, archives); err != nil {
				t.Errorf("capacity %d, two drives: %v", capacity, err)
			}
			if err := read(t, both[:1], nil, archives); err == nil || !strings.Contains(err.Error(), "does not hold the end of the set") {
				t.Errorf("capacity %d, the first reel alone: %v", capacity, err)
			}
		}
	}
}

func TestBadTapes(t *testing.T) {
	archives := map[string][]byte{"a": pack(t, 20), "b": pack(t, 3)}
	write := func(tp *model.Tape, over bool) error {
		return writeSet(t, &tape.Writer{Drives: []tape.Drive{&model.Drive{Tape: tp}}, Overwrite: over}, archives)
	}
	foreign := func() *model.Tape { return &model.Tape{Items: [][]byte{bytes.Repeat([]byte("tar"), 4000), nil}} }
	for name, c := range map[string]struct {
		tape    *model.Tape
		want    string
		refused bool
	}{
		"no tape":          {nil, "no tape in it", false},
		"write-protected":  {&model.Tape{Protected: true}, "write-protected", false},
		"foreign":          {foreign(), "no label of mkcdrec", true},
		"file mark first":  {&model.Tape{Items: [][]byte{nil, {1, 2}}}, "no label", true},
		"broken at 30":     {&model.Tape{BadWrite: 30}, "input/output error", false},
		"short":            {&model.Tape{Capacity: 5_000_000}, "is full, and there is no terminal", false},
		"too short at all": {&model.Tape{Capacity: 100_000}, "full before", false},
		"unreadable":       {&model.Tape{Items: [][]byte{{1}}, BadRead: 1}, "cannot see what it holds", true},
	} {
		err := write(c.tape, false)
		if err == nil || !strings.Contains(err.Error(), c.want) || tape.IsRefused(err) != c.refused {
			t.Errorf("%s: %v, refused %v", name, err, tape.IsRefused(err))
		}
	}
	f := foreign()
	if err := write(f, false); err == nil || len(f.Items) != 2 {
		t.Errorf("a foreign tape was written to: %v", err)
	}
	if err := write(f, true); err != nil {
		t.Errorf("with leave: %v", err)
	}
	good := &model.Tape{}
	if err := write(good, false); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		tape *model.Tape
		want string
	}{
		"blank":         {&model.Tape{}, "blank"},
		"foreign":       {foreign(), "no label of mkcdrec"},
		"broken at 40":  {&model.Tape{Items: good.Items, BadRead: 40}, "input/output error"},
		"cut off":       {&model.Tape{Items: good.Items[:50]}, "does not hold the end"},
		"damaged block": {&model.Tape{Items: damage(good.Items, 20)}, "not what was written"},
	} {
		if err := read(t, []tape.Drive{&model.Drive{Tape: c.tape}}, nil, archives); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("reading, %s: %v; want %q", name, err, c.want)
		}
	}
	// Two reels of two runs.
	mixed := []tape.Drive{&model.Drive{Tape: &model.Tape{Capacity: 5_000_000}}, &model.Drive{Tape: &model.Tape{}}}
	if err := writeSet(t, &tape.Writer{Drives: mixed}, archives); err != nil {
		t.Fatal(err)
	}
	other := []tape.Drive{&model.Drive{Tape: &model.Tape{Capacity: 5_000_000}}, &model.Drive{Tape: &model.Tape{}}}
	if err := writeSet(t, &tape.Writer{Drives: other}, archives); err != nil {
		t.Fatal(err)
	}
	if err := read(t, []tape.Drive{mixed[0], other[1]}, nil, archives); err == nil || !strings.Contains(err.Error(), "another set") {
		t.Errorf("reels of two runs: %v", err)
	}
}

// A tape is blank only if the drive says that nothing was written: a read error,
// at its beginning or behind a file mark, may hide somebody's backup.
func TestBlank(t *testing.T) {
	mark := []byte(nil)
	for name, c := range map[string]struct {
		tape *model.Tape
		ok   bool
	}{
		"nothing":                 {&model.Tape{}, true},
		"a mark, nothing":         {&model.Tape{Items: [][]byte{mark}}, true},
		"two marks":               {&model.Tape{Items: [][]byte{mark, mark}}, true},
		"an error":                {&model.Tape{Items: [][]byte{[]byte("x")}, BadRead: 1}, false},
		"a mark, an error":        {&model.Tape{Items: [][]byte{mark, []byte("x")}, BadRead: 2}, false},
		"two marks, an error":     {&model.Tape{Items: [][]byte{mark, mark, []byte("x")}, BadRead: 3}, false},
		"marks, something behind": {&model.Tape{Items: [][]byte{mark, mark, []byte("x")}}, false},
		"nothing but marks":       {&model.Tape{Items: make([][]byte, 20)}, false},
	} {
		_, err := tape.Check(&model.Drive{Tape: c.tape}, false)
		if (err == nil) != c.ok || !c.ok && !tape.IsRefused(err) {
			t.Errorf("%s: %v; want it taken: %v", name, err, c.ok)
		}
		if _, err := tape.Check(&model.Drive{Tape: c.tape}, true); err != nil {
			t.Errorf("%s with --overwrite: %v", name, err)
		}
	}
}

func damage(items [][]byte, at int) [][]byte {
	out := append([][]byte{}, items...)
	out[at] = bytes.Clone(out[at])
	out[at][100] ^= 1
	return out
}

func TestPack(t *testing.T) {
	one, two := filepath.Join(t.TempDir(), "1"), filepath.Join(t.TempDir(), "2")
	if err := errors.Join(os.WriteFile(one, []byte("1"), 0o600), os.WriteFile(two, []byte("2"), 0o600)); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tape.Pack(&b, map[string]string{"x/y": one, "a": two}); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("sh", "-c", "zstd -dcq | tar -tv")
	c.Stdin = &b
	if out, err := c.CombinedOutput(); err != nil || strings.Count(string(out), " 1 ") != 2 || !strings.Contains(string(out), " a\n") || !strings.HasSuffix(string(out), " x/y\n") {
		t.Errorf("%q, %v", out, err)
	}
	if err := tape.Pack(io.Discard, map[string]string{"x": one + "missing"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is missing: %v", err)
	}
}
