package blockcopy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/btrfs/btrfstest"
	"github.com/mkcdrec/mkcdrec/internal/ddrescue"
)

// attach gives a loop device over a file; detach frees it at once.
func attach(t testing.TB, name string) (dev string, detach func()) {
	t.Helper()
	out, err := exec.Command("losetup", "-f", "--show", name).CombinedOutput()
	if err != nil {
		t.Skipf("no loop devices here: %s", out)
	}
	dev = strings.TrimSpace(string(out))
	done := false
	detach = func() {
		if !done {
			exec.Command("losetup", "-d", dev).Run()
			done = true
		}
	}
	t.Cleanup(detach)
	return dev, detach
}

// program skips a test without a program.
func program(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			t.Skipf("%s is not installed; make test installs it", n)
		}
	}
}

// fill writes files of all sizes into a directory, and removes every third, so
// that free space is in pieces.
func fill(t *testing.T, r *rand.Rand, dir string, files int, most int64) {
	t.Helper()
	var gone []string
	for n := range files {
		d := filepath.Join(dir, fmt.Sprintf("d%d", n%7))
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(d, fmt.Sprintf("file %d", n))
		b := make([]byte, r.Int64N(1+r.Int64N(most)))
		for i := 0; i+8 <= len(b); i += 8 {
			binary.LittleEndian.PutUint64(b[i:], r.Uint64())
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			if errors.Is(err, unix.ENOSPC) {
				os.Remove(name)
				break
			}
			t.Fatal(err)
		}
		if n%3 == 1 {
			gone = append(gone, name)
		}
		if n%10 == 0 {
			if err := errors.Join(os.Symlink(fmt.Sprint("to ", n), name+" link"), os.Truncate(name, int64(len(b))+300_000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	btrfstest.Run(t, "sync", "-f", dir)
	for _, g := range gone {
		if err := os.Remove(g); err != nil {
			t.Fatal(err)
		}
	}
}

// tree has a digest of each file in a directory.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			all[p[len(dir):]], err = os.Readlink(p)
			return err
		}
		b, err := os.ReadFile(p)
		all[p[len(dir):]] = fmt.Sprintf("%x", sha256.Sum256(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// mounted calls fn while a device is mounted.
func mounted(t *testing.T, dev, typ, options string, flags uintptr, fn func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount(dev, dir, typ, flags, options); err != nil {
		t.Fatalf("mount %s: %v", dev, err)
	}
	defer func() {
		for range 50 {
			if err := unix.Unmount(dir, 0); err == nil {
				unused(t, dev)
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Errorf("%s stays mounted", dir)
	}()
	fn(dir)
}

// unused waits until a device is not mounted in any mount namespace: programs that other
// tests start may have a copy of the mounts for a while.
func unused(t *testing.T, dev string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		f, err := os.OpenFile(dev, os.O_RDONLY|unix.O_EXCL, 0)
		if err == nil {
			f.Close()
			return
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			t.Errorf("%s is still mounted somewhere: %v", dev, err)
			return
		}
	}
}

// extKinds are options of mke2fs; "journal" gives it another device for the
// journal.
var extKinds = map[string][]string{
	"ext2 1k":       {"-t", "ext2", "-b", "1024"},
	"ext2 odd":      {"-t", "ext2", "-b", "1024", "-g", "1024", "-O", "^sparse_super,^resize_inode", "50001"},
	"ext3":          {"-t", "ext3", "-b", "2048"},
	"ext4":          {"-t", "ext4"},
	"ext4 4k":       {"-t", "ext4", "-b", "4096", "-g", "2048", "-G", "4"},
	"meta_bg":       {"-t", "ext4", "-b", "1024", "-g", "256", "-O", "meta_bg,64bit,^resize_inode"},
	"bigalloc":      {"-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "16384"},
	"bigalloc 1k":   {"-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "8192"},
	"uninit_bg":     {"-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg,^64bit"},
	"nothing":       {"-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^uninit_bg,^flex_bg,^64bit"},
	"sparse_super2": {"-t", "ext4", "-b", "1024", "-g", "2048", "-O", "sparse_super2,^resize_inode"},
	"no flex_bg":    {"-t", "ext4", "-b", "1024", "-O", "^flex_bg"},
	"journal":       {"-t", "ext4", "-b", "4096"},
	"no journal":    {"-t", "ext4", "-b", "4096", "-O", "^has_journal,inline_data,large_dir,ea_inode,stable_inodes"},
	"not mounted":   {"-t", "ext4", "-b", "4096", "-O", "inline_data,casefold,quota,project,verity,encrypt,large_dir,ea_inode,stable_inodes,mmp"},
	"last group":    {"-t", "ext4", "-b", "1024", "57353"}, // of 8 blocks
}

// Images of all kinds, copied by their maps onto a device full of something else,
// are clean for e2fsck and have the same files. The map is as large as dumpe2fs
// says, and has all that partclone copies.
func TestExt(t *testing.T) {
	t.Parallel()
	program(t, "mke2fs", "e2fsck", "dumpe2fs", "debugfs")
	r := rand.New(rand.NewPCG(20, 21))
	for _, kind := range sorted(extKinds) {
		t.Run(kind, func(t *testing.T) {
			const size = 64 << 20
			img := file(t, size)
			args := slices.Clone(extKinds[kind])
			last := []string{img}
			if a := args[len(args)-1]; a[0] >= '0' && a[0] <= '9' && args[len(args)-2] != "-g" && args[len(args)-2] != "-b" && args[len(args)-2] != "-C" && args[len(args)-2] != "-G" {
				last, args = []string{img, a}, args[:len(args)-1]
			}
			options := ""
			if kind == "journal" {
				j, _ := attach(t, file(t, 16<<20))
				btrfstest.Run(t, "mke2fs", "-q", "-F", "-b", "4096", "-O", "journal_dev", j)
				args = append(args, "-J", "device="+j)
				options = "journal_path=" + j
			}
			btrfstest.Run(t, slices.Concat([]string{"mke2fs", "-q", "-F"}, args, last)...)
			var want map[string]string
			typ := "ext4"
			dev, detach := attach(t, img)
			mount := mounted
			if kind == "not mounted" { // not every kernel has all that
				mount = func(*testing.T, string, string, string, uintptr, func(string)) {}
			}
			mount(t, dev, typ, options, 0, func(dir string) {
				fill(t, r, dir, 150, 400<<10)
				want = tree(t, dir)
				// As it is now, its journal would have to be replayed.
				if kind != "ext2 1k" && kind != "ext2 odd" && kind != "no journal" {
					btrfstest.Run(t, "sync", "-f", dir)
					if m, why := of(t, dev, size); !strings.Contains(why, "journal was not replayed") || m.Bytes() != size {
						t.Errorf("while it is mounted: %q", why)
					}
				} else if m, why := of(t, dev, size); why == "" || m.Bytes() != size {
					t.Errorf("while it is mounted: %q", why)
				}
			})
			detach()
			m := checkMap(t, img, size, "partclone.extfs")
			out := btrfstest.Run(t, "dumpe2fs", "-h", img)
			field := func(name string) (n int64) {
				for l := range strings.Lines(out) {
					if v, ok := strings.CutPrefix(l, name+":"); ok {
						fmt.Sscan(v, &n)
					}
				}
				return n
			}
			total, free, block := field("Block count"), field("Free blocks"), field("Block size")
			// What is in use, the boot block, and what is behind.
			if got, want := m.Cut().Bytes(), (total-free)*block; got < want || got > want+page || m.End != total*block {
				t.Errorf("%d bytes are in use to %d; dumpe2fs says %d to %d", got, m.End, want, total*block)
			}
			back := cloned(t, img, m)
			if out, err := exec.Command("e2fsck", "-fn", back).CombinedOutput(); err != nil && kind != "journal" || bytes.Contains(out, []byte("Fix?")) {
				t.Fatalf("%v\n%s", err, out)
			}
			bdev, _ := attach(t, back)
			mount(t, bdev, typ, options, unix.MS_RDONLY, func(dir string) { same2(t, want, tree(t, dir)) })
		})
	}
}

// same2 compares trees.
func same2(t *testing.T, want, got map[string]string) {
	t.Helper()
	if len(want) != len(got) || len(want) < 20 {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
	for n, s := range want {
		if got[n] != s {
			t.Errorf("%s differs", n)
		}
	}
}

// quick are the kinds that a short run looks at: each takes seconds.
var quick = []string{"ext2 1k", "ext4", "meta_bg", "bigalloc", "default", "1k", "old"}

func sorted(m map[string][]string) []string {
	all := slices.Sorted(maps.Keys(m))
	if testing.Short() {
		all = slices.DeleteFunc(all, func(k string) bool { return !slices.Contains(quick, k) })
	}
	return all
}

// of is Of for a device or a file.
func of(t *testing.T, name string, size int64) (*Map, string) {
	t.Helper()
	d, err := OpenDevice(name)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	return Of(d, size)
}

// checkMap reads a map, which must be exact, and compares it with what partclone
// would copy: all of that must be in use.
func checkMap(t *testing.T, img string, size int64, partclone string) *Map {
	t.Helper()
	m, why := of(t, img, size)
	if why != "" {
		t.Fatal(why)
	}
	if m.Bytes() > size*9/10 || m.Bytes() < 4096 {
		t.Errorf("%d of %d bytes are in use", m.Bytes(), size)
	}
	if _, err := exec.LookPath(partclone); err != nil {
		t.Logf("%s is not installed; not compared with it", partclone)
		return m
	}
	name := filepath.Join(t.TempDir(), "domain")
	out, err := exec.Command(partclone, "-D", "-s", img, "-O", name, "-L", "/dev/null").CombinedOutput()
	if err != nil {
		t.Logf("%s cannot read it, not compared: %v", partclone, err)
		_ = out
		return m
	}
	d, err := ddrescue.ReadFile(name)
	if err != nil {
		t.Fatalf("domain of %s: %v", partclone, err)
	}
	theirs := int64(0)
	for pos, l := range d.Ranges(ddrescue.Finished) {
		l = min(l, size-pos)
		n := int64(0)
		for _, e := range m.within(pos, l) {
			n += e.Length
		}
		if n != l {
			t.Errorf("%s copies bytes %d to %d, of which %d are in use here", partclone, pos, pos+l, n)
		}
		theirs += l
	}
	if theirs == 0 {
		t.Errorf("%s copies nothing", partclone)
	}
	t.Logf("%d bytes in use, %s copies %d", m.Bytes(), partclone, theirs)
	return m
}

// cloned copies a file by a map to one that is full of something else.
func cloned(t *testing.T, img string, m *Map) string {
	t.Helper()
	back := filepath.Join(t.TempDir(), "back")
	f, err := os.Create(back)
	if err != nil {
		t.Fatal(err)
	}
	for n := int64(0); n < m.Size; n += 1 << 20 {
		if _, err := f.Write(bytes.Repeat([]byte{0xA5}, int(min(1<<20, m.Size-n)))); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	src, err := OpenDevice(img)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := OpenTarget(back)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if _, err := Copy(context.Background(), dst, src, CopyOptions{Map: m}); err != nil {
		t.Fatal(err)
	}
	return back
}

// xfsKinds are options of mkfs.xfs.
var xfsKinds = map[string][]string{
	"default":  {},
	"1k":       {"--unsupported", "-b", "size=1024", "-d", "agcount=7", "-l", "size=4m"},
	"4Kn":      {"-s", "size=4096", "-m", "rmapbt=1,reflink=1"},
	"64k":      {"-b", "size=65536"},
	"old":      {"-m", "crc=0", "-b", "size=512", "-n", "size=4096"},
	"stripes":  {"--unsupported", "-d", "su=64k,sw=4", "-l", "su=32k,size=16m"},
	"small ag": {"--unsupported", "-d", "agsize=16m", "-l", "size=8m", "-m", "bigtime=0,inobtcount=0,finobt=0"},
}

func TestXFS(t *testing.T) {
	t.Parallel()
	program(t, "mkfs.xfs", "xfs_db", "xfs_repair")
	r := rand.New(rand.NewPCG(22, 23))
	for _, kind := range sorted(xfsKinds) {
		t.Run(kind, func(t *testing.T) {
			const size = 320<<20 + 4096*3
			img := file(t, size)
			btrfstest.Run(t, slices.Concat([]string{"mkfs.xfs", "-q", "-f"}, xfsKinds[kind], []string{img})...)
			if m, why := of(t, img, size); why != "" {
				t.Errorf("new: %v %q", m, why)
			}
			dev, detach := attach(t, img)
			var want map[string]string
			if b, err := os.ReadFile("/proc/filesystems"); err != nil || !bytes.Contains(b, []byte("\txfs\n")) {
				t.Skip("the kernel has no xfs")
			}
			turns := 3
			if kind == "old" { // kernels do not mount version 4 any more
				turns = 0
			}
			for turn := range turns {
				mounted(t, dev, "xfs", "", 0, func(dir string) {
					fill(t, r, filepath.Join(dir, fmt.Sprint(turn)), 400, 200<<10)
					want = tree(t, dir)
					if m, why := of(t, dev, size); !strings.Contains(why, "log was not replayed") || m.Bytes() != size {
						t.Errorf("while it is mounted: %q", why)
					}
				})
				if _, why := of(t, dev, size); why != "" {
					t.Fatalf("turn %d: %s", turn, why)
				}
			}
			detach()
			m := checkMap(t, img, size, "partclone.xfs")
			// What xfs_db counts as free is what is left, but the blocks that the
			// allocation groups keep for their own trees.
			out := btrfstest.Run(t, "xfs_db", "-r", "-c", "freesp -s", "-c", "sb 0", "-c", "p blocksize dblocks agcount", img)
			var free, block, blocks, groups int64
			for l := range strings.Lines(out) {
				fmt.Sscanf(l, "total free blocks %d", &free)
				fmt.Sscanf(l, "blocksize = %d", &block)
				fmt.Sscanf(l, "dblocks = %d", &blocks)
				fmt.Sscanf(l, "agcount = %d", &groups)
			}
			if used, most := m.Cut().Bytes(), (blocks-free)*block; free == 0 || used < most || used > most+groups*128*block || m.End != blocks*block {
				t.Errorf("%d bytes are in use; xfs_db says %d", used, most)
			}
			back := cloned(t, img, m)
			if out, err := exec.Command("xfs_repair", "-n", back).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			bdev, _ := attach(t, back)
			if turns == 0 {
				return
			}
			mounted(t, bdev, "xfs", "nouuid,norecovery", unix.MS_RDONLY, func(dir string) { same2(t, want, tree(t, dir)) })
		})
	}
}

// btrfsKinds are options of mkfs.btrfs.
var btrfsKinds = map[string][]string{
	"default": {},
	"single":  {"-m", "single", "-d", "single", "--csum", "xxhash"},
	"dup":     {"-m", "dup", "-d", "dup", "--csum", "sha256", "-n", "4096"},
	"mixed":   {"--mixed", "--csum", "blake2"},
}

func TestBtrfs(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	program(t, "mkfs.btrfs", "btrfs")
	r := rand.New(rand.NewPCG(24, 25))
	for _, kind := range sorted(btrfsKinds) {
		t.Run(kind, func(t *testing.T) {
			const size = 400<<20 + 512*5
			img := file(t, size)
			btrfstest.Run(t, slices.Concat([]string{"mkfs.btrfs", "-q", "-f"}, btrfsKinds[kind], []string{img})...)
			dev, detach := attach(t, img)
			var want map[string]string
			mounted(t, dev, "btrfs", "", 0, func(dir string) {
				fill(t, r, dir, 200, 300<<10)
				want = tree(t, dir)
			})
			detach()
			m, why := of(t, img, size)
			if why != "" || m.Bytes() > size*9/10 {
				t.Fatalf("%q, %d bytes", why, m.Bytes())
			}
			checkMap(t, img, size, "partclone.btrfs")
			back := cloned(t, img, m)
			if out, err := exec.Command("btrfs", "check", "--readonly", "--check-data-csum", back).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			exec.Command("btrfs", "device", "scan", "--forget").Run()
			bdev, detach := attach(t, back)
			mounted(t, bdev, "btrfs", "", unix.MS_RDONLY, func(dir string) { same2(t, want, tree(t, dir)) })
			detach()
			exec.Command("btrfs", "device", "scan", "--forget").Run()
		})
	}
	a, _ := attach(t, file(t, 128<<20))
	b, _ := attach(t, file(t, 128<<20))
	btrfstest.Run(t, "mkfs.btrfs", "-q", "-f", a, b)
	if m, why := of(t, a, 128<<20); why != "it is on 2 devices" || m.Bytes() != 128<<20 {
		t.Errorf("%q", why)
	}
}

// Of a swap area only the header is in use; one that a system sleeps in is in use
// as a whole.
func TestSwap(t *testing.T) {
	program(t, "mkswap")
	img := file(t, 10<<20)
	btrfstest.Run(t, "mkswap", "-q", "-L", "x", img)
	f := open(t, img)
	if m, why := Of(f, 10<<20); why != "" || !slices.Equal(m.Used, []Extent{{0, 4096}}) {
		t.Errorf("%+v %q", m, why)
	}
	for _, s := range []string{"S1SUSPEND\x00", "LINHIB0001"} {
		if _, err := f.WriteAt([]byte(s), 4096-10); err != nil {
			t.Fatal(err)
		}
		if m, why := Of(f, 10<<20); why == "" || m.Bytes() != 10<<20 {
			t.Errorf("%s: %+v %q", s, m, why)
		}
	}
}
