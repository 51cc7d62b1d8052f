package ioctl

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestExtents: the extents cover what was written of a file with a hole, in order.
func TestExtents(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size, far = 1 << 20, 16 << 20
	for _, at := range []int64{0, far} {
		if _, err := f.WriteAt(make([]byte, size), at); err != nil {
			t.Fatal(err)
		}
	}
	var end, sum int64
	for e, err := range Extents(f) {
		if err == unix.EOPNOTSUPP {
			t.Skip("the file system of temporary files has no FIEMAP")
		}
		if err != nil {
			t.Fatal(err)
		}
		if !e.Placed || e.Logical < end || e.Length <= 0 {
			t.Errorf("Extents() gives %+v after byte %d", e, end)
		}
		end, sum = e.Logical+e.Length, sum+e.Length
	}
	if end != far+size || sum != 2*size {
		t.Errorf("Extents() has %d bytes up to byte %d; want %d up to %d", sum, end, 2*size, far+size)
	}
}

// TestDo: a request that a file does not know is an error.
func TestDo(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var n int32
	if err := Do(f.Fd(), unix.BLKSSZGET, &n); err != unix.ENOTTY {
		t.Errorf("Do(/dev/null, BLKSSZGET) = %v; want %v", err, unix.ENOTTY)
	}
}
