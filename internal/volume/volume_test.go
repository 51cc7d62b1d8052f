package volume

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
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
)

var (
	ctx  = context.Background()
	made = time.Unix(1700000000, 0).UTC()
	one  = Header{ID: ID{1, 2, 3}, Name: "sda1._.tar.zst", Created: made, Number: 1}
)

// memory keeps volumes.
type memory struct {
	room   int64
	vols   [][]byte
	ends   []End
	fullAt int   // chunk after which Full is true; 0 for never
	hardAt int64 // byte at which a volume ends by ErrFull; 0 for never
	closed error
}

type memoryMedium struct {
	m      *memory
	b      []byte
	writes int
}

func (m *memory) next(context.Context, Header) (Medium, error) { return &memoryMedium{m: m}, nil }

func (m *memoryMedium) Write(p []byte) (int, error) {
	if m.m.hardAt > 0 && int64(len(m.b)+len(p)) > m.m.hardAt {
		n := m.m.hardAt - int64(len(m.b))
		m.b = append(m.b, p[:n]...)
		return int(n), ErrFull
	}
	m.b = append(m.b, p...)
	m.writes++
	return len(p), nil
}
func (m *memoryMedium) Room() int64 { return m.m.room }
func (m *memoryMedium) Full() bool  { return m.m.fullAt > 0 && m.writes >= m.m.fullAt }
func (m *memoryMedium) Close(e End) error {
	m.m.vols = append(m.m.vols, m.b)
	m.m.ends = append(m.m.ends, e)
	return m.m.closed
}

