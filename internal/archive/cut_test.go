package archive

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestExtractCut: of an archive whose end is missing every member before the cut is extracted, no file in part, and
// what is lost is named.
func TestExtractCut(t *testing.T) {
	src := t.TempDir()
	r := rand.NewChaCha8([32]byte{7})
	content := map[string][]byte{}
	for d := range 6 {
		dir := fmt.Sprintf("d%d", d)
		if err := os.Mkdir(filepath.Join(src, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			b := make([]byte, 1+i*20<<10)
			_, _ = r.Read(b) // never fails
			name := fmt.Sprintf("%s/f%02d", dir, i)
			content[name] = b
			write(t, filepath.Join(src, name), string(b))
		}
	}
	name, sum := create(t, src, CreateOptions{})
	all, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	tail := open(t, name)
	last := tail.frames[len(tail.frames)-1]
	before := -1
	for _, size := range []int64{0, 10, 1 << 20, last.Offset - 1, last.Offset, last.Offset + last.Packed/2, last.Offset + last.Packed, int64(len(all)) - 1} {
		dst := t.TempDir()
		s, err := ExtractCut(context.Background(), bytes.NewReader(all[:size]), "x.tar.zst", dst, ExtractOptions{NoOwner: !isRoot})
		if err != nil {
			t.Errorf("%d bytes: %v", size, err)
			continue
		}
		n := 0
		for name, want := range content {
			got, err := os.ReadFile(filepath.Join(dst, name))
			switch {
			case err == nil && !bytes.Equal(got, want):
				t.Errorf("%d bytes: %s has %d bytes that are not those of the archive", size, name, len(got))
			case err == nil:
				n++
			}
		}
		lost := s.Incomplete()
		whole := size >= last.Offset+last.Packed
		if whole && (n != len(content) || len(lost) > 0 || s.Members != sum.Members) || !whole && (len(lost) == 0 || !strings.Contains(lost[len(lost)-1].Detail, "nothing behind it can be read")) {
			t.Errorf("%d bytes: %d of %d files, problems %v", size, n, len(content), lost)
		}
		if n < before {
			t.Errorf("%d bytes: %d files, fewer than of a shorter one", size, n)
		}
		before = n
	}
	// Only what is asked for.
	dst := t.TempDir()
	if _, err := ExtractCut(context.Background(), bytes.NewReader(all[:last.Offset]), "x.tar.zst", dst, ExtractOptions{NoOwner: !isRoot, Select: func(p string) bool { return p == "d0/f03" }}); err != nil {
		t.Error(err)
	}
	if got, err := filepath.Glob(dst + "/*/*"); err != nil || len(got) != 1 {
		t.Errorf("extracted %v, %v; want d0/f03", got, err)
	}
}
