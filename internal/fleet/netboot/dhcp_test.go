package netboot

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/mkcdrec/mkcdrec/internal/fleet"
)

var (
	ours    = netip.MustParsePrefix("10.91.0.1/24")
	pool    = Pool{netip.MustParseAddr("10.91.0.100"), netip.MustParseAddr("10.91.0.199")}
	loaders = Loaders{BIOS: "lpxelinux.0", UEFI: "bootx64.efi", HTTP: "http://10.91.0.1/mkcdrec.efi", IPXE: "http://10.91.0.1/boot.ipxe"}
)

// said collects what a server says.
type said struct {
	mu    sync.Mutex
	lines []string
}

func (s *said) say(f string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf(f, a...))
}

func (s *said) String() string { s.mu.Lock(); defer s.mu.Unlock(); return strings.Join(s.lines, "\n") }

// server makes one that listens to nothing.
func server(t testing.TB, p Pool, how string) (*Server, *said, *time.Time) {
	t.Helper()
	now := time.Now()
	log := &said{}
	s, err := New(Config{Interface: "srv", Address: ours, Pool: p, Loaders: loaders, PXE: func(string) string { return how }, Say: log.say, Warn: log.say, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return s, log, &now
}

// ask is a packet of a client.
func ask(t testing.TB, kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(mustMAC(t, "52:54:00:aa:00:01")), dhcpv4.WithMessageType(kind)}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// client has the options of a firmware.
func client(class string, arch int, more ...dhcpv4.Modifier) []dhcpv4.Modifier {
	return append([]dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(class + ":Arch:00007:UNDI:003016")),
		dhcpv4.WithOption(dhcpv4.OptClientArch(iana.Arch(arch))),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, append([]byte{0}, make([]byte, 16)...))),
	}, more...)
}

