package partclone

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// golden are images of one ext4 file system of 2 MiB (blocks of 1 KiB, 2048 of them, 108
// used) and one of partclone.imager, made by partclone 0.3.47 with -a0 -a1 -a2 -a3 and
// several -k, those ending in -k with -K; v1 was made by partclone 0.2.89. restored is
// what partclone.restore 0.3.47, 0.3.23 and 0.2.89 made of all but imager.
var golden = map[string]Header{
	"none":     {Version: 2, Partclone: "0.3.47", CPUBits: 64, Checksum: None, Reseed: true, Bitmap: BitmapBit},
	"crc32":    {Version: 2, Partclone: "0.3.47", CPUBits: 64, Checksum: CRC32, BlocksPerChecksum: 4, Reseed: true, Bitmap: BitmapBit},
	"crc32-k":  {Version: 2, Partclone: "0.3.47", CPUBits: 64, Checksum: CRC32, BlocksPerChecksum: 7, Bitmap: BitmapBit},
	"xxh64":    {Version: 2, Partclone: "0.3.47", CPUBits: 64, Checksum: XXH64, BlocksPerChecksum: 16, Reseed: true, Bitmap: BitmapBit},
	"xxh64-k":  {Version: 2, Partclone: "0.3.47", CPUBits: 64, Checksum: XXH64, BlocksPerChecksum: 3, Bitmap: BitmapBit},
	"xxh128":   {Version: 2, Partclone: "0.3.47", CPUBits: 64, Checksum: XXH128, BlocksPerChecksum: 16, Reseed: true, Bitmap: BitmapBit},
	"xxh128-k": {Version: 2, Partclone: "0.3.47", CPUBits: 64, Checksum: XXH128, BlocksPerChecksum: 5, Bitmap: BitmapBit},
	"v1":       {Version: 1, Checksum: CRC32First, BlocksPerChecksum: 1, Bitmap: BitmapByte},
}

func unzstd(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".zst"))
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if b, err = z.DecodeAll(b, nil); err != nil {
		t.Fatal(err)
	}
	return b
}

// restore writes an image into dev, and returns the extents of the map and those that
// came with data.
func restore(r io.Reader, dev []byte) (m *Image, err error) {
	if m, err = Open(r); err != nil {
		return nil, err
	}
	return m, copyTo(m, dev)
}

func copyTo(m *Image, dev []byte) error {
	var got []Extent
	for {
		off, data, err := m.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if len(data) == 0 || off%m.BlockSize != 0 || int64(len(data))%m.BlockSize != 0 || off+int64(len(data)) > m.Size() {
			return fmt.Errorf("%d bytes at %d", len(data), off)
		}
		if n := len(got); n > 0 && got[n-1].Offset+got[n-1].Length == off {
			got[n-1].Length += int64(len(data))
		} else {
			got = append(got, Extent{off, int64(len(data))})
		}
		if dev != nil {
			copy(dev[off:], data)
		}
	}
	if want := slices.Collect(m.Extents()); !slices.Equal(got, want) {
		return fmt.Errorf("data came for %v, the map has %v", got, want)
	}
	return nil
}

func TestGolden(t *testing.T) {
	want := unzstd(t, "restored")
	for name, h := range golden {
		t.Run(name, func(t *testing.T) {
			h.FS, h.DeviceSize, h.BlockSize, h.Blocks, h.UsedBlocks, h.SuperBlockUsed = "EXTFS", 2<<20, 1024, 2048, 108, 108
			dev := make([]byte, len(want))
			m, err := restore(bytes.NewReader(unzstd(t, name)), dev)
			if err != nil {
				t.Fatal(err)
			}
			if m.Header != h {
				t.Errorf("header %+v; want %+v", m.Header, h)
			}
			if !bytes.Equal(dev, want) {
				t.Error("restored content differs from partclone's")
			}
			if _, _, err := m.Next(); err != io.EOF {
				t.Errorf("after the end: %v; want EOF again", err)
			}
			if first := slices.Collect(m.Extents())[0]; first != (Extent{0, 43 << 10}) {
				t.Errorf("first extent %+v", first)
			}
		})
	}
}

