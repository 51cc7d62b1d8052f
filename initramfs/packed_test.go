package initramfs

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// comfortTree packs a tree with bash and mke2fs for comfort, and writes what is left of it
// below root. It returns the archive.
func comfortTree(t *testing.T, root string) string {
	t.Helper()
	f := New()
	if _, err := f.Carry(t.Context(), tool.Exec{}, []Program{{Name: "dmsetup", Or: []string{"dmsetup", "cat"}}}); err != nil {
		t.Fatal(err)
	}
	had := f.Paths()
	c := f.BeginPacking()
	if _, err := f.Carry(t.Context(), tool.Exec{}, []Program{{Name: "bash"}, {Name: "mke2fs"}}); err != nil {
		t.Fatal(err)
	}
	// The linker names some libraries twice.
	c.needs["usr/sbin/mke2fs"] = slices.Concat(c.needs["usr/sbin/mke2fs"], c.needs["usr/sbin/mke2fs"])
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := f.stage(root); err != nil {
		t.Fatal(err)
	}
	whole := len(f.Paths())
	archive := filepath.Join(t.TempDir(), "comfort.img")
	w, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if n, err := c.TakeOut(w, Zstd); n != 2 || err != nil {
		t.Fatalf("TakeOut = %d, %v; want 2 programs", n, err)
	}
	left := f.Paths()
	for _, p := range had {
		if !slices.Contains(left, p) {
			t.Errorf("%s was there before, and is taken out", p)
		}
	}
	if len(left) >= whole {
		t.Errorf("%d paths with the comfort programs, %d without", whole, len(left))
	}
	for p := range f.entries {
		if strings.Contains(p, "libext2fs.so") {
			t.Errorf("%s is in the tree", p)
		}
	}
	for _, p := range []string{"usr/bin/bash", "usr/sbin/mke2fs", packedList} {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(p)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, p), f.entries[p].content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	libs, err := filepath.Glob(root + "/usr/lib/*/libext2fs.so*")
	if err != nil || len(libs) == 0 {
		t.Fatalf("the tree has no libext2fs: %v", err)
	}
	for _, l := range libs {
		if err := os.Remove(l); err != nil {
			t.Fatal(err)
		}
	}
	return archive
}

