package store

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
)

const (
	// serverTimes has rclone take the times of S3 and Swift from lists: those of the writer need a request
	// for each file.
	serverTimes = "--use-server-modtime"
	// rcloneFresh is for how long the running rclone may remember what a directory has.
	rcloneFresh = time.Second
	// rcloneIdle is for how long the program is kept when nothing is asked.
	rcloneIdle = 30 * time.Second
)

// rcloneServer is an rclone that serves a home over its standard input and output, as sftp. It answers
// what is asked for each set of a home: sizes, small files and lists. A program for each question would
// spend most of its time on its start. It only saves time: for what it can't answer, the caller starts a
// program, whose error has the reason.
type rcloneServer struct {
	home   *rcloneHome
	ended  context.Context // by close
	end    context.CancelFunc
	writes atomic.Int64 // how often files of the home were changed here
	idle   time.Duration

	lock   chan struct{} // has one element while what follows is used
	now    *rcloneServed // nil if none runs
	unable bool          // it can't be started
}

// rcloneServed is a program that runs.
type rcloneServed struct {
	client *sftp.Client
	stop   context.CancelFunc
	done   chan struct{} // closed when the program has ended
	writes int64         // those of the server when it was started
	users  atomic.Int32
	idle   *time.Timer
}

func (s *rcloneServer) init(h *rcloneHome) {
	s.home, s.lock, s.idle = h, make(chan struct{}, 1), rcloneIdle
	s.ended, s.end = context.WithCancel(context.Background())
}

// changed makes the next question start another program: the one that runs does not see at once what
// other programs write or remove.
func (s *rcloneServer) changed() { s.writes.Add(1) }

// close ends the program, and waits for its end.
func (s *rcloneServer) close() {
	s.end()
	s.lock <- struct{}{}
	defer func() { <-s.lock }()
	if s.now != nil {
		s.now.idle.Stop()
		<-s.now.done
	}
}

// ask calls fn with a client. Without an answer the caller has to start a program of its own. An answer is
// success, that something does not exist, or the end of ctx.
func (s *rcloneServer) ask(ctx context.Context, fn func(*sftp.Client) error) (answered bool, err error) {
	p := s.take(ctx)
	if p == nil {
		return ctx.Err() != nil, ctx.Err()
	}
	stop := context.AfterFunc(ctx, p.stop)
	err = fn(p.client)
	stop()
	p.users.Add(-1)
	switch {
	case err == nil, missingFile(err):
		return true, err
	case ctx.Err() != nil:
		return true, ctx.Err()
	case !errors.As(err, new(*sftp.StatusError)):
		p.stop()
	}
	return false, nil
}

// take gives the program, which it starts first where that is missing, for one more user; nil if
// it can't.
func (s *rcloneServer) take(ctx context.Context) *rcloneServed {
	select {
	case s.lock <- struct{}{}:
		defer func() { <-s.lock }()
	case <-ctx.Done():
		return nil
	}
	writes := s.writes.Load()
	if s.now != nil && (s.now.writes != writes || s.now.hasEnded()) {
		s.now.idle.Stop()
		s.now.stop()
		s.now = nil
	}
	if s.unable || s.ended.Err() != nil || ctx.Err() != nil {
		return nil
	}
	if s.now == nil {
		p, err := s.start(ctx)
		if err != nil {
			s.unable = ctx.Err() == nil
			return nil
		}
		p.writes, s.now = writes, p
	}
	s.now.users.Add(1)
	s.now.idle.Reset(s.idle)
	return s.now
}

// start starts the program.
func (s *rcloneServer) start(ctx context.Context) (*rcloneServed, error) {
	run, stop := context.WithCancel(s.ended)
	defer context.AfterFunc(ctx, stop)()
	c, _ := s.home.command(run, "", "serve", "sftp", "--stdio", "--read-only", "--vfs-cache-mode", "off", "--dir-cache-time", rcloneFresh.String(),
		"--poll-interval", "0", serverTimes)
	in, err := c.StdinPipe()
	if err != nil {
		stop()
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		stop()
		return nil, err
	}
	p := &rcloneServed{stop: stop, done: make(chan struct{})}
	p.client, err = sftp.NewClientPipe(out, in)
	if err != nil {
		stop()
		_ = c.Wait() // it was killed, or why it ended is reported by the program that is started instead
		return nil, err
	}
	p.idle = time.AfterFunc(s.idle, func() {
		if p.users.Load() > 0 {
			p.idle.Reset(s.idle)
			return
		}
		stop()
	})
	go func() {
		_ = p.client.Wait() // until the program closes its output
		stop()
		_ = c.Wait() // it was killed, or has ended
		close(p.done)
	}()
	return p, nil
}

// hasEnded reports whether the program has ended.
func (p *rcloneServed) hasEnded() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
