package store

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

const (
	// closeWait is how long closing a file may wait for the server.
	closeWait = 3 * time.Second
	// syncPatience is how many times longer a server may be silent while it stores a file safely.
	syncPatience = 10
)

// sftpConn is a connection to a server of ssh, with its session of sftp.
type sftpConn struct {
	ssh     *ssh.Client
	client  *sftp.Client
	passed  atomic.Int64 // bytes of sftp in both directions, and calls
	running atomic.Int32 // calls that use it
	silent  atomic.Bool  // it was closed since the server did not answer
}

// newSFTPConn begins sftp on a connection. The server has the header's time for it.
func newSFTPConn(ctx context.Context, c *ssh.Client, limits limits) (*sftpConn, error) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	conn := &sftpConn{ssh: c}
	timer := time.AfterFunc(limits.header, func() { conn.silent.Store(true); c.Close() })
	defer timer.Stop()
	err := conn.session()
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case conn.silent.Load():
		return nil, errSilent
	case strings.Contains(err.Error(), "subsystem request failed"):
		return nil, permanent{errors.New("the server has no sftp")}
	}
	return nil, err
}

func (c *sftpConn) session() error {
	s, err := c.ssh.NewSession()
	if err != nil {
		return err
	}
	if err := s.RequestSubsystem("sftp"); err != nil {
		return err
	}
	w, err := s.StdinPipe()
	if err != nil {
		return err
	}
	r, err := s.StdoutPipe()
	if err != nil {
		return err
	}
	c.client, err = sftp.NewClientPipe(sftpReader{r, c}, sftpWriter{w, c}, sftp.UseConcurrentWrites(true), sftp.UseConcurrentReads(true), sftp.MaxConcurrentRequestsPerFile(64))
	return err
}

// sftpReader counts what the server sends.
type sftpReader struct {
	io.Reader
	c *sftpConn
}

func (r sftpReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.c.passed.Add(int64(n))
	return n, err
}

// sftpWriter counts what is sent. A broken connection gives io.EOF, which the client would take for the
// end of a file or of a list.
type sftpWriter struct {
	io.WriteCloser
	c *sftpConn
}

func (w sftpWriter) Write(p []byte) (int, error) {
	n, err := w.WriteCloser.Write(p)
	w.c.passed.Add(int64(n))
	if errors.Is(err, io.EOF) {
		err = net.ErrClosed
	}
	return n, err
}

// begin counts a call that uses the connection; it has its own time.
func (c *sftpConn) begin() {
	c.passed.Add(1)
	c.running.Add(1)
}

// watch closes a connection over which nothing of sftp passes for the stall's time, though a call
// waits for it: ssh may still answer then.
func (h *sftpHome) watch(c *sftpConn, gen int) {
	ended := make(chan struct{})
	go func() {
		_ = c.client.Wait() // how it ended is reported by what was using it
		close(ended)
	}()
	tick := time.NewTicker(max(h.limits.stall/4, time.Millisecond))
	defer tick.Stop()
	last, since := int64(-1), time.Now()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		limit := h.limits.stall
		if h.syncs.Load() > 0 {
			limit *= syncPatience
		}
		if n := c.passed.Load(); n != last || c.running.Load() == 0 {
			last, since = n, time.Now()
		} else if time.Since(since) > limit {
			c.silent.Store(true)
			h.drop(gen)
			return
		}
	}
}
