package nettools

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// digRun is a run of dig: a question and what is printed of its answer.
type digRun struct {
	*tools.Env
	query
	show  map[string]bool
	named string // of @SERVER
	typed bool   // a type is given for the names that follow
	names []digName
	begun bool // the heading is printed
	line  string
}

// digName is a name that is asked for.
type digName struct {
	name string
	typ  dnsmessage.Type
}

// digParts are what dig prints, but for +short.
const digParts = "cmd comments question answer authority additional stats"

func dig(e *tools.Env) error {
	servers, _ := resolvConf()
	d := &digRun{Env: e, show: map[string]bool{}, line: strings.Join(e.Line, " ")}
	d.query = query{servers: servers, name: ".", typ: dnsTypes["NS"], class: dnsmessage.ClassINET, port: "53", edns: true, size: 1232, timeout: 5 * time.Second, tries: 3}
	d.note = func(f string, a ...any) {
		if !d.show["short"] || !strings.Contains(f, "retrying") {
			e.Printf("%s\n", printable.Clean(fmt.Sprintf(f, a...)))
		}
	}
	for p := range strings.FieldsSeq(digParts) {
		d.show[p] = true
	}
	for i := 0; i < len(e.Line); i++ {
		if err := d.word(e.Line, &i); err != nil {
			return err
		}
	}
	if len(d.names) == 0 {
		d.names = []digName{{".", cmp.Or(map[bool]dnsmessage.Type{true: d.typ}[d.typed], dnsTypes["NS"])}}
	}
	for _, n := range d.names {
		d.name, d.typ = n.name, n.typ
		if err := d.run(); err != nil {
			return err
		}
	}
	return nil
}

// word reads one word of the command line.
func (d *digRun) word(words []string, i *int) error {
	w := words[*i]
	value := func() (string, error) {
		if len(w) > 2 {
			return w[2:], nil
		}
		if *i++; *i >= len(words) {
			return "", tools.Usage("option %s needs a value", w)
		}
		return words[*i], nil
	}
	switch {
	case w == "-v":
		fmt.Fprintln(d.Err, "dig of mkcdrec")
		return tools.Status(0)
	case w[:min(1, len(w))] == "@":
		return d.server(w[1:])
	case w[:min(1, len(w))] == "+":
		return d.option(w[1:])
	case len(w) > 1 && w[0] == '-':
		switch w[1] {
		case '4', '6':
			d.family = w[1:2]
			return nil
		case 'p', 't', 'c', 'x', 'q', 'b':
			v, err := value()
			if err != nil {
				return err
			}
			return d.letter(w[1], v)
		case 'r', 'u', 'm', 'i':
			return nil
		}
		return tools.Usage("Invalid option: %s", w)
	}
	if t, ok := dnsType(w); ok {
		d.take(t)
		return nil
	}
	if c, ok := map[string]dnsmessage.Class{"IN": 1, "CH": 3, "HS": 4}[strings.ToUpper(w)]; ok {
		d.class = c
		return nil
	}
	return d.add(w, cmp.Or(map[bool]dnsmessage.Type{true: d.typ}[d.typed], dnsTypes["A"]))
}

// add adds a name.
func (d *digRun) add(name string, t dnsmessage.Type) error {
	d.names = append(d.names, digName{name, t})
	return nil
}

// take takes a type, for the name before it or for those that follow.
func (d *digRun) take(t dnsmessage.Type) {
	if n := len(d.names); n > 0 {
		d.names[n-1].typ = t
		return
	}
	d.typ, d.typed = t, true
}