func cut(t *testing.T, m *memory, stream []byte) {
	t.Helper()
	c := &Cutter{Header: one, Next: m.next}
	if _, err := c.Cut(ctx, bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
}

type tapeFile struct{ io.Reader }

func (tapeFile) Close() error  { return nil }
func (tapeFile) TapeEnd() bool { return true }

func paste(vols [][]byte, tape bool) ([]byte, error) {
	var out []byte
	p := &Paster{Next: func(_ context.Context, w Want, problem error) (io.ReadCloser, error) {
		if problem != nil {
			return nil, problem
		}
		if w.Number > len(vols) {
			return nil, fmt.Errorf("no %v", w)
		}
		if tape {
			return tapeFile{bytes.NewReader(vols[w.Number-1])}, nil
		}
		return io.NopCloser(bytes.NewReader(vols[w.Number-1])), nil
	}}
	err := p.Chunks(ctx, func(b []byte) error { out = append(out, b...); return nil })
	return out, err
}

// frames makes a zstd stream of n frames, and what it decodes to.
func frames(t testing.TB, n int) (packed, plain []byte) {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range n {
		b := make([]byte, 20+r.IntN(60))
		for j := range b {
			b[j] = byte(r.IntN(256))
		}
		packed = z.EncodeAll(b, packed)
		plain = append(plain, b...)
		if i%5 == 4 {
			packed = append(packed, 0x5c, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'x', 'y', 'z')
		}
	}
	return packed, plain
}

func decode(t *testing.T, b []byte) []byte {
	t.Helper()
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	out, err := z.DecodeAll(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Every size of volume that can hold the stream's largest frame: the stream
// is restored, no volume is too large, and all of them decode together.
func TestEverySplit(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: not with -short")
	}
	packed, plain := frames(t, 30)
	for _, c := range []struct {
		name          string
		stream, plain []byte
	}{{"zstd", packed, plain}, {"stored", plain, plain}, {"nothing", nil, nil}, {"one byte", []byte{7}, []byte{7}}} {
		for room := int64(420); room < int64(len(c.stream))+700; room++ {
			m := &memory{room: room}
			cut(t, m, c.stream)
			var all []byte
			for i, v := range m.vols {
				if int64(len(v)) > room {
					t.Fatalf("%s, room %d: volume %d has %d bytes", c.name, room, i+1, len(v))
				}
				if last := i == len(m.vols)-1; m.ends[i].Last != last {
					t.Fatalf("%s, room %d: volume %d of %d: last is %v", c.name, room, i+1, len(m.vols), m.ends[i].Last)
				}
				e, err := ReadEnd(bytes.NewReader(v), int64(len(v)))
				if err != nil || e.Digest != m.ends[i].Digest || len(e.Chunks) != len(m.ends[i].Chunks) {
					t.Fatalf("%s, room %d: ReadEnd = %v, %v", c.name, room, e, err)
				}
				decode(t, v) // alone
				all = append(all, v...)
			}
			if got := decode(t, all); !bytes.Equal(got, c.plain) {
				t.Fatalf("%s, room %d: by hand %d bytes; want %d", c.name, room, len(got), len(c.plain))
			}
			if got, err := paste(m.vols, false); err != nil || !bytes.Equal(got, c.stream) {
				t.Fatalf("%s, room %d: pasted %d bytes, %v; want %d", c.name, room, len(got), err, len(c.stream))
			}
		}
	}
}

// One volume that the stream fills to the last byte is one volume; a byte less
// makes two.
func TestExactlyOne(t *testing.T) {
	for _, n := range []int{1, 1000, storedBlock, storedBlock + 1, 300_000} {
		stream := bytes.Repeat([]byte{7}, n)
		m := &memory{room: Unlimited}
		cut(t, m, stream)
		size := int64(len(m.vols[0]))
		for room, want := range map[int64]int{size: 1, size + 1: 1} {
			m := &memory{room: room}
			cut(t, m, stream)
			if len(m.vols) != want {
				t.Errorf("%d bytes, room %d: %d volumes; want %d", n, room, len(m.vols), want)
			}
		}
	}
}

// Media that only know when they are full: by a warning, and by an error in
// the middle of whatever is written.
func TestTapeEnds(t *testing.T) {
	big := make([]byte, 9<<20)
	rng := rand.New(rand.NewPCG(3, 3))
	for i := range big {
		big[i] = byte(rng.Uint32())
	}
	m := &memory{room: Unlimited, fullAt: 100}
	cut(t, m, big)
	if got, err := paste(m.vols, true); err != nil || !bytes.Equal(got, big) || len(m.vols) < 2 {
		t.Errorf("early warning: %d volumes, %v", len(m.vols), err)
	}
	for _, at := range []int64{ChunkSize + 1000, ChunkSize + 100_000, 5 << 20, 6<<20 + 17} {
		m := &memory{room: Unlimited, hardAt: at}
		cut(t, m, big)
		if got, err := paste(m.vols, true); err != nil || !bytes.Equal(got, big) || len(m.vols) < 2 {
			t.Errorf("hard end at %d: %d volumes, %v, %d bytes", at, len(m.vols), err, len(got))
		}
		if _, err := paste(m.vols, false); err == nil {
			t.Errorf("hard end at %d: a file that is cut off is taken", at)
		}
	}
	// The end comes in the frame that says that all is done.
	whole := &memory{room: Unlimited}
	small := big[:1000]
	cut(t, whole, small)
	m = &memory{room: Unlimited, hardAt: int64(len(whole.vols[0]) - 3)}
	cut(t, m, small)
	if got, err := paste(m.vols, true); err != nil || !bytes.Equal(got, small) || len(m.vols) != 2 {
		t.Errorf("end in the last frame: %d volumes, %v", len(m.vols), err)
	}
}

// What zstd(1) and cat(1) make of volumes.
func TestByHand(t *testing.T) {
	packed, plain := frames(t, 200)
	for name, stream := range map[string][]byte{"zstd": packed, "stored": plain} {
		m := &memory{room: 3000}
		cut(t, m, stream)
		dir := t.TempDir()
		var files []string
		for i, v := range m.vols {
			f := filepath.Join(dir, fmt.Sprintf("x.%03d", i+1))
			if err := os.WriteFile(f, v, 0o600); err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
			if out, err := exec.Command("zstd", "-t", "-q", f).CombinedOutput(); err != nil {
				t.Errorf("%s: volume %d alone: %v %s", name, i+1, err, out)
			}
		}
		cmd := exec.Command("sh", append([]string{"-c", `cat "$@" | zstd -dcq`, "sh"}, files...)...)
		if out, err := cmd.Output(); err != nil || !bytes.Equal(out, plain) {
			t.Errorf("%s: by hand %d bytes, %v; want %d", name, len(out), err, len(plain))
		}
	}
}

// offer gives media one after the other, and collects what was said of them.
type offer struct {
	media [][]byte
	said  []string
}

func (o *offer) next(_ context.Context, _ Want, problem error) (io.ReadCloser, error) {
	if problem != nil {
		o.said = append(o.said, problem.Error())
	}
	if len(o.media) == 0 {
		return nil, io.EOF
	}
	b := o.media[0]
	o.media = o.media[1:]
	return io.NopCloser(bytes.NewReader(b)), nil
}

func TestWrongVolumes(t *testing.T) {
	stream, _ := frames(t, 100)
	m := &memory{room: 2000}
	cut(t, m, stream)
	run := func(change func(*Header)) [][]byte {
		h := one
		change(&h)
		o := &memory{room: 2000}
		if _, err := (&Cutter{Header: h, Next: o.next}).Cut(ctx, bytes.NewReader(stream)); err != nil {
			t.Fatal(err)
		}
		return o.vols
	}
	other := run(func(h *Header) { h.Name = "sdb1._home.tar.zst" })
	rerun := run(func(h *Header) { h.ID = ID{9}; h.Created = made.Add(time.Hour) })
	branch := &memory{room: 2100} // the same run cut otherwise
	cut(t, branch, stream)
	flip := func(b []byte, at int) []byte { b = bytes.Clone(b); b[at] ^= 4; return b }
	v := m.vols
	media := [][]byte{[]byte("no volume, and long enough to be one of those that are, by its length"), nil, v[1], v[0], other[1], rerun[1], v[0], v[2], branch.vols[1], flip(v[1], 300), v[1][:len(v[1])/2], flip(v[1], 3), v[1]}
	media = append(media, v[2:]...)
	o := &offer{media: media}
	var got []byte
	p := &Paster{Next: o.next}
	if err := p.Chunks(ctx, func(b []byte) error { got = append(got, b...); return nil }); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, stream) {
		t.Errorf("%d bytes came back; want %d", len(got), len(stream))
	}
	for i, want := range []string{"not a volume of mkcdrec", "not a volume of mkcdrec", "this is volume 2", "another stream", "another run", "this is volume 1", "this is volume 3", "does not follow", "not what was written", "cut", "not a volume of mkcdrec"} {
		if i >= len(o.said) || !strings.Contains(o.said[i], want) {
			t.Errorf("%d: %q; want %q", i, append(o.said, make([]string, 20)...)[i], want)
		}
	}
	if len(o.said) != 11 {
		t.Errorf("%d complaints: %q", len(o.said), o.said)
	}
	// The first one of a series that is known by name.
	o = &offer{media: [][]byte{other[0], rerun[0], v[0]}}
	p = &Paster{Next: o.next, Name: one.Name, ID: one.ID}
	if err := p.Chunks(ctx, func([]byte) error { return nil }); !errors.Is(err, io.EOF) || len(o.said) != 2 {
		t.Errorf("%v, %q", err, o.said)
	}
}

// A byte wrong anywhere never passes.
func TestEveryByte(t *testing.T) {
	stream, _ := frames(t, 20)
	m := &memory{room: 900}
	cut(t, m, stream)
	for i := range m.vols {
		for at := range m.vols[i] {
			vols := append([][]byte{}, m.vols...)
			vols[i] = bytes.Clone(vols[i])
			vols[i][at] ^= 0x10
			if got, err := paste(vols, false); err == nil {
				t.Fatalf("volume %d, byte %d: nothing is wrong, %d bytes, equal %v", i+1, at, len(got), bytes.Equal(got, stream))
			} else if !bytes.HasPrefix(stream, got) {
				t.Fatalf("volume %d, byte %d: bytes that were not written came out before the error", i+1, at)
			}
		}
		for n := range m.vols[i] {
			vols := append([][]byte{}, m.vols...)
			vols[i] = vols[i][:n]
			if _, err := paste(vols, false); err == nil {
				t.Fatalf("volume %d cut to %d bytes: nothing is wrong", i+1, n)
			}
		}
	}
}

func TestResume(t *testing.T) {
	stream, _ := frames(t, 100)
	whole := &memory{room: 2000}
	cut(t, whole, stream)
	// The program after volume 2 fails.
	m := &memory{room: 2000}
	var chunks []Chunk
	stop := errors.New("burner on fire")
	c := &Cutter{Header: one, Next: m.next, Wrote: func(k Chunk) error {
		chunks = append(chunks, k)
		if len(m.vols) == 1 {
			m.closed = stop
		}
		return nil
	}}
	h, err := c.Cut(ctx, bytes.NewReader(stream))
	if !errors.Is(err, stop) || h.Number != 3 {
		t.Fatalf("%v, %+v", err, h)
	}
	m.closed = nil
	c = &Cutter{Header: h, Next: m.next, Skip: chunks}
	if _, err := c.Cut(ctx, bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if got, err := paste(m.vols, false); err != nil || !bytes.Equal(got, stream) || len(m.vols) != len(whole.vols) {
		t.Errorf("after taking it up again: %v, %d bytes, %d volumes", err, len(got), len(m.vols))
	}
	other := bytes.Clone(stream)
	other[10] ^= 1
	if _, err := (&Cutter{Header: h, Next: m.next, Skip: chunks}).Cut(ctx, bytes.NewReader(other)); err == nil || !strings.Contains(err.Error(), "not the one") {
		t.Errorf("another stream: %v", err)
	}
}

func TestBadStreams(t *testing.T) {
	packed, _ := frames(t, 3)
	for name, c := range map[string]struct {
		stream []byte
		want   string
	}{
		"cut off":  {packed[:len(packed)-5], "ends inside"},
		"trailing": {append(bytes.Clone(packed), "tail"...), "not a zstd frame"},
		"large":    {append(bytes.Clone(packed), 0x5c, 0x2a, 0x4d, 0x18, 0, 0, 0xff, 0xff, 1, 2), "larger than 4290772991 bytes"},
	} {
		m := &memory{room: Unlimited}
		if _, err := (&Cutter{Header: one, Next: m.next}).Cut(ctx, bytes.NewReader(c.stream)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if len(m.vols) != 0 {
			t.Errorf("%s: a volume was closed", name)
		}
	}
	m := &memory{room: 200}
	if _, err := (&Cutter{Header: one, Next: m.next}).Cut(ctx, bytes.NewReader(packed)); err == nil || !strings.Contains(err.Error(), "too small") && !strings.Contains(err.Error(), "can't hold") {
		t.Errorf("room 200: %v", err)
	}
	broken := iotest{err: errors.New("disk on fire")}
	if _, err := (&Cutter{Header: one, Next: m.next}).Cut(ctx, broken); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("read error: %v", err)
	}
}

// TestLargestFrames: a frame of more than 256 MiB, as the table of contents of an
// archive of many million files is, goes through a volume.
func TestLargestFrames(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: not with -short")
	}
	packed, _ := frames(t, 3)
	const n = 257 << 20
	head := binary.LittleEndian.AppendUint32([]byte{0x5c, 0x2a, 0x4d, 0x18}, n)
	stream := func() io.Reader {
		return io.MultiReader(bytes.NewReader(packed), bytes.NewReader(head), io.LimitReader(zeroes{}, n), bytes.NewReader(packed))
	}
	want := sha256.New()
	if _, err := io.Copy(want, stream()); err != nil {
		t.Fatal(err)
	}
	m := &memory{room: Unlimited}
	if _, err := (&Cutter{Header: one, Next: m.next}).Cut(ctx, stream()); err != nil || len(m.vols) != 1 {
		t.Fatalf("%d volumes, %v", len(m.vols), err)
	}
	got := sha256.New()
	p := &Paster{Next: func(context.Context, Want, error) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(m.vols[0])), nil
	}}
	if err := p.Chunks(ctx, func(b []byte) error { got.Write(b); return nil }); err != nil || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("read back: %v, or other bytes", err)
	}
}

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { clear(b); return len(b), nil }

type iotest struct{ err error }

func (i iotest) Read([]byte) (int, error) { return 0, i.err }

func FuzzPaste(f *testing.F) {
	stream, _ := frames(f, 10)
	m := &memory{room: 700}
	if _, err := (&Cutter{Header: one, Next: m.next}).Cut(ctx, bytes.NewReader(stream)); err != nil {
		f.Fatal(err)
	}
	for _, v := range m.vols {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ReadEnd(bytes.NewReader(b), int64(len(b))); err != nil {
			_ = err
		}
		got, err := paste([][]byte{b}, false)
		if err == nil && len(got) > len(b) {
			t.Errorf("%d bytes out of %d", len(got), len(b))
		}
	})
}

func FuzzFrames(f *testing.F) {
	stream, _ := frames(f, 10)
	f.Add(stream)
	f.Fuzz(func(t *testing.T, b []byte) {
		fr := &frameReader{r: bufio.NewReader(bytes.NewReader(b))}
		var out []byte
		var err error
		for err == nil {
			out, err = fr.next(out)
		}
		if !bytes.HasPrefix(b, out) {
			t.Error("frames are not what was read")
		}
	})
}
