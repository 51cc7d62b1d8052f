package nettools

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// query is a question to name servers, and how it is asked.
type query struct {
	servers        []string // addresses, without ports
	name           string
	typ            dnsmessage.Type
	class          dnsmessage.Class
	port           string
	tcp, norecurse bool
	edns           bool
	dnssec         bool
	size           uint16 // of EDNS
	timeout        time.Duration
	tries          int
	family         string               // "4", "6" or ""
	note           func(string, ...any) // of tries that failed
}

// reply is what a name server has answered.
type reply struct {
	header                          dnsmessage.Header
	questions                       []dnsmessage.Question
	answers, authority, additionals []dnsmessage.Resource
	size                            int
	server                          string // address
	took                            time.Duration
	tcp                             bool
}

// dnsTypes are the types with names, by RFC 1035 and its followers.
var dnsTypes = map[string]dnsmessage.Type{"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "HINFO": 13, "MX": 15, "TXT": 16, "RP": 17, "AAAA": 28, "LOC": 29, "SRV": 33, "NAPTR": 35, "DNAME": 39, "DS": 43, "SSHFP": 44, "RRSIG": 46, "NSEC": 47, "DNSKEY": 48, "TLSA": 52, "SVCB": 64, "HTTPS": 65, "SPF": 99, "ANY": 255, "CAA": 257}

func dnsType(s string) (dnsmessage.Type, bool) {
	s = strings.ToUpper(s)
	if t, ok := dnsTypes[s]; ok {
		return t, true
	}
	if n, ok := strings.CutPrefix(s, "TYPE"); ok {
		if v, err := strconv.ParseUint(n, 10, 16); err == nil {
			return dnsmessage.Type(v), true
		}
	}
	return 0, false
}

func typeName(t dnsmessage.Type) string {
	for n, v := range dnsTypes {
		if v == t {
			return n
		}
	}
	return "TYPE" + strconv.Itoa(int(t))
}

func className(c dnsmessage.Class) string {
	if n, ok := map[dnsmessage.Class]string{1: "IN", 3: "CH", 4: "HS", 255: "ANY"}[c]; ok {
		return n
	}
	return "CLASS" + strconv.Itoa(int(c))
}

func status(r dnsmessage.RCode) string {
	if n, ok := map[dnsmessage.RCode]string{0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 6: "YXDOMAIN", 7: "YXRRSET", 8: "NXRRSET", 9: "NOTAUTH", 10: "NOTZONE"}[r]; ok {
		return n
	}
	return "RESERVED" + strconv.Itoa(int(r))
}

// resolvConf gives name servers and the domains to search.
func resolvConf() (servers, search []string) {
	b, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil, nil
	}
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			servers = append(servers, f[1])
		case "search", "domain":
			search = f[1:]
		}
	}
	return servers, search
}

// reverse is the name that has the name of an address.
func reverse(s string) (string, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return "", fmt.Errorf("'%s' is not an address", s)
	}
	b, suffix := a.AsSlice(), "in-addr.arpa."
	var out strings.Builder
	for i := len(b) - 1; i >= 0; i-- {
		if a.Is4() {
			fmt.Fprintf(&out, "%d.", b[i])
		} else {
			suffix = "ip6.arpa."
			fmt.Fprintf(&out, "%x.%x.", b[i]&15, b[i]>>4)
		}
	}
	return out.String() + suffix, nil
}

// pack makes the message of a question.
func (q *query) pack(id uint16) ([]byte, error) {
	name, err := dnsmessage.NewName(strings.TrimSuffix(q.name, ".") + ".")
	if err != nil {
		return nil, fmt.Errorf("'%s' is not a legal name", q.name)
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id, RecursionDesired: !q.norecurse, AuthenticData: q.edns}, Questions: []dnsmessage.Question{{Name: name, Type: q.typ, Class: q.class}}}
	if q.edns {
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(int(q.size), dnsmessage.RCodeSuccess, q.dnssec); err != nil {
			return nil, err
		}
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	b, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("'%s' is not a legal name", q.name)
	}
	return b, nil
}

// errServers is the error of a query that no server has answered.
var errServers = errors.New(";; no servers could be reached")

// ask asks the servers, each as often as tries has it.
func (q *query) ask() (*reply, error) {
	id := uint16(rand.Uint32())
	b, err := q.pack(id)
	if err != nil {
		return nil, err
	}
	for range max(q.tries, 1) {
		for _, s := range q.servers {
			for _, tcp := range []bool{q.tcp, true} {
				r, err := q.exchange(s, b, id, tcp)
				if op := new(net.OpError); tcp && errors.As(err, &op) && op.Op == "dial" {
					q.note(";; Connection to %s#%s(%s) for %s failed: %s.", s, q.port, s, q.name, strings.ToLower(cause(err)))
					break
				} else if err != nil {
					q.note(";; communications error to %s#%s: %s", s, q.port, strings.ToLower(strings.Replace(cause(err), "Connection timed out", "timed out", 1)))
					break
				}
				if !r.header.Truncated || tcp {
					return r, nil
				}
				q.note(";; Truncated, retrying in TCP mode.")
			}
		}
	}
	return nil, errServers
}

