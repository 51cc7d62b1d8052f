package blockcopy

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/ddrescue"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// Sizes of requests and of what is not worth one, in bytes.
const (
	requestSSD = 1 << 20
	requestHDD = 4 << 20
	maxRequest = 64 << 20
	// Gaps between ranges in use that are copied, too, because reading over them
	// takes no longer than another request.
	gapSSD = 16 << 10
	gapHDD = 256 << 10
	// minHole is the shortest run of zero bytes that is left out of a write.
	minHole = 32 << 10
)

// CopyOptions are the options of Copy. The zero value of all but Map is usable.
type CopyOptions struct {
	// Map has the parts of the source that are copied. Only this must fit on the target: the
	// source may be larger. Around these ranges, up to the next multiple of the
	// alignment and over small gaps between them, Copy also copies what is not in
	// use.
	Map *Map
	// Clear is what is done to the whole target first.
	Clear Clear
	// Rescue is the state of an earlier run: what is finished in it is neither read
	// nor written again, what is bad is tried again.
	Rescue *ddrescue.Map
	// Checkpoint, if not nil, is called now and then with the state of the copy, and
	// at the end, even after an error. What the map calls finished is on the disk:
	// the target was synced. An error of Checkpoint stops Copy.
	Checkpoint func(*ddrescue.Map) error
	// Every is the time between two calls of Checkpoint, 10 s if it is 0. Calls
	// that take long are made less often.
	Every time.Duration
	// Progress counts the bytes in use that are on the target, those of Rescue
	// included: Map.Bytes() in all. If it is a progress.Waiter, it is told of the
	// bottleneck, too.
	Progress progress.Counter
	// InFlight is the number of requests in flight; 0 begins with what the kernel
	// reports of the disks, and tries more of them as long as that is faster.
	InFlight int
	// Request is the size of a request in bytes, a power of two from 64 KiB; 0 is
	// 1 MiB, and 4 MiB where a disk has heads that move.
	Request int64
}

// CopyResult is what Copy did.
type CopyResult struct {
	// Copied is how much was read and is on the target, in bytes; Zero is how much
	// of it were zero bytes that were not written, because the target had them or
	// could be told to.
	Copied, Zero int64
	// Bad are the ranges in use that could not be read, sorted; ReadError is the
	// first error. The target has zero bytes there.
	Bad       []Extent
	ReadError error
	// Rescue is the state of the copy, of the source's whole size. Everything that
	// is finished in it is on the disk.
	Rescue *ddrescue.Map
	// Cleared is what clearing did: ClearedZero, ClearedDiscard, or "".
	Cleared  string
	Waits    Waits
	InFlight int // at the end
	Duration time.Duration
}

// WriteError is an error of writing to the target.
type WriteError struct {
	Name   string
	Offset int64 // the first byte that was not written
	Err    error
}

func (e *WriteError) Error() string {
	return fmt.Sprintf("cannot write %s at byte %d: %v", e.Name, e.Offset, e.Err)
}

func (e *WriteError) Unwrap() error { return e.Err }

// sink is a Target, or one of the tests' that fails.
type sink interface {
	io.WriterAt
	punch(off, length int64) error
	clear(context.Context, Clear, []Extent) (string, error)
	least() int64
	Sync() error
	Size() int64
	Name() string
}

// Copy copies what is in use of a source of Map.Size bytes to a target. A source
// that is a *Device is read past the page cache where that is possible.
//
// The target has the source's bytes in all ranges in use when Copy returns without
// an error, zero bytes too, and they are on the disk. What can't be read is left
// for the end, is then tried again in smaller pieces down to a sector, is zero on
// the target and listed in the result: it is not an error. Errors are those of
// writing, of a source that was disconnected, of Checkpoint, and the end of ctx;
// the result is valid with them, too, and its state may be used to go on.
func Copy(ctx context.Context, dst *Target, src io.ReaderAt, o CopyOptions) (*CopyResult, error) {
	rot := rotational(dst.f)
	if d, ok := src.(*Device); ok {
		if same(dst, d) {
			return &CopyResult{Rescue: ddrescue.New(o.Map.Size)}, fmt.Errorf("cannot copy %s to %s: both are the same", d.Name(), dst.name)
		}
		rot = rotational(d.File) || rot
	}
	return copyTo(ctx, dst, src, o, rot, dst.grain)
}

