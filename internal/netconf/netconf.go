// Package netconf configures the rescue system's network: DHCP, fixed
// addresses, or what the source machine had; on a card, a VLAN or a bond. Cards
// are known by their hardware addresses. Everything that fails is an error
// that names the cause, within seconds.
package netconf

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/vishvananda/netlink"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
)

// How long is waited: for a cable's signal, and for a DHCP server. Together
// less than half a minute.
const (
	carrierTimeout = 8 * time.Second
	dhcpTimeout    = 2 * time.Second // for the first of dhcpTries, then doubled
	dhcpTries      = 3
	dhcpLimit      = 15 * time.Second
)

// resolvConf is where name servers are written.
const resolvConf = "/etc/resolv.conf"

// Cards lists the interfaces of hardware, sorted by name.
func Cards() ([]netlink.Link, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("cannot list network cards: %w", err)
	}
	var out []netlink.Link
	for _, l := range all {
		if _, err := os.Stat("/sys/class/net/" + l.Attrs().Name + "/device"); err == nil {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b netlink.Link) int { return strings.Compare(a.Attrs().Name, b.Attrs().Name) })
	return out, nil
}

// Up brings an interface up; lo gets its addresses from the kernel.
func Up(name string) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("cannot bring up %s: %w", name, err)
	}
	return nil
}

// Configure does what is wanted and returns the result in one line. source
// is the source machine's network.
func Configure(ctx context.Context, w rescue.Network, source []layout.Interface) (string, error) {
	cards, err := Cards()
	if err != nil {
		return "", err
	}
	if len(cards) == 0 {
		return "", errors.New("there is no network card, or no driver for it (lspci lists cards, modprobe NAME loads a driver)")
	}
	if w.IP == "source" {
		return fromSource(ctx, w, cards, source)
	}
	var links []netlink.Link
	switch {
	case w.Bond != "":
		b, err := bond(w.Bond, cards)
		if err != nil {
			return "", err
		}
		links = []netlink.Link{b}
	case w.NIC != "":
		l, err := find(cards, w.NIC)
		if err != nil {
			return "", err
		}
		links = []netlink.Link{l}
	default:
		links = cards
	}
	with, err := waitCarrier(ctx, links)
	if err != nil {
		return "", err
	}
	if w.VLAN != 0 {
		for i, l := range with {
			if with[i], err = vlan(l, w.VLAN); err != nil {
				return "", err
			}
		}
	}
	switch w.IP {
	case "dhcp":
		return dhcp4(ctx, with, w.DNS)
	case "dhcp6":
		return dhcp6(ctx, with, w.DNS)
	}
	addrs, err := ParseAddresses(w.IP)
	if err != nil {
		return "", err
	}
	return static(with[0], addrs, w.DNS)
}

// Addresses are fixed addresses with their gateways.
type Addresses struct {
	CIDR     []netip.Prefix
	Gateways []netip.Addr
}

// ParseAddresses reads "192.0.2.7/24,192.0.2.1,2001:db8::7/64": addresses with
// a length are the machine's, those without are gateways.
func ParseAddresses(s string) (Addresses, error) {
	var a Addresses
	for _, w := range strings.Split(s, ",") {
		if p, err := netip.ParsePrefix(w); err == nil {
			a.CIDR = append(a.CIDR, p)
			continue
		}
		g, err := netip.ParseAddr(w)
		if err != nil {
			return a, fmt.Errorf("cannot use network address %q: want dhcp, dhcp6, source, or ADDRESS/LENGTH[,GATEWAY]", s)
		}
		a.Gateways = append(a.Gateways, g)
	}
	if len(a.CIDR) == 0 {
		return a, fmt.Errorf("cannot use network address %q: there is no ADDRESS/LENGTH in it", s)
	}
	return a, nil
}

// find returns the card with a hardware address or name.
func find(cards []netlink.Link, id string) (netlink.Link, error) {
	var have []string
	for _, c := range cards {
		a := c.Attrs()
		if a.Name == id || strings.EqualFold(a.HardwareAddr.String(), id) {
			return c, nil
		}
		have = append(have, fmt.Sprintf("%s (%s)", a.Name, a.HardwareAddr))
	}
	return nil, fmt.Errorf("there is no network card %s; there are %s", id, strings.Join(have, ", "))
}

