package restore

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/exit"
)

// TestMain runs a second process that has the lock until it is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("MKCDREC_TEST_LOCK"); dir != "" {
		if _, err := Lock(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("locked")
		select {}
	}
	os.Exit(m.Run())
}

// Two restores at a time are refused with the process of the first; a killed one holds
// nothing.
func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	c := exec.Command(os.Args[0], "-test.run=^$")
	c.Env = append(os.Environ(), "MKCDREC_TEST_LOCK="+dir)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Process.Kill()
	if l, _ := bufio.NewReader(out).ReadString('\n'); l != "locked\n" {
		t.Fatalf("the other process prints %q", l)
	}
	_, err = Lock(dir)
	if err == nil || exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), fmt.Sprintf("process %d:", c.Process.Pid)) {
		t.Errorf("a second restore: %v, exit %d", err, exit.Code(err))
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	for range 2 {
		release, err := Lock(dir)
		if err != nil {
			t.Fatal(err)
		}
		release()
	}
	// A link to another file is not written to.
	victim := filepath.Join(dir, "victim")
	if err := errors.Join(os.Remove(filepath.Join(dir, lockName)), os.WriteFile(victim, []byte("x"), 0o600), os.Symlink(victim, filepath.Join(dir, lockName))); err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir); err == nil {
		t.Error("the lock is made through a link")
	}
}

// What a killed restore has left is unmounted and removed, and nothing that was mounted
// in it; what others have stays.
func TestSweep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	tmp, disk := t.TempDir(), t.TempDir()
	look, btrfs := filepath.Join(tmp, "mkcdrec-look12"), filepath.Join(tmp, "mkcdrec-btrfs a")
	other := filepath.Join(tmp, "mkcdrec-backup1")
	err := errors.Join(os.WriteFile(disk+"/data", []byte("x"), 0o600), os.Mkdir(look, 0o700), os.Mkdir(btrfs, 0o700), os.MkdirAll(tmp+"/mkcdrec-luks3/x", 0o700),
		os.WriteFile(tmp+"/mkcdrec-luks3/x/header", nil, 0o600), os.Mkdir(other, 0o700), os.Symlink(disk, tmp+"/mkcdrec-look99"))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{look, btrfs, btrfs, other} { // one twice
		if err := unix.Mount(disk, at, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(at, unix.MNT_DETACH)
	}
	f, err := os.Open(look + "/data") // it is busy
	if err != nil {
		t.Fatal(err)
	}
	swept, err := Sweep(tmp)
	if !errors.Is(err, unix.EBUSY) || slices.Contains(swept, look) || len(swept) != 2 {
		t.Errorf("with a file open: %q %v", swept, err)
	}
	f.Close()
	if swept, err := Sweep(tmp); err != nil || !slices.Equal(swept, []string{look}) {
		t.Errorf("%q %v", swept, err)
	}
	var left []string
	entries, err := os.ReadDir(tmp)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if err != nil || !slices.Equal(left, []string{"mkcdrec-backup1", "mkcdrec-look99"}) {
		t.Errorf("left: %q %v", left, err)
	}
	if b, err := os.ReadFile(other + "/data"); err != nil || string(b) != "x" {
		t.Errorf("what was mounted: %q %v", b, err)
	}
}
