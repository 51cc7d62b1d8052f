package blockcopy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/mkcdrec/mkcdrec/internal/frames"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// An image is the device's bytes in independent zstd frames of FrameSize, with
// zero bytes where nothing is in use: zstd -dc gives the device back. After
// them come a skippable frame with the index and the seek table, as in
// archives. docs/FORMAT.md describes it.

// FrameSize is how much of the device a frame has; the last may have less.
const FrameSize = frames.Size

const imageTag = "mkcdrec-img\x00"

// Versions of an index.
const (
	versionFull      = 1
	versionIncrement = 2 // with Sources
)

// index is the description of an image, JSON packed with zstd behind imageTag.
type index struct {
	Version int    `json:"version"`
	Size    int64  `json:"size"` // of the device
	How     string `json:"how"`
	// Used are start and length of each range in use.
	Used [][2]int64 `json:"used"`
	// Sums are the SHA-256 of the packed frames, "" for those without anything
	// in use, which are identical.
	Sums []string `json:"sums"`
	// Bad are start and length of each range that could not be read; the image
	// has zero bytes there.
	Bad [][2]int64 `json:"bad,omitempty"`
	// Sources are the earlier images of an increment, the one with all frames first, and From is for
	// each frame the number of the source that has it, from 1; 0 for this image, or nothing in use.
	Sources []Source `json:"sources,omitempty"`
	From    []int    `json:"from,omitempty"`
}

// Summary is what an image has.
type Summary struct {
	Size, Used, Packed int64
	SHA256             [32]byte
	// Index is the end of the image, which a reader needs first.
	Index []byte
	// Sources are the earlier images that an increment needs, the one with all frames first, and Runs
	// the first number and the count of frames that it has itself. Both are nil for an image with all.
	Sources []Source
	Runs    [][2]int64
	// Bad are the ranges that could not be read, sorted, and ReadError is the first
	// error. The image has zero bytes there.
	Bad       []Extent
	ReadError error
}

// maxIndex is the largest index that is read, unpacked.
const maxIndex = 1 << 30

// Write writes an image of a device to w. p counts the bytes in use that
// were read. What can't be read is tried again in smaller pieces, is filled with
// zero bytes, and listed in the summary: it is not an error. Errors are those of
// writing, and of a device that is too large for an image's index.
func Write(ctx context.Context, w io.Writer, dev io.ReaderAt, m *Map, p progress.Counter) (*Summary, error) {
	return WriteIncrement(ctx, w, dev, m, nil, p)
}

// WriteIncrement writes an image without the frames that are the same in the images before it. A base of a device of
// another size is of no use, and neither is nil: the image has all frames then.
func WriteIncrement(ctx context.Context, w io.Writer, dev io.ReaderAt, m *Map, base *Base, p progress.Counter) (*Summary, error) {
	if base != nil && (base.index.Size != m.Size || len(base.index.Sources) >= maxSources) {
		base = nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	if err := m.indexable(); err != nil {
		return nil, err
	}
	u := &unreadable{}
	packed, err := m.pack(ctx, &wg, dev, u, p)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	s := &Summary{Size: m.Size, Used: m.Bytes()}
	ix := index{Version: versionFull, Size: m.Size, How: m.How, Used: [][2]int64{}}
	if base != nil {
		ix.Version, ix.Sources = versionIncrement, base.sources()
		s.Sources = ix.Sources
	}
	for _, u := range m.Used {
		ix.Used = append(ix.Used, [2]int64{u.Start, u.Length})
	}
	var all []frames.Frame
	out := io.MultiWriter(w, sum)
	put := func(b []byte) error {
		n, err := out.Write(b)
		s.Packed += int64(n)
		if err != nil {
			return fmt.Errorf("cannot write the image: %w", err)
		}
		return nil
	}
	for f := range packed {
		<-f.done
		if f.err != nil {
			return nil, f.err
		}
		if !ix.enter(f, base, s) {
			continue
		}
		all = append(all, frames.Frame{Offset: s.Packed, Packed: int64(len(f.packed)), Size: m.frameLength(f.n)})
		if err := put(f.packed); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.Bad, s.ReadError = u.extents(), u.err
	for _, b := range s.Bad {
		ix.Bad = append(ix.Bad, [2]int64{b.Start, b.Length})
	}
	text, err := ix.marshal()
	if err != nil {
		return nil, err
	}
	e, err := encoder()
	if err != nil {
		return nil, err
	}
	s.Index = frames.Index(all, e.EncodeAll(text, []byte(imageTag)))
	if err := put(s.Index); err != nil {
		return nil, err
	}
	sum.Sum(s.SHA256[:0])
	return s, nil
}

// enter puts the next frame into the index, and reports whether the image has it itself.
func (ix *index) enter(f *packedFrame, base *Base, s *Summary) bool {
	sum := ""
	if f.used {
		h := sha256.Sum256(f.packed)
		sum = hex.EncodeToString(h[:])
	}
	ix.Sums = append(ix.Sums, sum)
	if base == nil {
		return true
	}
	from := base.has(f.n, sum)
	if ix.From = append(ix.From, from); from > 0 || !f.used {
		return false
	}
	s.stored(f.n)
	return true
}

// marshal leaves the ranges that could not be read out of an index that would be too long:
// their list is in the set's log, too.
func (ix index) marshal() ([]byte, error) {
	text, err := json.Marshal(ix)
	if err != nil || len(text) <= maxIndex {
		return text, err
	}
	ix.Bad = nil
	return json.Marshal(ix)
}

// indexable makes sure that the index has at most maxIndex bytes: a map of too
// many pieces gets the gaps between them, too.
func (m *Map) indexable() error {
	const sum, pair = 67, 42 // bytes of a digest and of a range in the index
	frames := (m.Size + FrameSize - 1) / FrameSize
	room := (maxIndex-4096-frames*sum)/pair - 1
	if room < 1 {
		return fmt.Errorf("it has %d bytes; the index of an image has room for %d", m.Size, int64(maxIndex-4096)/sum*FrameSize)
	}
	for gap := int64(64 << 10); int64(len(m.Used)) > room; gap *= 2 {
		out := m.Used[:1]
		for _, e := range m.Used[1:] {
			if last := &out[len(out)-1]; e.Start-last.Start-last.Length <= gap {
				last.Length = e.Start + e.Length - last.Start
			} else {
				out = append(out, e)
			}
		}
		m.Used = out
	}
	return nil
}

func encoder() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(FrameSize))
}

