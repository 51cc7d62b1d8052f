package archive

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/btrfs/btrfstest"
)

// lsattr is what lsattr(1) says of everything below a directory, by path.
func lsattr(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, args := range [][]string{{"-Rap", dir}, {"-dap", dir}} {
		for l := range strings.SplitSeq(btrfstest.Run(t, append([]string{"lsattr"}, args...)...), "\n") {
			f := strings.Fields(l)
			if len(f) != 3 || strings.HasSuffix(f[2], "/.") || strings.HasSuffix(f[2], "/..") {
				continue
			}
			p, err := filepath.Rel(dir, f[2])
			if err != nil {
				t.Fatal(err)
			}
			// Extents and indexes are the file system's own.
			if p != "lost+found" {
				out[p] = f[0] + " " + strings.NewReplacer("e", "-", "I", "-").Replace(f[1])
			}
		}
	}
	return out
}

// mounted makes a file system on a loop device and mounts it.
func mounted(t *testing.T, typ string) string {
	t.Helper()
	if typ == "btrfs" {
		return btrfstest.Mount(t, 1)
	}
	_, dir := btrfstest.MountOther(t, typ, 400<<20)
	return dir
}

// needsLocks skips the test where not even root makes files immutable: in some
// containers.
func needsLocks(t *testing.T, dir string) {
	t.Helper()
	f := filepath.Join(dir, "try")
	if err := os.WriteFile(f, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chattr", "+i", f).CombinedOutput(); err != nil && strings.Contains(string(out), "Operation not permitted") {
		t.Skip("CAP_LINUX_IMMUTABLE is missing here")
	}
	btrfstest.Run(t, "chattr", "-i", f)
	if err := os.Remove(f); err != nil {
		t.Fatal(err)
	}
}

// What chattr(1) sets is restored, on every file system; bsdtar reads it, and
// what bsdtar has written is read.
func TestFlags(t *testing.T) {
	for typ, flags := range map[string]string{"ext4": "aAcdDiPsStTu", "btrfs": "AacCdimS", "xfs": "aAdiPS"} {
		t.Run(typ, func(t *testing.T) {
			c := &flagged{src: mounted(t, typ), typ: typ, flags: flags}
			needsLocks(t, c.src)
			c.fill(t)
			c.was = lsattr(t, c.src)
			if len(c.was) < 5*len(flags) || strings.Count(c.was["file-i"], "i") != 1 || strings.Count(c.was["dir-a"], "a") != 1 {
				t.Fatalf("the source is not as it should be: %v", c.was)
			}
			c.name, _ = create(t, c.src, CreateOptions{})
			c.r = open(t, c.name)
			c.extract(t)
			c.lockLate(t)
			c.bsdtar(t)
		})
	}
}

// flagged is a file system with a file and a directory for each flag, and its
// archive.
type flagged struct {
	src, typ, flags string
	was             map[string]string // what lsattr says of it
	name            string            // of the archive
	r               *Reader
}

