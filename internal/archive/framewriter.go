package archive

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"github.com/mkcdrec/mkcdrec/internal/frames"
)

// MemoryLimit is what a process that does little else than Create or Extract
// should give to memory.Limit, so that its resident memory stays below
// 64 MiB and 16 MiB a core, program and stacks included.
func MemoryLimit() int64 { return 40<<20 + 14<<20*int64(runtime.GOMAXPROCS(0)) }

// Level is how hard the compressor tries.
type Level = zstd.EncoderLevel

// Levels, from fast to small.
const (
	Fastest = zstd.SpeedFastest
	Default = zstd.SpeedDefault
	Better  = zstd.SpeedBetterCompression
)

// frameWriter cuts a stream into frames, compresses them on all cores and
// writes them in order. One goroutine fills it. Its memory is bounded by the
// number of buffers: workers+2 of FrameSize, and as many packed ones.
type frameWriter struct {
	w      io.Writer
	cur    []byte
	free   chan []byte
	packed chan []byte
	jobs   chan *frameJob
	order  chan *frameJob
	done   chan struct{}
	cancel context.CancelFunc
	ctx    context.Context

	frames []frames.Frame
	cuts   int   // frames ended so far
	tar    int64 // bytes of tar stream taken so far
	offset int64 // bytes written to w; owned by the output goroutine
	sum    hash.Hash
	err    atomic.Pointer[error]
	once   sync.Once
	plain  bool // the tar stream is written as it is
	limit  int  // frames that it may have; frames.Max
}

type frameJob struct {
	raw, packed []byte
	sum         [32]byte
	ready       chan struct{}
}

func newFrameWriter(ctx context.Context, w io.Writer, level Level, workers int) (*frameWriter, error) {
	n := workers + 2
	fw := &frameWriter{w: w, free: make(chan []byte, n), packed: make(chan []byte, n), jobs: make(chan *frameJob, workers), order: make(chan *frameJob, n), done: make(chan struct{}), sum: sha256.New(), limit: frames.Max}
	fw.ctx, fw.cancel = context.WithCancel(ctx)
	for range n {
		fw.free <- nil
		fw.packed <- nil
	}
	var encs []*zstd.Encoder
	for range workers {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(FrameSize), zstd.WithEncoderCRC(true), zstd.WithSingleSegment(true))
		if err != nil {
			return nil, err
		}
		encs = append(encs, e)
	}
	for _, e := range encs {
		go fw.compress(e)
	}
	go fw.output()
	fw.take()
	return fw, nil
}

// newPlainWriter writes the tar stream itself, in pieces of FrameSize.
func newPlainWriter(ctx context.Context, w io.Writer) *frameWriter {
	const n = 3
	fw := &frameWriter{w: w, free: make(chan []byte, n), packed: make(chan []byte, n), jobs: make(chan *frameJob, n), order: make(chan *frameJob, n), done: make(chan struct{}), plain: true}
	fw.ctx, fw.cancel = context.WithCancel(ctx)
	for range n {
		fw.free <- nil
		fw.packed <- nil
	}
	go func() {
		for j := range fw.jobs {
			close(j.ready)
		}
	}()
	go fw.output()
	fw.take()
	return fw
}

func (fw *frameWriter) compress(e *zstd.Encoder) {
	for j := range fw.jobs {
		j.packed = e.EncodeAll(j.raw, j.packed[:0])
		j.sum = sha256.Sum256(j.packed)
		close(j.ready)
	}
}

func (fw *frameWriter) output() {
	defer close(fw.done)
	for j := range fw.order {
		<-j.ready
		if fw.plain && fw.err.Load() == nil {
			fw.write(j.raw)
		} else if fw.err.Load() == nil {
			fw.frames = append(fw.frames, frames.Frame{Offset: fw.offset, Packed: int64(len(j.packed)), Size: int64(len(j.raw)), SHA256: j.sum})
			fw.write(j.packed)
		}
		fw.free <- j.raw
		fw.packed <- j.packed
	}
}

