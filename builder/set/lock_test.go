package set

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/process"
)

// TestHoldLock is not a test but the other process of TestLock: it holds the lock until its
// standard input ends.
func TestHoldLock(t *testing.T) {
	dir := os.Getenv("MKCDREC_TEST_LOCK")
	if dir == "" {
		t.Skip("for TestLock")
	}
	release, err := Lock(dir, "web", func(string, ...any) {})
	fmt.Println("locked:", err)
	if err == nil {
		_, _ = io.Copy(io.Discard, os.Stdin)
		if err := release(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLock: a second run is refused, and told who holds the lock; after kill -9 the lock is
// taken over; another host's is none of ours.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	other := exec.Command(os.Args[0], "-test.run=^TestHoldLock$")
	other.Env = append(os.Environ(), "MKCDREC_TEST_LOCK="+dir)
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Process.Kill()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "locked: <nil>\n" {
		t.Fatalf("the other process: %q, %v", line, err)
	}
	var notes []string
	note := func(f string, a ...any) { notes = append(notes, fmt.Sprintf(f, a...)) }
	_, err = Lock(dir, "web", note)
	for _, want := range []string{dir, fmt.Sprintf("process %d of web, since %d-", other.Process.Pid, time.Now().Year())} {
		if exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), want) {
			t.Errorf("Lock() while it is held = %v; want a refusal with %q", err, want)
		}
	}
	release, err := Lock(dir, "db", note)
	if err != nil || len(notes) > 0 {
		t.Errorf("Lock() of another host = %v, %q", err, notes)
	} else if err := release(); err != nil {
		t.Error(err)
	}
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = other.Wait() // killed
	if release, err = Lock(dir, "web", note); err != nil || len(notes) != 1 || !strings.Contains(notes[0], fmt.Sprintf("process %d", other.Process.Pid)) {
		t.Fatalf("Lock() after kill -9 = %v, notes %q", err, notes)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestLockContent: without the kernel's lock the content decides.
func TestLockContent(t *testing.T) {
	me := self("web")
	pid1 := me
	pid1.PID, pid1.Start = os.Getppid(), process.Start(os.Getppid())
	with := func(f func(o *owner)) string {
		o := pid1
		f(&o)
		b, err := json.Marshal(holder{o, time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, c := range []struct {
		what, content string
		held          bool
	}{
		{"alive", with(func(*owner) {}), true},
		{"another process has its number now", with(func(o *owner) { o.Start = "1x" }), false},
		{"before the last boot", with(func(o *owner) { o.BootID = "other" }), false},
		{"no such process", with(func(o *owner) { o.PID = 1<<22 + 1 }), false},
		{"killed while it was written", "", false},
		{"garbage", "{\x00", false},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, This("web").lock()), []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		release, err := Lock(dir, "web", t.Logf)
		if (exit.Code(err) == exit.Refused) != c.held || !c.held && err != nil {
			t.Errorf("%s: Lock() = %v; want held: %v", c.what, err, c.held)
		}
		if err == nil {
			if err := release(); err != nil {
				t.Error(err)
			}
		}
	}
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, This("web").lock())); err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir, "web", t.Logf); err == nil || exit.Code(err) != exit.Failed {
		t.Errorf("Lock() with a link in its place = %v", err)
	}
	if _, err := Lock(dir+"/missing", "web", t.Logf); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Lock() without the directory = %v", err)
	}
}

// TestLockOne: of many that come and go, one at a time has the lock.
func TestLockOne(t *testing.T) {
	dir := t.TempDir()
	var inside, times atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				release, err := Lock(dir, "web", func(string, ...any) {})
				if err != nil {
					continue
				}
				times.Add(1)
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d have the lock", n)
				}
				inside.Add(-1)
				if err := release(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if times.Load() < 8 {
		t.Errorf("the lock was taken %d times", times.Load())
	}
}
