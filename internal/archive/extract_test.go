package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestUserNamespace extracts where nobody but root can own a file, and no device
// be made: everything else is there, and what is not is listed.
func TestUserNamespace(t *testing.T) {
	const key = "MKCDREC_TEST_NAMESPACE"
	if dir := os.Getenv(key); dir != "" {
		r, err := OpenFile(dir + "/a.tar.zst")
		if err != nil {
			t.Fatal(err)
		}
		sum, err := r.Extract(context.Background(), dir+"/dst", ExtractOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range sum.Incomplete() {
			fmt.Printf("LISTED %s: %s: %s\n", p.Path, p.Kind, p.Detail)
		}
		return
	}
	if !isRoot {
		t.Skip("making files of other owners needs root")
	}
	src, dir := t.TempDir(), t.TempDir()
	if err := errors.Join(os.Mkdir(src+"/dir", 0o751), os.Mkdir(dir+"/dst", 0o755), unix.Mknod(src+"/dev", unix.S_IFCHR|0o600, 0x103), os.Symlink("x", src+"/link")); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"dir/file", "setuid", "mine"} {
		write(t, src+"/"+n, n)
	}
	old := time.Unix(1234567890, 0)
	if err := errors.Join(os.Chown(src+"/dir", 1234, 1235), os.Chown(src+"/dir/file", 1234, 1235), os.Lchown(src+"/link", 1234, 0), os.Chown(src+"/setuid", 1234, 0), unix.Chmod(src+"/setuid", 0o4755), os.Chtimes(src+"/dir", old, old)); err != nil {
		t.Fatal(err)
	}
	name, _ := create(t, src, CreateOptions{})
	if err := os.Rename(name, dir+"/a.tar.zst"); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/proc/self/exe", "-test.run=^TestUserNamespace$")
	c.Env = append(os.Environ(), key+"="+dir)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}, GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}}
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Skipf("no user namespaces here: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"dir: metadata: cannot set owner 1234:1235", "dir/file: metadata: cannot set owner", "link: metadata: cannot set owner", "setuid: metadata: cannot set owner", "dev: failed: cannot make it"} {
		if !strings.Contains(string(out), "LISTED "+want) {
			t.Errorf("%q is not listed:\n%s", want, out)
		}
	}
	for n, mode := range map[string]os.FileMode{"dir": os.ModeDir | 0o751, "dir/file": 0o644, "mine": 0o644, "setuid": 0o755} {
		if st, err := os.Lstat(dir + "/dst/" + n); err != nil || st.Mode() != mode {
			t.Errorf("%s: %v %v; want %v", n, st.Mode(), err, mode)
		}
	}
	if st, err := os.Stat(dir + "/dst/dir"); err != nil || !st.ModTime().Equal(old) {
		t.Errorf("the directory's time is %v, %v", st.ModTime(), err)
	}
}

// linkedTree makes a tree of a file with several names.
func linkedTree(t *testing.T) string {
	t.Helper()
	src := t.TempDir()
	write(t, src+"/a", "content")
	if err := errors.Join(unix.Setxattr(src+"/a", "user.x", []byte("y"), 0), os.Chmod(src+"/a", 0o640), os.Mkdir(src+"/d", 0o755)); err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		if err := os.Link(src+"/a", fmt.Sprintf("%s/d/%d", src, i)); err != nil {
			t.Fatal(err)
		}
	}
	return src
}

func ino(t *testing.T, name string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		t.Error(err)
	}
	return st.Ino
}

