package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

const (
	swarmRate = "20mbit"
	swarmMiB  = 100
)

// swarmSet makes a backup set of random content in a directory.
func swarmSet(ctx context.Context, dir string) error {
	src := dir + ".src"
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.MkdirAll(src, 0o700)); err != nil {
		return err
	}
	defer os.RemoveAll(src)
	content := make([]byte, swarmMiB<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
	if err := os.WriteFile(src+"/content", content, 0o600); err != nil {
		return err
	}
	const name = "vda1._.tar.zst"
	if err := create(ctx, src, dir+"/"+name); err != nil {
		return err
	}
	a, err := archive.OpenFile(dir + "/" + name)
	if err != nil {
		return err
	}
	defer a.Close()
	l, err := os.Create(dir + "/" + manifest.Layout)
	if err != nil {
		return err
	}
	if err := errors.Join((&layout.Layout{Version: layout.Version, Boot: layout.Boot{Firmware: layout.BIOS}}).Write(l), l.Close()); err != nil {
		return err
	}
	m := &manifest.Manifest{Version: manifest.Version, ID: "01234567-89ab-cdef-0123-456789abcdef", Host: "bench", Created: time.Unix(1, 0)}
	for _, n := range []string{manifest.Layout, name} {
		b, err := os.ReadFile(dir + "/" + n)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		f := manifest.FileSum{Name: n, Size: quantity.Size(len(b)), SHA256: hex.EncodeToString(sum[:])}
		m.Files = append(m.Files, f)
		if n == name {
			m.Archives = []manifest.Archive{{File: n, Device: "vda1", Type: "ext4", Mount: "/", Size: f.Size, TarSize: quantity.Size(a.TarSize()), Members: a.Members(), SHA256: f.SHA256}}
		}
	}
	if err := m.Write(dir); err != nil {
		return err
	}
	s, err := manifest.Open(dir)
	if err != nil {
		return err
	}
	return s.Verify(ctx, true, progress.None{})
}

// swarmNet makes n machines in network namespaces on one bridge, each link held to
// swarmRate each way.
func swarmNet(n int) (remove func(), err error) {
	remove = func() {
		for i := range n {
			_ = exec.Command("ip", "netns", "del", fmt.Sprintf("mb%d", i)).Run()
		}
		_ = exec.Command("ip", "link", "del", "mbbr").Run()
		time.Sleep(2 * time.Second) // interfaces go some time after their namespace
	}
	lines := []string{"ip link add mbbr type bridge", "ip link set mbbr up"}
	for i := range n {
		lines = append(lines, fmt.Sprintf("ip netns add mb%d", i), fmt.Sprintf("ip link add mb%d type veth peer name eth0 netns mb%d", i, i), fmt.Sprintf("ip link set mb%d master mbbr up", i),
			fmt.Sprintf("ip -n mb%d addr add 10.78.0.%d/24 dev eth0", i, i+1), fmt.Sprintf("ip -n mb%d link set lo up", i), fmt.Sprintf("ip -n mb%d link set eth0 up", i),
			fmt.Sprintf("tc qdisc add dev mb%d root tbf rate %s burst 64kb latency 50ms", i, swarmRate), fmt.Sprintf("ip netns exec mb%d tc qdisc add dev eth0 root tbf rate %s burst 64kb latency 50ms", i, swarmRate))
	}
	for _, l := range lines {
		f := strings.Fields(l)
		if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
			remove()
			return nil, fmt.Errorf("%s: %w: %s", l, err, out)
		}
	}
	return remove, nil
}

// swarmEvent is what is read of the program's events.
type swarmEvent = fleet.SwarmEvent

type swarmRun struct {
	cmd  *exec.Cmd
	mu   sync.Mutex
	last map[string]swarmEvent
	seen chan string
	end  chan error
}

func swarmStart(ctx context.Context, ns int, args ...string) (*swarmRun, error) {
	r := &swarmRun{cmd: exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", fmt.Sprintf("mb%d", ns)}, args...)...), last: map[string]swarmEvent{}, seen: make(chan string, 10000), end: make(chan error, 1)}
	r.cmd.Stderr = os.Stderr
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if e, ok := fleet.ReadSwarmEvent(sc.Bytes()); ok {
				r.mu.Lock()
				r.last[e.Event] = e
				r.mu.Unlock()
				select {
				case r.seen <- e.Event:
				default:
				}
			}
		}
		r.end <- r.cmd.Wait()
	}()
	return r, nil
}

