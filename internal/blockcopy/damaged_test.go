package blockcopy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/btrfs/btrfstest"
)

// Sizes that only sparse images have. The map is the one of a file system that is
// as good as empty; what is in use ends where dumpe2fs and xfs_db say.
func TestHuge(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, c := range []struct {
		name string
		size int64
		args []string
	}{
		{"ext4", 1 << 40, []string{"mke2fs", "-q", "-F", "-t", "ext4", "-O", "64bit", "-i", "4194304", "-E", "lazy_itable_init=1,lazy_journal_init=1"}},
		{"ext4 meta_bg", 12 << 40, []string{"mke2fs", "-q", "-F", "-t", "ext4", "-O", "64bit,meta_bg,^resize_inode", "-i", "4194304", "-E", "lazy_itable_init=1,lazy_journal_init=1"}},
		{"xfs", 15 << 40, []string{"mkfs.xfs", "-q", "-f"}},
		{"btrfs", 15 << 40, []string{"mkfs.btrfs", "-q", "-f"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.name != "ext4" {
				t.Skip("takes seconds")
			}
			program(t, c.args[0])
			img := filepath.Join(t.TempDir(), "img")
			f, err := os.Create(img)
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			if err := os.Truncate(img, c.size); err != nil {
				t.Skipf("no files of %d bytes here: %v", c.size, err)
			}
			btrfstest.Run(t, append(c.args, img)...)
			start := time.Now()
			m, why := of(t, img, c.size)
			if why != "" {
				t.Fatal(why)
			}
			t.Logf("%d ranges, %d MiB in use, in %v", len(m.Used), m.Bytes()>>20, time.Since(start))
			if m.Bytes() > 20<<30 || m.Last() < 1<<20 {
				t.Errorf("%d bytes are in use", m.Bytes())
			}
			if c.args[0] == "mke2fs" {
				var free, total int64
				for l := range strings.Lines(btrfstest.Run(t, "dumpe2fs", "-h", img)) {
					fmt.Sscanf(l, "Free blocks: %d", &free)
					fmt.Sscanf(l, "Block count: %d", &total)
				}
				if got, want := m.Bytes(), (total-free)*4096; got != want {
					t.Errorf("%d bytes are in use; dumpe2fs says %d", got, want)
				}
			}
			if c.args[0] == "mkfs.btrfs" { // it leaves old nodes of its first chunks
				return
			}
			// Everything that is not a hole in the image is in use, or was only cleared.
			for off := int64(0); ; {
				at, err := unix.Seek(int(open2(t, img).Fd()), off, unix.SEEK_DATA)
				if err != nil {
					break
				}
				if off = at + 4096; len(m.within(at, 4096)) == 0 {
					b := make([]byte, 4096)
					if _, err := open2(t, img).ReadAt(b, at); err != nil || !bytes.Equal(b, make([]byte, 4096)) {
						t.Fatalf("the block at %d has content, and is not in use", at)
					}
				}
			}
		})
	}
}

var opened = map[string]*os.File{}

// open2 opens a file once.
func open2(t *testing.T, name string) *os.File {
	if f := opened[name]; f != nil {
		return f
	}
	f := open(t, name)
	opened[name] = f
	t.Cleanup(func() { delete(opened, name) })
	return f
}