// TestTooManyLinks: where a file can't have as many names, the next one is a copy,
// and the rest are names of that.
func TestTooManyLinks(t *testing.T) {
	name, _ := create(t, linkedTree(t), CreateOptions{})
	dst := t.TempDir()
	names := map[string]int{}
	sum, err := open(t, name).Extract(context.Background(), dst, ExtractOptions{NoOwner: !isRoot, link: func(od int, o string, nd int, n string) error {
		if names[o]++; names[o] > 2 {
			return unix.EMLINK
		}
		return unix.Linkat(od, o, nd, n, 0)
	}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		n := fmt.Sprintf("%s/d/%d", dst, i)
		st, err := os.Stat(n)
		v := make([]byte, 8)
		k, _ := unix.Getxattr(n, "user.x", v)
		if err != nil || content(t, n) != "content" || st.Mode() != 0o640 || string(v[:max(k, 0)]) != "y" {
			t.Errorf("%s is not what it was: %v %v %q", n, st, err, v)
		}
	}
	if p := sum.Incomplete(); len(p) != 2 || p[0].Path != "d/2" || p[0].Kind != Metadata || p[1].Path != "d/5" {
		t.Errorf("problems %v; want d/2 and d/5", sum.Problems)
	}
	if ino(t, dst+"/d/0") != ino(t, dst+"/a") || ino(t, dst+"/d/2") == ino(t, dst+"/a") || ino(t, dst+"/d/3") != ino(t, dst+"/d/2") {
		t.Error("the links are not what they should be")
	}
}

// TestLinkOfOther: what is linked to a file that is not wanted gets its content, once.
func TestLinkOfOther(t *testing.T) {
	name, _ := create(t, linkedTree(t), CreateOptions{})
	for _, inOrder := range []bool{false, true} {
		r := open(t, name)
		if inOrder {
			r.InOrder()
		}
		dst := t.TempDir()
		sum, err := r.Extract(context.Background(), dst, ExtractOptions{NoOwner: !isRoot, Select: func(p string) bool { return p == "d/3" || p == "d/5" }})
		if err != nil || sum.Members != 2 || len(sum.Problems) > 0 {
			t.Fatalf("%+v, %v", sum, err)
		}
		if content(t, dst+"/d/3") != "content" || ino(t, dst+"/d/3") != ino(t, dst+"/d/5") {
			t.Error("d/3 and d/5 are not one file with the content")
		}
		if _, err := os.Stat(dst + "/a"); err == nil {
			t.Error("a was not asked for")
		}
	}
}

// TestLinkWithoutFile: a link to a file that is not there costs itself.
func TestLinkWithoutFile(t *testing.T) {
	r := craft(t, &Member{Path: "a", Type: TypeHardlink, Link: "nothing"}, &Member{Path: "b", Type: TypeFile, Mode: 0o644}, &Member{Path: "d", Type: TypeDir, Mode: 0o750})
	dst := t.TempDir()
	write(t, dst+"/nothing", "a file that is not of the archive")
	sum, err := r.Extract(context.Background(), dst, ExtractOptions{NoOwner: true})
	if err != nil {
		t.Fatal(err)
	}
	if p := sum.Incomplete(); len(p) != 1 || p[0].Path != "a" || p[0].Kind != Failed {
		t.Errorf("problems %v; want a failed", sum.Problems)
	}
	if _, err := os.Stat(dst + "/a"); err == nil {
		t.Error("a is a link to a file of someone else")
	}
	if st, err := os.Stat(dst + "/d"); err != nil || content(t, dst+"/b") != "evil" || st.Mode().Perm() != 0o750 {
		t.Errorf("the others are not there: %v", err)
	}
}

// TestInTheWay: a member that can't be made costs itself.
func TestInTheWay(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	for _, n := range []string{"a", "b", "c"} {
		write(t, src+"/"+n, n)
	}
	if err := errors.Join(os.MkdirAll(dst+"/b/full", 0o755), os.Link(src+"/b", src+"/d")); err != nil {
		t.Fatal(err)
	}
	name, _ := create(t, src, CreateOptions{})
	sum, err := open(t, name).Extract(context.Background(), dst, ExtractOptions{NoOwner: !isRoot})
	if err != nil {
		t.Fatal(err)
	}
	var failed []string
	for _, p := range sum.Incomplete() {
		failed = append(failed, p.Path+" "+string(p.Kind))
	}
	slices.Sort(failed)
	if fmt.Sprint(failed) != "[b failed d failed]" || content(t, dst+"/a")+content(t, dst+"/c") != "ac" {
		t.Errorf("failed: %v", failed)
	}
}

// TestFull: a full device is an error.
func TestFull(t *testing.T) {
	if !isRoot {
		t.Skip("mounting needs root")
	}
	src, dst := t.TempDir(), t.TempDir()
	write(t, src+"/f", strings.Repeat("0123456789", 200_000))
	mount(t, "-t", "tmpfs", "-o", "size=1m", "none", dst)
	name, _ := create(t, src, CreateOptions{})
	if _, err := open(t, name).Extract(context.Background(), dst, ExtractOptions{}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Extract on a full device = %v", err)
	}
}

// TestInheritsNothing: group, ACL and flags of the destination are not those of what
// is extracted, and the destination stays as it is.
func TestInheritsNothing(t *testing.T) {
	if !isRoot {
		t.Skip("changing groups needs root")
	}
	dir := mounted(t, "ext4")
	src, dst := dir+"/src", dir+"/dst"
	if err := errors.Join(os.MkdirAll(src+"/d/e", 0o755), os.Mkdir(dst, 0o755), os.Chmod(src, 0o711), unix.Mkfifo(src+"/fifo", 0o644)); err != nil {
		t.Fatal(err)
	}
	write(t, src+"/f", "x")
	write(t, src+"/d/e/g", "x")
	acl, err := aclBinary("user::rwx,user:77:rwx,group::rwx,mask::rwx,other::---")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chown(dst, 0, 4321), unix.Chmod(dst, 0o2775), unix.Setxattr(dst, xattrACLDefault, acl, 0)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chattr", "+dA", dst).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	name, _ := create(t, src, CreateOptions{})
	r := open(t, name)
	for _, noOwner := range []bool{false, true} {
		if _, err := r.Extract(context.Background(), dst, ExtractOptions{KeepRoot: true, NoOwner: noOwner}); err != nil {
			t.Fatal(err)
		}
		root, err := OpenFS(dst)
		if err != nil {
			t.Fatal(err)
		}
		ds, err := r.Compare(context.Background(), root, CompareOptions{})
		root.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range ds {
			if d.Path != "." {
				t.Errorf("NoOwner %v: %v", noOwner, d)
			}
		}
		st, err := os.Stat(dst)
		if err != nil || st.Mode() != os.ModeDir|os.ModeSetgid|0o775 || st.Sys().(*syscall.Stat_t).Gid != 4321 {
			t.Errorf("the destination itself was changed: %v %v", st.Mode(), err)
		}
		for _, n := range []string{"f", "d", "fifo"} {
			if err := os.RemoveAll(dst + "/" + n); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestNodeReplaced: the mode of a node is not set on what has taken its place.
func TestNodeReplaced(t *testing.T) {
	base := t.TempDir()
	secret, dst := base+"/secret", base+"/dst"
	write(t, secret, "x")
	if err := errors.Join(os.Chmod(secret, 0o600), os.Mkdir(dst, 0o755)); err != nil {
		t.Fatal(err)
	}
	r := craft(t, &Member{Path: "fifo", Type: TypeFifo, Mode: 0o666})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				l := fmt.Sprintf("%s/l%d", base, i%2)
				if os.Symlink(secret, l) == nil {
					os.Rename(l, dst+"/fifo")
				}
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		_, _ = r.Extract(context.Background(), dst, ExtractOptions{NoOwner: true})
		if st, err := os.Stat(secret); err != nil || st.Mode() != 0o600 {
			t.Fatalf("a file outside has mode %v now (%v)", st.Mode(), err)
		}
	}
}

// TestBelow: the way to the root goes through no link, also for locks.
func TestBelow(t *testing.T) {
	base := t.TempDir()
	outside, dst := base+"/outside", base+"/dst"
	if err := errors.Join(os.Mkdir(outside, 0o755), os.Mkdir(dst, 0o755), os.Symlink(outside, dst+"/home")); err != nil {
		t.Fatal(err)
	}
	write(t, outside+"/b", "x")
	r := craft(t, &Member{Path: ".", Type: TypeDir, Mode: 0o700}, &Member{Path: "b", Type: TypeFile, Mode: 0o644})
	if _, err := r.Extract(context.Background(), dst, ExtractOptions{NoOwner: true, Below: "/home"}); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("Extract below a link = %v", err)
	}
	if _, err := SetLocksBelow(dst, "/home", []Lock{{"b", flagImmutable}}); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("SetLocksBelow a link = %v", err)
	}
	if _, err := OpenBelow(dst, "../outside", false); err == nil {
		t.Error("OpenBelow leaves the destination")
	}
	if _, err := OpenBelow(dst, "x/y", false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("OpenBelow of nothing = %v", err)
	}
	if sum, err := r.Extract(context.Background(), dst, ExtractOptions{NoOwner: true, Below: "x/[y]", Select: func(p string) bool { return p == "b" }}); err != nil || sum.Members != 1 {
		t.Errorf("%v %v", sum, err)
	}
	if st, err := os.Stat(filepath.Join(dst, "x/[y]")); err != nil || st.Mode().Perm() != 0o700 || content(t, dst+"/x/[y]/b") != "evil" {
		t.Errorf("the root: %v %v", st.Mode(), err)
	}
}

// TestPartOfDamaged: a damaged frame costs what is in it, not the file that is asked
// for because the directory above is in it.
func TestPartOfDamaged(t *testing.T) {
	src := t.TempDir()
	if err := os.Mkdir(src+"/d", 0o711); err != nil {
		t.Fatal(err)
	}
	write(t, src+"/d/a", strings.Repeat("a", 5<<20))
	write(t, src+"/d/b", strings.Repeat("b", 5<<20))
	name, _ := create(t, src, CreateOptions{})
	r := open(t, name)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("damage"), r.frames[0].Offset+100); err != nil {
		t.Fatal(err)
	}
	dst := t.TempDir()
	sum, err := r.Extract(context.Background(), dst, ExtractOptions{NoOwner: !isRoot, Select: func(p string) bool { return p == "d/b" }})
	if err != nil || len(sum.Incomplete()) != 1 || len(content(t, dst+"/d/b")) != 5<<20 {
		t.Errorf("%v %v", sum, err)
	}
	if st, err := os.Stat(dst + "/d"); err != nil || st.Mode().Perm() != 0o711 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	var d *DamagedError
	if _, err := r.Extract(context.Background(), t.TempDir(), ExtractOptions{NoOwner: true, Select: func(p string) bool { return p == "d/a" }}); !errors.As(err, &d) {
		t.Errorf("Extract of what is damaged = %v", err)
	}
}

