package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/fleet/web"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

const (
	mac         = "52:54:00:00:03:01"
	serial      = "SN1"
	theManifest = `{"version":1}`
)

func digest(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) }

// memory is a set in memory.
type memory map[string]string

type memoryFile struct{ *strings.Reader }

func (memoryFile) Close() error { return nil }

func (m memory) Open(name string) (store.File, error) {
	s, ok := m[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return memoryFile{strings.NewReader(s)}, nil
}

// server is a real one that can be killed and started again.
type server struct {
	t     *testing.T
	file  string
	pem   string
	print string
	addr  string
	room  *fleet.Room
	set   memory
	http  *http.Server
	web   *web.Server
	busy  sync.WaitGroup
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, file: filepath.Join(t.TempDir(), "state"), addr: "127.0.0.1:0", set: memory{"manifest.json": theManifest, "sda1._.tar.zst": "0123456789"}}
	var err error
	if s.pem, err = web.NewCertificate(nil); err != nil {
		t.Fatal(err)
	}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *server) start() {
	s.t.Helper()
	var err error
	if s.room, err = fleet.OpenRoom(s.file, fleet.DefaultRules(), []fleet.Set{{Name: "lab", Host: "golden", Digest: digest(theManifest), Disks: []fleet.SetDisk{{Name: "vda"}}, Work: 100}}); err != nil {
		s.t.Fatal(err)
	}
	say := func(string, ...any) {}
	if s.web, err = web.New(web.Config{Room: s.room, Sets: map[string]web.Files{"lab": s.set}, Token: strings.Repeat("x", 32), Say: say, Warn: say}); err != nil {
		s.t.Fatal(err)
	}
	handler := s.web
	s.http = &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.busy.Add(1)
		defer s.busy.Done()
		handler.ServeHTTP(w, r)
	})}
	if s.http.TLSConfig, s.print, err = web.TLS(s.pem); err != nil {
		s.t.Fatal(err)
	}
	var l net.Listener
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if l, err = net.Listen("tcp", s.addr); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = l.Addr().String()
	go func(h *http.Server) { _ = h.ServeTLS(l, "", "") }(s.http) // ends with kill
}

// kill ends it as SIGKILL does: no connection is ended properly. What it was writing is
// waited for, since it would be written over what the next one writes.
func (s *server) kill() { s.http.Close(); s.web.Close(); s.busy.Wait() }

// machine is a client with a restore that the test leads.
type machine struct {
	t       *testing.T
	s       *server
	cancel  context.CancelFunc
	joined  chan error
	stopped chan string
	args    chan []string
	event   chan string // what restore prints
	exit    chan int
	place   chan string
	mu      sync.Mutex
	said    []string
	boot    string
}