func (c *flagged) fill(t *testing.T) {
	t.Helper()
	for _, f := range c.flags {
		name := filepath.Join(c.src, "file-"+string(f))
		dir := filepath.Join(c.src, "dir-"+string(f))
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(dir+"/sub", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/old", []byte("from before"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(name, dir+"/link"); err != nil {
			t.Fatal(err)
		}
		if !strings.ContainsRune("DPT", f) {
			// Not compressed when empty, as btrfs wants it.
			btrfstest.Run(t, "chattr", "+"+string(f), name)
		}
		if f != 'm' || c.typ != "btrfs" {
			btrfstest.Run(t, "chattr", "+"+string(f), dir)
		}
		if f != 'i' { // with what it has from its directory
			if err := os.WriteFile(dir+"/new", bytes.Repeat([]byte("text "), 10000), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(dir+"/newdir", 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if c.typ == "xfs" {
		btrfstest.Run(t, "chattr", "-p", "4711", c.src+"/file-d")
		btrfstest.Run(t, "chattr", "-p", "1000000000", c.src+"/dir-d")
	}
}

// same compares a tree with what was, but for some flags.
func (c *flagged) same(t *testing.T, what, dir, but string) {
	t.Helper()
	is := lsattr(t, dir)
	drop := func(s string) string {
		return strings.Map(func(r rune) rune {
			if strings.ContainsRune(but, r) {
				return '-'
			}
			return r
		}, s)
	}
	for p, v := range c.was {
		if drop(is[p]) != drop(v) {
			t.Errorf("%s: %s has %s; it was %s", what, p, is[p], v)
		}
	}
	if len(is) != len(c.was) {
		t.Errorf("%s: %d paths; there were %d", what, len(is), len(c.was))
	}
}

func (c *flagged) extract(t *testing.T) {
	t.Helper()
	dst := mounted(t, c.typ)
	if s, err := c.r.Extract(context.Background(), dst, ExtractOptions{}); err != nil || len(s.Problems) > 0 || len(s.Locks) > 0 {
		t.Fatalf("%v %v", s, err)
	}
	c.same(t, "Extract", dst, "")
	back, err := OpenFS(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	diff := func() (out []string) {
		t.Helper()
		ds, err := c.r.Compare(context.Background(), back, CompareOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range ds {
			if !strings.HasPrefix(d.Path, "lost+found") {
				out = append(out, d.String())
			}
		}
		return out
	}
	if ds := diff(); len(ds) > 0 {
		t.Errorf("Compare after Extract: %q", ds)
	}
	btrfstest.Run(t, "chattr", "-i", dst+"/file-i")
	if ds := diff(); !slices.Equal(ds, []string{`file-i: flags are "", were "schg"`}) {
		t.Errorf("chattr -i is not seen: %q", ds)
	}
}

// A restore changes things after the extraction, and locks them then.
func (c *flagged) lockLate(t *testing.T) {
	t.Helper()
	late := mounted(t, c.typ)
	s, err := c.r.Extract(context.Background(), late, ExtractOptions{KeepUnlocked: true})
	if err != nil || len(s.Problems) > 0 || len(s.Locks) != 4 {
		t.Fatalf("%v %v", s, err)
	}
	c.same(t, "KeepUnlocked", late, "ia")
	if err := os.WriteFile(late+"/file-i", nil, 0o644); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(late+"/dir-i/more", nil, 0o644); err != nil {
		t.Error(err)
	}
	if err := os.Remove(late + "/dir-i/more"); err != nil {
		t.Error(err)
	}
	if p, err := SetLocksBelow(late, "", append(s.Locks, Lock{"not/there", flagImmutable})); err != nil || len(p) != 1 || p[0].Path != "not/there" {
		t.Errorf("SetLocks: %v %v", p, err)
	}
	c.same(t, "SetLocks", late, "")
	if p, err := TakeLocksBelow(late, "", s.Locks); err != nil || len(p) > 0 {
		t.Errorf("TakeLocks: %v %v", p, err)
	}
	if l := lsattr(t, late); strings.ContainsAny(l["file-i"]+l["dir-i"]+l["file-a"]+l["dir-a"], "ia") {
		t.Errorf("TakeLocks: %v", l)
	}
	if p, err := SetLocksBelow(late, "", s.Locks); err != nil || len(p) > 0 {
		t.Errorf("SetLocks again: %v %v", p, err)
	}
	c.same(t, "SetLocks again", late, "")
	if err := os.WriteFile(late+"/file-i", []byte("x"), 0o644); err == nil {
		t.Error("the immutable file can be written to")
	}
}

// bsdtar, with what it has names for.
func (c *flagged) bsdtar(t *testing.T) {
	t.Helper()
	other := mounted(t, c.typ)
	zstd := exec.Command("zstd", "-dc", c.name)
	tar := exec.Command("bsdtar", "-xpf", "-", "-C", other)
	var err error
	if tar.Stdin, err = zstd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := zstd.Start(); err != nil {
		t.Fatal(err)
	}
	if out, err := tar.CombinedOutput(); err != nil || zstd.Wait() != nil {
		t.Fatalf("bsdtar: %v %s", err, out)
	}
	// bsdtar sets those of directories first, so that what is in them inherits,
	// and those of files after the content, which is late for some of btrfs.
	is := lsattr(t, other)
	loose := strings.NewReplacer("m", "-", "C", "-")
	if c.typ == "btrfs" {
		loose = strings.NewReplacer("m", "-", "C", "-", "c", "-")
	}
	for _, f := range c.flags {
		for _, p := range []string{"file-", "dir-"} {
			_, got, _ := strings.Cut(is[p+string(f)], " ")
			if _, want, _ := strings.Cut(c.was[p+string(f)], " "); loose.Replace(got) != loose.Replace(want) {
				t.Errorf("bsdtar: %s%c has %s; it was %s", p, f, got, want)
			}
		}
	}
	stream, err := exec.Command("bsdtar", "--format=pax", "-C", c.src, "-cf", "-", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	third := mounted(t, c.typ)
	if s, err := ExtractTar(context.Background(), bytes.NewReader(stream), "bsdtar's", third, ExtractOptions{}); err != nil || len(s.Problems) > 0 {
		t.Errorf("%v %v", s, err)
	}
	if c.typ != "xfs" { // bsdtar knows no projects
		c.same(t, "from bsdtar", third, "m")
	}
}

// A file system that has not what was set: what only says how to keep a file is
// left, everything else is told.
func TestFlagsElsewhere(t *testing.T) {
	src := mounted(t, "btrfs")
	needsLocks(t, src)
	for _, f := range []string{"C", "c", "D", "i"} {
		if err := os.Mkdir(filepath.Join(src, f), 0o755); err != nil {
			t.Fatal(err)
		}
		btrfstest.Run(t, "chattr", "+"+f, filepath.Join(src, f))
	}
	name, _ := create(t, src, CreateOptions{})
	dst := mounted(t, "xfs")
	s, err := open(t, name).Extract(context.Background(), dst, ExtractOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range s.Problems {
		if !strings.Contains(p.Detail, "btrfs.compression") { // an attribute
			got = append(got, p.String())
		}
	}
	if len(got) != 1 || !strings.Contains(got[0], "D: metadata: cannot set flags dirsync: operation not supported") {
		t.Errorf("problems: %q", got)
	}
	if l := lsattr(t, dst); !strings.Contains(l["i"], "i") {
		t.Errorf("%v", l)
	}
}

func TestFlagNames(t *testing.T) {
	if got := (flagImmutable | flagNoCow | flagCasefold).String(); got != "schg,nocow,casefold" {
		t.Errorf("%q", got)
	}
	var all Flags
	for _, n := range flagNames {
		if parseFlags(n.name) != n.bit {
			t.Errorf("%s is %x", n.name, parseFlags(n.name))
		}
		all |= n.bit
	}
	if all != flagAll {
		t.Errorf("those with names are %x, all are %x", all, flagAll)
	}
	if got := parseFlags("uchg,nodump,,nothing"); got != 0x40 {
		t.Errorf("%x", got)
	}
	for _, s := range []string{"", "-1", "4294967296", "x"} {
		if _, err := parseProject(s); err == nil {
			t.Errorf("project %q is one", s)
		}
	}
}

// Where a hostile archive has put something else in a locked file's place,
// nothing gets its flags, and no device is opened.
func TestFlagsHostile(t *testing.T) {
	if !isRoot {
		t.Skip("device nodes need root; CI is root")
	}
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(dir+"/outside", nil, 0o644), os.Mkdir(dir+"/in", 0o755), os.Symlink("../outside", dir+"/in/link"), os.Symlink("..", dir+"/in/up"),
		unix.Mkfifo(dir+"/in/fifo", 0o600), unix.Mknod(dir+"/in/null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3)))); err != nil {
		t.Fatal(err)
	}
	var locks []Lock
	for _, p := range []string{"link", "up", "fifo", "null", "up/outside", "../outside"} {
		locks = append(locks, Lock{p, flagImmutable})
	}
	problems, err := SetLocksBelow(dir+"/in", "", locks)
	if err != nil || len(problems) != len(locks) {
		t.Errorf("%v %v", problems, err)
	}
	if l := btrfstest.Run(t, "lsattr", dir+"/outside"); strings.Contains(strings.Fields(l)[0], "i") {
		t.Errorf("%s", l)
	}
}

// TestFindLocksBelow: locked files are found in the directories that are asked for and on the
// way to them, without following links.
func TestFindLocksBelow(t *testing.T) {
	dest := t.TempDir()
	for _, d := range []string{"root/etc/sub", "root/var/log/own", "root/var/log/other", "root/srv", "outside"} {
		if err := os.MkdirAll(filepath.Join(dest, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"root/etc/fstab", "root/etc/sub/log", "root/etc/free", "root/var/log/other/file", "root/srv/file", "outside/file"} {
		if err := os.WriteFile(filepath.Join(dest, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../outside", filepath.Join(dest, "root/etc/link")); err != nil {
		t.Fatal(err)
	}
	all := []Lock{{"root/etc/fstab", flagImmutable}, {"root/etc/sub/log", flagAppend}, {"root/etc/sub", flagImmutable}, {"root/var/log", flagImmutable}, {"root", flagImmutable},
		{"root/var/log/other/file", flagImmutable}, {"root/srv/file", flagImmutable}, {"outside/file", flagImmutable}}
	t.Cleanup(func() {
		slices.Reverse(all)
		TakeLocksBelow(dest, "", all)
	})
	if p, err := SetLocksBelow(dest, "", all); err != nil || len(p) > 0 {
		t.Skipf("no locks here: %v %v", p, err)
	}
	got, err := FindLocksBelow(dest, "root", "etc", "var/log/own", "not/there")
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b Lock) int { return strings.Compare(a.Path, b.Path) })
	want := []Lock{{".", flagImmutable}, {"etc/fstab", flagImmutable}, {"etc/sub", flagImmutable}, {"etc/sub/log", flagAppend}, {"var/log", flagImmutable}}
	if !slices.Equal(got, want) {
		t.Errorf("%v; want %v", got, want)
	}
	if p, err := TakeLocksBelow(dest, "root", got); err != nil || len(p) > 0 {
		t.Errorf("%v %v", p, err)
	}
	if left, err := FindLocksBelow(dest, "root", "etc", "srv"); err != nil || len(left) != 1 || left[0].Path != "srv/file" {
		t.Errorf("%v, %v", left, err)
	}
}
