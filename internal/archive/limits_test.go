package archive

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// deepVerify verifies an archive as mkcdrec verify does.
func deepVerify(t *testing.T, r *Reader) error {
	t.Helper()
	return r.Verify(context.Background(), VerifyOptions{Decode: true})
}

// TestBigAttributes has more attributes on one file than a pax header once could
// have, on XFS; what is beside it is restored, too.
func TestBigAttributes(t *testing.T) {
	dir := mounted(t, "xfs")
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	if err := errors.Join(os.Mkdir(src, 0o755), os.Mkdir(dst, 0o755)); err != nil {
		t.Fatal(err)
	}
	write(t, src+"/many", "hello")
	write(t, src+"/zfile", "important")
	for i := range 200 {
		v := make([]byte, 65536)
		_, _ = rand.Read(v)
		if err := unix.Setxattr(src+"/many", fmt.Sprintf("user.stream.%03d", i), v, 0); err != nil {
			t.Fatal(err)
		}
	}
	name, sum := create(t, src, CreateOptions{})
	if len(sum.Problems) > 0 {
		t.Errorf("problems: %v", sum.Problems)
	}
	r := open(t, name)
	if err := deepVerify(t, r); err != nil {
		t.Errorf("Verify: %v", err)
	}
	x, err := r.Extract(context.Background(), dst, ExtractOptions{})
	if err != nil || len(x.Problems) > 0 {
		t.Fatalf("Extract: %v %+v", err, x)
	}
	root, err := OpenFS(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if ds, err := r.Compare(context.Background(), root, CompareOptions{}); err != nil || len(ds) > 0 {
		t.Errorf("what was restored differs: %v %v", ds, err)
	}
}

// TestManyAttributeNames: what the kernel can't list is not covered, and ACLs are kept.
func TestManyAttributeNames(t *testing.T) {
	dir := mounted(t, "xfs")
	write(t, dir+"/f", "x")
	acl, err := aclBinary("user::rw-,user:7:r--,group::r--,mask::r--,other::---")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(dir+"/f", xattrACLAccess, acl, 0); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		if err := unix.Setxattr(dir+"/f", fmt.Sprintf("user.%03d%s", i, strings.Repeat("n", 240)), []byte("v"), 0); err != nil {
			t.Fatal(err)
		}
	}
	var acls []string
	_, sum := create(t, dir, CreateOptions{OnMember: func(m *Member) {
		if m.Path == "f" {
			acls = append(acls, m.ACLAccess)
		}
	}})
	if n := sum.NotCovered(); len(n) != 1 || n[0].Path != "f" {
		t.Errorf("problems: %v", sum.Problems)
	}
	if len(acls) != 1 || !strings.Contains(acls[0], "user:7:r--") {
		t.Errorf("ACL %q", acls)
	}
}

// TestAttributeGrows: an attribute that changes its size between two calls is read again.
func TestAttributeGrows(t *testing.T) {
	buf := make([]byte, 4)
	size := 100
	got, err := grow(&buf, func(b []byte) (int, error) {
		if len(b) < size {
			size = min(3*size, 5000)
			return 0, unix.ERANGE
		}
		return size, nil
	})
	if err != nil || len(got) != 5000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := grow(&buf, func([]byte) (int, error) { return 0, unix.E2BIG }); err != unix.E2BIG {
		t.Errorf("%v; want E2BIG", err)
	}
}