func (d *digRun) letter(c byte, v string) error {
	switch c {
	case 'p':
		if n, err := strconv.ParseUint(v, 10, 16); err != nil || n == 0 {
			return tools.Usage("Couldn't parse port number: %s", v)
		}
		d.port = v
	case 't':
		t, ok := dnsType(v)
		if !ok {
			d.Fault(0, ";; Warning, ignoring invalid type %s", v)
			return nil
		}
		d.take(t)
	case 'c':
		d.class = map[string]dnsmessage.Class{"CH": 3, "HS": 4, "ANY": 255}[strings.ToUpper(v)]
		d.class = cmp.Or(d.class, dnsmessage.ClassINET)
	case 'q':
		return d.add(v, cmp.Or(map[bool]dnsmessage.Type{true: d.typ}[d.typed], dnsTypes["A"]))
	case 'x':
		n, err := reverse(v)
		if err != nil {
			return said("Invalid IP address %s", v)
		}
		return d.add(n, dnsTypes["PTR"])
	}
	return nil
}

func (d *digRun) server(s string) error {
	d.named = s
	if _, err := netip.ParseAddr(s); err == nil {
		d.servers = []string{s}
		return nil
	}
	addrs, err := net.LookupHost(s)
	if err != nil {
		d.Fault(10, "couldn't get address for '%s': not found", s)
		return tools.Status(10)
	}
	d.servers = addrs
	return nil
}

// option reads a word behind +.
func (d *digRun) option(w string) error {
	word, val, _ := strings.Cut(w, "=")
	on := true
	if rest, ok := strings.CutPrefix(word, "no"); ok {
		word, on = rest, false
	}
	number := func(most uint64) (int, error) {
		n, err := strconv.ParseUint(val, 10, 32)
		if err != nil || n > most {
			return 0, tools.Usage("Couldn't parse %s: %s", word, val)
		}
		return int(n), nil
	}
	var err error
	n := 0
	switch word {
	case "short", "cmd", "comments", "question", "answer", "authority", "additional", "stats", "identify":
		d.show[word] = on
	case "all":
		for p := range strings.FieldsSeq(digParts) {
			d.show[p] = on
		}
	case "tcp", "vc":
		d.tcp = on
	case "recurse", "rec", "rdflag":
		d.norecurse = !on
	case "edns":
		d.edns = on
	case "dnssec", "do":
		if d.dnssec = on; on {
			d.edns = true
		}
	case "bufsize":
		n, err = number(65535)
		d.size = uint16(n)
	case "time", "timeout":
		n, err = number(3600)
		d.timeout = time.Duration(max(n, 1)) * time.Second
	case "tries", "retry":
		if n, err = number(1000); word == "retry" {
			n++
		}
		d.tries = n
	case "cookie", "adflag", "cdflag", "search", "ttlid", "cl", "qr", "multiline", "nsid", "rrcomments", "ignore", "crypto", "defname", "aaflag", "fail", "besteffort", "idn", "idnin", "idnout", "keepopen", "ednsneg", "badcookie":
	default:
		return tools.Usage("Invalid option: +%s", w)
	}
	return err
}

// heading prints the lines before the first answer.
func (d *digRun) heading() {
	if d.begun || !d.show["cmd"] || d.show["short"] {
		return
	}
	d.begun = true
	d.Printf("\n; <<>> DiG mkcdrec <<>> %s\n", printable.Clean(d.line))
	if d.named != "" {
		d.Printf("; (%d server%s found)\n", len(d.servers), map[bool]string{false: "s"}[len(d.servers) == 1])
	}
	d.Printf(";; global options: +cmd\n")
}

// run asks the question and prints the answer.
func (d *digRun) run() error {
	r, err := d.ask()
	switch {
	case errors.Is(err, errServers):
		if !d.tcp {
			d.heading()
		}
		d.Printf("%v\n", err)
		return tools.Status(9)
	case err != nil:
		d.Fault(10, "%v", err)
		return nil
	case d.show["short"]:
		for _, a := range r.answers {
			d.Printf("%s\n", rdata(a))
		}
	default:
		d.print(r)
	}
	return nil
}