// final is the name behind the aliases of an answer.
func (r *reply) final(name string) string {
	for _, a := range r.answers {
		if c, ok := a.Body.(*dnsmessage.CNAMEResource); ok {
			name = c.CNAME.String()
		}
	}
	return name
}

// exchange asks one server.
func (q *query) exchange(server string, b []byte, id uint16, tcp bool) (*reply, error) {
	network := map[bool]string{true: "tcp", false: "udp"}[tcp] + q.family
	start := time.Now()
	c, err := (&net.Dialer{Timeout: q.timeout}).Dial(network, net.JoinHostPort(server, q.port))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(start.Add(q.timeout)); err != nil {
		return nil, err
	}
	if tcp {
		b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
	}
	if _, err := c.Write(b); err != nil {
		return nil, err
	}
	buf := make([]byte, 65535)
	for {
		n := 0
		if tcp {
			if _, err = io.ReadFull(c, buf[:2]); err == nil {
				n, err = io.ReadFull(c, buf[:binary.BigEndian.Uint16(buf)])
			}
		} else {
			n, err = c.Read(buf)
		}
		if err != nil {
			return nil, err
		}
		r, err := parseReply(buf[:n])
		if err == nil && r.header.ID == id && r.header.Response {
			r.server, r.took, r.tcp = server, time.Since(start), tcp
			return r, nil
		}
		if tcp {
			return nil, errors.New("not an answer to the question")
		}
	}
}

// parseReply reads a message.
func parseReply(b []byte) (*reply, error) {
	var p dnsmessage.Parser
	r := &reply{size: len(b)}
	var err error
	if r.header, err = p.Start(b); err != nil {
		return nil, err
	}
	if r.questions, err = p.AllQuestions(); err != nil {
		return nil, err
	}
	if r.answers, err = p.AllAnswers(); err != nil {
		return nil, err
	}
	if r.authority, err = p.AllAuthorities(); err != nil {
		return nil, err
	}
	r.additionals, err = p.AllAdditionals()
	return r, err
}

// rdata is the content of a record as zone files have it.
func rdata(r dnsmessage.Resource) string {
	switch b := r.Body.(type) {
	case *dnsmessage.AResource:
		return netip.AddrFrom4(b.A).String()
	case *dnsmessage.AAAAResource:
		return netip.AddrFrom16(b.AAAA).String()
	case *dnsmessage.NSResource:
		return dnsName(b.NS)
	case *dnsmessage.CNAMEResource:
		return dnsName(b.CNAME)
	case *dnsmessage.PTRResource:
		return dnsName(b.PTR)
	case *dnsmessage.MXResource:
		return fmt.Sprintf("%d %s", b.Pref, dnsName(b.MX))
	case *dnsmessage.SRVResource:
		return fmt.Sprintf("%d %d %d %s", b.Priority, b.Weight, b.Port, dnsName(b.Target))
	case *dnsmessage.SOAResource:
		return fmt.Sprintf("%s %s %d %d %d %d %d", dnsName(b.NS), dnsName(b.MBox), b.Serial, b.Refresh, b.Retry, b.Expire, b.MinTTL)
	case *dnsmessage.TXTResource:
		var out []string
		for _, t := range b.TXT {
			out = append(out, quoted(t))
		}
		return strings.Join(out, " ")
	case *dnsmessage.UnknownResource:
		if n := len(b.Data); r.Header.Type == dnsTypes["CAA"] && n > 2 && int(b.Data[1])+2 <= n {
			at := 2 + int(b.Data[1])
			return fmt.Sprintf("%d %s %s", b.Data[0], escaped(string(b.Data[2:at]), ".\" "), quoted(string(b.Data[at:])))
		}
		return unknown(b.Data)
	}
	return ""
}

// unknown writes the content of a record of a type that is not known, RFC 3597.
func unknown(b []byte) string {
	s := fmt.Sprintf(`\# %d`, len(b))
	for i := 0; i < len(b); i += 28 {
		s += fmt.Sprintf(" %X", b[i:min(i+28, len(b))])
	}
	return s
}

func quoted(s string) string { return `"` + escaped(s, `"`) + `"` }

// escaped writes bytes as zone files do: \ before special characters, \DDD for others.
func escaped(s, special string) string {
	var out []byte
	for _, c := range []byte(s) {
		if c == '\\' || strings.IndexByte(special, c) >= 0 {
			out = append(out, '\\')
		}
		if c >= ' ' && c <= '~' {
			out = append(out, c)
		} else {
			out = fmt.Appendf(out, `\%03d`, c)
		}
	}
	return string(out)
}

// dnsName is a name with its dots; the library has those inside labels as they are.
func dnsName(n dnsmessage.Name) string {
	return strings.ReplaceAll(escaped(n.String(), `"();@$`), " ", `\032`)
}
