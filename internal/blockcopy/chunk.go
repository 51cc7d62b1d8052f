package blockcopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// States of a chunk.
const (
	chunkOpen    = iota // not tried, or not written
	chunkWritten        // written, not synced
	chunkDone           // on the disk
	chunkFailed         // could not be read as a whole
)

// chunks cuts sorted extents into requests that do not cross multiples of their
// size. It gives the same ones each time.
type chunks struct {
	extents []Extent
	size    int64
	n       int // the extent
	off     int64
}

func (c *chunks) next() (Extent, bool) {
	if c.n >= len(c.extents) {
		return Extent{}, false
	}
	e := c.extents[c.n]
	start := e.Start + c.off
	end := min((start/c.size+1)*c.size, e.Start+e.Length)
	if c.off += end - start; c.off >= e.Length {
		c.n, c.off = c.n+1, 0
	}
	return Extent{start, end - start}, true
}

// give returns the next chunk and its number.
func (c *copier) give() (e Extent, n int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok = c.chunks.next(); ok {
		n = len(c.state)
		c.state = append(c.state, chunkOpen)
	}
	return e, n, ok
}

func (c *copier) mark(n int, state byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state[n] = state
}

// Indices of copier.spent.
const (
	spentRead = iota
	spentWrite
	spentProcessor
)

// chunk copies the next chunk; more is false after the last.
func (c *copier) chunk(ctx context.Context, buf []byte) (more bool, err error) {
	t := time.Now()
	lap := func(what int) {
		now := time.Now()
		c.spent[what].Add(int64(now.Sub(t)))
		t = now
	}
	if !c.read.take(ctx) {
		return false, nil
	}
	e, n, ok := c.give()
	if !ok {
		c.read.give()
		return false, nil
	}
	b := buf[:e.Length]
	err = readFull(c.src, b, e.Start)
	c.read.give()
	lap(spentRead)
	if err != nil {
		if fatal(err) {
			return false, fmt.Errorf("cannot read the source at byte %d: %w", e.Start, err)
		}
		c.mark(n, chunkFailed)
		return true, nil
	}
	parts := c.split(b, c.zeroed)
	lap(spentProcessor)
	if !c.write.take(ctx) {
		return false, nil
	}
	err = c.put(b, e.Start, parts, c.zeroed)
	c.write.give()
	lap(spentWrite)
	if err != nil {
		return false, err
	}
	c.mark(n, chunkWritten)
	c.copied.Add(e.Length)
	c.moved.Add(e.Length)
	c.add(e.Start, e.Length)
	return true, nil
}

// fatal reports an error after which nothing of the source can be read.
func fatal(err error) bool {
	return errors.Is(err, ErrVanished) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOMEDIUM)
}

// piece is a part of a chunk.
type piece struct {
	off, length int64
	zero        bool
}

var zeroPage [page]byte

// split finds the runs of zero bytes that are long enough.
func (c *copier) split(b []byte, zeroed bool) []piece {
	least := int64(minHole)
	if !zeroed {
		least = c.dst.least()
	}
	var out []piece
	push := func(off, length int64, zero bool) {
		if n := len(out); n > 0 && out[n-1].zero == zero {
			out[n-1].length += length
			return
		}
		out = append(out, piece{off, length, zero})
	}
	all := int64(len(b))
	for at := int64(0); at < all; {
		end := at
		for end < all && bytes.Equal(b[end:min(end+page, all)], zeroPage[:min(page, all-end)]) {
			end = min(end+page, all)
		}
		if end > at {
			push(at, end-at, end-at >= least || end-at == all)
			at = end
			continue
		}
		end = min(at+page, all)
		push(at, end-at, false)
		at = end
	}
	return out
}

// put writes a chunk. The zero bytes of it are left out where the target was
// zeroed, else the target zeroes them, or they are written.
func (c *copier) put(b []byte, off int64, parts []piece, zeroed bool) error {
	for i := 0; i < len(parts); i++ {
		p := parts[i]
		if p.zero {
			if zeroed {
				c.zero.Add(p.length)
				continue
			}
			err := c.dst.punch(off+p.off, p.length)
			if err == nil {
				c.zero.Add(p.length)
				continue
			}
			if !errors.Is(err, errNoPunch) {
				return &WriteError{c.dst.Name(), off + p.off, err}
			}
			// One request for this and what is written next.
			for i+1 < len(parts) {
				p.length += parts[i+1].length
				i++
			}
		}
		n, err := c.dst.WriteAt(b[p.off:p.off+p.length], off+p.off)
		if err != nil || int64(n) < p.length {
			if err == nil {
				err = io.ErrShortWrite
			}
			return &WriteError{c.dst.Name(), off + p.off + int64(n), err}
		}
	}
	return nil
}