// packedFrame is one frame of an image; all but n and used are there when done is
// closed.
type packedFrame struct {
	n      int64 // its number, from 0
	used   bool  // something in it is in use
	packed []byte
	err    error // once ctx is over
	done   chan struct{}
}

func (m *Map) frameLength(n int64) int64 { return min(FrameSize, m.Size-n*FrameSize) }

// pack reads and compresses a device's frames side by side, and gives them in
// order. The channel is closed after the last one, or once ctx is over; wg is
// told when everything that was started has ended.
func (m *Map) pack(ctx context.Context, wg *sync.WaitGroup, dev io.ReaderAt, u *unreadable, p progress.Counter) (<-chan *packedFrame, error) {
	workers := runtime.GOMAXPROCS(0)
	encoders := make([]*zstd.Encoder, workers)
	for i := range encoders {
		var err error
		if encoders[i], err = encoder(); err != nil {
			return nil, err
		}
	}
	empty := map[int64][]byte{} // where nothing is in use, by length
	for _, l := range []int64{FrameSize, m.Size % FrameSize} {
		empty[l] = encoders[0].EncodeAll(make([]byte, l), nil)
	}
	queue := make(chan *packedFrame, workers)
	work := make(chan *packedFrame)
	for _, e := range encoders {
		wg.Go(func() {
			buf := make([]byte, FrameSize)
			for f := range work {
				b := buf[:m.frameLength(f.n)]
				if f.err = m.read(ctx, dev, f.n*FrameSize, b, u, p); f.err == nil {
					f.packed = e.EncodeAll(b, make([]byte, 0, len(b)/2))
				}
				close(f.done)
			}
		})
	}
	wg.Go(func() {
		defer close(work)
		defer close(queue)
		for n := range (m.Size + FrameSize - 1) / FrameSize {
			f := &packedFrame{n: n, used: len(m.within(n*FrameSize, FrameSize)) > 0, done: make(chan struct{})}
			if !f.used {
				f.packed = empty[m.frameLength(n)]
				close(f.done)
			}
			select {
			case queue <- f:
			case <-ctx.Done():
				return
			}
			if !f.used {
				continue
			}
			select {
			case work <- f:
			case <-ctx.Done():
				f.err = ctx.Err()
				close(f.done)
				return
			}
		}
	})
	return queue, nil
}

