// Package sshserver is the rescue system's ssh server: keys only, a host key
// made when it starts and never written anywhere, shells with a terminal,
// commands, and sftp for scp(1).
package sshserver

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/creack/pty"
	"github.com/gliderlabs/ssh"
	"github.com/pkg/sftp"
	gossh "golang.org/x/crypto/ssh"

	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// Limits for those who are not logged in, or are many.
const (
	loginGrace  = 30 * time.Second // for the handshake, the login and the first session
	maxWaiting  = 10               // connections without a session
	maxConns    = 40               // connections at all
	maxSessions = 10               // in one connection
	maxTries    = 6                // keys in one connection
	logLines    = 30               // in one go; then
	logPause    = 2 * time.Second  // for each further one
	maxUser     = 64               // bytes of a user name in the log
)

// Server serves ssh.
type Server struct {
	srv     *ssh.Server
	keys    []Key
	log     *limiter
	grace   time.Duration
	conns   atomic.Int32 // open
	waiting atomic.Int32 // of these, without a session so far
	// Fingerprint of the host key, as ssh(1) shows it.
	Fingerprint string
}

// New makes a server for those who hold one of the keys; shell is what they
// get, unless an option of their key changes it. log receives who logged in and who was
// refused, in a bounded number of lines.
func New(keys []Key, shell []string, log func(format string, args ...any)) (*Server, error) {
	if len(keys) == 0 {
		return nil, errors.New("cannot serve ssh: there is no key, and passwords are not taken")
	}
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a host key: %w", err)
	}
	signer, err := gossh.NewSignerFromKey(priv)
	if err != nil {
		return nil, fmt.Errorf("cannot make a host key: %w", err)
	}
	s := &Server{Fingerprint: gossh.FingerprintSHA256(signer.PublicKey()), grace: loginGrace, log: newLimiter(log, time.Now), keys: keys}
	s.srv = &ssh.Server{
		HostSigners:      []ssh.Signer{signer},
		Version:          "mkcdrec",
		Handler:          func(c ssh.Session) { serve(c, keyOf(c), shell) },
		PublicKeyHandler: s.accepts,
		PtyCallback: func(ctx ssh.Context, _ ssh.Pty) bool {
			k, ok := ctx.Value(keyName).(Key)
			return ok && !k.noPTY
		},
		ConnCallback: s.connect,
		ServerConfigCallback: func(ctx ssh.Context) *gossh.ServerConfig {
			return &gossh.ServerConfig{MaxAuthTries: maxTries, AuthLogCallback: func(c gossh.ConnMetadata, method string, err error) {
				if k, ok := ctx.Value(keyName).(Key); ok && err == nil {
					s.log.printf("ssh: %s from %s logged in with key %s", user(c.User()), c.RemoteAddr(), gossh.FingerprintSHA256(k))
				}
			}}
		},
		ChannelHandlers: map[string]ssh.ChannelHandler{"session": s.session},
		SubsystemHandlers: map[string]ssh.SubsystemHandler{"sftp": func(c ssh.Session) {
			if k := keyOf(c); k.forced {
				serve(c, k, shell)
				return
			}
			serveSFTP(c)
		}},
		ConnectionFailedCallback: func(c net.Conn, err error) {
			s.log.printf("ssh: connection from %s ended before a login: %s", c.RemoteAddr(), printable.Short(err.Error(), 200))
		},
		IdleTimeout: 24 * time.Hour,
	}
	return s, nil
}

// user is a user name, which can be any bytes, in a log line.
func user(name string) string {
	if len(name) > maxUser {
		name = name[:maxUser] + "..."
	}
	return strconv.QuoteToASCII(name)
}

type name int

// keyName and connName are what a connection's context has our values under.
const (
	keyName name = iota
	connName
)

// keyOf is the key that the session's connection logged in with.
func keyOf(c ssh.Session) Key {
	k, ok := c.Context().Value(keyName).(Key)
	if !ok {
		return Key{forced: true, command: "exit 1", noPTY: true} // can't be: nothing else logs in
	}
	return k
}

// accepts decides about a key. x/crypto/ssh remembers one answer only, so the
// last key that this was called with is the one that logs in.
func (s *Server) accepts(ctx ssh.Context, key ssh.PublicKey) bool {
	why := "unknown key"
	for _, k := range s.keys {
		if !ssh.KeysEqual(k.PublicKey, key) {
			continue
		}
		// A key may have several lines; the first that fits counts.
		if why = k.refuses(ctx.RemoteAddr(), time.Now()); why == "" {
			ctx.SetValue(keyName, k)
			return true
		}
	}
	ctx.SetValue(keyName, nil)
	s.log.printf("ssh: refused %s from %s: %s %s", user(ctx.User()), ctx.RemoteAddr(), why, gossh.FingerprintSHA256(key))
	return false
}

// conn is a connection that is counted, and ended if no session comes.
type conn struct {
	net.Conn
	s        *Server
	timer    *time.Timer
	sessions atomic.Int32
	waiting  atomic.Bool
	closed   sync.Once
}