func TestImager(t *testing.T) {
	dev := make([]byte, 5632)
	m, err := restore(bytes.NewReader(unzstd(t, "imager")), dev)
	if err != nil || m.FS != "raw" || m.UsedBlocks != 11 || m.BlockSize != 512 {
		t.Fatalf("%+v, %v", m, err)
	}
	want := make([]byte, 5632)
	copy(want[:4100], unzstd(t, "restored"))
	if !bytes.Equal(dev, want) {
		t.Error("content differs")
	}
}

// TestFlips: a changed byte of an image with checksums is found, wherever it is.
func TestFlips(t *testing.T) {
	for name, h := range golden {
		b := unzstd(t, name)
		step := 397
		for i := 0; i < len(b); i += step {
			// Without checksums the data can't be compared; of version 1 the header and
			// all but the first byte of a block neither.
			if h.Checksum == None && i >= sizeV2+260 || h.Version == 1 {
				break
			}
			b[i] ^= 0x20
			_, err := restore(bytes.NewReader(b), nil)
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("%s: byte %d changed: %v; want an *Error", name, i, err)
			} else if i > sizeV2+260 && (e.First < 0 || e.Last < e.First || e.Last > 2047 || e.Offset > int64(i) || int64(i)-e.Offset > h.BlocksPerChecksum*1024+16) {
				t.Errorf("%s: byte %d changed: reported at %+v", name, i, e)
			}
			b[i] ^= 0x20
		}
	}
	b := unzstd(t, "v1")
	b[sizeV1+2048+8+5*1028] ^= 1 // first byte of the sixth block
	var e *Error
	if _, err := restore(bytes.NewReader(b), nil); !errors.As(err, &e) || e.First != 5 || e.Last != 5 {
		t.Errorf("first byte of a block of version 1 changed: %v", err)
	}
}

func TestCutOff(t *testing.T) {
	for name := range golden {
		b := unzstd(t, name)
		for _, n := range []int{0, 10, 50, 109, 110, 111, 300, 365, 366, 370, 1393, 4300, len(b) / 2, len(b) - 5, len(b) - 1} {
			_, err := restore(bytes.NewReader(b[:n]), nil)
			var e *Error
			if !errors.As(err, &e) || n > 15 && (!errors.Is(err, io.ErrUnexpectedEOF) || e.Offset != int64(n)) {
				t.Errorf("%s cut off at %d: %v", name, n, err)
			}
		}
		if _, err := restore(io.MultiReader(bytes.NewReader(b), strings.NewReader("x")), nil); !errors.Is(err, ErrTrailing) {
			t.Errorf("%s with a byte more: %v; want ErrTrailing", name, err)
		}
	}
}

