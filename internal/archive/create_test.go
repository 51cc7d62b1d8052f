package archive

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestZeros: the map of a file on a file system that can't tell where its holes
// are is the one that the kernel gives elsewhere.
func TestZeros(t *testing.T) {
	for _, c := range []struct {
		name string
		size int64
		data []Segment
		want []Segment
	}{
		{"no hole", 8192, []Segment{{0, 8192}}, nil},
		{"only a hole", 1 << 20, nil, []Segment{}},
		{"hole in the middle", 3 << 20, []Segment{{0, 8192}, {2 << 20, 1 << 20}}, []Segment{{0, 8192}, {2 << 20, 1 << 20}}},
		{"runs across reads", 1 << 20, []Segment{{200 << 10, 300 << 10}}, []Segment{{200 << 10, 300 << 10}}},
		{"a byte alone", 1 << 20, []Segment{{300001, 1}}, []Segment{{300001 &^ 4095, 4096}}},
		{"a short last block", 1<<20 + 5, []Segment{{1 << 20, 5}}, []Segment{{1 << 20, 5}}},
		{"a short last hole", 8192 + 5, []Segment{{0, 8192}}, []Segment{{0, 8192}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "f")
			f, err := os.Create(name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(c.size); err != nil {
				t.Fatal(err)
			}
			for _, s := range c.data {
				if _, err := f.WriteAt(slices.Repeat([]byte{1}, int(s.Length)), s.Offset); err != nil {
					t.Fatal(err)
				}
			}
			got, ok := (&creator{}).zeros(int(f.Fd()), c.size)
			if ok != (c.want != nil) || ok && !slices.Equal(got, c.want) {
				t.Errorf("zeros = %v, %v; want %v", got, ok, c.want)
			}
		})
	}
}
