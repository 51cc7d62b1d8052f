package probe

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// network records cards and what is on top of them, for people and for
// mkcdrec.ip=source. Interfaces of virtual machines and containers are left out.
func (m Machine) network(l *layout.Layout) {
	if m.System != "" {
		return // the rescue system's
	}
	names, err := os.ReadDir(m.path("/sys/class/net"))
	if err != nil {
		return // facts for people; their absence breaks nothing
	}
	for _, e := range names {
		n := layout.Interface{Name: e.Name(), Addresses: []string{}, Gateway: m.gateway(e.Name())}
		dir := "/sys/class/net/" + n.Name
		if driver, err := os.Readlink(m.path(dir + "/device/driver")); err == nil {
			n.Driver = filepath.Base(driver)
		} else if !m.stacked(&n) {
			continue
		}
		n.MAC = mac(m.read(dir + "/address"))
		if n.Driver != "" {
			if p := m.permanentMAC(n.Name); p != n.MAC {
				n.PermanentMAC = p
			}
		}
		if i, err := net.InterfaceByName(n.Name); err == nil {
			n.Addresses = append(n.Addresses, addressesOf(i)...)
		}
		l.Network = append(l.Network, n)
	}
}

// addressesOf gives an interface's addresses, but for those that the kernel makes.
func addressesOf(i *net.Interface) []string {
	as, err := i.Addrs()
	if err != nil {
		return nil
	}
	var out []string
	for _, a := range as {
		if ip, _, err := net.ParseCIDR(a.String()); err == nil && !ip.IsLinkLocalUnicast() {
			out = append(out, a.String())
		}
	}
	return out
}

// mac gives an Ethernet address as net.HardwareAddr prints it, "" for what is not one.
func mac(s string) string {
	a, err := net.ParseMAC(s)
	if err != nil || !slices.ContainsFunc(a, func(b byte) bool { return b != 0 }) {
		return ""
	}
	return a.String()
}

// permanentMAC is the address that a card was made with: a bond gives all its cards
// the same, and people change it. "" where the kernel does not tell: it does for
// cards of bonds, and since Linux 5.6 for all.
func (m Machine) permanentMAC(name string) string {
	if p := mac(m.read("/sys/class/net/" + name + "/bonding_slave/perm_hwaddr")); p != "" {
		return p
	}
	if m.Root != "" {
		return ""
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return ""
	}
	return mac(l.Attrs().PermHWAddr.String())
}

// stacked reads what an interface that is not hardware consists of: a bond, a VLAN, a
// bridge, a team, a macvlan or an ipvlan; false for anything else.
// Documentation/ABI/testing/sysfs-class-net.
func (m Machine) stacked(n *layout.Interface) bool {
	dir := "/sys/class/net/" + n.Name
	if mode, _, ok := strings.Cut(m.read(dir+"/bonding/mode"), " "); ok {
		n.BondMode, n.Members = mode, strings.Fields(m.read(dir+"/bonding/slaves"))
		return true
	}
	if _, err := os.Stat(m.path(dir + "/bridge")); err == nil {
		n.Kind = "bridge"
		ports, err := os.ReadDir(m.path(dir + "/brif"))
		for _, p := range ports {
			n.Members = append(n.Members, p.Name())
		}
		return err == nil
	}
	lower := m.lower(n.Name)
	typ := ""
	for _, line := range strings.Split(m.read(dir+"/uevent"), "\n") {
		if v, ok := strings.CutPrefix(line, "DEVTYPE="); ok {
			typ = v
		}
	}
	switch {
	case (typ == "macvlan" || typ == "ipvlan") && len(lower) == 1:
		n.Kind, n.Parent = typ, lower[0]
		return true
	case typ == "" && len(lower) > 0: // of what has others below it, a team alone has no type
		n.Kind, n.Members = "team", lower
		return true
	}
	return m.vlan(n)
}

// lower gives the interfaces that one is on top of, by name.
func (m Machine) lower(name string) []string {
	entries, err := os.ReadDir(m.path("/sys/class/net/" + name))
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if l, ok := strings.CutPrefix(e.Name(), "lower_"); ok {
			out = append(out, l)
		}
	}
	return out
}

func (m Machine) vlan(n *layout.Interface) bool {
	for _, l := range strings.Split(m.read("/proc/net/vlan/"+n.Name), "\n") {
		if _, v, ok := strings.Cut(l, "VID: "); ok {
			if _, err := fmt.Sscan(v, &n.VLAN); err != nil {
				return false
			}
		}
		if d, ok := strings.CutPrefix(strings.TrimSpace(l), "Device: "); ok {
			n.Parent = strings.TrimSpace(d)
		}
	}
	return n.VLAN != 0 && n.Parent != ""
}