// within returns the parts of what is in use that are in a range.
func (m *Map) within(start, length int64) []Extent {
	lo, hi := 0, len(m.Used)
	for lo < hi {
		if mid := (lo + hi) / 2; m.Used[mid].Start+m.Used[mid].Length <= start {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	var out []Extent
	for _, e := range m.Used[lo:] {
		if e.Start >= start+length {
			break
		}
		a, b := max(e.Start, start), min(e.Start+e.Length, start+length)
		out = append(out, Extent{a, b - a})
	}
	return out
}

// read fills b with what is in use from off on, and with zero bytes.
func (m *Map) read(ctx context.Context, dev io.ReaderAt, off int64, b []byte, u *unreadable, p progress.Counter) error {
	clear(b)
	for _, e := range m.within(off, int64(len(b))) {
		if err := u.readAt(ctx, dev, b[e.Start-off:e.Start-off+e.Length], e.Start); err != nil {
			return err
		}
		p.Add(e.Length)
	}
	return nil
}

// Image is an image opened for reading.
type Image struct {
	r       io.ReaderAt
	name    string
	frames  []frames.Frame // Packed is 0 for those that are not in this file
	index   *index
	m       *Map
	earlier []*earlier // by the number of the source, from 0; nil for one that is not needed
}

// Open reads an image's index. name is for messages.
func Open(r io.ReaderAt, size int64, name string) (*Image, error) {
	bad := func(err error) (*Image, error) { return nil, fmt.Errorf("cannot use image %s: %w", name, err) }
	payload, sizes, err := frames.ReadIndex(r, size)
	if err != nil {
		return bad(err)
	}
	i := &Image{r: r, name: name}
	if i.index, err = readIndex(payload); err != nil {
		return bad(err)
	}
	x := i.index
	if i.frames, err = x.place(sizes); err != nil {
		return bad(err)
	}
	if i.m, err = x.used(); err != nil {
		return bad(err)
	}
	for n := range i.frames {
		if (x.Sums[n] == "") != (len(i.m.within(int64(n)*FrameSize, FrameSize)) == 0) {
			return bad(fmt.Errorf("frame %d has no sum, or nothing in use", n))
		}
	}
	return i, nil
}

// readIndex reads the description of an image, and checks it.
func readIndex(payload []byte) (*index, error) {
	packed, ok := bytes.CutPrefix(payload, []byte(imageTag))
	if !ok {
		return nil, errors.New("it is not an image")
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxIndex))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	text, err := d.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("its index is damaged: %w", err)
	}
	x := &index{}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(x); err != nil {
		return nil, fmt.Errorf("its index is damaged: %w", err)
	}
	return x, x.check()
}

// check reports what is wrong with an index itself.
func (ix *index) check() error {
	if ix.Version != versionFull && ix.Version != versionIncrement {
		return fmt.Errorf("its version is %d; this program knows %d and %d", ix.Version, versionFull, versionIncrement)
	}
	if n := int64(len(ix.Sums)); ix.Size < 0 || n != (ix.Size+FrameSize-1)/FrameSize {
		return fmt.Errorf("it has %d sums for %d bytes", n, ix.Size)
	}
	if full := ix.Version == versionFull; full != (len(ix.Sources) == 0) || full && len(ix.From) > 0 || !full && len(ix.From) != len(ix.Sums) || len(ix.Sources) > maxSources {
		return fmt.Errorf("it has %d earlier images for %d of %d frames, in version %d", len(ix.Sources), len(ix.From), len(ix.Sums), ix.Version)
	}
	for _, s := range ix.Sources {
		if err := s.check(); err != nil {
			return err
		}
	}
	for n, k := range ix.From {
		if k < 0 || k > len(ix.Sources) || k > 0 && ix.Sums[n] == "" {
			return fmt.Errorf("frame %d is in the earlier image %d of %d", n, k, len(ix.Sources))
		}
	}
	return nil
}

// place finds the frames by the sizes of those that are in the image's file.
func (ix *index) place(sizes [][2]uint32) ([]frames.Frame, error) {
	out := make([]frames.Frame, len(ix.Sums))
	off, k := int64(0), 0
	for n := range out {
		out[n].Size = min(FrameSize, ix.Size-int64(n)*FrameSize)
		if ix.Version == versionIncrement && (ix.From[n] > 0 || ix.Sums[n] == "") {
			continue
		}
		if k == len(sizes) {
			return nil, fmt.Errorf("it has %d frames for %d bytes", k, ix.Size)
		}
		if int64(sizes[k][1]) != out[n].Size {
			return nil, fmt.Errorf("frame %d has %d bytes", n, sizes[k][1])
		}
		out[n].Offset, out[n].Packed = off, int64(sizes[k][0])
		off += out[n].Packed
		k++
	}
	if k != len(sizes) {
		return nil, fmt.Errorf("it has %d frames, and needs %d for %d bytes", len(sizes), k, ix.Size)
	}
	return out, nil
}

