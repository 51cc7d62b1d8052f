package builder

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/fleet/web"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// SwarmPort is the default of ServeOptions.SwarmPort, the lowest of BitTorrent's ports.
const SwarmPort = 6881

const (
	swarmProgram  = "mkcdrec-swarm"
	seederRestart = time.Second
	seederEnd     = 3 * time.Second // until a seeder that was to end is killed
	swarmEvent    = 64 << 10        // bytes of the longest event
)

// swarm starts a seeder for each set that is in a directory, and enters in the sets where it
// is. carry is the program, for the rescue system.
func (b *Builder) swarm(ctx context.Context, o ServeOptions, on netip.Addr, sets []fleet.Set, files map[string]web.Files) (stop func(), carry []initramfs.Program, err error) {
	program, err := findSwarm(b.Executable)
	if err != nil {
		return nil, nil, exit.Usage(err)
	}
	port := o.SwarmPort
	if port == 0 {
		port = SwarmPort
	}
	if port < 1 || port+2*len(sets)-1 > 1<<16-1 {
		return nil, nil, exit.Usage(fmt.Errorf("--swarm-port %d: want two ports for each of %d sets, to 65535", port, len(sets)))
	}
	var all []*seeder
	stop = func() {
		for _, s := range all {
			s.stop()
		}
	}
	for i := range sets {
		dir := files[sets[i].Name].(setFiles).set.Local()
		if dir == "" {
			b.Report.Warn("set %s is not in a directory: every machine gets it from this server", sets[i].Name)
			continue
		}
		s := &seeder{b: b, program: program, name: sets[i].Name, digest: sets[i].Digest, dir: dir,
			web: netip.AddrPortFrom(on, uint16(port+2*i+1)).String(), peers: netip.AddrPortFrom(on, uint16(port+2*i)).String()}
		if sets[i].Swarm, err = s.start(ctx); err != nil {
			stop()
			return nil, nil, err
		}
		all = append(all, s)
	}
	return stop, []initramfs.Program{{Name: swarmProgram, File: program, Check: []string{"get", "--help"}, For: "--swarm"}}, nil
}

// findSwarm finds the program beside the executable, or where programs are.
func findSwarm(executable string) (string, error) {
	if exe, err := filepath.EvalSymlinks(executable); err == nil {
		p := filepath.Join(filepath.Dir(exe), swarmProgram)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	p, err := initramfs.LookPath("", swarmProgram)
	if err != nil {
		return "", fmt.Errorf("--swarm: %w", err)
	}
	return p, nil
}

// seeder is a running `mkcdrec-swarm seed`, which is started again when it fails.
type seeder struct {
	b                          *Builder
	program, name, digest, dir string
	web, peers                 string // ADDRESS:PORT

	end  context.CancelFunc
	done chan struct{} // closed when nothing runs any more
	sent atomic.Int64  // bytes, by the one that runs
}

// start starts it, and waits until it serves: making the torrent reads the whole set.
func (s *seeder) start(ctx context.Context) (fleet.Swarm, error) {
	ctx, s.end = context.WithCancel(ctx)
	s.done = make(chan struct{})
	s.b.Report.Note("set %s is read once for its torrent, unless it has one", s.name)
	served, ended := make(chan fleet.Swarm, 1), make(chan error, 1)
	go func() { ended <- s.run(ctx, served) }()
	select {
	case w := <-served:
		go s.keep(ctx, ended)
		return w, nil
	case err := <-ended:
		s.end()
		close(s.done)
		return fleet.Swarm{}, fmt.Errorf("cannot serve set %s to a swarm: %w", s.name, err)
	}
}

// keep starts it again until ctx ends.
func (s *seeder) keep(ctx context.Context, ended chan error) {
	defer close(s.done)
	for {
		err := <-ended
		if ctx.Err() != nil {
			return
		}
		s.b.Report.Warn("the swarm of set %s ended, and is started again: %v", s.name, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(seederRestart):
		}
		ended <- s.run(ctx, make(chan fleet.Swarm, 1))
	}
}

func (s *seeder) stop() {
	s.end()
	<-s.done
	if n := s.sent.Load(); n > 0 {
		s.b.Report.Note("set %s: %s were sent to the swarm", s.name, quantity.Size(n))
	}
}

// run runs it once. served is told where it serves.
func (s *seeder) run(ctx context.Context, served chan<- fleet.Swarm) error {
	c := exec.CommandContext(ctx, s.program, "seed", "--http", s.web, "--listen", s.peers, s.dir)
	c.Cancel = func() error { return c.Process.Signal(unix.SIGTERM) }
	c.WaitDelay = seederEnd
	var text bytes.Buffer
	c.Stderr = &text
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	base := s.sent.Load()
	in := bufio.NewScanner(out)
	in.Buffer(nil, swarmEvent)
	for in.Scan() {
		e, _ := fleet.ReadSwarmEvent(in.Bytes())
		switch e.Event {
		case "serving":
			w := fleet.Swarm{Server: e.URL, Hash: e.Hash}
			if e.Manifest != s.digest || !w.Valid() {
				err = errors.New("the program serves something else")
				_ = c.Process.Kill() // it is waited for below
			} else {
				served <- w
			}
		case "progress", "done":
			s.sent.Store(base + max(e.Sent, 0))
		case "damaged":
			s.b.Report.Warn("set %s is damaged: %s", s.name, printable.Short(e.Why, 300))
		case "banned":
			s.b.Report.Warn("set %s: %s sent wrong data, and is not asked any more", s.name, printable.Short(e.Addr, 60))
		}
	}
	_, _ = io.Copy(io.Discard, out) // a line that was too long must not stop it
	if e := c.Wait(); err == nil {
		err = e
	}
	if t := strings.TrimSpace(text.String()); t != "" && err != nil {
		l := strings.Split(t, "\n")
		err = errors.New(printable.Short(strings.TrimPrefix(l[len(l)-1], swarmProgram+": "), 300))
	}
	return err
}
