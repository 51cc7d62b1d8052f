package nettools

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// secureShell is ssh.
func secureShell(e *tools.Env) error {
	if e.On("V") {
		fmt.Fprintln(e.Err, "mkcdrec's ssh, which has no agent and no configuration files")
		return nil
	}
	if len(e.Args) == 0 {
		return tools.Usage("destination required")
	}
	name := e.Args[0]
	// Options may follow the host, too.
	more, command, err := tools.Parse(e.Spec(), e.Args[1:])
	if err != nil {
		return tools.Usage("%v", err)
	}
	e.Options = e.Options.And(more)
	l, err := newLogin(e)
	if err != nil {
		return err
	}
	p, err := parsePlace(name, "ssh", false)
	if err == nil {
		p, err = l.fill(p)
	}
	if err != nil {
		return err
	}
	c, err := l.dial(p)
	if err != nil {
		return err
	}
	defer c.Close()
	if e.On("W") {
		return l.throughTo(c, e.Val("W"))
	}
	if err := l.forward(c); err != nil {
		return err
	}
	if e.On("N") {
		err := c.Wait()
		return said("Connection to %s closed: %s", p.host, cause(err))
	}
	return l.session(c, p, strings.Join(command, " "))
}

// session runs a command, or a shell, on a machine.
func (l *login) session(c *ssh.Client, p place, command string) error {
	s, err := c.NewSession()
	if err != nil {
		return fmt.Errorf("cannot open a session: %w", err)
	}
	defer s.Close()
	in, err := s.StdinPipe()
	if err != nil {
		return err
	}
	s.Stdout, s.Stderr = os.Stdout, os.Stderr
	var input io.Reader = os.Stdin
	if l.On("n") {
		input = strings.NewReader("")
	}
	terminal := l.wantsTerminal(command)
	if terminal {
		restore, err := l.terminal(s, int(os.Stdin.Fd()))
		if err != nil {
			return err
		}
		defer restore()
		input = &escapes{r: input, start: true, end: func() { c.Close() }}
	}
	switch {
	case l.On("s"):
		err = s.RequestSubsystem(command)
	case command == "":
		err = s.Shell()
	default:
		err = s.Start(command)
	}
	if err != nil {
		return fmt.Errorf("cannot start the command on %s: %s", p.host, cause(err))
	}
	go func() {
		_, _ = io.Copy(in, input) // a command that ends before its input does is not at fault
		_ = in.Close()
	}()
	err = s.Wait()
	if terminal && !l.On("q") {
		fmt.Fprintf(l.Err, "Connection to %s closed.\r\n", p.host)
	}
	return ended(err, p)
}

// ended gives the exit status of what has run on a machine.
func ended(err error, p place) error {
	var status *ssh.ExitError
	switch {
	case errors.As(err, &status) && status.Signal() == "":
		return tools.Status(status.ExitStatus())
	case errors.As(err, &status):
		return tools.Status(sshFailed)
	case errors.As(err, new(*ssh.ExitMissingError)):
		return said("Connection to %s closed by remote host.", p.host)
	}
	return err
}

// wantsTerminal reports whether the command gets a terminal: a shell does, if we have one.
func (l *login) wantsTerminal(command string) bool {
	wants := l.words["requesttty"]
	if wants == "force" || l.forced() {
		return true
	}
	wanted := command == "" && wants != "no" || wants == "yes" || l.On("t")
	return wanted && !l.On("T") && term.IsTerminal(int(os.Stdin.Fd()))
}

// forced reports ssh -tt.
func (l *login) forced() bool {
	n := 0
	for _, o := range l.All() {
		if o.Name == "t" {
			n++
		}
	}
	return n > 1
}

// controls are the characters and modes of a terminal that the server is told, RFC 4254 8.
var controls = []struct {
	code      uint8
	character int    // index of c_cc; -1 for a mode
	mode      uint32 // of c_iflag up to code 42, of c_lflag then, of c_oflag from 70
}{
	{ssh.VINTR, unix.VINTR, 0}, {ssh.VQUIT, unix.VQUIT, 0}, {ssh.VERASE, unix.VERASE, 0}, {ssh.VKILL, unix.VKILL, 0}, {ssh.VEOF, unix.VEOF, 0}, {ssh.VSTART, unix.VSTART, 0}, {ssh.VSTOP, unix.VSTOP, 0},
	{ssh.VSUSP, unix.VSUSP, 0}, {ssh.VREPRINT, unix.VREPRINT, 0}, {ssh.VWERASE, unix.VWERASE, 0}, {ssh.VLNEXT, unix.VLNEXT, 0}, {ssh.ICRNL, -1, unix.ICRNL}, {ssh.IXON, -1, unix.IXON}, {ssh.IXANY, -1, unix.IXANY},
	{ssh.IUTF8, -1, unix.IUTF8}, {ssh.ISIG, -1, unix.ISIG}, {ssh.ICANON, -1, unix.ICANON}, {ssh.ECHO, -1, unix.ECHO}, {ssh.ECHOE, -1, unix.ECHOE}, {ssh.ECHOK, -1, unix.ECHOK}, {ssh.IEXTEN, -1, unix.IEXTEN},
	{ssh.ECHOCTL, -1, unix.ECHOCTL}, {ssh.ECHOKE, -1, unix.ECHOKE}, {ssh.OPOST, -1, unix.OPOST}, {ssh.ONLCR, -1, unix.ONLCR},
}