func (fw *frameWriter) write(b []byte) {
	n, err := fw.w.Write(b)
	fw.offset += int64(n)
	if !fw.plain {
		fw.sum.Write(b[:n])
	}
	if err != nil {
		fw.fail(err)
	}
}

func (fw *frameWriter) fail(err error) {
	fw.err.CompareAndSwap(nil, &err)
	fw.cancel()
}

// take gets an empty buffer; it waits for the compressors when all are full.
func (fw *frameWriter) take() {
	fw.cur = <-fw.free
	if fw.cur == nil {
		fw.cur = make([]byte, 0, FrameSize)
	}
	fw.cur = fw.cur[:0]
}

// failed gives the first error, sticky.
func (fw *frameWriter) failed() error {
	if p := fw.err.Load(); p != nil {
		return *p
	}
	return fw.ctx.Err()
}

// cut ends the frame. It does nothing when the frame is empty.
func (fw *frameWriter) cut() error {
	if err := fw.failed(); err != nil {
		return err
	}
	if len(fw.cur) == 0 {
		return nil
	}
	if fw.cuts++; fw.cuts > fw.limit && !fw.plain {
		err := fmt.Errorf("it has more than %d frames, the most that an archive can have", fw.limit)
		fw.fail(err)
		return err
	}
	j := &frameJob{raw: fw.cur, packed: <-fw.packed, ready: make(chan struct{})}
	fw.order <- j
	fw.jobs <- j
	fw.take()
	return nil
}

// Write takes tar bytes.
func (fw *frameWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if len(fw.cur) == FrameSize {
			if err := fw.cut(); err != nil {
				return 0, err
			}
		}
		n := min(FrameSize-len(fw.cur), len(p))
		fw.cur = append(fw.cur, p[:n]...)
		fw.tar += int64(n)
		p = p[n:]
	}
	return total, nil
}

// room gives up to n bytes of the frame to be filled in place; commit reports
// how many of them were.
func (fw *frameWriter) room(n int64) ([]byte, error) {
	if len(fw.cur) == FrameSize {
		if err := fw.cut(); err != nil {
			return nil, err
		}
	}
	have := len(fw.cur)
	return fw.cur[have:min(int64(FrameSize), int64(have)+n)], nil
}

func (fw *frameWriter) commit(n int) {
	fw.cur = fw.cur[:len(fw.cur)+n]
	fw.tar += int64(n)
}

var zeros [blockSize * 2]byte

// zero writes n zero bytes.
func (fw *frameWriter) zero(n int64) error {
	for n > 0 {
		k, err := fw.Write(zeros[:min(n, int64(len(zeros)))])
		if err != nil {
			return err
		}
		n -= int64(k)
	}
	return nil
}

// finish ends the tar stream and writes the table of contents and the seek
// table, both to index, too, if that is not nil. stop must be called in any case.
func (fw *frameWriter) finish(toc *tocWriter, index io.Writer) error {
	if err := fw.zero(2 * blockSize); err != nil {
		return err
	}
	err := fw.cut()
	fw.stop()
	if err != nil {
		return err
	}
	if err := fw.failedHard(); err != nil || fw.plain {
		return err
	}
	payload, size, err := toc.finish(fw.frames, fw.tar)
	if err != nil {
		return fmt.Errorf("cannot make table of contents: %w", err)
	}
	to := io.Writer(written{fw})
	if index != nil {
		to = io.MultiWriter(to, index)
	}
	if err := frames.WriteIndex(to, fw.frames, payload, size); err != nil {
		return err
	}
	return fw.failedHard()
}

// written is the archive itself.
type written struct{ fw *frameWriter }

func (w written) Write(b []byte) (int, error) {
	w.fw.write(b)
	return len(b), w.fw.failedHard()
}

// failedHard ignores the cancelling that stop itself does.
func (fw *frameWriter) failedHard() error {
	if p := fw.err.Load(); p != nil {
		return *p
	}
	return nil
}

// stop ends the goroutines; it may be called twice.
func (fw *frameWriter) stop() {
	fw.once.Do(func() {
		close(fw.jobs)
		close(fw.order)
		<-fw.done
		fw.cancel()
	})
}
