package archive

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// compareTree makes a tree, its archive, and gives a function that compares.
func compareTree(t *testing.T) (dir string, compare func() string) {
	t.Helper()
	dir = t.TempDir()
	script := `cd "$1"; mkdir -p a/b empty; head -c 4999999 /dev/urandom > a/large; printf O >> a/large; printf hello > a/small; : > a/b/nothing
ln a/small a/zhard; ln -s small a/soft; mkfifo a/fifo; truncate -s 3000000 a/sparse; printf data | dd of=a/sparse bs=1 seek=1500000 conv=notrunc 2>/dev/null
setfattr -n user.x -v y a/small 2>/dev/null || true`
	if out, err := exec.Command("sh", "-ec", script, "sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	open := func() *os.File {
		t.Helper()
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	var b bytes.Buffer
	root := open()
	if _, err := Create(context.Background(), &b, root, CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	root.Close()
	return dir, func() string {
		t.Helper()
		r, err := Open(bytes.NewReader(b.Bytes()), int64(b.Len()), "test")
		if err != nil {
			t.Fatal(err)
		}
		root := open()
		defer root.Close()
		ds, err := r.Compare(context.Background(), root, CompareOptions{NoOwner: os.Geteuid() != 0})
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, d := range ds {
			out = append(out, d.String())
		}
		return strings.Join(out, "; ")
	}
}

// TestCompare: nothing differs from itself, and each change is seen and named.
func TestCompare(t *testing.T) {
	dir, compare := compareTree(t)
	if got := compare(); got != "" {
		t.Fatalf("it differs from itself: %s", got)
	}
	for i, c := range []struct{ do, want string }{
		{`chmod 600 a/small`, "a/small: mode is 0600, was"},
		{`touch -d 2001-01-01 a/large`, "a/large: time is"},
		{`printf HELLO > a/small`, "a/small: differs between bytes 0 and 5"},
		{`printf longer > a/small`, "a/small: has 6 bytes, had 5"},
		{`printf X | dd of=a/large bs=1 seek=4999999 conv=notrunc`, "a/large: differs between bytes"},
		{`printf X | dd of=a/sparse bs=1 seek=10 conv=notrunc`, "a/sparse: differs at byte 10"},
		{`printf X | dd of=a/sparse bs=1 seek=2999999 conv=notrunc`, "a/sparse: differs at byte 2999999"},
		{`rm a/zhard; cp -p a/small a/zhard`, "a/zhard: is not a hard link to a/small any more"},
		{`rm a/small`, "a/small: is missing"},
		{`rm -r a/b`, "a/b/nothing: is missing"},
		{`rm a/soft; ln -s large a/soft`, "a/soft: points to large, pointed to small"},
		{`rm a/fifo; : > a/fifo`, "a/fifo: is of another kind"},
		{`rmdir empty; ln -s a empty`, "empty: is of another kind"},
		{`: > new`, "new: is not in the archive"},
		{`setfattr -n user.x -v z a/small || chmod 1 a/small`, "a/small: "},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			dir, compare = compareTree(t)
			if out, err := exec.Command("sh", "-ec", "cd \"$1\"; "+c.do, "sh", dir).CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
			if got := compare(); !strings.Contains(got, c.want) {
				t.Errorf("%s: %q; want %q", c.do, got, c.want)
			}
		})
	}
	// Nothing is made in looking.
	dir, compare = compareTree(t)
	if err := os.RemoveAll(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	compare()
	if _, err := os.Stat(filepath.Join(dir, "a")); err == nil {
		t.Error("comparing made a directory")
	}
}
