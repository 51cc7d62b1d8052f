package blockcopy

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/ddrescue"
)

// carefulRequest is the size of requests where something could not be read, in
// bytes: small, since what is beside it may be readable.
const carefulRequest = 64 << 10

// carefully copies, one after the other, what could not be read in large
// requests, and what is not aligned.
func (c *copier) carefully(ctx context.Context, cancel context.CancelCauseFunc, later []Extent) {
	all := &Map{Size: c.o.Map.Size, Used: slices.Clone(later)}
	again := chunks{extents: c.chunks.extents, size: c.chunks.size}
	c.mu.Lock()
	states := slices.Clone(c.state)
	c.mu.Unlock()
	for _, s := range states {
		e, _ := again.next()
		if s == chunkFailed {
			// Only what is in use: a bad sector that nothing uses loses no data.
			all.Used = append(all.Used, c.o.Map.within(e.Start, e.Length)...)
		}
	}
	slices.SortFunc(all.Used, func(a, b Extent) int { return cmp.Compare(a.Start, b.Start) })
	if len(all.Used) == 0 {
		return
	}
	buf, err := unix.Mmap(-1, 0, int(c.request), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		cancel(fmt.Errorf("cannot get memory for a request: %w", err))
		return
	}
	defer func() { _ = unix.Munmap(buf) }()
	again = chunks{extents: all.Used, size: min(c.request, carefulRequest)}
	for e, ok := again.next(); ok && ctx.Err() == nil; e, ok = again.next() {
		// The place in memory is aligned as the place on the device is.
		b := buf[e.Start&(c.grain-1):]
		if int64(len(b)) < e.Length {
			b = buf
		}
		b = b[:e.Length]
		before, skips := len(c.unread.bad), c.unread.skipped
		status := ddrescue.BadSector
		t := time.Now()
		err := c.unread.readAt(ctx, sectored{c.src, c.sectors}, b, e.Start)
		c.spent[spentRead].Add(int64(time.Since(t)))
		if err != nil {
			return // ctx is over
		}
		if c.unread.err != nil && fatal(c.unread.err) {
			cancel(fmt.Errorf("cannot read the source at byte %d: %w", e.Start, c.unread.err))
			return
		}
		t = time.Now()
		err = c.put(b, e.Start, []piece{{0, e.Length, false}}, false)
		c.spent[spentWrite].Add(int64(time.Since(t)))
		if err != nil {
			cancel(err)
			return
		}
		if c.unread.skipped > skips {
			status = ddrescue.NonScraped // not each sector was tried
		}
		c.mu.Lock()
		bad := (&Map{Size: c.o.Map.Size, Used: slices.Clone(c.unread.bad[max(0, before-1):])}).tidy()
		at, lost := e.Start, int64(0)
		for _, x := range bad.within(e.Start, e.Length) {
			c.done(at, x.Start, ddrescue.Finished)
			c.done(x.Start, x.Start+x.Length, status)
			at, lost = x.Start+x.Length, lost+x.Length
		}
		c.done(at, e.Start+e.Length, ddrescue.Finished)
		c.mu.Unlock()
		c.copied.Add(e.Length - lost)
		c.add(e.Start, e.Length)
	}
}

// done notes what became of a range in the second part; c is locked.
func (c *copier) done(from, to int64, s ddrescue.Status) {
	if from < to {
		c.careful = append(c.careful, ddrescue.Block{Pos: from, Size: to - from, Status: s})
	}
}

// sectored is a source that reads single sectors if it can.
type sectored struct {
	io.ReaderAt
	s sectorReader
}

// ReadSectors implements sectorReader.
func (s sectored) ReadSectors(b []byte, off int64) error {
	if s.s == nil {
		return readFull(s.ReaderAt, b, off)
	}
	return s.s.ReadSectors(b, off)
}

// Sector implements sectorReader.
func (s sectored) Sector() int64 {
	if s.s == nil {
		return smallest
	}
	return s.s.Sector()
}
