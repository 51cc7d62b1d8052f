package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anacrolix/torrent/bencode"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/swarm/chain"
	"github.com/mkcdrec/mkcdrec/internal/swarm/node"
	"github.com/mkcdrec/mkcdrec/internal/swarm/settorrent"
	"github.com/mkcdrec/mkcdrec/internal/swarm/swarmtest"
	"github.com/mkcdrec/mkcdrec/internal/swarm/tracker"
)

// TestChain: four machines get the set, each from the one before it, and the seeder
// sends it about once.
func TestChain(t *testing.T) {
	t.Parallel()
	r := newRoom(t, 5, "60mbit")
	set := swarmtest.Set(t, 16<<20)
	seed, tor := r.seed(set)
	dirs, gets := make([]string, 5), make([]*process, 5)
	for i := 1; i < 5; i++ {
		dirs[i] = t.TempDir()
		gets[i] = r.get(i, tor, "--dir", dirs[i])
	}
	for i := 1; i < 5; i++ {
		if err := gets[i].end(t, time.Minute); err != nil {
			t.Fatalf("%d: %v\n%s", i, err, &gets[i].stderr)
		}
		same(t, set, dirs[i])
	}
	_ = seed.cmd.Process.Signal(syscall.SIGTERM)
	if err := seed.end(t, 5*time.Second); err != nil {
		t.Errorf("the seeder ends with %v", err)
	}
	e, _ := seed.wait(t, time.Second, "done", nil)
	copies := float64(e.Sent) / float64(tor.Total())
	if copies > 1.5 { // on a busy machine others ask it meanwhile
		t.Errorf("the seeder sent %.2f copies", copies)
	}
	t.Logf("the seeder sent %.2f copies", copies)
}

// TestKilled: a machine in the middle is killed; the one behind it continues.
func TestKilled(t *testing.T) {
	t.Parallel()
	r := newRoom(t, 5, "20mbit")
	set := swarmtest.Set(t, 24<<20)
	_, tor := r.seed(set)
	dirs, gets := make([]string, 5), make([]*process, 5)
	for i := 1; i < 5; i++ {
		dirs[i] = t.TempDir()
		gets[i] = r.get(i, tor, "--dir", dirs[i])
		gets[i].wait(t, 10*time.Second, "from", nil)
	}
	gets[2].wait(t, 30*time.Second, "progress", func(e node.Event) bool { return e.Pieces > tor.Info.NumPieces()/4 })
	_ = gets[2].cmd.Process.Kill()
	killed := time.Now()
	last := gets[3].pieces()
	_, at := gets[3].wait(t, 15*time.Second, "from", func(e node.Event) bool { return e.Addr != r.ip(2)+":6881" && e.Addr != "" })
	_, on := gets[3].wait(t, 15*time.Second, "progress", func(e node.Event) bool { return e.Pieces > last+10 })
	// 5 s is the goal; a busy machine takes longer.
	t.Logf("another peer after %v, %d pieces more after %v", at.Sub(killed).Round(time.Millisecond), 10, on.Sub(killed).Round(time.Millisecond))
	for _, i := range []int{1, 3, 4} {
		if err := gets[i].end(t, 90*time.Second); err != nil {
			t.Errorf("%d: %v", i, err)
		}
		same(t, set, dirs[i])
	}
	// The killed one continues with what it has.
	again := r.get(2, tor, "--dir", dirs[2])
	if err := again.end(t, 60*time.Second); err != nil {
		t.Errorf("started again: %v\n%s", err, &again.stderr)
	}
	same(t, set, dirs[2])
	if e, _ := again.wait(t, time.Second, "done", nil); e.Bytes > tor.Total()*9/10 {
		t.Errorf("it fetched %d of %d bytes, and had a quarter", e.Bytes, tor.Total())
	}
}

// TestDamagedSet: a file that became shorter is named by both sides.
func TestDamagedSet(t *testing.T) {
	t.Parallel()
	r := newRoom(t, 2, "100mbit")
	set := swarmtest.Set(t, 8<<20)
	seed, tor := r.seed(set)
	large := ""
	for _, f := range tor.Files() {
		if f.Length > 4<<20 {
			large = f.Name
		}
	}
	if err := os.Truncate(filepath.Join(set, large), 1<<20); err != nil {
		t.Fatal(err)
	}
	get := r.get(1, tor, "--dir", t.TempDir())
	if e, _ := seed.wait(t, 30*time.Second, "damaged", nil); !strings.Contains(e.Why, large) {
		t.Errorf("the seeder says %q", e.Why)
	}
	if e, _ := get.wait(t, 60*time.Second, "trouble", nil); e.Why == "" {
		t.Error("the machine does not say why")
	} else {
		t.Log(e.Why)
	}
	_ = get.cmd.Process.Kill()
}

