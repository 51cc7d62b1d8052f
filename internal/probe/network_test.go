package probe

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// TestNetwork: what an address is on is followed down to cards; a card is known by
// the address that it was made with.
func TestNetwork(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, name); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range []string{"mk0", "mk1", "mk2"} {
		link("../../../bus/pci/drivers/e1000", "sys/class/net/"+name+"/device/driver")
		write("sys/class/net/"+name+"/address", fmt.Sprintf("52:54:00:00:00:%02x\n", i))
	}
	write("sys/class/net/mk1/address", "52:54:00:00:00:00\n")
	write("sys/class/net/mk1/bonding_slave/perm_hwaddr", "52:54:00:00:00:01\n")
	write("sys/class/net/mkbond/bonding/mode", "active-backup 1\n")
	write("sys/class/net/mkbond/bonding/slaves", "mk0 mk1\n")
	write("sys/class/net/mkbr/bridge/bridge_id", "x\n")
	write("sys/class/net/mkbr/uevent", "DEVTYPE=bridge\nINTERFACE=mkbr\n")
	for _, p := range []string{"mkbond.5", "mktap"} {
		link("../x", "sys/class/net/mkbr/brif/"+p)
		link("../x", "sys/class/net/mkbr/lower_"+p)
	}
	write("sys/class/net/mkbond.5/uevent", "DEVTYPE=vlan\n")
	link("../mkbond", "sys/class/net/mkbond.5/lower_mkbond")
	write("proc/net/vlan/mkbond.5", "mkbond.5  VID: 5\t REORDER_HDR: 1\nDevice: mkbond\n")
	write("sys/class/net/mkmac/uevent", "DEVTYPE=macvlan\n")
	link("../mk2", "sys/class/net/mkmac/lower_mk2")
	write("sys/class/net/mkteam/uevent", "INTERFACE=mkteam\n")
	link("../mk2", "sys/class/net/mkteam/lower_mk2")
	for _, other := range []string{"mktap", "mkvx"} {
		write("sys/class/net/"+other+"/uevent", "DEVTYPE=vxlan\n")
	}
	link("../mk2", "sys/class/net/mkvx/lower_mk2")

	var l layout.Layout
	Machine{Root: root}.network(&l)
	var got []string
	for _, n := range l.Network {
		got = append(got, strings.TrimSpace(fmt.Sprintln(n.Name, n.MAC, n.PermanentMAC, n.Kind, n.BondMode, n.VLAN, n.Parent, n.Members)))
	}
	want := `mk0 52:54:00:00:00:00    0  []
mk1 52:54:00:00:00:00 52:54:00:00:00:01   0  []
mk2 52:54:00:00:00:02    0  []
mkbond    active-backup 0  [mk0 mk1]
mkbond.5     5 mkbond []
mkbr   bridge  0  [mkbond.5 mktap]
mkmac   macvlan  0 mk2 []
mkteam   team  0  [mk2]`
	if s := strings.Join(got, "\n"); s != want {
		t.Errorf("network:\n%s\nwant\n%s", s, want)
	}
}