// print prints an answer as dig does.
func (d *digRun) print(r *reply) {
	d.heading()
	var opt *dnsmessage.Resource
	var rest []dnsmessage.Resource
	for i, a := range r.additionals {
		if a.Header.Type == dnsmessage.TypeOPT {
			opt = &r.additionals[i]
		} else {
			rest = append(rest, a)
		}
	}
	if d.show["comments"] {
		flags := ""
		for _, f := range []struct {
			on   bool
			name string
		}{{r.header.Response, "qr"}, {r.header.Authoritative, "aa"}, {r.header.Truncated, "tc"}, {r.header.RecursionDesired, "rd"}, {r.header.RecursionAvailable, "ra"}, {r.header.AuthenticData, "ad"}, {r.header.CheckingDisabled, "cd"}} {
			if f.on {
				flags += " " + f.name
			}
		}
		d.Printf(";; Got answer:\n;; ->>HEADER<<- opcode: QUERY, status: %s, id: %d\n;; flags:%s; QUERY: %d, ANSWER: %d, AUTHORITY: %d, ADDITIONAL: %d\n",
			status(r.header.RCode), r.header.ID, flags, len(r.questions), len(r.answers), len(r.authority), len(r.additionals))
		if r.header.RecursionDesired && !r.header.RecursionAvailable {
			d.Printf(";; WARNING: recursion requested but not available\n")
		}
		d.Printf("\n")
		if opt != nil {
			h := opt.Header
			d.Printf(";; OPT PSEUDOSECTION:\n; EDNS: version: %d, flags:%s; udp: %d\n", h.TTL>>16&0xff, map[bool]string{true: " do"}[h.DNSSECAllowed()], h.Class)
		}
	}
	if d.show["question"] {
		if d.show["comments"] {
			d.Printf(";; QUESTION SECTION:\n")
		}
		for _, q := range r.questions {
			d.Printf(";%s\n", columns(dnsName(q.Name), []column{{32, className(q.Class)}, {40, typeName(q.Type)}}))
		}
		if d.show["comments"] {
			d.Printf("\n")
		}
	}
	for _, s := range []struct {
		name string
		list []dnsmessage.Resource
	}{{"answer", r.answers}, {"authority", r.authority}, {"additional", rest}} {
		if !d.show[s.name] || len(s.list) == 0 {
			continue
		}
		if d.show["comments"] {
			d.Printf(";; %s SECTION:\n", strings.ToUpper(s.name))
		}
		for _, a := range s.list {
			d.Printf("%s\n", record(a))
		}
		if d.show["comments"] {
			d.Printf("\n")
		}
	}
	if d.show["stats"] {
		how := map[bool]string{true: "TCP", false: "UDP"}[r.tcp]
		d.Printf(";; Query time: %d msec\n;; SERVER: %s#%s(%s) (%s)\n;; WHEN: %s\n;; MSG SIZE  rcvd: %d\n\n", r.took.Milliseconds(), r.server, d.port, printable.Clean(cmp.Or(d.named, r.server)), how, time.Now().Format("Mon Jan 02 15:04:05 MST 2006"), r.size)
	}
}

// column is a text and where it begins, if there is room.
type column struct {
	at   int
	text string
}

// record is a record in columns.
func record(a dnsmessage.Resource) string {
	return columns(dnsName(a.Header.Name), []column{{24, strconv.FormatUint(uint64(a.Header.TTL), 10)}, {32, className(a.Header.Class)}, {40, typeName(a.Header.Type)}, {48, rdata(a)}})
}

func columns(s string, cs []column) string {
	at := len(s)
	for _, c := range cs {
		s += tabTo(at, c.at) + c.text
		at = max(at+1, c.at) + len(c.text)
	}
	return s
}

// tabTo are the tabs and blanks from a column to another one, at least one, as BIND has them.
func tabTo(from, to int) string {
	to = max(to, from+1)
	tabs := to/8 - from/8
	if tabs > 0 {
		from = to / 8 * 8
	}
	return strings.Repeat("\t", tabs) + strings.Repeat(" ", to-from)
}