// TestEndOfStream: an error that a decompressor finds at the end of its input is reported.
func TestEndOfStream(t *testing.T) {
	bad := errors.New("checksum of the compressed file")
	_, err := restore(io.MultiReader(bytes.NewReader(unzstd(t, "crc32")), errReader{bad}), nil)
	if !errors.Is(err, bad) {
		t.Errorf("%v; want %v", err, bad)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// image writes an image of version 2 as partclone does.
type image struct {
	fs             string
	device, blocks uint64
	used, super    uint64
	size           uint32
	features, ver  uint16
	sum            Checksum
	sumSize        uint16
	per            uint32
	reseed, bitmap byte
	endian         uint16
	version        string
	badCRC         bool
}

// small is a header that is right.
func small() *image {
	return &image{fs: "EXTFS", device: 64 << 10, blocks: 128, used: 3, super: 3, size: 512, features: 18, ver: 2, sum: CRC32, sumSize: 4, per: 2, reseed: 1, bitmap: 1, endian: endianMagic, version: "0002"}
}

func (i *image) header() []byte {
	b := make([]byte, sizeV2)
	copy(b, magic)
	copy(b[16:], "0.3.47")
	copy(b[30:], i.version)
	le.PutUint16(b[34:], i.endian)
	copy(b[36:52], i.fs)
	le.PutUint64(b[52:], i.device)
	le.PutUint64(b[60:], i.blocks)
	le.PutUint64(b[68:], i.super)
	le.PutUint64(b[76:], i.used)
	le.PutUint32(b[84:], i.size)
	le.PutUint32(b[88:], uint32(i.features))
	le.PutUint16(b[92:], i.ver)
	le.PutUint16(b[94:], 64)
	le.PutUint16(b[96:], uint16(i.sum))
	le.PutUint16(b[98:], i.sumSize)
	le.PutUint32(b[100:], i.per)
	b[104], b[105] = i.reseed, i.bitmap
	le.PutUint32(b[106:], sum(b[:106]))
	if i.badCRC {
		b[106]++
	}
	return b
}

// body is the map with the blocks that used tells, and their data.
func (i *image) body(bitmap []byte, data func(block int64) []byte) []byte {
	var out []byte
	if i.bitmap == 1 {
		out = le.AppendUint32(slices.Clone(bitmap), sum(bitmap))
	}
	s := newSummer(i.sum)
	n := uint32(0)
	for b := range int64(i.blocks) {
		if i.bitmap == 1 && bitmap[b/8]>>(b%8)&1 == 0 {
			continue
		}
		d := data(b)
		out = append(out, d...)
		if s == nil {
			continue
		}
		s.Write(d)
		if n++; n == i.per {
			out = s.Sum(out)
			n = 0
			if i.reseed != 0 {
				s.Reset()
			}
		}
	}
	if n > 0 {
		out = s.Sum(out)
	}
	return out
}

func TestHostileHeaders(t *testing.T) {
	bitmap := make([]byte, 16)
	bitmap[0], bitmap[15] = 0x03, 0x80
	data := func(int64) []byte { return make([]byte, 512) }
	ok := small()
	if _, err := restore(bytes.NewReader(append(ok.header(), ok.body(bitmap, data)...)), make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		change     func(*image)
	}{
		{"version", `version "0003" is not supported`, func(i *image) { i.version = "0003" }},
		{"big endian", "big-endian", func(i *image) { i.endian = 0xDEC0 }},
		{"endian", "byte order mark is 0x1234", func(i *image) { i.endian = 0x1234 }},
		{"crc", "header is damaged", func(i *image) { i.badCRC = true }},
		{"features", "features of 20 bytes", func(i *image) { i.features = 20 }},
		{"binary version", "for version 3", func(i *image) { i.ver = 3 }},
		{"checksum mode", "mode 0x02 is not supported", func(i *image) { i.sum = 2 }},
		{"checksum of v1", "mode 0xff is not supported", func(i *image) { i.sum = 0xFF }},
		{"checksum size", "CRC32 checksums of 8 bytes", func(i *image) { i.sumSize = 8 }},
		{"no blocks per checksum", "of 0 blocks each", func(i *image) { i.per = 0 }},
		{"bitmap mode", "bitmap mode 0x07", func(i *image) { i.bitmap = 7 }},
		{"bytes", "bitmap of bytes", func(i *image) { i.bitmap = 8 }},
		{"block size 0", "block size 0 ", func(i *image) { i.size = 0 }},
		{"block size odd", "block size 513", func(i *image) { i.size = 513 }},
		{"block size huge", "block size 134217728", func(i *image) { i.size = 128 << 20 }},
		{"no blocks", "file system of 0 blocks", func(i *image) { i.blocks = 0 }},
		{"many blocks", "more than", func(i *image) { i.blocks, i.device = 1<<50, 1<<62 }},
		{"overflow", "more than", func(i *image) { i.blocks = 1<<63 + 1 }},
		{"device too small", "128 blocks of 512 bytes are more than the device", func(i *image) { i.device = 65535 }},
		{"device impossible", "is not possible", func(i *image) { i.device = 1 << 63 }},
		{"used", "129 used blocks of 128", func(i *image) { i.used = 129 }},
		{"used differs", "3 blocks are marked as used in the bitmap, 4 in the header", func(i *image) { i.used = 4 }},
		{"none but not all", "128 blocks are marked as used in the bitmap, 3 in the header", func(i *image) { i.bitmap = 0 }},
		{"type", "file system type is", func(i *image) { i.fs = "EXT\x1b[2J" }},
	} {
		i := small()
		c.change(i)
		_, err := Open(io.MultiReader(bytes.NewReader(i.header()), bytes.NewReader(small().body(bitmap, data))))
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
	for _, s := range []string{"", "partclone", strings.Repeat("\x00", 4096)} { // the last: partclone.dd
		if _, err := Open(strings.NewReader(s)); err == nil || !strings.Contains(err.Error(), "is not a partclone image") {
			t.Errorf("%.20q: %v", s, err)
		}
	}
}

// TestV1Count: superblocks that counted wrong are the reason why version 1 says
// what the map does not.
func TestV1Count(t *testing.T) {
	b := unzstd(t, "v1")
	le.PutUint64(b[56:], 90)
	m, err := restore(bytes.NewReader(b), nil)
	if err != nil || m.UsedBlocks != 108 || m.SuperBlockUsed != 90 {
		t.Errorf("%+v, %v", m, err)
	}
}

// pattern is an endless stream of one byte.
type pattern byte

func (p pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(p)
	}
	return len(b), nil
}

// TestEndlessBitmap: what a map costs is what it holds, up to the limit.
func TestEndlessBitmap(t *testing.T) {
	i := small()
	i.blocks, i.device, i.used = 1<<38, 1<<47, 1
	in := &countingReader{r: io.MultiReader(bytes.NewReader(i.header()), pattern(0x11))}
	if _, err := OpenLimit(in, 1<<20); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("fragmented: %v", err)
	}
	if in.n > 2<<20 {
		t.Errorf("%d bytes were read for a limit of 1 MiB", in.n)
	}
	i.blocks = 1 << 33 // 1 GiB of map, of which 128 MiB are there
	for _, p := range []pattern{0, 0xFF} {
		i.used = uint64(p) / 0xFF << 33
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := OpenLimit(io.MultiReader(bytes.NewReader(i.header()), io.LimitReader(p, 128<<20)), 0)
		if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), fmt.Sprintf("byte %d", 128<<20+110)) {
			t.Error(err)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
			t.Errorf("map of %#x took %d bytes", byte(p), n)
		}
	}
	// A checksum over 2^32-1 blocks of 64 MiB asks for no more memory than a piece.
	i = small()
	i.size, i.blocks, i.device, i.used, i.per = maxBlock, 1<<30, 1<<56, 1<<30, 1<<32-1
	i.bitmap = 0
	m, err := Open(io.MultiReader(bytes.NewReader(i.header()), pattern(0)))
	if err != nil {
		t.Fatal(err)
	}
	if _, data, err := m.Next(); err != nil || len(data) != maxBlock {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// TestShapes reads images of many shapes: maps whose runs, checksums and pieces end at
// the same and at other blocks.
func TestShapes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for k := range 200 {
		i := small()
		i.size = 512 << rnd.IntN(4)
		i.blocks = 1 + rnd.Uint64N(300)
		i.device = i.blocks*uint64(i.size) + rnd.Uint64N(3)*512
		i.sum = []Checksum{None, CRC32, XXH64, XXH128}[rnd.IntN(4)]
		i.sumSize = uint16(i.sum.Size())
		i.per, i.reseed = 1+rnd.Uint32N(40), byte(rnd.IntN(2))
		bitmap := make([]byte, (i.blocks+7)/8)
		in := rnd.IntN(2) == 0
		for b := uint64(0); b < i.blocks; {
			for n := 1 + rnd.Uint64N(20); n > 0 && b < i.blocks; n-- {
				if in {
					bitmap[b/8] |= 1 << (b % 8)
				}
				b++
			}
			in = !in
		}
		i.used = uint64(count(bitmap))
		if i.blocks%8 != 0 && k%3 == 0 { // as partclone.imager does
			bitmap[len(bitmap)-1] |= 0xFF << (i.blocks % 8)
		}
		want := bytes.Repeat([]byte{0xA5}, int(i.device))
		dev := slices.Clone(want)
		data := func(b int64) []byte {
			d := want[b*int64(i.size):][:i.size]
			for j := range d {
				d[j] = byte(rnd.Uint32())
			}
			return d
		}
		b := append(i.header(), i.body(bitmap, data)...)
		m, err := restore(bytes.NewReader(b), dev)
		if err != nil {
			t.Fatalf("%+v: %v", i, err)
		}
		if !bytes.Equal(dev, want) {
			t.Fatalf("%+v: content differs", i)
		}
		testFind(t, m.blocks, bitmap)
	}
}

