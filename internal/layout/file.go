package layout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxSize is how many bytes a layout may have as JSON, for who writes one and who
// reads one: a volume group of 10000 volumes has some 10 MiB.
const MaxSize = 256 << 20

// Read reads and checks a layout. Unknown fields and text after the end are
// errors; faults of the content are all reported at once.
func Read(r io.Reader) (*Layout, error) { return read(r, MaxSize) }

func read(r io.Reader, most int64) (*Layout, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read layout: %w", err)
	}
	if int64(len(b)) > most {
		return nil, fmt.Errorf("cannot read layout: it has more than %d bytes", most)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var l Layout
	if err := d.Decode(&l); err != nil {
		return nil, fmt.Errorf("cannot read layout: %s: %w", position(b, d.InputOffset(), err), err)
	}
	if d.More() {
		return nil, fmt.Errorf("cannot read layout: %s: text after the end", position(b, d.InputOffset(), nil))
	}
	if err := l.Validate(); err != nil {
		return nil, fmt.Errorf("cannot use layout:\n%w", err)
	}
	return &l, nil
}

// position turns an offset into "line L, column C".
func position(b []byte, off int64, err error) string {
	var se *json.SyntaxError
	var te *json.UnmarshalTypeError
	if errors.As(err, &se) {
		off = se.Offset
	} else if errors.As(err, &te) {
		off = te.Offset
	}
	head := b[:min(max(off, 0), int64(len(b)))]
	return fmt.Sprintf("line %d, column %d", 1+bytes.Count(head, []byte("\n")), len(head)-bytes.LastIndexByte(head, '\n'))
}

// Write writes the layout as JSON after checking it.
func (l *Layout) Write(w io.Writer) error { return l.write(w, MaxSize) }

func (l *Layout) write(w io.Writer, most int) error {
	if err := l.Validate(); err != nil {
		return fmt.Errorf("cannot write layout:\n%w", err)
	}
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	if b = append(b, '\n'); len(b) > most {
		return fmt.Errorf("cannot write layout: it has %d bytes, more than %d", len(b), most)
	}
	_, err = w.Write(b)
	return err
}
