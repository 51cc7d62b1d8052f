package builder

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/plan"
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
		{"rules", ServeOptions{Sets: []string{"a=" + set}, HTTP: "127.0.0.1:0", Rules: rules("rules:\n- match: {any: true}\n  sett: x\n")}, "unknown field", exit.BadUsage},
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
	if _, err := lockState(file); !errors.As(err, new(*plan.Refused)) {
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
