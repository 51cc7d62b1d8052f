// Package model is a tape drive in memory, with the faults that real ones
// have: for tests of what is written to tapes.
package model

import (
	"errors"
	"fmt"
	"io"

	"github.com/mkcdrec/mkcdrec/internal/store/tape"
)

// Tape is a reel.
type Tape struct {
	// Items are blocks, and nil for a file mark.
	Items [][]byte
	// Capacity in bytes; 0 is endless. Warn is how many bytes before its end
	// the drive warns; 0 is a drive that does not.
	Capacity, Warn int64
	Protected      bool
	// BadWrite and BadRead are items, counted from 1, at which the drive fails.
	BadWrite, BadRead int
}

// Drive is a drive with a tape in it.
type Drive struct {
	Tape  *Tape // nil: empty
	Block int
	pos   int
	in    *Tape // that pos is of
	// Ejected counts.
	Ejected int
}

var errMedium = errors.New("input/output error")

func (d *Drive) String() string { return "/dev/model" }

func (d *Drive) loaded() error {
	if d.in != d.Tape {
		d.in, d.pos = d.Tape, 0
	}
	if d.Tape == nil {
		return errors.New("no tape")
	}
	return nil
}

func (t *Tape) used(n int) int64 {
	sum := int64(0)
	for _, i := range t.Items[:n] {
		sum += int64(len(i))
	}
	return sum
}

func (d *Drive) Write(p []byte) (bool, error) {
	if err := d.loaded(); err != nil {
		return false, err
	}
	t := d.Tape
	if t.Protected {
		return false, errors.New("write-protected")
	}
	block := d.Block
	if block == 0 {
		block = len(p)
	}
	if len(p)%block != 0 {
		return false, fmt.Errorf("%d bytes are not blocks of %d", len(p), block)
	}
	t.Items = t.Items[:d.pos]
	used := t.used(d.pos)
	for ; len(p) > 0; p = p[block:] {
		if t.BadWrite > 0 && d.pos+1 >= t.BadWrite {
			return false, errMedium
		}
		if t.Capacity > 0 && used+int64(block) > t.Capacity {
			return true, tape.ErrFull
		}
		t.Items = append(t.Items, append([]byte{}, p[:block]...))
		used += int64(block)
		d.pos++
	}
	return t.Capacity > 0 && t.Warn > 0 && used > t.Capacity-t.Warn, nil
}

func (d *Drive) Read(p []byte) (int, error) {
	if err := d.loaded(); err != nil {
		return 0, err
	}
	t := d.Tape
	if d.pos >= len(t.Items) {
		return 0, tape.ErrBlank
	}
	if t.BadRead > 0 && d.pos+1 == t.BadRead {
		return 0, errMedium
	}
	i := t.Items[d.pos]
	d.pos++
	if i == nil {
		return 0, io.EOF
	}
	if len(i) > len(p) {
		return 0, fmt.Errorf("a block of %d bytes, room for %d", len(i), len(p))
	}
	return copy(p, i), nil
}

func (d *Drive) SetBlock(n int) error { d.Block = n; return d.loaded() }
func (d *Drive) Rewind() error        { err := d.loaded(); d.pos = 0; return err }

func (d *Drive) Mark() error {
	if err := d.loaded(); err != nil {
		return err
	}
	d.Tape.Items = append(d.Tape.Items[:d.pos], nil)
	d.pos++
	return nil
}

func (d *Drive) Forward(n int) error {
	if err := d.loaded(); err != nil {
		return err
	}
	for ; n > 0; d.pos++ {
		if d.pos >= len(d.Tape.Items) {
			return errMedium
		}
		if d.Tape.Items[d.pos] == nil {
			n--
		}
	}
	return nil
}

func (d *Drive) Back(n int) error {
	if err := d.loaded(); err != nil {
		return err
	}
	for n > 0 {
		if d.pos == 0 {
			return errMedium
		}
		d.pos--
		if d.Tape.Items[d.pos] == nil {
			n--
		}
	}
	return nil
}

func (d *Drive) ToEnd() error {
	if err := d.loaded(); err != nil {
		return err
	}
	d.pos = len(d.Tape.Items)
	return nil
}

func (d *Drive) Position() (tape.Position, error) {
	if d.loaded() != nil {
		return tape.Position{File: -1, Block: -1}, nil
	}
	p := tape.Position{Online: true, WriteProtected: d.Tape.Protected, End: d.pos >= len(d.Tape.Items)}
	for _, i := range d.Tape.Items[:d.pos] {
		p.Block++
		if i == nil {
			p.File, p.Block = p.File+1, 0
		}
	}
	return p, nil
}

func (d *Drive) Reload() error          { return nil }
func (d *Drive) Compression(bool) error { return errors.New("this drive has none") }
func (d *Drive) Eject() error           { d.Ejected++; d.pos = 0; return d.loaded() }
func (d *Drive) Close() error           { return nil }
