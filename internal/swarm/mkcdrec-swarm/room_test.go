package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/swarm/node"
	"github.com/mkcdrec/mkcdrec/internal/swarm/settorrent"
)

// TestMain lets the test program stand for mkcdrec-swarm.
func TestMain(m *testing.M) {
	switch os.Getenv("SWARM_TEST") {
	case "program":
		main()
		os.Exit(0)
	case "reader":
		if err := reader(os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "tracker":
		if err := trackerOnly(os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "liar":
		liar(os.Args[1], os.Args[2], os.Args[3])
		os.Exit(0)
	}
	// Tests wait for links and for other clients, not for processors.
	flag.Parse()
	_ = flag.Set("test.parallel", "10")
	os.Exit(m.Run())
}

// room is machines in network namespaces on one bridge, each link held to a rate.
// Machine i has the address 10.77.0.(i+1).
// Programs are started by nsenter: "ip netns exec" has a copy of all mounts, which keeps
// file systems busy that other tests unmount.
type room struct {
	t    *testing.T
	name string
	n    int
}

func (r *room) ip(i int) string { return fmt.Sprintf("10.77.0.%d", i+1) }

var rooms atomic.Int32

func newRoom(t *testing.T, n int, rate string) *room {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces want root")
	}
	for _, p := range []string{"ip", "tc"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is missing", p)
		}
	}
	// Names are used once: an interface goes some time after its namespace.
	r := &room{t: t, name: fmt.Sprintf("s%d%c", os.Getpid()%100000, 'a'+rooms.Add(1)), n: n}
	do := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			if strings.Contains(string(out), "not permitted") {
				t.Skipf("%v: %s", args, out)
			}
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		for i := range n {
			_ = exec.Command("ip", "netns", "del", fmt.Sprintf("%s-%d", r.name, i)).Run()
		}
		_ = exec.Command("ip", "link", "del", r.name+"b").Run()
	})
	do("ip", "link", "add", r.name+"b", "type", "bridge")
	do("ip", "link", "set", r.name+"b", "up")
	for i := range n {
		ns := fmt.Sprintf("%s-%d", r.name, i)
		do("ip", "netns", "add", ns)
		do("ip", "link", "add", ns, "type", "veth", "peer", "name", "eth0", "netns", ns)
		do("ip", "link", "set", ns, "master", r.name+"b", "up")
		do("nsenter", "--net=/run/netns/"+ns, "ip", "addr", "add", r.ip(i)+"/24", "dev", "eth0")
		do("nsenter", "--net=/run/netns/"+ns, "ip", "link", "set", "lo", "up")
		do("nsenter", "--net=/run/netns/"+ns, "ip", "link", "set", "eth0", "up")
		if rate != "" {
			do("tc", "qdisc", "add", "dev", ns, "root", "tbf", "rate", rate, "burst", "64kb", "latency", "50ms")
			do("nsenter", "--net=/run/netns/"+ns, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "64kb", "latency", "50ms")
		}
	}
	return r
}

// process is a program in a namespace.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	mu     sync.Mutex
	events []node.Event
	at     []time.Time
	stderr bytes.Buffer
	done   chan struct{}
	err    error
}

