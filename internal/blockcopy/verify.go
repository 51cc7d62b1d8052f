package blockcopy

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// maxDifferences is how many ranges a Verification lists.
const maxDifferences = 100

// Verification is the result of Verify.
type Verification struct {
	// Compared is how many bytes were compared, Different how many bytes are in
	// sectors that differ.
	Compared, Different int64
	// First are the first ranges that differ, in whole sectors of 512 bytes, sorted,
	// at most 100.
	First []Extent
	// Unreadable are ranges of the target that can't be read; of the source too,
	// where Verify was not told of them.
	Unreadable []Extent
	ReadError  error // the first
}

// OK reports whether everything was compared and nothing differs.
func (v *Verification) OK() bool { return v.Different == 0 && len(v.Unreadable) == 0 }

// String describes what differs, for a message: "12288 bytes differ: bytes 512 to 1023,
// ...".
func (v *Verification) String() string {
	if v.OK() {
		return fmt.Sprintf("%d bytes are equal", v.Compared)
	}
	text := ""
	list := func(all []Extent) {
		const most = 5
		for i, e := range all[:min(len(all), most)] {
			if i > 0 {
				text += ","
			}
			text += fmt.Sprintf(" %d to %d", e.Start, e.Start+e.Length-1)
		}
		if len(all) > most {
			text += " and more"
		}
	}
	if v.Different > 0 {
		text = fmt.Sprintf("%d bytes differ: bytes", v.Different)
		list(v.First)
	}
	if len(v.Unreadable) > 0 {
		if text != "" {
			text += "; "
		}
		text += fmt.Sprintf("cannot read (%v): bytes", v.ReadError)
		list(v.Unreadable)
	}
	return text
}

// Verify reads the parts in use of m from both disks, past the page cache or after
// emptying it, and compares. except are ranges that were bad when the copy was
// made, and are left out. Errors are the end of ctx and a disk that was
// disconnected; differences are in the result.
func Verify(ctx context.Context, dst, src *Device, m *Map, except []Extent, p progress.Counter) (*Verification, error) {
	for _, d := range []*Device{dst, src} {
		_ = unix.Fsync(int(d.Fd())) // fails on devices opened for reading on some kernels; forget writes, too
		d.Forget()
	}
	if p == nil {
		p = progress.None{}
	}
	request, workers := int64(requestSSD), 4
	if rotational(dst.File) || rotational(src.File) {
		request, workers = requestHDD, 2
	}
	grain := max(dst.grain, src.grain)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &comparer{devices: []*Device{dst, src}, grain: grain, progress: p, todo: chunks{extents: without(m, except).Used, size: max(request, grain)}}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			if err := c.work(ctx); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	c.First = firstOf(c.First)
	c.Unreadable = (&Map{Used: c.Unreadable}).tidy().Used
	return &c.Verification, context.Cause(ctx)
}

// without gives the ranges of m in use without the exceptions.
func without(m *Map, except []Extent) *Map {
	left := &Map{Size: m.Size}
	skip := (&Map{Size: m.Size, Used: slices.Clone(except)}).tidy()
	for _, e := range m.Used {
		at := e.Start
		for _, x := range skip.within(e.Start, e.Length) {
			left.add(at, x.Start-at)
			at = x.Start + x.Length
		}
		left.add(at, e.Start+e.Length-at)
	}
	return left
}

// comparer compares two devices in several goroutines.
type comparer struct {
	devices  []*Device
	grain    int64
	progress progress.Counter
	mu       sync.Mutex // of what follows
	todo     chunks
	Verification
}

// work compares one chunk after the other until there are no more.
func (c *comparer) work(ctx context.Context) error {
	// Twice the alignment is room for both ends of a range that has none.
	bufs := make([][]byte, 2)
	for i := range bufs {
		b, err := unix.Mmap(-1, 0, int(c.todo.size+2*c.grain), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return fmt.Errorf("cannot get memory for a request: %w", err)
		}
		defer func() { _ = unix.Munmap(b) }()
		bufs[i] = b
	}
	for ctx.Err() == nil {
		c.mu.Lock()
		e, ok := c.todo.next()
		c.mu.Unlock()
		if !ok {
			break
		}
		if err := c.compare(e, bufs); err != nil {
			return err
		}
	}
	return nil
}

// compare compares a chunk. An error is one that ends the comparison.
func (c *comparer) compare(e Extent, bufs [][]byte) error {
	defer c.progress.Add(e.Length)
	var got [2][]byte
	for i, d := range c.devices {
		b, err := readWide(past{d}, bufs[i], e, c.grain)
		if err != nil && fatal(err) {
			return fmt.Errorf("cannot read %s at byte %d: %w", d.Name(), e.Start, err)
		}
		if err != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.Unreadable = append(c.Unreadable, e)
			if c.ReadError == nil {
				c.ReadError = fmt.Errorf("%s: %w", d.Name(), err)
			}
			return nil
		}
		got[i] = b
	}
	var found []Extent
	if !bytes.Equal(got[0], got[1]) {
		found = differences(got[0], got[1], e.Start)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Compared += e.Length
	for _, x := range found {
		c.Different += x.Length
	}
	c.First = append(c.First, found...)
	if len(c.First) > 1000*maxDifferences {
		c.First = firstOf(c.First)
	}
	return nil
}

// readWide reads a range, and what is around it as far as the alignment wants.
func readWide(r io.ReaderAt, buf []byte, e Extent, grain int64) ([]byte, error) {
	from, to := e.Start&^(grain-1), (e.Start+e.Length+grain-1)&^(grain-1)
	n, err := r.ReadAt(buf[:to-from], from)
	if in := e.Start - from; int64(n) >= in+e.Length {
		return buf[in : in+e.Length], nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return nil, err
}

// differences returns the sectors of 512 bytes in which a and b differ; off is
// where they are.
func differences(a, b []byte, off int64) []Extent {
	m := &Map{Size: off + int64(len(a))}
	for at := int64(0); at < int64(len(a)); {
		end := min((off+at)/smallest*smallest+smallest-off, int64(len(a)))
		if !bytes.Equal(a[at:end], b[at:end]) {
			m.add(off+at, end-at)
		}
		at = end
	}
	return m.Used
}

// firstOf sorts and joins ranges, and keeps the first maxDifferences.
func firstOf(all []Extent) []Extent {
	slices.SortFunc(all, func(a, b Extent) int { return cmp.Compare(a.Start, b.Start) })
	all = (&Map{Used: all}).tidy().Used
	return all[:min(len(all), maxDifferences)]
}
