// Package ddrescue reads and writes the map files of GNU ddrescue, which record
// what of a failing disk has been copied so far. The format is that of the
// chapter "Mapfile structure" of the manual of ddrescue 1.27; files of versions
// before 1.20, which called it a log file and wrote no pass number, are read, too.
package ddrescue

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// Status is what is known of a block.
type Status byte

// States of blocks.
const (
	NonTried   Status = '?' // not read yet
	NonTrimmed Status = '*' // a large read failed; its parts were not tried
	NonScraped Status = '/' // its edges were tried, not each sector
	BadSector  Status = '-' // cannot be read
	Finished   Status = '+' // copied
)

const (
	statuses = "?*/-+"
	// phases are the values of the current status: copying, trimming, scraping,
	// retrying, filling, generating, finished.
	phases = "?*/-FG+"
)

// Limits of what Parse accepts.
const (
	maxLine   = 4096
	maxBlocks = 1 << 24
)

// Block is a range in bytes with its state.
type Block struct {
	Pos, Size int64
	Status    Status
}

// Map is a map file. Blocks are sorted and contiguous, and neighbours differ in
// their status.
type Map struct {
	// Pos, Phase and Pass say where ddrescue was: the position in bytes, what it
	// did ('?' copying, '*' trimming, '/' scraping, '-' retrying, 'F' filling, 'G'
	// generating, '+' finished), and the pass of that, from 1.
	Pos    int64
	Phase  byte
	Pass   int
	Blocks []Block
}

// New returns a map of size bytes of which nothing was read. A size of 0 gives a
// map without blocks.
func New(size int64) *Map {
	m := &Map{Phase: byte(NonTried), Pass: 1}
	m.push(Block{0, size, NonTried})
	return m
}

// push appends a block, joined to the last one if the status is the same.
func (m *Map) push(b Block) {
	if b.Size <= 0 {
		return
	}
	if n := len(m.Blocks); n > 0 && m.Blocks[n-1].Status == b.Status {
		m.Blocks[n-1].Size += b.Size
		return
	}
	m.Blocks = append(m.Blocks, b)
}

// Start and End give the first byte that the map covers and the one behind the
// last; both are 0 for a map without blocks.
func (m *Map) Start() int64 {
	if len(m.Blocks) == 0 {
		return 0
	}
	return m.Blocks[0].Pos
}

// End is described at Start.
func (m *Map) End() int64 {
	if len(m.Blocks) == 0 {
		return 0
	}
	b := m.Blocks[len(m.Blocks)-1]
	return b.Pos + b.Size
}

// Ranges returns start and length in bytes of the ranges whose status is one of
// those in which, in order, neighbours joined.
func (m *Map) Ranges(which ...Status) iter.Seq2[int64, int64] {
	return func(yield func(int64, int64) bool) {
		start, end := int64(0), int64(0)
		for _, b := range m.Blocks {
			if !slices.Contains(which, b.Status) {
				continue
			}
			if b.Pos != end || start == end {
				if start < end && !yield(start, end-start) {
					return
				}
				start = b.Pos
			}
			end = b.Pos + b.Size
		}
		if start < end {
			yield(start, end-start)
		}
	}
}

// Bytes is how many bytes have one of the states.
func (m *Map) Bytes(which ...Status) int64 {
	n := int64(0)
	for _, l := range m.Ranges(which...) {
		n += l
	}
	return n
}

// Overlay returns a map with the states of m, and those of blocks where there
// are any. Blocks must be sorted and must not overlap; parts of them outside of m
// are left out.
func (m *Map) Overlay(blocks []Block) *Map {
	out := &Map{Pos: m.Pos, Phase: m.Phase, Pass: m.Pass}
	for _, b := range m.Blocks {
		at, end := b.Pos, b.Pos+b.Size
		for len(blocks) > 0 && blocks[0].Pos+blocks[0].Size <= at {
			blocks = blocks[1:]
		}
		for len(blocks) > 0 && blocks[0].Pos < end {
			o := blocks[0]
			from, to := max(o.Pos, at), min(o.Pos+o.Size, end)
			out.push(Block{at, from - at, b.Status})
			out.push(Block{from, to - from, o.Status})
			at = to
			if o.Pos+o.Size > end {
				break
			}
			blocks = blocks[1:]
		}
		out.push(Block{at, end - at, b.Status})
	}
	return out
}

