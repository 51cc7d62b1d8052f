package archive

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"
)

// TestSpool: what is written is read back, whether it is in memory, in a file, or in memory because
// there is no room for a file.
func TestSpool(t *testing.T) {
	part := bytes.Repeat([]byte("table of contents\n"), 60_000)
	for _, c := range []struct {
		what   string
		parts  int
		before func(n int, s *spool)
		file   bool
	}{
		{"little", 3, nil, false},
		{"much", 20, nil, true},
		{"no directory", 20, func(n int, _ *spool) {
			if n == 0 {
				os.Setenv("TMPDIR", "/no/such/directory")
			}
		}, false},
		{"full later", 20, func(n int, s *spool) {
			if n == 15 { // writing fails, reading does not
				f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", s.f.Fd()))
				if err != nil {
					t.Fatal(err)
				}
				s.f.Close()
				s.f = f
			}
		}, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("TMPDIR", dir)
			s, want := &spool{}, []byte{}
			defer s.close()
			for n := range c.parts {
				if c.before != nil {
					c.before(n, s)
				}
				b := append([]byte{byte(n)}, part...)
				if k, err := s.Write(b); err != nil || k != len(b) {
					t.Fatalf("Write = %d, %v; want %d", k, err, len(b))
				}
				want = append(want, b...)
			}
			for range 2 {
				if got, err := io.ReadAll(s.reader()); err != nil || !bytes.Equal(got, want) || s.Len() != int64(len(want)) {
					t.Errorf("%d bytes are read, Len = %d, %v; want %d", len(got), s.Len(), err, len(want))
				}
			}
			if (s.f != nil) != c.file || c.file && s.mem.Cap() > 0 {
				t.Errorf("in a file: %v, %d bytes in memory; want %v", s.f != nil, s.mem.Cap(), c.file)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left in the directory for temporary files: %v, %v", left, err)
			}
		})
	}
}