func (s *Server) connect(ctx ssh.Context, c net.Conn) net.Conn {
	if n := s.conns.Add(1); n > maxConns || s.waiting.Load() >= maxWaiting {
		s.conns.Add(-1)
		s.log.printf("ssh: refused a connection from %s: too many connections", c.RemoteAddr())
		return nil
	}
	s.waiting.Add(1)
	g := &conn{Conn: c, s: s}
	g.waiting.Store(true)
	g.timer = time.AfterFunc(s.grace, func() {
		s.log.printf("ssh: no login from %s within %v", c.RemoteAddr(), s.grace)
		g.Close()
	})
	ctx.SetValue(connName, g)
	return g
}

// begun ends the time for the login.
func (c *conn) begun() {
	if c.waiting.CompareAndSwap(true, false) {
		c.timer.Stop()
		c.s.waiting.Add(-1)
	}
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.closed.Do(func() { c.begun(); c.s.conns.Add(-1) })
	return c.Conn.Close()
}

// session counts the sessions of a connection.
func (s *Server) session(srv *ssh.Server, sc *gossh.ServerConn, ch gossh.NewChannel, ctx ssh.Context) {
	c, ok := ctx.Value(connName).(*conn)
	if !ok || c.sessions.Add(1) > maxSessions {
		if ok {
			c.sessions.Add(-1)
		}
		_ = ch.Reject(gossh.ResourceShortage, "too many sessions") // the client may be disconnected
		return
	}
	c.begun()
	defer c.sessions.Add(-1)
	ssh.DefaultSessionHandler(srv, sc, ch, ctx)
}

// limiter passes lines on, as long as they are not too many: a scanner must not
// fill the log, which is in memory.
type limiter struct {
	mu   sync.Mutex
	to   func(format string, args ...any)
	now  func() time.Time
	room float64
	last time.Time
	lost int
}

func newLimiter(to func(string, ...any), now func() time.Time) *limiter {
	return &limiter{to: to, now: now, room: logLines, last: now()}
}

func (l *limiter) printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.room = min(l.room+float64(now.Sub(l.last))/float64(logPause), logLines)
	l.last = now
	if l.room < 1 {
		l.lost++
		return
	}
	l.room--
	if l.lost > 0 {
		l.to("ssh: %d lines were left out of the log", l.lost)
		l.lost = 0
	}
	l.to(format, args...)
}

// Serve serves until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	// The server knows the listener only once it serves: a context that ended before
	// has to close it, too.
	stop := context.AfterFunc(ctx, func() { l.Close(); s.srv.Close() })
	defer stop()
	if err := s.srv.Serve(l); err != nil && !errors.Is(err, ssh.ErrServerClosed) && ctx.Err() == nil {
		return err
	}
	return nil
}

// serve runs a shell, or with a shell the requested command or the one that the
// key is for.
func serve(c ssh.Session, key Key, shell []string) {
	args := shell[1:]
	switch {
	case key.forced:
		args = []string{"-c", key.command}
	case c.RawCommand() != "":
		args = []string{"-c", c.RawCommand()}
	}
	cmd := exec.Command(shell[0], args...)
	cmd.Args[0] = filepath.Base(shell[0])
	cmd.Dir = "/root"
	if _, err := os.Stat(cmd.Dir); err != nil {
		cmd.Dir = "/"
	}
	cmd.Env = append(append(os.Environ(), key.env...), "SSH_CONNECTION="+c.RemoteAddr().String())
	if key.forced && c.RawCommand() != "" {
		cmd.Env = append(cmd.Env, "SSH_ORIGINAL_COMMAND="+c.RawCommand())
	}
	p, window, terminal := c.Pty()
	if !terminal {
		cmd.Stdout, cmd.Stderr = c, c.Stderr()
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			fmt.Fprintln(c.Stderr(), err)
			_ = c.Exit(127) // the client may be disconnected
			return
		}
		go func() { _, _ = io.Copy(in, c); in.Close() }()
		end(c, cmd.Wait())
		return
	}
	cmd.Env = append(cmd.Env, "TERM="+p.Term)
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: uint16(p.Window.Height), Cols: uint16(p.Window.Width)})
	if err != nil {
		fmt.Fprintln(c, err)
		_ = c.Exit(127) // likewise
		return
	}
	defer f.Close()
	go func() {
		for w := range window {
			_ = pty.Setsize(f, &pty.Winsize{Rows: uint16(w.Height), Cols: uint16(w.Width)}) // on failure the old size stays
		}
	}()
	go func() { _, _ = io.Copy(f, c) }() // ends with the session
	done := make(chan struct{})
	go func() { _, _ = io.Copy(c, f); close(done) }() // EIO is a terminal's end
	err = cmd.Wait()
	select {
	case <-done:
	case <-time.After(2 * time.Second): // something in the background holds the terminal
	}
	end(c, err)
}

func end(c ssh.Session, err error) {
	var ee *exec.ExitError
	code := 0
	if errors.As(err, &ee) {
		if code = ee.ExitCode(); code < 0 {
			code = 255
		}
	} else if err != nil {
		code = 255
	}
	_ = c.Exit(code) // the client may be disconnected
}

func serveSFTP(c ssh.Session) {
	// The server closes what it is given, and the exit status comes after.
	s, err := sftp.NewServer(struct {
		io.Reader
		io.WriteCloser
	}{c, noClose{c}})
	if err != nil {
		return
	}
	_ = s.Serve() // the client ends it as it likes
	_ = c.Exit(0) // likewise; scp expects it
}

type noClose struct{ io.Writer }

func (noClose) Close() error { return nil }
