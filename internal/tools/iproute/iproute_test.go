package iproute

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// inNamespace has this test's thread in a network of its own; the real ip runs there, too,
// since a process that this thread starts is in its namespaces.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root; CI is root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("iproute2 is not installed; make deps installs it")
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespace: %v", err)
	}
}

// ours runs a command of this package.
func ours(line string) (string, string, int) {
	w := strings.Fields(line)
	var out, errs bytes.Buffer
	for _, c := range Commands() {
		if c.Name == w[0] {
			e := tools.New(c, strings.NewReader(""), &out, &errs)
			rc := e.Run(w[1:])
			_ = e.Out.Flush()
			return out.String(), errs.String(), rc
		}
	}
	return "", "no such command", 127
}

// real runs iproute2 on this thread.
func real(line string) (string, string, int) {
	w := strings.Fields(line)
	c := exec.Command(w[0], w[1:]...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	_ = c.Run() // its status says it
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}

// TestLikeIproute2: what ours prints is what iproute2 prints, after each change that ours or
// iproute2 made.
func TestLikeIproute2(t *testing.T) {
	inNamespace(t)
	changes := []string{
		"", "ip link set lo up", "ip link add d0 type veth peer name d1", "ip link set d1 up", "ip link set dev d0 address 02:00:00:00:00:07 mtu 1400", "ip link set d0 up",
		"ip addr add 192.0.2.7/24 brd + dev d0", "ip a add 192.0.2.8/24 dev d0", "ip addr add 2001:db8::7/64 dev d0", "ip address add 198.51.100.1 peer 198.51.100.2 dev d0",
		"ip route add default via 192.0.2.1", "ip route add 203.0.113.0/24 via 192.0.2.2 dev d0 metric 100 src 192.0.2.7", "ip r add 203.0.114.1 dev d0", "ip route add unreachable 203.0.115.0/24", "ip route add 203.0.116.0/24 via 192.0.2.2 table 100 proto static mtu 1300",
		"ip -6 route add default via 2001:db8::1 dev d0", "ip route replace default via 192.0.2.3 dev d0", "ip route del 203.0.114.1",
		"ip link add link d0 name d0.7 type vlan id 7", "ip link add br0 type bridge", "ip link set d1 master br0", "ip link set d1 nomaster", "ip link set d0.7 up",
		"ip addr del 192.0.2.8/24 dev d0", "ip link del d0.7", "ip addr flush dev d0", "ip route flush table 100",
	}
	shows := []string{"ip addr", "ip a show dev d0", "ip -4 addr show d0", "ip -6 a", "ip -br addr", "ip link", "ip -br link", "ip link show d0", "ip route", "ip -4 r list", "ip -6 route", "ip route show dev d0", "ip route show default", "ip route show table all", "ip route show table 100", "ip route get 203.0.113.9",
		"ip route get 127.0.0.1", "ip neigh", "ip addr show up", "ip addr show scope global"}
	for i, change := range changes {
		if change != "" {
			run := ours
			if i%5 == 4 {
				run = real
			}
			if out, errs, rc := run(change); strings.Contains(errs, "not supported") || strings.Contains(errs, `"d0.7"`) {
				continue // this kernel has no VLANs
			} else if rc != 0 || out != "" {
				t.Fatalf("%s: %d, %q, %q; want 0", change, rc, out, errs)
			}
			time.Sleep(30 * time.Millisecond) // states of links follow
		}
		for _, s := range shows {
			got, gotErr, rc := ours(s)
			want, wantErr, wantRC := real(s)
			for tries := 0; tries < 50 && plain(got) != plain(want); tries++ { // the kernel adds local routes later
				time.Sleep(20 * time.Millisecond)
				got, gotErr, rc = ours(s)
				want, wantErr, wantRC = real(s)
			}
			if strings.Contains(wantErr, "FIB table does not exist") {
				continue // the kernel has not made it; ours prints nothing
			}
			if plain(got) != plain(want) || rc != wantRC {
				t.Errorf("after %q: %s =\n%s%s(%d); want\n%s%s(%d)", change, s, got, gotErr, rc, want, wantErr, wantRC)
			}
		}
		if t.Failed() {
			return
		}
	}
	for _, bad := range []string{"ip link show none", "ip addr add 1.2.3.4.5 dev lo", "ip addr add 192.0.2.9/24", "ip link set none up", "ip route add 192.0.9.0/24 via 192.0.77.1", "ip route del 10.1.1.0/24", "ip nosuch", "ip route add default via x", "ip addr del 192.0.2.99/24 dev lo", "ip link set lo mtu x"} {
		_, errs, rc := ours(bad)
		_, wantErr, wantRC := real(bad)
		if rc != wantRC && (rc == 0 || wantRC == 0 || rc > 2 && wantRC == 2) || errs == "" {
			t.Errorf("%s: %d, %q; want %d, %q", bad, rc, errs, wantRC, wantErr)
		}
	}
}

// plain is output without what changes between two calls.
func plain(s string) string {
	s = regexp.MustCompile(`(valid_lft|preferred_lft) \d+sec`).ReplaceAllString(s, "$1 Nsec")
	s = strings.ReplaceAll(s, "tentative ", "") // until it is known that nobody else has the address
	s = regexp.MustCompile(` proto kernel_(ll|lo|ra)`).ReplaceAllString(s, "")
	return regexp.MustCompile(` +\n`).ReplaceAllString(s, "\n")
}

// TestPing asks this machine, and one that is not there.
func TestPing(t *testing.T) {
	inNamespace(t)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]struct {
		rc   int
		text string
	}{
		"ping -c 2 -i 0.1 127.0.0.1": {0, `(?s)^PING 127.0.0.1 \(127.0.0.1\) 56\(84\) bytes of data.\n64 bytes from 127.0.0.1: icmp_seq=1 ttl=64 time=[0-9.]+ ms\n.*\n\n--- 127.0.0.1 ping statistics ---\n2 packets transmitted, 2 received, 0% packet loss, time \d+ms\nrtt min/avg/max/mdev = .* ms\n$`},
		"ping -q -c 1 ::1":           {0, `(?s)^PING ::1.*1 packets transmitted, 1 received, 0% packet loss`},
		"ping -c 1 -W 1 192.0.2.1":   {1, `(?s)1 packets transmitted, 0 received,.* 100% packet loss`},
		"ping -c 1 -s 4 127.0.0.1":   {0, `12 bytes from 127.0.0.1: icmp_seq=1 ttl=64\n`},
	} {
		out, errs, rc := ours(line)
		if rc != want.rc || !regexp.MustCompile(want.text).MatchString(out) {
			t.Errorf("%s = %d,\n%s%s; want %d, %s", line, rc, out, errs, want.rc, want.text)
		}
	}
	for _, line := range []string{"ping", "ping -c x 127.0.0.1", "ping -c 0 127.0.0.1", "ping no.such.name.invalid"} {
		if _, errs, rc := ours(line); rc != 2 || errs == "" {
			t.Errorf("%s = %d, %q; want 2 and a message", line, rc, errs)
		}
	}
}