// TestMap looks at maps of several pages, some of which are all free or all used.
func TestMap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for k := range 6 {
		total := pageBytes*8*3 + rnd.Int64N(3)*7
		bitmap := make([]byte, (total+7)/8)
		for b, used := int64(0), k%2 == 0; b < total; used = !used {
			for n := 1 + rnd.Int64N(pageBytes*10); n > 0 && b < total; n-- {
				if used {
					bitmap[b/8] |= 1 << (b % 8)
				}
				b++
			}
		}
		m, err := readMap(bytes.NewReader(bitmap), total, 8, 1<<20, func([]byte) {})
		if err != nil || m.used != count(bitmap) {
			t.Fatal(m.used, err)
		}
		testFind(t, m, bitmap)
	}
}

// testFind compares find with looking at every bit.
func testFind(t *testing.T, m *blockMap, bitmap []byte) {
	t.Helper()
	next := [2]int64{m.total, m.total}
	for b := m.total - 1; b >= 0; b-- {
		next[bitmap[b/8]>>(b%8)&1] = b
		if b%977 == 0 || b < 100 || b > m.total-100 {
			if f, u := m.find(b, false), m.find(b, true); f != next[0] || u != next[1] {
				t.Fatalf("from block %d: free %d, used %d; want %d, %d", b, f, u, next[0], next[1])
			}
		}
	}
}