// terminal requests one on the server that is like ours, and makes ours raw until the
// function that it returns is called.
func (l *login) terminal(s *ssh.Session, fd int) (restore func(), err error) {
	modes := ssh.TerminalModes{}
	if t, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
		for _, c := range controls {
			switch flags := map[bool]uint32{true: t.Iflag, false: t.Lflag}[c.code <= ssh.IUTF8]; {
			case c.character >= 0:
				modes[c.code] = uint32(t.Cc[c.character])
			case c.code >= ssh.OPOST:
				modes[c.code] = bit(t.Oflag & c.mode)
			default:
				modes[c.code] = bit(flags & c.mode)
			}
		}
	}
	width, height, err := term.GetSize(fd)
	if err != nil {
		width, height = 80, 24
	}
	if err := s.RequestPty(cmp.Or(os.Getenv("TERM"), "vt100"), height, width, modes); err != nil {
		return nil, fmt.Errorf("PTY allocation request failed: %s", cause(err))
	}
	state, err := term.MakeRaw(fd)
	if err != nil {
		return func() {}, nil // ssh -tt with a file
	}
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, unix.SIGWINCH, unix.SIGTERM, unix.SIGHUP)
	go func() {
		for sig := range ch {
			if sig != unix.SIGWINCH {
				_ = term.Restore(fd, state)
				os.Exit(sshFailed)
			}
			if w, h, err := term.GetSize(fd); err == nil {
				_ = s.WindowChange(h, w) // the next change sends it again
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		_ = term.Restore(fd, state) // it has just been set
	}, nil
}

func bit(n uint32) uint32 {
	if n != 0 {
		return 1
	}
	return 0
}

// escapes finds ~. and ~~ after a newline in what is typed.
type escapes struct {
	r            io.Reader
	start, tilde bool // at the start of a line; after a tilde there
	end          func()
}

func (x *escapes) Read(p []byte) (int, error) {
	buf := make([]byte, max(1, len(p)/2)) // a tilde that was kept comes before the next byte
	n, err := x.r.Read(buf)
	out := p[:0]
	for _, b := range buf[:n] {
		if x.tilde {
			x.tilde = false
			if b == '.' {
				x.end()
				return len(out), io.EOF
			}
			if out = append(out, '~'); b == '~' {
				x.start = false
				continue
			}
		}
		if x.tilde = x.start && b == '~'; x.tilde {
			continue
		}
		x.start = b == '\r' || b == '\n'
		out = append(out, b)
	}
	return len(out), err
}

// throughTo is ssh -W: the standard streams reach HOST:PORT from the server.
func (l *login) throughTo(c *ssh.Client, addr string) error {
	conn, err := c.Dial("tcp", addr)
	if err != nil {
		return fmt.Errorf("stdio forwarding failed: %s", cause(err))
	}
	go func() {
		_, _ = io.Copy(conn, os.Stdin) // the other direction reports what is wrong
		finishWrite(conn)
	}()
	_, err = io.Copy(os.Stdout, conn)
	return err
}

// join copies between two connections until both directions have ended.
func join(a, b net.Conn) {
	var wait sync.WaitGroup
	for _, d := range [][2]net.Conn{{a, b}, {b, a}} {
		wait.Go(func() {
			_, _ = io.Copy(d[0], d[1]) // both ends see that the connection has ended
			finishWrite(d[0])
		})
	}
	wait.Wait()
	a.Close()
	b.Close()
}

// finishWrite reports to the other side that nothing more is written.
func finishWrite(w any) {
	if c, ok := w.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite() // the connection may have ended
	}
}

// forward opens the ports of -L here and of -R on the server.
func (l *login) forward(c *ssh.Client) error {
	for _, o := range l.All() {
		if o.Name != "L" && o.Name != "R" {
			continue
		}
		listen, to, err := parseForward(o.Value)
		if err != nil {
			return tools.Usage("Bad forwarding specification '%s'", printable.Clean(o.Value))
		}
		var ear net.Listener
		dial := c.Dial
		if o.Name == "L" {
			ear, err = net.Listen("tcp", listen)
		} else {
			ear, err = c.Listen("tcp", listen)
			dial = net.Dial
		}
		if err != nil {
			return fmt.Errorf("cannot listen to port %s: %s", listen, cause(err))
		}
		go func() {
			for {
				near, err := ear.Accept()
				if err != nil {
					return
				}
				go func() {
					far, err := dial("tcp", to)
					if err != nil {
						l.Fault(0, "open failed: connect to %s: %s", to, cause(err))
						near.Close()
						return
					}
					join(near, far)
				}()
			}
		}()
	}
	return nil
}

// parseForward reads [BIND:]PORT:HOST:HOSTPORT; hosts in brackets may have colons.
func parseForward(s string) (listen, to string, err error) {
	var parts []string
	for s != "" {
		n := strings.IndexByte(s, ':')
		if s[0] == '[' {
			n = strings.Index(s, "]:") + 1
			if n == 0 && s[len(s)-1] != ']' {
				return "", "", errors.New("a bracket without an end")
			}
		}
		if n <= 0 {
			n = len(s)
		}
		parts = append(parts, strings.Trim(s[:n], "[]"))
		s = strings.TrimPrefix(s[n:], ":")
	}
	if len(parts) == 3 {
		parts = append([]string{"localhost"}, parts...)
	}
	if len(parts) != 4 {
		return "", "", errors.New("not [BIND:]PORT:HOST:HOSTPORT")
	}
	if parts[0] == "*" {
		parts[0] = ""
	}
	return net.JoinHostPort(parts[0], parts[1]), net.JoinHostPort(parts[2], parts[3]), nil
}
