// Package netboot starts machines from the network: DHCP or proxyDHCP (RFC 2131, PXE
// 2.1), TFTP, and the boot files by HTTP. DHCP and TFTP answer on one interface only,
// the one that was named.
package netboot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// Loaders are what machines are sent to; "" for kinds that can't be started.
type Loaders struct {
	BIOS, UEFI string // files of the TFTP server
	HTTP, IPXE string // URLs, for UEFI HTTP Boot and for iPXE
}

// Config is what the servers need.
type Config struct {
	Interface string
	Address   netip.Prefix // this machine's on it
	// Pool are the addresses to give out; none where there is another DHCP server, beside
	// which only the boot file is named (proxyDHCP).
	Pool Pool
	// LeaseFile keeps leases over a restart; "" keeps none.
	LeaseFile string
	Loaders   Loaders
	Tree      *Tree
	// PXE is how a card is answered: one of fleet.PXEAuto and its like.
	PXE func(mac string) string
	// Say is told what is of interest for people, Warn what is not as it should be.
	Say, Warn func(format string, args ...any)
	// Now is the clock.
	Now func() time.Time
}

func (c *Config) proxy() bool { return !c.Pool.First.IsValid() }

// Server answers machines.
type Server struct {
	cfg    Config
	leases *leases
	conns  []*net.UDPConn
	tftp   *tftpServer
	wg     sync.WaitGroup

	mu    sync.Mutex
	tries map[string]try
	said  map[string]bool // what was told already
}

// try counts how often a card asked within a while.
type try struct {
	at time.Time
	n  int
}

// Limits of what is kept of unknown machines.
const (
	tryTime  = 90 * time.Second
	maxTries = 8192
	maxSaid  = 1024
)

// New checks the configuration. Nothing is listened to yet.
func New(c Config) (*Server, error) {
	if c.Interface == "" || !c.Address.Addr().Is4() {
		return nil, errors.New("cannot start machines from the network: no interface with an IPv4 address was named")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Server{cfg: c, tries: map[string]try{}, said: map[string]bool{}}
	var err error
	if !c.proxy() {
		s.leases, err = openLeases(c.LeaseFile, c.Pool, c.Now)
	}
	return s, err
}

// Ports of DHCP servers: RFC 2131, and PXE 2.1 for boot servers.
const (
	portDHCP = 67
	portPXE  = 4011
)

// Start listens, and answers until ctx ends or Close is called.
func (s *Server) Start(ctx context.Context) error {
	for _, port := range []int{portDHCP, portPXE} {
		c, err := server4.NewIPv4UDPConn(s.cfg.Interface, &net.UDPAddr{IP: net.IPv4zero, Port: port})
		if err != nil {
			return errors.Join(fmt.Errorf("cannot listen on UDP port %d of %s: %w", port, s.cfg.Interface, err), s.Close())
		}
		s.conns = append(s.conns, c)
		grow(c)
		for range 4 {
			s.wg.Go(func() { s.serve(c, port) })
		}
	}
	var err error
	if s.tftp, err = startTFTP(s.cfg.Interface, netip.AddrPortFrom(s.cfg.Address.Addr(), 69), s.cfg.Tree, s.cfg.Say); err != nil {
		return errors.Join(err, s.Close())
	}
	context.AfterFunc(ctx, func() { _ = s.Close() }) // its error is Close's caller's
	return nil
}

// grow makes room for the packets of a room that is switched on at once.
func grow(c *net.UDPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		const size = 4 << 20
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, size) // less room is not an error
		}
	})
}

// Close ends all answers and returns when they have ended.
func (s *Server) Close() error {
	s.mu.Lock()
	conns, t := s.conns, s.tftp
	s.conns, s.tftp = nil, nil
	s.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	if t != nil {
		t.close()
	}
	s.wg.Wait()
	if s.leases != nil && len(conns) > 0 {
		return s.leases.close()
	}
	return nil
}

func (s *Server) serve(c *net.UDPConn, port int) {
	b := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFromUDP(b)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			s.once("receive "+err.Error(), func() { s.cfg.Warn("cannot receive DHCP packets: %v", err) })
			time.Sleep(10 * time.Millisecond)
			continue
		}
		m, err := dhcpv4.FromBytes(b[:n])
		if err != nil {
			continue // not a DHCP packet
		}
		r, to := s.answer(m, port, from)
		if r == nil {
			continue
		}
		if _, err := c.WriteToUDP(r.ToBytes(), to); err != nil && !errors.Is(err, net.ErrClosed) {
			s.once("send "+err.Error(), func() { s.cfg.Warn("cannot answer %s: %v", m.ClientHWAddr, err) })
		}
	}
}

