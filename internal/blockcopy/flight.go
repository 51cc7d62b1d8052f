package blockcopy

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

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
