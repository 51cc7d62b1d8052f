package archive

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/mkcdrec/mkcdrec/internal/volume"
)

// Magic numbers of skippable frames, RFC 8878 §3.1.2 (0x184D2A50 to 5F). The
// seek table is "Zstandard Seekable Format" 0.1.0 of the zstd project.
const (
	magicTOC      = 0x184D2A5C
	magicSeek     = 0x184D2A5E
	seekFooter    = 0x8F92EAB1
	tocTag        = "mkcdrec-toc\x00"
	tocVersion    = "mkcdrec-toc 1"
	seekFooterLen = 9
)

// Limits of the index, for writer and reader.
const (
	// maxFrames is the most frames that an archive has, of which each holds 1 to
	// 4 MiB, but for the last: at least 64 TiB of files.
	maxFrames = 1 << 26
	// maxPacked is the longest compressed frame: raw blocks of 128 KiB with 3 bytes
	// before each, and the header and checksum of the frame (RFC 8878).
	maxPacked = FrameSize + FrameSize/1024 + 64
	// maxLine is the longest line of the table of contents: two paths, of whose
	// bytes each can take four, and ten numbers.
	maxLine = 8*maxPath + 512
	// maxTOC is the longest table of contents with its frame's header: volumes, and
	// so tapes, take no larger frame.
	maxTOC = volume.MaxFrame
	// MaxIndex is the longest end of an archive or image, in bytes: the table of
	// contents and the seek table, which is shorter than a frame may be.
	MaxIndex = maxTOC + 8*(maxFrames+1) + seekFooterLen + 8
)

// Frame is one zstd frame of the archive.
type Frame struct {
	Offset   int64 // of the compressed bytes in the archive
	Packed   int64 // compressed bytes
	Size     int64 // tar bytes
	TarStart int64 // offset of its first byte in the tar stream
	SHA256   [32]byte
}

// Entry is one member as the table of contents has it.
type Entry struct {
	Type      Type
	Mode      uint32
	UID, GID  int64
	Size      int64
	Sec, Nsec int64
	// Start and End are the offsets in the tar stream of the member's first
	// header and of the byte after its padding.
	Start, End int64
	Path, Link string
}

// tocWriter takes the members as they are written and keeps them compressed,
// so that a file system of many million files needs little memory.
type tocWriter struct {
	buf     bytes.Buffer
	enc     *zstd.Encoder
	line    []byte
	members int64
	limit   int64 // bytes that it may have; maxTOC
	frames  int64 // of them for the list of frames
}