// TestBootFile: what each kind of firmware is offered, with and without another server.
func TestBootFile(t *testing.T) {
	ipxe := dhcpv4.WithOption(dhcpv4.OptUserClass("iPXE"))
	for _, c := range []struct {
		name      string
		mods      []dhcpv4.Modifier
		how       string
		file      string // "" for no file
		class     string // in the reply of a proxy
		noOffer   bool   // a proxy does not answer
		direct    bool   // vendor options say that the file is to be loaded at once
		forbidden bool
	}{
		{name: "BIOS", mods: client("PXEClient", 0), file: loaders.BIOS, class: "PXEClient", direct: true},
		{name: "UEFI", mods: client("PXEClient", 7), file: loaders.UEFI, class: "PXEClient", direct: true},
		{name: "UEFI, the other number", mods: client("PXEClient", 9), file: loaders.UEFI, class: "PXEClient", direct: true},
		{name: "UEFI by port 4011", mods: client("PXEClient", 7), how: fleet.PXE4011, class: "PXEClient"},
		{name: "HTTP Boot", mods: client("HTTPClient", 16), file: loaders.HTTP, class: "HTTPClient"},
		{name: "HTTP Boot knows no port 4011", mods: client("HTTPClient", 16), how: fleet.PXE4011, file: loaders.HTTP, class: "HTTPClient"},
		{name: "HTTP Boot only", mods: client("HTTPClient", 16), how: fleet.PXEHTTP, file: loaders.HTTP, class: "HTTPClient"},
		{name: "HTTP Boot only, by PXE", mods: client("PXEClient", 7), how: fleet.PXEHTTP, noOffer: true},
		{name: "iPXE on BIOS", mods: client("PXEClient", 0, ipxe), file: loaders.IPXE, class: "PXEClient"},
		{name: "iPXE on UEFI", mods: client("PXEClient", 7, ipxe), file: loaders.IPXE, class: "PXEClient"},
		{name: "arm64", mods: client("PXEClient", 11), noOffer: true},
		{name: "arm64 HTTP Boot", mods: client("HTTPClient", 19), noOffer: true},
		{name: "32-bit UEFI", mods: client("PXEClient", 6), noOffer: true},
		{name: "iPXE on arm64", mods: client("PXEClient", 11, ipxe), noOffer: true},
		{name: "a system that wants an address only", noOffer: true},
		{name: "a machine that is done", mods: client("PXEClient", 7), how: fleet.PXEIgnore, noOffer: true},
	} {
		how := c.how
		if how == "" {
			how = fleet.PXEOffer
		}
		for _, p := range []Pool{{}, pool} {
			s, _, _ := server(t, p, how)
			from := &net.UDPAddr{IP: net.IPv4zero, Port: 68}
			r, to := s.answer(ask(t, dhcpv4.MessageTypeDiscover, c.mods...), 67, from)
			if !p.First.IsValid() && c.noOffer {
				if r != nil {
					t.Errorf("%s: a proxy offers %v", c.name, r.Summary())
				}
				continue
			}
			if r == nil {
				t.Errorf("%s: no offer", c.name)
				continue
			}
			if r.MessageType() != dhcpv4.MessageTypeOffer || !to.IP.Equal(net.IPv4bcast) || to.Port != 68 || !r.ServerIdentifier().Equal(ours.Addr().AsSlice()) {
				t.Errorf("%s: %v to %v", c.name, r.Summary(), to)
			}
			if has := !r.YourIPAddr.IsUnspecified(); has != p.First.IsValid() {
				t.Errorf("%s: address %v", c.name, r.YourIPAddr)
			}
			if r.BootFileName != c.file || r.BootFileNameOption() != c.file {
				t.Errorf("%s: file %q and %q; want %q", c.name, r.BootFileName, r.BootFileNameOption(), c.file)
			}
			direct := bytes.Equal(r.GetOneOption(dhcpv4.OptionVendorSpecificInformation), []byte{6, 1, 8, 255})
			if direct != c.direct {
				t.Errorf("%s: vendor options %v", c.name, r.GetOneOption(dhcpv4.OptionVendorSpecificInformation))
			}
			if !p.First.IsValid() && (r.ClassIdentifier() != c.class || r.GetOneOption(dhcpv4.OptionClientMachineIdentifier) == nil || !r.ServerIPAddr.Equal(ours.Addr().AsSlice())) {
				t.Errorf("%s: class %q, server %v", c.name, r.ClassIdentifier(), r.ServerIPAddr)
			}
			if len(r.ToBytes()) < 300 {
				t.Errorf("%s: %d bytes; old firmware wants 300", c.name, len(r.ToBytes()))
			}
			// In the other dialect the file is told on port 4011.
			at := &net.UDPAddr{IP: net.IPv4(10, 91, 0, 50), Port: 68}
			b, to := s.answer(ask(t, dhcpv4.MessageTypeRequest, append(c.mods, dhcpv4.WithClientIP(at.IP))...), 4011, at)
			if want, ok := s.loader(ask(t, dhcpv4.MessageTypeRequest, c.mods...)); len(c.mods) > 0 && ok {
				if b == nil || b.BootFileName != want || to.String() != at.String() || b.MessageType() != dhcpv4.MessageTypeAck || !b.YourIPAddr.IsUnspecified() {
					t.Errorf("%s: port 4011: %v to %v; want %q", c.name, b, to, want)
				}
			}
		}
	}
}

// TestDialect: a card that asks on is sent to port 4011, and later offered the file again.
func TestDialect(t *testing.T) {
	s, log, now := server(t, Pool{}, fleet.PXEAuto)
	var got []string
	for range 6 {
		r, _ := s.answer(ask(t, dhcpv4.MessageTypeDiscover, client("PXEClient", 7)...), 67, &net.UDPAddr{})
		got = append(got, r.BootFileName)
		*now = now.Add(4 * time.Second)
	}
	*now = now.Add(2 * tryTime)
	r, _ := s.answer(ask(t, dhcpv4.MessageTypeDiscover, client("PXEClient", 7)...), 67, &net.UDPAddr{})
	got = append(got, r.BootFileName)
	const f = "bootx64.efi"
	if want := []string{f, f, "", "", f, f, f}; !slices.Equal(got, want) {
		t.Errorf("files %q; want %q", got, want)
	}
	if n := strings.Count(log.String(), "is sent to"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log)
	}
	// Addresses that somebody makes up take no memory without end.
	for i := range 3 * maxTries {
		m := ask(t, dhcpv4.MessageTypeDiscover, client("PXEClient", 7)...)
		m.ClientHWAddr = binary.BigEndian.AppendUint32([]byte{0x52, 0x54}, uint32(i))
		s.answer(m, 67, &net.UDPAddr{})
	}
	if len(s.tries) > maxTries || len(s.said) > maxSaid {
		t.Errorf("%d cards and %d messages are kept", len(s.tries), len(s.said))
	}
}

