package rescueinit

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/rescue"
)

// extraConsoles are the virtual terminals that get a shell besides the
// kernel's consoles; it starts when somebody presses a key there.
var extraConsoles = []string{"/dev/tty1", "/dev/tty2", "/dev/tty3", "/dev/tty4"}

// shells starts a shell on every console; the first one runs the unattended
// job before.
func (s *System) shells(auto bool) {
	for i, c := range s.consoles {
		s.begin("the shell on "+c, func() { s.session(c, i == 0 && auto, false) })
	}
	if _, err := os.Stat(s.host.Path("/sys/class/tty/tty0")); err != nil {
		return // a kernel or a machine without screen
	}
	for _, c := range extraConsoles {
		if !slices.Contains(s.consoles, c) {
			s.begin("the shell on "+c, func() { s.session(c, false, true) })
		}
	}
}

// openConsoles finds the kernel's consoles; what is said goes to all of them.
func (s *System) openConsoles() {
	b, err := os.ReadFile(s.host.Path("/sys/class/tty/console/active"))
	names := strings.Fields(string(b))
	if err != nil || len(names) == 0 {
		names = []string{"console"}
	}
	writers := []io.Writer{}
	for _, n := range names {
		if n == "tty0" {
			n = "tty1"
		}
		f, err := os.OpenFile(s.host.Path("/dev/"+n), os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		s.consoles = append(s.consoles, "/dev/"+n)
		writers = append(writers, bestEffort{f})
	}
	log := s.host.Path(rescue.LogFile)
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err == nil {
		if f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
			writers = append(writers, f)
			s.log = f
		}
	}
	s.out = io.MultiWriter(writers...)
	if len(s.consoles) == 0 {
		s.consoles = []string{"/dev/console"}
	}
}

// bestEffort never fails: a console that is disconnected must not silence the others.
type bestEffort struct{ w io.Writer }

func (b bestEffort) Write(p []byte) (int, error) {
	_, _ = b.w.Write(p) // see above
	return len(p), nil
}

// session keeps a shell on a console. auto runs the unattended job before, ask
// waits for a key, so that shells nobody uses take no memory.
func (s *System) session(dev string, auto, ask bool) {
	if auto {
		s.guard("the unattended job", s.unattended)
	}
	said := false
	for {
		if ask {
			if err := askKey(s.host.Path(dev)); err != nil {
				return // no such terminal
			}
		}
		if err := s.shell(dev); err != nil {
			if !said { // another process may have it
				s.say("no shell on %s: %v", dev, err)
			}
			said = true
			time.Sleep(5 * time.Second)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// askKey waits for Enter on a terminal.
func askKey(dev string) error {
	f, err := os.OpenFile(dev, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Fprintf(f, "\nmkcdrec: press Enter for a shell on %s\n", filepath.Base(dev))
	b := make([]byte, 1)
	for {
		if n, err := f.Read(b); err != nil {
			return err
		} else if n > 0 && b[0] == '\n' {
			return nil
		}
	}
}

// shell runs one shell on a console, with the console as its terminal.
func (s *System) shell(dev string) error {
	f, err := os.OpenFile(s.host.Path(dev), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	termName := "linux"
	if !strings.HasPrefix(dev, "/dev/tty") || strings.HasPrefix(dev, "/dev/ttyS") || strings.HasPrefix(dev, "/dev/ttyA") || strings.HasPrefix(dev, "/dev/ttyU") {
		termName = "vt220"
	}
	for _, sh := range []string{"/usr/bin/bash", "/bbin/sh"} {
		if _, err = os.Stat(s.host.Path(sh)); err != nil {
			continue
		}
		c := exec.Command(sh)
		c.Args = []string{filepath.Base(sh), "-i"}
		c.Dir = "/root"
		c.Env = append(os.Environ(), "TERM="+termName)
		c.Stdin, c.Stdout, c.Stderr = f, f, f
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
		var ch chan unix.WaitStatus
		if ch, err = s.spawn(c); err == nil {
			<-ch
			return nil
		}
	}
	return err
}