// same reports whether a target overlaps the source: the same file or device,
// not two parts of it.
func same(t *Target, d *Device) bool {
	var a, b unix.Stat_t
	if unix.Fstat(int(t.f.Fd()), &a) != nil || unix.Fstat(int(d.Fd()), &b) != nil {
		return false
	}
	if a.Mode&unix.S_IFMT == unix.S_IFBLK && b.Mode&unix.S_IFMT == unix.S_IFBLK {
		if a.Rdev != b.Rdev {
			return false
		}
	} else if a.Dev != b.Dev || a.Ino != b.Ino {
		return false
	}
	return t.base < d.base+d.size && d.base < t.base+t.size
}

// copier is one run of Copy.
type copier struct {
	o       CopyOptions
	src     io.ReaderAt // past the page cache
	sectors sectorReader
	dst     sink
	grain   int64
	request int64
	gap     int64 // between ranges in use that is copied, too
	zeroed  bool  // what is copied as chunks was cleared, and reads as zero bytes

	mu     sync.Mutex
	chunks chunks
	// state has one of the chunk states for each that was given out.
	state []byte
	// careful are the pieces of the second part: what is done of them, the first
	// carefulSynced of which are on the disk.
	careful       []ddrescue.Block
	carefulSynced int

	unread unreadable
	copied atomic.Int64
	zero   atomic.Int64
	spent  [3]atomic.Int64 // time of requests in reading, writing, computing, ns
	moved  atomic.Int64    // bytes of chunks that are through

	work, read, write *tokens
	buffers           buffers
	inFlight          atomic.Int64
}

// newCopier fills in what the options leave to Copy. rot is set where a disk has heads
// that move; grain is the target's, in bytes.
func newCopier(dst sink, src io.ReaderAt, o CopyOptions, rot bool, grain int64) *copier {
	c := &copier{o: o, src: src, dst: dst, grain: grain, request: o.Request, gap: gapSSD}
	if o.Progress == nil {
		c.o.Progress = progress.None{}
	}
	if d, ok := src.(*Device); ok {
		c.src, c.sectors = past{d}, past{d}
		c.grain = max(c.grain, d.grain)
	} else if s, ok := src.(sectorReader); ok {
		c.sectors = s
	}
	request := int64(requestSSD)
	if rot {
		c.gap, request = gapHDD, requestHDD
	}
	c.request = max(cmp.Or(c.request, request), c.grain)
	return c
}

func copyTo(ctx context.Context, dst sink, src io.ReaderAt, o CopyOptions, rot bool, grain int64) (r *CopyResult, err error) {
	start := time.Now()
	c := newCopier(dst, src, o, rot, grain)
	r = &CopyResult{Rescue: ddrescue.New(o.Map.Size)}
	if err := c.check(); err != nil {
		return r, err
	}
	if o.Rescue != nil {
		r.Rescue = r.Rescue.Overlay(o.Rescue.Blocks)
	}
	base := r.Rescue
	whole, later := c.plan(base)
	c.chunks = chunks{extents: whole, size: c.request}
	if r.Cleared, err = dst.clear(ctx, o.Clear, c.outside(base)); err != nil {
		return r, err
	}
	c.zeroed = r.Cleared == ClearedZero
	c.count(base.Ranges(ddrescue.Finished))

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() { c.checkpoints(stop, base, cancel) })
	c.transfer(ctx, cancel, rot)
	if ctx.Err() == nil {
		c.carefully(ctx, cancel, later)
	}
	close(stop)
	watcher.Wait()
	err = context.Cause(ctx)
	// What was written before an error is worth keeping, if the disk has it.
	m, serr := c.synced(base, err == nil)
	r.Rescue, err = m, cmp.Or(err, serr)
	if o.Checkpoint != nil {
		err = cmp.Or(err, o.Checkpoint(m))
	}
	r.Copied, r.Zero, r.InFlight = c.copied.Load(), c.zero.Load(), int(c.inFlight.Load())
	r.Waits = c.waits()
	for _, b := range c.unread.extents() {
		r.Bad = append(r.Bad, o.Map.within(b.Start, b.Length)...)
	}
	r.Bad = (&Map{Used: r.Bad}).tidy().Used
	if len(r.Bad) > 0 {
		r.ReadError = c.unread.err
	}
	r.Duration = time.Since(start)
	return r, err
}

