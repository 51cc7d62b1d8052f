package rescueinit

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process 1 must not end: the kernel panics then. It does next to nothing itself. All
// that can fail is done by a worker, a second process of the same program: what no
// recover() catches (concurrent writes to a map, no memory) ends that one only, and there
// is a shell.

// workerEnv is set for the worker.
const workerEnv = "MKCDREC_INIT_WORKER"

// worker is the process that does what init is there for.
func worker() *exec.Cmd {
	c := exec.Command("/proc/self/exe")
	c.Args = []string{"init"}
	c.Env = append(os.Environ(), workerEnv+"=1")
	return c
}

// supervise starts the worker, and fallback when it ends; it stops the machine when a
// signal asks for that. It does not return.
func (s *System) supervise(worker func() *exec.Cmd, fallback func()) {
	sig := make(chan os.Signal, 4)
	signal.Notify(sig, unix.SIGINT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, sigKexec)
	s.begin("the reaper", s.reap)
	s.begin("the worker", func() {
		err := s.runWorker(worker())
		if s.ending.Load() {
			return
		}
		s.say("ERROR: init's worker ended (%v): nothing is done by itself any more; there is a shell on every console", err)
		s.guard("environment", s.environment)
		s.guard("shells", fallback)
	})
	switch <-sig {
	case unix.SIGUSR1:
		s.end(unix.LINUX_REBOOT_CMD_HALT)
	case unix.SIGUSR2:
		s.end(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case sigKexec:
		s.end(unix.LINUX_REBOOT_CMD_KEXEC)
	default:
		s.end(unix.LINUX_REBOOT_CMD_RESTART)
	}
}

// runWorker runs the worker to its end. What it prints as it dies goes to the consoles
// and into the log.
func (s *System) runWorker(c *exec.Cmd) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	c.Stderr = w
	ch, err := s.spawn(c)
	w.Close()
	if err != nil {
		return err
	}
	s.begin("the worker's messages", func() {
		for in := bufio.NewReader(r); ; {
			l, err := in.ReadString('\n')
			if l = strings.TrimRight(l, "\n"); l != "" {
				s.say("%s", l)
			}
			if err != nil {
				return
			}
		}
	})
	ws := <-ch
	time.Sleep(200 * time.Millisecond) // its last words
	if ws.Signaled() || ws.ExitStatus() != 0 {
		return &exitError{"init", ws}
	}
	return errors.New("it returned")
}

// guard runs fn, and reports whether it returned: a panic is caught, and logged with its
// stack.
func (s *System) guard(name string, fn func()) (ok bool) {
	defer func() {
		if r := recover(); r != nil {
			s.say("ERROR: internal error in %s: %v", name, r)
			s.logOnly(string(debug.Stack()))
		}
	}()
	fn()
	return true
}

// begin runs fn beside, guarded. Nothing here starts a goroutine otherwise.
func (s *System) begin(name string, fn func()) {
	go func() { s.guard(name, fn) }()
}

// spawn starts a program; the channel gets its status from the reaper.
func (s *System) spawn(c *exec.Cmd) (chan unix.WaitStatus, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := s.host.Start(c)
	if err != nil {
		return nil, err
	}
	ch := make(chan unix.WaitStatus, 1)
	s.waits[pid] = ch
	s.idle.Store(false)
	return ch, nil
}

// reap is the only one to wait for children; those of process 1 are orphans, too.
func (s *System) reap() {
	sig := make(chan os.Signal, 16)
	signal.Notify(sig, unix.SIGCHLD)
	for {
		var ws unix.WaitStatus
		p, err := unix.Wait4(-1, &ws, 0, nil)
		if errors.Is(err, unix.ECHILD) {
			s.idle.Store(true)
			// One may have been started since.
			select {
			case <-sig:
			case <-time.After(time.Second):
			}
			continue
		}
		if p > 0 {
			s.ended(p, ws)
		}
	}
}

func (s *System) ended(pid int, ws unix.WaitStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ch := s.waits[pid]; ch != nil {
		ch <- ws
		delete(s.waits, pid)
	}
}

// stop has process 1 stop the machine: "reboot" or "poweroff". It does not return.
func (s *System) stop(how string) {
	if err := power(s.host, how, false); err != nil {
		s.say("cannot %s: %v", how, err)
		return
	}
	select {}
}

// end stops everything, writes everything to the disks, and stops the machine.
func (s *System) end(cmd int) {
	s.ending.Store(true)
	s.say("stopping")
	_ = s.host.Kill(-1, unix.SIGTERM) // ESRCH: nobody is there
	for i := 0; i < 50 && !s.idle.Load(); i++ {
		time.Sleep(100 * time.Millisecond)
		if i > 20 {
			_ = s.host.Kill(-1, unix.SIGKILL) // shells ignore SIGTERM
		}
	}
	s.host.Sync()
	s.unmountAll()
	s.host.Sync()
	if err := s.host.Reboot(cmd); err != nil {
		s.say("cannot stop the machine: %v", err)
	}
	select {}
}
