package archive

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/frames"
)

// The writer refuses an archive that its own reader would refuse: one with too many
// frames, or with too long a table of contents.
func TestWriterLimits(t *testing.T) {
	// write makes an archive of three directories in a frame each. A fourth frame has
	// the end mark of the tar stream. It returns the length of the frame that has the
	// table of contents, in bytes.
	write := func(set func(fw *frameWriter, toc *tocWriter)) (int64, error) {
		t.Helper()
		var out, index bytes.Buffer
		fw, err := newFrameWriter(t.Context(), &out, Fastest, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer fw.stop()
		toc, err := newTOCWriter()
		if err != nil {
			t.Fatal(err)
		}
		if fw.limit != frames.Max || toc.limit != frames.MaxPayload {
			t.Fatalf("limits %d and %d; want %d and %d", fw.limit, toc.limit, frames.Max, int64(frames.MaxPayload))
		}
		set(fw, toc)
		for _, n := range []string{"a", "b", "c"} {
			m := &Member{Path: n, Type: TypeDir, Mode: 0o755}
			if err := errors.Join(toc.add(m, fw.tar), writeHeader(fw, m, 0), fw.cut()); err != nil {
				return 0, err
			}
		}
		if err := fw.finish(toc, &index); err != nil {
			return 0, err
		}
		r, err := Open(bytes.NewReader(out.Bytes()), int64(out.Len()), "limits")
		if err != nil {
			t.Fatal(err)
		}
		return 8 + int64(binary.LittleEndian.Uint32(index.Bytes()[4:])), deepVerify(t, r)
	}
	size, err := write(func(*frameWriter, *tocWriter) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		frames int
		toc    int64
		want   string // in the error; "" is none
	}{
		{"at both limits", 4, size, ""},
		{"one frame too many", 3, size, "more than 3 frames"},
		{"several frames too many", 1, size, "more than 1 frames"},
		{"one byte of the table of contents too many", 4, size - 1, "cannot make table of contents: it has"},
	} {
		_, err := write(func(fw *frameWriter, toc *tocWriter) { fw.limit, toc.limit, toc.frames = c.frames, c.toc, 0 })
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}

	// A table that grows too long ends the backup then, and not after all files.
	toc, err := newTOCWriter()
	if err != nil {
		t.Fatal(err)
	}
	toc.limit, toc.frames = 1<<20, 512<<10
	name := make([]byte, 100)
	members := 0
	for err == nil && members < 20000 {
		rand.Read(name)
		members++
		err = toc.add(&Member{Path: hex.EncodeToString(name), Type: TypeFile}, 0)
	}
	if err == nil || !strings.Contains(err.Error(), "leave something out") || toc.buf.Len() > 1<<20 {
		t.Errorf("after %d members and %d bytes: %v", members, toc.buf.Len(), err)
	}
}
