package archive

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// readBlock is what is given up at once where a file can't be read, in bytes:
// the size of a page, in which the kernel reads.
const readBlock = 4096

// maxRanges is how many unreadable ranges of one file are listed.
const maxRanges = 100

// badRanges collects what of a file could not be read.
type badRanges struct {
	list  []Segment // the first ones
	more  int       // how many there are besides
	end   int64     // of the last one
	bytes int64
	err   error // the first
}

func (b *badRanges) add(off, n int64, err error) {
	if b.err == nil {
		b.err = err
	}
	next := off == b.end && b.bytes > 0
	b.bytes, b.end = b.bytes+n, off+n
	switch k := len(b.list); {
	case next && b.more == 0:
		b.list[k-1].Length += n
	case next:
	case k < maxRanges:
		b.list = append(b.list, Segment{off, n})
	default:
		b.more++
	}
}

func (b *badRanges) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "read error: %v; %d bytes are filled with zero bytes: ", b.err, b.bytes)
	for i, r := range b.list {
		if i > 0 {
			s.WriteString(", ")
		}
		fmt.Fprintf(&s, "%d to %d", r.Offset, r.Offset+r.Length-1)
	}
	if b.more > 0 {
		fmt.Fprintf(&s, ", and %d more ranges", b.more)
	}
	return s.String()
}

// pread reads at off. It waits, but not for ever, where a mandatory lock
// (Linux before 5.15) or a network file system answers EAGAIN.
func (c *creator) pread(fd int, b []byte, off int64) (n int, err error) {
	read := c.opt.pread
	if read == nil {
		read = unix.Pread
	}
	for {
		n, err = read(fd, b, off)
		if err == unix.EINTR {
			continue
		}
		if err != unix.EAGAIN {
			return n, err
		}
		if c.until.IsZero() {
			c.until = time.Now().Add(c.patience())
		} else if time.Now().After(c.until) {
			return n, err
		}
		select {
		case <-c.ctx.Done():
			return 0, c.ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// run reads one run of data into the frames. What can't be read costs its own
// block, which is filled with zero bytes and added to bad. Missing bytes at the
// end become zero bytes, too, so that the stream stays in step: the caller
// reports them as Shrunk.
func (c *creator) run(fd int, s Segment, bad *badRanges) error {
	step := int64(FrameSize)
	c.sumSegment(s)
	for s.Length > 0 {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		buf, err := c.fw.room(min(s.Length, step))
		if err != nil {
			return err
		}
		n, err := c.pread(fd, buf, s.Offset)
		switch {
		case c.ctx.Err() != nil:
			return c.ctx.Err()
		case err != nil && int64(len(buf)) > readBlock:
			step = readBlock
			continue
		case err != nil:
			// Up to the end of its block, so that the next one is read whole.
			skip := min(s.Length, readBlock-s.Offset%readBlock)
			bad.add(s.Offset, skip, err)
			if err := c.fw.zero(skip); err != nil {
				return err
			}
			step = readBlock
			n = int(skip)
		case n <= 0:
			return c.fw.zero(s.Length)
		default:
			c.sumBytes(buf[:n])
			c.fw.commit(n)
			step = min(step*4, FrameSize)
		}
		if c.opt.Progress != nil {
			c.opt.Progress.Add(int64(n))
		}
		s.Offset += int64(n)
		s.Length -= int64(n)
	}
	return nil
}

// maxSegments is how many runs of data a sparse file may have: what a reader
// keeps in memory of one file is then at most 64 MiB.
const maxSegments = 1 << 22

// segmentList collects runs of data. Where there are more than limit, the smallest
// holes are taken for data: they are read and stored as zero bytes.
type segmentList struct {
	list  []Segment
	hole  int64 // holes below this size are filled
	limit int
}

func newSegmentList() *segmentList { return &segmentList{list: []Segment{}, limit: maxSegments} }

func (l *segmentList) add(off, n int64) {
	l.list = l.join(l.list, off, n)
	for len(l.list) > l.limit {
		l.hole = max(2*l.hole, 2*holeSize)
		out := l.list[:0]
		for _, s := range l.list {
			out = l.join(out, s.Offset, s.Length)
		}
		l.list = out
	}
}

func (l *segmentList) join(list []Segment, off, n int64) []Segment {
	if k := len(list) - 1; k >= 0 {
		if gap := off - list[k].Offset - list[k].Length; gap == 0 || gap < l.hole {
			list[k].Length = off + n - list[k].Offset
			return list
		}
	}
	return append(list, Segment{off, n})
}

// holes finds the runs of data; false when the file has no hole or the file
// system can't tell.
func holes(fd int, size int64) ([]Segment, bool) {
	seek := func(off int64, whence int) (at int64, err error) {
		err = quietly(func() (err error) { at, err = unix.Seek(fd, off, whence); return err })
		return at, err
	}
	segs := newSegmentList()
	for off := int64(0); off < size; {
		d, err := seek(off, unix.SEEK_DATA)
		if err == unix.ENXIO || err == nil && d >= size {
			break
		}
		if err != nil || d < off {
			return nil, false
		}
		h, err := seek(d, unix.SEEK_HOLE)
		if err != nil || h <= d {
			return nil, false
		}
		h = min(h, size)
		segs.add(d, h-d)
		off = h
	}
	if len(segs.list) == 1 && segs.list[0] == (Segment{0, size}) {
		return nil, false
	}
	return segs.list, true
}

// holeSize is what zeros takes for a hole at least, and its alignment: the block
// size of most file systems.
const holeSize = 4096

var zeroBlock [holeSize]byte

// zeros finds the runs of data in a file that has fewer blocks than it needs on a
// file system that can't tell where its holes are (JFS), by reading it; false
// when there is no block of zero bytes. A block that can't be read is data: what
// is wrong with it shows when it is read for the archive.
func (c *creator) zeros(fd int, size int64) ([]Segment, bool) {
	if c.block == nil {
		c.block = make([]byte, 64*holeSize)
	}
	segs := newSegmentList()
	step := len(c.block)
	for off := int64(0); off < size; {
		if c.ctx != nil && c.ctx.Err() != nil {
			return nil, false
		}
		n, err := c.pread(fd, c.block[:min(size-off, int64(step))], off)
		if err != nil {
			if step > holeSize {
				step = holeSize
				continue
			}
			n = int(min(holeSize, size-off))
			segs.add(off, int64(n))
			off += int64(n)
			continue
		}
		step = len(c.block)
		if n <= 0 {
			break // it became shorter
		}
		for i := 0; i < n; i += holeSize {
			b := c.block[i:min(i+holeSize, n)]
			if !bytes.Equal(b, zeroBlock[:len(b)]) {
				segs.add(off+int64(i), int64(len(b)))
			}
		}
		off += int64(n)
	}
	data := int64(0)
	for _, s := range segs.list {
		data += s.Length
	}
	return segs.list, data < size
}