// TestManyLinks makes links before all is extracted, so that they take no memory, and
// sets large attributes of directories at once.
func TestManyLinks(t *testing.T) {
	dst := mounted(t, "xfs")
	value := strings.Repeat("v", maxDirAttrs)
	const n = maxPending + 100
	r := craftRaw(t, func(fw *frameWriter, toc *tocWriter) error {
		d := &Member{Path: "d", Type: TypeDir, Mode: 0o500, Xattrs: []Xattr{{"user.a", value}, {"user.b", value}}}
		ms := []*Member{d, {Path: "d/0", Type: TypeFile, Mode: 0o600}}
		for i := range n {
			ms = append(ms, &Member{Path: fmt.Sprintf("d/l%d", i), Type: TypeHardlink, Link: "d/0"})
		}
		for _, m := range ms {
			if err := errors.Join(toc.add(m, fw.tar), writeHeader(fw, m, 0)); err != nil {
				return err
			}
		}
		return nil
	})
	links := 0
	sum, err := r.Extract(context.Background(), dst, ExtractOptions{NoOwner: true, link: func(_ int, o string, _ int, _ string) error {
		links++
		if _, err := os.Stat(dst + "/d/" + o); err != nil {
			t.Error(err)
		}
		return nil
	}})
	if err != nil || sum.Members != n+2 || links != n || len(sum.Problems) > 0 {
		t.Errorf("%d members, %d links, %v, %v", sum.Members, links, sum.Problems, err)
	}
	for _, a := range []string{"user.a", "user.b"} {
		if k, err := unix.Getxattr(dst+"/d", a, nil); err != nil || k != len(value) {
			t.Errorf("%s has %d bytes, %v", a, k, err)
		}
	}
	if st, err := os.Stat(dst + "/d"); err != nil || st.Mode().Perm() != 0o500 {
		t.Errorf("%v %v", st.Mode(), err)
	}
}
