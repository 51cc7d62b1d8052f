package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/btrfs/btrfstest"
)

// extracted extracts everything below a new directory.
func extracted(t *testing.T, name string) string {
	t.Helper()
	dst := t.TempDir()
	if _, err := open(t, name).Extract(context.Background(), dst, ExtractOptions{NoOwner: !isRoot}); err != nil {
		t.Fatal(err)
	}
	return dst
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// TestInodeUsedAgain: a new file that got the inode number of one that was saved
// and removed is not a hard link to it.
func TestInodeUsedAgain(t *testing.T) {
	src := t.TempDir()
	write(t, src+"/a1", "the old file")
	var st unix.Stat_t
	if err := errors.Join(os.Link(src+"/a1", src+"/a2"), os.Mkdir(src+"/sub", 0o755), unix.Stat(src+"/a1", &st)); err != nil {
		t.Fatal(err)
	}
	again := false
	name, _ := create(t, src, CreateOptions{OnMember: func(m *Member) {
		if m.Path != "sub" {
			return
		}
		os.Remove(src + "/a1")
		os.Remove(src + "/a2")
		for i := 0; i < 20000 && !again; i++ {
			n := fmt.Sprintf("%s/new%d", src, i)
			write(t, n, "the new file")
			var now unix.Stat_t
			if unix.Stat(n, &now) == nil && now.Ino == st.Ino {
				again = true
				if err := errors.Join(os.Link(n, src+"/sub/z1"), os.Rename(n, src+"/sub/z2")); err != nil {
					t.Error(err)
				}
			}
		}
	}})
	if !again {
		t.Skip("this file system does not use inode numbers again")
	}
	dst := extracted(t, name)
	for n, want := range map[string]string{"a1": "the old file", "a2": "the old file", "sub/z1": "the new file", "sub/z2": "the new file"} {
		if got := content(t, dst+"/"+n); got != want {
			t.Errorf("%s holds %q; want %q", n, got, want)
		}
	}
}

// TestReplacedMeanwhile renames files over each other all the time: what is saved
// under a name is one of the files that had the name, and is never missing in silence.
func TestReplacedMeanwhile(t *testing.T) {
	src := t.TempDir()
	write(t, src+"/a", "A")
	write(t, src+"/c", "C")
	if err := errors.Join(os.Link(src+"/a", src+"/b"), os.Link(src+"/c", src+"/d"), os.Symlink("target", src+"/x"), os.Mkdir(src+"/y", 0o755), unix.Mkfifo(src+"/z", 0o600)); err != nil {
		t.Fatal(err)
	}
	write(t, src+"/x2", "X")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, p := range [][2]string{{"a", "c"}, {"x", "x2"}, {"y", "z"}} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					unix.Renameat2(unix.AT_FDCWD, src+"/"+p[0], unix.AT_FDCWD, src+"/"+p[1], unix.RENAME_EXCHANGE)
				}
			}
		})
	}
	defer wg.Wait()
	defer close(stop)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		name, sum := create(t, src, CreateOptions{})
		have := map[string]bool{}
		for _, p := range sum.Problems {
			if p.NotCovered() {
				have[p.Path] = true
			}
		}
		r := open(t, name)
		if err := r.Entries(func(e Entry) error { have[e.Path] = true; return nil }); err != nil {
			t.Fatal(err)
		}
		for _, n := range []string{"a", "b", "c", "d", "x", "x2", "y", "z"} {
			if !have[n] {
				t.Fatalf("%s is neither saved nor listed as not covered: %v", n, sum.Problems)
			}
		}
		dst := extracted(t, name)
		if got := content(t, dst+"/b") + content(t, dst+"/d"); got != "AC" {
			t.Fatalf("b and d, which nobody touched, hold %q; want AC", got)
		}
		r.Close()
		os.RemoveAll(dst)
		os.Remove(name)
	}
}

// TestKindChanges: what never is what it was a moment before is not covered.
func TestKindChanges(t *testing.T) {
	src := t.TempDir()
	write(t, src+"/f", "x")
	root, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	k := &walker{ctx: context.Background(), sum: &Summary{}, visit: func(m *Member, _ int, _ string, _ *unix.Stat_t) error {
		if m.Path == "f" {
			return errReplaced
		}
		return nil
	}}
	if err := k.walk(root); err != nil {
		t.Fatal(err)
	}
	if len(k.sum.NotCovered()) != 1 || k.sum.Problems[0].Kind != Replaced {
		t.Errorf("problems %v; want f not covered", k.sum.Problems)
	}
}

