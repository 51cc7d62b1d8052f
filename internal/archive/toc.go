package archive

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/mkcdrec/mkcdrec/internal/frames"
)

// What a table of contents begins with: its payload, and its text.
const (
	tocTag       = "mkcdrec-toc\x00"
	tocVersion   = "mkcdrec-toc 1"
	tocIncrement = "mkcdrec-toc 2"
)

// Limits of the index, for writer and reader.
const (
	// maxPacked is the longest compressed frame: raw blocks of 128 KiB with 3 bytes
	// before each, and the header and checksum of the frame (RFC 8878).
	maxPacked = FrameSize + FrameSize/1024 + 64
	// maxLine is the longest line of the table of contents: two paths, of whose
	// bytes each can take four, and ten numbers.
	maxLine = 8*maxPath + 512
)

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
	// From is the archive with the member's bytes: 0 for this one, otherwise the number of one
	// of Reader.Sources, from 1. There is the member's path in it.
	From  int
	There string
}

// span is where a member's bytes are.
type span struct {
	from       int // 0 for the archive itself
	start, end int64
	there      string // the path there, "" if it is the same
}

// tocWriter takes the members as they are written and keeps them compressed,
// so that a file system of many million files needs little memory.
type tocWriter struct {
	buf     spool
	enc     *zstd.Encoder
	line    []byte
	members int64
	// increment: members are in sources, too.
	increment bool
	sources   []Source
	limit     int64    // bytes that it may have; frames.MaxPayload
	sum       [32]byte // of the whole
	frames    int64    // of them for the list of frames
}