func TestBootItem(t *testing.T) {
	for _, c := range []struct{ in, want []byte }{
		{nil, []byte{6, 1, 8, 255}},
		{[]byte{0, 71, 4, 1, 2, 3, 4, 255}, []byte{6, 1, 8, 71, 4, 1, 2, 3, 4, 255}},
		{[]byte{9, 2, 1, 1, 71, 4, 1, 2, 3, 4}, []byte{6, 1, 8, 71, 4, 1, 2, 3, 4, 255}},
		{[]byte{71, 200, 1}, []byte{6, 1, 8, 255}},
		{[]byte{71, 5, 1, 2, 3, 4, 5}, []byte{6, 1, 8, 255}},
		{[]byte{71}, []byte{6, 1, 8, 255}},
	} {
		m := ask(t, dhcpv4.MessageTypeRequest)
		if c.in != nil {
			m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, c.in))
		}
		if got := discoveryControl(m); !bytes.Equal(got, c.want) {
			t.Errorf("%v: %v; want %v", c.in, got, c.want)
		}
	}
}

// TestLeases: addresses over their life.
func TestLeases(t *testing.T) {
	s, log, now := server(t, Pool{pool.First, pool.First.Next()}, fleet.PXEOffer) // two addresses
	from := &net.UDPAddr{IP: net.IPv4zero, Port: 68}
	mac := func(n byte) dhcpv4.Modifier { return dhcpv4.WithHwAddr(net.HardwareAddr{0x52, 0x54, 0, 0, 0, n}) }
	discover := func(n byte) net.IP {
		r, _ := s.answer(ask(t, dhcpv4.MessageTypeDiscover, mac(n)), 67, from)
		if r == nil {
			return nil
		}
		return r.YourIPAddr
	}
	id := dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ours.Addr().AsSlice()))
	request := func(n byte, a net.IP, mods ...dhcpv4.Modifier) dhcpv4.MessageType {
		r, _ := s.answer(ask(t, dhcpv4.MessageTypeRequest, append(mods, mac(n), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(a)))...), 67, from)
		if r == nil {
			return 0
		}
		if r.MessageType() == dhcpv4.MessageTypeAck && (!r.YourIPAddr.Equal(a) || r.SubnetMask().String() != "ffffff00" || r.IPAddressLeaseTime(0) != leaseTime) {
			t.Errorf("%v", r.Summary())
		}
		return r.MessageType()
	}
	a := discover(1)
	if b := discover(1); !a.Equal(b) {
		t.Errorf("another address each time: %v and %v", a, b)
	}
	if got := request(1, a, id); got != dhcpv4.MessageTypeAck {
		t.Fatal(got)
	}
	b := discover(2)
	if b.Equal(a) || b == nil {
		t.Fatalf("two machines have %v", b)
	}
	if got := request(2, a, id); got != dhcpv4.MessageTypeNak {
		t.Errorf("another one's address: %v", got)
	}
	if got := request(2, net.IPv4(10, 91, 0, 5), id); got != dhcpv4.MessageTypeNak {
		t.Errorf("an address outside of the pool: %v", got)
	}
	if got := request(2, b, dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 91, 0, 9)))); got != 0 || !strings.Contains(log.String(), "another DHCP server, 10.91.0.9") {
		t.Errorf("a request to another server: %v\n%s", got, log)
	}
	if discover(3) != nil || !strings.Contains(log.String(), "no address is left") {
		t.Errorf("a third one of two addresses\n%s", log)
	}
	*now = now.Add(offerTime + time.Second) // the second never asked for its own
	if c := discover(3); !c.Equal(b) {
		t.Errorf("%v; want %v, which was offered only", c, b)
	}
	// The first one declines its address: nobody gets it for a while.
	s.answer(ask(t, dhcpv4.MessageTypeDecline, mac(1), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(a))), 67, from)
	if got := discover(1); got != nil {
		t.Errorf("%v after it was declined", got)
	}
	*now = now.Add(declineTime + time.Second)
	if got := discover(1); got == nil {
		t.Error("never again")
	}
	// Renewal goes to the client itself.
	r, to := s.answer(ask(t, dhcpv4.MessageTypeRequest, mac(1), dhcpv4.WithClientIP(discover(1))), 67, &net.UDPAddr{IP: a, Port: 68})
	if r == nil || r.MessageType() != dhcpv4.MessageTypeAck || to.IP.IsUnspecified() || to.IP.Equal(net.IPv4bcast) {
		t.Errorf("%v to %v", r, to)
	}
	// A relayed packet is of another link.
	if r, _ := s.answer(ask(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithGatewayIP(net.IPv4(10, 5, 0, 1))), 67, from); r != nil {
		t.Error(r.Summary())
	}
	p, _, _ := server(t, Pool{}, fleet.PXEOffer)
	r, to = p.answer(ask(t, dhcpv4.MessageTypeDiscover, append(client("PXEClient", 7), dhcpv4.WithGatewayIP(net.IPv4(10, 5, 0, 1)))...), 67, from)
	if r == nil || to.String() != "10.5.0.1:67" {
		t.Errorf("a proxy answers through a relay: %v to %v", r, to)
	}
}