func TestComfort(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	archive := comfortTree(t, root)
	script := func() bool {
		b, err := os.ReadFile(root + "/usr/sbin/mke2fs")
		return err == nil && string(b) == packedScript
	}
	for name, archives := range map[string][]string{"no archive": {root + "/none"}, "a directory": {root}} {
		if err := Unpack(root, "/usr/sbin/mke2fs", archives...); err == nil || !script() {
			t.Errorf("Unpack with %s = %v; want an error, and the script as it was", name, err)
		}
	}
	if err := Unpack(root, "/usr/bin/true", archive); err == nil || !strings.Contains(err.Error(), "not one of the programs") {
		t.Errorf("Unpack(true) = %v; want that it is not one of them", err)
	}
	b, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut")
	if err := os.WriteFile(cut, b[:len(b)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(root, "/usr/sbin/mke2fs", cut); err == nil || !script() {
		t.Errorf("Unpack from a cut archive = %v; want an error, and the script as it was", err)
	}
	if err := Unpack(root, "/usr/sbin/mke2fs", root+"/none", archive); err != nil {
		t.Fatal(err)
	}
	// What is there is not unpacked again: programs use it.
	lib, err := filepath.Glob(root + "/usr/lib/*/libext2fs.so*")
	if err != nil || len(lib) == 0 {
		t.Fatalf("no libext2fs: %v", err)
	}
	before, err := os.Stat(lib[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := Unpack(root, "/usr/sbin/mke2fs", archive); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(lib[0]); err != nil || !os.SameFile(before, after) {
		t.Errorf("%s was replaced: %v", lib[0], err)
	}
	if left, err := filepath.Glob(root + "/usr/*/.packed-*"); err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
	if os.Geteuid() != 0 {
		t.Skip("chroot needs root; CI is root")
	}
	c := exec.Command("/usr/sbin/mke2fs", "-V")
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	c.Env = []string{}
	if out, err := c.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("mke2fs 1.")) {
		t.Errorf("mke2fs -V = %q, %v; want its version", out, err)
	}
}

// TestPacked: programs of two archives that share libraries, also with data that only one of two
// places has.
func TestPacked(t *testing.T) {
	f := New()
	data := filepath.Join("/usr/lib", "os-release")
	needed := f.BeginPacking()
	if _, err := f.Carry(t.Context(), tool.Exec{}, []Program{{Name: "mke2fs", Data: []string{"/usr/lib/none", data}}}); err != nil {
		t.Fatal(err)
	}
	comfort := f.BeginPacking()
	if _, err := f.Carry(t.Context(), tool.Exec{}, []Program{{Name: "e2label", Or: []string{"tune2fs"}}}); err != nil {
		t.Fatal(err)
	}
	root, dir := t.TempDir(), t.TempDir()
	archives := []string{filepath.Join(dir, "needed"), filepath.Join(dir, "comfort")}
	for i, c := range []*Packing{comfort, needed} {
		w, err := os.Create(archives[1-i])
		if err != nil {
			t.Fatal(err)
		}
		if n, err := c.TakeOut(w, Zstd); n != 1 || err != nil {
			t.Fatalf("TakeOut = %d, %v; want 1 program", n, err)
		}
		w.Close()
	}
	if err := f.stage(root); err != nil {
		t.Fatal(err)
	}
	for p, e := range f.entries {
		if strings.Contains(p, ".so") || p == "usr/lib/os-release" {
			t.Errorf("%s is in the tree", p)
		}
		if e.content != nil {
			if err := errors.Join(os.MkdirAll(filepath.Join(root, filepath.Dir(p)), 0o755), os.WriteFile(filepath.Join(root, p), e.content, 0o755)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := Unpack(root, "/usr/sbin/tune2fs", archives[1]); err == nil || !strings.Contains(err.Error(), "does not have") {
		t.Errorf("Unpack(tune2fs) without the archive of libraries = %v; want what is missing", err)
	}
	for _, p := range []string{"tune2fs", "mke2fs"} {
		if err := Unpack(root, "/usr/sbin/"+p, archives...); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(root + data); err != nil || len(b) == 0 {
		t.Errorf("the data of mke2fs: %d bytes, %v", len(b), err)
	}
	if os.Geteuid() != 0 {
		t.Skip("chroot needs root; CI is root")
	}
	for _, p := range []string{"tune2fs", "mke2fs"} {
		c := exec.Command("/usr/sbin/"+p, "-V")
		c.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		c.Env = []string{}
		if out, err := c.CombinedOutput(); !bytes.Contains(out, []byte(p+" 1.")) {
			t.Errorf("%s -V = %q, %v; want its version", p, out, err)
		}
	}
}

// TestComfortInTree: a system without a medium has the archive in its tree, packed once.
func TestComfortInTree(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "comfort.img")
	if err := os.WriteFile(archive, []byte("programs"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, how := range []Compression{Gzip, Zstd} {
		f := sample(t)
		if err := f.AddFile(ComfortInTree, archive); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := f.WriteTo(&b, how); err != nil {
			t.Fatal(err)
		}
		got, list := "", ""
		if err := Walk(&b, func(p string, c []byte) error {
			switch p {
			case ComfortInTree:
				got = string(c)
			case List:
				list = string(c)
			}
			return nil
		}); err != nil || got != "programs" || !strings.Contains(list, "8 "+ComfortInTree+"\n") {
			t.Errorf("compression %d: %s = %q, %v, in the list %q; want the archive", how, ComfortInTree, got, err, list)
		}
	}
	ps := sample(t).parts(Zstd)
	f := sample(t)
	if err := f.AddFile(ComfortInTree, archive); err != nil {
		t.Fatal(err)
	}
	if more := f.parts(Zstd); !slices.Contains(more[len(more)-1].paths, ComfortInTree) || len(more) != len(ps) {
		t.Error("the archive is not with what is compressed already")
	}
}
