package client

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/probe"
)

// TestMain lets the test program stand for mkcdrec-swarm.
func TestMain(m *testing.M) {
	if how := os.Getenv("SWARM_FAKE"); how != "" && len(os.Args) > 1 && os.Args[1] == "get" {
		os.Exit(fakeSwarm(how, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// fakeSwarm serves the archive, with content that tells where it is from.
func fakeSwarm(how string, args []string) int {
	log, err := os.OpenFile(os.Getenv("SWARM_LOG"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 9
	}
	fmt.Fprintln(log, strings.Join(args, " "))
	if how == "refuses" {
		fmt.Fprintln(os.Stderr, "mkcdrec-swarm: cannot use the torrent: refused")
		return 4
	}
	if i := slices.Index(args, "--dir"); i >= 0 {
		if os.MkdirAll(args[i+1], 0o700) != nil || os.WriteFile(args[i+1]+"/piece", nil, 0o600) != nil {
			return 9
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 9
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if how == "dies" {
			os.Exit(1)
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("SWARM"+strings.TrimPrefix(r.URL.Path, "/")))
	}))
	for _, data := range []string{`{"event":"from","addr":"10.0.0.7:6881"}`, `{"event":"banned","addr":"10.0.0.8"}`, "no event", fmt.Sprintf(`{"event":"ready","url":"http://%s/"}`, l.Addr())} {
		fmt.Printf("{\"version\":1,\"event\":\"result\",\"kind\":\"swarm\",\"data\":%s}\n", data)
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		fmt.Fprintln(log, "told", in.Text())
	}
	return 0
}

const (
	archiveName   = "sda1._.tar.zst"
	swarmManifest = `{"version":%d,"id":"01234567-89ab-cdef-0123-456789abcdef","host":"golden","created":"2026-01-01T00:00:00Z","program":"p","kernel":"k",` +
		`"archives":[{"file":"sda1._.tar.zst","device":"sda1","type":"ext4","mount":"/","size":10,"tarSize":%d,"dataSize":5,"members":1,"sha256":"%s","problems":0}],` +
		`"files":[{"name":"layout.json","size":1,"sha256":"%[3]s"},{"name":"sda1._.tar.zst","size":10,"sha256":"%[3]s"}]}`
)

// swarmed is a set that is opened with a fake program.
type swarmed struct {
	t      *testing.T
	s      *server
	set    *Opened
	target string
	log    string
	mu     sync.Mutex
	said   []string
}

func (w *swarmed) tell(level, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, level+" "+text)
}

func (w *swarmed) all() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.said, "\n")
}

// mounted has the machine's list of mounts name the target's file system.
func (w *swarmed) mounted(root, typ string) {
	w.t.Helper()
	text := "1 0 8:1 / / rw - ext4 /dev/root rw\n"
	if typ != "" {
		text += "2 1 8:2 / " + w.target + " rw - " + typ + " /dev/vda1 rw\n"
	}
	if err := os.WriteFile(root+"/proc/self/mountinfo", []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *swarmed) get() string {
	w.t.Helper()
	c, b, err := get(w.set.Place, archiveName, "bytes=2-")
	if err != nil || c != http.StatusPartialContent {
		w.t.Errorf("%d %q, %v", c, b, err)
	}
	return b
}

// TestSwarm: archives come from other machines while a new file system is there, and
// everything else, and what fails, from the server.
func TestSwarm(t *testing.T) {
	const server, other = "23456789", "ARM" + archiveName
	for _, c := range []struct {
		name, how, typ string
		tarSize        int64
		want           []string // the answers after the mount
		args           string
		said           []string
	}{
		{"disk", "serves", "ext4", 10, []string{other, other}, "--dir DIR", []string{"note the set comes from 10.0.0.7", "warning 10.0.0.8 sent wrong data, and is not asked any more"}},
		{"no room", "serves", "ext4", 1 << 50, []string{other}, "--memory", []string{"note the new file systems have no room for the set beside their content: its pieces are kept in memory"}},
		{"not a place for pieces", "serves", "vfat", 10, []string{server}, "", nil},
		{"dies", "dies", "ext4", 10, []string{server, server}, "--dir DIR", []string{"warning cannot get the set from other machines, it comes from the server"}},
		{"refuses", "refuses", "xfs", 10, []string{server, server}, "--dir DIR", []string{"warning cannot get the set from other machines, it comes from the server: cannot use the torrent: refused"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t)
			sum := digest("0123456789")
			s.set["manifest.json"] = fmt.Sprintf(swarmManifest, manifest.Version, c.tarSize, sum)
			w := &swarmed{t: t, s: s, target: t.TempDir(), log: filepath.Join(t.TempDir(), "log")}
			t.Setenv("SWARM_FAKE", c.how)
			t.Setenv("SWARM_LOG", w.log)
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			a, err := newAPI("https://"+s.addr, s.print)
			if err != nil {
				t.Fatal(err)
			}
			token, err := s.room.Register(&fleet.Registration{MAC: mac, Serial: serial, Firmware: "uefi", Boot: "b1", Disks: []fleet.Disk{{Disk: layout.Disk{Name: "sda", Serial: "DISK1", Size: 1 << 30}}}}, netip.MustParseAddr("127.0.0.1"))
			if err != nil {
				t.Fatal(err)
			}
			a.setToken(token)
			if err := s.room.Release(fleet.Wish{MAC: mac, Confirm: serial}); err != nil {
				t.Fatal(err)
			}
			job := &fleet.Job{Set: "lab", Digest: digest(s.set["manifest.json"]), Swarm: fleet.Swarm{Server: "http://10.0.0.1:6882/", Hash: strings.Repeat("ab", 20)}}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			root := t.TempDir()
			if err := os.MkdirAll(root+"/proc/self", 0o700); err != nil {
				t.Fatal(err)
			}
			d := &direct{a, exe, w.target, probe.Machine{Root: root}}
			if w.set, err = d.Open(ctx, job, w.tell); err != nil {
				t.Fatal(err)
			}
			w.mounted(root, "")
			if code, _, err := get(w.set.Place, "manifest.json", ""); code != 200 || err != nil {
				t.Fatalf("%d %v", code, err)
			}
			if got := w.get(); got != server {
				t.Errorf("before anything is mounted: %q", got)
			}
			w.mounted(root, c.typ)
			for _, want := range c.want {
				if got := w.get(); got != want {
					t.Errorf("%q; want %q\n%s", got, want, w.all())
				}
			}
			then := time.Unix(1e9, 5000)
			if err := os.Chtimes(w.target, then, then); err != nil {
				t.Fatal(err)
			}
			read := strings.TrimPrefix(w.set.Options[1], "--when-read=")
			if r, err := http.Post(read, "", nil); err != nil || r.StatusCode != http.StatusNoContent {
				t.Errorf("%v %v", r, err)
			}
			if st, err := os.Stat(w.target); err != nil || !st.ModTime().Equal(then) {
				t.Errorf("the target's time is %v, %v", st.ModTime(), err)
			}
			if left, err := os.ReadDir(w.target); err != nil || len(left) > 0 {
				t.Errorf("left: %v %v", left, err)
			}
			if got := w.get(); got != server {
				t.Errorf("after the end: %q", got)
			}
			w.set.Stop()
			b, err := os.ReadFile(w.log)
			if err != nil && c.args != "" {
				t.Fatal(err)
			}
			want := strings.ReplaceAll(c.args, "DIR", filepath.Join(w.target, piecesDir))
			if c.args == "" && len(b) > 0 || !strings.Contains(string(b), want) {
				t.Errorf("program: %q; want %q", b, want)
			}
			if c.args != "" && !strings.Contains(string(b), "get --server http://10.0.0.1:6882/ --hash "+job.Swarm.Hash+" --manifest "+job.Digest) {
				t.Errorf("program: %q", b)
			}
			if c.how == "serves" && c.args != "" && !strings.Contains(string(b), "told done") {
				t.Errorf("the program was not told: %q", b)
			}
			for _, want := range c.said {
				if !strings.Contains(w.all(), want) {
					t.Errorf("%q is not in:\n%s", want, w.all())
				}
			}
			if c.how == "serves" && strings.Contains(w.all(), "comes from the server") {
				t.Error(w.all())
			}
		})
	}
}

// TestSwarmStopped: whatever the program does, it ends with the restore, and leaves
// nothing.
func TestSwarmStopped(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("SWARM_FAKE", "serves")
	t.Setenv("SWARM_LOG", dir+"/log")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := newSwarm(context.Background(), exe, dir, &fleet.Job{}, func(string, string) {})
	s.begun = true
	if err := s.start([]place{{dir, 1 << 40}}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, piecesDir, "piece")); err != nil {
		t.Fatal(err)
	}
	s.close()
	select {
	case <-s.ended:
	default:
		t.Error("the program runs")
	}
	if _, err := os.Stat(filepath.Join(dir, piecesDir)); !os.IsNotExist(err) {
		t.Error(err)
	}
}
