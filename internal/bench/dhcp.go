package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/fleet/netboot"
)

const (
	dhcpNet     = "10.77.1."
	dhcpSeconds = 10
	dhcpCards   = 200 // as many as there are addresses for
)

// dhcpServe answers on an interface until it is interrupted: with addresses, or as a
// proxy beside another server.
func dhcpServe(ctx context.Context, ifname, how string) error {
	dir, err := os.MkdirTemp("", "bench-dhcp-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tree, err := netboot.OpenTree(dir)
	if err != nil {
		return err
	}
	defer tree.Close()
	c := netboot.Config{
		Interface: ifname, Address: netip.MustParsePrefix(dhcpNet + "1/24"), Tree: tree,
		Loaders: netboot.Loaders{BIOS: "lpxelinux.0", UEFI: "bootx64.efi"}, PXE: func(string) string { return fleet.PXEOffer },
		Say: func(string, ...any) {}, Warn: func(string, ...any) {},
	}
	if how == "dhcp" {
		c.Pool = netboot.Pool{First: netip.MustParseAddr(dhcpNet + "2"), Last: netip.MustParseAddr(dhcpNet + "249")}
	}
	s, err := netboot.New(c)
	if err != nil {
		return err
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	fmt.Println("serving")
	<-ctx.Done()
	return s.Close()
}

// dhcpLoad sends so many discovers a second from an interface, and prints how many were
// sent and answered, the rate, and the median and longest answer in milliseconds.
func dhcpLoad(ctx context.Context, ifname, rate string) error {
	perSecond, err := strconv.Atoi(rate)
	if err != nil {
		return err
	}
	conn, err := server4.NewIPv4UDPConn(ifname, &net.UDPAddr{IP: net.IPv4zero, Port: 68})
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) }); err != nil {
		return err
	}
	n := perSecond * dhcpSeconds
	l := &offers{sent: make([]time.Time, n), took: make([]time.Duration, n), all: make(chan struct{})}
	go l.receive(conn)
	start := time.Now()
	if err := l.send(conn, start, perSecond); err != nil {
		return err
	}
	sending := time.Since(start)
	select {
	case <-l.all:
	case <-time.After(4 * time.Second): // when a card asks again
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	waits := slices.DeleteFunc(slices.Clone(l.took), func(d time.Duration) bool { return d == 0 })
	if len(waits) == 0 {
		return fmt.Errorf("none of %d discovers was answered", n)
	}
	slices.Sort(waits)
	ms := func(d time.Duration) float64 { return d.Seconds() * 1000 }
	fmt.Printf("%d %d %.0f %.2f %.2f\n", n, l.answered, float64(n)/sending.Seconds(), ms(waits[len(waits)/2]), ms(waits[len(waits)-1]))
	return nil
}

// offers are the answers to discovers, by the number in their transaction ID.
type offers struct {
	mu       sync.Mutex
	sent     []time.Time
	took     []time.Duration // 0 for no answer
	answered int
	all      chan struct{} // closed when each is answered
}

// receive takes answers until the connection is closed.
func (l *offers) receive(conn net.PacketConn) {
	b := make([]byte, 2048)
	for {
		k, _, err := conn.ReadFrom(b)
		if err != nil {
			return
		}
		now := time.Now()
		m, err := dhcpv4.FromBytes(b[:k])
		if err != nil || m.MessageType() != dhcpv4.MessageTypeOffer {
			continue
		}
		i := int(binary.BigEndian.Uint32(m.TransactionID[:]))
		l.mu.Lock()
		if i < len(l.sent) && l.took[i] == 0 {
			l.took[i] = max(now.Sub(l.sent[i]), 1)
			if l.answered++; l.answered == len(l.sent) {
				close(l.all)
			}
		}
		l.mu.Unlock()
	}
}

// send sends the discovers at a rate.
func (l *offers) send(conn *net.UDPConn, start time.Time, perSecond int) error {
	m, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover), dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003016")), dhcpv4.WithOption(dhcpv4.OptClientArch(iana.Arch(7))),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, make([]byte, 17))))
	if err != nil {
		return err
	}
	m.SetBroadcast()
	for i := range l.sent {
		due := start.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
		time.Sleep(time.Until(due))
		binary.BigEndian.PutUint32(m.TransactionID[:], uint32(i))
		m.ClientHWAddr = net.HardwareAddr{0x52, 0x54, 0, 1, 0, byte(i % dhcpCards)}
		b := m.ToBytes()
		l.mu.Lock()
		l.sent[i] = time.Now()
		l.mu.Unlock()
		if _, err := conn.WriteToUDP(b, &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
			return err
		}
	}
	return nil
}

// dhcp measures how many discovers a second are answered.
func (b *bench) dhcp(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b.say("## DHCP\n\nDHCP discovers of UEFI firmware from %d cards for %d s, on a cable between two network namespaces. A discover is lost if it gets no offer within 4 s after the last one. Load of the machine before the run: %s.\n", dhcpCards, dhcpSeconds, load())
	b.say("| | a second | sent | answered | lost | median ms | longest ms | server's CPU ms per 1,000 |\n|---|---|---|---|---|---|---|---|")
	for _, how := range []string{"proxy", "dhcp"} {
		for _, rate := range []string{"500", "2000", "5000"} {
			if err := b.dhcpRate(ctx, self, how, rate); err != nil {
				return err
			}
		}
	}
	b.say("\nGoal: 500 a second, none lost.")
	return nil
}

func (b *bench) dhcpRate(ctx context.Context, self, how, rate string) error {
	srv, cli := "mbd-s", "mbd-c"
	defer func() {
		for _, n := range []string{srv, cli} {
			_ = exec.Command("ip", "netns", "del", n).Run()
		}
		time.Sleep(time.Second) // the cable goes some time after them
	}()
	for _, l := range []string{"netns add " + srv, "netns add " + cli, "-n " + srv + " link add eth0 type veth peer name eth0 netns " + cli,
		"-n " + srv + " addr add " + dhcpNet + "1/24 dev eth0", "-n " + cli + " addr add " + dhcpNet + "250/24 dev eth0",
		"-n " + srv + " link set eth0 up", "-n " + cli + " link set eth0 up"} {
		if out, err := exec.CommandContext(ctx, "ip", strings.Fields(l)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", l, err, out)
		}
	}
	s := exec.Command("ip", "netns", "exec", srv, self, "dhcpserve", "eth0", how)
	s.Stderr = os.Stderr
	out, err := s.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.Start(); err != nil {
		return err
	}
	end := func() error {
		_ = s.Process.Signal(unix.SIGTERM)
		return s.Wait()
	}
	if _, err := out.Read(make([]byte, 64)); err != nil {
		return fmt.Errorf("the DHCP server does not start: %w", s.Wait())
	}
	c := exec.CommandContext(ctx, "ip", "netns", "exec", cli, self, "dhcpload", "eth0", rate)
	c.Stderr = os.Stderr
	text, err := c.Output()
	if e := end(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	var sent, answered int
	var perSecond, median, longest float64
	if _, err := fmt.Sscan(string(text), &sent, &answered, &perSecond, &median, &longest); err != nil {
		return fmt.Errorf("the load generator printed %q: %w", text, err)
	}
	cpu := (s.ProcessState.UserTime() + s.ProcessState.SystemTime()).Seconds() * 1e6 / float64(sent)
	b.say("| %s | %.0f | %d | %d | %d | %.1f | %.1f | %.0f |", map[string]string{"proxy": "proxyDHCP", "dhcp": "DHCP with addresses"}[how], perSecond, sent, answered, sent-answered, median, longest, cpu)
	return nil
}
