package machine

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/ptytest"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// TestMain is each command of this package as a program, too.
func TestMain(m *testing.M) {
	if name := os.Getenv("MACHINE_TOOL"); name != "" {
		i := slices.IndexFunc(Commands(), func(c tools.Command) bool { return c.Name == name })
		os.Exit(tools.Main(Commands()[i], os.Args[1:]))
	}
	os.Exit(m.Run())
}

// run runs a command of this package with a standard input.
func run(t *testing.T, in io.Reader, name string, args ...string) (rc int, out, errs string) {
	t.Helper()
	for _, c := range Commands() {
		if c.Name == name {
			var o, w bytes.Buffer
			e := tools.New(c, in, &o, &w)
			rc = e.Run(args)
			if err := e.Out.Flush(); err != nil {
				t.Fatal(err)
			}
			return rc, o.String(), w.String()
		}
	}
	t.Fatalf("no command %s", name)
	return 0, "", ""
}

// target makes a system with root and ann.
func target(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	err := errors.Join(os.MkdirAll(dir+"/usr/etc", 0o755), os.Symlink("/usr/etc", dir+"/etc"), // as the system itself would follow it
		os.WriteFile(dir+"/usr/etc/passwd", []byte("root:x:0:0::/root:/bin/sh\nann:x:1:1::/:/bin/sh\n"), 0o644),
		os.WriteFile(dir+"/usr/etc/shadow", []byte("root:*:19000:0:99999:7:::\nann:!:19000:0:99999:7:::\n"), 0o640))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// entry is the line of a user in the shadow file.
func entry(t *testing.T, dir, user string) []string {
	t.Helper()
	b, err := os.ReadFile(dir + "/usr/etc/shadow")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(b)) {
		if f := strings.Split(strings.TrimSuffix(l, "\n"), ":"); f[0] == user {
			return f
		}
	}
	t.Fatalf("no %s in %s", user, b)
	return nil
}

// verify compares a stored password with what openssl makes of it.
func verify(t *testing.T, stored, password string) {
	t.Helper()
	f := strings.Split(stored, "$")
	if len(f) != 5 || f[2] != "rounds=65536" && f[2] != "rounds=7000" {
		t.Fatalf("stored %q; want a hash with its rounds", stored)
	}
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	c := exec.Command("openssl", "passwd", "-"+f[1], "-salt", f[2]+"$"+f[3], "-stdin")
	c.Stdin = strings.NewReader(password + "\n")
	out, err := c.Output()
	if err != nil || strings.TrimSpace(string(out)) != stored {
		t.Errorf("stored %s; want %s (%v)", stored, out, err)
	}
}

// TestPasswd: a password is asked for twice, hashed as openssl does it, and written into a file
// of the same owner, mode and attributes.
func TestPasswd(t *testing.T) {
	dir := target(t)
	shadow := dir + "/usr/etc/shadow"
	labelled := unix.Setxattr(shadow, "user.label", []byte("kept"), 0) == nil
	if os.Geteuid() == 0 {
		if err := os.Chown(shadow, 0, 42); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.Stat(shadow)
	if err != nil {
		t.Fatal(err)
	}
	rc, out, errs := run(t, strings.NewReader("s3cret ü\ns3cret ü\n"), "passwd", "-R", dir, "ann")
	if rc != 0 || out != "" || !strings.Contains(errs, "updated successfully") {
		t.Fatalf("passwd = %d, %q, %q", rc, out, errs)
	}
	l := entry(t, dir, "ann")
	verify(t, l[hash], "s3cret ü")
	if day := l[lastChange]; day == "19000" || len(day) != 5 {
		t.Errorf("day of the last change = %s", day)
	}
	after, err := os.Stat(shadow)
	if err != nil {
		t.Fatal(err)
	}
	a, b := before.Sys().(*syscall.Stat_t), after.Sys().(*syscall.Stat_t)
	if a.Mode != b.Mode || a.Gid != b.Gid || a.Uid != b.Uid || a.Ino == b.Ino {
		t.Errorf("mode %o, owner %d:%d; want %o, %d:%d in a new file", b.Mode, b.Uid, b.Gid, a.Mode, a.Uid, a.Gid)
	}
	value := make([]byte, 10)
	if n, err := unix.Getxattr(shadow, "user.label", value); labelled && (err != nil || string(value[:n]) != "kept") {
		t.Errorf("attribute %q, %v; want kept", value[:n], err)
	}
	if m, err := filepath.Glob(dir + "/usr/etc/.shadow*"); err != nil || len(m) > 0 {
		t.Errorf("left: %v %v", m, err)
	}
	for _, in := range []string{"a\nb\n", "\n", "", "a\n"} {
		if rc, _, errs := run(t, strings.NewReader(in), "passwd", "-R", dir); rc != 10 || entry(t, dir, "root")[hash] != "*" {
			t.Errorf("passwd with %q = %d (%s), %v; want 10 and no change", in, rc, errs, entry(t, dir, "root"))
		}
	}
}

// TestPasswdTerminal: what is typed is not shown.
func TestPasswdTerminal(t *testing.T) {
	dir := target(t)
	c := exec.Command(os.Args[0], "-R", dir, "root")
	c.Env = append(os.Environ(), "MACHINE_TOOL=passwd")
	x := ptytest.Start(t, c, 24, 80)
	for _, question := range []string{"New password: ", "Retype new password: "} {
		x.Want(question)
		for a := (&unix.Termios{Lflag: unix.ECHO}); a.Lflag&unix.ECHO != 0; time.Sleep(time.Millisecond) {
			var err error
			if a, err = unix.IoctlGetTermios(int(x.File.Fd()), unix.TCGETS); err != nil {
				t.Fatal(err)
			}
		}
		x.Keys("hidden\n")
	}
	x.Want("updated successfully")
	if rc := x.Ended(); rc != 0 || strings.Contains(x.Text(), "hidden") {
		t.Errorf("passwd = %d, and the terminal shows %q", rc, x.Text())
	}
	verify(t, entry(t, dir, "root")[hash], "hidden")
}

// TestChpasswd: lines set passwords, of users that the shadow file lacks, too.
func TestChpasswd(t *testing.T) {
	dir := target(t)
	if err := os.WriteFile(dir+"/usr/etc/passwd", []byte("root:x:0:0::/root:/bin/sh\nann:x:1:1::/:/bin/sh\nnew:x:2:2::/:\nold:$1$a$b:3:3::/:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if rc, _, errs := run(t, strings.NewReader("root:a:b\nnew:c\nold:d"), "chpasswd", "-R", dir, "-s", "7000"); rc != 0 {
		t.Fatalf("chpasswd = %d, %s", rc, errs)
	}
	verify(t, entry(t, dir, "root")[hash], "a:b")
	verify(t, entry(t, dir, "new")[hash], "c")
	b, err := os.ReadFile(dir + "/usr/etc/passwd")
	if err != nil || !strings.Contains(string(b), "\nold:$6$rounds=7000$") || !strings.Contains(string(b), "\nnew:x:") {
		t.Errorf("passwd: %s %v", b, err)
	}
	if rc, _, _ := run(t, strings.NewReader("root:x\nnone:x\n"), "chpasswd", "-R", dir); rc != 1 {
		t.Errorf("chpasswd with an unknown user = %d; want 1", rc)
	}
	verify(t, entry(t, dir, "root")[hash], "a:b")
}