// TestLeaseFile: a server that was killed knows whose its addresses are.
func TestLeaseFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "leases")
	now := time.Now()
	open := func() *leases {
		l, err := openLeases(file, pool, func() time.Time { return now })
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open()
	got := map[string]netip.Addr{}
	for i := range 50 {
		mac := fmt.Sprintf("52:54:00:00:00:%02x", i)
		a, ok := l.offer(mac, netip.Addr{})
		if !ok {
			t.Fatal("no address")
		}
		if ok, err := l.lease(mac, a); !ok || err != nil {
			t.Fatal(ok, err)
		}
		got[mac] = a
	}
	if f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	} else if _, err := f.WriteString(`{"mac":"52:54:00:00:00:01","addr":"10.91.`); err != nil { // cut off
		t.Fatal(err)
	}
	l = open()
	for mac, a := range got {
		if b, ok := l.offer(mac, netip.Addr{}); !ok || a != b {
			t.Errorf("%s had %v and gets %v", mac, a, b)
		}
	}
	if a, ok := l.offer("52:54:00:00:01:01", got["52:54:00:00:00:01"]); !ok || a == got["52:54:00:00:00:01"] {
		t.Errorf("%v, another one's", a)
	}
}

func TestPool(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"10.91.0.100-10.91.0.199", ""}, {"10.91.0.100,10.91.0.199", ""}, {"10.91.0.100-10.91.0.100", ""},
		{"10.91.0.199-10.91.0.100", "is not FIRST-LAST"}, {"10.91.0.100", "is not FIRST-LAST"}, {"fd00::1-fd00::2", "is not FIRST-LAST"},
		{"10.91.0.100-10.91.1.5", "is not in the network"}, {"10.91.0.1-10.91.0.5", "own address"}, {"10.91.0.200-10.91.0.255", "broadcast"},
	} {
		if _, err := ParsePool(c.text, ours); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.text, err, c.want)
		}
	}
}

// tree is a directory with a loader and an initramfs.
func tree(t testing.TB) (*Tree, string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "bootx64.efi"), bytes.Repeat([]byte("loader! "), 40_000), 0o644); err != nil {
		t.Fatal(err)
	}
	tr, err := OpenTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr, dir
}

