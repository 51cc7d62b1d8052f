package tape

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/mkcdrec/mkcdrec/internal/volume"
)

// Writer writes one set, on as many reels as it takes.
type Writer struct {
	// Drives are used in turn: the next reel is in the next drive. After the
	// last, NextReel is asked to have the tape in the first one changed.
	Drives []Drive
	// NextReel asks for an empty tape; problem is why the one before can't be used.
	// nil when there is nobody to ask.
	NextReel func(ctx context.Context, d Drive, reel int, problem error) error
	ID       volume.ID
	Host     string
	Created  time.Time
	// Overwrite takes tapes that hold something that is not ours.
	Overwrite bool
	// Before, if not nil, writes what is in front of the label on the first
	// reel: the image of an OBDR tape. It leaves the tape behind a file mark.
	Before func(Drive) error
	// Note is told which reel is written.
	Note func(format string, args ...any)

	drive   int
	reel    int
	file    int // the tape file that is written next
	open    bool
	entries []Entry
}

// refused is a tape that is not written to.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// IsRefused reports whether an error is that a tape holds something and was left alone.
func IsRefused(err error) bool { var r refused; return errors.As(err, &r) }

// Check looks at a tape without changing it: it must be writable, and blank or
// one of ours.
func Check(d Drive, overwrite bool) (*Label, error) {
	p, err := d.Position()
	if err != nil {
		return nil, err
	}
	if !p.Online {
		return nil, fmt.Errorf("cannot write to %v: there is no tape in it", d)
	}
	if p.WriteProtected {
		return nil, fmt.Errorf("cannot write to the tape in %v: it is write-protected", d)
	}
	l, err := ReadLabel(d)
	switch {
	case err == nil, errors.Is(err, ErrBlank):
		return l, nil
	case overwrite:
		return nil, nil
	case errors.Is(err, errNoLabel):
		return nil, refused{fmt.Errorf("cannot write to the tape in %v: %w, so it may hold something else; use --overwrite to erase it", d, err)}
	}
	return nil, refused{fmt.Errorf("cannot write to the tape in %v: cannot see what it holds: %w; use --overwrite to erase it", d, err)}
}

// obdrTag begins the first block of an OBDR tape.
const obdrTag = "MKCDREC-OBDR"

// ReadLabel rewinds and reads a tape's label; the tape stands behind it. A tape
// without anything is ErrBlank.
func ReadLabel(d Drive) (*Label, error) {
	l, _, err := readLabel(d)
	return l, err
}

// maxMarks is how many file marks at the beginning of a tape are passed.
const maxMarks = 4

// readLabel also gives the tape file that the label is.
func readLabel(d Drive) (*Label, int, error) {
	if err := d.Rewind(); err != nil {
		return nil, 0, err
	}
	if err := d.SetBlock(0); err != nil {
		return nil, 0, err
	}
	b := make([]byte, 1<<20)
	n, err := firstBlock(d, b)
	if err != nil {
		return nil, 0, err
	}
	file := 0
	if bytes.HasPrefix(b[:n], []byte(obdrTag)) {
		if err := d.Forward(1); err != nil {
			return nil, 0, err
		}
		file = 1
		if n, err = d.Read(b); err == io.EOF {
			err = errNoLabel
		}
		if err != nil {
			return nil, 0, err
		}
	}
	if n < BlockSize {
		return nil, 0, errNoLabel
	}
	text := append([]byte{}, b[:n]...)
	for text[len(text)-1] != 0 && len(text) < maxLabel { // a label of some blocks
		n, err := d.Read(b)
		if err != nil {
			break
		}
		text = append(text, b[:n]...)
	}
	l, err := parseLabel(text)
	if err != nil {
		return nil, 0, err
	}
	if err := d.Rewind(); err != nil {
		return nil, 0, err
	}
	return l, file, d.Forward(file + 1)
}

