package volume

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
)

// Want defines which volume is needed.
type Want struct {
	Number int
	// Header is that of the last volume read; zero before the first.
	Header Header
	// Offset in the stream from which bytes are needed.
	Offset int64
}

func (w Want) String() string {
	if w.Header.Number == 0 {
		return fmt.Sprintf("volume %d", w.Number)
	}
	return fmt.Sprintf("volume %d of %s, made %s", w.Number, w.Header.Name, w.Header.Created.UTC().Format("2006-01-02 15:04:05"))
}

// WrongError is a volume that is not the one that is needed.
type WrongError struct {
	Want Want
	Got  Header // zero when it is not a volume at all
	Why  string
}

func (e *WrongError) Error() string { return e.Why }

// DamagedError is a volume whose bytes are not those that were written.
type DamagedError struct {
	Header   Header
	From, To int64 // bytes of the stream that are lost; To is 0 when unknown
	Why      string
}

func (e *DamagedError) Error() string {
	s := fmt.Sprintf("%v is damaged: %s", e.Header, e.Why)
	if e.To > 0 {
		s += fmt.Sprintf(" (bytes %d to %d of the stream)", e.From, e.To)
	}
	return s
}

// Paster pastes volumes back into the stream.
type Paster struct {
	// Next opens a volume. problem is why the one before was not taken: a
	// *WrongError or a *DamagedError, or nil. It is asked until it gives the
	// volume that is wanted, or an error.
	Next func(ctx context.Context, w Want, problem error) (io.ReadCloser, error)
	// ID and Name, if not zero, are what the first volume must have.
	ID   ID
	Name string
	// Began, if not nil, is told of each volume that is taken, and Ended of
	// its end.
	Began func(Header)
}

type volumeReader struct {
	p      *Paster
	ctx    context.Context
	h      Header
	in     io.ReadCloser
	r      *bufio.Reader
	off    int64 // of the stream
	digest hash.Hash
	chunks int
	packed []int64 // lengths of the chunks as they lie here
	buf    []byte
}

// Chunks hands the stream to each, in chunks whose digests were compared
// before. The bytes are each's until it returns.
func (p *Paster) Chunks(ctx context.Context, each func([]byte) error) (err error) {
	v := &volumeReader{p: p, ctx: ctx}
	defer v.close()
	var problem error
	// While each has a chunk, the next one is read and compared.
	done, busy := make(chan error, 1), false
	var other []byte
	wait := func() (err error) {
		if busy {
			err, busy = <-done, false
		}
		return err
	}
	defer func() {
		if e := wait(); err == nil {
			err = e
		}
	}()
	for {
		if v.in == nil {
			if err := v.open(problem); err != nil {
				return err
			}
			problem = nil
		}
		b, end, err := v.chunk()
		var damaged *DamagedError
		switch {
		case errors.As(err, &damaged):
			// The same volume once more: a cleaned disc, another copy.
			problem = err
			v.again()
		case err != nil:
			return err
		case end != nil:
			if end.Last {
				return nil
			}
			v.nextVolume()
		default:
			if err := wait(); err != nil {
				return err
			}
			busy = true
			go func() { done <- each(b) }()
			v.buf, other = other, v.buf
		}
	}
}

func (v *volumeReader) close() {
	if v.in != nil {
		v.in.Close()
		v.in = nil
	}
}

// again forgets the open volume; it is asked for again, from the chunk that
// could not be read.
func (v *volumeReader) again() { v.close() }

func (v *volumeReader) nextVolume() {
	v.close()
	v.h.Previous = Digest(v.digest.Sum(nil))
	v.h.Number++
	v.h.Offset = v.off
	v.chunks = 0
	v.digest = nil
}

func (v *volumeReader) want() Want {
	w := Want{Number: max(1, v.h.Number), Offset: v.off}
	if v.h.Name != "" || v.h.ID != (ID{}) {
		w.Header = v.h
		w.Header.Number = max(1, v.h.Number)
	}
	return w
}

// open asks for the volume until the right one comes, and goes to its first
// chunk that was not read yet.
func (v *volumeReader) open(problem error) error {
	for {
		if err := v.ctx.Err(); err != nil {
			return err
		}
		in, err := v.p.Next(v.ctx, v.want(), problem)
		if err != nil {
			return err
		}
		problem = v.accept(in)
		if problem == nil {
			return nil
		}
		in.Close()
		v.in = nil
	}
}

func (v *volumeReader) accept(in io.ReadCloser) error {
	r := bufio.NewReaderSize(in, 64<<10)
	h, raw, err := ReadHeader(r)
	w := v.want()
	if err != nil {
		return &WrongError{w, h, fmt.Sprintf("wanted %v: %v", w, err)}
	}
	if why := v.unwanted(h, w); why != "" {
		return &WrongError{w, h, fmt.Sprintf("wanted %v: %s", w, why)}
	}
	v.h, v.in, v.r = h, in, r
	done := v.chunks
	v.digest = sha256.New()
	v.digest.Write(raw)
	v.chunks, v.packed = 0, nil
	v.off = h.Offset
	if v.p.Began != nil {
		v.p.Began(h)
	}
	for v.chunks < done {
		if _, end, err := v.chunk(); err != nil || end != nil {
			if err == nil {
				err = &DamagedError{Header: h, From: v.off, Why: "it ends before what was read of it already"}
			}
			v.chunks = done
			return err
		}
	}
	return nil
}