// waitCarrier brings links up and gives those whose cable has a signal.
func waitCarrier(ctx context.Context, links []netlink.Link) ([]netlink.Link, error) {
	var names []string
	for _, l := range links {
		if err := netlink.LinkSetUp(l); err != nil {
			return nil, fmt.Errorf("cannot bring up %s: %w", l.Attrs().Name, err)
		}
		names = append(names, fmt.Sprintf("%s (%s)", l.Attrs().Name, l.Attrs().HardwareAddr))
	}
	end := time.Now().Add(carrierTimeout)
	for {
		var with []netlink.Link
		for _, l := range links {
			if b, err := os.ReadFile("/sys/class/net/" + l.Attrs().Name + "/carrier"); err == nil && strings.TrimSpace(string(b)) == "1" {
				with = append(with, l)
			}
		}
		// Others may follow a moment later; the first is enough after a second.
		if len(with) == len(links) || len(with) > 0 && time.Until(end) < carrierTimeout-time.Second {
			return with, nil
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("no signal on %s within %v: is a cable plugged in?", strings.Join(names, ", "), carrierTimeout)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func vlan(parent netlink.Link, id int) (netlink.Link, error) {
	name := fmt.Sprintf("%s.%d", parent.Attrs().Name, id)
	a := netlink.NewLinkAttrs()
	a.Name, a.ParentIndex = name, parent.Attrs().Index
	if err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: a, VlanId: id}); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("cannot make VLAN %s (has the kernel 8021q?): %w", name, err)
	}
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot bring up VLAN %s: %w", name, err)
	}
	return l, nil
}

// bond makes bond0 from "MODE:CARD+CARD".
func bond(spec string, cards []netlink.Link) (netlink.Link, error) {
	mode, list, _ := strings.Cut(spec, ":")
	a := netlink.NewLinkAttrs()
	a.Name = "bond0"
	b := netlink.NewLinkBond(a)
	b.Mode = netlink.StringToBondMode(mode)
	if b.Mode == netlink.BOND_MODE_UNKNOWN {
		return nil, fmt.Errorf("cannot make a bond: mode %q is not known (active-backup, balance-rr, 802.3ad, ...)", mode)
	}
	b.Miimon = 100
	var members []netlink.Link
	for _, id := range strings.Split(list, "+") {
		c, err := find(cards, id)
		if err != nil {
			return nil, fmt.Errorf("cannot make a bond: %w", err)
		}
		members = append(members, c)
	}
	if err := netlink.LinkAdd(b); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("cannot make a bond (has the kernel bonding?): %w", err)
	}
	l, err := netlink.LinkByName(a.Name)
	if err != nil {
		return nil, fmt.Errorf("cannot make a bond: %w", err)
	}
	for _, c := range members {
		err := netlink.LinkSetDown(c)
		if err == nil {
			err = netlink.LinkSetMaster(c, l)
		}
		if err == nil {
			err = netlink.LinkSetUp(c)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot put %s into the bond: %w", c.Attrs().Name, err)
		}
	}
	return l, nil
}

// static sets addresses and gateways.
func static(l netlink.Link, a Addresses, dns []string) (string, error) {
	name := l.Attrs().Name
	var said []string
	for _, p := range a.CIDR {
		if err := netlink.AddrReplace(l, &netlink.Addr{IPNet: ipnet(p)}); err != nil {
			return "", fmt.Errorf("cannot give %s the address %s: %w", name, p, err)
		}
		said = append(said, p.String())
	}
	for _, g := range a.Gateways {
		if err := route(l, g); err != nil {
			return "", err
		}
	}
	if err := resolver(dns, ""); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s on %s", strings.Join(said, " "), name), nil
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func route(l netlink.Link, g netip.Addr) error {
	dst := "0.0.0.0/0"
	if g.Is6() {
		dst = "::/0"
	}
	_, d, err := net.ParseCIDR(dst)
	if err != nil {
		return err
	}
	if err := netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: g.AsSlice(), Dst: d}); err != nil {
		return fmt.Errorf("cannot set the route by %s on %s: %w", g, l.Attrs().Name, err)
	}
	return nil
}

func resolver(dns []string, domain string) error {
	if len(dns) == 0 {
		return nil
	}
	var b strings.Builder
	if domain != "" && isDomain(domain) {
		fmt.Fprintf(&b, "search %s\n", domain)
	}
	for _, d := range dns {
		if _, err := netip.ParseAddr(d); err != nil {
			return fmt.Errorf("cannot use name server %q: %w", d, err)
		}
		fmt.Fprintf(&b, "nameserver %s\n", d)
	}
	if err := os.WriteFile(resolvConf, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("cannot set name servers: %w", err)
	}
	return nil
}

// answer is what one card got.
type answer struct {
	said string
	err  error
}

// first asks on all links at once and takes the first that succeeds.
func first(links []netlink.Link, ask func(netlink.Link) (string, error)) (string, error) {
	ch := make(chan answer, len(links))
	for _, l := range links {
		go func() {
			s, err := ask(l)
			ch <- answer{s, err}
		}()
	}
	var errs []error
	for range links {
		a := <-ch
		if a.err == nil {
			return a.said, nil
		}
		errs = append(errs, a.err)
	}
	return "", errors.Join(errs...)
}

