package smalltools

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
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/fullscreen"
	"github.com/mkcdrec/mkcdrec/internal/interrupt/interrupttest"
	"github.com/mkcdrec/mkcdrec/vmtest/tree"
)

func run(t *testing.T, fn Func, stdin string, args ...string) (string, error) {
	t.Helper()
	var out, errw bytes.Buffer
	err := fn(IO{strings.NewReader(stdin), &out, &errw}, args)
	return out.String(), err
}

func cp(s IO, args []string) error { return Cp(context.Background(), s, args) }

// TestMain is each command that prints, as a program, too.
func TestMain(m *testing.M) {
	fn, ok := map[string]Func{"mount": Mount, "cut": Cut, "env": Env, "clear": Clear, "blockdev": Blockdev, "lsblk": Lsblk, "stat": Stat, "top": Top, "less": func(_ IO, args []string) error {
		return fullscreen.Page(args, os.Stdin, os.Stdout)
	}}[os.Getenv("SMALLTOOL")]
	switch {
	case ok:
		os.Exit(Main(os.Getenv("SMALLTOOL"), fn))
	case os.Getenv("SMALLTOOL") == "cp":
		os.Exit(MainContext("cp", Cp))
	}
	os.Exit(m.Run())
}

func command(name string, args ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), "SMALLTOOL="+name)
	return c
}