func newMachine(s *server) *machine {
	m := &machine{t: s.t, s: s, joined: make(chan error, 1), stopped: make(chan string, 1), args: make(chan []string, 1), event: make(chan string), exit: make(chan int), place: make(chan string, 1), boot: "b1"}
	c, err := New(Config{
		Server: "https://" + s.addr, Fingerprint: s.print, pause: 20 * time.Millisecond, giveUp: 30 * time.Second,
		Facts: func(context.Context) (*fleet.Registration, error) {
			return &fleet.Registration{MAC: mac, Serial: serial, Firmware: "uefi", Boot: m.boot, Disks: []fleet.Disk{{Disk: layout.Disk{Name: "sda", Serial: "DISK1", Size: 1 << 30}}}}, nil
		},
		Run: func(ctx context.Context, args []string, event func([]byte)) (int, string, error) {
			m.args <- args
			m.place <- args[len(args)-1]
			for {
				select {
				case l := <-m.event:
					event([]byte(l))
				case code := <-m.exit:
					return code, "first\nlast line", nil
				case <-ctx.Done():
					return 1, "", nil
				}
			}
		},
		Stop: func(how string) error { m.stopped <- how; return nil },
		Say: func(f string, a ...any) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.said = append(m.said, fmt.Sprintf(f, a...))
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	go func() { m.joined <- c.Join(ctx) }()
	s.t.Cleanup(cancel)
	return m
}

func (m *machine) log() string { m.mu.Lock(); defer m.mu.Unlock(); return strings.Join(m.said, "\n") }

// until waits for a state of the machine in the room.
func (m *machine) until(what string, ok func(fleet.View) bool) fleet.View {
	m.t.Helper()
	var v fleet.View
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		var err error
		if v, err = m.s.room.View(mac); err == nil && ok(v) {
			return v
		}
	}
	m.t.Fatalf("not %s: %+v\n%s", what, v, m.log())
	return v
}

func (m *machine) state(s fleet.State) fleet.View {
	m.t.Helper()
	return m.until(string(s), func(v fleet.View) bool { return v.State == s })
}

func (m *machine) release() {
	m.t.Helper()
	if err := m.s.room.Release(fleet.Wish{MAC: mac, Confirm: serial}); err != nil {
		m.t.Fatal(err)
	}
}

func get(place, file, ranges string) (int, string, error) {
	q, err := http.NewRequest("GET", place+"/"+file, nil)
	if err != nil {
		return 0, "", err
	}
	if ranges != "" {
		q.Header.Set("Range", ranges)
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), err
}

// TestJob: from registration to the reboot, with a failure and a retry; the server is
// killed and started again at each step.
func TestJob(t *testing.T) {
	s := newServer(t)
	m := newMachine(s)
	again := func() { t.Helper(); s.kill(); s.start() }
	m.until("told that it is registered", func(fleet.View) bool { return strings.Contains(m.log(), "registered at") })
	again()
	m.release()
	args := <-m.args
	if got := strings.Join(args[:len(args)-1], " "); got != "--json --yes --map=vda=DISK1 --confirm=DISK1" {
		t.Errorf("restore %s", got)
	}
	place := <-m.place
	m.state(fleet.Working)
	again()
	for file, want := range map[string]string{"manifest.json": theManifest, "sda1._.tar.zst": "0123456789"} {
		if c, b, err := get(place, file, ""); err != nil || c != 200 || b != want {
			t.Errorf("%s: %d %q, %v", file, c, b, err)
		}
	}
	if c, b, err := get(place, "sda1._.tar.zst", "bytes=3-5"); err != nil || c != 206 || b != "345" {
		t.Errorf("a part: %d %q, %v", c, b, err)
	}
	for _, bad := range []string{"nothing", "../../v1/room", "..%2f..%2fv1%2froom"} {
		if c, b, err := get(place, bad, ""); err != nil || c == 200 {
			t.Errorf("%s: %d %q, %v", bad, c, b, err)
		}
	}
	m.event <- `{"event":"phase","phase":"restoring /","total":50}`
	m.event <- `{"event":"progress","phase":"restoring /","bytes":25,"total":50}`
	m.event <- "no event"
	m.until("at 25 %", func(v fleet.View) bool { return v.Percent == 25 && v.Progress.Phase == "restoring /" })
	again()
	m.event <- `{"event":"progress","phase":"restoring /","bytes":40,"total":50}`
	m.until("at 40 %", func(v fleet.View) bool { return v.Percent == 40 })
	s.kill()
	m.event <- `{"event":"warning","message":"slow disk"}` // while there is no server
	m.event <- `{"event":"error","message":"cannot write /dev/sda1: EIO","data":{"hint":"replace the disk"}}`
	m.exit <- 1
	time.Sleep(100 * time.Millisecond)
	s.start()
	v := m.state(fleet.Failed)
	if v.Why != "cannot write /dev/sda1: EIO" {
		t.Errorf("%+v", v)
	}
	var log []string
	for _, l := range v.Log {
		log = append(log, l.Level+" "+l.Text)
	}
	for _, want := range []string{"note restoring /", "warning slow disk", "error cannot write /dev/sda1: EIO", "note hint: replace the disk"} {
		if !strings.Contains(strings.Join(log, "\n"), want) && want != "note restoring /" { // the log of a machine at work is not kept over a restart
			t.Errorf("no %q in the log:\n%s", want, strings.Join(log, "\n"))
		}
	}
	again()
	m.release()
	<-m.args
	<-m.place
	m.event <- `{"event":"done","phase":"restoring /","bytes":100}`
	m.exit <- 0
	m.state(fleet.Done)
	select {
	case how := <-m.stopped:
		if how != fleet.Reboot {
			t.Error(how)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("the machine is not restarted\n%s", m.log())
	}
	if err := <-m.joined; err != nil {
		t.Error(err)
	}
	if !strings.Contains(m.log(), "RESTORE FAILED: cannot write /dev/sda1: EIO") || !strings.Contains(m.log(), "RESTORE DONE") {
		t.Error(m.log())
	}
}

// TestRestarted: a client that ends and is started again while restore runs does not
// let the room wait for ever, and begins nothing.
func TestRestarted(t *testing.T) {
	s := newServer(t)
	m := newMachine(s)
	m.state(fleet.Registered)
	m.release()
	<-m.args
	m.state(fleet.Working)
	s.room.SetClock(func() time.Time { return time.Now().Add(time.Hour) })
	m.cancel()
	if err := <-m.joined; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	v := m.state(fleet.Failed)
	if !strings.Contains(v.Why, "was stopped while restore ran") {
		t.Error(v.Why)
	}
	n := newMachine(s)
	n.until("there again", func(v fleet.View) bool { return strings.Contains(n.log(), "the last job failed") })
	select {
	case a := <-n.args:
		t.Errorf("restore %v", a)
	case <-time.After(200 * time.Millisecond):
	}
}

// TestOtherServer: one with another certificate gets nothing.
func TestOtherServer(t *testing.T) {
	s := newServer(t)
	s.print = strings.Repeat("ab", 32)
	m := newMachine(s)
	for end := time.Now().Add(30 * time.Second); !strings.Contains(m.log(), "another one than the boot medium names"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(m.log())
		}
	}
	if len(s.room.Views()) != 0 {
		t.Error("it registered")
	}
	for _, bad := range []struct{ url, print string }{
		{"http://x", s.print}, {"https://", s.print}, {"https://x/y", s.print}, {"https://u:p@x", s.print}, {"https://x", "ab"}, {"https://x", strings.Repeat("zz", 32)}, {"\x1b[2J", s.print},
	} {
		if _, err := New(Config{Server: bad.url, Fingerprint: bad.print}); err == nil || strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("%q %q: %v", bad.url, bad.print, err)
		}
	}
}

