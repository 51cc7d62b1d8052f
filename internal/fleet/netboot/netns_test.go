package netboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
)

// link is two network namespaces with a cable between them: "srv" in the server's, with
// 10.91.0.1/24, "cli" in the clients', without an address.
type link struct {
	t           *testing.T
	server, cli netns.NsHandle
	name        string
}

// newLink makes the namespaces, or skips the test.
func newLink(t *testing.T) *link {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces want root")
	}
	l := &link{t: t, name: fmt.Sprintf("mkc%d", os.Getpid())}
	a, b := l.name+"s", l.name+"c"
	run := func(args ...string) error {
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	t.Cleanup(func() {
		for _, n := range []string{a, b} {
			_ = run("netns", "del", n) // the cable goes with it
		}
	})
	for _, c := range []string{
		"netns add " + a, "netns add " + b,
		"-n " + a + " link add srv type veth peer name cli netns " + b,
		"-n " + a + " addr add 10.91.0.1/24 dev srv", "-n " + a + " link set srv up", "-n " + a + " link set lo up",
		"-n " + b + " link set cli address 52:54:00:aa:00:01 up", "-n " + b + " link set lo up",
		// A second cable, on which nobody may answer.
		"-n " + a + " link add other type veth peer name clio netns " + b,
		"-n " + a + " addr add 10.92.0.1/24 dev other", "-n " + a + " link set other up", "-n " + b + " addr add 10.92.0.2/24 dev clio", "-n " + b + " link set clio up",
	} {
		if err := run(strings.Fields(c)...); err != nil {
			if errors.Is(err, exec.ErrNotFound) || strings.Contains(err.Error(), "not permitted") {
				t.Skipf("there are no network namespaces here: %v", err)
			}
			t.Fatal(err)
		}
	}
	var err error
	if l.server, err = netns.GetFromName(a); err != nil {
		t.Fatal(err)
	}
	if l.cli, err = netns.GetFromName(b); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.server.Close(); l.cli.Close() })
	return l
}

// in runs a function in a namespace. Sockets that it opens stay there.
func (l *link) in(ns netns.NsHandle, do func() error) {
	l.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the function
		if err := netns.Set(ns); err != nil {
			done <- err
			return
		}
		done <- do()
	}()
	if err := <-done; err != nil {
		l.t.Fatal(err)
	}
}

// command runs a program in the clients' namespace.
func (l *link) command(ctx context.Context, args ...string) ([]byte, error) {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=/run/netns/" + l.name + "c"}, args...)...).CombinedOutput()
}

func mustMAC(t testing.TB, s string) net.HardwareAddr {
	t.Helper()
	m, err := net.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