// FuzzParse: no message from the network stops ping.
func FuzzParse(f *testing.F) {
	f.Add([]byte{echoReply4, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8}, false)
	f.Add(make([]byte, 70), true)
	f.Fuzz(func(_ *testing.T, b []byte, six bool) {
		p := &pinger{id: 7, size: 56, six: six}
		p.parse(b)
	})
}

// TestChoose: the words of flush and show choose what they choose in iproute2, and unknown ones
// are refused with nothing changed.
func TestChoose(t *testing.T) {
	inNamespace(t)
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/addr_gen_mode", []byte("1"), 0); err != nil {
		t.Skipf("no IPv6: %v", err)
	}
	batch := func(lines string) string {
		file := t.TempDir() + "/batch"
		if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		out, errs, rc := real("ip -batch " + file)
		if rc != 0 {
			t.Fatalf("%s: %d, %s", lines, rc, errs)
		}
		return out
	}
	see := func() string {
		s := numbered.ReplaceAllString(plain(batch("addr\nroute show table all\nneigh\n")), "")
		return strings.ReplaceAll(s, "local 2001:db8::7 dev d0 table local proto kernel metric 0 pref medium\n", "") // it appears a moment later
	}
	setUp := func() string {
		_, _, _ = real("ip link del d0") // of the line before
		batch(chooseSetUp)
		return see()
	}
	compare := func(line string) {
		before := setUp()
		out, errs, rc := ours(line)
		got := changed(before, see())
		if got != "" || rc == 0 {
			before = setUp()
		}
		wantOut, wantErrs, wantRC := real(line)
		want := changed(before, see())
		same := numbered.ReplaceAllString(plain(out), "") == numbered.ReplaceAllString(plain(wantOut), "")
		if (rc == 0) != (wantRC == 0) || got != want || !same {
			t.Errorf("%s = %d %q %s\nchanges %s\nwant %d %q %s\n%s", line, rc, out, errs, got, wantRC, wantOut, wantErrs, want)
		}
		if rc != 0 && (errs == "" || got != "") {
			t.Errorf("%s: %q; want a message, and nothing changed:\n%s", line, errs, got)
		}
	}
	for l := range strings.Lines(chooseLines) {
		if l = strings.TrimSpace(l); l != "" {
			compare(l)
		}
	}
}

var numbered = regexp.MustCompile(`(?m)^\d+: `)