// dhcp4 gets a lease by RFC 2131 and continues to renew it.
func dhcp4(ctx context.Context, links []netlink.Link, dns []string) (string, error) {
	return first(links, func(l netlink.Link) (string, error) {
		name := l.Attrs().Name
		c, err := nclient4.New(name, nclient4.WithTimeout(dhcpTimeout), nclient4.WithRetry(dhcpTries))
		if err != nil {
			return "", fmt.Errorf("cannot ask for an address on %s: %w", name, err)
		}
		limited, cancel := context.WithTimeout(ctx, dhcpLimit)
		defer cancel()
		lease, err := c.Request(limited)
		if err != nil {
			c.Close()
			return "", fmt.Errorf("no DHCP server answered on %s (%s) within %v: %w", name, l.Attrs().HardwareAddr, dhcpLimit, err)
		}
		said, err := apply4(l, lease.ACK, dns)
		if err != nil {
			c.Close()
			return "", err
		}
		go renew(ctx, c, lease, l, dns)
		return said, nil
	})
}

func apply4(l netlink.Link, ack *dhcpv4.DHCPv4, dns []string) (string, error) {
	o, err := offer4(ack)
	if err != nil {
		return "", fmt.Errorf("cannot use the DHCP server's answer on %s: %w", l.Attrs().Name, err)
	}
	if len(dns) == 0 {
		dns = o.dns
	}
	said, err := static(l, o.addresses, nil)
	if err == nil {
		err = resolver(dns, o.domain)
	}
	return said, err
}

func renew(ctx context.Context, c *nclient4.Client, lease *nclient4.Lease, l netlink.Link, dns []string) {
	defer c.Close()
	for {
		half := lease.ACK.IPAddressLeaseTime(time.Hour) / 2
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(half, time.Minute)):
		}
		next, err := c.Renew(ctx, lease)
		if err != nil {
			continue // the lease may still hold; asked again later
		}
		lease = next
		_, _ = apply4(l, lease.ACK, dns) // the address is there already
	}
}

// dhcp6 gets an address by RFC 8415; the route comes with the router's
// advertisement, which the kernel takes.
func dhcp6(ctx context.Context, links []netlink.Link, dns []string) (string, error) {
	return first(links, func(l netlink.Link) (string, error) {
		name := l.Attrs().Name
		if err := waitLinkLocal(ctx, l); err != nil {
			return "", err
		}
		c, err := nclient6.New(name, nclient6.WithTimeout(dhcpTimeout), nclient6.WithRetry(dhcpTries))
		if err != nil {
			return "", fmt.Errorf("cannot ask for an address on %s: %w", name, err)
		}
		defer c.Close()
		limited, cancel := context.WithTimeout(ctx, dhcpLimit)
		defer cancel()
		adv, err := c.Solicit(limited)
		var rep *dhcpv6.Message
		if err == nil {
			rep, err = c.Request(limited, adv)
		}
		if err != nil {
			return "", fmt.Errorf("no DHCPv6 server answered on %s (%s) within %v: %w", name, l.Attrs().HardwareAddr, dhcpLimit, err)
		}
		ia := rep.Options.OneIANA()
		if ia == nil || ia.Options.OneAddress() == nil {
			return "", fmt.Errorf("the DHCPv6 server on %s gave no address", name)
		}
		ip, ok := unicast(ia.Options.OneAddress().IPv6Addr)
		if !ok || !ip.Is6() {
			return "", fmt.Errorf("cannot use the DHCPv6 server's answer on %s: %v is not an address that a machine can have", name, ia.Options.OneAddress().IPv6Addr)
		}
		if len(dns) == 0 {
			dns = servers(rep.Options.DNS())
		}
		return static(l, Addresses{CIDR: []netip.Prefix{netip.PrefixFrom(ip, 128)}}, dns)
	})
}