// lookup is a run of nslookup.
type lookup struct {
	*tools.Env
	query
	search []string
	server string // as it was named
	typed  bool
	back   bool // an address is looked up
	shown  bool // the heading
}

func nslookup(e *tools.Env) error {
	servers, search := resolvConf()
	l := &lookup{Env: e, search: search}
	l.query = query{servers: servers, class: dnsmessage.ClassINET, port: "53", timeout: 5 * time.Second, tries: 2, typ: dnsTypes["A"]}
	l.note = func(f string, a ...any) { e.Printf("%s\n", printable.Clean(fmt.Sprintf(f, a...))) }
	var words []string
	for _, w := range e.Line {
		o, ok := strings.CutPrefix(w, "-")
		switch {
		case ok && o != "":
			if err := l.set(o); err != nil {
				return tools.Usage("%v", err)
			}
		default:
			words = append(words, w)
		}
	}
	if len(words) > 2 {
		return tools.Usage("too many operands")
	}
	if len(words) == 2 {
		if err := l.use(words[1]); err != nil {
			return err
		}
	}
	if len(words) > 0 && words[0] != "-" {
		return l.ask(words[0])
	}
	return l.dialog()
}

// use takes another server.
func (l *lookup) use(server string) error {
	l.server = server
	if _, err := netip.ParseAddr(server); err == nil {
		l.servers = []string{server}
		return nil
	}
	addrs, err := net.LookupHost(server)
	if err != nil {
		return fmt.Errorf("couldn't get address for '%s': not found", server)
	}
	l.servers = addrs
	return nil
}

// set reads an option, without the dash.
func (l *lookup) set(o string) error {
	name, val, _ := strings.Cut(o, "=")
	n, err := strconv.ParseUint(val, 10, 16)
	switch strings.ToLower(name) {
	case "type", "ty", "typ", "query", "querytype", "q", "qu":
		t, ok := dnsType(val)
		if !ok {
			return fmt.Errorf("unknown query type: %s", val)
		}
		l.typ, l.typed, err = t, true, nil
	case "port", "po":
		l.port = val
	case "timeout", "ti":
		l.timeout = time.Duration(max(n, 1)) * time.Second
	case "retry", "ret":
		l.tries = int(n)
	case "class", "cl":
		err = nil
	case "vc", "novc":
		l.tcp, err = name == "vc", nil
	case "recurse", "norecurse", "norec", "rec":
		l.norecurse, err = strings.HasPrefix(name, "no"), nil
	case "nosearch", "nosea":
		l.search, err = nil, nil
	case "debug", "nodebug", "d2", "nod2", "search", "fail", "nofail", "all", "defname", "nodefname":
		err = nil
	default:
		return fmt.Errorf("*** Invalid option: %s", name)
	}
	if err != nil {
		return fmt.Errorf("*** Invalid option: %s", o)
	}
	return nil
}

// dialog reads questions line by line.
func (l *lookup) dialog() error {
	for s := bufio.NewScanner(l.In); ; {
		l.Printf("> ")
		_ = l.Out.Flush() // an error stays in it
		if !s.Scan() {
			l.Printf("\n")
			return nil
		}
		f := strings.Fields(s.Text())
		var err error
		switch {
		case len(f) == 0:
			continue
		case f[0] == "exit":
			return nil
		case f[0] == "set" && len(f) == 2:
			err = l.set(f[1])
		case (f[0] == "server" || f[0] == "lserver") && len(f) == 2:
			if err = l.use(f[1]); err == nil {
				l.Printf("Default server: %s\nAddress: %s#%s\n", printable.Clean(f[1]), l.servers[0], l.port)
			}
		default:
			if len(f) == 2 {
				err = l.use(f[1])
			}
			l.shown = false
			if err == nil {
				err = l.ask(f[0])
			}
		}
		if err != nil && !errors.As(err, new(tools.Status)) {
			l.Printf("nslookup: %s\n", printable.Clean(err.Error()))
		}
	}
}

