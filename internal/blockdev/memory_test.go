package blockdev

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMemoryLoop: the device has its size, keeps what is written, shows that it is over
// memory, and is freed with the last that has it open.
func TestMemoryLoop(t *testing.T) {
	name, hold, err := MemoryLoop("mkcdrec-test", 3<<20)
	if err != nil {
		t.Skip("no loop devices here: ", err)
	}
	user, err := os.OpenFile("/dev/"+name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := hold.Close(); err != nil {
		t.Fatal(err)
	}
	size, number, err := Geometry("/dev/" + name)
	dev, _ := os.ReadFile("/sys/block/" + name + "/dev")
	if err != nil || size != 3<<20 || number != strings.TrimSpace(string(dev)) {
		t.Errorf("size %d, number %q, %v; want %d, %q", size, number, err, 3<<20, dev)
	}
	backing := "/sys/block/" + name + "/loop/backing_file"
	if b, err := os.ReadFile(backing); err != nil || !strings.HasPrefix(string(b), "/memfd:mkcdrec-test") {
		t.Errorf("backing file %q, %v", b, err)
	}
	want := []byte("written")
	got := make([]byte, len(want))
	_, err1 := user.WriteAt(want, 2<<20)
	_, err2 := user.ReadAt(got, 2<<20)
	if err1 != nil || err2 != nil || !bytes.Equal(got, want) {
		t.Errorf("%q, %v, %v", got, err1, err2)
	}
	if err := user.Close(); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if _, err := os.Stat(backing); err != nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("%s stays", name)
}

func TestGeometryOfNothing(t *testing.T) {
	if _, _, err := Geometry("/dev/no-such-disk"); err == nil {
		t.Error("a device that is not there has a geometry")
	}
}

// TestSectors: a file has sectors of 512 bytes, a device its own.
func TestSectors(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/file")
	if err == nil {
		err = f.Truncate(12345)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if size, sector, err := Sectors(f); size != 12345 || sector != 512 || err != nil {
		t.Errorf("Sectors = %d, %d, %v; want 12345, 512", size, sector, err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, _, err := Sectors(r); err == nil {
		t.Error("a pipe has a size")
	}
}