// TestLargeChecksum: one that covers more than is held at once fails with its last piece.
func TestLargeChecksum(t *testing.T) {
	i := small()
	i.size, i.blocks, i.used, i.per, i.bitmap = 16<<20, 6, 6, 5, 0 // 80 MiB, more than maxStrip
	i.device = i.blocks * uint64(i.size)
	block := make([]byte, i.size)
	b := append(i.header(), i.body(nil, func(n int64) []byte { block[5] = byte(n); return block })...)
	dev := make([]byte, i.device)
	if _, err := restore(bytes.NewReader(b), dev); err != nil {
		t.Fatal(err)
	}
	for n := range 6 {
		if dev[n*int(i.size)+5] != byte(n) {
			t.Errorf("block %d is wrong", n)
		}
	}
	b[sizeV2+100] ^= 1
	if _, err := restore(bytes.NewReader(b), dev); err == nil || !strings.Contains(err.Error(), "data is damaged: CRC32 of 5 blocks") {
		t.Errorf("changed: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	// Large seeds make a fuzzer slow.
	bitmap := make([]byte, 16)
	bitmap[3] = 0x70
	for _, c := range []Checksum{None, CRC32, XXH64, XXH128} {
		i := small()
		i.sum, i.sumSize = c, uint16(c.Size())
		f.Add(append(i.header(), i.body(bitmap, func(int64) []byte { return make([]byte, 512) })...))
	}
	i := small()
	i.blocks, i.used, i.bitmap, i.reseed = 5, 5, 0, 0
	f.Add(append(i.header(), i.body(nil, func(int64) []byte { return make([]byte, 512) })...))
	f.Add(unzstd(f, "imager"))
	f.Add(unzstd(f, "v1")[:sizeV1+2048+8+2*1028])
	f.Fuzz(func(t *testing.T, b []byte) {
		// Past the CRC32 of the header.
		if len(b) >= sizeV2 && string(b[30:34]) == "0002" {
			b = slices.Clone(b)
			le.PutUint32(b[106:], sum(b[:106]))
		}
		m, err := OpenLimit(bytes.NewReader(b), 1<<20)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Offset > int64(len(b)) {
				t.Errorf("%v", err)
			}
			return
		}
		if m.UsedBlocks < 0 || m.UsedBlocks > m.Blocks || m.Size() > m.DeviceSize || m.Size() <= 0 {
			t.Errorf("%+v", m.Header)
		}
		if m.BlockSize <= 1<<16 {
			_ = copyTo(m, nil)
		}
	})
}
