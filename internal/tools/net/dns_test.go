package nettools

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// zone are the records of the test's name server: name, type, content.
const zone = `host.example. A 192.0.2.1
host.example. A 192.0.2.2
host.example. AAAA 2001:db8::1
www.example. CNAME host.example.
www.example. A 192.0.2.1
example. MX 10 mail.example.
example. MX 20 a.very.long.name.of.a.mail.server.example.
example. NS ns.example.
example. TXT v=spf1 "quoted" \ -all
example. SOA ns.example. root.example. 2026113001 3600 600 86400 300
_sip._udp.example. SRV 1 2 5060 host.example.
1.2.0.192.in-addr.arpa. PTR host.example.
a.very.long.name.in.a.zone.example. A 192.0.2.3
only4.example. A 192.0.2.4
big.example. TXT
caa.example. CAA
odd.example. TYPE
`

// nameServer answers by the zone, on UDP and TCP.
func nameServer(t *testing.T) string {
	t.Helper()
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", u.LocalAddr().String())
	if err != nil {
		t.Skipf("no port for both: %v", err)
	}
	t.Cleanup(func() { u.Close(); l.Close() })
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			if a := answerDNS(b[:n], true); a != nil {
				u.WriteTo(a, from)
			}
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var n uint16
				if binary.Read(c, binary.BigEndian, &n) != nil {
					return
				}
				b := make([]byte, n)
				io.ReadFull(c, b)
				a := answerDNS(b, false)
				c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
			}()
		}
	}()
	_, port, _ := net.SplitHostPort(u.LocalAddr().String())
	return port
}

func answerDNS(b []byte, small bool) []byte {
	var m dnsmessage.Message
	if m.Unpack(b) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	name := strings.ToLower(q.Name.String())
	m.Response, m.RecursionAvailable = true, name != "only4.example."
	m.Authoritative = strings.HasSuffix(name, "host.example.")
	edns := len(m.Additionals) > 0
	m.Additionals, m.AuthenticData = nil, false
	if edns {
		var h dnsmessage.ResourceHeader
		h.SetEDNS0(1400, dnsmessage.RCodeSuccess, false)
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	if name == "silent.example." {
		return nil
	}
	known := false
	for l := range strings.Lines(zone) {
		f := strings.SplitN(strings.TrimSuffix(l, "\n"), " ", 3)
		if f[0] != name {
			continue
		}
		known = true
		typ, ok := dnsTypes[f[1]]
		if !ok {
			typ = 4711
		}
		follow := f[1] == "CNAME" && (q.Type == dnsTypes["A"] || q.Type == dnsTypes["AAAA"])
		if typ != q.Type && !follow {
			continue
		}
		h := dnsmessage.ResourceHeader{Name: q.Name, Type: typ, Class: 1, TTL: 3600}
		n := func(s string) dnsmessage.Name { return dnsmessage.MustNewName(s) }
		var body dnsmessage.ResourceBody
		w := []string{}
		if len(f) > 2 {
			w = strings.Fields(f[2])
		}
		switch f[1] {
		case "A":
			body = &dnsmessage.AResource{A: [4]byte(net.ParseIP(f[2]).To4())}
		case "AAAA":
			body = &dnsmessage.AAAAResource{AAAA: [16]byte(net.ParseIP(f[2]))}
		case "CNAME":
			body = &dnsmessage.CNAMEResource{CNAME: n(f[2])}
			if follow && q.Type == dnsTypes["A"] {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: body}, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: n(f[2]), Type: 1, Class: 1, TTL: 5}, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}}})
				goto done
			}
		case "MX":
			pref, _ := strconv.Atoi(w[0])
			body = &dnsmessage.MXResource{Pref: uint16(pref), MX: n(w[1])}
			m.Additionals = append(m.Additionals, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: n(w[1]), Type: 1, Class: 1, TTL: 60}, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 9}}})
		case "NS":
			body = &dnsmessage.NSResource{NS: n(f[2])}
		case "PTR":
			body = &dnsmessage.PTRResource{PTR: n(f[2])}
		case "TXT":
			body = &dnsmessage.TXTResource{TXT: []string{"plain", "a \"b\" \\ \x01é;"}}
			if name == "big.example." {
				body = &dnsmessage.TXTResource{TXT: []string{strings.Repeat("x", 250), strings.Repeat("y", 250), strings.Repeat("z", 250), strings.Repeat("u", 250), strings.Repeat("v", 250)}}
				if small {
					m.Truncated = true
					continue
				}
			}
		case "SOA":
			body = &dnsmessage.SOAResource{NS: n(w[0]), MBox: n(w[1]), Serial: 2026113001, Refresh: 3600, Retry: 600, Expire: 86400, MinTTL: 300}
		case "SRV":
			body = &dnsmessage.SRVResource{Priority: 1, Weight: 2, Port: 5060, Target: n(w[3])}
		case "CAA":
			body = &dnsmessage.UnknownResource{Type: typ, Data: append([]byte{128, 5}, "issueca.example"...)}
		default:
			body = &dnsmessage.UnknownResource{Type: typ, Data: []byte("0123456789abcdefghijklmnopqrstuvwxyz")}
		}
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: body})
	}