// run starts a program on machine i. mode is program, liar, or "" for another program.
func (r *room) run(i int, mode string, args ...string) *process {
	r.t.Helper()
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	if mode != "" {
		args = append([]string{self}, args...)
	}
	p := &process{cmd: exec.Command("nsenter", append([]string{fmt.Sprintf("--net=/run/netns/%s-%d", r.name, i)}, args...)...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "SWARM_TEST="+mode)
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		r.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() {
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			if e, ok := fleet.ReadSwarmEvent(sc.Bytes()); ok {
				p.mu.Lock()
				p.events, p.at = append(p.events, e), append(p.at, time.Now())
				p.mu.Unlock()
			}
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	r.t.Cleanup(func() { _ = p.cmd.Process.Kill(); <-p.done })
	return p
}

// wait waits for an event.
func (p *process) wait(t *testing.T, long time.Duration, kind string, is func(node.Event) bool) (node.Event, time.Time) {
	t.Helper()
	end := time.Now().Add(long)
	for time.Now().Before(end) {
		p.mu.Lock()
		for i, e := range p.events {
			if e.Event == kind && (is == nil || is(e)) {
				at := p.at[i]
				p.mu.Unlock()
				return e, at
			}
		}
		p.mu.Unlock()
		select {
		case <-p.done:
			time.Sleep(50 * time.Millisecond)
		case <-time.After(20 * time.Millisecond):
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	t.Fatalf("no event %q after %v: %v\n%s", kind, long, p.events, &p.stderr)
	return node.Event{}, time.Time{}
}

// end waits for the program's end.
func (p *process) end(t *testing.T, long time.Duration) error {
	t.Helper()
	select {
	case <-p.done:
		return p.err
	case <-time.After(long):
		// A program in Go prints where its goroutines are.
		_ = p.cmd.Process.Signal(syscall.SIGQUIT)
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		t.Fatalf("it still runs after %v: %v\n%s", long, p.events[max(0, len(p.events)-5):], &p.stderr)
		return nil
	}
}

// pieces is how many pieces it had at its last word.
func (p *process) pieces() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, e := range p.events {
		n = max(n, e.Pieces)
	}
	return n
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, _ := json.Marshal(p.events)
	return string(b)
}

// seed serves a set on machine 0.
func (r *room) seed(dir string) (*process, *settorrent.Torrent) {
	r.t.Helper()
	return r.seedAt(dir, r.ip(0)+":6881")
}

// seedAt is seed with an address for BitTorrent.
func (r *room) seedAt(dir, listen string) (*process, *settorrent.Torrent) {
	r.t.Helper()
	set, err := manifest.Open(dir)
	if err != nil {
		r.t.Fatal(err)
	}
	tor, _, err := settorrent.Open(context.Background(), set, progress.None{})
	if err != nil {
		r.t.Fatal(err)
	}
	p := r.run(0, "program", "seed", "--http", r.ip(0)+":8080", "--listen", listen, dir)
	p.wait(r.t, 20*time.Second, "serving", nil)
	return p, tor
}

func (r *room) get(i int, tor *settorrent.Torrent, more ...string) *process {
	return r.run(i, "program", append([]string{"get", "--server", "http://" + r.ip(0) + ":8080/", "--hash", tor.Hash.HexString(), "--manifest", tor.Manifest, "--listen", r.ip(i) + ":6881"}, more...)...)
}

// same compares a directory with the set.
func same(t *testing.T, set, got string) {
	t.Helper()
	s, err := manifest.Open(got)
	if err != nil {
		t.Error(err)
		return
	}
	if err := s.Verify(context.Background(), true, progress.None{}); err != nil {
		t.Error(err)
	}
	want, err := manifest.Open(set)
	if err != nil || want.Digest != s.Digest {
		t.Errorf("another manifest: %v", err)
	}
}

// announced waits until the tracker knows of a second peer that has everything.
func (r *room) announced(long time.Duration) {
	r.t.Helper()
	var out []byte
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		out, _ = exec.Command("nsenter", "--net=/run/netns/"+r.name+"-0", "curl", "-s", "http://"+r.ip(0)+":8080/scrape").Output()
		if bytes.Contains(out, []byte("8:completei2e")) {
			return
		}
	}
	r.t.Fatalf("the other client does not announce itself: %q", out)
}

// until waits until a directory verifies as the set.
func until(dir string, tor *settorrent.Torrent, long time.Duration) error {
	end := time.Now().Add(long)
	for {
		s, err := manifest.Open(dir)
		if err == nil {
			err = s.Verify(context.Background(), false, progress.None{})
		}
		if err == nil || time.Now().After(end) {
			return err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// kill kills programs, and waits until they are gone.
func kill(ps ...*process) {
	for _, p := range ps {
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}