// ask asks for the addresses of a name, the name of an address, or the type that was set.
func (l *lookup) ask(name string) error {
	types := []dnsmessage.Type{l.typ}
	if !l.typed {
		types = []dnsmessage.Type{dnsTypes["A"], dnsTypes["AAAA"]}
		if n, err := reverse(name); err == nil {
			name, types, l.back = n, []dnsmessage.Type{dnsTypes["PTR"]}, true
			defer func() { l.back = false }()
		}
	}
	names := []string{name}
	if !strings.HasSuffix(name, ".") {
		var more []string
		for _, d := range l.search {
			more = append(more, name+"."+d)
		}
		if names = append(names, more...); !strings.Contains(name, ".") {
			names = append(more, name)
		}
	}
	var last *reply
	for _, n := range names {
		q := l.query
		q.name = n
		answers := 0
		for i, t := range types {
			q.typ = t
			r, err := q.ask()
			if err != nil {
				l.Printf("%v\n\n", err)
				return tools.Status(1)
			}
			q.name = r.final(q.name)
			if last = r; r.header.RCode != dnsmessage.RCodeSuccess {
				break
			}
			if answers += len(r.answers); len(r.answers) > 0 || i == 0 && len(types) == 1 {
				l.print(r, i == 0 || answers == len(r.answers))
			}
		}
		if last.header.RCode == dnsmessage.RCodeSuccess {
			if answers == 0 {
				l.heading(last)
				l.Printf("*** Can't find %s: No answer\n", printable.Clean(strings.TrimSuffix(n, ".")))
			}
			l.Printf("\n")
			return nil
		}
	}
	l.heading(last)
	l.Printf("** server can't find %s: %s\n\n", printable.Clean(strings.TrimSuffix(name, ".")), status(last.header.RCode))
	return tools.Status(1)
}

func (l *lookup) heading(r *reply) {
	if !l.shown && !l.back {
		l.shown = true
		l.Printf("Server:\t\t%s\nAddress:\t%s#%s\n\n", printable.Clean(cmp.Or(l.server, r.server)), r.server, l.port)
	}
}

// print prints the records of an answer.
func (l *lookup) print(r *reply, first bool) {
	l.heading(r)
	if first && !l.back && !r.header.Authoritative && len(r.answers) > 0 {
		l.Printf("Non-authoritative answer:\n")
	}
	for _, a := range r.answers {
		l.Printf("%s\n", described(a))
	}
	if (l.back || l.typed && l.typ != dnsTypes["A"] && l.typ != dnsTypes["AAAA"]) && len(r.answers) > 0 {
		if !r.header.Authoritative || len(r.authority)+len(r.additionals) > 0 {
			l.Printf("\nAuthoritative answers can be found from:\n")
		}
		for _, a := range append(r.authority, r.additionals...) {
			if s := described(a); strings.HasPrefix(s, "Name:\t") {
				l.Printf("%s\tinternet address = %s\n", strings.TrimSuffix(dnsName(a.Header.Name), "."), rdata(a))
			} else if a.Header.Type != dnsmessage.TypeOPT {
				l.Printf("%s\n", s)
			}
		}
	}
}