// TestOtherSet: a set that was changed after the release is not given to restore.
func TestOtherSet(t *testing.T) {
	s := newServer(t)
	m := newMachine(s)
	m.state(fleet.Registered)
	s.set["manifest.json"] = `{"version":2}`
	m.release()
	place := <-m.place
	if c, b, err := get(place, "manifest.json", ""); err != nil || c != http.StatusForbidden {
		t.Errorf("%d %q, %v", c, b, err)
	}
	m.exit <- 2
	if v := m.state(fleet.Failed); v.Why != "last line" {
		t.Errorf("%q", v.Why)
	}
}

// TestCheck: an order that does not fit the machine is refused here, too.
func TestCheck(t *testing.T) {
	c := &Client{reg: &fleet.Registration{MAC: mac, Disks: []fleet.Disk{{Disk: layout.Disk{Name: "sda", Serial: "A", Size: 1}}, {Disk: layout.Disk{Name: "sdb", Serial: "D", Size: 1}}, {Disk: layout.Disk{Name: "sdc", Serial: "D", Size: 1}}}}}
	good := func() *fleet.Job {
		return &fleet.Job{Set: "lab", Map: []string{"vda=A"}, Confirm: []string{"A"}, After: fleet.Reboot, Hostname: "lab-01", Identity: "new", Swarm: fleet.Swarm{Server: "http://10.0.0.1:6882/", Hash: strings.Repeat("ab", 20)}}
	}
	if err := c.check(good()); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*fleet.Job){
		"no disk": func(j *fleet.Job) { j.Confirm, j.Map = nil, nil }, "a disk that is not here": func(j *fleet.Job) { j.Confirm, j.Map = []string{"B"}, []string{"vda=B"} },
		"two disks with that number": func(j *fleet.Job) { j.Confirm, j.Map = []string{"D"}, []string{"vda=D"} }, "empty": func(j *fleet.Job) { j.Confirm, j.Map = []string{""}, []string{"vda="} },
		"a name": func(j *fleet.Job) { j.Confirm, j.Map = []string{"sda"}, []string{"vda=sda"} }, "another in the map": func(j *fleet.Job) { j.Map = []string{"vda=sdb"} },
		"two in the map": func(j *fleet.Job) { j.Map = []string{"vda=A,vdb=sdb"} }, "set": func(j *fleet.Job) { j.Set = "../x" }, "after": func(j *fleet.Job) { j.After = "halt" },
		"host name": func(j *fleet.Job) { j.Hostname = "--x" }, "identity": func(j *fleet.Job) { j.Identity = "/etc/shadow" },
		"swarm's server": func(j *fleet.Job) { j.Swarm = fleet.Swarm{Server: "file:///etc", Hash: strings.Repeat("ab", 20)} }, "swarm's hash": func(j *fleet.Job) { j.Swarm = fleet.Swarm{Server: "http://10.0.0.1:80/", Hash: "--x"} },
	} {
		j := good()
		change(j)
		if err := c.check(j); err == nil {
			t.Errorf("%s: not refused", name)
		}
	}
	if err := c.check(nil); err == nil {
		t.Error("no job at all: not refused")
	}
}

func TestFacts(t *testing.T) {
	root := t.TempDir()
	for f, text := range map[string]string{"sys/class/dmi/id/product_serial": "To be filled by O.E.M.\n", "sys/class/dmi/id/chassis_serial": "CH1\n", "sys/class/dmi/id/sys_vendor": "V\n", "proc/meminfo": "MemTotal:  1024 kB\n", "proc/sys/kernel/random/boot_id": "b\n", "sys/firmware/efi/x": ""} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, f)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, f), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r := facts(root); r.Serial != "CH1" || r.Vendor != "V" || r.Memory != 1<<20 || r.Boot != "b" || r.Firmware != "uefi" {
		t.Errorf("%+v", r)
	}
	if r := facts(t.TempDir()); r.Firmware != "bios" || r.Serial != "" {
		t.Errorf("%+v", r)
	}
}

// FuzzEvent: no line of restore's makes the client panic or keep more than it should.
func FuzzEvent(f *testing.F) {
	f.Add([]byte(`{"event":"progress","phase":"x","bytes":5,"total":10}`))
	f.Add([]byte(`{"event":"error","message":"x","data":{"hint":"y"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e := &teller{say: func(string, ...any) {}}
		for range maxPending + 10 {
			e.event(b)
		}
		if len(e.now.Lines) > maxPending {
			t.Errorf("%d lines", len(e.now.Lines))
		}
		for e.take() != nil {
		}
	})
}