// Parse reads a map file. Every error names its line: lines that are cut off,
// blocks that overlap, are not in order or leave gaps, numbers that are not
// numbers, states that do not exist. It is stricter than ddrescue, which accepts an
// empty file and cuts blocks off at 2^63.
func Parse(r io.Reader) (*Map, error) {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, maxLine), maxLine)
	var m *Map
	line := 0
	for s.Scan() {
		line++
		t, _, _ := strings.Cut(s.Text(), "#") // ddrescuelog -A annotates lines at their end
		f := strings.Fields(t)
		if len(f) == 0 {
			continue
		}
		var err error
		if m == nil {
			m, err = parseState(f)
		} else {
			err = m.parseBlock(f)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
	}
	if err := s.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("line %d: is longer than %d bytes", line+1, maxLine)
	} else if err != nil {
		return nil, err
	}
	if m == nil {
		return nil, fmt.Errorf("line %d: the map file ends before its status line", line+1)
	}
	return m, nil
}

// parseState reads the line with the current position, status and pass.
func parseState(f []string) (*Map, error) {
	if len(f) != 2 && len(f) != 3 {
		return nil, fmt.Errorf("%d fields; expected current position, status and pass", len(f))
	}
	pos, err := number(f[0])
	if err != nil {
		return nil, fmt.Errorf("current position: %w", err)
	}
	if len(f[1]) != 1 || !strings.Contains(phases, f[1]) {
		return nil, fmt.Errorf("current status %.10q is not one of %s", f[1], phases)
	}
	m := &Map{Pos: pos, Phase: f[1][0], Pass: 1}
	if len(f) == 3 {
		p, err := number(f[2])
		if err != nil || p < 1 || p > math.MaxInt32 {
			return nil, fmt.Errorf("pass %.20q is not a number from 1", f[2])
		}
		m.Pass = int(p)
	}
	return m, nil
}

// parseBlock reads the line of a block, which begins where the one before it ends.
func (m *Map) parseBlock(f []string) error {
	if len(f) != 3 {
		return fmt.Errorf("%d fields; expected position, size and status", len(f))
	}
	pos, err := number(f[0])
	if err != nil {
		return fmt.Errorf("position: %w", err)
	}
	size, err := number(f[1])
	if err != nil {
		return fmt.Errorf("size: %w", err)
	}
	if len(f[2]) != 1 || !strings.Contains(statuses, f[2]) {
		return fmt.Errorf("status %.10q is not one of %s", f[2], statuses)
	}
	end := pos
	if n := len(m.Blocks); n > 0 {
		end = m.Blocks[n-1].Pos + m.Blocks[n-1].Size
	}
	switch {
	case size == 0:
		return errors.New("size is 0")
	case size > math.MaxInt64-pos:
		return fmt.Errorf("position %#x with size %#x is too large", pos, size)
	case pos < end:
		return fmt.Errorf("block at %#x overlaps the one before, which ends at %#x", pos, end)
	case pos > end:
		return fmt.Errorf("block at %#x leaves a gap: the one before ends at %#x", pos, end)
	case len(m.Blocks) >= maxBlocks:
		return fmt.Errorf("more than %d blocks", maxBlocks)
	}
	m.push(Block{pos, size, Status(f[2][0])})
	return nil
}

// number reads a decimal, hexadecimal (0x) or octal (0) number of at least 0.
func number(s string) (int64, error) {
	// ParseInt with base 0 also knows 0b, 0o and underscores, which ddrescue does not.
	if strings.ContainsAny(s, "_oO+-") || strings.HasPrefix(strings.ToLower(s), "0b") {
		return 0, fmt.Errorf("%.30q is not a number", s)
	}
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		return 0, fmt.Errorf("%.30q is not a number of bytes below 2^63", s)
	}
	return n, nil
}

// ReadFile reads the map file of a name.
func ReadFile(name string) (*Map, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read map file: %w", err)
	}
	defer f.Close()
	m, err := Parse(f)
	if err != nil {
		return nil, fmt.Errorf("cannot read map file %s: %w", name, err)
	}
	return m, nil
}

// Write writes the map, with comment in comment lines at the top.
func (m *Map) Write(w io.Writer, comment string) error {
	b := bufio.NewWriterSize(w, 64<<10)
	b.WriteString("# Mapfile. Created by mkcdrec\n")
	for l := range strings.Lines(comment) {
		b.WriteString("# " + strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return ' '
			}
			return r
		}, strings.TrimSuffix(l, "\n")) + "\n")
	}
	b.WriteString("# current_pos  current_status  current_pass\n")
	fmt.Fprintf(b, "0x%08X     %c               %d\n#      pos        size  status\n", m.Pos, m.Phase, m.Pass)
	for _, x := range m.Blocks {
		fmt.Fprintf(b, "0x%08X  0x%08X  %c\n", x.Pos, x.Size, x.Status)
	}
	return b.Flush()
}

// WriteFile replaces the map file of a name with the map, as a whole: after a
// power failure the file has the old content or the new one. The map is on disk
// when it returns.
func (m *Map) WriteFile(name, comment string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot write map file: %w", err)
		}
	}()
	if err := regular.Output(name); err != nil {
		return err
	}
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	err = errors.Join(m.Write(f, comment), f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
