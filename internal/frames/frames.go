// Package frames is what archives and images of devices have in common: independent
// zstd frames, a skippable frame with a payload that describes them, and the seek table.
package frames

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/mkcdrec/mkcdrec/internal/volume"
)

// Magic numbers of skippable frames, RFC 8878 §3.1.2 (0x184D2A50 to 5F). The
// seek table is "Zstandard Seekable Format" 0.1.0 of the zstd project.
const (
	magicPayload  = 0x184D2A5C
	magicSeek     = 0x184D2A5E
	seekFooter    = 0x8F92EAB1
	seekFooterLen = 9
	// minPayload is the shortest payload: a tag with its kind.
	minPayload = 12
)

// Limits, for writer and reader.
const (
	// Size is the most data that one frame holds, in bytes.
	Size = 4 << 20
	// Max is the most frames that a file has, of which each holds 1 to 4 MiB, but
	// for the last: at least 64 TiB of files.
	Max = 1 << 26
	// MaxPayload is the longest payload with its frame's header: volumes, and so
	// tapes, take no larger frame.
	MaxPayload = volume.MaxFrame
	// MaxIndex is the longest end of a file, in bytes: the payload and the seek
	// table, which is shorter than a frame may be.
	MaxIndex = MaxPayload + 8*(Max+1) + seekFooterLen + 8
)

// Frame is one zstd frame of a file.
type Frame struct {
	Offset   int64 // of the compressed bytes in the file
	Packed   int64 // compressed bytes
	Size     int64 // bytes without compression
	TarStart int64 // offset of its first byte in the tar stream, in archives
	SHA256   [32]byte
}

// ErrNone is the fault of a file that was cut off, or is not an archive.
var ErrNone = errors.New("it has no seek table at its end: cut off, or not an archive of ours")

// ReadIndex gives the payload that Index put at the end of a file, and every
// frame's packed and unpacked size.
func ReadIndex(r io.ReaderAt, size int64) (payload []byte, sizes [][2]uint32, err error) {
	le := binary.LittleEndian
	var foot [seekFooterLen]byte
	if size < seekFooterLen+8 {
		return nil, nil, ErrNone
	}
	if _, err := r.ReadAt(foot[:], size-seekFooterLen); err != nil {
		return nil, nil, err
	}
	n := int64(le.Uint32(foot[:]))
	tableLen := n*8 + seekFooterLen
	if le.Uint32(foot[5:]) != seekFooter || foot[4] != 0 || n < 1 || n > Max+1 || tableLen+8 > size {
		return nil, nil, ErrNone
	}
	var head [8]byte
	if _, err := r.ReadAt(head[:], size-tableLen-8); err != nil {
		return nil, nil, err
	}
	if le.Uint32(head[:]) != magicSeek || int64(le.Uint32(head[4:])) != tableLen {
		return nil, nil, ErrNone
	}
	sizes, sum, err := readTable(r, size-tableLen, n, size)
	if err != nil {
		return nil, nil, err
	}
	if sum+tableLen+8 != size {
		return nil, nil, fmt.Errorf("its seek table covers %d bytes of %d: cut off or added to", sum+tableLen+8, size)
	}
	last := sizes[n-1]
	if last[1] != 0 || last[0] < 8+minPayload {
		return nil, nil, errors.New("it has no table of contents before the seek table")
	}
	payload = make([]byte, last[0])
	if _, err := r.ReadAt(payload, size-tableLen-8-int64(last[0])); err != nil {
		return nil, nil, err
	}
	if le.Uint32(payload) != magicPayload || le.Uint32(payload[4:]) != last[0]-8 {
		return nil, nil, errors.New("it has no table of contents before the seek table")
	}
	return payload[8:], sizes[:n-1], nil
}

// readTable reads the n sizes of a seek table from at on, and gives their packed sum,
// which is at most limit.
func readTable(r io.ReaderAt, at, n, limit int64) (sizes [][2]uint32, sum int64, err error) {
	le := binary.LittleEndian
	// Piece by piece: a file with holes can claim any length.
	table := make([]byte, 64<<10)
	for int64(len(sizes)) < n {
		b := table[:min(int64(len(table)), 8*(n-int64(len(sizes))))]
		if _, err := r.ReadAt(b, at); err != nil {
			return nil, 0, err
		}
		at += int64(len(b))
		for ; len(b) > 0; b = b[8:] {
			s := [2]uint32{le.Uint32(b), le.Uint32(b[4:])}
			if sum += int64(s[0]); s[0] == 0 || sum > limit {
				return nil, 0, errors.New("its seek table has a frame that can't be")
			}
			sizes = append(sizes, s)
		}
	}
	return sizes, sum, nil
}

// Index gives what ends a file of frames: a skippable frame with payload, and
// the seek table over all. ReadIndex reads it back.
func Index(frames []Frame, payload []byte) []byte {
	var b bytes.Buffer
	_ = WriteIndex(&b, frames, bytes.NewReader(payload), int64(len(payload))) // memory takes all
	return b.Bytes()
}

// WriteIndex writes what Index gives; the payload has size bytes.
func WriteIndex(w io.Writer, frames []Frame, payload io.Reader, size int64) error {
	out := bufio.NewWriterSize(w, 64<<10)
	le := binary.LittleEndian
	words := func(v ...int) {
		var b [4]byte
		for _, v := range v {
			le.PutUint32(b[:], uint32(v))
			_, _ = out.Write(b[:]) // Flush gives the error
		}
	}
	words(magicPayload, int(size))
	switch n, err := io.Copy(out, payload); {
	case err != nil:
		return err
	case n != size:
		return fmt.Errorf("the index has %d bytes, not %d", n, size)
	}
	words(magicSeek, 8*(len(frames)+1)+seekFooterLen)
	for _, f := range frames {
		words(int(f.Packed), int(f.Size))
	}
	words(int(size)+8, 0, len(frames)+1) // the payload is a frame without data
	_ = out.WriteByte(0)                 // descriptor: no checksums, SHA-256 is in the payload
	words(seekFooter)
	return out.Flush()
}

// Payload gives the payload of an Index that is read alone.
func Payload(index io.ReaderAt) (*io.SectionReader, error) {
	var head [8]byte
	if _, err := index.ReadAt(head[:], 0); err != nil {
		return nil, err
	}
	n := int64(binary.LittleEndian.Uint32(head[4:]))
	if binary.LittleEndian.Uint32(head[:]) != magicPayload || n < minPayload {
		return nil, ErrNone
	}
	if _, err := index.ReadAt(head[:1], 8+n-1); err != nil { // cut off
		return nil, err
	}
	return io.NewSectionReader(index, 8, n), nil
}

// Lengths gives the lengths of all parts of a file that ends with an Index: its
// frames, the payload's frame, the seek table. They add up to size.
func Lengths(r io.ReaderAt, size int64) ([]int64, error) {
	payload, sizes, err := ReadIndex(r, size)
	if err != nil {
		return nil, err
	}
	end := int64(0)
	var out []int64
	for _, s := range sizes {
		out = append(out, int64(s[0]))
		end += int64(s[0])
	}
	toc := int64(len(payload)) + 8
	return append(out, toc, size-end-toc), nil
}
