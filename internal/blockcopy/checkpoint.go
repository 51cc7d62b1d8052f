package blockcopy

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/ddrescue"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// Waits is what the copy waited for, as shares of the time of all requests: the
// largest is the bottleneck. They add up to 1.
type Waits struct{ Read, Write, Processor float64 }

// String names the bottleneck: "read 71 %, write 28 %, processor 1 %".
func (w Waits) String() string {
	return fmt.Sprintf("read %.0f %%, write %.0f %%, processor %.0f %%", 100*w.Read, 100*w.Write, 100*w.Processor)
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