done:
	switch {
	case strings.HasSuffix(name, "refused.example."):
		m.RCode = dnsmessage.RCodeRefused
	case !known:
		m.RCode = dnsmessage.RCodeNameError
	}
	if len(m.Answers) == 0 && !m.Truncated && m.RCode != dnsmessage.RCodeRefused {
		m.Authorities = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("example."), Type: 6, Class: 1, TTL: 60}, Body: &dnsmessage.SOAResource{NS: dnsmessage.MustNewName("ns.example."), MBox: dnsmessage.MustNewName("root.example."), Serial: 1, Refresh: 2, Retry: 3, Expire: 4, MinTTL: 5}}}
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

// moving are parts of dig's output that differ from run to run.
var moving = regexp.MustCompile(`(?m)id: \d+|Query time: \d+|^;; WHEN: .*|^; <<>>.*`)

// TestDNS: our dig, nslookup and host print what BIND's print.
func TestDNS(t *testing.T) {
	port := nameServer(t)
	for l := range strings.Lines(`
dig D host.example
dig D host.example AAAA
dig D AAAA host.example
dig D -t mx example
dig D example mx +short
dig D www.example
dig D www.example +short
dig D example NS
dig D example TXT
dig D example SOA +noall +answer
dig D _sip._udp.example SRV +short
dig D -x 192.0.2.1
dig D -x 192.0.2.1 +short
dig D -x 2001:db8::1
dig D a.very.long.name.in.a.zone.example
dig D only4.example
dig D only4.example AAAA
dig D nosuch.example
dig D nosuch.example +short
dig D refused.example
dig D big.example TXT
dig D big.example TXT +short
dig D +tcp host.example
dig D caa.example CAA +noall +answer
dig D odd.example TYPE4711 +noall +answer
dig D odd.example TYPE4711 +short
dig D host.example +noedns
dig D host.example +norecurse
dig D host.example +nocmd +nostats
dig D host.example +nocomments
dig D host.example +noquestion +noadditional +noauthority
dig D HOST.example. +noall +answer
dig D host.example only4.example +short
dig D -q host.example -t A +short
dig D host.example +bufsize=4096 +dnssec
dig D silent.example +time=1 +tries=1
dig @127.0.0.1 -p 1 host.example +time=1 +tries=1
dig @127.0.0.1 -p 1 host.example +tcp +time=1 +tries=1
dig @127.0.0.1 -p x host.example  ## the message is on standard error
dig -x nonsense  ## an address is needed
dig D +nosuch host.example
nslookup N host.example 127.0.0.1
nslookup N www.example 127.0.0.1
nslookup N only4.example 127.0.0.1
nslookup N 192.0.2.1 127.0.0.1
nslookup N 192.0.2.9 127.0.0.1
nslookup N nosuch.example 127.0.0.1
nslookup N refused.example 127.0.0.1
nslookup N -type=mx example 127.0.0.1
nslookup N -type=ns example 127.0.0.1
nslookup N -type=soa example 127.0.0.1
nslookup N -type=txt example 127.0.0.1
nslookup N -q=srv _sip._udp.example 127.0.0.1
nslookup N -type=aaaa host.example 127.0.0.1
nslookup N -type=mx host.example 127.0.0.1
nslookup N -vc host.example 127.0.0.1
nslookup -port=1 -timeout=1 -retry=0 host.example 127.0.0.1
host -p PORT host.example 127.0.0.1
host -p PORT www.example 127.0.0.1
host -p PORT example 127.0.0.1
host -p PORT -t mx example 127.0.0.1
host -p PORT -t ns example 127.0.0.1
host -p PORT -t txt host.example 127.0.0.1
host -p PORT -t soa example 127.0.0.1
host -p PORT 192.0.2.1 127.0.0.1
host -p PORT nosuch.example 127.0.0.1
host -p PORT -T host.example 127.0.0.1
`) {
		l, differs, _ := strings.Cut(strings.TrimSpace(l), "  ## ")
		if l == "" {
			continue
		}
		t.Run(l, func(t *testing.T) {
			w := strings.Fields(strings.NewReplacer(" D ", " @127.0.0.1 -p "+port+" ", " N ", " -port="+port+" ", "PORT", port).Replace(l))
			if _, err := exec.LookPath(w[0]); err != nil {
				t.Skipf("%s is not installed (bind9-dnsutils)", w[0])
			}
			t.Parallel()
			theirs := exec.Command(w[0], w[1:]...)
			theirs.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
			want, got := run(t, theirs, "", ""), run(t, tool(t.TempDir(), w[0], w[1:]...), "", "")
			got.out, want.out = moving.ReplaceAllString(got.out, "X"), moving.ReplaceAllString(want.out, "X")
			// BIND's server may send a cookie; ours asks for none.
			want.out = regexp.MustCompile(`(?m)^; COOKIE: .*\n`).ReplaceAllString(want.out, "")
			same := got.out == want.out && got.status == want.status
			if same && differs != "" {
				t.Errorf("%s is the same; the table has %q", l, differs)
			}
			if !same && differs == "" {
				t.Errorf("%s = %d (%s)\n%s   want %d (%s)\n%s", l, got.status, got.errs, got.out, want.status, want.errs, want.out)
			}
		})
	}
}

