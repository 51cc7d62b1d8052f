package blockcopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// inMemory is a file in memory.
type inMemory struct {
	*bytes.Reader
	closed *int
}

func (m inMemory) Close() error { *m.closed++; return nil }

// chain is the images of a device that changes.
type chain struct {
	t      *testing.T
	dev    []byte
	m      *Map
	base   *Base
	images [][]byte
	sums   []*Summary
	closed int
}

// newChain begins with a device of 40 MiB and some, of which the first 30 MiB are in use.
func newChain(t *testing.T) *chain {
	c := &chain{t: t, dev: make([]byte, 40<<20+12345)}
	c.m = &Map{Size: int64(len(c.dev)), How: "a test", Used: []Extent{{0, 30 << 20}}}
	r := rand.New(rand.NewPCG(3, 4))
	for i := range c.dev[:30<<20] {
		c.dev[i] = byte(r.Uint32())
	}
	c.next()
	return c
}

func source(n int) Source {
	return Source{Set: fmt.Sprint(n), Dir: fmt.Sprintf("set-%d", n), File: "x.img.zst"}
}

// next makes the next image.
func (c *chain) next() *Summary {
	c.t.Helper()
	var b bytes.Buffer
	s, err := WriteIncrement(c.t.Context(), &b, bytes.NewReader(c.dev), c.m, c.base, progress.None{})
	if err != nil {
		c.t.Fatal(err)
	}
	if int64(b.Len()) != s.Packed {
		c.t.Fatalf("the image has %d bytes; Packed = %d", b.Len(), s.Packed)
	}
	if c.base, err = ReadBase(bytes.NewReader(s.Index), source(len(c.images))); err != nil {
		c.t.Fatal(err)
	}
	c.images, c.sums = append(c.images, b.Bytes()), append(c.sums, s)
	return s
}

func (c *chain) file(s Source) (File, error) {
	for n, b := range c.images {
		if s.Dir == source(n).Dir && b != nil {
			return inMemory{bytes.NewReader(b), &c.closed}, nil
		}
	}
	return nil, os.ErrNotExist
}

// restored is what an image gives, on a device that is full of others' bytes.
func (c *chain) restored(n int) ([]byte, error) {
	i, err := Open(bytes.NewReader(c.images[n]), int64(len(c.images[n])), "image")
	if err != nil {
		return nil, err
	}
	if err := i.OpenEarlier(c.file); err != nil {
		return nil, err
	}
	need := len(i.Sources())
	c.closed = 0
	dst := open(c.t, file(c.t, int64(len(c.dev))))
	if err := errors.Join(i.Verify(c.t.Context(), progress.None{}), i.Restore(c.t.Context(), dst, progress.None{}), i.Close()); err != nil {
		return nil, err
	}
	if c.closed != need {
		c.t.Errorf("Close closed %d of %d earlier images", c.closed, need)
	}
	b := make([]byte, len(c.dev))
	_, err = dst.ReadAt(b, 0)
	return b, err
}

// TestIncrement: each image of a chain gives the device as it was, and has only the frames that changed.
func TestIncrement(t *testing.T) {
	c := newChain(t)
	var was [][]byte
	keep := func() { was = append(was, bytes.Clone(c.dev)) }
	keep()
	if s := c.sums[0]; s.Sources != nil || s.Runs != nil {
		t.Errorf("the first image has the sources %v and the runs %v", s.Sources, s.Runs)
	}
	for _, step := range []struct {
		what string
		do   func()
		runs string
	}{
		{"nothing changes", func() {}, "[]"},
		{"one byte", func() { c.dev[5<<20]++ }, "[[1 1]]"},
		{"another, and the last frame is used", func() {
			c.dev[9<<20]++
			c.dev[13<<20]++
			c.m.Used = append(c.m.Used, Extent{40 << 20, 12345})
			copy(c.dev[40<<20:], "the end")
		}, "[[2 2] [10 1]]"},
		{"a byte goes back: only that frame again", func() { c.dev[5<<20]-- }, "[[1 1]]"},
		{"less is used", func() { c.m.Used = []Extent{{4 << 20, 8 << 20}}; clear(c.dev[:4<<20]); clear(c.dev[12<<20:]) }, "[]"},
	} {
		step.do()
		s := c.next()
		keep()
		if got := fmt.Sprint(s.Runs); got != step.runs {
			t.Errorf("%s: runs %s; want %s", step.what, got, step.runs)
		}
		if step.runs == "[]" && s.Packed > 100_000 {
			t.Errorf("%s: the image has %d bytes", step.what, s.Packed)
		}
	}
	for n := range c.images {
		if got, err := c.restored(n); err != nil || !bytes.Equal(got, was[n]) {
			t.Errorf("image %d: restored is the same: %v, %v", n, bytes.Equal(got, was[n]), err)
		}
	}
	c.byHand(was)
}

