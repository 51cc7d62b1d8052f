package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/swarm/settorrent"
)

// Files are the set's files while they arrive.
type Files struct{ g *Get }

// List gives all files.
func (f *Files) List() []settorrent.Span { return f.g.t.Files() }

// Open gives a reader of a file, whose reads wait for what has not arrived.
func (f *Files) Open(ctx context.Context, name string) (*File, error) {
	files := f.g.t.Files()
	i := slices.IndexFunc(files, func(s settorrent.Span) bool { return s.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("cannot open %q: the set has no such file", name)
	}
	return &File{ctx: ctx, g: f.g, span: files[i]}, nil
}

// at notes where a reader is: a ring keeps what the last of all has not read.
func (g *Get) at(r *File, piece int) {
	rank, m := g.rank[piece], g.memory.Load()
	if r.rank == rank+1 && r.ring == m {
		return
	}
	r.rank, r.ring = rank+1, m
	if rank < len(g.t.Head) { // each is read by itself
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.readers[r] = rank
	if !g.read[rank] { // so all of the file is
		size := g.t.Info.PieceLength
		for p := r.span.Offset / size; p*size < r.span.Offset+r.span.Length; p++ {
			g.read[g.rank[p]] = true
		}
		poke(g.changed)
	}
	g.last = g.position()
	if m != nil {
		m.setReader(g.last)
	}
}

// Close ends the reading.
func (r *File) Close() error {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	delete(r.g.readers, r)
	return nil
}

// File is a file of the set that is read while it arrives. It is not for several
// goroutines at once.
type File struct {
	ctx  context.Context
	g    *Get
	span settorrent.Span
	at   int64
	rank int   // that was noted, and one
	ring *ring // to which it was told
}

func (r *File) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += r.at
	case io.SeekEnd:
		off += r.span.Length
	}
	if off < 0 {
		return 0, errors.New("seek before the beginning")
	}
	r.at = off
	return off, nil
}

func (r *File) Read(p []byte) (int, error) {
	if r.at >= r.span.Length {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	size := r.g.t.Info.PieceLength
	pos := r.span.Offset + r.at
	i := int(pos / size)
	n := min(int64(len(p)), r.span.Length-r.at, int64(i+1)*size-pos)
	for {
		r.g.at(r, i)
		if err := r.g.waitFor(r.ctx, i); err != nil {
			return 0, err
		}
		k, err := r.g.store.readAt(i, p[:n], pos-int64(i)*size)
		if err != nil && r.g.memory.Load() != nil && r.ctx.Err() == nil {
			continue // it was evicted just now
		}
		if int64(k) < n && err == nil {
			err = io.ErrUnexpectedEOF
		}
		if int64(k) == n {
			err = nil
		}
		r.at += int64(k)
		return k, err
	}
}

// waits notes in the memory whether a piece is waited for. mu is held.
func (g *Get) waits(piece int) {
	if m := g.memory.Load(); m != nil {
		m.wait(piece, g.wants[piece] > 0)
	}
}

// waitFor returns when a piece is there.
func (g *Get) waitFor(ctx context.Context, piece int) error {
	there := func() bool {
		ok, _ := g.store.state(piece)
		return ok
	}
	if there() {
		return nil
	}
	g.mu.Lock()
	g.wants[piece]++
	g.waits(piece)
	g.mu.Unlock()
	poke(g.changed)
	defer func() {
		g.mu.Lock()
		if g.wants[piece]--; g.wants[piece] <= 0 {
			delete(g.wants, piece)
		}
		g.waits(piece)
		g.mu.Unlock()
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		g.mu.Lock()
		ch, fatal := g.waiting, g.fatal
		g.mu.Unlock()
		if there() {
			return nil
		}
		if fatal != nil {
			return fatal
		}
		select {
		case <-ch:
		case <-tick.C: // a piece out of order
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