// start starts a server in the link's first namespace.
func (l *link) start(p Pool, log *said) *Server {
	l.t.Helper()
	tr, _ := tree(l.t)
	s, err := New(Config{Interface: "srv", Address: ours, Pool: p, Loaders: loaders, Tree: tr, PXE: func(string) string { return fleet.PXEOffer }, Say: log.say, Warn: log.say})
	if err != nil {
		l.t.Fatal(err)
	}
	l.in(l.server, func() error { return s.Start(context.Background()) })
	l.t.Cleanup(func() { s.Close() })
	return s
}

// TestDHCPClient: the DHCP client that our rescue system has gets an address and renews
// it; nobody answers on the other cable.
func TestDHCPClient(t *testing.T) {
	l := newLink(t)
	l.start(pool, &said{})
	var a *nclient4.Lease
	l.in(l.cli, func() error {
		c, err := nclient4.New("cli")
		if err != nil {
			return err
		}
		defer c.Close()
		a, err = c.Request(context.Background(), client("PXEClient", 7)...)
		if err != nil {
			return err
		}
		if out, err := exec.Command("ip", "addr", "add", a.ACK.YourIPAddr.String()+"/24", "dev", "cli").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if _, err = c.Renew(context.Background(), a); err != nil {
			return fmt.Errorf("renew: %w", err)
		}
		return nil
	})
	if ip, _ := netip.AddrFromSlice(a.ACK.YourIPAddr.To4()); !pool.has(ip) || a.ACK.BootFileName != loaders.UEFI {
		t.Errorf("%v", a.ACK.Summary())
	}
	l.in(l.cli, func() error {
		c, err := nclient4.New("clio", nclient4.WithTimeout(300*time.Millisecond), nclient4.WithRetry(2))
		if err != nil {
			return err
		}
		defer c.Close()
		if o, err := c.DiscoverOffer(context.Background(), client("PXEClient", 7)...); err == nil {
			t.Errorf("an answer on an interface that was not named: %v", o.Summary())
		}
		return nil
	})
	if out, err := l.command(t.Context(), "curl", "-sS", "-m", "3", "tftp://10.92.0.1/bootx64.efi"); err == nil {
		t.Errorf("TFTP on an interface that was not named: %d bytes", len(out))
	}
}

// TestForeign: dnsmasq on the link is found, a proxy of ours is not taken for one, and
// beside dnsmasq the proxy names the file.
func TestForeign(t *testing.T) {
	dnsmasq, err := exec.LookPath("dnsmasq")
	if err != nil {
		t.Skip("there is no dnsmasq")
	}
	l := newLink(t)
	find := func(want string) {
		t.Helper()
		l.in(l.cli, func() error {
			got, err := Foreign(context.Background(), "cli", time.Second)
			if err == nil && got != want {
				err = fmt.Errorf("found %q; want %q", got, want)
			}
			return err
		})
	}
	find("")
	l.start(Pool{}, &said{})
	find("")
	c := exec.CommandContext(t.Context(), "nsenter", "--net=/run/netns/"+l.name+"s", dnsmasq, "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--port=0", "--user=root", "--interface=srv", "--except-interface=lo", "--bind-dynamic",
		"--dhcp-leasefile="+filepath.Join(t.TempDir(), "l"), "--dhcp-range=10.91.0.20,10.91.0.30,255.255.255.0,1h")
	out := &bytes.Buffer{}
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	for end := time.Now().Add(20 * time.Second); ; {
		var got string
		l.in(l.cli, func() (err error) { got, err = Foreign(context.Background(), "cli", time.Second); return err })
		if got == "10.91.0.1" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("dnsmasq was not found: %s", out)
		}
	}
	// Both answer one discovery: an address from dnsmasq, the file from us.
	l.in(l.cli, func() error {
		c, err := nclient4.New("cli")
		if err != nil {
			return err
		}
		defer c.Close()
		for what, ok := range map[string]nclient4.Matcher{
			"an address": func(o *dhcpv4.DHCPv4) bool { return !o.YourIPAddr.IsUnspecified() && o.BootFileName == "" },
			"a file": func(o *dhcpv4.DHCPv4) bool {
				return o.YourIPAddr.IsUnspecified() && o.BootFileName == loaders.UEFI && o.ClassIdentifier() == "PXEClient"
			},
		} {
			d, err := dhcpv4.NewDiscovery(c.InterfaceAddr(), client("PXEClient", 7)...)
			if err != nil {
				return err
			}
			if _, err := c.SendAndRead(context.Background(), nclient4.DefaultServers, d, ok); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
		}
		return nil
	})
}

