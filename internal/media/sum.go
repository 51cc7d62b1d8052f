package media

import (
	"crypto/md5"
	"encoding"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// The implanted sum of Red Hat's isomd5sum, which checkisomd5 and other
// systems' installers read: a text in the volume descriptor's application
// area, the MD5 of the volume without its last sectors, where that area counts
// as spaces; and the first digits of the sums up to each of 20 points.
const (
	appOffset     = 16*sector + 883
	appLen        = 512
	skipSectors   = 15
	fragments     = 20
	fragmentSize  = 3 // digits
	sumBuffer     = 32 << 10
	sumText       = "ISO MD5SUM = %s;SKIPSECTORS = %d;RHLISOSTATUS=1;FRAGMENT SUMS = %s;FRAGMENT COUNT = %d;THIS IS NOT THE SAME AS RUNNING MD5SUM ON THIS ISO!!"
	sumTextPrefix = "ISO MD5SUM = "
)

// isoSum takes the sum of a stream.
type isoSum struct {
	h         hash.Hash
	off       int64
	total     int64 // bytes that count
	fragment  int64
	previous  int64
	fragsums  strings.Builder
	remainder []byte // fragments are cut at the original's buffers
}

func newISOSum(volume int64) *isoSum {
	total := volume - skipSectors*sector
	return &isoSum{h: md5.New(), total: total, fragment: total / (fragments + 1)}
}

func (s *isoSum) Write(p []byte) (int, error) {
	n := len(p)
	if len(s.remainder) > 0 {
		k := min(sumBuffer-len(s.remainder), len(p))
		s.remainder = append(s.remainder, p[:k]...)
		p = p[k:]
		if len(s.remainder) < sumBuffer {
			return n, nil
		}
		s.block(s.remainder)
		s.remainder = s.remainder[:0]
	}
	for ; len(p) >= sumBuffer; p = p[sumBuffer:] {
		s.block(p[:sumBuffer])
	}
	s.remainder = append(s.remainder, p...)
	return n, nil
}

func (s *isoSum) block(b []byte) {
	if s.off >= s.total {
		return
	}
	b = b[:min(int64(len(b)), s.total-s.off)]
	s.h.Write(b)
	if s.fragment > 0 {
		if cur := s.off / s.fragment; cur != s.previous {
			s.previous = cur
			s.fragsums.WriteString(s.digits())
		}
	}
	s.off += int64(len(b))
}

// digits are the first hexadecimal digits of the sum so far: of each of its
// first bytes, printed without leading zero, the first.
func (s *isoSum) digits() string {
	st, err := s.h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return ""
	}
	c := md5.New()
	if err := c.(encoding.BinaryUnmarshaler).UnmarshalBinary(st); err != nil {
		return ""
	}
	var b strings.Builder
	for _, x := range c.Sum(nil)[:fragmentSize] {
		b.WriteByte(strconv.FormatUint(uint64(x), 16)[0])
	}
	return b.String()
}

func (s *isoSum) text() string {
	s.block(s.remainder)
	t := fmt.Sprintf(sumText, hex.EncodeToString(s.h.Sum(nil)), skipSectors, s.fragsums.String(), fragments)
	return t + strings.Repeat(" ", max(0, appLen-len(t)))
}

// region is a file that lies at a byte of the image: one of the host, or one
// that is made now.
type region struct {
	path     string // in the image
	at, size int64
	source   string
	make     func(io.Writer) error
}

type chunk struct{ b []byte }

// made writes a region that is made now. What is written goes through buffers
// of free, which done gives back.
func made(f *os.File, r region, done func([]byte), free chan []byte) error {
	w := &madeWriter{f: f, r: r, to: r.at, done: done, free: free}
	if err := r.make(w); err != nil {
		return fmt.Errorf("%s: %w", r.path, err)
	}
	if n := w.to - r.at + int64(len(w.b)); n != r.size {
		return fmt.Errorf("%s has %d bytes, not the %d that were planned", r.path, n, r.size)
	}
	return w.flush()
}

type madeWriter struct {
	f    *os.File
	r    region
	to   int64
	b    []byte
	done func([]byte)
	free chan []byte
}

