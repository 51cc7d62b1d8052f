// Package sshserver is the rescue system's ssh server: keys only, a host key
// made at its start that is never written anywhere, shells with a terminal,
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
	"strings"
	"time"

	"github.com/creack/pty"
	"github.com/gliderlabs/ssh"
	"github.com/pkg/sftp"
	gossh "golang.org/x/crypto/ssh"
)

// ParseKeys reads authorized_keys(5) lines. Errors name the line.
func ParseKeys(text string) ([]ssh.PublicKey, error) {
	var keys []ssh.PublicKey
	for i, l := range strings.Split(text, "\n") {
		if l = strings.TrimSpace(l); l == "" || l[0] == '#' {
			continue
		}
		k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(l))
		if err != nil {
			return nil, fmt.Errorf("cannot read ssh keys: line %d is no public key in the form of authorized_keys: %w", i+1, err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// Server serves ssh.
type Server struct {
	srv *ssh.Server
	// Fingerprint of the host key, as ssh(1) shows it.
	Fingerprint string
}

// New makes a server for those who hold one of the keys; shell is what they
// get. log is told who came and who was refused.
func New(keys []ssh.PublicKey, shell []string, log func(format string, args ...any)) (*Server, error) {
	if len(keys) == 0 {
		return nil, errors.New("cannot serve ssh: nobody has a key, and passwords are not taken")
	}
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a host key: %w", err)
	}
	signer, err := gossh.NewSignerFromKey(priv)
	if err != nil {
		return nil, fmt.Errorf("cannot make a host key: %w", err)
	}
	s := &Server{Fingerprint: gossh.FingerprintSHA256(signer.PublicKey())}
	s.srv = &ssh.Server{
		HostSigners: []ssh.Signer{signer},
		Version:     "mkcdrec",
		Handler:     func(c ssh.Session) { serve(c, shell) },
		PublicKeyHandler: func(ctx ssh.Context, key ssh.PublicKey) bool {
			for _, k := range keys {
				if ssh.KeysEqual(k, key) {
					log("ssh: %s from %s with key %s", ctx.User(), ctx.RemoteAddr(), gossh.FingerprintSHA256(key))
					return true
				}
			}
			log("ssh: refused %s from %s: unknown key %s", ctx.User(), ctx.RemoteAddr(), gossh.FingerprintSHA256(key))
			return false
		},
		SubsystemHandlers: map[string]ssh.SubsystemHandler{"sftp": serveSFTP},
		IdleTimeout:       24 * time.Hour,
	}
	return s, nil
}

// Serve serves until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { s.srv.Close() })
	defer stop()
	if err := s.srv.Serve(l); err != nil && !errors.Is(err, ssh.ErrServerClosed) {
		return err
	}
	return nil
}

// serve runs a shell, or the command that was asked for by one.
func serve(c ssh.Session, shell []string) {
	args := shell[1:]
	if c.RawCommand() != "" {
		args = []string{"-c", c.RawCommand()}
	}
	cmd := exec.Command(shell[0], args...)
	cmd.Args[0] = filepath.Base(shell[0])
	cmd.Dir = "/root"
	if _, err := os.Stat(cmd.Dir); err != nil {
		cmd.Dir = "/"
	}
	cmd.Env = append(os.Environ(), "SSH_CONNECTION="+c.RemoteAddr().String())
	p, window, terminal := c.Pty()
	if !terminal {
		cmd.Stdout, cmd.Stderr = c, c.Stderr()
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			fmt.Fprintln(c.Stderr(), err)
			_ = c.Exit(127) // the client may be gone
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
			_ = pty.Setsize(f, &pty.Winsize{Rows: uint16(w.Height), Cols: uint16(w.Width)}) // the old size will do
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
	_ = c.Exit(code) // the client may be gone
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
	_ = c.Exit(0) // likewise; scp wants to hear it
}

type noClose struct{ io.Writer }

func (noClose) Close() error { return nil }
