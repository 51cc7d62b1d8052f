package volume

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
)

// What Fit says is what a Cutter makes, for every room; and any part of the
// stream can be read out of the volumes.
func TestFit(t *testing.T) {
	stream, _ := frames(t, 60)
	lens, err := frameLengths(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for room := int64(420); room < 4000; room += 7 {
		rest, off := lens, int64(0)
		h := one
		for len(rest) > 0 {
			n, length := Fit(one.Name, rest, room)
			if n == 0 {
				t.Fatalf("room %d: nothing fits", room)
			}
			size := int64(0)
			for _, l := range rest[:n] {
				size += l
			}
			rest = rest[n:]
			m := &memory{room: Unlimited}
			c := &Cutter{Header: h, Next: m.next, More: len(rest) > 0}
			var err error
			if h, err = c.Cut(ctx, bytes.NewReader(stream[off:off+size])); err != nil {
				t.Fatal(err)
			}
			if len(m.vols) != 1 || int64(len(m.vols[0])) != length || length > room || m.ends[0].Last != (len(rest) == 0) {
				t.Fatalf("room %d: %d volumes, the first of %d bytes; Fit says %d", room, len(m.vols), len(m.vols[0]), length)
			}
			f, err := OpenFile(bytes.NewReader(m.vols[0]), length)
			if err != nil || f.Header.Offset != off {
				t.Fatalf("room %d: OpenFile = %v, %v", room, f, err)
			}
			a := rng.Int64N(size)
			b := a + rng.Int64N(size-a+1)
			got := make([]byte, b-a)
			if k, err := f.ReadAt(got, a); err != nil || k != len(got) || !bytes.Equal(got, stream[off+a:off+b]) {
				t.Fatalf("room %d: ReadAt(%d..%d) = %d, %v", room, a, b, k, err)
			}
			off += size
		}
		if h.Offset != int64(len(stream)) {
			t.Fatalf("room %d: %d bytes of %d", room, h.Offset, len(stream))
		}
	}
	if _, err := OpenFile(bytes.NewReader([]byte("x")), 1); err == nil {
		t.Error("a volume of one byte is opened")
	}
}

// frameLengths are the lengths of a zstd stream's frames.
func frameLengths(r io.Reader) ([]int64, error) {
	f := &frameReader{r: bufio.NewReaderSize(r, 64<<10)}
	var out []int64
	for {
		b, err := f.next(nil)
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, int64(len(b)))
	}
}
