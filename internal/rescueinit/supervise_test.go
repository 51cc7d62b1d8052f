package rescueinit

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/rescue"
)

// A panic anywhere is caught, logged with its stack, and what comes after is done.
func TestGuard(t *testing.T) {
	var out, log bytes.Buffer
	s := &System{host: machine{}, out: &out, log: &log}
	if s.guard("the part", func() { panic("assignment to entry in nil map") }) {
		t.Error("a panic counts as done")
	}
	if !strings.Contains(out.String(), "internal error in the part: assignment to entry in nil map") || !strings.Contains(log.String(), "supervise_test.go") {
		t.Errorf("said %q, logged %q", &out, &log)
	}
	done := make(chan bool)
	s.begin("another", func() { defer close(done); panic("x") })
	<-done
	if !s.guard("a third", func() { s.say("fine") }) || !strings.Contains(out.String(), "fine") {
		t.Error("nothing works after a panic")
	}
}

// A system that is not whole does nothing unattended.
func TestNotWhole(t *testing.T) {
	s := &System{host: machine{}, out: io.Discard, opts: rescue.Options{Auto: "restore"}}
	s.notWhole("MEDIUM DAMAGED")
	if s.opts.Auto != "" || len(s.state) != 1 {
		t.Errorf("auto %q, state %q", s.opts.Auto, s.state)
	}
}

// helper is what the processes of TestSupervise are told to be.
const helper = "MKCDREC_TEST_INIT"

// TestSuperviseHelper is process 1 of a namespace, and its worker; not a test of its own.
func TestSuperviseHelper(t *testing.T) {
	switch role := os.Getenv(helper); {
	case role == "":
		t.Skip("it is a helper of TestSupervise")
	case role == "fatal": // the worker: nothing can catch this
		m := map[int]int{}
		for range 8 {
			go func() {
				for i := 0; ; i++ {
					m[i%10] = i
				}
			}()
		}
		time.Sleep(10 * time.Second)
		os.Exit(0)
	case role == "panic":
		go func() { panic("a worker's panic") }()
		time.Sleep(10 * time.Second)
		os.Exit(0)
	default:
		kind, file, _ := strings.Cut(role, " ")
		s := &System{host: machine{}, waits: map[int]chan unix.WaitStatus{}, out: os.Stdout}
		s.supervise(func() *exec.Cmd {
			c := exec.Command("/proc/self/exe", "-test.run=TestSuperviseHelper")
			c.Env = append(os.Environ(), helper+"="+kind)
			return c
		}, func() {
			s.say("a shell on every console")
			if err := os.WriteFile(file, []byte("up"), 0o600); err != nil {
				s.say("%v", err)
			}
		})
	}
}

// Process 1 survives its worker, whatever ends it, and gives a shell.
func TestSupervise(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a PID namespace wants root; make test has it")
	}
	for kind, words := range map[string]string{"fatal": "fatal error: concurrent map writes", "panic": "a worker's panic"} {
		t.Run(kind, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "shell")
			var out bytes.Buffer
			c := exec.Command("/proc/self/exe", "-test.run=TestSuperviseHelper")
			c.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s", helper, kind, file))
			c.Stdout, c.Stderr = &out, &out
			c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
			if err := c.Start(); err != nil {
				t.Skipf("no PID namespaces here: %v", err)
			}
			up := false
			for i := 0; i < 200 && !up; i++ {
				time.Sleep(100 * time.Millisecond)
				_, err := os.Stat(file)
				up = err == nil
			}
			alive := c.Process.Signal(unix.Signal(0)) == nil
			if err := c.Process.Kill(); err != nil {
				t.Error(err)
			}
			_ = c.Wait() // killed
			if !up || !alive {
				t.Errorf("shell %v, process 1 alive %v:\n%s", up, alive, &out)
			}
			for _, w := range []string{"init's worker ended", words} {
				if !strings.Contains(out.String(), w) {
					t.Errorf("not said: %q in\n%s", w, &out)
				}
			}
		})
	}
}

// Every child is waited for, and idle says when there are none.
func TestReap(t *testing.T) {
	if os.Getenv("MKCDREC_TEST_REAP") == "" {
		c := exec.Command("/proc/self/exe", "-test.run=TestReap")
		c.Env = append(os.Environ(), "MKCDREC_TEST_REAP=1")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	defer signal.Reset()
	s := &System{host: machine{}, waits: map[int]chan unix.WaitStatus{}, out: os.Stdout}
	s.begin("the reaper", s.reap)
	ch, err := s.spawn(exec.Command("sh", "-c", "exit 7"))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case ws := <-ch:
		if ws.ExitStatus() != 7 {
			t.Errorf("status %v", ws)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it was not waited for")
	}
	for i := 0; i < 50 && !s.idle.Load(); i++ {
		time.Sleep(100 * time.Millisecond)
	}
	if !s.idle.Load() {
		t.Error("there are no children, and it is not idle")
	}
}
