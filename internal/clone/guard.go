package clone

import (
	"errors"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// GuardWord is the first word of clonedsk's command line that runs Guard with the next word.
const GuardWord = "guard-frozen-file-system"

// frozenLimit is how long a file system stays frozen while nothing of it is copied.
const frozenLimit = time.Minute

// guard is a process that thaws a file system when this one was killed, or waits for the
// file system itself.
type guard struct {
	cmd  *exec.Cmd
	pipe *os.File
	mu   sync.Mutex
	last time.Time
}

// startGuard runs the guard of dir. It is there before anything is frozen, since a program
// can't be started from a frozen file system in all cases.
func startGuard(dir string) (*guard, error) {
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	g := &guard{cmd: exec.Command("/proc/self/exe", GuardWord, dir), pipe: out}
	g.cmd.Args[0] = "clonedsk"
	g.cmd.Stdin = in
	g.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true} // Ctrl-C is not for it
	ready, w, err := os.Pipe()
	if err != nil {
		out.Close()
		return nil, err
	}
	defer ready.Close()
	g.cmd.Stdout = w
	err = g.cmd.Start()
	w.Close()
	if err != nil {
		out.Close()
		return nil, err
	}
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		g.end()
		return nil, errors.New("the process that has to thaw it does not start")
	}
	return g, nil
}

// beat signals to the guard that the copy continues.
func (g *guard) beat() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := time.Now(); now.Sub(g.last) > time.Second {
		g.last = now
		_, _ = g.pipe.Write([]byte{'+'}) // one that ended can't be helped
	}
}

// end ends the guard, which thaws nothing any more.
func (g *guard) end() {
	_, _ = g.pipe.Write([]byte{'.'})
	g.pipe.Close()
	_ = g.cmd.Wait()
}

// Guard thaws the file system at dir when in ends without a ".", or when nothing is read
// from it for frozenLimit. It is for a process of its own, which writes a byte to ready when
// it waits.
func Guard(dir string, in, ready *os.File) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	input := make(chan byte)
	go func() {
		defer close(input)
		for b := make([]byte, 1); ; {
			if n, err := in.Read(b); n == 0 || err != nil {
				return
			}
			input <- b[0]
		}
	}()
	if _, err := ready.Write([]byte{'+'}); err != nil {
		return err
	}
	for {
		select {
		case b, ok := <-input:
			if b == '.' {
				return nil
			}
			if ok {
				continue
			}
		case <-time.After(frozenLimit):
		}
		return unix.IoctlSetInt(int(d.Fd()), fiThaw, 0)
	}
}