func (w *madeWriter) Write(p []byte) (int, error) {
	n := len(p)
	if w.to-w.r.at+int64(len(w.b)+n) > w.r.size {
		return 0, fmt.Errorf("more than the %d bytes that were planned", w.r.size)
	}
	for len(p) > 0 {
		if w.b == nil {
			w.b = (<-w.free)[:0]
		}
		k := min(len(p), cap(w.b)-len(w.b))
		w.b = append(w.b, p[:k]...)
		p = p[k:]
		if len(w.b) == cap(w.b) {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (w *madeWriter) flush() error {
	if w.b == nil {
		return nil
	}
	if _, err := w.f.WriteAt(w.b, w.to); err != nil {
		return err
	}
	w.to += int64(len(w.b))
	w.done(w.b)
	w.b = nil
	return nil
}

// complete copies the regions' files to their places, given in order, and implants the sum of
// the volume: one pass, in order, the sum taken beside.
func complete(f *os.File, volume int64, regions []region) error {
	c := &completer{f: f, behind: regular.Behind{File: f}, sum: newISOSum(volume), full: make(chan chunk, 4), free: make(chan []byte, 4)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := range c.full {
			_, _ = c.sum.Write(b.b) // never fails
			c.free <- b.b[:cap(b.b)]
		}
	}()
	for range 4 {
		c.free <- make([]byte, 1<<20)
	}
	err := c.regions(volume, regions)
	close(c.full)
	<-done
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(c.sum.text()), appOffset)
	return err
}

// completer passes an image on to its sum, while another goroutine takes that.
type completer struct {
	f      *os.File
	behind regular.Behind // f: the disk works while the sum is taken, not only at the end
	sum    *isoSum
	full   chan chunk
	free   chan []byte
}

// regions writes the regions and reads what is between them.
func (c *completer) regions(volume int64, regions []region) error {
	pos := int64(0)
	for _, r := range append(regions, region{at: volume}) {
		if r.at < pos || r.at+r.size > volume {
			return errors.New("files overlap in the image")
		}
		if err := c.pass(c.f, pos, r.at-pos, 0, false); err != nil {
			return fmt.Errorf("cannot read it back: %w", err)
		}
		pos = r.at
		switch {
		case r.size == 0:
			continue
		case r.make != nil:
			if err := made(c.f, r, func(b []byte) { c.full <- chunk{b} }, c.free); err != nil {
				return err
			}
		default:
			if err := c.file(r); err != nil {
				return err
			}
		}
		pos += r.size
	}
	return nil
}

// file writes a region's file.
func (c *completer) file(r region) error {
	src, err := os.Open(r.source)
	if err != nil {
		return err
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return err
	}
	if st.Size() != r.size {
		return fmt.Errorf("%s changed its size while it was written", r.source)
	}
	return c.pass(src, 0, r.size, r.at, true)
}

// pass reads n bytes and, if write is set, writes them to the image at to.
func (c *completer) pass(r io.ReaderAt, from, n, to int64, write bool) error {
	for n > 0 {
		b := <-c.free
		k, err := r.ReadAt(b[:min(int64(len(b)), n)], from)
		if int64(k) < min(int64(len(b)), n) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if write {
			if _, err := c.f.WriteAt(b[:k], to); err != nil {
				return err
			}
			c.behind.Wrote(to + int64(k))
		}
		c.full <- chunk{b[:k]}
		from, to, n = from+int64(k), to+int64(k), n-int64(k)
	}
	return nil
}

// ErrNoSum means that an image has no implanted sum.
var ErrNoSum = errors.New("it has no implanted sum")

// VolumeSize is the size of the ISO 9660 volume on a medium, in bytes.
func VolumeSize(r io.ReaderAt) (int64, error) {
	pvd := make([]byte, sector)
	if _, err := r.ReadAt(pvd, 16*sector); err != nil {
		return 0, fmt.Errorf("cannot read the volume descriptor: %w", err)
	}
	if string(pvd[1:6]) != "CD001" {
		return 0, errors.New("it is not an ISO 9660 image")
	}
	return int64(binary.LittleEndian.Uint32(pvd[80:])) * sector, nil
}

// CheckSum reads a medium and compares it with its implanted sum. each is
// told how many bytes were read. A difference is an error with
// the place of it, as far as the sums of the parts show it.
func CheckSum(r io.ReaderAt, each func(n int64)) (volume int64, err error) {
	pvd := make([]byte, sector)
	if _, err := r.ReadAt(pvd, 16*sector); err != nil {
		return 0, fmt.Errorf("cannot read the volume descriptor: %w", err)
	}
	if string(pvd[1:6]) != "CD001" {
		return 0, errors.New("it is not an ISO 9660 image")
	}
	volume = int64(binary.LittleEndian.Uint32(pvd[80:])) * sector
	text := string(pvd[883 : 883+appLen])
	want, rest, ok := strings.Cut(strings.TrimPrefix(text, sumTextPrefix), ";")
	if !ok || !strings.HasPrefix(text, sumTextPrefix) || len(want) != 32 {
		return volume, ErrNoSum
	}
	_, rest, _ = strings.Cut(rest, "FRAGMENT SUMS = ")
	frags, _, _ := strings.Cut(rest, ";")
	s := newISOSum(volume)
	buf := make([]byte, 1<<20)
	for off := int64(0); off < s.total; {
		n, err := r.ReadAt(buf[:min(int64(len(buf)), s.total-off)], off)
		if n == 0 {
			return volume, fmt.Errorf("cannot read byte %d of %d: %w", off, volume, err)
		}
		if off <= appOffset && appOffset+appLen <= off+int64(n) {
			copy(buf[appOffset-off:], strings.Repeat(" ", appLen))
		}
		_, _ = s.Write(buf[:n]) // never fails
		off += int64(n)
		each(int64(n))
		if got := s.fragsums.String(); !strings.HasPrefix(frags, got) && len(got) <= len(frags) {
			k := int64(s.previous)
			return volume, fmt.Errorf("it is damaged, between byte %d and %d", max(0, k-1)*s.fragment, k*s.fragment+sumBuffer)
		}
	}
	if got := s.text(); !strings.HasPrefix(got, sumTextPrefix+want) {
		return volume, fmt.Errorf("it is damaged, behind byte %d", s.previous*s.fragment)
	}
	return volume, nil
}
