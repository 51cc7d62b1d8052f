package blockcopy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
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

// Waits is what the copy waited for, as shares of the time of all requests: the
// largest is the bottleneck. They add up to 1.
type Waits struct{ Read, Write, Processor float64 }

// String names the bottleneck: "read 71 %, write 28 %, processor 1 %".
func (w Waits) String() string {
	return fmt.Sprintf("read %.0f %%, write %.0f %%, processor %.0f %%", 100*w.Read, 100*w.Write, 100*w.Processor)
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

// States of a chunk.
const (
	chunkOpen    = iota // not tried, or not written
	chunkWritten        // written, not synced
	chunkDone           // on the disk
	chunkFailed         // could not be read as a whole
)

// copier is one run of Copy.
type copier struct {
	o       CopyOptions
	src     io.ReaderAt // past the page cache
	sectors sectorReader
	dst     sink
	grain   int64
	request int64
	zeroed  bool // what is copied as chunks was cleared, and reads as zero bytes

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

func copyTo(ctx context.Context, dst sink, src io.ReaderAt, o CopyOptions, rot bool, grain int64) (r *CopyResult, err error) {
	start := time.Now()
	c := &copier{o: o, src: src, dst: dst, grain: grain, request: o.Request}
	if o.Progress == nil {
		c.o.Progress = progress.None{}
	}
	r = &CopyResult{Rescue: ddrescue.New(o.Map.Size)}
	if err := c.check(); err != nil {
		return r, err
	}
	if d, ok := src.(*Device); ok {
		c.src, c.sectors = past{d}, past{d}
		c.grain = max(c.grain, d.grain)
	} else if s, ok := src.(sectorReader); ok {
		c.sectors = s
	}
	gap := int64(gapSSD)
	if rot {
		gap = gapHDD
	}
	if c.request == 0 {
		c.request = requestSSD
		if rot {
			c.request = requestHDD
		}
	}
	c.request = max(c.request, c.grain)
	if o.Rescue != nil {
		r.Rescue = r.Rescue.Overlay(o.Rescue.Blocks)
	}
	base := r.Rescue
	whole, later := c.plan(base, gap)
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
	r.Rescue = m
	if serr != nil && err == nil {
		err = serr
	}
	if o.Checkpoint != nil {
		if cerr := o.Checkpoint(m); cerr != nil && err == nil {
			err = cerr
		}
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
	if r := c.request; r != 0 && (r&(r-1) != 0 || r < 64<<10 || r > maxRequest) {
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
func (c *copier) plan(base *ddrescue.Map, gap int64) (whole, later []Extent) {
	g := c.grain
	limit := min(c.o.Map.Size, c.dst.Size())
	want := &Map{Size: limit}
	for _, e := range c.o.Map.Used {
		from, to := e.Start/g*g, min((e.Start+e.Length+g-1)/g*g, limit)
		if n := len(want.Used); n > 0 {
			if last := &want.Used[n-1]; from-(last.Start+last.Length) <= gap {
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

// tokens are a number of permits that can change while they are used.
type tokens struct {
	free  chan struct{}
	total int
}

func newTokens(most int) *tokens { return &tokens{free: make(chan struct{}, most)} }

func (t *tokens) set(n int) {
	for ; t.total < n; t.total++ {
		t.free <- struct{}{}
	}
	for ; t.total > n; t.total-- {
		<-t.free
	}
}

func (t *tokens) take(ctx context.Context) bool {
	select {
	case <-t.free:
		return true
	default:
	}
	select {
	case <-t.free:
		return true
	case <-ctx.Done():
		return false
	}
}

func (t *tokens) give() { t.free <- struct{}{} }

// maxInFlight is the largest number of requests in flight that is tried; memory
// for requests is bounded by maxBuffers, in bytes.
const (
	maxInFlight = 32
	maxBuffers  = 256 << 20
)

// level sets how many requests are in flight. With heads that move, half of them
// read while the others write, so that few go back and forth.
func (c *copier) level(n int, rot bool) {
	side := n
	if rot {
		side = max(1, n/2)
	}
	c.work.set(n)
	c.read.set(side)
	c.write.set(side)
	c.inFlight.Store(int64(n))
}

// transfer copies the chunks. Each worker reads one, looks for zero bytes in it
// and writes it; several of them keep both disks busy.
func (c *copier) transfer(ctx context.Context, cancel context.CancelCauseFunc, rot bool) {
	most := max(1, min(maxInFlight, int(maxBuffers/c.request)))
	n := 4
	if rot {
		n = 2
	}
	if c.o.InFlight > 0 {
		n = c.o.InFlight
		most = min(n, max(1, maxBuffers/int(c.request)))
	}
	n = min(n, most)
	c.work, c.read, c.write = newTokens(most), newTokens(most), newTokens(most)
	c.level(n, rot)
	stop := make(chan struct{})
	var tuner, workers sync.WaitGroup
	if c.o.InFlight == 0 {
		tuner.Go(func() { c.tune(stop, n, most, rot) })
	}
	for range most {
		workers.Go(func() {
			if err := c.worker(ctx); err != nil {
				cancel(err)
			}
		})
	}
	workers.Wait()
	c.buffers.close()
	close(stop)
	tuner.Wait()
}

// Bounds of the search for the number of requests in flight.
const (
	tuneWindow = 300 * time.Millisecond
	tuneGain   = 1.15
)

// tune doubles the requests in flight as long as that is faster.
func (c *copier) tune(stop <-chan struct{}, n, most int, rot bool) {
	rate := func() (float64, bool) {
		from, start := c.moved.Load(), time.Now()
		select {
		case <-stop:
			return 0, false
		case <-time.After(tuneWindow):
		}
		return float64(c.moved.Load()-from) / time.Since(start).Seconds(), true
	}
	if _, ok := rate(); !ok { // the disks' caches fill
		return
	}
	best, ok := rate()
	for ok && 2*n <= most {
		c.level(2*n, rot)
		if _, ok = rate(); !ok {
			return
		}
		var now float64
		if now, ok = rate(); !ok {
			return
		}
		if now < best*tuneGain {
			c.level(n, rot)
			return
		}
		n, best = 2*n, now
	}
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

func (c *copier) worker(ctx context.Context) error {
	for ctx.Err() == nil && c.work.take(ctx) {
		buf, err := c.buffers.take(c.request)
		more := false
		if err == nil {
			more, err = c.chunk(ctx, buf)
			c.buffers.give(buf)
		}
		c.work.give()
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// buffers are those for requests. The one that was used last is given out first: the
// processor's cache has it, and there are no more of them than requests in flight.
type buffers struct {
	mu   sync.Mutex
	free [][]byte
}

func (p *buffers) take(size int64) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		b := p.free[n-1]
		p.free = p.free[:n-1]
		return b, nil
	}
	b, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("cannot get memory for a request: %w", err)
	}
	return b, nil
}

func (p *buffers) give(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, b)
}

func (p *buffers) close() {
	for _, b := range p.free {
		_ = unix.Munmap(b)
	}
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

// synced has the disk write everything, and returns the state of the copy.
// finished is set if there was no error.
func (c *copier) synced(base *ddrescue.Map, finished bool) (*ddrescue.Map, error) {
	c.mu.Lock()
	var written []int
	for n, s := range c.state {
		if s == chunkWritten {
			written = append(written, n)
		}
	}
	careful := len(c.careful)
	c.mu.Unlock()
	err := c.dst.Sync()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		for _, n := range written {
			c.state[n] = chunkDone
		}
		c.carefulSynced = careful
	} else {
		err = fmt.Errorf("cannot write %s: %w", c.dst.Name(), err)
	}
	again := chunks{extents: c.chunks.extents, size: c.chunks.size}
	var blocks []ddrescue.Block
	pos := int64(0)
	for _, s := range c.state {
		e, _ := again.next()
		pos = e.Start
		status := ddrescue.NonTried
		switch s {
		case chunkDone:
			status = ddrescue.Finished
		case chunkFailed:
			status = ddrescue.NonTrimmed
		}
		if n := len(blocks); n > 0 && blocks[n-1].Status == status && blocks[n-1].Pos+blocks[n-1].Size == e.Start {
			blocks[n-1].Size += e.Length
			continue
		}
		blocks = append(blocks, ddrescue.Block{Pos: e.Start, Size: e.Length, Status: status})
	}
	m := base.Overlay(blocks).Overlay(c.careful[:c.carefulSynced])
	m.Pos, m.Pass, m.Phase = pos, 1, '?'
	switch {
	case finished && err == nil:
		m.Phase = '+'
	case careful > 0:
		m.Phase = '/'
	}
	return m, err
}

// checkpoints saves the state now and then, and reports the progress of the
// bottleneck, until stop is closed.
func (c *copier) checkpoints(stop <-chan struct{}, base *ddrescue.Map, cancel context.CancelCauseFunc) {
	every := cmp.Or(c.o.Every, 10*time.Second)
	next := time.Now().Add(every)
	tick := time.NewTicker(min(every, 500*time.Millisecond))
	defer tick.Stop()
	waiter, _ := c.o.Progress.(progress.Waiter)
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if waiter != nil {
			w := c.waits()
			waiter.Waits(w.Read, w.Write, w.Processor)
		}
		if c.o.Checkpoint == nil || time.Now().Before(next) {
			continue
		}
		start := time.Now()
		m, err := c.synced(base, false)
		if err == nil {
			err = c.o.Checkpoint(m)
		}
		if err != nil {
			cancel(err)
			return
		}
		// At most a twentieth of the time.
		next = time.Now().Add(max(every, 20*time.Since(start)))
	}
}

// waits are the shares of time until now.
func (c *copier) waits() Waits {
	r, w, p := float64(c.spent[spentRead].Load()), float64(c.spent[spentWrite].Load()), float64(c.spent[spentProcessor].Load())
	if sum := r + w + p; sum > 0 {
		return Waits{r / sum, w / sum, p / sum}
	}
	return Waits{}
}