// TestServer: the server is killed in the middle, and is started again, with another port
// for BitTorrent. The chain is the same.
func TestServer(t *testing.T) {
	t.Parallel()
	r := newRoom(t, 3, "20mbit")
	set := swarmtest.Set(t, 16<<20)
	seed, tor := r.seed(set)
	d1, d2 := t.TempDir(), t.TempDir()
	g1 := r.get(1, tor, "--dir", d1)
	g1.wait(t, 10*time.Second, "from", nil)
	g2 := r.get(2, tor, "--dir", d2)
	g2.wait(t, 30*time.Second, "progress", func(e node.Event) bool { return e.Pieces > tor.Info.NumPieces()/4 })
	kill(seed)
	time.Sleep(3 * time.Second)
	seed, _ = r.seedAt(set, r.ip(0)+":0")
	again := time.Now()
	for i, p := range []*process{g1, g2} {
		if err := p.end(t, time.Minute); err != nil {
			t.Errorf("%d: %v\n%s", i+1, err, &p.stderr)
		}
	}
	same(t, set, d1)
	same(t, set, d2)
	serving, _ := seed.wait(t, time.Second, "serving", nil)
	g1.wait(t, time.Second, "from", func(e node.Event) bool { return e.Addr == serving.Addr })
	g2.mu.Lock()
	defer g2.mu.Unlock()
	// That the order is the same is tested in internal/swarm/tracker; on a busy machine the
	// two may be exchanged at once.
	chained := false
	for i, e := range g2.events {
		chained = chained || e.Event == "progress" && e.Addr == r.ip(1)+":6881" && g2.at[i].After(again)
	}
	if !chained {
		t.Errorf("the second took nothing from the first after the restart: %.6000s\n%.6000s", g1.text(), fmt.Sprint(g2.events))
	}
}