func newTOCWriter() (*tocWriter, error) {
	t := &tocWriter{limit: maxTOC, frames: 256 << 20}
	var err error
	t.enc, err = zstd.NewWriter(&t.buf, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
	return t, err
}

func (t *tocWriter) add(m *Member, start int64) error {
	b := t.line[:0]
	b = append(b, 'm', ' ', byte(m.Type), ' ')
	b = strconv.AppendUint(b, uint64(m.Mode), 8)
	for _, v := range []int64{m.UID, m.GID, m.Size, m.Sec, m.Nsec, start} {
		b = append(b, ' ')
		b = strconv.AppendInt(b, v, 10)
	}
	b = append(b, ' ')
	b = append(b, Quote(m.Path)...)
	if m.Link != "" {
		b = append(b, '\t')
		b = append(b, Quote(m.Link)...)
	}
	t.line = append(b, '\n')
	t.members++
	if int64(t.buf.Len()) > t.limit-t.frames {
		return fmt.Errorf("its table of contents has %d bytes after %d files, and can't be longer than %d: leave something out", t.buf.Len(), t.members, t.limit)
	}
	_, err := t.enc.Write(t.line)
	return err
}

// finish gives the payload of the skippable frame: the tag, the SHA-256 of
// what follows it, and the zstd-compressed text.
func (t *tocWriter) finish(frames []Frame, tarBytes int64) ([]byte, error) {
	if _, err := fmt.Fprintf(t.enc, "end %d %d %d\n", len(frames), t.members, tarBytes); err != nil {
		return nil, err
	}
	if err := t.enc.Close(); err != nil {
		return nil, err
	}
	var head bytes.Buffer
	enc, err := zstd.NewWriter(&head, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	w := bufio.NewWriter(enc)
	fmt.Fprintln(w, tocVersion)
	for _, f := range frames {
		fmt.Fprintf(w, "f %d %d %d %x\n", f.Offset, f.Packed, f.Size, f.SHA256)
	}
	if err := errors.Join(w.Flush(), enc.Close()); err != nil {
		return nil, err
	}
	if n := len(tocTag) + sha256.Size + head.Len() + t.buf.Len(); int64(n) > t.limit-8 {
		return nil, fmt.Errorf("it has %d bytes, and can't have more than %d", n, t.limit)
	}
	text := append(head.Bytes(), t.buf.Bytes()...)
	sum := sha256.Sum256(text)
	return slices.Concat([]byte(tocTag), sum[:], text), nil
}

// parseTOC reads the payload of a table of contents and hands every member
// to fn, in archive order. It returns the frames, at most as many as the seek
// table has, and the tar stream's length.
func parseTOC(payload []byte, frames int, fn func(Entry) error) ([]Frame, int64, error) {
	bad := func(line int, what string) error {
		return fmt.Errorf("damaged table of contents: line %d: %s", line, what)
	}
	if !bytes.HasPrefix(payload, []byte(tocTag)) {
		return nil, 0, bad(0, "no tag")
	}
	payload = payload[len(tocTag):]
	if len(payload) < sha256.Size || sha256.Sum256(payload[sha256.Size:]) != [sha256.Size]byte(payload) {
		return nil, 0, bad(0, "its SHA-256 is not the recorded one")
	}
	return parseTOCFrames(payload[sha256.Size:], frames, fn)
}

func parseTOCText(text []byte, fn func(Entry) error) ([]Frame, int64, error) {
	return parseTOCFrames(text, maxFrames, fn)
}

// parseTOCFrames keeps in memory what it returns, and one line: a few bytes of
// zstd can stand for any length of text.
func parseTOCFrames(text []byte, limit int, fn func(Entry) error) ([]Frame, int64, error) {
	bad := func(line int, what string) error {
		return fmt.Errorf("damaged table of contents: line %d: %s", line, what)
	}
	dec, err := zstd.NewReader(bytes.NewReader(text), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, 0, err
	}
	defer dec.Close()
	s := bufio.NewScanner(dec)
	s.Buffer(make([]byte, 64<<10), maxLine)
	var frames []Frame
	var members, tar int64
	var prev *Entry
	emit := func(end int64) error {
		if prev == nil {
			return nil
		}
		prev.End = end
		return fn(*prev)
	}
	for n := 1; s.Scan(); n++ {
		line := s.Text()
		switch {
		case n == 1:
			if line != tocVersion {
				return nil, 0, bad(n, fmt.Sprintf("version %q is not known", line))
			}
		case strings.HasPrefix(line, "f ") && members == 0:
			f := strings.Split(line, " ")
			if len(f) != 5 {
				return nil, 0, bad(n, "frame")
			}
			v, err := ints(f[1:4])
			sum, err2 := hex.DecodeString(f[4])
			if err != nil || err2 != nil || len(sum) != 32 || v[0] < 0 || v[1] <= 0 || v[1] > maxPacked || v[2] <= 0 || v[2] > FrameSize {
				return nil, 0, bad(n, "frame")
			}
			if len(frames) == limit {
				return nil, 0, bad(n, fmt.Sprintf("more than the %d frames of the seek table", limit))
			}
			frames = append(frames, Frame{v[0], v[1], v[2], tar, [32]byte(sum)})
			tar += v[2]
		case strings.HasPrefix(line, "m "):
			e, err := parseEntry(line)
			if err != nil || e.Start < 0 || e.Start >= tar || e.Start%blockSize != 0 || prev != nil && e.Start <= prev.Start {
				return nil, 0, bad(n, "member")
			}
			if err := emit(e.Start); err != nil {
				return nil, 0, err
			}
			prev = &e
			members++
		case strings.HasPrefix(line, "end "):
			v, err := ints(strings.Split(line, " ")[1:])
			if err != nil || len(v) != 3 || v[0] != int64(len(frames)) || v[1] != members || v[2] != tar || tar < 2*blockSize {
				return nil, 0, bad(n, "counts do not agree")
			}
			if err := emit(tar - 2*blockSize); err != nil {
				return nil, 0, err
			}
			if s.Scan() {
				return nil, 0, bad(n+1, "text after the end")
			}
			if err := s.Err(); err != nil {
				return nil, 0, fmt.Errorf("damaged table of contents: %w", err)
			}
			return frames, tar, nil
		default:
			return nil, 0, bad(n, "unknown line")
		}
	}
	if err := s.Err(); err != nil {
		return nil, 0, fmt.Errorf("damaged table of contents: %w", err)
	}
	return nil, 0, errors.New("damaged table of contents: it has no end")
}

// parseEntry reads "m TYPE MODE UID GID SIZE SEC NSEC START PATH[\tLINK]".
func parseEntry(line string) (Entry, error) {
	f := strings.SplitN(line, " ", 10)
	if len(f) != 10 || len(f[1]) != 1 {
		return Entry{}, errHeader
	}
	mode, err := strconv.ParseUint(f[2], 8, 12)
	if err != nil {
		return Entry{}, err
	}
	v, err := ints(f[3:9])
	if err != nil {
		return Entry{}, err
	}
	path, link, _ := strings.Cut(f[9], "\t")
	e := Entry{Type: Type(f[1][0]), Mode: uint32(mode), UID: v[0], GID: v[1], Size: v[2], Sec: v[3], Nsec: v[4], Start: v[5]}
	if e.Path, err = Unquote(path); err != nil {
		return Entry{}, err
	}
	e.Link, err = Unquote(link)
	return e, err
}

func ints(f []string) ([]int64, error) {
	out := make([]int64, len(f))
	for i, s := range f {
		v, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, err
		}
		out[i] = v
	}
	return out, nil
}

// skippable wraps payload in a skippable frame.
func skippable(magic uint32, payload []byte) []byte {
	out := binary.LittleEndian.AppendUint32(nil, magic)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(payload)))
	return append(out, payload...)
}

