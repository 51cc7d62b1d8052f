package pack

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// TestTarWalk: --one-file-system leaves out what is mounted below, and nothing behind it, as
// GNU's tar does; -h follows links to directories and ends in a loop.
func TestTarWalk(t *testing.T) {
	if os.Getenv("OWN_MOUNTS") == "" {
		if os.Geteuid() != 0 {
			t.Skip("needs root")
		}
		c := exec.Command("unshare", "-m", "--propagation", "private", os.Args[0], "-test.run", "^TestTarWalk$")
		c.Env = append(os.Environ(), "OWN_MOUNTS=1")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	dir, other := t.TempDir(), t.TempDir()
	defer func() {
		for _, p := range []string{dir + "/t/m", dir + "/t/file", other} {
			_ = unix.Unmount(p, unix.MNT_DETACH)
		}
	}()
	if err := errors.Join(os.MkdirAll(dir+"/t/a/in", 0o755), os.Mkdir(dir+"/t/m", 0o755), os.WriteFile(dir+"/t/file", nil, 0o644), os.WriteFile(dir+"/t/zz", nil, 0o644), os.WriteFile(dir+"/t/a/x", nil, 0o644),
		os.Symlink("a", dir+"/t/link"), os.Symlink("nowhere", dir+"/t/broken"),
		unix.Mount("none", other, "tmpfs", 0, ""), os.WriteFile(other+"/f", nil, 0o644), unix.Mount("none", dir+"/t/m", "tmpfs", 0, ""), os.WriteFile(dir+"/t/m/hidden", nil, 0o644), unix.Mount(other+"/f", dir+"/t/file", "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	list := func(archive string) []string {
		c := exec.Command("tar", "-tf", "-")
		c.Stdin = strings.NewReader(archive)
		out, err := c.Output()
		if err != nil {
			t.Fatal(err)
		}
		names := strings.Fields(string(out))
		slices.Sort(names)
		return names
	}
	ours := func(args ...string) (string, string, int) {
		var out, errs bytes.Buffer
		e := tools.New(tarCommands()[0], strings.NewReader(""), &out, &errs)
		rc := e.Run(args)
		e.Out.Flush()
		return out.String(), errs.String(), rc
	}
	for _, line := range []string{"-c --one-file-system t", "-c --one-file-system t/m", "-c --one-file-system ./t", "-c --one-file-system t/file t/m t", "-c t", "-ch --exclude=broken t", "-ch --one-file-system --exclude=broken t", "-c --no-recursion t t/a", "-c --exclude=./t/a ./t", "-c --exclude=a t", "-c ./t/", "-c ."} {
		args := strings.Fields(line)
		out, errs, rc := ours(args...)
		want, err := exec.Command("tar", args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := list(out), list(string(want)); !slices.Equal(got, want) || rc != 0 {
			t.Errorf("tar %s = %d %s %v; want %v", line, rc, errs, got, want)
		}
	}
	if err := os.Symlink("..", dir+"/t/a/up"); err != nil {
		t.Fatal(err)
	}
	if out, errs, rc := ours("-ch", "--exclude=broken", "t"); rc != 2 || len(list(out)) > 20 || !strings.Contains(errs, "t/a/up: a link to a directory that it is in") {
		t.Errorf("tar -h of a loop = %d %s %v; want an error and an end", rc, errs, list(out))
	}
}
