package builder

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/mkcdrec/mkcdrec/builder/rescue"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// TestServeRefuses: what can be known is known before anything is served, and a wrong
// option is named.
func TestServeRefuses(t *testing.T) {
	dir := t.TempDir()
	set := testSet(t, dir)
	rules := func(text string) string {
		f := filepath.Join(t.TempDir(), "rules.yaml")
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	for _, c := range []struct {
		name string
		o    ServeOptions
		want string
		code int
	}{
		{"no set", ServeOptions{HTTP: "127.0.0.1:0"}, "wants a backup set", exit.BadUsage},
		{"no interface", ServeOptions{Sets: []string{set}}, "name the interface", exit.BadUsage},
		{"no such interface", ServeOptions{Sets: []string{set}, Interface: "nosuch0"}, "there is no such interface", exit.BadUsage},
		{"any address", ServeOptions{Sets: []string{set}, HTTP: "0.0.0.0:80"}, "without --listen want", exit.BadUsage},
		{"another's address", ServeOptions{Sets: []string{set}, HTTP: "192.0.2.77:80"}, "no interface has that address", exit.BadUsage},
		{"addresses without an interface", ServeOptions{Sets: []string{set}, HTTP: "127.0.0.1:0", DHCP: "127.0.0.5-127.0.0.9"}, "--dhcp wants --listen", exit.BadUsage},
		{"a range elsewhere", ServeOptions{Sets: []string{set}, Interface: "lo", DHCP: "10.0.0.5-10.0.0.9"}, "is not in the network", exit.BadUsage},
		{"no such set", ServeOptions{Sets: []string{dir + "/nothing"}, HTTP: "127.0.0.1:0"}, "nothing", exit.Refused},
		{"a name for a URL", ServeOptions{Sets: []string{"a b=" + set}, HTTP: "127.0.0.1:0"}, "under the name", exit.BadUsage},
		{"two of a name", ServeOptions{Sets: []string{"a=" + set, "a=" + set}, HTTP: "127.0.0.1:0"}, "two sets are called a", exit.BadUsage},
		{"rules", ServeOptions{Sets: []string{"a=" + set}, HTTP: "127.0.0.1:0", Rules: rules("rules:\n- match: {any: true}\n  sett: x\n")}, "unknown key", exit.BadUsage},
		{"rules for another set", ServeOptions{Sets: []string{"a=" + set}, HTTP: "127.0.0.1:0", Rules: rules("rules:\n- match: {any: true}\n  set: b\n")}, `there is no set "b"`, exit.BadUsage},
	} {
		c.o.State = filepath.Join(t.TempDir(), "state.json")
		b := &Builder{Report: progress.None{}, Config: &Config{}}
		err := b.Serve(t.Context(), c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) || exit.Code(err) != c.code && c.code != exit.Refused {
			t.Errorf("%s: %v, exit status %d; want %q, %d", c.name, err, exit.Code(err), c.want, c.code)
		}
		if _, err := os.Stat(c.o.State); err == nil {
			t.Errorf("%s: there is a state file", c.name)
		}
	}
}

// TestServeSets: only what the manifest names is given out, under the set's name.
func TestServeSets(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	set := testSet(t, t.TempDir())
	if err := os.WriteFile(filepath.Join(set, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &Builder{Report: progress.None{}}
	sets, files, err := b.serveSets(t.Context(), []string{"lab=" + set})
	if err != nil {
		t.Fatal(err)
	}
	if s := sets[0]; s.Name != "lab" || len(s.Digest) != 64 || s.Host == "" || s.Work <= 0 {
		t.Errorf("%+v", s)
	}
	f, err := files["lab"].Open("manifest.json")
	if err != nil || f.Size() == 0 {
		t.Fatal(err)
	}
	f.Close()
	// A file that is another one now is not given out, whatever a link names.
	name := sets[0].Name
	n := files[name].(setFiles).set.Manifest.Files[0].Name
	if err := os.Rename(filepath.Join(set, n), filepath.Join(set, "was")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(set, "secret"), filepath.Join(set, n)); err != nil {
		t.Fatal(err)
	}
	if f, err := files[name].Open(n); err == nil || !strings.Contains(err.Error(), "by the manifest") {
		t.Errorf("%s: %v %v", n, f, err)
	}
	for _, bad := range []string{"secret", "../secret", "", ".", "/etc/passwd"} {
		if f, err := files["lab"].Open(bad); err == nil {
			f.Close()
			t.Errorf("%q is given out", bad)
		}
	}
}

func TestLockState(t *testing.T) {
	file := filepath.Join(t.TempDir(), "d", "state.json")
	unlock, err := lockState(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockState(file); !errors.As(err, new(*exit.Refusal)) {
		t.Errorf("a second server: %v", err)
	}
	unlock()
	if unlock, err = lockState(file); err != nil {
		t.Error(err)
	} else {
		unlock()
	}
}

func TestServeAddress(t *testing.T) {
	if _, err := net.InterfaceByName("lo"); err != nil {
		t.Skip("there is no lo")
	}
	for _, c := range [][2]string{{"lo", ""}, {"", "127.0.0.1:80"}} {
		if p, err := serveAddress(c[0], c[1]); err != nil || p.String() != "127.0.0.1/8" {
			t.Errorf("%q: %v, %v", c, p, err)
		}
	}
}

// TestServeSecondDHCP: where dnsmasq gives out addresses, no range of ours is served, and
// the server's address is named.
func TestServeSecondDHCP(t *testing.T) {
	dnsmasq, err := exec.LookPath("dnsmasq")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("want root and dnsmasq")
	}
	set := testSet(t, t.TempDir())
	a, b := fmt.Sprintf("mkcsv%da", os.Getpid()), fmt.Sprintf("mkcsv%db", os.Getpid())
	ip := func(args string) error {
		out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
		return nil
	}
	for _, n := range []string{a, b} {
		if err := ip("netns add " + n); err != nil {
			t.Skipf("there are no network namespaces here: %v", err)
		}
		t.Cleanup(func() {
			if err := ip("netns del " + n); err != nil {
				t.Error(err)
			}
		})
	}
	for _, c := range []string{
		"-n " + a + " link add srv type veth peer name dns netns " + b, "-n " + a + " addr add 10.94.0.1/24 dev srv", "-n " + a + " link set srv up",
		"-n " + b + " addr add 10.94.0.2/24 dev dns", "-n " + b + " link set dns up",
	} {
		if err := ip(c); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.CommandContext(t.Context(), "nsenter", "--net=/run/netns/"+b, dnsmasq, "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--interface=dns", "--bind-dynamic",
		"--dhcp-leasefile="+filepath.Join(t.TempDir(), "l"), "--dhcp-range=10.94.0.20,10.94.0.30,255.255.255.0,1h")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }() // killed
	h, err := netns.GetFromName(a)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	// Until dnsmasq answers, Serve fails for want of a kernel, which comes after the search.
	o := ServeOptions{Sets: []string{"lab=" + set}, Interface: "srv", DHCP: "10.94.0.100-10.94.0.120", State: filepath.Join(t.TempDir(), "state.json")}
	m := &Builder{Report: progress.None{}, Config: &Config{Rescue: rescue.Config{Kernel: "/nonexistent"}}}
	var last error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the function
			if err := netns.Set(h); err != nil {
				done <- err
				return
			}
			done <- m.Serve(t.Context(), o)
		}()
		if last = <-done; exit.Code(last) == exit.Refused {
			if !strings.Contains(last.Error(), "the DHCP server 10.94.0.2 gives out addresses on srv") {
				t.Error(last)
			}
			return
		}
	}
	t.Errorf("not refused: %v", last)
}
