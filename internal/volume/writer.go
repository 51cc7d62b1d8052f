package volume

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"slices"
)

// ErrFull is what a Medium's Write gives when its end was reached. The chunk
// goes to the next medium as a whole; this volume has no last frame then.
var ErrFull = errors.New("the medium is full")

// Medium takes one volume.
type Medium interface {
	io.Writer
	// Room is how many bytes the volume may have; Unlimited if only the
	// medium knows.
	Room() int64
	// Full reports after a chunk that the end is near: the volume is closed.
	Full() bool
	// Close ends the volume. An error stops the run.
	Close(e End) error
}

// Aborter is a Medium that wants to know when its volume will not be whole.
type Aborter interface{ Abort() }

// Flusher is a Medium that wants to know where chunks end. Only when Flush
// returned is the chunk on the medium; an ErrFull of it means that it is not.
type Flusher interface{ Flush() error }

// Unlimited is the room of a medium that reports its end by Full or ErrFull.
const Unlimited = math.MaxInt64

// Chunk describes a chunk of the stream: its length and digest.
type Chunk struct {
	Size int64
	Sum  Digest
}

// Cutter cuts one stream.
type Cutter struct {
	// Header is that of the first volume to be written. When a run is taken up
	// again, Number, Offset and Previous say from where.
	Header Header
	// Next gives the medium for a volume.
	Next func(ctx context.Context, h Header) (Medium, error)
	// More is set if the stream continues in volumes that another Cutter writes:
	// the end of what is read is not the stream's.
	More bool
	// Plain writes pieces of the bare stream, without headers, checks and ends,
	// cut at any byte: for programs that know no more than cat.
	Plain bool
	// Skip are the chunks that lie in volumes already, when a run is taken up
	// again: the stream must begin with them.
	Skip []Chunk
	// Wrote, if not nil, is told of each chunk that was written.
	Wrote func(c Chunk) error
	// Progress, if not nil, is told of bytes of the stream.
	Progress func(n int64)

	chunks int // instead of MaxChunks, if not 0: for tests
}

func (c *Cutter) maxChunks() int {
	if c.chunks > 0 {
		return c.chunks
	}
	return MaxChunks
}

// piece is a chunk on its way: payload as in the stream, cut at ends.
type piece struct {
	b    []byte
	ends []int // of frames in b; nil when it may be cut anywhere
	sum  Digest
}

// pieces in flight: each of ChunkSize and a frame.
const inFlight = 4