// TestLease: a file that another process has a lease of is waited for.
func TestLease(t *testing.T) {
	src := t.TempDir()
	write(t, src+"/leased", "content")
	f, err := os.OpenFile(src+"/leased", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := make(chan os.Signal, 8)
	signal.Notify(c, unix.SIGIO)
	defer signal.Stop(c)
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Skipf("no leases here: %v", err)
	}
	go func() {
		<-c
		time.Sleep(200 * time.Millisecond)
		unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
		f.Close()
	}()
	name, sum := create(t, src, CreateOptions{})
	if len(sum.Problems) > 0 {
		t.Errorf("problems: %v", sum.Problems)
	}
	if got := content(t, extracted(t, name)+"/leased"); got != "content" {
		t.Errorf("leased holds %q", got)
	}
}

// TestReadErrors: a block that can't be read costs itself, and is listed.
func TestReadErrors(t *testing.T) {
	src := t.TempDir()
	data := bytes.Repeat([]byte("0123456789abcdef"), 3<<16) // 3 MiB
	write(t, src+"/a", string(data))
	write(t, src+"/b", "fine")
	if err := os.Link(src+"/a", src+"/c"); err != nil {
		t.Fatal(err)
	}
	bad := []int64{0, 8192, 12288, 2<<20 + 4096, int64(len(data)) - 1}
	waited := 0
	name, sum := create(t, src, CreateOptions{pread: func(fd int, b []byte, off int64) (int, error) {
		if waited < 3 {
			waited++
			return -1, []error{unix.EINTR, unix.EAGAIN, unix.EINTR}[waited-1]
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Size < 100 {
			return unix.Pread(fd, b, off)
		}
		for _, o := range bad {
			if lo := o &^ 4095; lo < off+int64(len(b)) && off < lo+4096 {
				return -1, unix.EIO
			}
		}
		return unix.Pread(fd, b, off)
	}})
	if len(sum.Problems) != 1 || !sum.Problems[0].NotCovered() || sum.Problems[0].Path != "a" {
		t.Fatalf("problems %v; want one of a, not covered", sum.Problems)
	}
	if d := sum.Problems[0].Detail; !strings.Contains(d, "0 to 4095, 8192 to 16383, 2101248 to 2105343, 3141632 to 3145727") {
		t.Errorf("ranges: %s", d)
	}
	want := bytes.Clone(data)
	for _, o := range bad {
		clear(want[o&^4095 : o&^4095+4096])
	}
	dst := extracted(t, name)
	for n, w := range map[string]string{"a": string(want), "c": string(want), "b": "fine"} {
		if content(t, dst+"/"+n) != w {
			t.Errorf("%s is not what could be read of it", n)
		}
	}
	// Without an end it is given up, after the time that was set.
	_, sum = create(t, src, CreateOptions{patience: 50 * time.Millisecond, pread: func(int, []byte, int64) (int, error) { return -1, unix.EAGAIN }})
	if len(sum.NotCovered()) != 2 {
		t.Errorf("problems %v; want a and b not covered", sum.Problems)
	}
}

// TestReadErrorsOfDisk has btrfs refuse a block whose checksum is wrong.
func TestReadErrorsOfDisk(t *testing.T) {
	dir := btrfstest.Mount(t, 1, "-O", "^no-holes", "-M")
	data := bytes.Repeat([]byte("a block that stays"), 200_000)
	copy(data[1<<20:], "the block to be found and damaged")
	write(t, dir+"/f", string(data))
	dev := btrfstest.Run(t, "findmnt", "-no", "SOURCE", dir)
	if f, err := os.Open(dir); err != nil || unix.Syncfs(int(f.Fd())) != nil {
		t.Fatal(err)
	}
	d, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	all := make([]byte, 256<<20)
	n, _ := d.ReadAt(all, 0)
	at := bytes.Index(all[:n], []byte("the block to be found"))
	if at < 0 {
		t.Skip("the file's content is not found on the device")
	}
	if _, err := d.WriteAt([]byte("DAMAGE"), int64(at)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Sync(), os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0)); err != nil {
		t.Skip(err)
	}
	name, sum := create(t, dir, CreateOptions{})
	if len(sum.Problems) != 1 || !sum.Problems[0].NotCovered() || !strings.Contains(sum.Problems[0].Detail, "1048576 to 1052671") {
		t.Fatalf("problems %v; want bytes 1048576 to 1052671 not covered", sum.Problems)
	}
	clear(data[1<<20 : 1<<20+4096])
	if content(t, extracted(t, name)+"/f") != string(data) {
		t.Error("what could be read is not what was saved")
	}
}

