package netconf

import (
	"fmt"
	"net"
	"strings"
	"testing"

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
		"other cards":  {[]layout.Interface{{Name: "eth0", MAC: "52:54:00:00:00:99", Addresses: []string{"192.0.2.7/24"}}}, "this machine has not the source machine's cards (eth0: card 52:54:00:00:00:99)"},
		"no addresses": {[]layout.Interface{{Name: "eth0", MAC: "52:54:00:00:00:01"}}, "has no addresses"},
	} {
		got, err := sourceSteps(cards, c.source)
		if s := fmt.Sprint(got); err == nil && s != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s, %v; want %s", name, s, err, c.want)
		}
	}
}
