package nettools

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

const netcatOptions = "4 6 C d k l N n p: q: s: u U v w: z"

// netcatRun is a run of nc.
type netcatRun struct {
	*tools.Env
	network string
	wait    time.Duration // of -w
	quit    time.Duration // after the end of standard input; below 0 it is not waited for
	host    string
}

func netcat(e *tools.Env) error {
	n := &netcatRun{Env: e, network: "tcp", quit: -1}
	seconds, err := e.Int("w", 0)
	if err != nil || seconds < 0 {
		return tools.Usage("timeout invalid: %s", e.Val("w"))
	}
	n.wait = time.Duration(seconds) * time.Second
	if q, err := e.Int("q", -1); err != nil {
		return tools.Usage("quit timer invalid: %s", e.Val("q"))
	} else if q >= 0 {
		n.quit = time.Duration(q) * time.Second
	}
	if e.On("u") {
		n.network = "udp"
	}
	for _, f := range []string{"4", "6"} {
		if e.On(f) {
			n.network += f
		}
	}
	args := e.Args
	if e.On("U") {
		n.network = "unix"
		if len(args) != 1 {
			return tools.Usage("one path is needed")
		}
		args = []string{args[0], ""}
	}
	if e.On("l") {
		switch {
		case len(args) == 0 && e.On("p"):
			args = []string{"", e.Val("p")}
		case len(args) == 1 && e.On("p"):
			args = []string{args[0], e.Val("p")}
		case len(args) == 1:
			args = []string{"", args[0]}
		}
		if e.On("s") && len(args) == 2 {
			args[0] = e.Val("s")
		}
	}
	if len(args) != 2 {
		return tools.Usage("a host and a port are needed")
	}
	n.host = args[0]
	if e.On("l") {
		return n.listen(n.address(args[1]))
	}
	return n.connect(args[1])
}

func (n *netcatRun) address(port string) string {
	if n.network == "unix" {
		return n.host
	}
	return net.JoinHostPort(n.host, port)
}

// ports are those of a range, in order.
func (n *netcatRun) ports(s string) ([]string, error) {
	if n.network == "unix" {
		return []string{""}, nil
	}
	from, to, isRange := strings.Cut(s, "-")
	a, err := net.LookupPort(n.network, from)
	b := a
	if isRange && err == nil {
		b, err = strconv.Atoi(to)
	}
	if a > b {
		a, b = b, a
	}
	if err != nil || a < 1 || b > 65535 {
		return nil, fmt.Errorf("port number invalid: %s", s)
	}
	var out []string
	for ; a <= b; a++ {
		out = append(out, strconv.Itoa(a))
	}
	return out, nil
}

// connect tries the ports one after the other; without -z it stays with the first that answers.
func (n *netcatRun) connect(port string) error {
	ports, err := n.ports(port)
	if err != nil {
		return err
	}
	d := net.Dialer{Timeout: n.wait}
	if src, at := n.Val("s"), n.Val("p"); src+at != "" {
		if d.LocalAddr, err = net.ResolveTCPAddr("tcp", net.JoinHostPort(src, at)); err == nil && n.On("u") {
			d.LocalAddr, err = net.ResolveUDPAddr("udp", net.JoinHostPort(src, at))
		}
		if err != nil {
			return err
		}
	}
	answered := false
	for _, p := range ports {
		c, err := d.Dial(n.network, n.address(p))
		if err == nil && n.On("u") && n.On("v") {
			err = probe(c)
		}
		if c != nil && err != nil {
			c.Close()
		}
		if err != nil {
			var name *net.DNSError
			switch {
			case errors.As(err, &name):
				return fmt.Errorf("getaddrinfo for host \"%s\" port %s: %s", printable.Clean(n.host), p, cause(err))
			case n.On("v") || n.network == "unix":
				n.Fault(0, "connect to %s port %s (%s) failed: %s", n.host, p, n.network, cause(err))
			}
			continue
		}
		answered = true
		if n.On("v") {
			fmt.Fprintf(n.Err, "Connection to %s %s port [%s/*] succeeded!\n", n.host, p, strings.TrimRight(n.network, "46"))
		}
		if n.On("z") {
			c.Close()
			continue
		}
		return n.exchange(c)
	}
	if !answered {
		return tools.Status(1)
	}
	return nil
}