// byHand restores the third increment with zstd and dd, as RESTORE.txt has it.
func (c *chain) byHand(was [][]byte) {
	c.t.Helper()
	if _, err := exec.LookPath("zstd"); err != nil {
		c.t.Skip("zstd is not installed; make test installs it")
	}
	dir := c.t.TempDir()
	for n := range 4 {
		var list strings.Builder
		for _, r := range c.sums[n].Runs {
			fmt.Fprintln(&list, r[0], r[1])
		}
		if err := errors.Join(os.WriteFile(filepath.Join(dir, fmt.Sprint(n)), c.images[n], 0o600), os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.frames", n)), []byte(list.String()), 0o600)); err != nil {
			c.t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", "-ec", `zstd -dc 0 | dd of=dev bs=4M iflag=fullblock
for i in 1 2 3; do
  zstd -dc $i | (exec 3<&0; while read -r at n; do dd of=dev bs=4M seek=$at count=$n iflag=fullblock conv=notrunc <&3; done < $i.frames)
done`)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("%v\n%s", err, out)
	}
	if got, err := os.ReadFile(dir + "/dev"); err != nil || !bytes.Equal(got, was[3]) {
		c.t.Errorf("by hand: the same is %v, %v", bytes.Equal(got, was[3]), err)
	}
}

// TestIncrementBase: what can't serve as a base makes a full image.
func TestIncrementBase(t *testing.T) {
	c := newChain(t)
	c.m.Size--
	c.dev = c.dev[:len(c.dev)-1]
	if s := c.next(); s.Sources != nil {
		t.Errorf("an image of a device of another size has the sources %v", s.Sources)
	}
	ix := c.sums[1].Index
	for what, b := range map[string][]byte{"empty": nil, "cut off": ix[:len(ix)/2], "of zero bytes": make([]byte, len(ix)), "text": []byte("not an index, but long enough to be one")} {
		if _, err := ReadBase(bytes.NewReader(b), source(0)); err == nil {
			t.Errorf("ReadBase of an index that is %s is accepted", what)
		}
	}
}

// TestIncrementLost: a chain that lacks something is refused, with the name of what it lacks, before anything is written.
func TestIncrementLost(t *testing.T) {
	for _, x := range []struct {
		what, want string
		do         func(c *chain)
	}{
		{"missing", "set-0: file does not exist", func(c *chain) { c.images[0] = nil }},
		{"cut off", "set-0: it has no seek table", func(c *chain) { c.images[0] = c.images[0][:1<<20] }},
		{"another image", "set-0: it is damaged, or another image", func(c *chain) { c.images[0] = newChain(t).otherImage() }},
		{"another increment", "set-1: it is damaged, or another image", func(c *chain) { c.images[1] = c.images[2] }},
	} {
		c := newChain(t)
		for i := range 3 {
			c.dev[int64(i)*5<<20]++
			c.next()
		}
		x.do(c)
		if _, err := c.restored(3); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v; want %s", x.what, err, x.want)
		}
	}
	c := newChain(t)
	c.dev[0]++
	c.next()
	c.images[0] = bytes.Clone(c.images[0])
	c.images[0][len(c.images[0])/2] ^= 1
	if _, err := c.restored(1); err == nil || !strings.Contains(err.Error(), "digest is wrong") {
		t.Errorf("a frame of the earlier image is damaged: %v", err)
	}
	i, err := Open(bytes.NewReader(c.images[1]), int64(len(c.images[1])), "image")
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Restore(context.Background(), nil, progress.None{}); err == nil || !strings.Contains(err.Error(), "needs earlier images") {
		t.Errorf("Restore without the earlier images = %v", err)
	}
}

// otherImage is an image of the same size.
func (c *chain) otherImage() []byte {
	c.dev[1]++
	c.base = nil
	c.next()
	return c.images[1]
}

// FuzzReadBase: no index ends the program, or refers to places elsewhere.
func FuzzReadBase(f *testing.F) {
	dev := make([]byte, 5<<20)
	m := &Map{Size: int64(len(dev)), Used: []Extent{{0, 100}}}
	s, err := Write(context.Background(), io.Discard, bytes.NewReader(dev), m, progress.None{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.Index)
	base, err := ReadBase(bytes.NewReader(s.Index), source(0))
	if err != nil {
		f.Fatal(err)
	}
	if s, err = WriteIncrement(context.Background(), io.Discard, bytes.NewReader(dev), m, base, progress.None{}); err != nil {
		f.Fatal(err)
	}
	f.Add(s.Index)
	f.Fuzz(func(t *testing.T, b []byte) {
		base, err := ReadBase(bytes.NewReader(b), source(1))
		if err != nil {
			return
		}
		for _, s := range base.sources() {
			if strings.ContainsRune(s.Dir+s.File, '/') {
				t.Errorf("it refers to %q in %q", s.File, s.Dir)
			}
		}
	})
}
