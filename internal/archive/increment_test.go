package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/vmtest/tree"
)

// chain makes one archive after the other of a tree, each in a directory of its own, and opens
// them with their earlier ones.
type chain struct {
	t    *testing.T
	src  string
	home string
	n    int
	sums []*Summary
}

// afterwards are the options of a run that counts as so late that no file is read again if its times
// are the same.
var afterwards = CreateOptions{ahead: 2 * racy}

func newChain(t *testing.T, src string) *chain {
	return &chain{t: t, src: src, home: t.TempDir()}
}

func (c *chain) file(n int, name string) string {
	return filepath.Join(c.home, fmt.Sprintf("set-%d", n), name)
}

// add makes the next archive: a full one first.
func (c *chain) add(opt CreateOptions) *Summary {
	t := c.t
	t.Helper()
	time.Sleep(20 * time.Millisecond) // changes before and after have other times
	if err := os.Mkdir(filepath.Dir(c.file(c.n, "x")), 0o700); err != nil {
		t.Fatal(err)
	}
	state, err := os.Create(c.file(c.n, "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	if opt.Keep, err = NewStateWriter(state, Source{Set: fmt.Sprintf("id-%d", c.n), Dir: fmt.Sprintf("set-%d", c.n), File: "a.tar.zst"}); err != nil {
		t.Fatal(err)
	}
	if c.n > 0 {
		if opt.Since, err = OpenState(c.file(c.n-1, "state")); err != nil {
			t.Fatal(err)
		}
		defer opt.Since.Close()
	}
	root, err := os.Open(c.src)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	f, err := os.Create(c.file(c.n, "a.tar.zst"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum, err := Create(context.Background(), f, root, opt)
	if err != nil {
		t.Fatalf("Create of generation %d: %v", c.n, err)
	}
	c.n++
	c.sums = append(c.sums, sum)
	return sum
}

func (c *chain) open(n int) *Reader {
	c.t.Helper()
	r := open(c.t, c.file(n, "a.tar.zst"))
	r.OpenEarlier(func(s Source) (*Reader, error) { return OpenFile(filepath.Join(c.home, s.Dir, s.File)) })
	return r
}

// compare compares a generation with the tree as it is.
func (c *chain) compare(n int) {
	t := c.t
	t.Helper()
	r := c.open(n)
	root, err := os.Open(c.src)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	ds, err := r.Compare(context.Background(), root, CompareOptions{NoOwner: !isRoot})
	if err != nil {
		t.Fatalf("Compare of generation %d: %v", n, err)
	}
	for _, d := range ds {
		t.Errorf("generation %d: the archive differs from the tree: %v", n, d)
	}
	if err := r.Verify(context.Background(), VerifyOptions{Decode: true}); err != nil {
		t.Errorf("generation %d: Verify = %v", n, err)
	}
}

// extracted extracts a generation.
func (c *chain) extracted(n int) string {
	c.t.Helper()
	dst := c.t.TempDir()
	x, err := c.open(n).Extract(context.Background(), dst, ExtractOptions{NoOwner: !isRoot})
	if err != nil {
		c.t.Fatalf("Extract of generation %d: %v", n, err)
	}
	if len(x.Problems) > 0 {
		c.t.Errorf("Extract of generation %d: %v", n, x.Problems)
	}
	return dst
}

func sh(t *testing.T, dir, script string) {
	t.Helper()
	c := exec.Command("sh", "-ec", script)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

func describe(t *testing.T, dir string) []tree.Entry {
	t.Helper()
	e, err := tree.Describe(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestIncrement: what each change costs, and that the tree is whole.
func TestIncrement(t *testing.T) {
	for _, x := range []struct {
		what, do string
		stored   []string // paths of files whose bytes the increment has itself
	}{
		{"nothing", ":", nil},
		{"new", "echo new > dir/new", []string{"dir/new"}},
		{"changed", "echo other > a", []string{"a"}},
		{"changed, with the old time", "touch -r a ref; printf B | dd of=a bs=1 conv=notrunc; touch -r ref a; rm ref", []string{"a"}},
		{"touched", "touch a", []string{"a"}},
		{"mode", "chmod 600 a", []string{"a"}},
		{"mode and back", "chmod 600 a; chmod 644 a", nil},
		{"attribute", "setfattr -n user.x -v 1 a", []string{"a"}},
		{"deleted", "rm a", nil},
		{"moved", "mv a dir/moved", nil},
		{"moved over another", "mv a dir/b", nil},
		{"moved in a circle", "mv a x; mv dir/b a; mv x dir/b", nil},
		{"moved into a new directory", "mkdir -p n/e/w; mv a n/e/w/a", nil},
		{"directory moved", "mv dir moved", nil},
		{"moved and changed", "mv a c; echo x >> c", []string{"c"}},
		{"moved to where a directory was", "rm -r dir; mv a dir", []string{"dir"}},
		{"moved below what was a file", "mv a x; mkdir a; mv x a/x", []string{"a/x"}},
		{"another name", "ln a z", nil},
		{"another name before", "ln a 0", []string{"0"}},
		{"a name fewer", "rm hard1", nil},
		{"the other name fewer", "rm hard2", nil},
		{"linked file changed", "echo more >> hard1", []string{"hard1"}},
		{"sparse", "printf x | dd of=sparse bs=1 seek=5000000 conv=notrunc", []string{"sparse"}},
		{"truncated", "truncate -s 3 a", []string{"a"}},
		{"replaced by a link", "rm a; ln -s dir a", nil},
		{"link changed", "ln -sfn a soft", nil},
		{"replaced by a directory", "rm a; mkdir a; echo 1 > a/1", []string{"a/1"}},
		{"directory replaced by a file", "rm -r dir; echo 1 > dir", []string{"dir"}},
		{"all gone", "rm -r *", nil},
	} {
		t.Run(x.what, func(t *testing.T) {
			t.Parallel()
			src := t.TempDir()
			sh(t, src, `mkdir dir; echo A > a; echo BB > dir/b; ln -s dir/b soft; mkfifo fifo; echo hard > hard1; ln hard1 hard2; truncate -s 9000000 sparse; printf data | dd of=sparse bs=1 seek=4000000 conv=notrunc`)
			c := newChain(t, src)
			c.add(afterwards)
			sh(t, src, x.do)
			c.add(CreateOptions{})
			c.compare(1)
			var stored []string
			if err := c.open(1).Entries(func(e Entry) error {
				if e.From == 0 && e.Type == TypeFile {
					stored = append(stored, e.Path)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(stored, x.stored) {
				t.Errorf("%s: the increment has the bytes of %q; want %q", x.do, stored, x.stored)
			}
			byHand(t, c, 1)
		})
	}
}

// byHand restores a generation with GNU tar, and compares it with the tree.
func byHand(t *testing.T, c *chain, n int) {
	t.Helper()
	dst := t.TempDir()
	for i := range n + 1 {
		cmd := exec.Command("sh", "-c", `zstd -dcq "$1" | tar -xp --numeric-owner --xattrs --xattrs-include='*' --acls --listed-incremental=/dev/null -f -`, "sh", c.file(i, "a.tar.zst"))
		cmd.Dir, cmd.Env = dst, append(os.Environ(), "LC_ALL=C.UTF-8")
		out, err := cmd.CombinedOutput()
		if out = bytes.ReplaceAll(out, []byte("tar: Ignoring unknown extended header keyword 'hdrcharset'\n"), nil); err != nil || len(out) > 0 {
			t.Errorf("GNU tar, archive %d: %v\n%s", i, err, out)
		}
	}
	for _, d := range tree.Compare(describe(t, c.src), describe(t, dst)) {
		t.Errorf("by hand: differs: %v", d)
	}
}

// TestGenerations changes a tree at random, and compares each generation that is extracted with
// what the tree was.
func TestGenerations(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 1))
			src := t.TempDir()
			m := &mutator{t: t, r: r, dir: src}
			for range 60 {
				m.step()
			}
			c := newChain(t, src)
			var was [][]tree.Entry
			for n := range 5 {
				if n == 2 {
					c.add(afterwards)
				} else {
					c.add(CreateOptions{})
				}
				c.compare(n)
				was = append(was, describe(t, src))
				byHand(t, c, n)
				for range 25 {
					m.step()
				}
			}
			for n, want := range was {
				for _, d := range tree.Compare(want, describe(t, c.extracted(n))) {
					t.Errorf("generation %d: differs: %v", n, d)
				}
			}
			if c.sums[3].Earlier == 0 {
				t.Error("an increment has everything itself")
			}
		})
	}
}

// mutator changes a tree.
type mutator struct {
	t   *testing.T
	r   *rand.Rand
	dir string
	n   int
}

func (m *mutator) paths(dirs bool) (out []string) {
	_ = filepath.Walk(m.dir, func(p string, st os.FileInfo, err error) error {
		if err == nil && st.IsDir() == dirs && p != m.dir {
			out = append(out, p)
		}
		return nil
	})
	return out
}

func (m *mutator) pick(dirs bool) string {
	p := m.paths(dirs)
	if dirs {
		p = append(p, m.dir)
	}
	if len(p) == 0 {
		return ""
	}
	return p[m.r.IntN(len(p))]
}

func (m *mutator) fresh() string {
	m.n++
	names := []string{"f", "g", "name with space", "ü", "\xff", "new\nline"}
	return filepath.Join(m.pick(true), fmt.Sprintf("%s%d", names[m.r.IntN(len(names))], m.r.IntN(40)))
}

func (m *mutator) step() {
	content := bytes.Repeat([]byte{byte('a' + m.r.IntN(26))}, m.r.IntN(9000))
	file := m.pick(false)
	regular := false
	if st, err := os.Lstat(file); err == nil {
		regular = st.Mode().IsRegular()
	}
	switch k := m.r.IntN(16); {
	case k < 4:
		_ = os.WriteFile(m.fresh(), content, 0o640)
	case k < 5:
		_ = os.Mkdir(m.fresh(), 0o750)
	case file == "":
	case k < 6:
		_ = os.Rename(file, m.fresh())
	case k < 7:
		_ = os.Rename(file, m.pick(false))
	case k < 8:
		if d := m.pick(true); d != m.dir {
			_ = os.Rename(d, m.fresh())
		}
	case k < 9:
		_ = os.Link(file, m.fresh())
	case k < 10:
		_ = os.Symlink("to"+fmt.Sprint(m.n), m.fresh())
	case k < 11:
		_ = os.Remove(file)
	case k < 12:
		if d := m.pick(true); d != m.dir && m.r.IntN(3) == 0 {
			_ = os.RemoveAll(d)
		}
	case !regular:
	case k < 13:
		_ = os.Chmod(file, os.FileMode(0o600+m.r.IntN(0o100)))
	case k < 14:
		_ = unix.Setxattr(file, "user.m", content[:min(len(content), 20)], 0)
	case k < 15:
		_ = os.Truncate(file, int64(m.r.IntN(300000)))
	default:
		if f, err := os.OpenFile(file, os.O_WRONLY, 0); err == nil {
			_, _ = f.WriteAt(content, int64(m.r.IntN(100000)))
			f.Close()
		}
	}
}

// TestIncrementMissing: an earlier archive that is missing, damaged, or another one is named.
func TestIncrementMissing(t *testing.T) {
	src := t.TempDir()
	sh(t, src, "mkdir d; echo A > a; head -c 300000 /dev/urandom > d/b")
	c := newChain(t, src)
	c.add(CreateOptions{})
	sh(t, src, "echo C > c")
	c.add(CreateOptions{})
	try := func(want string) {
		t.Helper()
		for what, err := range map[string]error{
			"Verify": c.open(1).Verify(context.Background(), VerifyOptions{Decode: true}),
			"Extract": func() error {
				_, err := c.open(1).Extract(context.Background(), t.TempDir(), ExtractOptions{})
				return err
			}(),
		} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s = %v; want %q in it", what, err, want)
			}
		}
	}
	base := c.file(0, "a.tar.zst")
	good, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(good)
	bad[len(bad)/2] ^= 1
	if err := os.WriteFile(base, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	try("set-0/a.tar.zst: frame 0 at byte 0 is damaged")
	x, err := c.open(1).Extract(context.Background(), t.TempDir(), ExtractOptions{Salvage: true})
	if err != nil || len(x.Incomplete()) != 2 || x.Problems[0].Kind != Lost {
		t.Errorf("Salvage = %+v, %v; want two files lost", x, err)
	}
	other := newChain(t, src)
	other.add(CreateOptions{})
	b, err := os.ReadFile(other.file(0, "a.tar.zst"))
	if err := errors.Join(err, os.WriteFile(base, b, 0o600)); err != nil {
		t.Fatal(err)
	}
	try("it is not the archive that the increment was made with (of set id-0 in set-0)")
	if err := os.Remove(base); err != nil {
		t.Fatal(err)
	}
	try("it needs the archive a.tar.zst of the earlier set set-0")
	r := open(t, c.file(1, "a.tar.zst"))
	if err := r.Verify(context.Background(), VerifyOptions{Decode: true}); err == nil || !strings.Contains(err.Error(), "earlier set id-0 in set-0") {
		t.Errorf("Verify of an increment alone = %v; want the set that it needs", err)
	}
}

// TestState: a state that is cut off, changed, or no state is an error.
func TestState(t *testing.T) {
	src := t.TempDir()
	sh(t, src, "for i in $(seq 300); do echo $i > file-$i; done; ln file-1 hard; mkdir d")
	c := newChain(t, src)
	c.add(CreateOptions{})
	name := c.file(0, "state")
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenState(name)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	n := 0
	if err := s.all(func(i int, r *stateRecord) error {
		again, err := s.record(i)
		if n++; err != nil || again.path != r.path {
			t.Errorf("record %d is of %q, %v; want %q", i, again.path, err, r.path)
		}
		return nil
	}); err != nil || n != 303 || len(s.Sources()) != 1 || s.Sources()[0].Set != "id-0" {
		t.Errorf("%d records, sources %+v, %v; want 303 of id-0", n, s.Sources(), err)
	}
	for what, b := range map[string][]byte{
		"empty": nil, "text": []byte("a text that is long enough to have a foot of a state, but which is none at all"),
		"cut off": good[:len(good)-1], "no begin": good[1:], "longer": append(bytes.Clone(good), 0),
		"changed": append(append(bytes.Clone(good[:40]), good[40]^1), good[41:]...),
		"trailer": bytes.Replace(good, []byte(`"blocks"`), []byte(`"blockz"`), 1),
	} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := OpenState(name); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("OpenState of one that is %s = %v, %v; want an error with its name", what, s, err)
		}
	}
	if err := os.WriteFile(name, bytes.Replace(good, []byte(stateTag), []byte("mkcdrec-state 1\n"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenState(name); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("OpenState of version 1 = %v; want that it is of another version", err)
	}
	for _, own := range []Source{{}, {Set: "x", Dir: "..", File: "f"}, {Set: "x", Dir: "a/b", File: "f"}, {Set: "x y", Dir: "d", File: "f"}, {Set: "x", Dir: "d"}} {
		if _, err := NewStateWriter(&bytes.Buffer{}, own); err == nil {
			t.Errorf("NewStateWriter(%+v) is accepted", own)
		}
	}
}

// TestIncrementTOC: what the table of contents of an increment must not have.
func TestIncrementTOC(t *testing.T) {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	frame, src := "f 0 100 4096 "+strings.Repeat("00", 32)+"\n", "s id "+strings.Repeat("ab", 32)+" file\tdir\n"
	const dir, end = "m 0 5 755 0 0 0 0 0 0 512 .\n", "end 1 2 4096\n"
	for _, c := range []struct{ text, want string }{
		{src + frame + dir + "m 1 0 644 0 0 3 0 0 512 1024 a\t\tb\n" + end, ""},
		{src + frame + dir + "m 0 1 644 0 0 0 0 0 0 0 a\tb\n" + end, ""},
		{src + frame + dir + "m 2 0 644 0 0 3 0 0 512 1024 a\n" + end, "member"},
		{src + frame + dir + "m 1 5 644 0 0 3 0 0 512 1024 a\n" + end, "member in another archive"},
		{src + frame + dir + "m 1 0 644 0 0 3 0 0 512 0 a\n" + end, "member without bytes"},
		{src + frame + dir + "m 1 0 644 0 0 3 0 0 512 -512 a\n" + end, "member"},
		{src + frame + dir + "m 1 0 644 0 0 3 0 0 512 9223372036854775296 a\n" + end, "member"},
		{src + frame + dir + "m 0 0 644 0 0 3 0 0 0 1024 a\n" + end, "member"},
		{src + frame + dir + "m 0 0 644 0 0 3 0 0 512 4096 a\n" + end, "member"},
		{frame + src + dir + end, "unknown line"},
		{"s id 00 file\tdir\n" + frame + dir + end, "source"},
		{strings.Replace(src, "dir", "..", 1) + frame + dir + end, "source"},
		{strings.Replace(src, "file", "a/b", 1) + frame + dir + end, "source"},
		{src + frame + dir + "end 1 3 4096\n", "counts"},
	} {
		_, err := parseTOCText(z.EncodeAll([]byte(tocIncrement+"\n"+c.text), nil), func(Entry) error { return nil })
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v; want %q", c.text, err, c.want)
		}
	}
}

func FuzzStateBlock(f *testing.F) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxStateText))
	if err != nil {
		f.Fatal(err)
	}
	r := stateRecord{typ: TypeFile, ino: 1 << 40, csec: -1, sec: 9, size: 5, src: 1, start: 512, end: 2048, path: "a/b", there: "c"}
	f.Add(r.append(nil))
	f.Add((&stateRecord{typ: TypeSymlink, path: "l", link: "to"}).append(r.append(nil)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		list, err := parseStateBlock(dec, enc.EncodeAll(raw, nil), 3)
		if err != nil {
			return
		}
		var again []byte
		for i := range list {
			again = list[i].append(again)
		}
		if back, err := parseStateBlock(dec, enc.EncodeAll(again, nil), 3); err != nil || !slices.Equal(back, list) {
			t.Errorf("records %+v become %+v, %v", list, back, err)
		}
	})
}

