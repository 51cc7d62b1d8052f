package archive

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestCopy: what is copied is what an archive would have restored.
func TestCopy(t *testing.T) {
	dir, _ := compareTree(t)
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	dest := t.TempDir()
	sum, err := Copy(context.Background(), root, dest, CreateOptions{}, ExtractOptions{NoOwner: os.Geteuid() != 0})
	if err != nil || len(sum.Problems) > 0 {
		t.Fatal(sum, err)
	}
	var b bytes.Buffer
	if _, err := Create(context.Background(), &b, root, CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r, err := Open(bytes.NewReader(b.Bytes()), int64(b.Len()), "test")
	if err != nil {
		t.Fatal(err)
	}
	to, err := os.Open(dest)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	ds, err := r.Compare(context.Background(), to, CompareOptions{NoOwner: os.Geteuid() != 0})
	if err != nil || len(ds) > 0 {
		t.Fatal(ds, err)
	}
	var is, was syscall.Stat_t
	if err := errors.Join(syscall.Stat(filepath.Join(dest, "a/sparse"), &is), syscall.Stat(filepath.Join(dir, "a/sparse"), &was)); err != nil || is.Blocks > was.Blocks+64 {
		t.Errorf("the sparse file takes %d blocks, %d before; %v", is.Blocks, was.Blocks, err)
	}
}

// TestCopyFails: a target that can't be written to and a source that goes away end it
// with their cause, and a file that can't be read is named.
func TestCopyFails(t *testing.T) {
	dir, _ := compareTree(t)
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if os.Geteuid() == 0 {
		full := t.TempDir()
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "none", full).CombinedOutput(); err != nil {
			t.Skipf("cannot mount a tmpfs: %s", out)
		}
		defer exec.Command("umount", full).Run()
		if _, err := Copy(context.Background(), root, full, CreateOptions{}, ExtractOptions{}); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "cannot write a/") {
			t.Errorf("a full target: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Copy(ctx, root, t.TempDir(), CreateOptions{}, ExtractOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	bad := CreateOptions{pread: func(fd int, b []byte, off int64) (int, error) { return 0, syscall.EIO }}
	sum, err := Copy(context.Background(), root, t.TempDir(), bad, ExtractOptions{NoOwner: os.Geteuid() != 0})
	if err != nil || len(sum.NotCovered()) == 0 {
		t.Errorf("an unreadable source: %v, %v", sum, err)
	}
}

// TestCompareCopy: a copy is equal to what it was made of, and each way in which it is not
// is named.
func TestCompareCopy(t *testing.T) {
	dir, _ := compareTree(t)
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	dest := t.TempDir()
	noOwner := os.Geteuid() != 0
	if _, err := Copy(context.Background(), root, dest, CreateOptions{}, ExtractOptions{NoOwner: noOwner}); err != nil {
		t.Fatal(err)
	}
	to, err := os.Open(dest)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	same := func() []Difference {
		t.Helper()
		ds, err := CompareCopy(context.Background(), root, to, CreateOptions{}, CompareOptions{NoOwner: noOwner})
		if err != nil {
			t.Fatal(err)
		}
		return ds
	}
	if ds := same(); len(ds) > 0 {
		t.Fatal(ds)
	}
	f := filepath.Join(dest, "a/sparse")
	b, err := os.ReadFile(f)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(f)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	more := filepath.Join(dest, "more")
	if err := errors.Join(os.WriteFile(f, b, 0o644), os.Chtimes(f, st.ModTime(), st.ModTime()), os.WriteFile(more, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, d := range same() {
		named[d.String()] = true
	}
	if !named["more: is not on the source"] {
		t.Errorf("a file more: %v", named)
	}
	found := false
	for d := range named {
		found = found || strings.HasPrefix(d, "a/sparse: differs ")
	}
	if !found {
		t.Errorf("a byte that differs: %v", named)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := CompareCopy(ctx, root, to, CreateOptions{}, CompareOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}
