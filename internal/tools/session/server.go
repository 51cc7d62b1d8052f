package session

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
)

// Kinds of messages: what is typed and printed, the terminal's size, and orders.
const (
	msgData   = 'd'
	msgSize   = 'w' // rows and columns; the first one attaches
	msgStatus = 's'
	msgDetach = 'D' // all clients
	msgKill   = 'k'
	msgExit   = 'e' // the program's status
	msgFail   = 'f'
)

const maxMessage = 1 << 20

func send(w io.Writer, kind byte, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(b))), b...))
	return err
}

func receive(r io.Reader) (kind byte, b []byte, err error) {
	var h [5]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(h[1:])
	if n > maxMessage {
		return 0, nil, errors.New("the message is too long")
	}
	b = make([]byte, n)
	_, err = io.ReadFull(r, b)
	return h[0], b, err
}

// kept is how much of what was printed is shown to who attaches.
const kept = 256 << 10

// server is a session: a program and its terminal.
type server struct {
	mu      sync.Mutex
	pty     *os.File
	cmd     *exec.Cmd
	ring    []byte
	clients map[*client]bool
	writers sync.WaitGroup
}

// maxPending is how much is kept for a client that does not take it.
const maxPending = 4 * kept

// client is one that is attached. One that lags behind, such as a terminal that was stopped, stays:
// what it did not take is left out, and it gets the screen as it is then.
type client struct {
	net.Conn
	wake    *sync.Cond // of the server; it guards the rest
	pending [][]byte   // messages
	size    int        // bytes of them
	behind  bool       // some were left out
	done    bool       // nothing follows those that are pending
}

// serve runs a session whose socket is at base, with the process number before the name. The
// first message on standard output has the full name, or why it failed.
func serve(base string, argv []string) error {
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGPIPE)
	name := fmt.Sprintf("%d.%s", os.Getpid(), filepath.Base(base))
	s := &server{clients: map[*client]bool{}}
	l, err := s.start(filepath.Join(filepath.Dir(base), name), name, argv)
	if err != nil {
		return send(os.Stdout, msgFail, []byte(err.Error()))
	}
	if err := send(os.Stdout, msgStatus, []byte(name)); err != nil {
		return err
	}
	if null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
		for fd := range 3 {
			_ = unix.Dup3(int(null.Fd()), fd, 0) // the line that this comes from may break
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.talk(c)
		}
	}()
	s.copy()
	status := s.wait()
	l.Close() // its socket is removed with it
	s.mu.Lock()
	for c := range s.clients {
		c.queue(msgExit, []byte{byte(status)})
		s.drop(c)
	}
	s.mu.Unlock()
	time.Sleep(200 * time.Millisecond) // for the answers to orders
	told := make(chan struct{})
	go func() { s.writers.Wait(); close(told) }()
	select {
	case <-told:
	case <-time.After(2 * time.Second): // one that is stopped sees the end of the connection
	}
	return nil
}

