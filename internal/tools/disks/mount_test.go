package disks

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// TestRemount: a remount changes the flags that it names, as util-linux' does, and no others.
func TestRemount(t *testing.T) {
	if os.Getenv("OWN_MOUNTS") == "" {
		if os.Geteuid() != 0 {
			t.Skip("needs root")
		}
		c := exec.Command("unshare", "-m", "--propagation", "private", os.Args[0], "-test.run", "^TestRemount$")
		c.Env = append(os.Environ(), "OWN_MOUNTS=1")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	ours := func(args ...string) error {
		var out bytes.Buffer
		for _, c := range Commands() {
			if c.Name == "mount" {
				if rc := tools.New(c, strings.NewReader(""), &out, &out).Run(args); rc != 0 {
					return fmt.Errorf("%d, %s", rc, &out)
				}
			}
		}
		return nil
	}
	real := func(args ...string) error {
		out, err := exec.Command("mount", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w, %s", err, out)
		}
		return nil
	}
	flags := func(dir string) string {
		ms, err := sysconf.Mounts("")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms {
			if m.Path == dir {
				return m.Options + " " + m.Super
			}
		}
		return "not mounted"
	}
	var dirs [2]string
	for i := range dirs {
		defer func() { _ = unix.Unmount(dirs[i], unix.MNT_DETACH) }()
		dirs[i] = t.TempDir()
		if err := real("-t", "tmpfs", "-o", "ro,noexec,nodev", "none", dirs[i]); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range []string{"nosuid", "noatime", "rw", "ro", "exec", "size=5m", "atime,relatime", "strictatime", "nosuid", "atime", "suid,noatime", "nodiratime", "atime,relatime", "diratime", "bind,noexec", "bind", "sync", "nosuid", "async", "defaults", "lazytime", "nolazytime", "strictatime", "rw", "bind,ro", "bind,dev", "bind,rw"} {
		before := flags(dirs[0])
		if err := errors.Join(ours("-o", "remount,"+o, dirs[0]), real("-o", "remount,"+o, dirs[1])); err != nil {
			t.Fatal(err)
		}
		if got, want := flags(dirs[0]), flags(dirs[1]); got != want {
			t.Errorf("remount,%s of %s = %s; want %s", o, before, got, want)
		}
	}
	if err := ours("-o", "remount,rw", t.TempDir()); err == nil {
		t.Error("a remount of what is not mounted succeeds")
	}
	// A read-only view of a writable file system.
	view := t.TempDir()
	defer func() { _ = unix.Unmount(view, unix.MNT_DETACH) }()
	if err := errors.Join(unix.Mount(dirs[0], view, "", unix.MS_BIND, ""), unix.Mount("", view, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""), ours("-o", "remount,nosuid", view)); err != nil {
		t.Fatal(err)
	}
	if got, whole := flags(view), flags(dirs[0]); !strings.HasPrefix(got, "ro,nosuid") || !strings.HasPrefix(whole, "rw,") || !strings.Contains(whole, " rw") {
		t.Errorf("remount,nosuid of a read-only view: %s, and the file system is %s; want ro,nosuid and rw", got, whole)
	}
}