// deep makes a tree of levels directories, each in the one before, and gives the
// path of the deepest. No call takes such a path.
func deep(t *testing.T, dir, name string, levels int) string {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range levels {
		if err := unix.Mkdirat(fd, name, 0o755); err != nil {
			t.Fatal(err)
		}
		n, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = n
	}
	f, err := unix.Openat(fd, "bottom", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o640)
	if err == nil {
		_, err = unix.Write(f, []byte("deep"))
		err = errors.Join(err, unix.Linkat(fd, "bottom", fd, "link", 0), unix.Close(f), unix.Close(fd))
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.Repeat(name+"/", levels)
}

// TestDeepTree: a tree of bad names, whose lines in the table of contents are over
// 1 MiB and whose paths are over PATH_MAX, is saved, verified, restored, compared.
func TestDeepTree(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: not with -short")
	}
	src, dst := t.TempDir(), t.TempDir()
	bottom := deep(t, src, strings.Repeat("\xfe", 255), 1040)
	write(t, src+"/other", "x")
	name, sum := create(t, src, CreateOptions{})
	if len(sum.Problems) > 0 {
		t.Errorf("problems: %.300v", sum.Problems)
	}
	r := open(t, name)
	if err := deepVerify(t, r); err != nil {
		t.Errorf("Verify: %.300v", err)
	}
	if x, err := r.Extract(context.Background(), dst, ExtractOptions{NoOwner: !isRoot}); err != nil || len(x.Problems) > 0 || x.Members != 1044 {
		t.Fatalf("Extract: %.300v %.300v", err, x)
	}
	root, err := os.Open(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if ds, err := r.Compare(context.Background(), root, CompareOptions{NoOwner: !isRoot}); err != nil || len(ds) > 0 {
		t.Errorf("what was restored differs: %.300v %.300v", ds, err)
	}
	part := t.TempDir()
	if x, err := r.Extract(context.Background(), part, ExtractOptions{NoOwner: !isRoot, Select: func(p string) bool { return p == bottom+"link" }}); err != nil || x.Members < 1 {
		t.Errorf("Extract of one file: %.300v %.300v", err, x)
	}
}

// TestTooDeep: what is deeper than an archive can say is not covered, the rest is saved.
func TestTooDeep(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: not with -short")
	}
	src := t.TempDir()
	deep(t, src, strings.Repeat("d", 255), maxPath/256+5)
	write(t, src+"/other", "x")
	root, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	sum, err := Walk(context.Background(), root, CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := sum.NotCovered(); len(n) != 1 || len(n[0].Path) > 300 || sum.Members != 2+maxPath/256 {
		t.Errorf("%d members, problems %.300v", sum.Members, sum.Problems)
	}
	// The longest line that a writer makes is one that a reader takes.
	long := strings.Repeat("\x01", maxPath)
	r := craft(t, &Member{Path: long, Type: TypeFile, Mode: 0o644}, &Member{Path: "z", Type: TypeHardlink, Link: long})
	if err := r.Entries(func(Entry) error { return nil }); err != nil {
		t.Errorf("%.300v", err)
	}
}

// TestLargeSparseMap: a map of over 64 MiB is read.
func TestLargeSparseMap(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: not with -short")
	}
	const n = 3_600_000
	m := &Member{Path: "f", Type: TypeFile, IsSparse: true, Size: n << 33, Mode: 0o644}
	segs := make([]Segment, n)
	for i := range segs {
		segs[i] = Segment{int64(i) << 33, 1}
	}
	size := sparseMapSize(segs, m.Size)
	if size < 65<<20 {
		t.Fatalf("the map has only %d bytes", size)
	}
	r := craftRaw(t, func(fw *frameWriter, toc *tocWriter) error {
		return errors.Join(toc.add(m, fw.tar), writeHeader(fw, m, size+n), writeSparseMap(fw, segs, m.Size), fw.zero(n), fw.zero(padding(n)))
	})
	if err := deepVerify(t, r); err != nil {
		t.Error(err)
	}
}

// craftRaw makes an archive of what fn writes.
func craftRaw(t testing.TB, fn func(fw *frameWriter, toc *tocWriter) error) *Reader {
	t.Helper()
	var buf bytes.Buffer
	fw, err := newFrameWriter(context.Background(), &buf, Fastest, 1)
	if err != nil {
		t.Fatal(err)
	}
	toc, err := newTOCWriter()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fn(fw, toc), fw.finish(toc, nil)); err != nil {
		t.Fatal(err)
	}
	r, err := Open(bytes.NewReader(buf.Bytes()), int64(buf.Len()), "raw")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestBadMembers: members that can't be read are listed, and all others extracted.
