package netconf

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

func TestParseAddresses(t *testing.T) {
	a, err := ParseAddresses("192.0.2.7/24,192.0.2.1,2001:db8::7/64")
	if err != nil || fmt.Sprint(a) != "{[192.0.2.7/24 2001:db8::7/64] [192.0.2.1]}" {
		t.Errorf("ParseAddresses = %v, %v", a, err)
	}
	for _, bad := range []string{"", "192.0.2.1", "192.0.2.7/33", "nonsense", "192.0.2.7/24,"} {
		if _, err := ParseAddresses(bad); err == nil {
			t.Errorf("ParseAddresses(%q) is accepted", bad)
		}
	}
}

func card(name, mac string) netlink.Link {
	a := netlink.NewLinkAttrs()
	a.Name = name
	hw, err := net.ParseMAC(mac)
	if err != nil {
		panic(err)
	}
	a.HardwareAddr = hw
	return &netlink.Device{LinkAttrs: a}
}

// TestSourceSteps: cards are found by their hardware addresses, whatever they
// are called now, below bonds and VLANs too.
func TestSourceSteps(t *testing.T) {
	cards := []netlink.Link{card("ens3", "52:54:00:00:00:01"), card("ens4", "52:54:00:00:00:02")}
	for name, c := range map[string]struct {
		source []layout.Interface
		want   string
	}{
		"plain": {[]layout.Interface{{Name: "eth0", MAC: "52:54:00:00:00:02", Addresses: []string{"192.0.2.7/24"}, Gateway: "192.0.2.1"}}, "[{52:54:00:00:00:02  0 [192.0.2.7/24 192.0.2.1]}]"},
		"bond and VLAN": {[]layout.Interface{{Name: "eth0", MAC: "52:54:00:00:00:01"}, {Name: "eth1", MAC: "52:54:00:00:00:02"}, {Name: "bond0", MAC: "52:54:00:00:00:01", BondMode: "active-backup", Members: []string{"eth0", "eth1"}},
			{Name: "bond0.7", MAC: "52:54:00:00:00:01", VLAN: 7, Parent: "bond0", Addresses: []string{"192.0.2.7/24"}}}, "[{ active-backup:52:54:00:00:00:01+52:54:00:00:00:02 7 [192.0.2.7/24]}]"},
		"other cards": {[]layout.Interface{{Name: "eth0", MAC: "52:54:00:00:00:99", Addresses: []string{"192.0.2.7/24"}}}, "this machine does not have the source machine's cards (eth0: card 52:54:00:00:00:99)"},
		"bridge over a VLAN": {[]layout.Interface{{Name: "br0", MAC: "02:00:00:00:00:09", Kind: "bridge", Members: []string{"tap0", "eth0.5"}, Addresses: []string{"192.0.2.7/24"}, Gateway: "192.0.2.1"}, {Name: "tap0", MAC: "fe:00:00:00:00:01"},
			{Name: "eth0.5", MAC: "52:54:00:00:00:01", VLAN: 5, Parent: "eth0"}, {Name: "eth0", MAC: "52:54:00:00:00:01"}}, "[{52:54:00:00:00:01  5 [192.0.2.7/24 192.0.2.1]}]"},
		"bridge over a bond whose cards have one MAC": {[]layout.Interface{{Name: "br0", Kind: "bridge", Members: []string{"bond0"}, Addresses: []string{"192.0.2.7/24"}}, {Name: "bond0", MAC: "52:54:00:00:00:01", BondMode: "802.3ad", Members: []string{"eth0", "eth1"}},
			{Name: "eth0", MAC: "52:54:00:00:00:01", PermanentMAC: "52:54:00:00:00:01"}, {Name: "eth1", MAC: "52:54:00:00:00:01", PermanentMAC: "52:54:00:00:00:02"}}, "[{ 802.3ad:52:54:00:00:00:01+52:54:00:00:00:02 0 [192.0.2.7/24]}]"},
		"macvlan and its parent": {[]layout.Interface{{Name: "mac0", MAC: "02:00:00:00:00:01", Kind: "macvlan", Parent: "eth0", Addresses: []string{"192.0.2.8/24"}, Gateway: "192.0.2.1"}, {Name: "eth0", MAC: "52:54:00:00:00:02", Addresses: []string{"192.0.2.7/24"}, Gateway: "192.0.2.1"}},
			"[{52:54:00:00:00:02  0 [192.0.2.8/24 192.0.2.1 192.0.2.7/24]}]"},
		"changed MAC":          {[]layout.Interface{{Name: "eth0", MAC: "02:de:ad:be:ef:01", PermanentMAC: "52:54:00:00:00:02", Addresses: []string{"192.0.2.7/24"}}}, "[{52:54:00:00:00:02  0 [192.0.2.7/24]}]"},
		"a circle":             {[]layout.Interface{{Name: "a", Kind: "macvlan", Parent: "b", Addresses: []string{"192.0.2.7/24"}}, {Name: "b", Kind: "bridge", Members: []string{"a"}}}, "none of the cards of b"},
		"bridge without cards": {[]layout.Interface{{Name: "virbr0", MAC: "52:54:00:aa:00:01", Kind: "bridge", Addresses: []string{"192.168.122.1/24"}}}, "card 52:54:00:aa:00:01"},
		"no addresses":         {[]layout.Interface{{Name: "eth0", MAC: "52:54:00:00:00:01"}}, "has no addresses"},
	} {
		got, err := sourceSteps(cards, c.source)
		if s := fmt.Sprint(got); err == nil && s != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s, %v; want %s", name, s, err, c.want)
		}
	}
}

