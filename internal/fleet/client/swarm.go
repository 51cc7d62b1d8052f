package client

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/storage"
)

// swarm gets a job's archives from other machines, by the program mkcdrec-swarm. It is
// started when restore reads an archive while the first new file system is there, on
// which the pieces are kept. What is read before that (indexes), and everything when the
// program fails, comes from the server.
type swarm struct {
	ctx             context.Context
	program, target string
	job             *fleet.Job
	tell            func(level, text string)
	client          *http.Client
	machine         probe.Machine

	mu       sync.Mutex
	archives []manifest.Archive
	begun    bool
	dead     bool // nothing comes from it any more
	base     string
	cmd      *exec.Cmd
	stdin    io.WriteCloser
	ended    chan struct{} // closed when the program has ended
	dir      string        // of the pieces, "" for memory
	from     string        // whom it comes from, as was told last
	told     time.Time
}

// Times and sizes.
const (
	readyTime  = 30 * time.Second // until the program must serve
	lingerTime = 2 * time.Minute  // for which others that still take from here are served
	fromTime   = 30 * time.Second // between two lines that tell whom the set comes from
	endTime    = 3 * time.Second  // until a program that was to end is killed
	minMemory  = 64 << 20         // of pieces that are kept in memory
	maxMemory  = 1 << 30
	slack      = 64 << 20 // what a file system must have free beside set and content
	perMember  = 2048     // bytes that a file takes beside its content, about
)

// piecesDir is where pieces are kept, on the largest file system that has room.
const piecesDir = ".mkcdrec-pieces"

func newSwarm(ctx context.Context, program, target string, job *fleet.Job, tell func(level, text string)) *swarm {
	return &swarm{ctx: ctx, program: program, target: target, job: job, tell: tell, ended: make(chan struct{}),
		client: &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, MaxIdleConnsPerHost: 8, DisableCompression: true}}}
}

// has takes the archives from the job's manifest.
func (s *swarm) has(b []byte) {
	m, err := manifest.Parse(b)
	if err != nil {
		s.failed(err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.archives = m.Archives
}

// fetch gives the answer for a file, nil if the server is to be asked.
func (s *swarm) fetch(r *http.Request, file string) *http.Response {
	name, err := url.PathUnescape(file)
	if err != nil {
		return nil
	}
	base := s.serving(name)
	if base == "" {
		return nil
	}
	q, err := http.NewRequestWithContext(r.Context(), r.Method, base+file, nil)
	if err != nil {
		return nil
	}
	if v := r.Header.Get("Range"); v != "" {
		q.Header.Set("Range", v)
	}
	a, err := s.client.Do(q)
	if err != nil {
		if r.Context().Err() == nil {
			s.failed(err)
		}
		return nil
	}
	if a.StatusCode >= 300 {
		a.Body.Close()
		return nil
	}
	return a
}

// failed has everything come from the server from now on.
func (s *swarm) failed(err error) {
	s.mu.Lock()
	first := !s.dead
	s.dead = true
	s.mu.Unlock()
	if first {
		s.tell("warning", fmt.Sprintf("cannot get the set from other machines, it comes from the server: %v", err))
	}
}

// serving gives where the program serves a file, and starts it for the first one. It is
// "" if the file is to come from the server.
func (s *swarm) serving(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead || !slices.ContainsFunc(s.archives, func(a manifest.Archive) bool { return a.File == name }) {
		return ""
	}
	if s.begun {
		return s.base
	}
	places, err := s.places()
	if err == nil && len(places) == 0 {
		return "" // not yet
	}
	s.begun = true
	if err == nil {
		err = s.start(places)
	}
	if err != nil {
		s.dead = true
		s.tell("warning", fmt.Sprintf("cannot get the set from other machines, it comes from the server: %v", err))
		return ""
	}
	return s.base
}

// place is a new file system.
type place struct {
	dir  string
	free int64 // beside what is still to be unpacked on it
}

// places lists the new file systems that are mounted, those with the most room first.
func (s *swarm) places() ([]place, error) {
	mounts, err := s.machine.Mounts()
	if err != nil {
		return nil, err
	}
	var out []place
	for _, m := range mounts {
		rel, err := filepath.Rel(s.target, m.Path)
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") || !fstype.Of(m.Type).Native() {
			continue
		}
		var st unix.Statfs_t
		if err := unix.Statfs(m.Path, &st); err != nil {
			return nil, fmt.Errorf("cannot look at %s: %w", m.Path, err)
		}
		out = append(out, place{m.Path, int64(st.Bavail)*st.Bsize - s.content(filepath.Join("/", rel))})
	}
	slices.SortStableFunc(out, func(a, b place) int { return cmp.Compare(b.free, a.free) })
	return out, nil
}

// content is how much is unpacked onto the file system of a mount point, in bytes; all of
// the set's content if that is not known.
func (s *swarm) content(mount string) int64 {
	sum := func(of func(a manifest.Archive) bool) (n int64) {
		for _, a := range s.archives {
			if of(a) {
				n += int64(max(a.TarSize, a.DataSize)) + a.Members*perMember
			}
		}
		return n
	}
	i := slices.IndexFunc(s.archives, func(a manifest.Archive) bool { return a.Mount == mount })
	if i < 0 {
		return sum(func(manifest.Archive) bool { return true })
	}
	return sum(func(a manifest.Archive) bool { return a.Device == s.archives[i].Device })
}

// start runs the program, and waits until it serves.
func (s *swarm) start(places []place) error {
	total := int64(0)
	for _, a := range s.archives {
		total += int64(a.Size)
	}
	args := []string{"get", "--server", s.job.Swarm.Server, "--hash", s.job.Swarm.Hash, "--manifest", s.job.Digest, "--serve", "127.0.0.1:0", "--linger", lingerTime.String()}
	if p := places[0]; p.free > total+total/50+slack {
		s.dir = filepath.Join(p.dir, piecesDir)
		args = append(args, "--dir", s.dir)
	} else {
		memory := min(freeMemory()/4, maxMemory)
		if memory < minMemory {
			return fmt.Errorf("neither %s nor the memory has room for its pieces", p.dir)
		}
		s.tell("note", "the new file systems have no room for the set beside their content: its pieces are kept in memory")
		args = append(args, "--memory", strconv.FormatInt(memory, 10))
	}
	s.cmd = exec.Command(s.program, args...)
	text := &lastOf{}
	s.cmd.Stderr = text
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	ready := make(chan string, 1)
	go func() {
		s.follow(out, ready)
		err := s.cmd.Wait()
		close(s.ended)
		if err != nil {
			s.failed(cmp.Or(text.err(), err))
		}
	}()
	select {
	case s.base = <-ready:
		return nil
	case <-s.ended:
		return cmp.Or(text.err(), errors.New("the program ended"))
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	case <-time.After(readyTime):
		_ = s.cmd.Process.Kill() // it is waited for above
		return errors.New("the program does not serve")
	}
}

// follow reads the program's events.
func (s *swarm) follow(r io.Reader, ready chan<- string) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxEvent)
	for in.Scan() {
		e, _ := fleet.ReadSwarmEvent(in.Bytes())
		addr := printable.Short(e.Addr, 60)
		switch e.Event {
		case "ready":
			select {
			case ready <- e.URL:
			default:
			}
		case "from":
			// In a room with slow machines this changes often.
			if host, _, err := net.SplitHostPort(addr); err == nil && host != s.from && time.Since(s.told) > fromTime {
				s.from, s.told = host, time.Now()
				s.tell("note", "the set comes from "+host)
			}
		case "banned":
			s.tell("warning", addr+" sent wrong data, and is not asked any more")
		case "trouble":
			s.tell("warning", "a part of the set does not come: "+printable.Short(e.Why, 300))
		case "full":
			s.tell("warning", "the pieces of the set have no more room on the new file system: they are kept in memory")
		}
	}
	_, _ = io.Copy(io.Discard, r) // a line that was too long must not stop the program
}

