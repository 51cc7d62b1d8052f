//go:build vmtest

package vmtest

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestNet: net-*: each way to configure the network, only when asked for, and
// each way it can fail, named within half a minute.
func TestNet(t *testing.T) {
	long(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	dir := workDir(t)
	iso, initrd := filepath.Join(dir, "r.iso"), filepath.Join(dir, "initrd")
	if err := command(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "key")); err != nil {
		t.Fatal(err)
	}
	pub, err := os.ReadFile(filepath.Join(dir, "key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	sshkey := "mkcdrec.sshkey=" + strings.Join(strings.Fields(string(pub))[:2], ",")
	k := rescueISO(ctx, t, "linux-image-cloud-amd64", iso)
	extractInitrd(ctx, t, iso, initrd)
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	user := "user virtio-net-pci"
	noTime := serveNTP(t, time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC))
	two := []string{user + ",mac=52:54:00:00:00:01", user + ",mac=52:54:00:00:00:02"}
	deaf := "socket,listen=127.0.0.1:0 virtio-net-pci" // a cable, and nobody there
	for _, c := range []struct {
		name   string
		nic    []string
		words  string
		want   string
		answer string
		says   string
	}{
		{"net-none-asked", []string{user}, "", `network: not configured`, "ip addr", "state down"},
		{"net-dhcp", []string{user}, "mkcdrec.ip=dhcp", `network: 10\.0\.2\.15/24 on eth0`, "cat /etc/resolv.conf", "10.0.2.3"},
		{"net-static", []string{user}, "mkcdrec.ip=10.0.2.99/24,10.0.2.2 mkcdrec.dns=192.0.2.53", `network: 10\.0\.2\.99/24 on eth0`, "cat /etc/resolv.conf; ip route", "192.0.2.53"},
		{"net-mac", two, "mkcdrec.ip=dhcp mkcdrec.nic=52:54:00:00:00:02", `network: 10\.0\.2\.15/24 on eth1`, "", ""},
		{"net-vlan", []string{user}, "mkcdrec.ip=192.0.2.7/24 mkcdrec.vlan=7", `network: 192\.0\.2\.7/24 on eth0\.7`, "", ""},
		{"net-bond", two, "mkcdrec.ip=192.0.2.8/24 mkcdrec.bond=active-backup:52:54:00:00:00:01+eth1", `network: 192\.0\.2\.8/24 on bond0`, "cat /sys/class/net/bond0/bonding/slaves", "eth0 eth1"},
		{"net-no-card", nil, "mkcdrec.ip=dhcp", `network: failed: there is no network card`, "", ""},
		{"net-wrong-mac", []string{user}, "mkcdrec.ip=dhcp mkcdrec.nic=52:54:00:99:99:99", `there is no network card 52:54:00:99:99:99; there are eth0`, "", ""},
		{"net-no-answer", []string{deaf}, "mkcdrec.ip=dhcp", `network: failed: no DHCP server answered on eth0`, "", ""},
		{"net-source-unknown", []string{user}, "mkcdrec.ip=source", `network: failed: (the source machine's layout has no addresses|this machine does not have)`, "", ""},
		{"net-ntp", []string{user}, "mkcdrec.ip=dhcp mkcdrec.ntp=10.0.2.2", `clock: 2031-02-03 04:\d\d:\d\d UTC by 10\.0\.2\.2`, "date", "feb  3"},
		{"net-ntp-none", []string{user}, "mkcdrec.ip=dhcp mkcdrec.ntp=10.0.2.77", `the clock was not set by 10\.0\.2\.77`, "", ""},
		{"net-ssh", []string{fmt.Sprintf("user,hostfwd=tcp:127.0.0.1:%d-:22 virtio-net-pci", port)}, "mkcdrec.ip=dhcp " + sshkey, `ssh: listening on port 22, host key SHA256:`, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "net-ntp" && noTime != nil {
				t.Skip(noTime) // this host is a time server itself
			}
			vm, err := Start(ctx, Machine{Name: c.name, Memory: 384, Kernel: k.Image, Initrd: initrd, NIC: c.nic, Append: "console=ttyS0 panic=1 rootfstype=ramfs " + c.words, Log: filepath.Join(dir, c.name+".log")})
			if err != nil {
				t.Fatal(err)
			}
			defer vm.Kill()
			if _, err := vm.Expect(c.want+`(?s:.*)rescue system ready(?s:.*)# `, bootLimit); err != nil {
				t.Fatal(err)
			}
			if c.answer != "" {
				if out, _, err := vm.Run(c.answer, time.Minute); err != nil || !strings.Contains(strings.ToLower(out), c.says) {
					t.Errorf("%s: %q, %v; want %q", c.answer, out, err, c.says)
				}
			}
			if c.name == "net-ssh" {
				ssh := []string{"-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i", filepath.Join(dir, "key"), "-p", fmt.Sprint(port), "root@127.0.0.1", "cat /etc/hostname"}
				if out, err := exec.CommandContext(ctx, "ssh", ssh...).CombinedOutput(); err != nil || !strings.Contains(string(out), "rescue-") {
					t.Errorf("ssh: %v: %s", err, out)
				}
			}
		})
	}
	t.Run("net-no-carrier", func(t *testing.T) {
		m := Machine{Name: "net-no-carrier", Memory: 384, Kernel: k.Image, Initrd: initrd, NIC: []string{user}, Append: "console=ttyS0 panic=1 rootfstype=ramfs mkcdrec.ip=dhcp", Display: filepath.Join(dir, "qmp"), Log: filepath.Join(dir, "no-carrier.log")}
		vm, err := Start(ctx, m)
		if err != nil {
			t.Fatal(err)
		}
		defer vm.Kill()
		if _, err := vm.Expect(`Linux version`, bootLimit); err != nil {
			t.Fatal(err)
		}
		if err := vm.Control("set_link", map[string]any{"name": "n0", "up": false}); err != nil {
			t.Fatal(err)
		}
		if _, err := vm.Expect(`network: failed: no signal on eth0 .* within 8s: is a cable plugged in(?s:.*)rescue system ready(?s:.*)# `, bootLimit); err != nil {
			t.Error(err)
		}
	})
}

// serveNTP answers on the loopback, which machines see as 10.0.2.2, with a time
// of its own (RFC 5905, section 7.3).
func serveNTP(t *testing.T, now time.Time) error {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:123")
	if err != nil {
		return fmt.Errorf("cannot answer as a time server: %w", err)
	}
	t.Cleanup(func() { c.Close() })
	offset := time.Until(now)
	go func() {
		b := make([]byte, 512)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if n < 48 {
				continue
			}
			stamp := func() uint64 {
				t := time.Now().Add(offset)
				return uint64(t.Unix()+2208988800)<<32 | uint64(t.Nanosecond())<<32/1_000_000_000
			}
			r := make([]byte, 48)
			r[0], r[1], r[2], r[3] = 0x24, 1, 6, 0xEC // version 4, server, stratum 1
			copy(r[12:16], "TEST")
			binary.BigEndian.PutUint64(r[16:], stamp())
			copy(r[24:32], b[40:48])
			binary.BigEndian.PutUint64(r[32:], stamp())
			binary.BigEndian.PutUint64(r[40:], stamp())
			_, _ = c.WriteTo(r, from)
		}
	}()
	return nil
}
