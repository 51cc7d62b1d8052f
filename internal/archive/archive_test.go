package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/vmtest/tree"
)

var isRoot = os.Geteuid() == 0

// difficult makes the tree of difficult files in a directory on a real disk
// (the temporary directory), where holes and attributes work.
func difficult(t *testing.T, huge bool) string {
	t.Helper()
	if !isRoot {
		t.Skip("making device nodes and trusted attributes needs root; CI is root")
	}
	dir := filepath.Join(t.TempDir(), "src")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := tree.Make(dir, tree.Options{Trusted: true, Huge: huge}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func create(t *testing.T, dir string, opt CreateOptions) (string, *Summary) {
	t.Helper()
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	name := filepath.Join(t.TempDir(), "a.tar.zst")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := Create(context.Background(), f, root, opt)
	if err != nil {
		t.Fatalf("Create(%s): %v", dir, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return name, sum
}

func open(t *testing.T, name string) *Reader {
	t.Helper()
	r, err := OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func compare(t *testing.T, want, got string) {
	t.Helper()
	a, err := tree.Describe(want, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := tree.Describe(got, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(a) < 5 {
		t.Fatalf("only %d paths to compare", len(a))
	}
	for _, d := range tree.Compare(a, b) {
		t.Errorf("differs: %v", d)
	}
}

func TestRoundTrip(t *testing.T) {
	src := difficult(t, true)
	name, sum := create(t, src, CreateOptions{})
	if len(sum.Problems) > 0 {
		t.Errorf("problems: %v", sum.Problems)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != sum.Packed || sha256.Sum256(b) != sum.SHA256 {
		t.Errorf("Summary says %d bytes %x; file has %d", sum.Packed, sum.SHA256, len(b))
	}
	if sum.Packed > 3<<20 {
		t.Errorf("archive of a sparse tree has %d bytes", sum.Packed)
	}
	r := open(t, name)
	dst := t.TempDir()
	x, err := r.Extract(context.Background(), dst, ExtractOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(x.Problems) > 0 || x.Members != sum.Members || x.Files != sum.Files {
		t.Errorf("Extract: %+v; Create: %+v", x, sum)
	}
	compare(t, src, dst)
	for _, deep := range []bool{false, true} {
		if err := r.Verify(context.Background(), VerifyOptions{Decode: deep}); err != nil {
			t.Errorf("Verify(decode %v) = %v", deep, err)
		}
	}
	// Extracting over what is there gives the same again.
	if _, err := r.Extract(context.Background(), dst, ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	compare(t, src, dst)
}

// TestOtherTars restores with other people's tools, as docs/FORMAT.md promises.
func TestOtherTars(t *testing.T) {
	src := difficult(t, false)
	name, _ := create(t, src, CreateOptions{})
	for _, c := range []struct {
		name string
		args []string
		not  []string // attributes the tool can't restore
	}{
		{"GNU tar", []string{"tar", "-xp", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "-f", "-"}, nil},
		{"bsdtar", []string{"bsdtar", "-xp", "--numeric-owner", "--xattrs", "--acls", "-f", "-"}, []string{"user.a=b%c", `"."`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := exec.LookPath(c.args[0]); err != nil {
				t.Skipf("%s is not installed; make test installs it", c.args[0])
			}
			dst := t.TempDir()
			z := exec.Command("zstd", "-dcq", name)
			x := exec.Command(c.args[0], c.args[1:]...)
			x.Dir = dst
			x.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
			var msg bytes.Buffer
			x.Stderr = &msg
			x.Stdin, _ = z.StdoutPipe()
			if err := errors.Join(x.Start(), z.Run(), x.Wait()); err != nil {
				t.Errorf("%v: %v\n%s", c.args, err, msg.String())
			}
			if msg.Len() > 0 {
				t.Logf("%s said: %s", c.name, msg.String())
			}
			a, err := tree.Describe(src, nil)
			if err != nil {
				t.Fatal(err)
			}
			b, err := tree.Describe(dst, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range tree.Compare(a, b) {
				known := false
				for _, n := range c.not {
					known = known || strings.Contains(d.String(), n)
				}
				if known {
					t.Logf("known limit: %v", d)
				} else {
					t.Errorf("differs: %v", d)
				}
			}
		})
	}
}

func TestOverTheFieldSizes(t *testing.T) {
	// Numbers that don't fit ustar's octal fields have to come back.
	for _, m := range []*Member{
		{Path: "big", Type: TypeFile, Size: 9 << 30, UID: 1 << 22, GID: 1 << 31},
		{Path: "old", Type: TypeFile, Sec: -12, Nsec: 250},
		{Path: "older", Type: TypeFile, Sec: -1, Nsec: 999999999},
		{Path: "future", Type: TypeFile, Sec: 1 << 40, Nsec: 7},
		{Path: strings.Repeat("p/", 80) + "x", Type: TypeSymlink, Link: strings.Repeat("l", 3000)},
		{Path: strings.Repeat("d", 99), Type: TypeDir, Mode: 0o1777},
		{Path: "dev", Type: TypeChar, Major: 4095, Minor: 1048575, Mode: 0o600},
	} {
		b := appendHeader(nil, m, m.Size)
		var pax map[string]string
		for len(b) > 0 {
			got, stored, err := parseHeader(b[:512], pax)
			if err != nil {
				t.Fatalf("%s: %v", m.Path, err)
			}
			b = b[512:]
			if got.Type == 'x' {
				if pax, err = parsePax(b[:stored]); err != nil {
					t.Fatalf("%s: %v", m.Path, err)
				}
				b = b[stored+padding(stored):]
				continue
			}
			if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", m) {
				t.Errorf("parseHeader(appendHeader(m)) =\n%+v; want\n%+v", got, m)
			}
		}
	}
}

func TestACL(t *testing.T) {
	for _, text := range []string{"user::rwx,group::r-x,other::---", "user::rw-,user:0:r--,user:4294967294:--x,group::---,group:7:rwx,mask::rwx,other::r--"} {
		b, err := aclBinary(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := aclText(b); err != nil || got != text {
			t.Errorf("aclText(aclBinary(%q)) = %q, %v", text, got, err)
		}
	}
	for _, bad := range []string{"user", "user::rwz", "foo::rwx", "user:x:rwx", "mask:1:rwx", "user:99999999999:rwx"} {
		if _, err := aclBinary(bad); err == nil {
			t.Errorf("aclBinary(%q) is accepted", bad)
		}
	}
}

func TestMatcher(t *testing.T) {
	for _, c := range []struct {
		rule, path string
		want       bool
	}{
		{"/tmp", "/tmp", true}, {"/tmp", "/tmpx", false}, {"/tmp/*", "/tmp", false}, {"/tmp/*", "/tmp/a", true}, {"/tmp/*", "/tmp/a/b", false},
		{"/**.o", "/a/b/c.o", true}, {"/a/**/z", "/a/b/c/z", true}, {"/a?c", "/abc", true}, {"/a?c", "/a/c", false},
		{"/[a-c]x", "/bx", true}, {"/[!a-c]x", "/bx", false}, {"/[!a-c]x", "/zx", true}, {`/\*`, "/*", true}, {`/\*`, "/a", false},
		{"/\xff*", "/\xfe", false}, {"/\xff*", "/\xffabc", true}, {"/*", "/", true},
	} {
		m, err := NewMatcher([]string{c.rule})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Match(c.path) != ""; got != c.want {
			t.Errorf("rule %q, path %q: %v; want %v", c.rule, c.path, got, c.want)
		}
	}
	for _, bad := range []string{"tmp", "", "/tmp/", "/a[b", `/a\`} {
		if _, err := NewMatcher([]string{bad}); err == nil {
			t.Errorf("rule %q is accepted", bad)
		}
	}
}

// TestQuoteRule: a path of any bytes is no pattern.
// TestQuote: what can't be seen, or makes a reader take one name for another, is escaped, and nothing is lost.
func TestQuote(t *testing.T) {
	for s, want := range map[string]string{"plain": "plain", "schön": "schön", "a\nb": `a\x0ab`, "a\u202eb": `a\xe2\x80\xaeb`, "a\u200bb": `a\xe2\x80\x8bb`, "\xff": `\xff`, `\`: `\x5c`} {
		got := Quote(s)
		back, err := Unquote(got)
		if got != want || back != s || err != nil {
			t.Errorf("Quote(%q) = %s, and back %q, %v; want %s", s, got, back, err, want)
		}
	}
}

func TestQuoteRule(t *testing.T) {
	for _, p := range []string{"/a[b]c", `/a\b`, "/*", "/?", "/[!x]", "/a\nb\t]", "/\xff**", "/plain"} {
		m, err := NewMatcher([]string{QuoteRule(p)})
		if err != nil {
			t.Fatal(err)
		}
		if m.Match(p) == "" || m.Match("/ab") != "" || m.Match(p+"x") != "" {
			t.Errorf("the rule %q of %q is wrong", QuoteRule(p), p)
		}
	}
}

func TestExclude(t *testing.T) {
	src := t.TempDir()
	for _, d := range []string{"keep", "cache/sub", "gone"} {
		if err := os.MkdirAll(src+"/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(src+"/"+d+"/f", nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, err := NewMatcher([]string{"/mnt/cache/*", "/mnt/gone"})
	if err != nil {
		t.Fatal(err)
	}
	var excluded []string
	name, sum := create(t, src, CreateOptions{Exclude: m, Prefix: "/mnt", OnExcluded: func(p, r string) { excluded = append(excluded, p+" by "+r) }})
	var got []string
	if err := open(t, name).Entries(func(e Entry) error { got = append(got, e.Path); return nil }); err != nil {
		t.Fatal(err)
	}
	if g, w := fmt.Sprint(got), "[. cache keep keep/f]"; g != w {
		t.Errorf("members %s; want %s", g, w)
	}
	if g, w := fmt.Sprint(excluded), "[/mnt/gone by /mnt/gone /mnt/cache/sub by /mnt/cache/*]"; g != w || sum.Excluded != 2 {
		t.Errorf("excluded %s (%d); want %s", g, sum.Excluded, w)
	}
}

// TestLiveFiles has files change while they are read: the archive stays
// valid, and each file is listed.
func TestLiveFiles(t *testing.T) {
	src := t.TempDir()
	data := bytes.Repeat([]byte("live"), 64<<10)
	for _, n := range []string{"a-grow", "b-shrink", "c-vanish", "d-change", "e-fine"} {
		if err := os.WriteFile(src+"/"+n, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(l)
	if err := unix.Bind(l, &unix.SockaddrUnix{Name: src + "/f-socket"}); err != nil {
		t.Fatal(err)
	}
	name, sum := create(t, src, CreateOptions{OnMember: func(m *Member) {
		p := src + "/" + m.Path
		var err error
		switch m.Path {
		case ".":
			err = os.Remove(src + "/c-vanish")
		case "a-grow":
			f, e := os.OpenFile(p, os.O_APPEND|os.O_WRONLY, 0)
			if e == nil {
				_, e = f.WriteString("more")
				f.Close()
			}
			err = e
		case "b-shrink":
			err = os.Truncate(p, 100)
		case "d-change":
			err = os.WriteFile(p, bytes.Repeat([]byte("LIVE"), 64<<10), 0o644)
		}
		if err != nil {
			t.Error(err)
		}
	}})
	got := map[string]Kind{}
	for _, p := range sum.Problems {
		got[p.Path] = p.Kind
	}
	// c-vanish is gone before the directory is listed, so it is no problem at all.
	want := map[string]Kind{"a-grow": Grown, "b-shrink": Shrunk, "d-change": Changed, "f-socket": Socket}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("problems %v; want %v", got, want)
	}
	r := open(t, name)
	if err := r.Verify(context.Background(), VerifyOptions{Decode: true}); err != nil {
		t.Error(err)
	}
	dst := t.TempDir()
	if _, err := r.Extract(context.Background(), dst, ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	for n, size := range map[string]int64{"a-grow": 256 << 10, "b-shrink": 256 << 10, "e-fine": 256 << 10} {
		if st, err := os.Stat(dst + "/" + n); err != nil || st.Size() != size {
			t.Errorf("%s: %v, %v; want %d bytes", n, st, err, size)
		}
	}
	if b, err := os.ReadFile(dst + "/e-fine"); err != nil || !bytes.Equal(b, data) {
		t.Errorf("e-fine was damaged by its neighbours")
	}
}

func TestVanished(t *testing.T) {
	src := t.TempDir()
	for _, n := range []string{"a", "b"} {
		if err := os.WriteFile(src+"/"+n, []byte(n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, sum := create(t, src, CreateOptions{OnMember: func(m *Member) {
		if m.Path == "a" {
			os.Remove(src + "/b")
		}
	}})
	if len(sum.Problems) != 1 || sum.Problems[0].Kind != Vanished || sum.Members != 2 {
		t.Errorf("summary %+v; want b vanished", sum)
	}
}

func TestWriteError(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("no /dev/full")
	}
	defer full.Close()
	src := t.TempDir()
	for i := range 4 {
		if err := os.WriteFile(fmt.Sprintf("%s/%d", src, i), bytes.Repeat([]byte{byte(i)}, 9<<20), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := Create(context.Background(), full, root, CreateOptions{}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Create on a full device = %v; want ENOSPC", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Create(ctx, &bytes.Buffer{}, root, CreateOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Create after cancel = %v", err)
	}
}

// TestDamage flips, cuts and swaps: opening or verifying must say so, and
// only the damaged frame's members are lost.
func TestDamage(t *testing.T) {
	src := t.TempDir()
	noise := make([]byte, 12<<20)
	x := uint32(1)
	for i := range noise {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	for i := range 3 {
		if err := os.WriteFile(fmt.Sprintf("%s/f%d", src, i), noise[i<<22:(i+1)<<22-2000], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	name, _ := create(t, src, CreateOptions{})
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	check := func(b []byte) error {
		r, err := Open(bytes.NewReader(b), int64(len(b)), "x")
		if err != nil {
			return err
		}
		return r.Verify(context.Background(), VerifyOptions{})
	}
	if err := check(good); err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(good); off += 1 + len(good)/200 {
		b := bytes.Clone(good)
		b[off] ^= 0x10
		if check(b) == nil {
			t.Fatalf("a flipped bit in byte %d of %d is not noticed", off, len(good))
		}
	}
	for off := len(good) - 200; off < len(good); off++ {
		b := bytes.Clone(good)
		b[off] ^= 0x01
		if check(b) == nil {
			t.Errorf("a flipped bit in byte %d of %d (the index) is not noticed", off, len(good))
		}
	}
	for _, n := range []int{0, 1, 8, 100, len(good) / 2, len(good) - 1} {
		if check(good[:n]) == nil {
			t.Errorf("an archive cut off at %d of %d is not noticed", n, len(good))
		}
	}
	if check(append(bytes.Clone(good), 0)) == nil {
		t.Error("an added byte is not noticed")
	}
	// The first frame damaged: f2 is still there.
	b := bytes.Clone(good)
	b[1000] ^= 1
	r, err := Open(bytes.NewReader(b), int64(len(b)), "x")
	if err != nil {
		t.Fatal(err)
	}
	var de *DamagedError
	if err := r.Verify(context.Background(), VerifyOptions{}); !errors.As(err, &de) || de.Frame != 0 {
		t.Errorf("Verify = %v; want damage of frame 0", err)
	}
	dst := t.TempDir()
	if _, err := r.Extract(context.Background(), dst, ExtractOptions{Select: func(p string) bool { return p == "f2" }}); err != nil {
		t.Errorf("f2 does not lie in the damaged frame, but: %v", err)
	}
	if got, err := os.ReadFile(dst + "/f2"); err != nil || !bytes.Equal(got, noise[2<<22:3<<22-2000]) {
		t.Error("f2 is not what it was")
	}
	if _, err := r.Extract(context.Background(), t.TempDir(), ExtractOptions{}); !errors.As(err, &de) {
		t.Errorf("Extract of a damaged archive = %v", err)
	}
}

func TestSelect(t *testing.T) {
	src := difficult(t, false)
	name, _ := create(t, src, CreateOptions{})
	r := open(t, name)
	dst := t.TempDir()
	x, err := r.Extract(context.Background(), dst, ExtractOptions{Select: func(p string) bool { return p == "big" || strings.HasPrefix(p, "sticky/") || p == "sparse-end" }})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"big", "sparse-end", "sticky/up"} {
		if _, err := os.Lstat(dst + "/" + n); err != nil {
			t.Error(err)
		}
	}
	// sticky/hardlink2 is a link to a file that was not selected: it has the content.
	if x.Files != 3 || x.Members != 4 || len(x.Problems) != 0 {
		t.Errorf("summary %+v; want 3 files, no problem", x)
	}
	if got := content(t, dst+"/sticky/hardlink2"); got != "plain text\n" {
		t.Errorf("sticky/hardlink2 holds %q", got)
	}
	// Its directory has the mode that the archive says, and was not selected itself.
	if st, err := os.Stat(dst + "/sticky"); err != nil || st.Mode() != os.ModeDir|os.ModeSticky|0o777 || st.ModTime().Unix() != 1222222222 {
		t.Errorf("sticky: %v %v, %v", st.Mode(), st.ModTime(), err)
	}
}

// parsePax reads the records of a pax header's body.
func parsePax(b []byte) (map[string]string, error) {
	return readPax(int64(len(b)), func(n int64) ([]byte, error) {
		if n > int64(len(b)) {
			return nil, io.ErrUnexpectedEOF
		}
		out := b[:n]
		b = b[n:]
		return out, nil
	})
}