// TestLoad: 500 machines a second ask, for three seconds, and none is without an answer.
// How long an answer takes is not judged: the machine that tests may be busy. A real
// card asks again after four seconds.
func TestLoad(t *testing.T) {
	const rate, seconds = 500, 3
	for name, p := range map[string]Pool{"proxy": {}, "dhcp": {netip.MustParseAddr("10.91.0.2"), netip.MustParseAddr("10.91.0.254")}} {
		t.Run(name, func(t *testing.T) {
			l := newLink(t)
			log := &said{}
			l.start(p, log)
			var conn *net.UDPConn
			l.in(l.cli, func() error {
				if out, err := exec.Command("ip", "addr", "add", "10.91.0.250/24", "dev", "cli").CombinedOutput(); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				var err error
				conn, err = server4.NewIPv4UDPConn("cli", &net.UDPAddr{IP: net.IPv4zero, Port: 68})
				return err
			})
			defer conn.Close()
			grow(conn)
			var got atomic.Int64
			answered := make([]atomic.Bool, rate*seconds)
			up := make(chan struct{}, 1)
			go func() {
				b := make([]byte, 2048)
				for {
					n, err := conn.Read(b)
					if err != nil {
						return
					}
					m, err := dhcpv4.FromBytes(b[:n])
					if err != nil || m.MessageType() != dhcpv4.MessageTypeOffer {
						continue
					}
					switch i := int(binary.BigEndian.Uint32(m.TransactionID[:])); {
					case i >= len(answered):
						select {
						case up <- struct{}{}:
						default:
						}
					case !answered[i].Swap(true):
						got.Add(1)
					}
				}
			}()
			// The cards of 200 machines, which ask several times: as many as there are addresses.
			base := ask(t, dhcpv4.MessageTypeDiscover, client("PXEClient", 7)...)
			send := func(id uint32, last byte) {
				binary.BigEndian.PutUint32(base.TransactionID[:], id)
				base.ClientHWAddr = net.HardwareAddr{0x52, 0x54, 0, 1, 0, last}
				if _, err := conn.WriteToUDP(base.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
					t.Fatal(err)
				}
			}
			// A link that was just made loses what is sent until the kernel has found it up.
			for end, there := time.Now().Add(30*time.Second), false; !there; {
				send(1<<31, 0)
				select {
				case <-up:
					there = true
				case <-time.After(100 * time.Millisecond):
					if time.Now().After(end) {
						t.Fatal("the link does not come up")
					}
				}
			}
			start, worst := time.Now(), time.Duration(0)
			for i := range answered {
				due := start.Add(time.Duration(i) * time.Second / rate)
				time.Sleep(time.Until(due))
				worst = max(worst, time.Since(due))
				send(uint32(i), byte(i%200))
			}
			took := time.Since(start)
			for end := time.Now().Add(30 * time.Second); got.Load() < int64(len(answered)) && time.Now().Before(end); {
				time.Sleep(20 * time.Millisecond)
			}
			t.Logf("%d discovers in %.2f s (%.0f a second; the generator was at most %v late), %d answered", len(answered), took.Seconds(), float64(len(answered))/took.Seconds(), worst, got.Load())
			if got.Load() != int64(len(answered)) {
				t.Errorf("%d of %d discovers were answered\n%s", got.Load(), len(answered), log)
			}
		})
	}
}