// probe finds out by an ICMP answer that nobody listens to a UDP port.
func probe(c net.Conn) error {
	for range 4 {
		if _, err := c.Write([]byte("X")); err != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}

// listen waits for a connection, with -k for one after the other.
func (n *netcatRun) listen(addr string) error {
	if n.On("u") {
		return n.listenUDP(addr)
	}
	// As many programs do, a port may be used again at once.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	}}
	l, err := lc.Listen(context.Background(), n.network, addr)
	if err != nil {
		return fmt.Errorf("%s", cause(err))
	}
	if n.On("v") {
		fmt.Fprintf(n.Err, "Listening on %s\n", l.Addr())
	}
	for {
		if t, ok := l.(*net.TCPListener); ok && n.wait > 0 {
			if err := t.SetDeadline(time.Now().Add(n.wait)); err != nil {
				return err
			}
		}
		c, err := l.Accept()
		if err != nil {
			return tools.Status(1)
		}
		if !n.On("k") {
			l.Close()
		}
		if n.On("v") {
			fmt.Fprintf(n.Err, "Connection received on %s\n", c.RemoteAddr())
		}
		if err := n.exchange(c); err != nil || !n.On("k") {
			return err
		}
	}
}

// listenUDP stays with the first that sends something.
func (n *netcatRun) listenUDP(addr string) error {
	p, err := net.ListenPacket(n.network, addr)
	if err != nil {
		return fmt.Errorf("%s", cause(err))
	}
	defer p.Close()
	buf := make([]byte, 65536)
	size, from, err := p.ReadFrom(buf)
	if err != nil {
		return err
	}
	if n.On("v") {
		fmt.Fprintf(n.Err, "Connection received on %s\n", from)
	}
	if _, err := (flushed{n.Out}).Write(buf[:size]); err != nil {
		return err
	}
	return n.exchange(&peer{p.(*net.UDPConn), from})
}

// peer is the other side of a UDP socket.
type peer struct {
	*net.UDPConn
	addr net.Addr
}

func (p *peer) Write(b []byte) (int, error) { return p.WriteTo(b, p.addr) }
func (p *peer) Read(b []byte) (int, error) {
	for {
		n, from, err := p.ReadFrom(b)
		if err != nil || from.String() == p.addr.String() {
			return n, err
		}
	}
}

// exchange copies between the standard streams and a connection. The end of the connection
// ends it, unless a file is still being sent.
func (n *netcatRun) exchange(c net.Conn) error {
	defer c.Close()
	var last atomic.Int64 // when something passed
	touch := func() { last.Store(time.Now().UnixNano()) }
	touch()
	sent, got := make(chan error, 1), make(chan error, 1)
	if n.On("d") {
		sent = nil
	} else {
		go func() {
			_, err := io.Copy(&passed{c, touch, n.On("C")}, n.In)
			sent <- err
		}()
	}
	go func() {
		_, err := io.Copy(&passed{flushed{n.Out}, touch, false}, c)
		got <- err
	}()
	var idle <-chan time.Time
	if n.wait > 0 {
		t := time.NewTicker(n.wait / 4)
		defer t.Stop()
		idle = t.C
	}
	var quit <-chan time.Time
	for {
		select {
		case err := <-sent:
			if sent = nil; got == nil || err != nil && errors.Is(err, syscall.EPIPE) {
				return nil
			}
			if n.On("N") {
				finishWrite(c)
			}
			if n.quit >= 0 {
				quit = time.After(n.quit)
			}
		case err := <-got:
			if got = nil; err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNREFUSED) {
				return fmt.Errorf("%s", cause(err))
			} else if err != nil {
				return tools.Status(1)
			}
			if sent == nil || term.IsTerminal(int(os.Stdin.Fd())) {
				return nil
			}
		case <-quit:
			return nil
		case <-idle:
			if time.Since(time.Unix(0, last.Load())) >= n.wait {
				return nil
			}
		}
	}
}

// passed notes when something passes, and may write CR LF for LF.
type passed struct {
	io.Writer
	touch func()
	crlf  bool
}

func (p *passed) Write(b []byte) (int, error) {
	p.touch()
	if !p.crlf {
		return p.Writer.Write(b)
	}
	_, err := io.WriteString(p.Writer, strings.ReplaceAll(string(b), "\n", "\r\n"))
	return len(b), err
}

// flushed writes what it gets at once.
type flushed struct{ w flusher }

type flusher interface {
	io.Writer
	Flush() error
}

func (f flushed) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	return n, errors.Join(err, f.w.Flush())
}