// TestBadRanges keeps the list short where everything is bad.
func TestBadRanges(t *testing.T) {
	var b badRanges
	for i := range int64(1000) {
		b.add(i*8192, 4096, unix.EIO)
		b.add(i*8192+4096, 100, unix.EIO)
	}
	if s := b.String(); b.bytes != 1000*4196 || !strings.HasSuffix(s, "and 900 more ranges") || !strings.Contains(s, " 0 to 4195, 8192 to 12387") {
		t.Errorf("%s", s)
	}
}

// TestManyHoles: a file of too many holes keeps its content, and the largest holes.
func TestManyHoles(t *testing.T) {
	l := newSegmentList()
	l.limit = 100
	var data []int64
	for i := range int64(5000) {
		off := i*64<<10 + i/1000*(1<<30) // four large holes among many small ones
		data = append(data, off)
		l.add(off, 4096)
	}
	if len(l.list) > 100 || len(l.list) < 5 {
		t.Fatalf("%d segments", len(l.list))
	}
	for _, off := range data {
		if !slices.ContainsFunc(l.list, func(s Segment) bool { return s.Offset <= off && off+4096 <= s.Offset+s.Length }) {
			t.Fatalf("the data at %d is lost", off)
		}
	}
	total := int64(0)
	for _, s := range l.list {
		total += s.Length
	}
	if total > 5000*64<<10+4<<20 {
		t.Errorf("the large holes are filled: %d bytes of data", total)
	}
	// As a whole, with holes every 8 KiB.
	src := t.TempDir()
	f, err := os.Create(src + "/f")
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(300) {
		if _, err := f.WriteAt([]byte{byte(i) | 1}, i*16384); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	name, _ := create(t, src, CreateOptions{})
	if content(t, extracted(t, name)+"/f") != content(t, src+"/f") {
		t.Error("the sparse file is not what it was")
	}
}

func mount(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
		t.Skipf("cannot mount here: %s", out)
	}
	dir := args[len(args)-1]
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// TestHidden: what can't be looked beneath is not covered; where it can it is saved.
func TestHidden(t *testing.T) {
	if !isRoot {
		t.Skip("mounting needs root")
	}
	src := t.TempDir()
	for _, d := range []string{"m", "bind", "real"} {
		if err := os.Mkdir(filepath.Join(src, d), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(src, d, "below"), d)
	}
	mount(t, "-t", "tmpfs", "none", src+"/m")
	mount(t, "--bind", src+"/real", src+"/bind")
	write(t, src+"/m/above", "x")
	plain, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	bind, err := openBind(src)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := OpenFS(src)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name          string
		root          *os.File
		want, problem string
	}{
		{"plain", plain, "[. bind m real real/below]", "[bind m]"},
		{"bind mount", bind, "[. bind bind/below m m/below real real/below]", "[]"},
		{"open_tree", tree, "[. bind bind/below m m/below real real/below]", "[]"},
	} {
		var got, problems []string
		sum, err := Walk(context.Background(), c.root, CreateOptions{OnMember: func(m *Member) { got = append(got, m.Path) }})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range sum.NotCovered() {
			problems = append(problems, p.Path)
		}
		if fmt.Sprint(got) != c.want || fmt.Sprint(problems) != c.problem {
			t.Errorf("%s: %v, problems %v; want %s, %s", c.name, got, sum.Problems, c.want, c.problem)
		}
		c.root.Close()
	}
	if out, _ := exec.Command("findmnt", "-rno", "TARGET").Output(); bytes.Contains(out, []byte("mkcdrec-bind")) {
		t.Error("the bind mount is still there")
	}
}