// check refuses what can't be copied.
func (c *copier) check() error {
	m := c.o.Map
	if n := len(m.Used); n > 0 {
		if end := m.Used[n-1].Start + m.Used[n-1].Length; end > c.dst.Size() {
			return fmt.Errorf("cannot copy to %s: it has %d bytes; what is in use ends at byte %d", c.dst.Name(), c.dst.Size(), end)
		}
	}
	if r := c.o.Request; r != 0 && (r&(r-1) != 0 || r < 64<<10 || r > maxRequest) {
		return fmt.Errorf("cannot copy in requests of %d bytes: not a power of two from 64 KiB to 64 MiB", r)
	}
	if r := c.o.Rescue; r != nil && (r.Start() != 0 || r.End() != m.Size && r.Bytes(ddrescue.Finished, ddrescue.BadSector, ddrescue.NonScraped, ddrescue.NonTrimmed) > 0) {
		return fmt.Errorf("cannot continue: the state that was saved is of bytes %d to %d, the source has %d", r.Start(), r.End(), m.Size)
	}
	return nil
}

// plan returns what is copied in large requests, multiples of the grain with
// small gaps filled, and what is copied carefully afterwards: what an earlier run
// failed to read, and edges that are not multiples.
func (c *copier) plan(base *ddrescue.Map) (whole, later []Extent) {
	g := c.grain
	limit := min(c.o.Map.Size, c.dst.Size())
	want := &Map{Size: limit}
	for _, e := range c.o.Map.Used {
		from, to := e.Start/g*g, min((e.Start+e.Length+g-1)/g*g, limit)
		if n := len(want.Used); n > 0 {
			if last := &want.Used[n-1]; from-(last.Start+last.Length) <= c.gap {
				last.Length = to - last.Start
				continue
			}
		}
		want.add(from, to-from)
	}
	for pos, l := range base.Ranges(ddrescue.NonTried) {
		for _, e := range want.within(pos, l) {
			from, to := (e.Start+g-1)/g*g, (e.Start+e.Length)/g*g
			if from >= to {
				later = append(later, e)
				continue
			}
			for _, x := range []Extent{{e.Start, from - e.Start}, {to, e.Start + e.Length - to}} {
				if x.Length > 0 {
					later = append(later, x)
				}
			}
			whole = append(whole, Extent{from, to - from})
		}
	}
	// Exactly what is in use: a range that was read before must not be lost to an
	// error beside it.
	for pos, l := range base.Ranges(ddrescue.NonTrimmed, ddrescue.NonScraped, ddrescue.BadSector) {
		later = append(later, c.o.Map.within(pos, l)...)
	}
	return whole, later
}

// outside returns what of the target an earlier run did not finish, in multiples
// of the grain; the last may end with the target.
func (c *copier) outside(base *ddrescue.Map) (out []Extent) {
	g, at := c.grain, int64(0)
	add := func(from, to int64) {
		if from = (from + g - 1) / g * g; to < c.dst.Size() {
			to = to / g * g
		}
		if from < to {
			out = append(out, Extent{from, to - from})
		}
	}
	for pos, l := range base.Ranges(ddrescue.Finished) {
		add(at, min(pos, c.dst.Size()))
		at = pos + l
	}
	add(at, c.dst.Size())
	return out
}

// count reports the progress of ranges that are on the target.
func (c *copier) count(ranges func(func(int64, int64) bool)) {
	for pos, l := range ranges {
		c.add(pos, l)
	}
}

func (c *copier) add(pos, length int64) {
	n := int64(0)
	for _, e := range c.o.Map.within(pos, length) {
		n += e.Length
	}
	if n > 0 {
		c.o.Progress.Add(n)
	}
}
