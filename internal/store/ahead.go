package store

import (
	"io"
	"sync"
)

const (
	// smallBlock is how much is asked for at once where small pieces are read.
	smallBlock = 1 << 20
	// keptBlocks is how many blocks of a file are kept.
	keptBlocks = 4
	// cachedBlocks is how many are kept for readers side by side.
	cachedBlocks = 24
)

// ahead is a file on a server whose small reads are answered from blocks. Reads of at least
// half a block, as an archive's frames are, go to the server as they are.
type ahead struct {
	File
	size int64 // of a block
	kept int   // blocks

	mu     sync.Mutex
	blocks []*aheadBlock // the last used one at the end
}

type aheadBlock struct {
	index int64
	once  sync.Once
	b     []byte
	err   error
}

func readAhead(f File, size int64) File { return &ahead{File: f, size: size, kept: keptBlocks} }

// Cached is a ReaderAt over a file that reads whole blocks of 1 MiB for readers of small pieces, and
// keeps the last 24. A file on a disk of this machine is returned as it is: the kernel does that.
func Cached(f File) io.ReaderAt {
	if _, ok := f.(osFile); ok {
		return f
	}
	return &ahead{File: f, size: smallBlock, kept: cachedBlocks}
}

// ReadAt implements io.ReaderAt.
func (a *ahead) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= a.Size() || int64(len(p)) >= a.size/2 {
		return a.File.ReadAt(p, off)
	}
	n := 0
	for n < len(p) && off < a.Size() {
		b := a.block(off / a.size)
		b.once.Do(func() {
			at := b.index * a.size
			b.b = make([]byte, min(a.size, a.Size()-at))
			var got int
			if got, b.err = a.File.ReadAt(b.b, at); got == len(b.b) {
				b.err = nil
			}
		})
		if b.err != nil {
			a.forget(b)
			return n, b.err
		}
		k := copy(p[n:], b.b[off%a.size:])
		n, off = n+k, off+int64(k)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// block gives a block, which may have to be read.
func (a *ahead) block(index int64) *aheadBlock {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, b := range a.blocks {
		if b.index == index {
			copy(a.blocks[i:], a.blocks[i+1:])
			a.blocks[len(a.blocks)-1] = b
			return b
		}
	}
	b := &aheadBlock{index: index}
	if len(a.blocks) == a.kept {
		a.blocks = append(a.blocks[:0], a.blocks[1:]...)
	}
	a.blocks = append(a.blocks, b)
	return b
}

// forget drops a block that could not be read.
func (a *ahead) forget(bad *aheadBlock) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, b := range a.blocks {
		if b == bad {
			a.blocks = append(a.blocks[:i], a.blocks[i+1:]...)
			return
		}
	}
}

// readWhole is ReadAt by a function that reads all of a piece inside the file.
func readWhole(p []byte, off, size int64, read func(want []byte) (int, error)) (int, error) {
	if off < 0 || off >= size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), size-off)]
	if len(want) == 0 {
		return 0, nil
	}
	got, err := read(want)
	if err == nil && got < len(p) {
		err = io.EOF
	}
	return got, err
}