// TestOffer: of a DHCP server's answer only what can be right is used.
func TestOffer(t *testing.T) {
	ip := func(s string) net.IP { return net.ParseIP(s).To4() }
	mask := dhcpv4.OptSubnetMask(net.CIDRMask(24, 32))
	for _, c := range []struct {
		name string
		ip   string
		opts []dhcpv4.Option
		want string
	}{
		{"plain", "192.0.2.7", []dhcpv4.Option{mask, dhcpv4.OptRouter(ip("192.0.2.1")), dhcpv4.OptDNS(ip("192.0.2.2")), dhcpv4.OptDomainName("example.org.")}, "{[192.0.2.7/24] [192.0.2.1]} [192.0.2.2] example.org"},
		{"no address", "0.0.0.0", []dhcpv4.Option{mask}, "0.0.0.0 is not an address"},
		{"multicast", "224.0.0.1", []dhcpv4.Option{mask}, "224.0.0.1 is not an address"},
		{"loopback", "127.0.0.1", []dhcpv4.Option{mask}, "127.0.0.1 is not an address"},
		{"all of the subnet", "192.0.2.255", []dhcpv4.Option{mask}, "is the address of the subnet"},
		{"no mask", "192.0.2.7", nil, "no subnet mask"},
		{"mask with a gap", "192.0.2.7", []dhcpv4.Option{dhcpv4.OptSubnetMask(net.IPv4Mask(255, 0, 255, 0))}, "is not a subnet mask"},
		{"mask of nothing", "192.0.2.7", []dhcpv4.Option{dhcpv4.OptSubnetMask(net.IPv4Mask(0, 0, 0, 0))}, "is not a subnet mask"},
		{"itself as gateway", "192.0.2.7", []dhcpv4.Option{mask, dhcpv4.OptRouter(ip("192.0.2.7"), ip("0.0.0.0"), ip("192.0.2.9"))}, "{[192.0.2.7/24] [192.0.2.9]} []"},
		{"many name servers", "192.0.2.7", []dhcpv4.Option{mask, dhcpv4.OptDNS(ip("255.255.255.255"), ip("192.0.2.1"), ip("192.0.2.2"), ip("192.0.2.3"), ip("192.0.2.4"))}, "{[192.0.2.7/24] []} [192.0.2.1 192.0.2.2 192.0.2.3]"},
		{"a line in the domain", "192.0.2.7", []dhcpv4.Option{mask, dhcpv4.OptDomainName("x\nnameserver 6.6.6.6")}, "{[192.0.2.7/24] []} []"},
		{"an escape sequence", "192.0.2.7", []dhcpv4.Option{mask, dhcpv4.OptDomainName("\x1b[2J")}, "{[192.0.2.7/24] []} []"},
		{"a long label", "192.0.2.7", []dhcpv4.Option{mask, dhcpv4.OptDomainName(strings.Repeat("a", 64))}, "{[192.0.2.7/24] []} []"},
	} {
		ack, err := dhcpv4.New(dhcpv4.WithYourIP(ip(c.ip)))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range c.opts {
			ack.UpdateOption(o)
		}
		got, err := offer4(ack)
		if s := strings.TrimSpace(fmt.Sprintln(got.addresses, got.dns, got.domain)); err == nil && s != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s, %v; want %s", c.name, s, err, c.want)
		}
	}
}

// FuzzOffer: whatever comes from the network, nothing but plain names and addresses
// is used.
func FuzzOffer(f *testing.F) {
	ack, err := dhcpv4.New(dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 7)), dhcpv4.WithOption(dhcpv4.OptSubnetMask(net.CIDRMask(24, 32))), dhcpv4.WithOption(dhcpv4.OptDomainName("example.org")), dhcpv4.WithOption(dhcpv4.OptDNS(net.IPv4(192, 0, 2, 1))))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ack.ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		ack, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		o, err := offer4(ack)
		if err != nil {
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("error %q", err)
			}
			return
		}
		if text := strings.TrimSpace(fmt.Sprintln(o.addresses, o.dns, o.domain)); len(text) > 500 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) || len(o.addresses.CIDR) != 1 {
			t.Errorf("offer %q", text)
		}
	})
}