// of gives the last event of a kind.
func (r *swarmRun) of(kind string) swarmEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last[kind]
}

func (r *swarmRun) stop() error {
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	return <-r.end
}

func (r *swarmRun) cpu() float64 {
	return (r.cmd.ProcessState.UserTime() + r.cmd.ProcessState.SystemTime()).Seconds()
}

// peer is libtorrent in Python, as it is without settings: it prints "complete" and the
// seconds, and seeds on.
const libtorrentPeer = `import sys, time, json, libtorrent as lt
torrent, where, ip, peers, seed = sys.argv[1:6]
s = lt.session({"listen_interfaces": ip + ":6881", "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False, "alert_mask": 0, "allow_multiple_connections_per_ip": True})
p = {"ti": lt.torrent_info(torrent), "save_path": where}
if seed == "1":
    p["flags"] = lt.torrent_flags.super_seeding | lt.torrent_flags.seed_mode
h = s.add_torrent(p)
h.unset_flags(lt.torrent_flags.auto_managed); h.resume()
begin = time.time(); told = False; last = 0
while True:
    if time.time() - last > 2:
        last = time.time()
        for a in peers.split(","):
            if a != ip: h.connect_peer((a, 6881))
    st = h.status()
    if st.is_seeding and not told and seed != "1":
        told = True
        print(json.dumps({"kind": "swarm", "data": {"event": "complete", "seconds": time.time() - begin}}), flush=True)
    print(json.dumps({"kind": "swarm", "data": {"event": "progress", "sent": st.total_payload_upload}}), flush=True)
    time.sleep(0.1)
`

func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:1], "")
}

// priority describes how this program runs beside others, "" if as usual.
func priority() string {
	n, err := unix.Getpriority(unix.PRIO_PROCESS, 0) // 20 minus the nice value
	if err != nil || n == 20 {
		return ""
	}
	return fmt.Sprintf("; the benchmark ran with nice -n %d", 20-n)
}

// swarm measures one set to several machines.
func (b *bench) swarm(ctx context.Context) error {
	program, set := b.dir+"/mkcdrec-swarm", b.dir+"/set"
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", program, "./internal/swarm/mkcdrec-swarm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // with cgo it compiles SQLite, which is not used
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build mkcdrec-swarm: %w: %s", err, out)
	}
	if err := swarmSet(ctx, set); err != nil {
		return err
	}
	defer os.RemoveAll(set)
	b.say("## Swarm\n\nOne set of %d MiB is sent to N machines in network namespaces. Every link is limited to %s each way by tc (tbf, burst 64 kb, 50 ms). All machines start at once, with files in memory. curl is one machine alone that fetches the archive by HTTP before, on the same links. The load before each run is given, since other work on the machine makes it longer%s. libtorrent is python3-libtorrent 2.0, super-seeding, every machine connected to every other.\n\n| way | N | load | curl alone, s | first, s | last, s | last relative to curl | seeder's upload, copies | CPU s per GB received |\n|---|---|---|---|---|---|---|---|---|", swarmMiB, swarmRate, priority())
	for _, n := range []int{4, 8} {
		if err := b.swarmChain(ctx, n, program, set); err != nil {
			return err
		}
		if err := b.swarmLibtorrent(ctx, n, program, set); err != nil {
			return err
		}
	}
	b.say("\nGoals: last at most 1.10 times curl for N = 4 and 1.15 for N = 8, the seeder's upload at most 1.1 copies.")
	return nil
}

// swarmServe starts the seeder, and times curl.
func (b *bench) swarmServe(ctx context.Context, program, set string) (seed *swarmRun, total int64, curl float64, err error) {
	if seed, err = swarmStart(ctx, 0, program, "seed", "--http", "10.78.0.1:8080", "--listen", "10.78.0.1:6881", set); err != nil {
		return nil, 0, 0, err
	}
	select {
	case <-seed.seen:
	case err := <-seed.end:
		return nil, 0, 0, fmt.Errorf("the seeder ended: %w", err)
	case <-time.After(time.Minute):
		return nil, 0, 0, errors.New("the seeder does not start")
	}
	begin := time.Now()
	if err := exec.CommandContext(ctx, "ip", "netns", "exec", "mb1", "curl", "-sf", "-o", b.dir+"/curl", "http://10.78.0.1:8080/set/mkcdrec-01234567-89ab-cdef-0123-456789abcdef/vda1._.tar.zst").Run(); err != nil {
		return nil, 0, 0, fmt.Errorf("curl: %w", err)
	}
	_ = os.Remove(b.dir + "/curl")
	return seed, seed.of("serving").Bytes, time.Since(begin).Seconds(), nil
}