// firstBlock reads the first block of a tape. Some drives have a file mark on a tape without
// anything else; only the drive reports that nothing follows.
func firstBlock(d Drive, b []byte) (int, error) {
	n, err := d.Read(b)
	if err != io.EOF {
		return n, err
	}
	for range maxMarks {
		if _, err = d.Read(b); err != io.EOF {
			break
		}
	}
	if err == nil || err == io.EOF {
		err = errNoLabel
	}
	return 0, err
}

// ejectFirst goes back to the first drive and takes its tape out, for the next reel.
func (w *Writer) ejectFirst() error {
	w.drive = 0
	if w.NextReel == nil {
		return fmt.Errorf("cannot continue: reel %d is full, and there is no terminal to ask for another; name more drives, or run it on a terminal", w.reel)
	}
	return w.Drives[0].Eject()
}

// begin prepares the tape for the next reel.
func (w *Writer) begin(ctx context.Context) error {
	if w.reel > 0 {
		w.drive++
	}
	var problem error
	if w.drive >= len(w.Drives) {
		problem = errors.New("the tape is full")
		if err := w.ejectFirst(); err != nil {
			return err
		}
	}
	for {
		d := w.Drives[w.drive]
		if problem != nil {
			if w.NextReel == nil {
				return problem
			}
			if err := w.NextReel(ctx, d, w.reel+1, problem); err != nil {
				return err
			}
		}
		l, err := Check(d, w.Overwrite)
		if err == nil && l != nil && l.ID == w.ID.String() {
			err = fmt.Errorf("this is %v, which was just written", l)
		}
		if err == nil {
			return w.label(d)
		}
		if w.NextReel == nil || w.reel == 0 {
			return err
		}
		problem = err
	}
}

func (w *Writer) label(d Drive) error {
	if err := d.Rewind(); err != nil {
		return err
	}
	// What comes is compressed already, and would only grow.
	_ = d.Compression(false)
	w.file = 0
	if w.reel == 0 && w.Before != nil {
		if err := w.Before(d); err != nil {
			return err
		}
		w.file = 1
	}
	w.reel++
	l := &Label{Label: labelName, Version: labelVersion, ID: w.ID.String(), Host: w.Host, Created: w.Created, Reel: w.reel, Block: BlockSize, Entries: w.entries}
	b, err := l.encode()
	if err != nil {
		return err
	}
	if err := d.SetBlock(BlockSize); err != nil {
		return err
	}
	if _, err := d.Write(b); err != nil {
		return fmt.Errorf("cannot write the label of reel %d: %w", w.reel, err)
	}
	if err := d.Mark(); err != nil {
		return err
	}
	w.file++
	w.open = true
	w.Note("reel %d is in %v", w.reel, d)
	return nil
}

// Entries is where everything is that was written.
func (w *Writer) Entries() []Entry { return w.entries }

// Cut writes a stream as the file called name.
func (w *Writer) Cut(ctx context.Context, name string, r io.Reader) error {
	c := &volume.Cutter{Header: volume.Header{ID: w.ID, Name: name, Created: w.Created, Number: 1}, Next: w.next}
	if _, err := c.Cut(ctx, r); err != nil {
		return fmt.Errorf("cannot write %s to tape: %w", name, err)
	}
	return nil
}

// Incomplete marks what was written under a name as ending early: readers pass over
// it. It returns where that is, as "reel 1, tape file 3".
func (w *Writer) Incomplete(name string) string {
	var where []string
	for i := range w.entries {
		if e := &w.entries[i]; e.Name == name {
			e.Incomplete = true
			where = append(where, fmt.Sprintf("reel %d, tape file %d", e.Reel, e.File))
		}
	}
	return strings.Join(where, "; ")
}

// Bundle writes small files as one stream that is on one reel, so that it can be
// read without the others. list is given where everything else is and returns the
// files to write, as name in the stream and path.
func (w *Writer) Bundle(ctx context.Context, name string, list func(entries []Entry, reels int) (map[string]string, error)) error {
	for {
		if !w.open {
			if err := w.begin(ctx); err != nil {
				return fmt.Errorf("cannot write %s to tape: %w", name, err)
			}
		}
		reel, before := w.reel, len(w.entries)
		files, err := list(w.entries, w.reel)
		if err != nil {
			return err
		}
		r, out := io.Pipe()
		go func() { out.CloseWithError(Pack(out, files)) }()
		err = w.Cut(ctx, name, r)
		r.CloseWithError(err)
		if err != nil {
			return err
		}
		if w.reel == reel {
			return nil
		}
		// The tape ended in it: once more, on the new reel.
		w.entries = w.entries[:before]
	}
}