// What is not known is not guessed: each single bit of the feature words that is
// not known, states that are not clean, and checksums.
func TestNotSafe(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	program(t, "mke2fs", "mkfs.xfs", "mkfs.btrfs")
	le, be := binary.LittleEndian, binary.BigEndian
	for _, c := range []struct {
		name  string
		size  int64
		args  []string
		super int64
		edit  func(s []byte) (want string)
		seal  func(s []byte)
	}{
		{"ext4 incompat", 64 << 20, []string{"mke2fs", "-q", "-F", "-t", "ext4"}, 1024, func(s []byte) string { le.PutUint32(s[96:], le.Uint32(s[96:])|1<<19); return "incompat 0x80000" }, sealExt},
		{"ext4 ro", 64 << 20, []string{"mke2fs", "-q", "-F", "-t", "ext4"}, 1024, func(s []byte) string { le.PutUint32(s[100:], le.Uint32(s[100:])|0x4000); return "ro_compat 0x4000" }, sealExt},
		{"ext4 dirty", 64 << 20, []string{"mke2fs", "-q", "-F", "-t", "ext4"}, 1024, func(s []byte) string { le.PutUint16(s[58:], 0); return "not unmounted cleanly" }, sealExt},
		{"ext4 errors", 64 << 20, []string{"mke2fs", "-q", "-F", "-t", "ext4"}, 1024, func(s []byte) string { le.PutUint16(s[58:], 3); return "found errors" }, sealExt},
		{"ext4 sum", 64 << 20, []string{"mke2fs", "-q", "-F", "-t", "ext4"}, 1024, func(s []byte) string { s[200]++; return "checksum of its superblock" }, nil},
		{"ext4 size", 64 << 20, []string{"mke2fs", "-q", "-F", "-t", "ext4"}, 1024, func(s []byte) string { s[7] = 1; return "more than its device" }, sealExt},
		{"xfs incompat", 320 << 20, []string{"mkfs.xfs", "-q", "-f"}, 0, func(s []byte) string { be.PutUint32(s[216:], be.Uint32(s[216:])|1<<8); return "incompat 0x100" }, sealXFS},
		{"xfs ro", 320 << 20, []string{"mkfs.xfs", "-q", "-f"}, 0, func(s []byte) string { be.PutUint32(s[212:], be.Uint32(s[212:])|1<<4); return "ro_compat 0x10" }, sealXFS},
		{"xfs repair", 320 << 20, []string{"mkfs.xfs", "-q", "-f"}, 0, func(s []byte) string { be.PutUint32(s[216:], be.Uint32(s[216:])|0x10); return "xfs_repair" }, sealXFS},
		{"xfs log", 320 << 20, []string{"mkfs.xfs", "-q", "-f"}, 0, func(s []byte) string { be.PutUint64(s[48:], 0); return "log is on another device" }, sealXFS},
		{"xfs rt", 320 << 20, []string{"mkfs.xfs", "-q", "-f"}, 0, func(s []byte) string { s[23] = 1; return "realtime" }, sealXFS},
		{"xfs sum", 320 << 20, []string{"mkfs.xfs", "-q", "-f"}, 0, func(s []byte) string { s[108] = 'x'; return "checksum of its superblock" }, nil},
		{"btrfs incompat", 128 << 20, []string{"mkfs.btrfs", "-q", "-f"}, btrfsSuper, func(s []byte) string { le.PutUint64(s[188:], le.Uint64(s[188:])|1<<14); return "incompat 0x4000" }, sealBtrfs},
		{"btrfs ro", 128 << 20, []string{"mkfs.btrfs", "-q", "-f"}, btrfsSuper, func(s []byte) string { le.PutUint64(s[180:], le.Uint64(s[180:])|1<<4); return "compat_ro 0x10" }, sealBtrfs},
		{"btrfs seed", 128 << 20, []string{"mkfs.btrfs", "-q", "-f"}, btrfsSuper, func(s []byte) string { s[60] |= 1; return "a seed" }, sealBtrfs},
		{"btrfs sum", 128 << 20, []string{"mkfs.btrfs", "-q", "-f"}, btrfsSuper, func(s []byte) string { s[299] = 'x'; return "checksum of its superblock" }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := file(t, c.size)
			btrfstest.Run(t, append(c.args, img)...)
			f := open(t, img)
			if _, why := Of(f, c.size); why != "" {
				t.Fatalf("as it was made: %s", why)
			}
			n := 4096
			if c.super == 1024 {
				n = 1024
			} else if c.super == 0 {
				n = 512
			}
			s := make([]byte, n)
			if _, err := f.ReadAt(s, c.super); err != nil {
				t.Fatal(err)
			}
			want := c.edit(s)
			if c.seal != nil {
				c.seal(s)
			}
			if _, err := f.WriteAt(s, c.super); err != nil {
				t.Fatal(err)
			}
			if m, why := Of(f, c.size); !strings.Contains(why, want) || m.Bytes() != c.size {
				t.Errorf("%q, %d bytes; want %s", why, m.Bytes(), want)
			}
		})
	}
}

func sealExt(s []byte) { binary.LittleEndian.PutUint32(s[1020:], crc32c(^uint32(0), s[:1020])) }

func sealBtrfs(s []byte) { binary.LittleEndian.PutUint32(s, ^crc32c(^uint32(0), s[32:])) }

func sealXFS(s []byte) {
	clear(s[224:228])
	binary.LittleEndian.PutUint32(s[224:], ^crc32c(^uint32(0), s))
}