func (b *bench) swarmChain(ctx context.Context, n int, program, set string) error {
	remove, err := swarmNet(n + 1)
	if err != nil {
		return err
	}
	defer remove()
	before := load()
	seed, total, curl, err := b.swarmServe(ctx, program, set)
	if err != nil {
		return err
	}
	s := seed.of("serving")
	var runs []*swarmRun
	for i := range n {
		dir := fmt.Sprintf("%s/get%d", b.dir, i)
		defer os.RemoveAll(dir)
		r, err := swarmStart(ctx, i+1, program, "get", "--server", "http://10.78.0.1:8080/", "--hash", s.Hash, "--manifest", s.Manifest, "--dir", dir, "--listen", fmt.Sprintf("10.78.0.%d:6881", i+2))
		if err != nil {
			return err
		}
		runs = append(runs, r)
	}
	var done []float64
	cpu := 0.0
	for _, r := range runs {
		if err := <-r.end; err != nil {
			return fmt.Errorf("get: %w", err)
		}
		done = append(done, r.of("complete").Seconds)
		cpu += r.cpu()
	}
	if err := seed.stop(); err != nil {
		return err
	}
	cpu += seed.cpu()
	slices.Sort(done)
	b.say("| mkcdrec-swarm | %d | %s | %.1f | %.1f | %.1f | %.3f | %.2f | %.1f |", n, before, curl, done[0], done[n-1], done[n-1]/curl, float64(seed.of("done").Sent)/float64(total), cpu/(float64(total)*float64(n)/1e9))
	return nil
}

func (b *bench) swarmLibtorrent(ctx context.Context, n int, program, set string) error {
	if err := exec.Command("/usr/bin/python3", "-c", "import libtorrent").Run(); err != nil {
		b.say("| libtorrent (python3-libtorrent is missing) | %d | | | | | | | |", n)
		return nil
	}
	remove, err := swarmNet(n + 1)
	if err != nil {
		return err
	}
	defer remove()
	before := load()
	seed, total, curl, err := b.swarmServe(ctx, program, set)
	if err != nil {
		return err
	}
	if err := seed.stop(); err != nil {
		return err
	}
	var ips []string
	for i := range n + 1 {
		ips = append(ips, fmt.Sprintf("10.78.0.%d", i+1))
	}
	start := func(i int, dir, seeds string) (*swarmRun, error) {
		return swarmStart(ctx, i, "/usr/bin/python3", "-c", libtorrentPeer, set+"/set.torrent", dir, ips[i], strings.Join(ips, ","), seeds)
	}
	up := b.dir + "/up"
	if err := os.MkdirAll(up, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(up)
	if err := os.Symlink(set, filepath.Join(up, "mkcdrec-01234567-89ab-cdef-0123-456789abcdef")); err != nil {
		return err
	}
	s, err := start(0, up, "1")
	if err != nil {
		return err
	}
	var runs []*swarmRun
	for i := range n {
		dir := fmt.Sprintf("%s/get%d", b.dir, i)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		r, err := start(i+1, dir, "0")
		if err != nil {
			return err
		}
		runs = append(runs, r)
	}
	var done []float64
	cpu := 0.0
	for _, r := range runs {
		for e := range r.seen {
			if e == "complete" {
				break
			}
		}
	}
	for _, r := range append(runs, s) {
		_ = r.stop()
		cpu += r.cpu()
		if e := r.of("complete"); e.Event != "" {
			done = append(done, e.Seconds)
		}
	}
	slices.Sort(done)
	b.say("| libtorrent | %d | %s | %.1f | %.1f | %.1f | %.3f | %.2f | %.1f |", n, before, curl, done[0], done[n-1], done[n-1]/curl, float64(s.of("progress").Sent)/float64(total), cpu/(float64(total)*float64(n)/1e9))
	return nil
}
