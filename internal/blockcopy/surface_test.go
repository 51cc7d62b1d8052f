package blockcopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// worn is a device of 512-byte sectors in memory or a file, some of which can't be read.
type worn struct {
	f    *os.File
	size int64
	bad  map[int64]error
	// alias is the size that it really has; behind it the first bytes are found again.
	alias int64
}

func (w *worn) Size() int64   { return w.size }
func (w *worn) Sector() int64 { return 512 }
func (w *worn) ReadSectors(b []byte, off int64) error {
	for s := off / 512; s < (off+int64(len(b)))/512; s++ {
		if err := w.bad[s]; err != nil {
			return err
		}
	}
	if w.alias > 0 && off >= w.alias {
		off -= w.alias
	}
	_, err := w.f.ReadAt(b, off)
	return err
}

func newWorn(t *testing.T, size int64, bad ...int64) *worn {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	w := &worn{f: f, size: size, bad: map[int64]error{}}
	for _, s := range bad {
		w.bad[s] = errors.New("input/output error")
	}
	return w
}

// TestReadSurface: the sectors that can't be read are listed as ranges, and the rest is read.
func TestReadSurface(t *testing.T) {
	for _, c := range []struct {
		size int64
		bad  []int64
		want []Extent
	}{
		{3<<20 + 512, nil, nil},
		{3<<20 + 512, []int64{0, 2047, 2048, 2049, 6144}, []Extent{{0, 1}, {2047, 3}, {6144, 1}}},
		{0, nil, nil},
	} {
		got, err := ReadSurface(t.Context(), newWorn(t, c.size, c.bad...), nil, progress.None{})
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("ReadSurface(%d bytes, bad %v) = %v, %v; want %v", c.size, c.bad, got, err, c.want)
		}
	}
	var many []int64
	for s := range int64(500) {
		many = append(many, 2*s)
	}
	if got, err := ReadSurface(t.Context(), newWorn(t, 8<<20, many...), nil, progress.None{}); err != nil || len(got) != mostBad {
		t.Errorf("ReadSurface(many) = %d ranges, %v; want %d", len(got), err, mostBad)
	}
	w := newWorn(t, 1<<20)
	w.bad[7] = fmt.Errorf("%w: really", ErrVanished)
	if _, err := ReadSurface(t.Context(), w, nil, progress.None{}); !errors.Is(err, ErrVanished) {
		t.Errorf("ReadSurface(pulled out) = %v; want %v", err, ErrVanished)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ReadSurface(ctx, newWorn(t, 1<<20), nil, progress.None{}); !errors.Is(err, context.Canceled) {
		t.Errorf("ReadSurface(cancelled) = %v", err)
	}
}

// TestWriteSurface: what is read back differs where a sector is bad, or where the device has
// its first bytes again: it is smaller than it reports.
func TestWriteSurface(t *testing.T) {
	none := func() error { return nil }
	w := newWorn(t, 2<<20+4096, 100)
	if got, err := WriteSurface(t.Context(), w, w.f, 7, none, progress.None{}); err != nil || !slices.Equal(got, []Extent{{100, 1}}) {
		t.Errorf("WriteSurface = %v, %v; want sector 100", got, err)
	}
	b := make([]byte, 4096)
	if _, err := w.f.ReadAt(b, 2<<20); err != nil || bytes.Equal(b[:512], b[512:1024]) || !bytes.Equal(b[:8], b[504:512]) {
		t.Errorf("what was written: %v, % x", err, b[:16])
	}
	w = newWorn(t, 4<<20)
	w.alias = 2 << 20
	if got, err := WriteSurface(t.Context(), w, w.f, 7, none, progress.None{}); err != nil || !slices.Equal(got, []Extent{{4096, 4096}}) {
		t.Errorf("WriteSurface(half as large) = %v, %v; want the second half", got, err)
	}
	w = newWorn(t, 4<<20)
	if got, err := WriteSurface(t.Context(), w, w.f, 7, func() error { _, err := w.f.WriteAt([]byte("changed"), 1<<20); return err }, progress.None{}); err != nil || !slices.Equal(got, []Extent{{2048, 1}}) {
		t.Errorf("WriteSurface(changed) = %v, %v; want sector 2048", got, err)
	}
	if got, err := WriteSurface(t.Context(), w, w.f, 7, none, progress.None{}); err != nil || got != nil {
		t.Errorf("WriteSurface(good) = %v, %v", got, err)
	}
}
