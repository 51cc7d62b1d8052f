package netconf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// maxServers is how many name servers the resolver of C libraries asks;
// resolv.conf(5).
const maxServers = 3

// offer is what of a DHCP server's answer is used. Anybody on the network can
// answer: everything else is left out.
type offer struct {
	addresses Addresses
	dns       []string
	domain    string
}

// offer4 checks an acknowledgement: an address without which there is no network is
// an error; a gateway, name servers and a domain that can't be are left out.
func offer4(ack *dhcpv4.DHCPv4) (offer, error) {
	var o offer
	ip, ok := unicast(ack.YourIPAddr)
	if !ok || !ip.Is4() {
		return o, fmt.Errorf("%v is not an address that a machine can have", ack.YourIPAddr)
	}
	mask := ack.SubnetMask()
	ones, bits := mask.Size()
	if len(mask) == 0 {
		return o, errors.New("it has no subnet mask")
	}
	if bits != 32 || ones == 0 {
		return o, fmt.Errorf("%s is not a subnet mask", mask)
	}
	net := netip.PrefixFrom(ip, ones)
	if ones < 31 && (ip == net.Masked().Addr() || ip == last(net)) {
		return o, fmt.Errorf("%s is the address of the subnet, or that of all in it", net)
	}
	o.addresses.CIDR = []netip.Prefix{net}
	for _, r := range ack.Router() {
		if g, ok := unicast(r); ok && g.Is4() && g != ip {
			o.addresses.Gateways = []netip.Addr{g}
			break
		}
	}
	o.dns = servers(ack.DNS())
	if d := strings.TrimRight(ack.DomainName(), "\x00."); isDomain(d) {
		o.domain = d
	}
	return o, nil
}

// last is the highest address of an IPv4 subnet.
func last(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(a)
}

// unicast returns an address that one machine on a network can have.
func unicast(b net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(b)
	a = a.Unmap()
	if !ok || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240) {
		return netip.Addr{}, false
	}
	return a, true
}

// servers returns the first name servers that can be ones.
func servers(ips []net.IP) []string {
	var out []string
	for _, b := range ips {
		a, ok := netip.AddrFromSlice(b)
		if _, good := unicast(b); ok && (good || a.Unmap().IsLoopback()) && len(out) < maxServers {
			out = append(out, a.Unmap().String())
		}
	}
	return out
}

// isDomain reports whether a text is a domain name: labels of letters, digits, hyphens
// and underscores, RFC 1123 §2.1. It is written into resolv.conf.
func isDomain(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for _, label := range strings.Split(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return false
			}
		}
	}
	return true
}