// TestHTTP: curl reads a whole file and a part of it; nothing outside of the tree.
func TestHTTP(t *testing.T) {
	tr, dir := tree(t)
	secret := filepath.Join(t.TempDir(), "secret")
	for name, do := range map[string]func(string) error{
		"secret": func(string) error { return os.WriteFile(secret, []byte("x"), 0o644) },
		"link":   func(n string) error { return os.Symlink(secret, n) },
		".work":  func(n string) error { return os.WriteFile(n, []byte("x"), 0o644) },
		"sub":    func(n string) error { return os.Mkdir(n, 0o755) },
	} {
		if err := do(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := HTTPServer(tr)
	go func() { _ = srv.Serve(ln) }()
	defer srv.Close()
	base := "http://" + ln.Addr().String()
	get := func(path string, ranges string) (int, []byte, http.Header) {
		t.Helper()
		q, err := http.NewRequest("GET", base, nil)
		if err != nil {
			t.Fatal(err)
		}
		q.URL.Opaque = path // as it is
		if ranges != "" {
			q.Header.Set("Range", ranges)
		}
		r, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, b, r.Header
	}
	if c, b, h := get("/bootx64.efi", ""); c != 200 || len(b) != 320_000 || h.Get("Content-Type") != "application/efi" || h.Get("ETag") == "" {
		t.Errorf("%d, %d bytes, %v", c, len(b), h)
	}
	if c, b, _ := get("/bootx64.efi", "bytes=8-15"); c != 206 || string(b) != "loader! " {
		t.Errorf("%d %q", c, b)
	}
	for _, bad := range []string{"/", "/link", "/.work", "/sub", "/../secret", "/%2e%2e/secret", "//etc/passwd", "/nothing", `/..\..\etc\passwd`, "/sub/%00"} {
		if c, b, _ := get(bad, ""); c == 200 || bytes.Equal(b, []byte("x")) {
			t.Errorf("%s: %d %q", bad, c, b)
		}
	}
	r, err := http.Post(base+"/bootx64.efi", "text/plain", strings.NewReader("x"))
	if err != nil || r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("%v, %v", r, err)
	}
	if curl, err := exec.LookPath("curl"); err == nil {
		out, err := exec.Command(curl, "-sS", "-C", "319992", "-o", "-", base+"/bootx64.efi").Output()
		if err != nil || string(out) != "loader! " {
			t.Errorf("curl: %q, %v", out, err)
		}
	}
}

// TestBounded: a client that sends half of a body does not keep a connection.
func TestBounded(t *testing.T) {
	srv := httptest.NewServer(Bounded(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err == nil {
			t.Error("half a body was read as a whole one")
		}
	}), 200*time.Millisecond))
	defer srv.Close()
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("reading from the server = %v; want the end of the connection", err)
	}
}

func TestMagic(t *testing.T) {
	b := magic(mustMAC(t, "52:54:00:12:34:56"))
	if len(b) != 102 || !bytes.Equal(b[:6], []byte{255, 255, 255, 255, 255, 255}) || !bytes.Equal(b[96:], b[6:12]) || b[6] != 0x52 {
		t.Errorf("%x", b)
	}
	if err := Wake(ours, "x\x1b[2J"); err == nil || strings.ContainsRune(err.Error(), 0x1b) {
		t.Error(err)
	}
}

// FuzzAnswer: no packet makes the server panic, and none that is no discovery of a
// network boot is answered by a proxy.
func FuzzAnswer(f *testing.F) {
	f.Add(ask(f, dhcpv4.MessageTypeDiscover, client("PXEClient", 7)...).ToBytes())
	f.Add(ask(f, dhcpv4.MessageTypeRequest, client("HTTPClient", 16)...).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		for _, p := range []Pool{{}, pool} {
			s, _, _ := server(t, p, fleet.PXEAuto)
			for _, port := range []int{portDHCP, portPXE} {
				r, to := s.answer(m, port, &net.UDPAddr{IP: net.IPv4(10, 91, 0, 7), Port: 68})
				if r != nil && (to == nil || len(r.ToBytes()) > 1472 && len(b) < 1000) {
					t.Errorf("%d bytes to %v", len(r.ToBytes()), to)
				}
				if r != nil && !p.First.IsValid() && !r.YourIPAddr.IsUnspecified() {
					t.Error("a proxy gave an address")
				}
			}
		}
	})
}