// changed are the lines that only one of two texts has.
func changed(before, after string) string {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	var out []string
	for _, l := range a {
		if !slices.Contains(b, l) {
			out = append(out, "-"+l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			out = append(out, "+"+l)
		}
	}
	slices.Sort(out) // the kernel has no order
	return strings.Join(out, "\n")
}

const chooseSetUp = `link set lo up
link add d0 address 02:00:00:00:00:07 type veth peer name d1 address 02:00:00:00:00:08
link set d1 up
link set d0 up
addr replace 192.0.2.99/32 dev lo
addr add 192.0.2.7/24 brd + dev d0
addr add 192.0.2.8/24 dev d0
addr add 198.51.100.1/25 scope link dev d0 label d0:x
addr add 2001:db8::7/64 dev d0 nodad
addr add 203.0.113.1/24 dev d1 valid_lft 3600 preferred_lft 3600
route replace default via 192.0.2.1
route replace 10.1.0.0/16 via 192.0.2.2 proto static
route replace 10.1.2.0/24 via 192.0.2.3 metric 5
route replace unreachable 10.9.0.0/16
route replace 10.2.0.0/16 dev d0 scope link src 192.0.2.7
route replace 10.3.0.0/16 via 192.0.2.2 table 100
route replace 2001:db8:1::/64 via 2001:db8::1 dev d0
neigh replace 192.0.2.2 lladdr 02:00:00:00:01:02 nud stale dev d0
neigh replace 192.0.2.3 lladdr 02:00:00:00:01:03 nud permanent dev d0
neigh replace 203.0.113.9 lladdr 02:00:00:00:01:09 nud stale dev d1
`

const chooseLines = `
ip addr flush dev d0 scope link
ip addr flush dev d0 scope host
ip addr flush dev d0 scope nosuch
ip addr flush scope link
ip addr flush d0
ip addr flush dev d0 nosuch
ip addr flush d0 d1
ip addr flush dev d0 dev d1
ip addr flush dev nosuch
ip addr flush dev d0 to 192.0.2.8
ip addr flush dev d0 to 198.51.0.0/16
ip addr flush to 203.0.113.0/24
ip addr flush dev d0 label d0:*
ip addr flush dev d0 secondary
ip addr flush dev d0 primary
ip addr flush dynamic
ip addr flush dev d1 permanent
ip addr flush dev d1 dynamic
ip -6 addr flush dev d0
ip -4 addr flush dev d0
ip addr flush dev d0 up
ip addr flush
ip addr show scope link
ip addr show dev d0 secondary
ip addr show dev d0 to 192.0.2.0/24
ip addr show dev d0 nosuch
ip addr show type veth
ip addr show type nosuch
ip link show type veth
ip link show up
ip link show dev d0 nosuch
ip link del
ip link del up
ip link del d0 nosuch
ip link del dev d0
ip link del dev d0 type veth
ip link set d0 down nosuch
ip link set d0 promisc nosuch
ip link set d0 promisc on
ip link add d7 type bridge nosuch
ip link add d7 address xx type bridge
ip addr add 192.0.2.50/24 dev d0 brd nosuch
ip addr add 192.0.2.50/24 192.0.2.51/24 dev d0
ip addr add 192.0.2.50/24 dev d0 valid_lft nosuch
ip addr add 192.0.2.50/24 dev d0 valid_lft 900 preferred_lft 800
ip addr add 192.0.2.50/24 dev d0 nosuch
ip addr add 192.0.2.50/24 dev d0 scope link
ip route flush table main
ip route flush table 100
ip route flush table nosuch
ip route flush proto static
ip route flush proto nosuch
ip route flush proto kernel
ip route flush scope link
ip route flush scope nosuch
ip route flush type unreachable
ip route flush type nosuch
ip route flush type unicast
ip route flush dev d0
ip route flush dev d0 proto static
ip route flush via 192.0.2.2
ip route flush 10.1.0.0/16
ip route flush exact 10.1.0.0/16
ip route flush to 10.1.0.0/16
ip route flush root 10.1.0.0/16
ip route flush to root 10.1.0.0/16
ip route flush match 10.1.2.0/24
ip route flush default
ip route flush nosuch
ip route flush 10.1.0.0/16 nosuch
ip route flush dev d0 nosuch
ip route flush metric 5
ip route flush cache
ip route flush src 192.0.2.7
ip -6 route flush 2001:db8:1::/64
ip route flush
ip route show type unreachable
ip route show scope link
ip route show 10.1.0.0/16
ip route show root 10.1.0.0/16
ip route show match 10.1.2.3
ip route show table nosuch
ip route show default
ip route show src 192.0.2.7
ip route del 10.1.0.0/16 proto kernel
ip route del 10.1.0.0/16 proto static
ip route del 10.2.0.0/16 scope host
ip route del 10.2.0.0/16 scope link
ip route del 10.1.2.0/24 metric 6
ip route del 10.1.2.0/24 nosuch
ip route add 10.5.0.0/16 via 192.0.2.1 src nosuch
ip route add 10.5.0.0/16 via 192.0.2.1 nosuch
ip route get 10.1.0.1 nosuch
ip neigh flush dev d0
ip neigh flush dev d0 nud permanent
ip neigh flush nud stale
ip neigh flush nud nosuch
ip neigh flush 203.0.113.9
ip neigh flush to 203.0.113.0/24
ip neigh flush d0
ip neigh flush dev d0 nosuch
ip neigh flush all
ip neigh flush
ip neigh show dev d1
ip neigh show nud permanent
`