func subvol(t *testing.T, dev, dir, name string) {
	t.Helper()
	if err := unix.Mount(dev, dir, "btrfs", 0, "subvol="+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// TestOpenRoot: what was unmounted, or mounted over, is not taken for what was planned.
func TestOpenRoot(t *testing.T) {
	if !isRoot {
		t.Skip("mounting needs root")
	}
	root := func(dir string) Root {
		t.Helper()
		f, err := OpenFS(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		r, err := RootOf(f)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	check := func(dir string, want Root, good bool) {
		t.Helper()
		f, err := OpenRoot(dir, want)
		var other *OtherRootError
		if good && err != nil || !good && !errors.As(err, &other) {
			t.Errorf("OpenRoot(%s, %v) = %v; good is %v", dir, want, err, good)
		}
		if err == nil {
			f.Close()
		}
	}
	dir := t.TempDir()
	mount(t, "-t", "tmpfs", "none", dir)
	want := root(dir)
	check(dir, want, true)
	check(dir, Root{}, true)
	mount(t, "-t", "tmpfs", "none", dir)
	check(dir, want, false)
	for range 2 {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
	}
	check(dir, want, false)

	top := btrfstest.Mount(t, 1)
	for _, s := range []string{"one", "two"} {
		if err := btrfs.Create(filepath.Join(top, s)); err != nil {
			t.Fatal(err)
		}
	}
	dev := btrfstest.Run(t, "findmnt", "-no", "SOURCE", top)
	subvol(t, dev, dir, "one")
	want = root(dir)
	if id, err := btrfs.ID(dir); err != nil || want.Subvolume != id || want.Ino != 256 {
		t.Errorf("%v; want subvolume %d (%v)", want, id, err)
	}
	uuid := btrfstest.Run(t, "blkid", "-o", "value", "-s", "UUID", dev)
	check(dir, Root{FSID: strings.ToUpper(uuid), Subvolume: want.Subvolume}, true)
	check(top, want, false)
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	subvol(t, dev, dir, "two")
	check(dir, want, false)
}

// TestDirectoryVanishes: a directory that is removed while it is listed was no longer
// there; that is not a fault of the disk.
func TestDirectoryVanishes(t *testing.T) {
	src := t.TempDir()
	if err := os.Mkdir(src+"/d", 0o755); err != nil {
		t.Fatal(err)
	}
	_, sum := create(t, src, CreateOptions{OnMember: func(m *Member) {
		if m.Path == "d" {
			os.Remove(src + "/d")
		}
	}})
	if len(sum.NotCovered()) > 0 {
		t.Errorf("problems: %v", sum.Problems)
	}
}

// TestDirectoryDamaged: what a directory lists before it can't be read any more is
// saved, as is everything else, and the directory is not covered.
func TestDirectoryDamaged(t *testing.T) {
	if !isRoot {
		t.Skip("mounting needs root")
	}
	dev, dir := btrfstest.MountOther(t, "ext4", 64<<20)
	if err := os.Mkdir(dir+"/d", 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 1500 {
		write(t, fmt.Sprintf("%s/d/a-file-with-a-long-name-%d", dir, i), "")
	}
	write(t, dir+"/z", "fine")
	blocks := func() string { // once all is on the device
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
		return btrfstest.Run(t, "debugfs", "-R", "blocks /d", dev)
	}()
	f := strings.Fields(blocks)
	var at int64
	if _, err := fmt.Sscan(f[len(f)-2], &at); err != nil || len(f) < 8 {
		t.Fatalf("%q: %v", blocks, err)
	}
	size, err := exec.Command("dumpe2fs", "-h", dev).Output()
	if err != nil {
		t.Fatal(err)
	}
	var block int64
	for _, l := range strings.Split(string(size), "\n") {
		if v, ok := strings.CutPrefix(l, "Block size:"); ok {
			fmt.Sscan(v, &block)
		}
	}
	d, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.WriteAt(bytes.Repeat([]byte{0xA5}, int(block)), at*block); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Sync(), unix.Mount(dev, dir, "ext4", 0, "errors=continue")); err != nil {
		t.Fatal(err)
	}
	name, sum := create(t, dir, CreateOptions{})
	if n := sum.NotCovered(); len(n) != 1 || n[0].Path != "d" {
		t.Errorf("problems %v; want d not covered", sum.Problems)
	}
	if sum.Members < 10 || content(t, extracted(t, name)+"/z") != "fine" {
		t.Errorf("%d members", sum.Members)
	}
}