func TestBadMembers(t *testing.T) {
	bad := map[string]func(fw *frameWriter, m *Member) error{
		"checksum": func(fw *frameWriter, m *Member) error {
			b := appendHeader(nil, m, 0)
			b[0] ^= 1
			_, err := fw.Write(b)
			return err
		},
		"other name": func(fw *frameWriter, m *Member) error {
			return writeHeader(fw, &Member{Path: "something", Type: TypeFile}, 0)
		},
		"longer than it is": func(fw *frameWriter, m *Member) error {
			return errors.Join(writeHeader(fw, m, 5000), fw.zero(512))
		},
		"sparse map": func(fw *frameWriter, m *Member) error {
			m.IsSparse, m.Size = true, 4096
			_, err := fw.Write(append(appendHeader(nil, m, 512), make([]byte, 512)...))
			return err
		},
		"pax": func(fw *frameWriter, m *Member) error {
			var h [blockSize]byte
			copy(h[:], "PaxHeaders/x")
			putNumber(h[124:136], 700, "", nil)
			h[156] = 'x'
			copy(h[257:], "ustar\x0000")
			checksum(h[:])
			_, err := fw.Write(append(h[:], []byte(strings.Repeat("9", 1024))...))
			return errors.Join(err, writeHeader(fw, m, 0))
		},
	}
	for what, fn := range bad {
		t.Run(what, func(t *testing.T) {
			r := craftRaw(t, func(fw *frameWriter, toc *tocWriter) error {
				var errs []error
				for _, n := range []string{"a", "b", "c"} {
					m := &Member{Path: n, Type: TypeFile, Mode: 0o644}
					if n == "b" {
						start := fw.tar
						errs = append(errs, fn(fw, m), toc.add(m, start))
						continue
					}
					m.Size = 4
					errs = append(errs, toc.add(m, fw.tar), writeHeader(fw, m, 4))
					_, err := fw.Write([]byte("good"))
					errs = append(errs, err, fw.zero(padding(4)))
				}
				return errors.Join(errs...)
			})
			dst := t.TempDir()
			x, err := r.Extract(context.Background(), dst, ExtractOptions{NoOwner: true})
			if err != nil {
				t.Fatal(err)
			}
			if len(x.Problems) != 1 || x.Problems[0].Path != "b" || x.Problems[0].Kind != Lost {
				t.Errorf("problems %v; want b lost", x.Problems)
			}
			for _, n := range []string{"a", "c"} {
				if got := content(t, dst+"/"+n); got != "good" {
					t.Errorf("%s holds %q", n, got)
				}
			}
			if err := deepVerify(t, r); err == nil || strings.Count(err.Error(), "cannot read raw") != 1 || !strings.Contains(err.Error(), "raw: b: ") {
				t.Errorf("Verify = %v; want the fault of b, and no other", err)
			}
		})
	}
}

// TestVerifyDamagedFrames: every damaged frame is reported, as Extract with Salvage finds it.
func TestVerifyDamagedFrames(t *testing.T) {
	src := t.TempDir()
	noise := make([]byte, 3<<22)
	_, _ = rand.Read(noise)
	for i := range 3 {
		write(t, fmt.Sprintf("%s/f%d", src, i), string(noise[i<<22:(i+1)<<22-2000]))
	}
	name, _ := create(t, src, CreateOptions{})
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	r := open(t, name)
	for _, i := range []int{0, 2} {
		b[r.frames[i].Offset+1000] ^= 1
	}
	if r, err = Open(bytes.NewReader(b), int64(len(b)), "x"); err != nil {
		t.Fatal(err)
	}
	if err := deepVerify(t, r); err == nil || !strings.Contains(err.Error(), "frame 0 ") || !strings.Contains(err.Error(), "frame 2 ") || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("Verify = %v; want frames 0 and 2", err)
	}
}

// TestVerifyLink: verify finds what extraction would: a link without its file.
func TestVerifyLink(t *testing.T) {
	r := craft(t, &Member{Path: "a", Type: TypeHardlink, Link: "nothing"})
	if err := deepVerify(t, r); err == nil || !strings.Contains(err.Error(), "hard link to nothing") {
		t.Errorf("Verify = %v", err)
	}
}

// TestHostileIndex: what claims to be large costs no memory.
func TestHostileIndex(t *testing.T) {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	good := craft(t, &Member{Path: "a", Type: TypeFile})
	line := fmt.Sprintf("f 0 %d %d %x\n", good.frames[0].Packed, good.frames[0].Size, good.frames[0].SHA256)
	n := 0
	_, err = parseTOCFrames(z.EncodeAll([]byte(tocVersion+"\n"+strings.Repeat(line, 100_000)), nil), 1, func(Entry) error { n++; return nil })
	if err == nil || !strings.Contains(err.Error(), "line 3: more than the 1 frames") {
		t.Errorf("parseTOC of too many frames = %v", err)
	}
	if _, err := parseTOCText(z.EncodeAll([]byte(tocVersion+"\nf 0 4294967295 4194304 "+strings.Repeat("00", 32)+"\n"), nil), nil); err == nil || !strings.Contains(err.Error(), "line 2: frame") {
		t.Errorf("a packed frame of 4 GiB = %v", err)
	}
}