// TestListen: with addresses, the seeder listens on them only, on ports that the system
// chooses and the event tells. A client needs no address of its own.
func TestListen(t *testing.T) {
	t.Parallel()
	r := newRoom(t, 2, "")
	set := swarmtest.Set(t, 2<<20)
	seed := r.run(0, "program", "seed", "--http", r.ip(0)+":0", "--listen", r.ip(0)+":0", set)
	e, _ := seed.wait(t, 20*time.Second, "serving", nil)
	peers, err := netip.ParseAddrPort(e.Addr)
	if err != nil || peers.Addr().String() != r.ip(0) || peers.Port() == 0 || !strings.HasPrefix(e.URL, "http://"+r.ip(0)+":") || strings.HasPrefix(e.URL, "http://"+r.ip(0)+":0") {
		t.Errorf("serving = %+v, %v", e, err)
	}
	out, err := exec.Command("nsenter", "--net=/run/netns/"+r.name+"-0", "ss", "-Hlntu").CombinedOutput()
	if err != nil {
		t.Fatalf("ss: %v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	want := map[string]bool{e.Addr: true, strings.Trim(strings.TrimPrefix(e.URL, "http:"), "/"): true}
	for _, l := range lines {
		if f := strings.Fields(l); len(f) < 5 || !want[f[4]] {
			t.Errorf("it listens on %q; want %v", l, want)
		}
	}
	if len(lines) != 2 {
		t.Errorf("it listens on\n%s\nwant %v", out, want)
	}
	dir := t.TempDir()
	g := r.run(1, "program", "get", "--server", e.URL, "--hash", e.Hash, "--manifest", e.Manifest, "--listen", ":0", "--dir", dir)
	if err := g.end(t, 30*time.Second); err != nil {
		t.Errorf("%v\n%s", err, &g.stderr)
	}
	same(t, set, dir)
	if d, _ := g.wait(t, time.Second, "done", nil); d.Bytes < e.Bytes {
		t.Errorf("%d of %d bytes by BitTorrent: %.2000s", d.Bytes, e.Bytes, g.text())
	}
}

// TestDone: when the local reader is done, a machine ends as soon as nobody takes from it;
// what it did not read was not fetched into memory.
func TestDone(t *testing.T) {
	t.Parallel()
	r := newRoom(t, 3, "40mbit")
	set := swarmtest.SetWith(t, 6<<20, 5<<20)
	_, tor := r.seed(set)
	time.Sleep(4 * time.Second) // a server that was just started does not know who takes from whom
	read := func(i int, url string) {
		t.Helper()
		if out, err := exec.Command("nsenter", fmt.Sprintf("--net=/run/netns/%s-%d", r.name, i), "curl", "-sf", "-o", "/dev/null", url+"vda1._.tar.zst").CombinedOutput(); err != nil {
			t.Fatalf("curl: %v: %s", err, out)
		}
	}
	g := r.get(1, tor, "--memory", "16M", "--serve", "127.0.0.1:0")
	e, _ := g.wait(t, 20*time.Second, "ready", nil)
	read(1, e.URL)
	time.Sleep(time.Second) // for what it might fetch beyond
	_, _ = io.WriteString(g.stdin, "done\n")
	begin := time.Now()
	if err := g.end(t, 10*time.Second); err != nil {
		t.Errorf("%v\n%s", err, &g.stderr)
	}
	if d := time.Since(begin); d > 3*time.Second {
		t.Errorf("it ended %v after its reader; want it to end when nobody takes from it", d)
	}
	if d, _ := g.wait(t, time.Second, "done", nil); d.Bytes > 7<<20 || d.Bytes < 6<<20 {
		t.Errorf("it fetched %d bytes of %d; want the archive of 6 MiB alone", d.Bytes, tor.Total())
	}
	// Another takes from it while it is done: that one gets all.
	d1, d2 := t.TempDir(), t.TempDir()
	g = r.get(1, tor, "--dir", d1, "--serve", "127.0.0.1:0")
	g.wait(t, 20*time.Second, "complete", nil)
	other := r.get(2, tor, "--dir", d2)
	other.wait(t, 10*time.Second, "from", func(e node.Event) bool { return e.Addr == r.ip(1)+":6881" })
	_ = g.cmd.Process.Signal(syscall.SIGUSR1)
	_, complete := other.wait(t, 30*time.Second, "complete", nil)
	if err := other.end(t, 30*time.Second); err != nil {
		t.Errorf("the other: %v\n%s", err, &other.stderr)
	}
	same(t, set, d2)
	if err := g.end(t, 10*time.Second); err != nil {
		t.Errorf("%v\n%s", err, &g.stderr)
	}
	_, end := g.wait(t, time.Second, "done", nil)
	if d := end.Sub(complete); d < 0 || d > 3*time.Second {
		t.Errorf("it ended %v after the one that took from it", d)
	}
	if e, _ := g.wait(t, time.Second, "done", nil); e.Sent < tor.Total()*9/10 {
		t.Errorf("it sent %d of %d bytes", e.Sent, tor.Total())
	}
}

// TestTerminated: a signal ends a client within 2 s, also when the server hangs.
func TestTerminated(t *testing.T) {
	t.Parallel()
	r := newRoom(t, 2, "20mbit")
	set := swarmtest.Set(t, 8<<20)
	seed, tor := r.seed(set)
	for _, hangs := range []bool{false, true} {
		for _, more := range [][]string{nil, {"--serve", "127.0.0.1:0"}} {
			g := r.get(1, tor, append(more, "--dir", filepath.Join(t.TempDir(), ".pieces"))...)
			g.wait(t, 20*time.Second, "progress", func(e node.Event) bool { return e.Pieces > 0 })
			if hangs {
				_ = seed.cmd.Process.Signal(syscall.SIGSTOP)
				time.Sleep(200 * time.Millisecond)
			}
			begin := time.Now()
			_ = g.cmd.Process.Signal(syscall.SIGTERM)
			err := g.end(t, 10*time.Second)
			if d := time.Since(begin); d > 2*time.Second {
				t.Errorf("server hangs %v, %q: it ended after %v", hangs, more, d)
			}
			if (err == nil) != (more != nil) {
				t.Errorf("%q: it ended with %v; want an error unless it serves", more, err)
			}
			_ = seed.cmd.Process.Signal(syscall.SIGCONT)
		}
	}
}

// TestRefused: another torrent, another manifest, or changed files are refused, with exit
// status 4.
func TestRefused(t *testing.T) {
	t.Parallel()
	r := newRoom(t, 2, "")
	set := swarmtest.Set(t, 2<<20)
	_, tor := r.seed(set)
	for name, args := range map[string][]string{
		"hash":     {"--hash", strings.Repeat("00", 20)},
		"manifest": {"--manifest", strings.Repeat("00", 32)},
	} {
		p := r.get(1, tor, append(args, "--dir", t.TempDir())...)
		err := p.end(t, 20*time.Second)
		if x, ok := err.(*exec.ExitError); !ok || x.ExitCode() != 4 || !strings.Contains(p.stderr.String(), "refused") {
			t.Errorf("%s: %v, %s; want exit status 4", name, err, &p.stderr)
		}
	}
	// The set is changed after the torrent was made.
	f, err := os.OpenFile(filepath.Join(set, "vda1._.tar.zst"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("changed"), 1<<20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	p := r.get(1, tor, "--dir", t.TempDir())
	err = p.end(t, 60*time.Second)
	if x, ok := err.(*exec.ExitError); !ok || x.ExitCode() != 4 || !strings.Contains(p.stderr.String(), "vda1._.tar.zst") {
		t.Errorf("a changed file: %v, %s; want exit status 4 and its name", err, &p.stderr)
	}
}

// TestServe: a restore reads the set while it arrives, from a directory or from a ring in
// memory that is smaller than the set.
func TestServe(t *testing.T) {
	t.Parallel()
	r := newRoom(t, 4, "")
	set := swarmtest.Set(t, 24<<20)
	_, tor := r.seed(set)
	for i, keep := range [][]string{{"--dir", t.TempDir()}, {"--memory", "16M"}} {
		p := r.get(i+1, tor, append(keep, "--serve", "127.0.0.1:0")...)
		e, _ := p.wait(t, 20*time.Second, "ready", nil)
		reader := r.run(i+1, "reader", e.URL, tor.Manifest)
		if err := reader.end(t, 3*time.Minute); err != nil { // pieces leave the memory, and are fetched again
			t.Errorf("%v: %v\n%s", keep, err, &reader.stderr)
		}
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		if err := p.end(t, 5*time.Second); err != nil {
			t.Errorf("%v: it ends with %v\n%s", keep, err, &p.stderr)
		}
	}
}

// reader verifies a set at a URL twice, as a restore reads it: all files, then the
// archives again.
func reader(url, digest string) error {
	s, err := manifest.Open(url)
	if err != nil {
		return err
	}
	if s.Digest != digest {
		return fmt.Errorf("the manifest is %s", s.Digest)
	}
	return s.Verify(context.Background(), true, progress.None{})
}

// tmpfs mounts a small file system.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, 0) })
	return dir
}

// TestFull: a full file system ends it, with the reason.
func TestFull(t *testing.T) {
	t.Parallel()
	r := newRoom(t, 2, "")
	set := swarmtest.Set(t, 8<<20)
	_, tor := r.seed(set)
	g := r.get(1, tor, "--dir", tmpfs(t, "3M"))
	if err := g.end(t, 30*time.Second); err == nil || !strings.Contains(g.stderr.String(), "no space left on device") {
		t.Errorf("%v, %s; want no space left", err, &g.stderr)
	}
}

// TestFullServed: when a reader takes the set while it arrives, a file system that becomes
// full, or nearly so by what others write, is given up: pieces are kept in memory.
func TestFullServed(t *testing.T) {
	t.Parallel()
	r := newRoom(t, 4, "")
	set := swarmtest.Set(t, 40<<20)
	_, tor := r.seed(set)
	for i, c := range []struct {
		name, size string
		fill       int // bytes that another program writes when the set is there
	}{{"by the set", "3M", 0}, {"from the start", "64k", 64 << 10}, {"by others", "128M", 85 << 20}} {
		dir := tmpfs(t, c.size)
		if c.name == "from the start" {
			_ = os.WriteFile(filepath.Join(dir, "other"), make([]byte, c.fill), 0o600)
		}
		pieces := filepath.Join(dir, ".pieces")
		g := r.get(i+1, tor, "--dir", pieces, "--memory", "16M", "--serve", "127.0.0.1:0")
		e, _ := g.wait(t, 20*time.Second, "ready", nil)
		if c.name == "by others" {
			g.wait(t, 20*time.Second, "complete", nil)
			if err := os.WriteFile(filepath.Join(dir, "other"), make([]byte, c.fill), 0o600); err != nil {
				t.Fatal(err)
			}
			g.wait(t, 5*time.Second, "full", nil)
			if err := os.WriteFile(filepath.Join(dir, "more"), make([]byte, 30<<20), 0o600); err != nil {
				t.Errorf("%s: the room of the set is not given back: %v", c.name, err)
			}
		}
		reader := r.run(i+1, "reader", e.URL, tor.Manifest)
		if err := reader.end(t, 3*time.Minute); err != nil { // pieces leave the memory, and are fetched again
			t.Errorf("%s: %v\n%s\n%.3000s", c.name, err, &reader.stderr, g.text())
		}
		g.wait(t, 5*time.Second, "full", nil)
		if _, err := os.Stat(filepath.Join(pieces, "vda1._.tar.zst")); err == nil {
			t.Errorf("%s: the archive is still in the directory", c.name)
		}
		_, _ = io.WriteString(g.stdin, "done\n")
		if err := g.end(t, 20*time.Second); err != nil {
			t.Errorf("%s: %v\n%s", c.name, err, &g.stderr)
		}
		if strings.Contains(g.text(), `"banned"`) {
			t.Errorf("%s: it bans a peer: %.3000s", c.name, g.text())
		}
	}
}

// others are BitTorrent clients that are not ours: the command that has all in a
// directory, or fetches it there, and stays.
func others(t *testing.T) map[string]func(t *testing.T, torrent, dir string) []string {
	t.Helper()
	return map[string]func(t *testing.T, torrent, dir string) []string{
		"aria2c": func(t *testing.T, torrent, dir string) []string {
			return []string{"aria2c", "--quiet", "--dir=" + dir, "--seed-ratio=0.0", "--check-integrity=true", "--listen-port=6881", "--enable-dht=false", "--bt-enable-lpd=false", "--enable-peer-exchange=false", "--bt-tracker-interval=2", "--file-allocation=none", torrent}
		},
		"transmission-cli": func(t *testing.T, torrent, dir string) []string {
			// With uTP it tries UDP for minutes before TCP.
			conf := t.TempDir()
			if err := os.WriteFile(filepath.Join(conf, "settings.json"), []byte(`{"utp-enabled": false, "dht-enabled": false}`), 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{"transmission-cli", "-g", conf, "-w", dir, "-p", "6881", "-M", torrent}
		},
		"libtorrent": func(t *testing.T, torrent, dir string) []string {
			return []string{"/usr/bin/python3", "-c", `import sys, time, libtorrent as lt
s = lt.session({"listen_interfaces": "0.0.0.0:6881", "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False})
h = s.add_torrent({"ti": lt.torrent_info(sys.argv[1]), "save_path": sys.argv[2]})
while True:
    time.sleep(2)
    h.force_reannounce()
`, torrent, dir}
		},
	}
}

// missing tells why another client cannot be used.
func missing(name string) string {
	if name == "libtorrent" {
		if out, err := exec.Command("/usr/bin/python3", "-c", "import libtorrent").CombinedOutput(); err != nil {
			return fmt.Sprintf("python3-libtorrent is missing: %.100s", out)
		}
		return ""
	}
	if _, err := exec.LookPath(name); err != nil {
		return name + " is missing"
	}
	return ""
}

// trackerOnly is a server of which only the tracker and the torrent are left: nobody gets
// a piece from it.
func trackerOnly(listen, dir string) error {
	set, err := manifest.Open(dir)
	if err != nil {
		return err
	}
	tor, _, err := settorrent.Open(context.Background(), set, progress.None{})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	tr := tracker.New(tracker.Options{Hash: tor.Hash, Seeder: netip.AddrPortFrom(netip.Addr{}, 6881), Chain: chain.Config{Pieces: tor.Info.NumPieces()}})
	mux.Handle("/announce", tr)
	mux.Handle("/scrape", tr)
	mux.HandleFunc("/"+settorrent.File, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(tor.Bytes) })
	return http.ListenAndServe(listen, mux)
}

// TestOthers: other clients get the set from our seeder and from our clients, and seed
// it to ours, with nothing but the torrent and its tracker. While they seed, no piece comes
// from the server: many unchoke a peer only after 10 s, and the set would be there by then.
func TestOthers(t *testing.T) {
	t.Parallel()
	for name, command := range others(t) {
		if why := missing(name); why != "" {
			t.Run(name, func(t *testing.T) { t.Skip(why) })
			continue
		}
		start := func(t *testing.T) (r *room, set, file string, seed *process, tor *settorrent.Torrent, step func(string)) {
			if why := missing("curl"); why != "" {
				t.Skip(why)
			}
			t.Parallel()
			begin := time.Now()
			step = func(what string) { t.Logf("%s after %.1f s", what, time.Since(begin).Seconds()) }
			r = newRoom(t, 3, "")
			set = swarmtest.Set(t, 3<<20)
			seed, tor = r.seed(set)
			file = filepath.Join(t.TempDir(), "x.torrent")
			b, err := bencode.Marshal(map[string]any{"announce": "http://" + r.ip(0) + ":8080/announce", "info": bencode.Bytes(tor.InfoBytes)})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, b, 0o644); err != nil {
				t.Fatal(err)
			}
			return r, set, file, seed, tor, step
		}
		t.Run(name+" with our seeder and seeding", func(t *testing.T) {
			r, set, file, seed, tor, step := start(t)
			dir := t.TempDir()
			theirs := filepath.Join(dir, tor.Info.Name)
			p := r.run(1, "", command(t, file, dir)...)
			if err := until(theirs, tor, time.Minute); err != nil {
				t.Fatalf("it got no set: %v\n%.2000s", err, &p.stderr)
			}
			same(t, set, theirs)
			step("it has the set")
			kill(seed, p)
			server := r.run(0, "tracker", r.ip(0)+":8080", set)
			ours := t.TempDir()
			_ = r.run(1, "", command(t, file, dir)...)
			r.announced(time.Minute)
			step("it seeds")
			g := r.get(2, tor, "--dir", ours)
			if err := g.end(t, time.Minute); err != nil {
				t.Fatalf("%v\n%s\n%s", err, &g.stderr, &server.stderr)
			}
			same(t, set, ours)
			if e, _ := g.wait(t, time.Second, "done", nil); e.Bytes < tor.Total() {
				t.Errorf("%d of %d bytes came from it: %.3000s", e.Bytes, tor.Total(), g.text())
			}
			step("ours has the set")
		})
		t.Run(name+" with one of our clients", func(t *testing.T) {
			r, set, file, seed, tor, step := start(t)
			ours := t.TempDir()
			g := r.get(2, tor, "--dir", ours, "--serve", "127.0.0.1:0")
			g.wait(t, 20*time.Second, "complete", nil)
			kill(seed)
			r.run(0, "tracker", r.ip(0)+":8080", set)
			dir := t.TempDir()
			p := r.run(1, "", command(t, file, dir)...)
			if err := until(filepath.Join(dir, tor.Info.Name), tor, time.Minute); err != nil {
				t.Errorf("it got no set from ours: %v\n%.2000s", err, &p.stderr)
			}
			same(t, set, filepath.Join(dir, tor.Info.Name))
			step("it has the set")
		})
	}
}

// TestCat: one file comes on standard output while it arrives, from a ring in memory.
func TestCat(t *testing.T) {
	t.Parallel()
	r := newRoom(t, 2, "")
	set := swarmtest.Set(t, 24<<20)
	_, tor := r.seed(set)
	want, err := os.ReadFile(filepath.Join(set, "vda1._.tar.zst"))
	if err != nil {
		t.Fatal(err)
	}
	self, _ := os.Executable()
	c := exec.Command("nsenter", "--net=/run/netns/"+r.name+"-1", self, "get", "--server", "http://"+r.ip(0)+":8080/", "--hash", tor.Hash.HexString(), "--manifest", tor.Manifest, "--listen", r.ip(1)+":6881", "--memory", "6M", "--cat", "vda1._.tar.zst")
	c.Env = append(os.Environ(), "SWARM_TEST=program")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	got, err := c.Output()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v: %d bytes of %d, equal %v\n%.2000s", err, len(got), len(want), bytes.Equal(got, want), &stderr)
	}
}