// once does something for a key the first time.
func (s *Server) once(key string, do func()) {
	s.mu.Lock()
	if s.said[key] || len(s.said) >= maxSaid {
		s.mu.Unlock()
		return
	}
	s.said[key] = true
	s.mu.Unlock()
	do()
}

// answer gives the reply to a packet and where it goes, nil for none.
func (s *Server) answer(m *dhcpv4.DHCPv4, port int, from *net.UDPAddr) (*dhcpv4.DHCPv4, *net.UDPAddr) {
	if m.OpCode != dhcpv4.OpcodeBootRequest || m.HWType != iana.HWTypeEthernet {
		return nil, nil
	}
	mac, err := fleet.ParseMAC(m.ClientHWAddr.String())
	if err != nil {
		return nil, nil
	}
	relayed := m.GatewayIPAddr != nil && !m.GatewayIPAddr.IsUnspecified()
	var r *dhcpv4.DHCPv4
	switch {
	case port == portPXE:
		r = s.bootServer(m, mac)
	case s.cfg.proxy():
		if m.MessageType() == dhcpv4.MessageTypeDiscover {
			r = s.reply(m, dhcpv4.MessageTypeOffer)
			if !s.boot(r, m, mac, false) {
				r = nil
			}
		}
	case !relayed: // the pool is for this link
		r = s.dhcp(m, mac)
	}
	switch {
	case r == nil:
		return nil, nil
	case relayed:
		return r, &net.UDPAddr{IP: m.GatewayIPAddr, Port: portDHCP}
	case port == portPXE && !from.IP.IsUnspecified():
		return r, from
	}
	return r, &net.UDPAddr{IP: clientAddress(m, r), Port: 68}
}

// clientAddress is where a client of this link gets a reply. One without an address gets it
// by broadcast: RFC 2131, section 4.1.
func clientAddress(m, r *dhcpv4.DHCPv4) net.IP {
	if m.ClientIPAddr != nil && !m.ClientIPAddr.IsUnspecified() && r.MessageType() == dhcpv4.MessageTypeAck {
		return m.ClientIPAddr
	}
	return net.IPv4bcast
}

// reply begins a reply of ours.
func (s *Server) reply(m *dhcpv4.DHCPv4, t dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	ip := net.IP(s.cfg.Address.Addr().AsSlice())
	r, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(t), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ip)))
	if err != nil {
		panic(err) // no random number: crypto/rand ends the program, too
	}
	return r
}

// dhcp answers as the DHCP server of the link.
func (s *Server) dhcp(m *dhcpv4.DHCPv4, mac string) *dhcpv4.DHCPv4 {
	ours := net.IP(s.cfg.Address.Addr().AsSlice())
	id := m.ServerIdentifier()
	want, _ := netip.AddrFromSlice(m.RequestedIPAddress().To4())
	current, _ := netip.AddrFromSlice(m.ClientIPAddr.To4())
	if current.IsUnspecified() {
		current = netip.Addr{}
	}
	if id != nil && !id.Equal(ours) {
		s.once("other "+id.String(), func() {
			s.cfg.Warn("another DHCP server, %s, gave %s an address on %s: two servers on one link take each other's machines; stop one of them, or use --proxy", id, mac, s.cfg.Interface)
		})
		return nil
	}
	give := func(a netip.Addr, t dhcpv4.MessageType) *dhcpv4.DHCPv4 {
		r := s.reply(m, t)
		if t != dhcpv4.MessageTypeNak {
			r.YourIPAddr = a.AsSlice()
			if m.MessageType() == dhcpv4.MessageTypeInform {
				r.YourIPAddr = net.IPv4zero
			} else {
				r.UpdateOption(dhcpv4.OptIPAddressLeaseTime(leaseTime))
			}
			r.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(s.cfg.Address.Bits(), 32)))
			r.UpdateOption(dhcpv4.OptBroadcastAddress(broadcast(s.cfg.Address).AsSlice()))
			s.boot(r, m, mac, true)
		}
		return r
	}
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		a, ok := s.leases.offer(mac, want)
		if !ok {
			s.once("full", func() {
				s.cfg.Warn("no address is left of %s-%s: %s gets none", s.cfg.Pool.First, s.cfg.Pool.Last, mac)
			})
			return nil
		}
		return give(a, dhcpv4.MessageTypeOffer)
	case dhcpv4.MessageTypeRequest:
		a := want
		if !a.IsValid() {
			a = current
		}
		ok, err := s.leases.lease(mac, a)
		if err != nil {
			s.once("leases", func() { s.cfg.Warn("%v", err) })
		}
		if !ok {
			return give(a, dhcpv4.MessageTypeNak)
		}
		return give(a, dhcpv4.MessageTypeAck)
	case dhcpv4.MessageTypeInform:
		return give(current, dhcpv4.MessageTypeAck)
	case dhcpv4.MessageTypeRelease:
		s.leases.release(mac, current, false)
	case dhcpv4.MessageTypeDecline:
		s.cfg.Warn("%s found that another machine uses %s; the address is not given out for %v", mac, want, declineTime)
		s.leases.release(mac, want, true)
	}
	return nil
}

