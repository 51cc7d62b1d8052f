package initramfs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/tool"
)

func sample(t *testing.T) *Files {
	t.Helper()
	f := New()
	src := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(src, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{f.AddFile("bbin/mkcdrec", src), f.AddLink("init", "bbin/mkcdrec"), f.AddContent("etc/hostname", []byte("rescue\n"), 0o644), f.AddFile("/bin/x", src)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// TestPack has cpio(1) unpack what we packed.
func TestPack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("cpio is not installed; make test installs it")
	}
	for name, c := range map[string]Compression{"zstd": Zstd, "gzip": Gzip} {
		var a, b bytes.Buffer
		if err := sample(t).WriteTo(&a, c); err != nil {
			t.Fatal(err)
		}
		if err := sample(t).WriteTo(&b, c); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a.Bytes(), b.Bytes()) {
			t.Errorf("%s: packing twice gives different bytes", name)
		}
		packed := bytes.Clone(a.Bytes())
		dir := t.TempDir()
		z := exec.Command(name, "-dc")
		z.Stdin = &a
		raw, err := z.Output()
		if err != nil {
			t.Fatal(err)
		}
		// One archive after the other, as the kernel reads them.
		x := exec.Command("sh", "-c", "cpio -idm --quiet --no-absolute-filenames && cpio -idm --quiet --no-absolute-filenames")
		x.Dir, x.Stdin = dir, bytes.NewReader(raw)
		if out, err := x.CombinedOutput(); err != nil && os.Geteuid() == 0 {
			t.Fatalf("cpio: %v: %s", err, out)
		}
		walked := map[string]string{}
		if err := Walk(bytes.NewReader(packed), func(p string, b []byte) error { walked[p] = string(b); return nil }); err != nil || walked["usr/bin/x"] != "program" || walked["etc/hostname"] != "rescue\n" {
			t.Errorf("%s: Walk = %q, %v", name, walked, err)
		}
		if got, err := os.ReadFile(dir + "/bin/x"); err != nil || string(got) != "program" {
			t.Errorf("%s: /bin/x = %q, %v", name, got, err)
		}
		if err := Whole(dir); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		order := string(raw)
		if !(strings.Index(order, "bbin/mkcdrec") < strings.Index(order, List) && strings.Index(order, List) < strings.Index(order, "etc/hostname") && strings.Index(order, "etc/hostname") < strings.Index(order, Marker)) {
			t.Errorf("%s: the order of files is not: program, list, the rest, marker", name)
		}
		// Every way of being cut off is noticed.
		for _, f := range []string{Marker, "etc/hostname", "usr/bin/x"} {
			bad := t.TempDir()
			if out, err := exec.Command("cp", "-a", dir+"/.", bad).CombinedOutput(); err != nil {
				t.Fatalf("cp: %s", out)
			}
			if err := os.Remove(filepath.Join(bad, f)); err != nil {
				t.Fatal(err)
			}
			if Whole(bad) == nil {
				t.Errorf("%s: a tree without %s counts as whole", name, f)
			}
		}
	}
}

func TestConflict(t *testing.T) {
	f := sample(t)
	if err := f.AddContent("etc/hostname", []byte("other\n"), 0o644); err == nil {
		t.Error("two different files at one path are accepted")
	}
	if err := f.AddContent("etc/hostname", []byte("rescue\n"), 0o644); err != nil {
		t.Errorf("the same file twice: %v", err)
	}
}

// TestCarry carries a real program and starts it in the packed tree; one
// whose library is taken away must be noticed.
func TestCarry(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("chroot needs root; CI is root")
	}
	progs := []Program{{Name: "mke2fs", Check: []string{"-V"}, For: "ext4"}, {Name: "mkfs.ext3", Check: []string{"-V"}, For: "ext4"}, {Name: "no-such-program-at-all", Optional: true}}
	f := New()
	got, err := f.Carry(context.Background(), tool.Exec{}, progs)
	if err != nil || len(got) != 2 {
		t.Fatalf("Carry = %v, %v; want mke2fs under two names", got, err)
	}
	if e := f.entries["usr/sbin/mkfs.ext3"]; e.link != "/usr/sbin/mke2fs" {
		t.Errorf("mkfs.ext3 is %+v, not a link to mke2fs", e)
	}
	if err := f.Try(context.Background(), tool.Exec{}, t.TempDir(), got); err != nil {
		t.Error(err)
	}
	for p := range f.entries {
		if strings.Contains(p, "libext2fs.so") {
			delete(f.entries, p)
		}
	}
	if err := f.Try(context.Background(), tool.Exec{}, t.TempDir(), got); err == nil || !strings.Contains(err.Error(), "mke2fs does not start") {
		t.Errorf("Try without a library = %v", err)
	}
	if _, err := New().Carry(context.Background(), tool.Exec{}, []Program{{Name: "no-such-a", For: "ext4"}, {Name: "no-such-b", For: "xfs"}}); err == nil || !strings.Contains(err.Error(), "no-such-a") || !strings.Contains(err.Error(), "no-such-b") {
		t.Errorf("Carry(missing) = %v; want both named", err)
	}
}

func FuzzWalk(f *testing.F) {
	f.Add([]byte("070701"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = walkCPIO(bufio.NewReader(bytes.NewReader(b)), func(string, []byte) error { return nil }) // must only not panic
	})
}

// A file packed beforehand is what it would have been, and only with zstd.
func TestPrepacked(t *testing.T) {
	src := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(src, bytes.Repeat([]byte("program "), 9999), 0o755); err != nil {
		t.Fatal(err)
	}
	packed, err := Prepack("bbin/mkcdrec", src)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []Compression{Gzip, Zstd} {
		got := map[string]int{}
		f := New()
		if err := errors.Join(f.AddFile("bbin/mkcdrec", src), f.AddContent("etc/x", []byte("x"), 0o644)); err != nil {
			t.Fatal(err)
		}
		f.SetPrepacked("bbin/mkcdrec", packed)
		var b bytes.Buffer
		if err := f.WriteTo(&b, c); err != nil {
			t.Fatal(err)
		}
		if has := bytes.Contains(b.Bytes(), packed); has != (c == Zstd) {
			t.Errorf("compression %d: packed part in it: %v", c, has)
		}
		if err := Walk(&b, func(p string, c []byte) error { got[p] = len(c); return nil }); err != nil {
			t.Fatal(err)
		}
		if got["bbin/mkcdrec"] != 9999*8 || got["etc/x"] != 1 || len(got) < 3 {
			t.Errorf("compression %d: %v", c, got)
		}
	}
}

// TestLimits: what the kernel, or the check of a tree, would misread is refused when
// it is collected.
func TestLimits(t *testing.T) {
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, 1<<32); err != nil {
		t.Fatal(err)
	}
	f := New()
	for _, err := range []error{f.AddFile("etc/big", big), f.AddContent("etc/a\nb", nil, 0o644), f.AddContent(strings.Repeat("a/", 2100), nil, 0o644), f.AddContent(Marker, nil, 0o644), f.AddLink("etc/l", strings.Repeat("x", 5000))} {
		if err == nil || !strings.Contains(err.Error(), "cannot add") {
			t.Errorf("%v; want a refusal", err)
		}
	}
	if f.Has("etc/big") || f.Has("etc/l") {
		t.Error("what was refused is in the tree")
	}
}
