package store

import (
	"io"
	"sync"
)

// Blocks of Cached: as large as the frame of an archive, and some of them for readers
// side by side.
const (
	cacheBlock  = 1 << 20
	cacheBlocks = 24
)

// Cached is a ReaderAt over a file that reads whole blocks of 1 MiB and keeps the last 24, for
// readers of small pieces. A file on a disk of this machine is returned as it is: the kernel
// does that.
func Cached(f File) io.ReaderAt {
	if _, ok := f.(osFile); ok {
		return f
	}
	return &cached{f: f, blocks: map[int64]*block{}}
}

type cached struct {
	f      File
	mu     sync.Mutex
	blocks map[int64]*block
	order  []int64 // of their last use, the oldest first
}

type block struct {
	once sync.Once
	data []byte
	err  error
}

func (c *cached) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		at := off + int64(n)
		if at >= c.f.Size() {
			return n, io.EOF
		}
		b := c.block(at / cacheBlock)
		b.once.Do(func() {
			start := at / cacheBlock * cacheBlock
			b.data = make([]byte, min(cacheBlock, c.f.Size()-start))
			k, err := c.f.ReadAt(b.data, start)
			if k < len(b.data) {
				b.err = err
			}
		})
		if b.err != nil {
			c.drop(at/cacheBlock, b) // the next reader tries again
			return n, b.err
		}
		n += copy(p[n:], b.data[at%cacheBlock:])
	}
	return n, nil
}

// block gives a block, which may still have to be read.
func (c *cached) block(i int64) *block {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, x := range c.order {
		if x == i {
			c.order = append(append(c.order[:k:k], c.order[k+1:]...), i)
			return c.blocks[i]
		}
	}
	if len(c.order) == cacheBlocks {
		delete(c.blocks, c.order[0])
		c.order = c.order[1:]
	}
	c.order = append(c.order, i)
	c.blocks[i] = &block{}
	return c.blocks[i]
}

func (c *cached) drop(i int64, b *block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blocks[i] != b {
		return
	}
	delete(c.blocks, i)
	for k, x := range c.order {
		if x == i {
			c.order = append(c.order[:k:k], c.order[k+1:]...)
			return
		}
	}
}