// TestLookupDialog: nslookup reads questions and settings line by line.
func TestLookupDialog(t *testing.T) {
	port := nameServer(t)
	r := run(t, tool(t.TempDir(), "nslookup", "-port="+port, "-", "127.0.0.1"), "", "only4.example\nset type=mx\nexample\nset nosuch\nexit\nhost.example\n")
	for _, want := range []string{"Address: 192.0.2.4\n", "mail exchanger = 10 mail.example.", "Invalid option"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("nslookup prints %q; want %q", r.out, want)
		}
	}
	if strings.Contains(r.out, "192.0.2.1") || r.status != 0 {
		t.Errorf("nslookup continues after exit: %d %s", r.status, r.out)
	}
}

func FuzzReply(f *testing.F) {
	q := query{name: "example", typ: 1, class: 1, edns: true}
	b, err := q.pack(1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(answerDNS(b, false))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseReply(b)
		if err != nil {
			return
		}
		for _, a := range append(append(r.answers, r.authority...), r.additionals...) {
			if s := record(a) + described(a); strings.ContainsAny(s, "\x1b\x00") {
				t.Errorf("control characters in %q", s)
			}
		}
	})
}

// TestNetcat: our nc and OpenBSD's talk to each other and to themselves.
func TestNetcat(t *testing.T) {
	if _, err := exec.LookPath("nc"); err != nil {
		t.Skip("nc is not installed (netcat-openbsd)")
	}
	ours := func(args ...string) *exec.Cmd { return tool(t.TempDir(), "nc", args...) }
	theirs := func(args ...string) *exec.Cmd { return exec.Command("nc", args...) }
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, p, _ := net.SplitHostPort(l.Addr().String())
		return p
	}
	for _, c := range []struct {
		name           string
		server, client func(...string) *exec.Cmd
	}{{"we serve", ours, theirs}, {"we call", theirs, ours}, {"both", ours, ours}} {
		for _, u := range [][]string{nil, {"-u"}} {
			port := free()
			s := c.server(append(u, "-l", "-w", "3", "127.0.0.1", port)...)
			in, err := s.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			s.Stdout = &got
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond)
			io.WriteString(in, "from the server\n")
			x := run(t, c.client(append(u, "-N", "-w", "2", "127.0.0.1", port)...), "", "from the client\n")
			in.Close()
			s.Process.Signal(os.Interrupt)
			s.Wait()
			if got.String() != "from the client\n" || u == nil && (x.out != "from the server\n" || x.status != 0) {
				t.Errorf("%s, %v: the server got %q, the client %q, status %d %s", c.name, u, got.String(), x.out, x.status, x.errs)
			}
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.ReadFull(c, make([]byte, 2))
			io.WriteString(c, "hello\n")
			c.Close()
		}
	}()
	_, open, _ := net.SplitHostPort(l.Addr().String())
	closed := free()
	sock := t.TempDir() + "/sock"
	ul, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer ul.Close()
	go func() {
		for {
			c, err := ul.Accept()
			if err != nil {
				return
			}
			io.ReadFull(c, make([]byte, 2))
			io.WriteString(c, "by path\n")
			c.Close()
		}
	}()
	for _, args := range []string{"-z 127.0.0.1 " + open, "-z 127.0.0.1 " + closed, "-zv 127.0.0.1 " + open, "-zv 127.0.0.1 " + closed, "127.0.0.1 " + open, "-v 127.0.0.1 " + open, "127.0.0.1 " + closed,
		"-w 1 192.0.2.1 9", "-U " + sock, "-U " + sock + "x", "-zu 127.0.0.1 " + closed, "127.0.0.1", "127.0.0.1 x", "127.0.0.1 99999", "-q 2 127.0.0.1 " + open, "-z 127.0.0.1 " + closed + "-" + closed, ""} {
		want, got := run(t, theirs(strings.Fields(args)...), "", "x\n"), run(t, ours(strings.Fields(args)...), "", "x\n")
		if got.out != want.out || got.status != want.status {
			t.Errorf("nc %s = %d %q (%s); want %d %q (%s)", args, got.status, got.out, got.errs, want.status, want.out, want.errs)
		}
		if strings.Contains(args, "v") && got.errs != want.errs && !strings.Contains(want.errs, "getnameinfo") {
			if !strings.Contains(got.errs, strings.TrimSpace(strings.Split(want.errs, "\n")[0])) {
				t.Errorf("nc %s prints %q; want %q", args, got.errs, want.errs)
			}
		}
	}
}
