package volume

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// ErrLargeFrame means that a stream has a frame that no volume takes whole.
var ErrLargeFrame = fmt.Errorf("a zstd frame is larger than %d bytes", int64(MaxFrame))

var errCut = errors.New("the stream ends inside a zstd frame")

// frameReader gives a zstd stream frame by frame, undecoded (RFC 8878 3.1).
type frameReader struct {
	r     *bufio.Reader
	off   int64
	limit int // of a frame, bytes; 0 is MaxFrame
}

// wholeFrame is the largest first frame of a stream that is cut between frames.
// A larger one means a stream that was made in one piece, as zstd(1) does.
const wholeFrame = 16 << 20

// Stored reports whether a stream is to be stored: it is not zstd, or its first
// frame is larger than limit. It gives the stream from its beginning.
func Stored(r io.Reader, limit int64) (bool, io.Reader, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return false, nil, err
	}
	if !isFrame(head) {
		return true, br, nil
	}
	// A volume, or what is like one: its frames must not be taken for ours.
	if head, err := br.Peek(8 + tagLen); err == nil && ours(head) {
		return true, br, nil
	}
	f := &frameReader{r: br, limit: int(max(1, min(limit, wholeFrame)))} // 0 would be no limit
	b, err := f.frame(nil)
	// Any other fault is told where the stream is read.
	return errors.Is(err, ErrLargeFrame), io.MultiReader(bytes.NewReader(b), br), nil
}

// isFrame reports whether b begins a zstd or a skippable frame.
func isFrame(b []byte) bool {
	if len(b) < 4 {
		return false
	}
	m := binary.LittleEndian.Uint32(b)
	return m == zstdMagic || m&0xFFFFFFF0 == 0x184D2A50
}

// ours reports whether a frame is one that volumes are made of.
func ours(f []byte) bool {
	if len(f) < 8+tagLen || binary.LittleEndian.Uint32(f) != skippable {
		return false
	}
	tag := f[8 : 8+tagLen]
	return bytes.Equal(tag, tagHeader) || bytes.Equal(tag, tagCheck) || bytes.Equal(tag, tagEnd) || bytes.Equal(tag, tagPad)
}

// ErrNested means that a stream has a volume in it, behind something else: pasted
// back, its frames would be taken for those of the volumes around it.
var ErrNested = errors.New("the stream contains volumes of mkcdrec behind other data; cut it with -plain")

// next appends the next frame to b; io.EOF at the end of the stream.
func (f *frameReader) next(b []byte) ([]byte, error) {
	start := len(b)
	b, err := f.frame(b)
	if err == io.EOF && len(b) == start {
		return b, io.EOF
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = errCut
	}
	if err != nil {
		return b[:start], fmt.Errorf("at byte %d: %w", f.off, err)
	}
	f.off += int64(len(b) - start)
	return b, nil
}

func (f *frameReader) frame(b []byte) ([]byte, error) {
	t := &taker{r: f.r, limit: cmp.Or(f.limit, MaxFrame), start: len(b), b: b}
	m, err := t.take(4)
	if err != nil {
		return t.b, err
	}
	if !isFrame(m) {
		return t.b, fmt.Errorf("%x is not a zstd frame", m)
	}
	if binary.LittleEndian.Uint32(m) == zstdMagic {
		err = t.zstd()
	} else {
		err = t.skippable()
	}
	return t.b, err
}

// taker appends what it reads to b, at most limit bytes behind start.
type taker struct {
	r            io.Reader
	limit, start int
	b            []byte
}

// take reads n bytes and returns those that came.
func (t *taker) take(n int) ([]byte, error) {
	if len(t.b)-t.start+n > t.limit {
		return nil, ErrLargeFrame
	}
	at := len(t.b)
	// By steps: a length that is a lie must not cost memory.
	for left := n; left > 0; {
		step := min(left, 256<<10)
		t.b = slices.Grow(t.b, step)
		k, err := io.ReadFull(t.r, t.b[len(t.b):len(t.b)+step])
		t.b = t.b[:len(t.b)+k]
		if err != nil {
			if len(t.b) > at {
				err = noEOF(err)
			}
			return t.b[at:], err
		}
		left -= step
	}
	return t.b[at:], nil
}

// skippable takes the rest of a skippable frame, behind its magic number.
func (t *taker) skippable() error {
	n, err := t.take(4)
	if err != nil {
		return err
	}
	l := binary.LittleEndian.Uint32(n)
	if int64(l) > int64(t.limit) {
		return ErrLargeFrame
	}
	_, err = t.take(int(l))
	return noEOF(err)
}

// zstd takes the rest of a frame with data: RFC 8878, 3.1.1.
func (t *taker) zstd() error {
	d, err := t.take(1)
	if err != nil {
		return noEOF(err)
	}
	desc := d[0]
	if desc&0x08 != 0 {
		return errors.New("a zstd frame has a reserved bit")
	}
	single := desc&0x20 != 0
	n := [4]int{0, 1, 2, 4}[desc&3] + [4]int{0, 2, 4, 8}[desc>>6]
	if !single || desc>>6 == 0 {
		n++
	}
	if _, err := t.take(n); err != nil {
		return noEOF(err)
	}
	for last := false; !last; {
		h, err := t.take(3)
		if err != nil {
			return noEOF(err)
		}
		v := uint32(h[0]) | uint32(h[1])<<8 | uint32(h[2])<<16
		size := int(v >> 3)
		switch v >> 1 & 3 {
		case 1: // run-length: one byte
			size = 1
		case 3:
			return errors.New("a zstd block has a reserved type")
		}
		if _, err := t.take(size); err != nil {
			return noEOF(err)
		}
		last = v&1 == 1
	}
	if desc&0x04 != 0 {
		_, err = t.take(4)
	}
	return noEOF(err)
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