// unwanted returns why a volume with this header is not the next one, or returns "".
func (v *volumeReader) unwanted(h Header, w Want) string {
	before, first := v.h, v.h.Number == 0
	if first {
		before = Header{Name: cmp.Or(v.p.Name, h.Name), ID: cmp.Or(v.p.ID, h.ID)}
	}
	switch {
	case h.Name != before.Name:
		return fmt.Sprintf("this is of another stream: %v", h)
	case h.ID != before.ID:
		return fmt.Sprintf("this is of another run: %v", h)
	case h.Number != w.Number:
		return fmt.Sprintf("this is volume %d", h.Number)
	case !first && (h.Offset != v.h.Offset || h.Previous != v.h.Previous || h.Stored != v.h.Stored):
		return fmt.Sprintf("this one does not follow the one before: %v begins at byte %d, and %d were read", h, h.Offset, v.h.Offset)
	case first && h.Offset != 0:
		return fmt.Sprintf("this one begins at byte %d", h.Offset)
	}
	return ""
}

// chunk reads frames up to the next check, and compares.
func (v *volumeReader) chunk() ([]byte, *End, error) {
	frames := &frameReader{r: v.r}
	v.buf = v.buf[:0]
	for {
		at := len(v.buf)
		var err error
		v.buf, err = frames.next(v.buf)
		if err != nil {
			end, err := v.cutOff(err)
			return nil, end, err
		}
		f := v.buf[at:]
		if binary.LittleEndian.Uint32(f) != skippable || len(f) < 8+tagLen {
			if len(v.buf) > maxChunk {
				return nil, nil, v.damaged("a chunk without a check")
			}
			continue
		}
		switch tag := f[8 : 8+tagLen]; {
		case bytes.Equal(tag, tagPad) && at == 0:
			v.buf = v.buf[:0]
		case bytes.Equal(tag, tagEnd):
			e, err := parseEnd(f[8+tagLen:])
			if err != nil || at != 0 || !v.agrees(&e) {
				return nil, nil, v.damaged("its end does not agree with its chunks")
			}
			return nil, &e, nil
		case bytes.Equal(tag, tagCheck) && len(f) == checkLen:
			b, err := v.checked(at, f[8+tagLen:])
			return b, nil, err
		}
	}
}

// cutOff is the end of a volume that has none: a tape that was full ends like this, and the
// next reel continues at this very byte; anything else is seen when that one does not.
func (v *volumeReader) cutOff(err error) (*End, error) {
	if v.chunks > 0 && isTapeEnd(v.in) {
		return &End{}, nil
	}
	if err == io.EOF || errors.Is(err, errCut) {
		err = errors.New("it is cut off")
	}
	return nil, v.damaged("%v", err)
}

func (v *volumeReader) damaged(f string, a ...any) *DamagedError {
	return &DamagedError{Header: v.h, From: v.off, Why: fmt.Sprintf(f, a...)}
}

// agrees compares the end of a volume with what was read of it.
func (v *volumeReader) agrees(e *End) bool {
	return len(e.Chunks) == v.chunks && slices.Equal(e.Chunks, v.packed) && e.Digest == Digest(v.digest.Sum(nil)) && e.Size == v.off-v.h.Offset
}

// checked returns the chunk whose at bytes are in the buffer, after comparing it with its
// check, which is what follows it.
func (v *volumeReader) checked(at int, check []byte) ([]byte, error) {
	b := v.buf[:at]
	if v.h.Stored {
		var err error
		if b, err = unwrap(b); err != nil {
			return nil, v.damaged("%v", err)
		}
	}
	var sum Digest
	copy(sum[:], check[12:])
	n := int64(binary.LittleEndian.Uint64(check[4:]))
	if n != int64(len(b)) || int(binary.LittleEndian.Uint32(check)) != v.chunks || sha256.Sum256(b) != sum {
		e := v.damaged("chunk %d is not what was written", v.chunks)
		e.To = v.off + int64(len(b))
		return nil, e
	}
	v.digest.Write(sum[:])
	v.chunks++
	v.packed = append(v.packed, int64(at))
	v.off += n
	return b, nil
}

// TapeEnd is a volume's reader that knows whether it ended because the tape
// did, without the volume's last frame.
type TapeEnd interface{ TapeEnd() bool }

func isTapeEnd(r io.Reader) bool {
	t, ok := r.(TapeEnd)
	return ok && t.TapeEnd()
}
