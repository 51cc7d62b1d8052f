package builder

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/builder/rescue"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// TestMain lets the test program stand for mkcdrec-swarm.
func TestMain(m *testing.M) {
	if log := os.Getenv("SWARM_LOG"); log != "" && len(os.Args) > 1 && os.Args[1] == "seed" {
		os.Exit(fakeSeeder(log, os.Getenv("SWARM_FAKE"), os.Args))
	}
	os.Exit(m.Run())
}

// fakeSeeder serves in the way that how says: it is killed once it has told that it
// serves, serves another set, or fails at once.
func fakeSeeder(log, how string, args []string) int {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 9
	}
	fmt.Fprintln(f, strings.Join(args[1:], " "))
	if how == "fails" {
		fmt.Fprintln(os.Stderr, "mkcdrec-swarm: cannot listen on 127.0.0.1:6881: in use")
		return 1
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM)
	sum := os.Getenv("SWARM_DIGEST")
	if how == "another" {
		sum = strings.Repeat("0", 64)
	}
	e := json.NewEncoder(os.Stdout)
	line := func(data map[string]any) {
		_ = e.Encode(map[string]any{"version": 1, "event": "result", "kind": fleet.SwarmKind, "data": data})
	}
	line(map[string]any{"event": "serving", "url": "http://" + args[3] + "/", "hash": strings.Repeat("ab", 20), "manifest": sum})
	line(map[string]any{"event": "progress", "sent": 5 << 20})
	line(map[string]any{"event": "banned", "addr": "10.0.0.9"})
	if how == "dies" {
		return 1
	}
	<-stop
	fmt.Fprintln(f, "ended")
	return 0
}

// lines keeps what is reported.
type lines struct {
	progress.None
	mu  sync.Mutex
	all []string
}

func (l *lines) add(level, f string, a ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, level+fmt.Sprintf(f, a...))
}
func (l *lines) Note(f string, a ...any) { l.add("", f, a...) }
func (l *lines) Warn(f string, a ...any) { l.add("warning: ", f, a...) }
func (l *lines) text() string            { l.mu.Lock(); defer l.mu.Unlock(); return strings.Join(l.all, "\n") }

// TestSwarmSeeders: a seeder for each set, on ports that follow each other; one that ends
// is started again on the same ports, and all end with the server.
func TestSwarmSeeders(t *testing.T) {
	for _, c := range []struct {
		how, want string // of an error
		warns     []string
	}{
		{"", "", []string{"warning: set a: 10.0.0.9 sent wrong data, and is not asked any more"}},
		{"dies", "", []string{"warning: the swarm of set a ended, and is started again: "}},
		{"another", "cannot serve set a to a swarm: the program serves something else", nil},
		{"fails", "cannot serve set a to a swarm: cannot listen on 127.0.0.1:6881: in use", nil},
	} {
		t.Run(c.how, func(t *testing.T) {
			dir := t.TempDir()
			set := testSet(t, dir)
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(exe, filepath.Join(dir, swarmProgram)); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "mkcdrec"), nil, 0o700); err != nil {
				t.Fatal(err)
			}
			out := &lines{}
			b := &Builder{Report: out, Config: &Config{}, Executable: filepath.Join(dir, "mkcdrec")}
			b.Config.Rescue.Programs = "none"
			sets, files, err := b.serveSets(t.Context(), []string{"a=" + set, "b=" + set})
			if err != nil {
				t.Fatal(err)
			}
			log := filepath.Join(dir, "log")
			t.Setenv("SWARM_LOG", log)
			t.Setenv("SWARM_FAKE", c.how)
			t.Setenv("SWARM_DIGEST", sets[0].Digest)
			stop, carry, err := b.swarm(t.Context(), ServeOptions{SwarmPort: 7001}, netip.MustParseAddr("10.0.0.1"), sets, files)
			if c.want != "" {
				if err == nil || err.Error() != c.want {
					t.Errorf("%v; want %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if p := b.Maker().Programs(&rescue.Machine{Carry: carry}); len(p) != 1 || p[0].File != filepath.Join(dir, swarmProgram) {
				t.Errorf("the rescue system gets %+v", p)
			}
			if s := sets[1].Swarm; s.Server != "http://10.0.0.1:7004/" || len(s.Hash) != 40 {
				t.Errorf("%+v", s)
			}
			starts := 2
			if c.how == "dies" {
				starts = 4
			}
			for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				b, err := os.ReadFile(log)
				if err == nil && strings.Count(string(b), "seed --http 10.0.0.1:700") >= starts {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("not started again: %s\n%s", b, out.text())
				}
			}
			stop()
			f, err := os.Open(log)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			ended := 0
			for in := bufio.NewScanner(f); in.Scan(); {
				switch l := in.Text(); l {
				case "ended":
					ended++
				case "seed --http 10.0.0.1:7002 --listen 10.0.0.1:7001 " + set, "seed --http 10.0.0.1:7004 --listen 10.0.0.1:7003 " + set:
				default:
					t.Errorf("started with %q", l)
				}
			}
			if c.how == "" && ended != 2 {
				t.Errorf("%d ended", ended)
			}
			for _, w := range append(c.warns, "set b: ", "were sent to the swarm") {
				if !strings.Contains(out.text(), w) {
					t.Errorf("no %q in:\n%s", w, out.text())
				}
			}
		})
	}
}

// TestNoSwarm: what is needed is looked for first.
func TestNoSwarm(t *testing.T) {
	dir := t.TempDir()
	set := testSet(t, dir)
	b := &Builder{Report: progress.None{}, Config: &Config{}, Executable: filepath.Join(dir, "mkcdrec")}
	sets, files, err := b.serveSets(t.Context(), []string{"a=" + set})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.swarm(t.Context(), ServeOptions{}, netip.MustParseAddr("127.0.0.1"), sets, files); exit.Code(err) != exit.BadUsage || !strings.Contains(err.Error(), "cannot find program mkcdrec-swarm") {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "mkcdrec"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, swarmProgram), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.swarm(t.Context(), ServeOptions{SwarmPort: 65535}, netip.MustParseAddr("127.0.0.1"), sets, files); exit.Code(err) != exit.BadUsage || !strings.Contains(err.Error(), "--swarm-port 65535") {
		t.Error(err)
	}
}