func (s *server) start(socket, name string, argv []string) (net.Listener, error) {
	if len(argv) == 0 {
		shell := os.Getenv("SHELL")
		if _, err := os.Stat(shell); err != nil {
			shell = "/bin/sh"
		}
		argv = []string{shell}
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	s.cmd = exec.Command(argv[0], argv[1:]...)
	s.cmd.Env = append(os.Environ(), "STY="+name)
	if s.pty, err = pty.StartWithSize(s.cmd, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// wait gives the program's status.
func (s *server) wait() int {
	_ = s.cmd.Wait() // the state has the result
	if n := s.cmd.ProcessState.ExitCode(); n >= 0 {
		return n
	}
	return 1
}

// copy takes what the program prints, until its terminal is closed.
func (s *server) copy() {
	b := make([]byte, 32<<10)
	for {
		n, err := s.pty.Read(b)
		if n > 0 {
			s.mu.Lock()
			s.ring = append(s.ring, b[:n]...)
			if len(s.ring) > 2*kept {
				s.ring = append([]byte(nil), s.ring[len(s.ring)-kept:]...)
			}
			for c := range s.clients {
				c.queue(msgData, b[:n])
			}
			s.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// queue keeps a message for a client; the server is locked.
func (c *client) queue(kind byte, b []byte) {
	if kind == msgData && c.size+len(b) > maxPending {
		c.pending, c.size, c.behind = nil, 0, true
	}
	if kind != msgData || !c.behind { // the screen has it
		c.pending = append(c.pending, append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(b))), b...))
		c.size += len(b)
	}
	c.wake.Broadcast()
}

// write sends a client what is queued for it.
func (s *server) write(c *client) {
	defer s.writers.Done()
	defer c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for !c.done && !c.behind && len(c.pending) == 0 {
			c.wake.Wait()
		}
		if c.behind {
			c.behind = false
			later := c.pending
			c.pending, c.size = nil, 0
			c.queue(msgData, replay(s.ring))
			c.pending = append(c.pending, later...)
		}
		if len(c.pending) == 0 {
			return
		}
		m := c.pending[0]
		c.pending, c.size = c.pending[1:], c.size-(len(m)-5)
		s.mu.Unlock()
		_, err := c.Write(m)
		s.mu.Lock()
		if err != nil {
			s.drop(c)
			return
		}
	}
}

// drop removes a client; the server is locked.
func (s *server) drop(c *client) {
	delete(s.clients, c)
	c.done = true
	c.wake.Broadcast()
}

// talk serves a connection.
func (s *server) talk(conn net.Conn) {
	c := &client{Conn: conn, wake: sync.NewCond(&s.mu)}
	defer conn.Close()
	for {
		kind, b, err := receive(conn)
		if err != nil {
			break
		}
		switch kind {
		case msgData:
			_, err = s.pty.Write(b)
		case msgSize:
			if len(b) == 4 {
				s.resize(c, binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
			}
		case msgStatus:
			s.mu.Lock()
			n := byte(min(len(s.clients), 255))
			s.mu.Unlock()
			err = send(conn, msgStatus, []byte{n})
		case msgDetach:
			s.mu.Lock()
			for o := range s.clients {
				if o != c {
					o.queue(msgDetach, nil)
					s.drop(o)
				}
			}
			s.mu.Unlock()
			err = send(conn, msgStatus, []byte{0})
		case msgKill:
			s.kill()
			err = send(conn, msgStatus, []byte{0})
		}
		if err != nil {
			break
		}
	}
	s.mu.Lock()
	s.drop(c)
	s.mu.Unlock()
}

// kill ends the program as a broken line would, and then for good.
func (s *server) kill() {
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGKILL} {
		_ = unix.Kill(-s.cmd.Process.Pid, sig) // it may have ended
		for range 20 {
			if unix.Kill(s.cmd.Process.Pid, 0) != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// resize gives the terminal the size of a client's. The first time, the client is attached:
// it gets what was printed, and the program is asked to draw again.
func (s *server) resize(c *client, rows, cols uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rows == 0 || cols == 0 {
		rows, cols = 24, 80
	}
	if s.clients[c] {
		_ = pty.Setsize(s.pty, &pty.Winsize{Rows: rows, Cols: cols}) // the old size stays
		return
	}
	s.clients[c] = true
	s.writers.Add(1)
	go s.write(c)
	c.queue(msgData, replay(s.ring))
	// A program that draws its whole screen does so when the size changes.
	_ = pty.Setsize(s.pty, &pty.Winsize{Rows: max(rows-1, 1), Cols: cols}) // likewise
	_ = pty.Setsize(s.pty, &pty.Winsize{Rows: rows, Cols: cols})           // likewise
}

var (
	// cleared is what clears a screen: from there on everything is shown.
	cleared = lazyregexp.New(`\x1b\[[23]J|\x1b\[H\x1b\[J|\x1bc|\x1b\[\?1049h`)
	// asking are questions to a terminal, whose answers the program does not expect again.
	asking = lazyregexp.New(`\x1b\[[0-9;?>=]*[cn]|\x1b\[[0-9;?]*\$p|\x1b\][0-9]+;\?(\x07|\x1b\\)|\x05`)
)

// replay is what makes a terminal look as the session's does.
func replay(ring []byte) []byte {
	b := ring[max(0, len(ring)-kept):]
	if m := all(cleared(), b); m >= 0 {
		b = b[m:]
	} else if i := bytes.IndexByte(b, '\n'); len(ring) > kept && i >= 0 {
		b = b[i+1:] // the first line is cut off
	}
	return append([]byte("\x1b[0m\x1b[H\x1b[2J"), asking().ReplaceAll(b, nil)...)
}

// all gives where the last match begins, -1 without one.
func all(re *regexp.Regexp, b []byte) int {
	m := re.FindAllIndex(b, -1)
	if len(m) == 0 {
		return -1
	}
	return m[len(m)-1][0]
}
