package volume

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestLimits: a header that the reader would refuse is refused by the writer, and
// one at the limit is read.
func TestLimits(t *testing.T) {
	stream, _ := frames(t, 3)
	for _, c := range []struct {
		h  Header
		ok bool
	}{
		{Header{Name: strings.Repeat("n", MaxName), Created: made, Number: 1}, true},
		{Header{Name: strings.Repeat("n", MaxName+1), Created: made, Number: 1}, false},
		{Header{Created: time.Unix(0, 0), Number: 1}, true},
		{Header{Created: time.Unix(-1, 0), Number: 1}, false},
		{Header{Created: time.Unix(maxCreated, 0), Number: 1}, true},
		{Header{Created: time.Unix(maxCreated+1, 0), Number: 1}, false},
		{Header{Created: made, Number: 0}, false},
		{Header{Created: made, Number: 1 << 32}, false},
	} {
		m := &memory{room: Unlimited}
		_, err := (&Cutter{Header: c.h, Next: m.next}).Cut(ctx, bytes.NewReader(stream))
		if (err == nil) != c.ok {
			t.Errorf("%v: %v", c.h, err)
		}
		if err != nil {
			continue
		}
		if got, err := paste(m.vols, false); err != nil || !bytes.Equal(got, stream) {
			t.Errorf("%v: written, but not read: %v", c.h, err)
		}
	}
}

// TestMaxChunks: a volume has no more chunks than a reader takes; the stream goes
// into another one.
func TestMaxChunks(t *testing.T) {
	stream := bytes.Repeat([]byte("not zstd"), 3*ChunkSize/8)
	m := &memory{room: Unlimited}
	if _, err := (&Cutter{Header: one, Next: m.next, chunks: 2}).Cut(ctx, bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if len(m.vols) != 2 || len(m.ends[0].Chunks) != 2 {
		t.Errorf("%d volumes", len(m.vols))
	}
	if got, err := paste(m.vols, false); err != nil || !bytes.Equal(got, stream) {
		t.Errorf("pasted: %v", err)
	}
}

// holes reads as zero bytes with text at its end.
type holes struct {
	size int64
	tail []byte
}

func (h holes) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if at := h.size - int64(len(h.tail)); off+int64(len(p)) > at {
		copy(p[max(0, at-off):], h.tail[max(0, off-at):])
	}
	return len(p), nil
}

// TestHostileEnd: the length in the last bytes of a file does not decide how much
// memory is taken.
func TestHostileEnd(t *testing.T) {
	for _, n := range []uint32{1 << 31, 1<<32 - 1, uint32(endLen(MaxChunks)) + 8} {
		tail := append(binary.LittleEndian.AppendUint32(nil, n), tagEnd...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ReadEnd(holes{1 << 40, tail}, 1<<40)
		runtime.ReadMemStats(&after)
		if err == nil || after.TotalAlloc-before.TotalAlloc > 10<<20 {
			t.Errorf("%d bytes: %v, %d bytes of memory", n, err, after.TotalAlloc-before.TotalAlloc)
		}
	}
}

// TestNested: a stream of volumes is pasted back, byte for byte; where the reader
// could not tell them apart, the writer refuses.
func TestNested(t *testing.T) {
	stream, _ := frames(t, 40)
	inner := &memory{room: 1500}
	cut(t, inner, stream)
	all := bytes.Join(inner.vols, nil)
	for name, b := range map[string][]byte{"volumes": all, "padding first": append(Pad(100), stream...), "an end alone": (End{}).encode()} {
		for _, room := range []int64{700, 3000, Unlimited} {
			m := &memory{room: room}
			cut(t, m, b)
			if got, err := paste(m.vols, false); err != nil || !bytes.Equal(got, b) {
				t.Errorf("%s in volumes of %d: %v, %d bytes of %d", name, room, err, len(got), len(b))
			}
		}
	}
	m := &memory{room: Unlimited}
	if _, err := (&Cutter{Header: one, Next: m.next}).Cut(ctx, io.MultiReader(bytes.NewReader(stream), bytes.NewReader(all))); !errors.Is(err, ErrNested) || len(m.vols) > 0 {
		t.Errorf("volumes behind something else: %v; want ErrNested", err)
	}
}

// TestResumeName: a name that is not UTF-8 is known again.
func TestResumeName(t *testing.T) {
	dir := t.TempDir()
	stream, _ := frames(t, 100)
	fail := errors.New("burner on fire")
	for _, name := range []string{"caf\xe9\xff", "plain"} {
		f := &Files{Dir: dir, Name: name, First: 2000, Size: 2000, Done: func(_ context.Context, w Written) error {
			if w.Header.Number == 2 && fail != nil {
				return fail
			}
			return nil
		}}
		if err := f.Cut(ctx, bytes.NewReader(stream)); !errors.Is(err, fail) {
			t.Fatal(err)
		}
		f.Done = nil
		if err := f.Resume(ctx, bytes.NewReader(stream)); err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		p := &Paster{Next: (&Finder{Name: name, Places: []string{dir}}).Next}
		var out []byte
		if err := p.Chunks(ctx, func(b []byte) error { out = append(out, b...); return nil }); err != nil || !bytes.Equal(out, stream) {
			t.Errorf("%q: pasted: %v", name, err)
		}
		if _, err := os.Stat(dir + "/" + FileName(name, 2)); err != nil {
			t.Error(fmt.Errorf("%q: %w", name, err))
		}
	}
}