// used is the map of what was in use.
func (ix *index) used() (*Map, error) {
	m, end := &Map{Size: ix.Size, How: ix.How}, int64(0)
	for _, u := range ix.Used {
		if u[0] < end || u[1] <= 0 || u[1] > ix.Size-u[0] {
			return nil, fmt.Errorf("the range of %d bytes at %d overlaps another, or the end", u[1], u[0])
		}
		end = u[0] + u[1]
		m.Used = append(m.Used, Extent{u[0], u[1]})
	}
	return m, nil
}

// Map is what the image has of its device.
func (i *Image) Map() *Map { return i.m }

// Bad are the ranges of the device that could not be read when the image was
// made; the image has zero bytes there.
func (i *Image) Bad() []Extent {
	var out []Extent
	for _, b := range i.index.Bad {
		out = append(out, Extent{b[0], b[1]})
	}
	return out
}

// Verify reads every frame that has something, and compares its sum.
func (i *Image) Verify(ctx context.Context, p progress.Counter) error {
	return i.each(ctx, func([]byte, int64) error { return nil }, p)
}

// Restore writes what was in use to dst, which has at least the device's size;
// what was not is left as it is there.
func (i *Image) Restore(ctx context.Context, dst io.WriterAt, p progress.Counter) error {
	return i.each(ctx, func(b []byte, off int64) error {
		for _, e := range i.m.within(off, int64(len(b))) {
			if _, err := dst.WriteAt(b[e.Start-off:e.Start-off+e.Length], e.Start); err != nil {
				return fmt.Errorf("cannot write the image of %s at byte %d: %w", i.name, e.Start, err)
			}
		}
		return nil
	}, p)
}

// each decodes the frames that have something in use, several at once; they are
// read in order, as tapes and discs want it.
func (i *Image) each(ctx context.Context, fn func(b []byte, off int64) error, p progress.Counter) error {
	if len(i.index.Sources) > 0 && i.earlier == nil {
		return fmt.Errorf("cannot use image %s: it needs earlier images, which are not open", i.name)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	type job struct {
		n      int
		packed []byte
	}
	work := make(chan job)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(2*FrameSize))
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer d.Close()
			var buf []byte
			for j := range work {
				var err error
				if buf, err = i.decode(d, j.n, j.packed, buf[:0]); err != nil {
					cancel(err)
					continue
				}
				if err := fn(buf, int64(j.n)*FrameSize); err != nil {
					cancel(err)
					continue
				}
				for _, e := range i.m.within(int64(j.n)*FrameSize, FrameSize) {
					p.Add(e.Length)
				}
			}
		})
	}
	err := func() error {
		defer close(work)
		for n := range i.frames {
			if i.index.Sums[n] == "" {
				continue
			}
			b, err := i.packed(n)
			if err != nil {
				return err
			}
			select {
			case work <- job{n, b}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	}()
	wg.Wait()
	return cmp.Or(err, context.Cause(ctx))
}

// packed reads frame n, from the image that has it.
func (i *Image) packed(n int) ([]byte, error) {
	r, off, size, name := i.r, i.frames[n].Offset, i.frames[n].Packed, i.name
	if k := i.from(n); k > 0 {
		e := i.earlier[k-1]
		r, off, size, name = e.file, e.at[n].offset, int64(e.at[n].packed), e.name
	}
	b := make([]byte, size)
	if k, err := r.ReadAt(b, off); err != nil && (err != io.EOF || int64(k) < size) {
		return nil, fmt.Errorf("cannot read image %s: %w", name, err)
	}
	return b, nil
}

// decode unpacks frame n to the end of buf.
func (i *Image) decode(d *zstd.Decoder, n int, packed, buf []byte) ([]byte, error) {
	f, h := i.frames[n], sha256.Sum256(packed)
	var err error
	if hex.EncodeToString(h[:]) != i.index.Sums[n] {
		err = errors.New("its digest is wrong")
	} else if buf, err = d.DecodeAll(packed, buf); err == nil && int64(len(buf)) != f.Size {
		err = fmt.Errorf("it has %d bytes, not %d", len(buf), f.Size)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s is damaged: bytes %d to %d of the device: %w", i.name, int64(n)*FrameSize, int64(n)*FrameSize+f.Size, err)
	}
	return buf, nil
}