// seekTable makes the seek table over the frames; the table of contents is a
// frame without data in it.
func seekTable(frames []Frame, tocLen int64) []byte {
	le := binary.LittleEndian
	var p []byte
	for _, f := range frames {
		p = le.AppendUint32(p, uint32(f.Packed))
		p = le.AppendUint32(p, uint32(f.Size))
	}
	p = le.AppendUint32(p, uint32(tocLen))
	p = le.AppendUint32(p, 0)
	p = le.AppendUint32(p, uint32(len(frames)+1))
	p = append(p, 0) // descriptor: no checksums, SHA-256 is in the table of contents
	p = le.AppendUint32(p, seekFooter)
	return skippable(magicSeek, p)
}

// errNoIndex is the fault of a file that was cut off, or is not an archive.
var errNoIndex = errors.New("it has no seek table at its end: cut off, or not an archive of ours")

// readTail finds the table of contents through the seek table at the end and
// returns its payload, the packed sizes of all frames and the sum of them.
func readTail(r io.ReaderAt, size int64) (toc []byte, sizes [][2]uint32, err error) {
	le := binary.LittleEndian
	var foot [seekFooterLen]byte
	if size < seekFooterLen+8 {
		return nil, nil, errNoIndex
	}
	if _, err := r.ReadAt(foot[:], size-seekFooterLen); err != nil {
		return nil, nil, err
	}
	n := int64(le.Uint32(foot[:]))
	tableLen := n*8 + seekFooterLen
	if le.Uint32(foot[5:]) != seekFooter || foot[4] != 0 || n < 1 || n > maxFrames+1 || tableLen+8 > size {
		return nil, nil, errNoIndex
	}
	var head [8]byte
	if _, err := r.ReadAt(head[:], size-tableLen-8); err != nil {
		return nil, nil, err
	}
	if le.Uint32(head[:]) != magicSeek || int64(le.Uint32(head[4:])) != tableLen {
		return nil, nil, errNoIndex
	}
	// Piece by piece: a file with holes can claim any length.
	sum := int64(0)
	table := make([]byte, 64<<10)
	for at := size - tableLen; int64(len(sizes)) < n; {
		b := table[:min(int64(len(table)), 8*(n-int64(len(sizes))))]
		if _, err := r.ReadAt(b, at); err != nil {
			return nil, nil, err
		}
		at += int64(len(b))
		for ; len(b) > 0; b = b[8:] {
			s := [2]uint32{le.Uint32(b), le.Uint32(b[4:])}
			if sum += int64(s[0]); s[0] == 0 || sum > size {
				return nil, nil, errors.New("its seek table has a frame that can't be")
			}
			sizes = append(sizes, s)
		}
	}
	if sum+tableLen+8 != size {
		return nil, nil, fmt.Errorf("its seek table covers %d bytes of %d: cut off or added to", sum+tableLen+8, size)
	}
	last := sizes[n-1]
	if last[1] != 0 || last[0] < 8+uint32(len(tocTag)) {
		return nil, nil, errors.New("it has no table of contents before the seek table")
	}
	toc = make([]byte, last[0])
	if _, err := r.ReadAt(toc, size-tableLen-8-int64(last[0])); err != nil {
		return nil, nil, err
	}
	if le.Uint32(toc) != magicTOC || le.Uint32(toc[4:]) != last[0]-8 {
		return nil, nil, errors.New("it has no table of contents before the seek table")
	}
	return toc[8:], sizes[:n-1], nil
}

// Index gives what ends a file of frames: a skippable frame with payload, and
// the seek table over all. ReadIndex reads it back. Images of devices have the
// same ending as archives.
func Index(frames []Frame, payload []byte) []byte {
	t := skippable(magicTOC, payload)
	return append(t, seekTable(frames, int64(len(t)))...)
}

// ReadIndex gives the payload that Index put at the end of a file, and every
// frame's packed and unpacked size.
func ReadIndex(r io.ReaderAt, size int64) (payload []byte, sizes [][2]uint32, err error) {
	return readTail(r, size)
}

// Lengths gives the lengths of all parts of a file that ends with an Index: its
// frames, the payload's frame, the seek table. They add up to size.
func Lengths(r io.ReaderAt, size int64) ([]int64, error) {
	payload, sizes, err := readTail(r, size)
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