// maxEvent is the longest event that is read, in bytes.
const maxEvent = 64 << 10

// finish lets others take what they need, and removes the pieces: the file system is
// unmounted next.
func (s *swarm) finish(ctx context.Context) {
	s.mu.Lock()
	cmd, stdin, begun := s.cmd, s.stdin, s.begun
	s.begun, s.dead = true, true
	s.mu.Unlock()
	if !begun || cmd == nil || cmd.Process == nil {
		return
	}
	_, _ = io.WriteString(stdin, "done\n") // it may have ended
	stdin.Close()
	select {
	case <-s.ended:
	case <-time.After(lingerTime + endTime):
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
	s.remove()
}

// close ends the program, even while it works.
func (s *swarm) close() {
	s.mu.Lock()
	s.begun, s.dead = true, true
	started := s.cmd != nil && s.cmd.Process != nil
	s.mu.Unlock()
	if started {
		s.remove()
	}
	s.client.CloseIdleConnections()
}

// remove ends the program and removes the pieces.
func (s *swarm) remove() {
	_ = s.cmd.Process.Signal(unix.SIGTERM) // it may have ended
	select {
	case <-s.ended:
	case <-time.After(endTime):
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
	s.mu.Lock()
	dir := s.dir
	s.dir = ""
	s.mu.Unlock()
	if dir == "" {
		return
	}
	// The directory above it is a restored one, whose time must not change.
	st, err := os.Stat(filepath.Dir(dir))
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err == nil {
		err = os.Chtimes(filepath.Dir(dir), time.Time{}, st.ModTime())
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) { // it is not there if restore failed, and has unmounted it
		s.tell("warning", fmt.Sprintf("cannot remove the pieces of the set: %v", err))
	}
}

// freeMemory is how much memory programs can get, in bytes; 0 if that is not known.
func freeMemory() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	n, err := storage.MemAvailable(string(b))
	if err != nil {
		return 0
	}
	return int64(n)
}

// lastOf keeps the last line that a program wrote.
type lastOf struct {
	mu sync.Mutex
	b  []byte
}

func (l *lastOf) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	if n := len(l.b) - 4096; n > 0 {
		l.b = append(l.b[:0], l.b[n:]...)
	}
	return len(p), nil
}

func (l *lastOf) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := strings.TrimPrefix(lastLine(string(l.b)), "mkcdrec-swarm: ")
	if t == "" {
		return nil
	}
	return errors.New(printable.Short(t, 300))
}
