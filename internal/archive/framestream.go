package archive

import (
	"context"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// frameBuf is a decoded frame shared by those who still write from it.
type frameBuf struct {
	b    []byte
	mem  []byte
	refs atomic.Int32
	home chan []byte
}

func (f *frameBuf) hold() { f.refs.Add(1) }

func (f *frameBuf) release() {
	if f.refs.Add(-1) == 0 {
		f.home <- f.mem
	}
}

// frameStream decodes a run of frames on all cores and gives them in order.
// The number of buffers bounds its memory: holding frames slows it down.
type frameStream struct {
	order  chan chan frameResult
	cur    *frameBuf
	rest   []byte
	pos    int64 // offset in the tar stream
	limit  int64 // where reading ends with an error; 0 for nowhere
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

type frameResult struct {
	f    *frameBuf
	err  error
	size int64 // of the frame, in bytes of the tar stream
}

// readJob is a frame to be decoded.
type readJob struct {
	i      int
	buf    []byte
	packed []byte // what was read already, or nil
	err    error
	out    chan frameResult
}

// stream decodes the frames from to to-1.
func (a *Reader) stream(ctx context.Context, from, to, workers int, prog progress.Counter) (*frameStream, error) {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	bufs := 2*workers + 4
	s := &frameStream{order: make(chan chan frameResult, bufs)}
	if from < len(a.frames) {
		s.pos = a.frames[from].TarStart
	}
	ctx, s.cancel = context.WithCancel(ctx)
	home := make(chan []byte, bufs)
	for range bufs {
		home <- nil
	}
	jobs := make(chan readJob)
	for range workers {
		d, err := newDecoder()
		if err != nil {
			s.cancel()
			return nil, err
		}
		s.wg.Go(func() {
			defer d.z.Close()
			for j := range jobs {
				r := a.decodeJob(d, j, home)
				if prog != nil {
					prog.Add(r.size)
				}
				j.out <- r
			}
		})
	}
	// Buffers are given out in frame order, so the frame that is waited for
	// always has one.
	s.wg.Go(func() {
		defer close(jobs)
		defer close(s.order)
		for i := from; i < to; i++ {
			var buf []byte
			select {
			case buf = <-home:
			case <-ctx.Done():
				return
			}
			j := readJob{i: i, buf: buf, out: make(chan frameResult, 1)}
			if a.inOrder {
				f := a.frames[i]
				j.packed = make([]byte, f.Packed)
				if _, err := a.r.ReadAt(j.packed, f.Offset); err != nil {
					j.err = &DamagedError{a.name, i, f.Offset, err}
				}
			}
			select {
			case jobs <- j:
			case <-ctx.Done():
				return
			}
			s.order <- j.out
		}
	})
	return s, nil
}

// decodeJob decodes a job's frame into its buffer, which goes home when it is released.
func (a *Reader) decodeJob(d *decoder, j readJob, home chan []byte) frameResult {
	if j.buf == nil {
		j.buf = make([]byte, FrameSize)
	}
	var out []byte
	err := j.err
	switch {
	case err != nil:
	case j.packed != nil:
		out, err = a.decode(d, j.i, j.packed, j.buf, false)
	default:
		out, err = a.read(d, j.i, j.buf, false)
	}
	f := &frameBuf{b: out, mem: j.buf, home: home}
	f.refs.Store(1)
	return frameResult{f, err, a.frames[j.i].Size}
}

// stop ends the stream, and gives back what is held of it.
func (s *frameStream) stop() {
	if s.cur != nil {
		s.cur.release()
		s.cur = nil
	}
	s.cancel()
	for range s.order {
	}
	s.wg.Wait()
}

// chunk gives the next bytes of the stream, at most n, from a single frame;
// io.EOF at the end. They stay valid while s.cur is held.
func (s *frameStream) chunk(n int64) ([]byte, error) {
	if s.limit > 0 {
		if s.pos >= s.limit {
			return nil, io.EOF
		}
		n = min(n, s.limit-s.pos)
	}
	for len(s.rest) == 0 {
		if s.cur != nil {
			s.cur.release()
			s.cur = nil
		}
		c, ok := <-s.order
		if !ok {
			return nil, io.EOF
		}
		r := <-c
		if r.err != nil {
			if r.f != nil {
				r.f.release()
			}
			s.pos += r.size
			return nil, r.err
		}
		s.cur, s.rest = r.f, r.f.b
	}
	k := min(n, int64(len(s.rest)))
	b := s.rest[:k]
	s.rest = s.rest[k:]
	s.pos += k
	return b, nil
}