// bootServer answers on port 4011, which a machine asks that was offered no file.
func (s *Server) bootServer(m *dhcpv4.DHCPv4, mac string) *dhcpv4.DHCPv4 {
	if t := m.MessageType(); t != dhcpv4.MessageTypeRequest && t != dhcpv4.MessageTypeInform {
		return nil
	}
	if id := m.ServerIdentifier(); id != nil && !id.IsUnspecified() && !id.Equal(net.IP(s.cfg.Address.Addr().AsSlice())) {
		return nil
	}
	r := s.reply(m, dhcpv4.MessageTypeAck)
	r.ClientIPAddr = m.ClientIPAddr
	if !s.file(r, m, mac, true) {
		return nil
	}
	return r
}

// Classes of clients: option 60, PXE 2.1 and UEFI 2.5 (section 24.7).
const (
	classPXE  = "PXEClient"
	classHTTP = "HTTPClient"
)

// boot adds what a machine is to start with to an offer or an acknowledgement, in the
// dialect that its firmware takes. It reports whether there is something.
func (s *Server) boot(r, m *dhcpv4.DHCPv4, mac string, withAddress bool) bool {
	class := m.ClassIdentifier()
	if !strings.HasPrefix(class, classPXE) && !strings.HasPrefix(class, classHTTP) {
		return false
	}
	how := s.cfg.PXE(mac)
	if how == fleet.PXEAuto {
		how = s.dialect(m, mac)
	}
	switch {
	case how == fleet.PXEIgnore, how == fleet.PXEHTTP && !strings.HasPrefix(class, classHTTP):
		return false
	case how == fleet.PXE4011 && strings.HasPrefix(class, classPXE) && !isIPXE(m):
		if _, ok := s.loader(m); !ok {
			return s.file(r, m, mac, !withAddress) // reports it
		}
		// No file and no vendor options: the machine asks port 4011 for both.
		s.pxe(r, m, classPXE)
		return true
	}
	return s.file(r, m, mac, !withAddress || !isIPXE(m))
}

// dialect chooses how a card is offered its file: at first in the offer; a card that
// asks on has not taken that, and is sent to port 4011, and so on in turn.
func (s *Server) dialect(m *dhcpv4.DHCPv4, mac string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	t := s.tries[mac]
	if now.Sub(t.at) > tryTime {
		t.n = 0
	}
	if m.MessageType() == dhcpv4.MessageTypeDiscover {
		if t.n == 0 && len(s.tries) >= maxTries {
			maps.DeleteFunc(s.tries, func(_ string, o try) bool { return now.Sub(o.at) > tryTime })
			if len(s.tries) >= maxTries {
				clear(s.tries) // somebody makes addresses up
			}
		}
		t.at = now
		t.n++
		s.tries[mac] = t
	}
	if t.n > 0 && (t.n-1)/2%2 == 1 {
		return fleet.PXE4011
	}
	return fleet.PXEOffer
}

func isIPXE(m *dhcpv4.DHCPv4) bool { return slices.Contains(m.UserClass(), "iPXE") }

// loader gives what a machine's firmware can start: a file of the TFTP server, or a URL.
func (s *Server) loader(m *dhcpv4.DHCPv4) (file string, ok bool) {
	l := s.cfg.Loaders
	arch := iana.INTEL_X86PC
	if a := m.ClientArch(); len(a) > 0 {
		arch = a[0]
	}
	switch {
	case isIPXE(m):
		// iPXE has HTTP on any firmware; it needs an x86-64 processor.
		if arch == iana.INTEL_X86PC || arch == iana.EFI_X86_64 || arch == iana.EFI_BC {
			file = l.IPXE
		}
	case arch == iana.EFI_X86_64_HTTP || arch == iana.EFI_BC_HTTP:
		file = l.HTTP
	case arch == iana.EFI_X86_64 || arch == iana.EFI_BC:
		file = l.UEFI
	case arch == iana.INTEL_X86PC:
		file = l.BIOS
	}
	return file, file != ""
}

