package files

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/vmtest/tree"
)

// call runs a command of this package.
func call(t *testing.T, name string, args ...string) (rc int, out, errs string) {
	t.Helper()
	for _, c := range Commands() {
		if c.Name == name {
			var o, e bytes.Buffer
			env := tools.New(c, strings.NewReader(""), &o, &e)
			rc := env.Run(args)
			return rc, o.String(), e.String()
		}
	}
	t.Fatalf("no command %s", name)
	return 0, "", ""
}

// TestCopy: cp -a copies everything that a tree can have, on this file system.
func TestCopy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("owners and devices need root; CI is root")
	}
	dir := t.TempDir()
	src := dir + "/src"
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := tree.Make(src, tree.Options{Trusted: true}); err != nil {
		t.Fatal(err)
	}
	if rc, _, errs := call(t, "cp", "-a", src, dir+"/dst"); rc != 0 {
		t.Fatalf("cp -a = %d: %s", rc, errs)
	}
	a, err := tree.Describe(src, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := tree.Describe(dir+"/dst", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range tree.Compare(a, b) {
		t.Errorf("differs: %v", d)
	}
}

// TestFifo: a fifo is refused, and not waited for.
func TestFifo(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/small", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(20*time.Second, func() { panic("cp waits for a fifo") })
	defer stop.Stop()
	for _, args := range [][]string{{dir + "/fifo", dir + "/x"}, {dir + "/small", dir + "/fifo"}} {
		if rc, _, errs := call(t, "cp", args...); rc != 1 || !strings.Contains(errs, "fifo") {
			t.Errorf("cp %q = %d, %s; want 1", args, rc, errs)
		}
	}
}

func FuzzMode(f *testing.F) {
	for _, s := range []string{"755", "u+x", "go-rwx,a+X", "=r", "u=g", "+", "9", "u+s,o+t"} {
		f.Add(s, uint32(0o644), true)
	}
	f.Fuzz(func(t *testing.T, s string, old uint32, dir bool) {
		if m, err := parseMode(s, old&0o7777, dir, 0o022); err == nil && m > 0o7777 {
			t.Errorf("parseMode(%q, %o) = %o; want at most 07777", s, old, m)
		}
	})
}