// TestFull: what does not reach its reader is not done.
func TestFull(t *testing.T) {
	f := t.TempDir() + "/f"
	if err := os.WriteFile(f, []byte("a\tb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"mount", "cut -f1 " + f, "env", "env echo x", "clear", "blockdev --getsize64 " + f, "lsblk", "stat " + f, "top -n 1 -d 0.1", "top -n 50 -d 0.1", "cp -v " + f + " " + f + "2", "cp " + f + " /dev/full", "less " + f, "less --version"} {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		w := strings.Fields(line)
		c := command(w[0], w[1:]...)
		var errs bytes.Buffer
		c.Stdout, c.Stderr = full, &errs
		t0 := time.Now()
		if err := c.Run(); err == nil || c.ProcessState.ExitCode() != 1 || line != "env echo x" && !strings.Contains(errs.String(), "no space") {
			t.Errorf("%s > /dev/full: %v; want 1\n%s", line, err, &errs)
		}
		if time.Since(t0) > 4*time.Second {
			t.Errorf("%s > /dev/full continues for %v", line, time.Since(t0))
		}
		full.Close()
		c = command(w[0], w[1:]...)
		if out, err := c.CombinedOutput(); line != "top -n 50 -d 0.1" && !strings.Contains(line, "/dev/full") && err != nil {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	}
}

// TestCpOdd: a fifo is refused and not waited for, and an interrupted copy leaves
// nothing.
func TestCpOdd(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(dir + "/large")
	if err == nil {
		err = f.Truncate(8 << 40) // of holes
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := os.WriteFile(dir+"/small", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{dir + "/fifo", dir + "/x"}, {dir + "/small", dir + "/fifo"}, {"/dev/zero", dir + "/x"}} {
		c := command("cp", args...)
		stop := time.AfterFunc(10*time.Second, func() { c.Process.Kill() })
		if err := c.Run(); c.ProcessState.ExitCode() != 1 {
			t.Errorf("cp %q: %v; want 1", args, err)
		}
		stop.Stop()
	}
	c := command("cp", dir+"/large", dir+"/x")
	code, text := interrupttest.Signal(t, c, syscall.SIGINT, func(string) bool {
		st, err := os.Stat(dir + "/x")
		return err == nil && st.Size() > 1<<20
	})
	interrupttest.Interrupted(t, code, text)
	if _, err := os.Lstat(dir + "/x"); err == nil {
		t.Error("half a file is left")
	}
}

func TestCut(t *testing.T) {
	const in = "a:b:c:d\nno delimiter\n:x\n"
	for _, c := range []struct{ args, want string }{
		{"-d: -f2", "b\nno delimiter\nx\n"},
		{"-d : -f 1,3-", "a:c:d\nno delimiter\n\n"},
		{"-d: -f-2 -s", "a:b\n:x\n"},
		{"-c 1-3", "a:b\nno \n:x\n"},
	} {
		if got, err := run(t, Cut, in, strings.Fields(c.args)...); err != nil || got != c.want {
			t.Errorf("cut %s = %q, %v; want %q", c.args, got, err, c.want)
		}
	}
	var u usage
	for _, bad := range []string{"", "-f1 -c1", "-f 0", "-f a", "-f 3-1", "-d ab -f1"} {
		if _, err := run(t, Cut, in, strings.Fields(bad)...); !errors.As(err, &u) {
			t.Errorf("cut %q = %v; want wrong usage", bad, err)
		}
	}
}

func TestCp(t *testing.T) {
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
	if _, err := run(t, cp, "", "-a", src, dir+"/dst"); err != nil {
		t.Fatal(err)
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
	if left, err := filepath.Glob(dir + "/.cp-*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := run(t, cp, "", "-p", src+"/setuid", dir+"/kept"); err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(dir + "/kept"); err != nil || st.Mode()&os.ModeSetuid == 0 {
		t.Errorf("cp -p lost the mode: %v %v", st.Mode(), err)
	}
	if _, err := run(t, cp, "", src, dir+"/x"); err == nil {
		t.Error("a directory is copied without -a")
	}
	if _, err := run(t, cp, "", src+"/plain", src+"/plain"); err == nil {
		t.Error("a file is copied onto itself")
	}
	if b, err := os.ReadFile(src + "/plain"); err != nil || len(b) == 0 {
		t.Errorf("the file copied onto itself is gone: %q %v", b, err)
	}
}

func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("chown needs root; CI is root")
	}
	f := t.TempDir() + "/f"
	if err := os.WriteFile(f, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		fn       Func
		spec     string
		uid, gid uint32
	}{{Chown, "12:34", 12, 34}, {Chown, "root", 0, 34}, {Chgrp, "56", 0, 56}} {
		if _, err := run(t, c.fn, "", "-Rh", c.spec, f); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(f, &st); err != nil || st.Uid != c.uid || st.Gid != c.gid {
			t.Errorf("%s gives %d:%d; want %d:%d", c.spec, st.Uid, st.Gid, c.uid, c.gid)
		}
	}
	if _, err := run(t, Chown, "", "no-such-user-here", f); err == nil {
		t.Error("an unknown user is accepted")
	}
}

func TestEnv(t *testing.T) {
	if got, err := run(t, Env, "", "-i", "A=1", "B=2"); err != nil || got != "A=1\nB=2\n" {
		t.Errorf("env = %q, %v", got, err)
	}
	if got, err := run(t, Env, "", "-i", "A=1", "/bin/sh", "-c", "echo $A; exit 5"); got != "1\n" || err != status(5) {
		t.Errorf("env sh = %q, %v", got, err)
	}
}

func TestRmdirStat(t *testing.T) {
	d := t.TempDir()
	if err := os.MkdirAll(d+"/a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, Rmdir, "", d+"/a"); err == nil {
		t.Error("a full directory is removed")
	}
	if _, err := run(t, Rmdir, "", d+"/a/b"); err != nil {
		t.Error(err)
	}
	if got, err := run(t, Stat, "", d+"/a"); err != nil || !strings.Contains(got, "directory") || !strings.Contains(got, "Mode: 0755") {
		t.Errorf("stat = %q, %v", got, err)
	}
	if _, err := run(t, Killall, "", "no-such-process-name"); err == nil {
		t.Error("killall of nothing succeeds")
	}
}

func TestMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root; CI is root")
	}
	d := t.TempDir()
	for _, n := range []string{"/a", "/b"} {
		if err := os.Mkdir(d+n, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := run(t, Mount, "", "-t", "tmpfs", "-o", "noexec,size=1m", "none", d+"/a"); err != nil {
		t.Skipf("cannot mount here: %v; CI can", err)
	}
	defer unix.Unmount(d+"/a", 0)
	if err := os.WriteFile(d+"/a/f", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, Mount, "", "--bind", d+"/a", d+"/b"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(d+"/b", 0)
	if _, err := os.Stat(d + "/b/f"); err != nil {
		t.Error(err)
	}
	if got, err := run(t, Mount, ""); err != nil || !strings.Contains(got, d+"/b") || !strings.Contains(got, "noexec") {
		t.Errorf("mount lists %q, %v", got, err)
	}
	if _, err := run(t, Mount, "", "-o", "remount,ro", d+"/a"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(d+"/a/g", nil, 0o644); err == nil {
		t.Error("a file system remounted read-only can be written to")
	}
	for _, bad := range [][]string{{"one"}, {"UUID=no-such", d}, {"/dev/null", d}} {
		if _, err := run(t, Mount, "", bad...); err == nil {
			t.Errorf("mount %v succeeds", bad)
		}
	}
}

func TestParseStat(t *testing.T) {
	p, ok := parseStat("42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 100 1000000 300 18446744073709551615")
	if !ok || p.pid != 42 || p.name != "a (b) c" || p.state != "S" || p.ticks != 200 || p.rss != 300 {
		t.Errorf("parseStat = %+v, %v", p, ok)
	}
	for _, bad := range []string{"", "1 x", "1 (a) S 1", ") 1 ("} {
		if _, ok := parseStat(bad); ok {
			t.Errorf("parseStat(%q) is accepted", bad)
		}
	}
	var b bytes.Buffer
	if err := Top(IO{In: strings.NewReader(""), Out: &b, Err: &b}, []string{"-n", "1", "-d", "0.1"}); err != nil || !strings.Contains(b.String(), "PID") || strings.Count(b.String(), "\n") < 3 {
		t.Errorf("top: %v\n%s", err, b.String())
	}
}