// A bitmap in which one bit was lost is not believed.
func TestDamagedBitmap(t *testing.T) {
	program(t, "mke2fs", "debugfs")
	for _, features := range []string{"metadata_csum", "^metadata_csum"} {
		img := file(t, 64<<20)
		btrfstest.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", features, img)
		out := btrfstest.Run(t, "debugfs", "-R", "stats", img)
		at := int64(0)
		for l := range strings.Lines(out) {
			if _, err := fmt.Sscanf(strings.TrimSpace(l), "Group  0: block bitmap at %d", &at); err == nil {
				break
			}
		}
		f := open(t, img)
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at*4096); err != nil || at == 0 || b[0] != 0xff {
			t.Fatal(err, at, b)
		}
		b[0] = 0xfe
		if _, err := f.WriteAt(b, at*4096); err != nil {
			t.Fatal(err)
		}
		if m, why := Of(f, 64<<20); !strings.Contains(why, "bitmap of group 0") || m.Bytes() != 64<<20 {
			t.Errorf("%s: %q", features, why)
		}
	}
}

// sparse is an image in memory: its pages that are not zero, with changes.
type sparse struct {
	pages   map[int64][]byte
	changes map[int64]byte
}

func (s *sparse) ReadAt(b []byte, off int64) (int, error) {
	for i := 0; i < len(b); {
		at := off + int64(i)
		n := min(len(b)-i, int(page-at%page))
		if p := s.pages[at/page]; p != nil {
			copy(b[i:i+n], p[at%page:])
		} else {
			clear(b[i : i+n])
		}
		i += n
	}
	for at, v := range s.changes {
		if at >= off && at < off+int64(len(b)) {
			b[at-off] = v
		}
	}
	return len(b), nil
}

func sparseOf(t testing.TB, img string) (s *sparse, keys []int64, size int64) {
	f := open(t, img)
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	s = &sparse{pages: map[int64][]byte{}}
	for off := int64(0); ; off += page {
		if off, err = unix.Seek(int(f.Fd()), off, unix.SEEK_DATA); err != nil {
			break
		}
		off = off / page * page
		b := make([]byte, page)
		if _, err := f.ReadAt(b, off); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if !bytes.Equal(b, zeroPage[:]) {
			s.pages[off/page] = b
			keys = append(keys, off/page)
		}
	}
	return s, keys, st.Size()
}

// FuzzFileSystems: no change of a file system's bytes makes a map that is not one,
// or takes long.
func FuzzFileSystems(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root")
	}
	kinds := [][]string{
		{"mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-g", "1024", "-O", "^metadata_csum,^uninit_bg,meta_bg,^resize_inode"},
		{"mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^metadata_csum,^uninit_bg,bigalloc"},
		{"mke2fs", "-q", "-F", "-t", "ext4"},
		{"mkfs.xfs", "-q", "-f", "-m", "crc=0"},
		{"mkfs.xfs", "-q", "-f"},
		{"mkfs.btrfs", "-q", "-f", "--csum", "xxhash"},
		{"mkswap", "-q"},
	}
	type base struct {
		*sparse
		keys []int64
		size int64
	}
	var all []base
	for _, k := range kinds {
		program(f, k[0])
		img := file(f, 320<<20)
		if out, err := exec.Command(k[0], append(k[1:], img)...).CombinedOutput(); err != nil {
			f.Fatalf("%v: %v\n%s", k, err, out)
		}
		s, keys, size := sparseOf(f, img)
		all = append(all, base{s, keys, size})
	}
	read := []func(io.ReaderAt, int64) (*Map, error){extMap, extMap, extMap, xfsMap, xfsMap, btrfsMap, swapMap}
	f.Add(byte(0), []byte{0, 0, 1024 & 0xff, 4, 7})
	f.Add(byte(3), []byte{0, 0, 0, 2, 9, 1, 0, 4, 0, 255})
	f.Add(byte(5), []byte{0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, kind byte, changes []byte) {
		n := int(kind) % len(all)
		b := all[n]
		s := &sparse{pages: b.pages, changes: map[int64]byte{}}
		// Each five bytes: the number of a page, the place in it, the value.
		for i := 0; i+5 <= len(changes) && i < 500; i += 5 {
			p := b.keys[int(binary.LittleEndian.Uint16(changes[i:]))%len(b.keys)]
			s.changes[p*page+int64(binary.LittleEndian.Uint16(changes[i+2:]))%page] = changes[i+4]
		}
		start := time.Now()
		m, err := read[n](s, b.size)
		if d := time.Since(start); d > 20*time.Second {
			t.Fatalf("takes %v", d)
		}
		if err != nil {
			return
		}
		end := int64(0)
		for _, e := range m.tidy().Used {
			if e.Start < end || e.Length <= 0 || e.Start+e.Length > b.size {
				t.Fatalf("%+v of %d", e, b.size)
			}
			end = e.Start + e.Length
		}
	})
}