// file adds the boot file. class has the reply say whose kind it is, which a reply beside
// another server's must, and one with an address to iPXE need not.
func (s *Server) file(r, m *dhcpv4.DHCPv4, mac string, class bool) bool {
	f, ok := s.loader(m)
	if !ok {
		s.once("arch "+mac, func() {
			s.cfg.Warn("%s can't be started: there is no boot loader for its firmware (%s)", mac, printable.Short(fmt.Sprint(m.ClientArch()), 60))
		})
		return false
	}
	kind := classPXE
	if strings.HasPrefix(m.ClassIdentifier(), classHTTP) {
		kind = classHTTP
	}
	if class {
		s.pxe(r, m, kind)
	}
	r.UpdateOption(dhcpv4.OptTFTPServerName(s.cfg.Address.Addr().String()))
	r.UpdateOption(dhcpv4.OptBootFileName(f))
	r.ServerHostName, r.BootFileName = s.cfg.Address.Addr().String(), f
	if kind == classPXE && !isIPXE(m) {
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, discoveryControl(m)))
	}
	s.once("boot "+mac+f, func() { s.cfg.Say("%s (%s) is sent to %s", mac, firmware(m), f) })
	return true
}

// pxe makes a reply one for PXE or HTTP Boot.
func (s *Server) pxe(r, m *dhcpv4.DHCPv4, kind string) {
	r.ServerIPAddr = s.cfg.Address.Addr().AsSlice()
	r.UpdateOption(dhcpv4.OptClassIdentifier(kind))
	if u := m.GetOneOption(dhcpv4.OptionClientMachineIdentifier); u != nil {
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, u))
	}
}

// discoveryControl are the vendor options of PXE 2.1 (table 2-1): PXE_DISCOVERY_CONTROL
// with bit 3, which has the machine load the boot file at once, without menu and search
// for boot servers. PXE_BOOT_ITEM is given back.
func discoveryControl(m *dhcpv4.DHCPv4) []byte {
	const control, bootItem, end = 6, 71, 255
	out := []byte{control, 1, 8}
	v := m.GetOneOption(dhcpv4.OptionVendorSpecificInformation)
	for len(v) >= 2 && v[0] != end {
		if v[0] == 0 {
			v = v[1:]
			continue
		}
		n := int(v[1])
		if len(v) < 2+n {
			break
		}
		if v[0] == bootItem && n == 4 {
			out = append(out, v[:6]...)
		}
		v = v[2+n:]
	}
	return append(out, end)
}

// firmware names a machine's firmware for people.
func firmware(m *dhcpv4.DHCPv4) string {
	if isIPXE(m) {
		return "iPXE"
	}
	switch a := m.ClientArch(); {
	case strings.HasPrefix(m.ClassIdentifier(), classHTTP):
		return "UEFI HTTP Boot"
	case len(a) > 0 && a[0] != iana.INTEL_X86PC:
		return "UEFI PXE"
	}
	return "BIOS PXE"
}

// Foreign looks for a DHCP server on the link of an interface, which gives out addresses,
// and gives its own; "" if none answers within the time. It takes no address from it.
func Foreign(ctx context.Context, ifname string, limit time.Duration) (string, error) {
	c, err := nclient4.New(ifname, nclient4.WithTimeout(limit/2), nclient4.WithRetry(2))
	if err != nil {
		return "", fmt.Errorf("cannot look for other DHCP servers on %s: %w", ifname, err)
	}
	defer c.Close()
	ctx, stop := context.WithTimeout(ctx, 2*limit)
	defer stop()
	d, err := dhcpv4.NewDiscovery(c.InterfaceAddr())
	if err != nil {
		return "", fmt.Errorf("cannot look for other DHCP servers on %s: %w", ifname, err)
	}
	o, err := c.SendAndRead(ctx, nclient4.DefaultServers, d, func(o *dhcpv4.DHCPv4) bool {
		return o.MessageType() == dhcpv4.MessageTypeOffer && o.YourIPAddr != nil && !o.YourIPAddr.IsUnspecified()
	})
	switch {
	case errors.Is(err, nclient4.ErrNoResponse):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("cannot look for other DHCP servers on %s: %w", ifname, err)
	case o.ServerIdentifier() != nil:
		return o.ServerIdentifier().String(), nil
	}
	return "a server without a name of its own", nil
}

// Wake sends a magic packet to a card: six bytes of 255 and its address 16 times. Such a
// packet wakes a machine whose firmware and card are set to that.
func Wake(on netip.Prefix, mac string) error {
	h, err := net.ParseMAC(mac)
	if err != nil || len(h) != 6 {
		return fmt.Errorf("cannot wake %q: it is not the address of a network card", printable.Short(mac, 40))
	}
	c, err := net.DialUDP("udp4", &net.UDPAddr{IP: on.Addr().AsSlice()}, &net.UDPAddr{IP: broadcast(on).AsSlice(), Port: 9})
	if err != nil {
		return fmt.Errorf("cannot wake %s: %w", mac, err)
	}
	defer c.Close()
	if _, err := c.Write(magic(h)); err != nil {
		return fmt.Errorf("cannot wake %s: %w", mac, err)
	}
	return nil
}

func magic(mac net.HardwareAddr) []byte {
	b := binary.BigEndian.AppendUint64(nil, ^uint64(0))[:6]
	for range 16 {
		b = append(b, mac...)
	}
	return b
}