// Cut reads r to its end and writes the volumes. What it gives is the header
// that a further volume would have.
func (c *Cutter) Cut(ctx context.Context, r io.Reader) (Header, error) {
	if err := c.Header.check(); err != nil {
		return c.Header, fmt.Errorf("cannot cut: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var err error
	if r, err = c.sniff(r); err != nil {
		return c.Header, fmt.Errorf("cannot read the stream: %w", err)
	}
	br := bufio.NewReaderSize(r, 64<<10)
	if err := c.skip(br); err != nil {
		return c.Header, err
	}
	summed, free, readErr := c.pieces(ctx, br)
	w := &writer{c: c, ctx: ctx, h: c.Header}
	defer func() {
		if a, ok := w.m.(Aborter); ok && w.m != nil {
			a.Abort()
		}
	}()
	for p := range summed {
		if err := w.put(p); err != nil {
			cancel()
			for range summed {
			}
			return w.h, err
		}
		if c.Progress != nil {
			c.Progress(int64(len(p.b)))
		}
		free <- p
	}
	if err := <-readErr; err != nil {
		return w.h, fmt.Errorf("cannot read the stream: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return w.h, err
	}
	if w.m == nil && c.More {
		return w.h, nil
	}
	err = w.finish(!c.More)
	return w.h, err
}

// sniff decides at the beginning of a stream whether its chunks are stored.
func (c *Cutter) sniff(r io.Reader) (_ io.Reader, err error) {
	switch {
	case c.Plain:
		c.Header.Stored = true
	case len(c.Skip) == 0 && c.Header.Offset == 0 && !c.Header.Stored:
		c.Header.Stored, r, err = Stored(r, wholeFrame)
	}
	return r, err
}

// pieces reads the stream in the background and computes the sums. Pieces that were used go
// to free; an error of reading comes when summed is closed.
func (c *Cutter) pieces(ctx context.Context, r *bufio.Reader) (summed <-chan *piece, free chan *piece, readErr <-chan error) {
	raw, out, failed := make(chan *piece, 1), make(chan *piece, 1), make(chan error, 1)
	free = make(chan *piece, inFlight)
	for range inFlight {
		free <- &piece{}
	}
	go func() {
		defer close(raw)
		failed <- c.collect(ctx, r, raw, free)
	}()
	go func() {
		defer close(out)
		for p := range raw {
			p.sum = sha256.Sum256(p.b)
			select {
			case out <- p:
			case <-ctx.Done():
				for range raw { // the reader may wait
				}
				return
			}
		}
	}()
	return out, free, failed
}

// skip compares the beginning of the stream with what was written before.
func (c *Cutter) skip(r io.Reader) error {
	off := int64(0)
	for _, k := range c.Skip {
		h := sha256.New()
		n, err := io.CopyN(h, r, k.Size)
		if err != nil && err != io.EOF {
			return fmt.Errorf("cannot read the stream: %w", err)
		}
		if n < k.Size || Digest(h.Sum(nil)) != k.Sum {
			return fmt.Errorf("cannot go on: the stream is not the one that the volumes were made of; it differs between byte %d and %d", off, off+k.Size)
		}
		off += k.Size
	}
	return nil
}

// collect reads the stream in pieces.
func (c *Cutter) collect(ctx context.Context, r *bufio.Reader, out, free chan *piece) error {
	frames := &frameReader{r: r, off: c.Header.Offset}
	for {
		var p *piece
		select {
		case p = <-free:
		case <-ctx.Done():
			return nil
		}
		err := c.fill(p, r, frames)
		if len(p.b) > 0 {
			select {
			case out <- p:
			case <-ctx.Done():
				return nil
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fill reads a piece: ChunkSize bytes where the stream is stored, or else whole frames.
func (c *Cutter) fill(p *piece, r *bufio.Reader, frames *frameReader) (err error) {
	p.b, p.ends = p.b[:0], nil
	if c.Header.Stored {
		p.b = slices.Grow(p.b, ChunkSize)
		n, err := io.ReadFull(r, p.b[:ChunkSize])
		p.b = p.b[:n]
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		return err
	}
	if cap(p.b) == 0 {
		p.b = make([]byte, 0, ChunkSize+ChunkSize/8)
	}
	p.ends = []int{}
	for len(p.b) < ChunkSize {
		at := len(p.b)
		if p.b, err = frames.next(p.b); err != nil {
			return err
		}
		if ours(p.b[at:]) {
			return ErrNested
		}
		p.ends = append(p.ends, len(p.b))
	}
	return nil
}

type writer struct {
	c      *Cutter
	ctx    context.Context
	h      Header // of the open volume, or of the next
	m      Medium
	room   int64
	end    End
	digest hash.Hash
	any    bool
}

func (w *writer) open() error {
	m, err := w.c.Next(w.ctx, w.h)
	if err != nil {
		return err
	}
	b := w.h.encode()
	w.m, w.room, w.end, w.digest, w.any = m, m.Room(), End{}, sha256.New(), true
	w.digest.Write(b)
	if w.c.Plain {
		return nil
	}
	if w.room < int64(len(b))+endLen(0) {
		return fmt.Errorf("cannot write %v: a medium of %d bytes is too small", w.h, w.room)
	}
	return w.write(b)
}

func (w *writer) write(b []byte) error {
	if w.room != Unlimited {
		w.room -= int64(len(b))
	}
	if _, err := w.m.Write(b); err != nil {
		if errors.Is(err, ErrFull) {
			return err
		}
		return fmt.Errorf("cannot write %v: %w", w.h, err)
	}
	return nil
}

// put writes a piece to one volume or more.
func (w *writer) put(p *piece) error {
	b, ends, sum, off := p.b, p.ends, p.sum, 0
	for len(b) > 0 {
		if err := w.ready(); err != nil {
			return err
		}
		n := w.fit(b, ends, off)
		if n == 0 {
			if len(w.end.Chunks) == 0 {
				return w.tooSmall(ends)
			}
			if err := w.finish(false); err != nil {
				return err
			}
			continue
		}
		s := sum
		if n < len(p.b) {
			s = sha256.Sum256(b[:n])
		}
		switch err := w.chunk(b[:n], s); {
		case errors.Is(err, ErrFull) && len(w.end.Chunks) == 0:
			return fmt.Errorf("cannot write %v: the medium is full before a chunk of %d bytes is on it", w.h, n)
		case errors.Is(err, ErrFull):
			// What was written of it is not a chunk, as it has no check. The volume ends before it.
			if err := w.close(); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		b, off = b[n:], off+n
		if w.full() {
			if err := w.finish(false); err != nil {
				return err
			}
		}
	}
	return nil
}

// ready opens a medium if none is open.
func (w *writer) ready() error {
	if err := w.ctx.Err(); err != nil || w.m != nil {
		return err
	}
	return w.open()
}

func (w *writer) full() bool {
	return w.m.Full() || !w.c.Plain && len(w.end.Chunks) >= w.c.maxChunks()
}

// tooSmall is the error of a medium that takes nothing at all of a piece.
func (w *writer) tooSmall(ends []int) error {
	if len(ends) > 0 {
		return fmt.Errorf("cannot write %v: a medium of %d bytes can't hold a frame of %d", w.h, w.m.Room(), ends[0])
	}
	return fmt.Errorf("cannot write %v: a medium of %d bytes is too small", w.h, w.m.Room())
}

// fit is how many bytes of b the volume takes now.
func (w *writer) fit(b []byte, ends []int, off int) int {
	if w.room == Unlimited {
		return len(b)
	}
	if w.c.Plain {
		return int(min(int64(len(b)), w.room))
	}
	room := w.room - checkLen - endLen(len(w.end.Chunks)+1)
	if w.h.Stored {
		return int(max(0, min(int64(len(b)), storedFit(room))))
	}
	n := 0
	for _, e := range ends {
		if e -= off; e > 0 && int64(e) <= room {
			n = e
		}
	}
	return n
}

func (w *writer) chunk(b []byte, sum Digest) error {
	n := int64(len(b))
	if w.c.Plain {
		if err := w.write(b); err != nil {
			return err
		}
	} else if w.h.Stored {
		n = storedLen(n)
		if err := wrap(b, w.write); err != nil {
			return err
		}
	} else if err := w.write(b); err != nil {
		return err
	}
	if !w.c.Plain {
		if err := w.write(encodeCheck(len(w.end.Chunks), int64(len(b)), sum)); err != nil {
			return err
		}
	}
	if f, ok := w.m.(Flusher); ok {
		if err := f.Flush(); err != nil {
			return err
		}
	}
	w.digest.Write(sum[:])
	w.end.Chunks = append(w.end.Chunks, n)
	w.end.Streams = append(w.end.Streams, int64(len(b)))
	w.end.Size += int64(len(b))
	if w.c.Wrote != nil {
		return w.c.Wrote(Chunk{int64(len(b)), sum})
	}
	return nil
}

// finish writes the end of the volume. A stream of nothing is one volume.
func (w *writer) finish(last bool) error {
	if w.m == nil {
		if !last {
			return nil
		}
		// The stream ended where a volume was closed early: one more records that
		// it is the end.
		if err := w.open(); err != nil {
			return err
		}
	}
	w.end.Last = last
	if w.c.Plain {
		return w.close()
	}
	w.end.Digest = Digest(w.digest.Sum(nil))
	if err := w.write(w.end.encode()); err != nil && !errors.Is(err, ErrFull) {
		return err
	} else if err != nil && last {
		// No room to mark it as the last one: the next medium does.
		if err := w.close(); err != nil {
			return err
		}
		return w.finish(true)
	}
	return w.close()
}

func (w *writer) close() error {
	w.end.Digest = Digest(w.digest.Sum(nil))
	err := w.m.Close(w.end)
	w.h.Previous = w.end.Digest
	w.h.Offset += w.end.Size
	w.h.Number++
	w.m = nil
	return err
}