// Pack writes a tar.zst of files, given as name in it and path. None may change
// meanwhile.
func Pack(w io.Writer, files map[string]string) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	for _, n := range slices.Sorted(maps.Keys(files)) {
		if err := packFile(t, n, files[n]); err != nil {
			return errors.Join(err, z.Close())
		}
	}
	return errors.Join(t.Close(), z.Close())
}

func packFile(t *tar.Writer, name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: st.Size(), Format: tar.FormatPAX}); err != nil {
		return err
	}
	n, err := io.Copy(t, f)
	if err == nil && n != st.Size() {
		err = fmt.Errorf("%s had %d bytes, and now %d", path, st.Size(), n)
	}
	return err
}

func (w *Writer) next(ctx context.Context, h volume.Header) (volume.Medium, error) {
	if !w.open {
		if err := w.begin(ctx); err != nil {
			return nil, err
		}
	}
	return &tapeFile{w: w, d: w.Drives[w.drive], h: h, buf: make([]byte, 0, bufferBlocks*BlockSize)}, nil
}

// bufferBlocks is how many blocks go to the drive at once.
const bufferBlocks = 16

// tapeFile is a volume that is being written.
type tapeFile struct {
	w    *Writer
	d    Drive
	h    volume.Header
	buf  []byte
	warn bool
	full bool
	any  bool // something was written
}

func (t *tapeFile) Room() int64 { return volume.Unlimited }
func (t *tapeFile) Full() bool  { return t.warn }

func (t *tapeFile) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), cap(t.buf)-len(t.buf))
		t.buf = append(t.buf, p[:k]...)
		p = p[k:]
		if len(t.buf) == cap(t.buf) {
			if err := t.out(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (t *tapeFile) out() error {
	if len(t.buf) == 0 {
		return nil
	}
	t.any = true
	warn, err := t.d.Write(t.buf)
	t.buf = t.buf[:0]
	t.warn = t.warn || warn
	if errors.Is(err, ErrFull) {
		t.full = true
		return volume.ErrFull
	}
	if err != nil {
		return fmt.Errorf("cannot write to %v, reel %d, file %d: %w", t.d, t.w.reel, t.w.file, err)
	}
	return nil
}

// Flush fills the block and writes it, so that a chunk whose check was written
// is on the tape.
func (t *tapeFile) Flush() error {
	if n := -len(t.buf) & (BlockSize - 1); n > 0 {
		if n < volume.MinPad {
			n += BlockSize
		}
		pad := volume.Pad(n)
		if _, err := t.Write(pad); err != nil {
			return err
		}
	}
	return t.out()
}

// Close ends the volume: the block is filled, and a file mark written.
func (t *tapeFile) Close(e volume.End) error {
	if !t.full {
		if err := t.Flush(); err != nil && !errors.Is(err, volume.ErrFull) {
			return err
		}
	}
	if err := t.d.Mark(); err != nil && !t.full {
		return err
	}
	t.w.entries = append(t.w.entries, Entry{t.h.Name, t.h.Number, t.w.reel, t.w.file, t.h.Offset, e.Size, false})
	t.w.file++
	if t.warn || t.full {
		t.w.open = false
	}
	return nil
}

// Finish ends the writing: tapes are rewound.
func (w *Writer) Finish() error {
	var errs []error
	for _, d := range w.Drives {
		if p, err := d.Position(); err == nil && p.Online {
			// Variable blocks again: dd(1) takes any size then.
			errs = append(errs, d.Rewind(), d.SetBlock(0))
		}
	}
	return errors.Join(errs...)
}
