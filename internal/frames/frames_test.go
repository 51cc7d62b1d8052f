package frames

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"
)

// TestIndex: what Index writes, ReadIndex, Lengths and Payload read; a file that is cut
// off anywhere has no index.
func TestIndex(t *testing.T) {
	payload := []byte("test-index..and what it says")
	end := Index([]Frame{{Packed: 3, Size: 10}, {Packed: 4, Size: 7}}, payload)
	file := append([]byte("aaabbbb"), end...)
	got, sizes, err := ReadIndex(bytes.NewReader(file), int64(len(file)))
	if want := [][2]uint32{{3, 10}, {4, 7}}; err != nil || !bytes.Equal(got, payload) || !slices.Equal(sizes, want) {
		t.Errorf("ReadIndex = %q, %v, %v; want %q, %v", got, sizes, err, payload, want)
	}
	l, err := Lengths(bytes.NewReader(file), int64(len(file)))
	if want := []int64{3, 4, int64(8 + len(payload)), 8 + 3*8 + 9}; err != nil || !slices.Equal(l, want) {
		t.Errorf("Lengths = %v, %v; want %v", l, err, want)
	}
	r, err := Payload(bytes.NewReader(end))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, payload) {
		t.Errorf("Payload = %q, %v; want %q", got, err, payload)
	}
	for n := range len(file) {
		if _, _, err := ReadIndex(bytes.NewReader(file[:n]), int64(n)); err == nil {
			t.Errorf("ReadIndex of the first %d bytes of %d: no error", n, len(file))
		}
	}
	for n := range 8 + len(payload) {
		if _, err := Payload(bytes.NewReader(end[:n])); err == nil {
			t.Errorf("Payload of the first %d bytes: no error", n)
		}
	}
	if _, err := Payload(bytes.NewReader(file)); !errors.Is(err, ErrNone) {
		t.Errorf("Payload of a file = %v; want %v", err, ErrNone)
	}
}

// TestHostileIndex: what claims to be large costs no memory.
func TestHostileIndex(t *testing.T) {
	for _, n := range []uint32{Max, 1<<32 - 1} {
		size := int64(1) << 40
		end := binary.LittleEndian.AppendUint32(nil, n)
		end = binary.LittleEndian.AppendUint32(append(end, 0), seekFooter)
		table := int64(n)*8 + seekFooterLen
		h := &holeReader{size: size, parts: map[int64][]byte{size - seekFooterLen: end, size - table - 8: binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, magicSeek), uint32(table))}}
		if _, _, err := ReadIndex(h, size); err == nil || h.read > 1<<20 {
			t.Errorf("ReadIndex(%d frames) = %v after %d bytes", n, err, h.read)
		}
	}
}

// holeReader reads as zero bytes, but for a few parts.
type holeReader struct {
	size, read int64
	parts      map[int64][]byte
}

func (h *holeReader) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	h.read += int64(len(p))
	for at, b := range h.parts {
		for i, c := range b {
			if j := at + int64(i) - off; j >= 0 && j < int64(len(p)) {
				p[j] = c
			}
		}
	}
	if off+int64(len(p)) > h.size {
		return 0, io.EOF
	}
	return len(p), nil
}