// described is a record in the words of nslookup.
func described(a dnsmessage.Resource) string {
	name, data := strings.TrimSuffix(dnsName(a.Header.Name), "."), rdata(a)
	switch b := a.Body.(type) {
	case *dnsmessage.AResource, *dnsmessage.AAAAResource:
		return fmt.Sprintf("Name:\t%s\nAddress: %s", name, data)
	case *dnsmessage.SOAResource:
		return fmt.Sprintf("%s\n\torigin = %s\n\tmail addr = %s\n\tserial = %d\n\trefresh = %d\n\tretry = %d\n\texpire = %d\n\tminimum = %d", name, strings.TrimSuffix(dnsName(b.NS), "."), strings.TrimSuffix(dnsName(b.MBox), "."), b.Serial, b.Refresh, b.Retry, b.Expire, b.MinTTL)
	}
	if what, ok := map[string]string{"CNAME": "canonical name", "MX": "mail exchanger", "NS": "nameserver", "PTR": "name", "TXT": "text", "SRV": "service"}[typeName(a.Header.Type)]; ok {
		return fmt.Sprintf("%s\t%s = %s", name, what, data)
	}
	return fmt.Sprintf("%s\trdata_%d = %s", name, a.Header.Type, data)
}

// host is host(1).
func host(e *tools.Env) error {
	if err := e.Need(1, 2); err != nil {
		return err
	}
	servers, search := resolvConf()
	l := &lookup{Env: e, search: search}
	l.query = query{servers: servers, class: dnsmessage.ClassINET, port: e.Or("p", "53"), timeout: 5 * time.Second, tries: 2, tcp: e.On("T"), note: func(f string, a ...any) { e.Printf("%s\n", printable.Clean(fmt.Sprintf(f, a...))) }}
	if e.On("W") {
		n, err := e.Int("W", 5)
		if err != nil {
			return err
		}
		l.timeout = time.Duration(max(n, 1)) * time.Second
	}
	if len(e.Args) == 2 {
		if err := l.use(e.Args[1]); err != nil {
			return err
		}
		e.Printf("Using domain server:\nName: %s\nAddress: %s#%s\nAliases: \n\n", printable.Clean(e.Args[1]), l.servers[0], l.port)
	}
	name, types := e.Args[0], []string{"A", "AAAA", "MX"}
	if n, err := reverse(name); err == nil {
		name, types = n, []string{"PTR"}
	}
	if t := e.Val("t"); t != "" {
		if _, ok := dnsType(t); !ok {
			return tools.Usage("invalid type: %s", t)
		}
		types = []string{strings.ToUpper(t)}
	}
	names := []string{name}
	if !strings.Contains(name, ".") {
		for _, d := range search {
			names = append([]string{name + "." + d}, names...)
		}
	}
	found := 0
	for _, n := range names {
		l.name = n
		for _, t := range types {
			l.typ, _ = dnsType(t)
			r, err := l.query.ask()
			if err != nil {
				e.Printf("%v\n", err)
				return tools.Status(1)
			}
			l.name = r.final(l.name)
			if r.header.RCode != dnsmessage.RCodeSuccess {
				if n == names[len(names)-1] {
					e.Printf("Host %s not found: %d(%s)\n", printable.Clean(strings.TrimSuffix(n, ".")), r.header.RCode, status(r.header.RCode))
					return tools.Status(1)
				}
				break
			}
			found += hostLines(e, r, t)
			if found == 0 && len(types) == 1 {
				e.Printf("%s has no %s record\n", printable.Clean(strings.TrimSuffix(n, ".")), t)
			}
			if found >= 0 && t == types[len(types)-1] {
				return nil
			}
		}
	}
	return nil
}

// hostLines prints records in the words of host, and gives their number.
func hostLines(e *tools.Env, r *reply, asked string) int {
	words := map[string]string{"A": "has address", "AAAA": "has IPv6 address", "MX": "mail is handled by", "CNAME": "is an alias for", "NS": "name server", "PTR": "domain name pointer", "TXT": "descriptive text", "SOA": "has SOA record", "SRV": "has SRV record"}
	for _, a := range r.answers {
		t := typeName(a.Header.Type)
		if t == "CNAME" && asked != "A" && asked != "CNAME" {
			continue // it was printed with the addresses
		}
		e.Printf("%s %s %s\n", strings.TrimSuffix(dnsName(a.Header.Name), "."), cmp.Or(words[t], "has "+t+" record"), rdata(a))
	}
	return len(r.answers)
}