func newTOCWriter() (*tocWriter, error) {
	t := &tocWriter{limit: frames.MaxPayload, frames: 256 << 20}
	var err error
	t.enc, err = zstd.NewWriter(&t.buf, zstd.WithEncoderConcurrency(2), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
	return t, err
}

// add takes a member that is in the archive, and has no body if that is an increment.
func (t *tocWriter) add(m *Member, start int64) error { return t.addAt(m, span{start: start}) }

func (t *tocWriter) addAt(m *Member, at span) error {
	b := t.line[:0]
	b = append(b, 'm', ' ')
	if t.increment {
		b = append(strconv.AppendInt(b, int64(at.from), 10), ' ')
	}
	b = append(b, byte(m.Type), ' ')
	b = strconv.AppendUint(b, uint64(m.Mode), 8)
	for _, v := range []int64{m.UID, m.GID, m.Size, m.Sec, m.Nsec, at.start} {
		b = append(b, ' ')
		b = strconv.AppendInt(b, v, 10)
	}
	if t.increment {
		b = strconv.AppendInt(append(b, ' '), at.end-at.start, 10)
	}
	b = append(b, ' ')
	b = append(b, Quote(m.Path)...)
	if m.Link != "" || at.there != "" {
		b = append(b, '\t')
		b = append(b, Quote(m.Link)...)
	}
	if at.there != "" {
		b = append(b, '\t')
		b = append(b, Quote(at.there)...)
	}
	t.line = append(b, '\n')
	t.members++
	if t.buf.Len() > t.limit-t.frames {
		return fmt.Errorf("its table of contents has %d bytes after %d files, and can't be longer than %d: leave something out", t.buf.Len(), t.members, t.limit)
	}
	_, err := t.enc.Write(t.line)
	return err
}

// finish gives the payload of the skippable frame, and its size: the tag, the SHA-256 of
// what follows it, and the zstd-compressed text. It can be read until close.
func (t *tocWriter) finish(all []frames.Frame, tarBytes int64) (payload io.Reader, size int64, err error) {
	if _, err := fmt.Fprintf(t.enc, "end %d %d %d\n", len(all), t.members, tarBytes); err != nil {
		return nil, 0, err
	}
	if err := t.enc.Close(); err != nil {
		return nil, 0, err
	}
	var head bytes.Buffer
	enc, err := zstd.NewWriter(&head, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, 0, err
	}
	w := bufio.NewWriter(enc)
	if t.increment {
		fmt.Fprintln(w, tocIncrement)
	} else {
		fmt.Fprintln(w, tocVersion)
	}
	for _, s := range t.sources {
		fmt.Fprint(w, s.line())
	}
	for _, f := range all {
		fmt.Fprintf(w, "f %d %d %d %x\n", f.Offset, f.Packed, f.Size, f.SHA256)
	}
	if err := errors.Join(w.Flush(), enc.Close()); err != nil {
		return nil, 0, err
	}
	size = int64(len(tocTag)+sha256.Size+head.Len()) + t.buf.Len()
	if size > t.limit-8 {
		return nil, 0, fmt.Errorf("it has %d bytes, and can't have more than %d", size, t.limit)
	}
	h := sha256.New()
	h.Write(head.Bytes())
	if _, err := io.Copy(h, t.buf.reader()); err != nil {
		return nil, 0, err
	}
	h.Sum(t.sum[:0])
	return io.MultiReader(strings.NewReader(tocTag), bytes.NewReader(t.sum[:]), &head, t.buf.reader()), size, nil
}

// close gives up what is kept.
func (t *tocWriter) close() { t.buf.close() }

// spoolMemory is how much of a table of contents is kept in memory, bytes.
const spoolMemory = 8 << 20

// spool keeps what is written to it, a large amount in a file without a name. Where there is no
// room for that, it stays in memory.
type spool struct {
	mem    bytes.Buffer
	f      *os.File
	n      int64
	noFile bool
}

// Write implements io.Writer.
func (s *spool) Write(b []byte) (int, error) {
	if s.f == nil && !s.noFile && s.mem.Len()+len(b) > spoolMemory {
		s.toFile()
	}
	s.n += int64(len(b))
	if s.f == nil {
		return s.mem.Write(b)
	}
	if _, err := s.f.Write(b); err == nil {
		return len(b), nil
	}
	old := io.NewSectionReader(s.f, 0, s.n-int64(len(b)))
	if _, err := io.Copy(&s.mem, old); err != nil {
		return 0, fmt.Errorf("cannot keep the table of contents: %w", err)
	}
	s.close()
	return s.mem.Write(b)
}

// toFile moves what is in memory to a file.
func (s *spool) toFile() {
	s.noFile = true
	f, err := os.CreateTemp("", "mkcdrec-toc-*")
	if err != nil {
		return
	}
	if _, err := f.Write(s.mem.Bytes()); err != nil || os.Remove(f.Name()) != nil {
		os.Remove(f.Name())
		f.Close()
		return
	}
	s.f, s.mem = f, bytes.Buffer{}
}

// Len is how many bytes there are.
func (s *spool) Len() int64 { return s.n }

func (s *spool) reader() io.Reader {
	if s.f != nil {
		return io.NewSectionReader(s.f, 0, s.n)
	}
	return bytes.NewReader(s.mem.Bytes())
}

func (s *spool) close() {
	if s.f != nil {
		s.f.Close()
		s.f = nil
	}
}

// parseTOC reads the payload of a table of contents and hands every member
// to fn, in archive order. It returns what else it has: the frames, at most as many as the
// seek table has, the tar stream's length, and sources.
func parseTOC(payload []byte, limit int, fn func(Entry) error) (*tocParser, error) {
	p := &tocParser{}
	if !bytes.HasPrefix(payload, []byte(tocTag)) {
		return nil, p.bad("no tag")
	}
	payload = payload[len(tocTag):]
	if len(payload) < sha256.Size || sha256.Sum256(payload[sha256.Size:]) != [sha256.Size]byte(payload) {
		return nil, p.bad("its SHA-256 is not the recorded one")
	}
	return parseTOCFrames(payload[sha256.Size:], limit, fn)
}

func parseTOCText(text []byte, fn func(Entry) error) (*tocParser, error) {
	return parseTOCFrames(text, frames.Max, fn)
}

// tocParser reads the text of a table of contents, line by line.
type tocParser struct {
	limit        int
	fn           func(Entry) error
	n            int // the number of the line
	frames       []frames.Frame
	members, tar int64
	prev         *Entry // its end is the next one's start
	increment    bool
	sources      []Source
	own          int64 // behind the last member of this archive, in an increment
}

func (p *tocParser) bad(what string) error {
	return fmt.Errorf("damaged table of contents: line %d: %s", p.n, what)
}

// line takes one line; end is set for the last one.
func (p *tocParser) line(s string) (end bool, err error) {
	switch {
	case p.n == 1:
		if p.increment = s == tocIncrement; s != tocVersion && !p.increment {
			return false, p.bad(fmt.Sprintf("version %q is not known", s))
		}
		return false, nil
	case strings.HasPrefix(s, "s ") && p.increment && len(p.frames) == 0 && len(p.sources) < maxSources:
		src, err := parseSource(s)
		if err != nil {
			return false, p.bad("source")
		}
		p.sources = append(p.sources, src)
		return false, nil
	case strings.HasPrefix(s, "f ") && p.members == 0:
		return false, p.frame(strings.Split(s, " "))
	case strings.HasPrefix(s, "m ") && p.increment:
		return false, p.placed(s)
	case strings.HasPrefix(s, "m "):
		return false, p.member(s)
	case strings.HasPrefix(s, "end "):
		return true, p.end(strings.Split(s, " "))
	}
	return false, p.bad("unknown line")
}

func (p *tocParser) frame(f []string) error {
	if len(f) != 5 {
		return p.bad("frame")
	}
	v, err := ints(f[1:4])
	sum, err2 := hex.DecodeString(f[4])
	if err != nil || err2 != nil || len(sum) != 32 || v[0] < 0 || v[1] <= 0 || v[1] > maxPacked || v[2] <= 0 || v[2] > FrameSize {
		return p.bad("frame")
	}
	if len(p.frames) == p.limit {
		return p.bad(fmt.Sprintf("more than the %d frames of the seek table", p.limit))
	}
	p.frames = append(p.frames, frames.Frame{Offset: v[0], Packed: v[1], Size: v[2], TarStart: p.tar, SHA256: [32]byte(sum)})
	p.tar += v[2]
	return nil
}

func (p *tocParser) member(s string) error {
	e, err := parseEntry(s)
	if err != nil || e.Start < 0 || e.Start >= p.tar || e.Start%blockSize != 0 || p.prev != nil && e.Start <= p.prev.Start {
		return p.bad("member")
	}
	if err := p.emit(e.Start); err != nil {
		return err
	}
	p.prev = &e
	p.members++
	return nil
}

// placed takes a member of an increment, whose line has where its bytes are.
func (p *tocParser) placed(s string) error {
	e, err := parsePlaced(s)
	switch {
	case err != nil || e.From < 0 || e.From > len(p.sources) || e.Start < 0 || e.End < e.Start || e.Start%blockSize != 0 || e.End%blockSize != 0:
		return p.bad("member")
	case e.Start == e.End: // a link that is only here
		if e.From != 0 || e.Type != TypeHardlink {
			return p.bad("member without bytes")
		}
	case e.From == 0:
		if e.Start < p.own || e.End > p.tar-2*blockSize {
			return p.bad("member")
		}
		p.own = e.End
	case e.Type == TypeDir || e.Type == TypeHardlink:
		return p.bad("member in another archive")
	}
	p.members++
	return p.fn(e)
}

func (p *tocParser) end(f []string) error {
	v, err := ints(f[1:])
	if err != nil || len(v) != 3 || v[0] != int64(len(p.frames)) || v[1] != p.members || v[2] != p.tar || p.tar < 2*blockSize {
		return p.bad("counts do not agree")
	}
	return p.emit(p.tar - 2*blockSize)
}

// emit hands the member before out, whose end is known now.
func (p *tocParser) emit(end int64) error {
	if p.prev == nil {
		return nil
	}
	p.prev.End = end
	return p.fn(*p.prev)
}

// parseTOCFrames keeps in memory what it returns, and one line: a few bytes of
// zstd can stand for any length of text.
func parseTOCFrames(text []byte, limit int, fn func(Entry) error) (*tocParser, error) {
	dec, err := zstd.NewReader(bytes.NewReader(text), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	s := bufio.NewScanner(dec)
	s.Buffer(make([]byte, 64<<10), maxLine)
	p, end := &tocParser{limit: limit, fn: fn}, false
	for s.Scan() {
		if p.n++; end {
			return nil, p.bad("text after the end")
		}
		if end, err = p.line(s.Text()); err != nil {
			return nil, err
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("damaged table of contents: %w", err)
	}
	if !end {
		return nil, errors.New("damaged table of contents: it has no end")
	}
	return p, nil
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
	e.There = e.Path
	return e, err
}

// parsePlaced reads "m FROM TYPE MODE UID GID SIZE SEC NSEC START LENGTH PATH[\tLINK[\tTHERE]]".
func parsePlaced(line string) (e Entry, err error) {
	f := strings.SplitN(line, " ", 12)
	if len(f) != 12 || len(f[2]) != 1 {
		return e, errHeader
	}
	mode, err := strconv.ParseUint(f[3], 8, 12)
	if err != nil {
		return e, err
	}
	from, err := strconv.ParseUint(f[1], 10, 16)
	if err != nil {
		return e, err
	}
	v, err := ints(f[4:11])
	if err != nil || v[6] < 0 || v[5]+v[6] < v[5] {
		return e, errors.Join(err, errHeader)
	}
	e = Entry{From: int(from), Type: Type(f[2][0]), Mode: uint32(mode), UID: v[0], GID: v[1], Size: v[2], Sec: v[3], Nsec: v[4], Start: v[5], End: v[5] + v[6]}
	path, rest, _ := strings.Cut(f[11], "\t")
	link, there, _ := strings.Cut(rest, "\t")
	for _, x := range []struct {
		to   *string
		text string
	}{{&e.Path, path}, {&e.Link, link}, {&e.There, there}} {
		if *x.to, err = Unquote(x.text); err != nil {
			return e, err
		}
	}
	if e.There == "" {
		e.There = e.Path
	}
	return e, nil
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