// waitLinkLocal waits until the link has its own address: duplicate address
// detection takes a second.
func waitLinkLocal(ctx context.Context, l netlink.Link) error {
	end := time.Now().Add(carrierTimeout)
	for {
		as, err := netlink.AddrList(l, netlink.FAMILY_V6)
		if err != nil {
			return fmt.Errorf("cannot read addresses of %s: %w", l.Attrs().Name, err)
		}
		for _, a := range as {
			if a.IP.IsLinkLocalUnicast() && a.Flags&0x40 == 0 { // IFA_F_TENTATIVE
				return nil
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s has no IPv6 address of its own: is IPv6 switched off?", l.Attrs().Name)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// fromSource returns cards the addresses that the source machine had, each card
// known by its hardware address.
func fromSource(ctx context.Context, w rescue.Network, cards []netlink.Link, source []layout.Interface) (string, error) {
	steps, err := sourceSteps(cards, source)
	if err != nil {
		return "", err
	}
	var said []string
	for _, s := range steps {
		n := w
		n.NIC, n.Bond, n.VLAN = s.nic, s.bond, s.vlan
		n.IP = strings.Join(s.addresses, ",")
		line, err := Configure(ctx, n, nil)
		if err != nil {
			return strings.Join(said, "; "), err
		}
		said = append(said, line)
	}
	return strings.Join(said, "; "), nil
}

type sourceStep struct {
	nic, bond string
	vlan      int
	addresses []string // with gateways
}

// sourceSteps finds for each interface that had addresses what carries it now.
// Interfaces that one card or bond carries are one step.
func sourceSteps(cards []netlink.Link, source []layout.Interface) ([]sourceStep, error) {
	f := carriers{cards: cards, byName: map[string]layout.Interface{}}
	for _, i := range source {
		f.byName[i.Name] = i
	}
	var out []sourceStep
	var missing []string
	for _, i := range source {
		if len(i.Addresses) == 0 {
			continue
		}
		s, err := f.of(i, 0)
		if err != nil {
			missing = append(missing, fmt.Sprintf("%s: %v", i.Name, err))
			continue
		}
		add := slices.Clone(i.Addresses)
		if i.Gateway != "" {
			add = append(add, i.Gateway)
		}
		n := slices.IndexFunc(out, func(o sourceStep) bool { return o.nic == s.nic && o.bond == s.bond && o.vlan == s.vlan })
		if n < 0 {
			n, out = len(out), append(out, s)
		}
		for _, a := range add {
			if !slices.Contains(out[n].addresses, a) {
				out[n].addresses = append(out[n].addresses, a)
			}
		}
	}
	if len(out) == 0 {
		if len(missing) == 0 {
			return nil, errors.New("the source machine's layout has no addresses")
		}
		return nil, fmt.Errorf("this machine does not have the source machine's cards (%s): give an address and mkcdrec.nic=MAC instead", strings.Join(missing, "; "))
	}
	return out, nil
}

// carriers finds the hardware below the source machine's interfaces.
type carriers struct {
	cards  []netlink.Link
	byName map[string]layout.Interface
}

// maxStack is how many interfaces may be on top of each other: a bridge over a VLAN
// over a bond over cards is four.
const maxStack = 8

// of returns what carries an interface: a card, or a bond of cards, and a VLAN on it. A
// bridge, a team, a macvlan and an ipvlan are not made again: the card has the address.
func (f carriers) of(i layout.Interface, depth int) (sourceStep, error) {
	if depth > maxStack {
		return sourceStep{}, errors.New("its interfaces go round in a circle")
	}
	switch {
	case i.VLAN != 0:
		s, err := f.below(i.Parent, depth)
		if err == nil && s.vlan != 0 {
			err = errors.New("a VLAN inside a VLAN can't be made here")
		}
		s.vlan = i.VLAN
		return s, err
	case i.BondMode != "":
		var members []string
		for _, m := range i.Members {
			if mac := f.card(f.byName[m]); mac != "" {
				members = append(members, mac)
			}
		}
		if len(members) == 0 {
			return sourceStep{}, fmt.Errorf("none of the cards of %s", i.Name)
		}
		return sourceStep{bond: i.BondMode + ":" + strings.Join(members, "+")}, nil
	case i.Parent != "": // macvlan, ipvlan
		return f.below(i.Parent, depth)
	case len(i.Members) > 0: // bridge, team: the first that is more than a virtual machine's
		err := fmt.Errorf("none of the cards of %s", i.Name)
		for _, m := range i.Members {
			if s, e := f.below(m, depth); e == nil {
				return s, nil
			}
		}
		if mac := f.card(i); mac != "" {
			return sourceStep{nic: mac}, nil
		}
		return sourceStep{}, err
	}
	if mac := f.card(i); mac != "" {
		return sourceStep{nic: mac}, nil
	}
	return sourceStep{}, fmt.Errorf("card %s", cmp.Or(i.PermanentMAC, i.MAC, "without an address"))
}

func (f carriers) below(name string, depth int) (sourceStep, error) {
	i, ok := f.byName[name]
	if !ok {
		return sourceStep{}, fmt.Errorf("the layout does not have %q below it", name)
	}
	return f.of(i, depth+1)
}

// card returns the hardware address of the card that an interface was, "" for none.
// The address that it was made with counts first: bonds give all their cards the same.
func (f carriers) card(i layout.Interface) string {
	for _, mac := range []string{i.PermanentMAC, i.MAC} {
		if mac == "" {
			continue
		}
		if c, err := find(f.cards, mac); err == nil {
			return c.Attrs().HardwareAddr.String()
		}
	}
	return ""
}
