package blockcopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/btrfs/btrfstest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// file makes a sparse file of a size in bytes.
func file(t testing.TB, size int64) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(f, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(f, size); err != nil {
		t.Fatal(err)
	}
	return f
}

func open(t testing.TB, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// made is a file system of a kind, with files in it as far as there are
// programs that can put them there.
func made(t testing.TB, kind string) string {
	t.Helper()
	size := map[string]int64{"fat12": 4 << 20, "fat16": 32 << 20, "exfat": 64 << 20}[kind]
	if size == 0 {
		size = 100 << 20
	}
	img := file(t, size)
	run := func(args ...string) {
		t.Helper()
		if _, err := exec.LookPath(args[0]); err != nil {
			t.Skipf("%s is not installed; make test installs it", args[0])
		}
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	src := filepath.Join(t.TempDir(), "src")
	r := rand.New(rand.NewPCG(1, 2))
	switch kind {
	case "ntfs", "ntfs64k":
		c := "4096"
		if kind == "ntfs64k" {
			c = "65536"
		}
		run("mkntfs", "-q", "-F", "-f", "-c", c, "-s", "512", "-p", "0", "-H", "255", "-S", "63", "-L", "win", img)
		for i := range 12 {
			b := make([]byte, r.IntN(600_000))
			for j := range b {
				b[j] = byte(r.Uint32())
			}
			if err := os.WriteFile(src, b, 0o600); err != nil {
				t.Fatal(err)
			}
			run("ntfscp", "-q", "-f", img, src, fmt.Sprintf("file%d", i))
		}
	case "fat12", "fat16", "fat32":
		run("mkfs.fat", "-F", kind[3:], "-s", map[string]string{"fat12": "4"}[kind]+map[string]string{"fat16": "1", "fat32": "1"}[kind], img)
		for i := range 12 {
			b := make([]byte, r.IntN(100_000))
			for j := range b {
				b[j] = byte(r.Uint32())
			}
			if err := os.WriteFile(src, b, 0o600); err != nil {
				t.Fatal(err)
			}
			run("mcopy", "-i", img, src, fmt.Sprintf("::file%d", i))
		}
	case "exfat":
		run("mkfs.exfat", img)
	}
	return img
}

// An image put onto a device full of something else has the same files, by
// programs of other people, and the maps are as large as they say.
func TestImages(t *testing.T) {
	t.Parallel()
	for kind, check := range map[string][]string{
		"ntfs": {"sh", "-c", `ntfsfix -n "$1" >/dev/null && for i in 0 1 2 3 4 5 6 7 8 9 10 11; do ntfscat -f "$1" file$i; done`, "sh"}, "ntfs64k": {"sh", "-c", `ntfsls -f "$1"; for i in 0 1 2 3 4 5 6 7 8 9 10 11; do ntfscat -f "$1" file$i; done`, "sh"},
		"fat12": {"sh", "-c", `fsck.fat -n "$1" | grep -v "$1"; mtype -i "$1" ::file*`, "sh"}, "fat16": {"sh", "-c", `fsck.fat -n "$1" | grep -v "$1"; mtype -i "$1" ::file*`, "sh"}, "fat32": {"sh", "-c", `fsck.fat -n "$1" | grep -v "$1"; mtype -i "$1" ::file*`, "sh"},
		"exfat": {"sh", "-c", `fsck.exfat -n "$1" | sed "s,$1,,"`, "sh"},
	} {
		t.Run(kind, func(t *testing.T) {
			img := made(t, kind)
			st, err := os.Stat(img)
			if err != nil {
				t.Fatal(err)
			}
			m, why := Of(open(t, img), st.Size())
			if why != "" {
				t.Fatal(why)
			}
			if m.Bytes() > st.Size()/2 || m.Bytes() < 100_000 {
				t.Errorf("%d of %d bytes are in use", m.Bytes(), st.Size())
			}
			if strings.HasPrefix(kind, "ntfs") {
				out, err := exec.Command("ntfsinfo", "-m", "-f", img).Output()
				if err != nil {
					t.Fatal(err)
				}
				var total, free int64
				for _, l := range strings.Split(string(out), "\n") {
					fmt.Sscanf(strings.TrimSpace(l), "Volume Size in Clusters: %d", &total)
					fmt.Sscanf(strings.TrimSpace(l), "Free Clusters: %d", &free)
				}
				cluster := map[string]int64{"ntfs": 4096, "ntfs64k": 65536}[kind]
				if want := (total - free) * cluster; m.Bytes()-want < 0 || m.Bytes()-want > cluster {
					t.Errorf("%d bytes in use; ntfsinfo says %d", m.Bytes(), want)
				}
			}
			back := through(t, img, m)
			a, err := exec.Command(check[0], append(check[1:], img)...).CombinedOutput()
			if err != nil || len(a) < 50 {
				t.Fatalf("%v\n%.2000s", err, a)
			}
			b, err := exec.Command(check[0], append(check[1:], back)...).CombinedOutput()
			if err != nil || !bytes.Equal(a, b) {
				t.Errorf("%v\n%.2000s", err, b)
			}
		})
	}
}

// through writes an image of a file and restores it onto one full of 0xA5.
func through(t testing.TB, img string, m *Map) string {
	t.Helper()
	var out bytes.Buffer
	src := open(t, img)
	s, err := Write(context.Background(), &out, src, m, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Packed != int64(out.Len()) || s.Used != m.Bytes() {
		t.Errorf("%+v; %d bytes came out", s, out.Len())
	}
	i, err := Open(bytes.NewReader(out.Bytes()), int64(out.Len()), "x.img.zst")
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Verify(context.Background(), progress.None{}); err != nil {
		t.Error(err)
	}
	back := file(t, 0)
	if err := os.WriteFile(back, bytes.Repeat([]byte{0xA5}, int(m.Size)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := i.Restore(context.Background(), open(t, back), progress.None{}); err != nil {
		t.Fatal(err)
	}
	a, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(back)
	if err != nil {
		t.Fatal(err)
	}
	at := int64(0)
	for _, e := range append(slices.Clone(m.Used), Extent{m.Size, 0}) {
		if len(bytes.ReplaceAll(b[at:e.Start], []byte{0xA5}, nil)) > 0 {
			t.Errorf("bytes %d to %d were written, and are not in use", at, e.Start)
		}
		if !bytes.Equal(a[e.Start:e.Start+e.Length], b[e.Start:e.Start+e.Length]) {
			t.Errorf("bytes %d to %d are others", e.Start, e.Start+e.Length)
		}
		at = e.Start + e.Length
	}
	// By hand: zstd gives the device, with zero bytes where nothing is in use.
	c := exec.Command("zstd", "-dc")
	c.Stdin = bytes.NewReader(out.Bytes())
	raw, err := c.Output()
	if err != nil || int64(len(raw)) != m.Size {
		t.Fatalf("zstd: %v, %d bytes of %d", err, len(raw), m.Size)
	}
	for _, e := range m.Used {
		if !bytes.Equal(a[e.Start:e.Start+e.Length], raw[e.Start:e.Start+e.Length]) {
			t.Errorf("zstd gives others for bytes %d to %d", e.Start, e.Start+e.Length)
		}
	}
	return back
}

// A volume that was not left in order, or in which Windows is hibernated, is taken as a
// whole.
func TestNTFSNotClean(t *testing.T) {
	img := made(t, "ntfs")
	src := filepath.Join(t.TempDir(), "hiber")
	// In this order: ntfscp does not write into a volume in which Windows is hibernated.
	for _, c := range []struct{ text, want string }{{"wake\x00", ""}, {"hibr\x00", "it has a Windows that is hibernated"}} {
		text, want := c.text, c.want
		if err := os.WriteFile(src, append([]byte(text), make([]byte, 9000)...), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("ntfscp", "-q", "-f", img, src, "hiberfil.sys").CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		m, why := Of(open(t, img), 100<<20)
		if !strings.Contains(why, want) || (why == "") != (want == "") {
			t.Errorf("%q: %q", text, why)
		}
		if want != "" && m.Bytes() != 100<<20 {
			t.Errorf("only %d bytes are in use", m.Bytes())
		}
	}
}

func TestUnknown(t *testing.T) {
	img := file(t, 10<<20+512)
	f := open(t, img)
	for _, off := range []int64{0, 5 << 20, 10 << 20} {
		if _, err := f.WriteAt([]byte("something"), off); err != nil {
			t.Fatal(err)
		}
	}
	m, why := Of(f, 10<<20+512)
	if why == "" || m.Bytes() != 10<<20+512 {
		t.Errorf("%+v %q", m, why)
	}
	through(t, img, m)
}

// Every byte of an image that is another is noticed, as is every length.
func TestDamage(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	m := &Map{Size: 9 << 20}
	data := make([]byte, m.Size)
	for i := range data[:6<<20] {
		data[i] = byte(r.Uint32())
	}
	m.add(0, 1000)
	m.add(5<<20, 70_000)
	var out bytes.Buffer
	if _, err := Write(context.Background(), &out, bytes.NewReader(data), m, progress.None{}); err != nil {
		t.Fatal(err)
	}
	whole := out.Bytes()
	try := func(b []byte) error {
		i, err := Open(bytes.NewReader(b), int64(len(b)), "x")
		if err != nil {
			return err
		}
		return i.Verify(context.Background(), progress.None{})
	}
	if err := try(whole); err != nil {
		t.Fatal(err)
	}
	unused := 0
	for at := 0; at < len(whole); at += 1 + len(whole)/500 {
		b := slices.Clone(whole)
		b[at] ^= 1 << r.IntN(8)
		if try(b) == nil {
			// A frame in which nothing is in use is not read, and the seek table's
			// descriptor has bits that say nothing.
			if unused++; unused > 30 {
				t.Fatalf("byte %d: a change is not noticed", at)
			}
		}
		if err := try(whole[:at]); err == nil {
			t.Fatalf("cut off at %d: not noticed", at)
		}
	}
}

// damaged is a device with sectors that can't be read, by number; reads counts
// what was tried.
type damaged struct {
	io.ReaderAt
	bad    map[int64]bool
	sector int64
	reads  *atomic.Int64
}

func (d damaged) ReadAt(b []byte, off int64) (int, error) {
	d.reads.Add(1)
	for n := off / d.sector; n*d.sector < off+int64(len(b)); n++ {
		if d.bad[n] {
			return 0, unix.EIO
		}
	}
	return d.ReaderAt.ReadAt(b, off)
}

// What can't be read costs its own sectors: they are zero in the image and in
// its list, everything else is the device's.
func TestBadSectors(t *testing.T) {
	const size = 20<<20 + 1024
	data := make([]byte, size)
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range data {
		data[i] = byte(rng.Uint32()) | 1
	}
	d := damaged{bytes.NewReader(data), map[int64]bool{0: true, 4: true, 5: true, 6: true, 8191: true, 8192: true, 30000: true, size/512 - 1: true}, 512, new(atomic.Int64)}
	want := []Extent{{0, 512}, {4 * 512, 3 * 512}, {8191 * 512, 1024}, {30000 * 512, 512}, {size - 512, 512}}
	m, why := Of(d, size)
	if why == "" || m.Bytes() != size {
		t.Errorf("Of = %d bytes, %q; want the whole device with the reason", m.Bytes(), why)
	}
	var out bytes.Buffer
	s, err := Write(context.Background(), &out, d, m, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.Bad, want) || !errors.Is(s.ReadError, unix.EIO) {
		t.Errorf("bad %v, %v; want %v", s.Bad, s.ReadError, want)
	}
	i, err := Open(bytes.NewReader(out.Bytes()), int64(out.Len()), "x")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(i.Bad(), want) {
		t.Errorf("the image lists %v; want %v", i.Bad(), want)
	}
	back := file(t, size)
	if err := i.Restore(context.Background(), open(t, back), progress.None{}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(back)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range want {
		clear(data[e.Start : e.Start+e.Length])
	}
	if !bytes.Equal(got, data) {
		t.Error("the image has other bytes than the device with zero bytes in the place of bad sectors")
	}
}

// A device of which nothing can be read any more is not tried sector by sector
// to its end.
func TestDeadDevice(t *testing.T) {
	const size = 1 << 30
	d := damaged{zeros(nil), map[int64]bool{}, 512, new(atomic.Int64)}
	for n := int64(2048); n < size/512; n++ {
		d.bad[n] = true
	}
	s, err := Write(context.Background(), io.Discard, d, Whole(size), progress.None{})
	if err != nil || !slices.Equal(s.Bad, []Extent{{1 << 20, size - 1<<20}}) {
		t.Errorf("bad %v, %v", s.Bad, err)
	}
	if n := d.reads.Load(); n > 1_000_000 {
		t.Errorf("%d reads of a dead device", n)
	}
}

// Single sectors are read past the page cache: a page has eight of them.
func TestSectors(t *testing.T) {
	dev := btrfstest.Loop(t, 1<<20)
	f := open(t, dev)
	if _, err := f.WriteAt(bytes.Repeat([]byte{7}, 512), 512*3); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	d, err := OpenDevice(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.direct == nil {
		t.Error("a block device is not opened with O_DIRECT")
	}
	b := make([]byte, 512)
	if err := d.ReadSectors(b, 512*3); err != nil || b[0] != 7 || b[511] != 7 {
		t.Errorf("sector 3: %v, %d", err, b[0])
	}
	if err := d.ReadSectors(b, 512*4); err != nil || b[0] != 0 {
		t.Errorf("sector 4: %v, %d", err, b[0])
	}
}

func TestErrors(t *testing.T) {
	m := Whole(40 << 20)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Write(ctx, io.Discard, bytes.NewReader(make([]byte, 40<<20)), m, progress.None{}); err == nil {
		t.Error("a run that was cancelled is no error")
	}
	full := open(t, "/dev/full")
	if _, err := Write(context.Background(), full, bytes.NewReader(make([]byte, 40<<20)), m, progress.None{}); err == nil {
		t.Error("a full disk is no error")
	}
	bad := damaged{bytes.NewReader(make([]byte, 40<<20)), map[int64]bool{9000: true}, 512, new(atomic.Int64)}
	if _, err := Write(ctx, io.Discard, bad, m, progress.None{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a run that was cancelled on a damaged device: %v", err)
	}
	if _, err := Write(context.Background(), io.Discard, zeros(nil), Whole(1<<47), progress.None{}); err == nil || !strings.Contains(err.Error(), "index") {
		t.Errorf("a device too large for the index: %v", err)
	}
}

// The kernel's map covers every block of every file, and leaves out most of
// what is free.
func TestMounted(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			if testing.Short() && kind == "xfs" {
				t.Skip("takes seconds")
			}
			dev, dir := btrfstest.MountOther(t, kind, 1<<30)
			mark := bytes.Repeat([]byte("mark of a block "), 256)
			for i := range 20 {
				if err := os.WriteFile(fmt.Sprintf("%s/f%d", dir, i), bytes.Repeat(mark, 10+i*7), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			btrfstest.Run(t, "sync", "-f", dir)
			m, err := MountedOn(dir, dev)
			if err != nil {
				t.Fatal(err)
			}
			if m.Bytes() > 256<<20 || m.Bytes() < 1<<20 {
				t.Errorf("%d bytes are in use", m.Bytes())
			}
			// All blocks with the mark are in use.
			f := open(t, dev)
			seen, b := 0, make([]byte, 4096)
			for off := int64(0); off < 1<<30; off += 4096 {
				if _, err := f.ReadAt(b, off); err != nil {
					t.Fatal(err)
				}
				if bytes.Equal(b, mark) {
					seen++
					if w := m.within(off, 4096); len(w) != 1 || w[0].Length != 4096 {
						t.Fatalf("the block at %d has a file's content, and is not in use", off)
					}
				}
			}
			if seen < 1500 {
				t.Errorf("only %d blocks of files were found", seen)
			}
		})
	}
}

// zeros is a device with zero bytes behind what is there.
type zeros []byte

func (z zeros) ReadAt(b []byte, off int64) (int, error) {
	clear(b)
	if off < int64(len(z)) {
		copy(b, z[off:])
	}
	return len(b), nil
}

// FuzzMaps: no file system's bytes make a map that is not one.
func FuzzMaps(f *testing.F) {
	for _, k := range []string{"ntfs", "fat16", "exfat"} {
		b, err := os.ReadFile(made(f, k))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:48<<10])
	}
	const size = 100 << 20
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, read := range []func(io.ReaderAt, int64) (*Map, error){ntfsMap, fatMap, exfatMap} {
			m, err := read(zeros(b), size)
			if err != nil {
				continue
			}
			end := int64(0)
			for _, e := range m.tidy().Used {
				if e.Start < end || e.Length <= 0 || e.Start+e.Length > size {
					t.Fatalf("%+v of %d", e, size)
				}
				end = e.Start + e.Length
			}
		}
	})
}

// FuzzOpen: no bytes are an image that reads beyond its device.
func FuzzOpen(f *testing.F) {
	var out bytes.Buffer
	m := &Map{Size: 5 << 20}
	m.add(100, 5000)
	if _, err := Write(context.Background(), &out, bytes.NewReader(make([]byte, 5<<20)), m, progress.None{}); err != nil {
		f.Fatal(err)
	}
	f.Add(out.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := Open(bytes.NewReader(b), int64(len(b)), "x")
		if err != nil {
			return
		}
		for _, e := range i.Map().Used {
			if e.Start < 0 || e.Start+e.Length > i.Map().Size {
				t.Fatalf("%+v of %d", e, i.Map().Size)
			}
		}
	})
}