func FuzzStateTrailer(f *testing.F) {
	f.Add([]byte(`{"start":[1,2],"content":false,"sources":[{"set":"x","dir":"d","file":"f","toc":"`+strings.Repeat("00", 32)+`"}],"blocks":[{"o":0,"p":100,"f":0}]}`), int64(100))
	f.Fuzz(func(t *testing.T, text []byte, size int64) {
		s := &State{}
		if s.parseTrailer(text, size) == nil && (len(s.trailer.Sources) == 0 || s.trailer.Sources[0].check() != nil) {
			t.Errorf("accepted: %+v", s.trailer)
		}
	})
}

// TestIncrementSelect: single files of an increment, wherever their bytes are.
func TestIncrementSelect(t *testing.T) {
	src := t.TempDir()
	sh(t, src, "mkdir -p d/e; echo A > a; echo B > d/e/b; ln d/e/b zlink; head -c 6000000 /dev/urandom > large; chmod 700 d")
	c := newChain(t, src)
	c.add(afterwards)
	sh(t, src, "echo N > d/new; mv a d/moved")
	c.add(afterwards)
	sh(t, src, "ln d/e/b d/third; rm d/e/b")
	c.add(afterwards)
	for _, want := range []string{"d/moved", "d/new", "d/third", "zlink", "large"} {
		dst := t.TempDir()
		x, err := c.open(2).Extract(context.Background(), dst, ExtractOptions{Select: func(p string) bool { return p == want }})
		if err != nil || len(x.Problems) > 0 || x.Members != 1 {
			t.Errorf("Extract of %s = %+v, %v", want, x, err)
		}
		a, err := os.ReadFile(filepath.Join(src, want))
		b, err2 := os.ReadFile(filepath.Join(dst, want))
		if err := errors.Join(err, err2); err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s has %d bytes, had %d, %v", want, len(b), len(a), err)
		}
		if st, err := os.Stat(dst + "/d"); strings.HasPrefix(want, "d/") && (err != nil || st.Mode().Perm() != 0o700) {
			t.Errorf("the directory above %s: %v, %v; want its mode", want, st, err)
		}
	}
}

// TestIncrementMapped: what is written through a mapping changes the file's times only when its page
// is clean before.
func TestIncrementMapped(t *testing.T) {
	src := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(src, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type == unix.TMPFS_MAGIC {
		t.Skip("tmpfs has no clean pages")
	}
	f, err := os.Create(filepath.Join(src, "mapped"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 8192)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil { // a file that seems to be sparse is written out when its data are looked for
		t.Fatal(err)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(b) }()
	c := newChain(t, src)
	for n := range 3 {
		b[100], b[5000] = byte('a'+n), byte('A'+n)
		c.add(afterwards)
	}
	c.compare(2) // which writes the page to its disk
}
