package iproute

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// Names in /etc/iproute2/rt_protos, and of linux/rtnetlink.h.
var (
	protocols = map[int]string{1: "redirect", 2: "kernel", 3: "boot", 4: "static", 9: "ra", 16: "dhcp", 186: "bgp", 188: "ospf", 189: "rip"}
	types     = map[int]string{unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast", unix.RTN_ANYCAST: "anycast", unix.RTN_MULTICAST: "multicast", unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw"}
	tables    = map[string]int{"local": unix.RT_TABLE_LOCAL, "main": unix.RT_TABLE_MAIN, "default": unix.RT_TABLE_DEFAULT}
)

func named(names map[int]string, n int) string {
	if s := names[n]; s != "" {
		return s
	}
	return fmt.Sprint(n)
}

// chosen are what the words of show and flush choose.
type chosen struct {
	table       int
	dev, dst    string
	proto, via  string
	all, isDflt bool
}

func (r *run) chosen() (c chosen, err error) {
	c.table = unix.RT_TABLE_MAIN
	for len(r.words) > 0 {
		w, v, err := r.next("table dev proto via to exact root match scope type")
		if err != nil {
			return c, err
		}
		switch w {
		case "table":
			n, ok := tables[v]
			if c.all = v == "all"; !ok && !c.all {
				if n, err = strconv.Atoi(v); err != nil {
					return c, tools.Usage("argument %q is wrong: table id value is invalid", v)
				}
			}
			c.table = n
		case "dev":
			c.dev = v
		case "proto":
			c.proto = v
		case "via":
			c.via = v
		case "to", "exact", "root", "match":
			c.dst = v
		case "scope", "type":
		default:
			c.dst = w
		}
	}
	c.isDflt = c.dst == "default"
	return c, nil
}

// routes are those of the tables, chosen by the words of show.
func (r *run) routes(each func(chosen, *netlink.Route) error) error {
	c, err := r.chosen()
	if err != nil {
		return err
	}
	index := 0
	if c.dev != "" {
		l, err := link(c.dev)
		if err != nil {
			return err
		}
		index = l.Attrs().Index
	}
	filter := &netlink.Route{Table: c.table}
	if c.all {
		filter.Table = unix.RT_TABLE_UNSPEC
	}
	families := []int{r.family}
	switch {
	case r.family == 0 && c.all:
		families = []int{unix.AF_INET, unix.AF_INET6}
	case r.family == 0:
		families = []int{unix.AF_INET}
	}
	var all []netlink.Route
	for _, f := range families {
		ts, err := netlink.RouteListFiltered(f, filter, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		all = append(all, ts...)
	}
	for _, t := range all {
		switch {
		case index != 0 && t.LinkIndex != index, c.proto != "" && named(protocols, int(t.Protocol)) != c.proto, c.via != "" && t.Gw.String() != c.via,
			c.isDflt && !isDefault(t.Dst), !c.isDflt && c.dst != "" && destination(t.Dst) != c.dst, t.Flags&unix.RTM_F_CLONED != 0:
			continue
		}
		if err := each(c, &t); err != nil {
			return err
		}
	}
	return nil
}

func isDefault(d *net.IPNet) bool {
	if d == nil {
		return true
	}
	ones, _ := d.Mask.Size()
	return ones == 0 && d.IP.IsUnspecified()
}

// destination is how a route's destination is printed: one address has no length.
func destination(d *net.IPNet) string {
	if isDefault(d) {
		return "default"
	}
	if ones, bits := d.Mask.Size(); ones == bits {
		return d.IP.String()
	}
	return d.String()
}

func (r *run) showRoute() error {
	return r.routes(func(c chosen, t *netlink.Route) error {
		fmt.Fprintln(r.Out, c.line(t)+" ")
		return nil
	})
}

// line prints a route, without what was chosen by name.
func (c chosen) line(t *netlink.Route) string {
	var b strings.Builder
	if n := types[t.Type]; n != "" {
		b.WriteString(n + " ")
	}
	b.WriteString(destination(t.Dst))
	if t.Gw != nil {
		b.WriteString(" via " + t.Gw.String())
	}
	if t.LinkIndex != 0 && c.dev == "" {
		b.WriteString(" dev " + nameOf(t.LinkIndex))
	}
	if c.all && t.Table != unix.RT_TABLE_MAIN && t.Table != 0 {
		name := fmt.Sprint(t.Table)
		for n, i := range tables {
			if i == t.Table {
				name = n
			}
		}
		b.WriteString(" table " + name)
	}
	if t.Protocol != unix.RTPROT_BOOT {
		b.WriteString(" proto " + named(protocols, int(t.Protocol)))
	}
	if t.Scope != netlink.SCOPE_UNIVERSE && t.Family != unix.AF_INET6 {
		b.WriteString(" scope " + scopes[int(t.Scope)])
	}
	if t.Src != nil {
		b.WriteString(" src " + t.Src.String())
	}
	if t.Priority != 0 || t.Family == unix.AF_INET6 {
		fmt.Fprintf(&b, " metric %d", t.Priority)
	}
	b.WriteString(extras(t))
	return b.String()
}

// extras are the last words of a route's line.
func extras(t *netlink.Route) string {
	var b strings.Builder
	if t.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", t.MTU)
	}
	for _, m := range t.MultiPath {
		fmt.Fprintf(&b, " \n\tnexthop via %s dev %s weight %d", m.Gw, nameOf(m.LinkIndex), m.Hops+1)
	}
	if t.Flags&unix.RTNH_F_ONLINK != 0 {
		b.WriteString(" onlink")
	}
	if t.Flags&unix.RTNH_F_LINKDOWN != 0 {
		b.WriteString(" linkdown")
	}
	if t.Family == unix.AF_INET6 {
		b.WriteString(" pref medium")
	}
	return b.String()
}

// route reads [TYPE] DESTINATION [via GATEWAY] [dev DEVICE] [src A] [metric N] [scope S] ...
func (r *run) route() (*netlink.Route, error) {
	t := &netlink.Route{Protocol: unix.RTPROT_BOOT, Family: r.family}
	seen, scoped := false, false
	for len(r.words) > 0 {
		w, v, err := r.next("via dev src metric priority proto scope table mtu to")
		if err != nil {
			return nil, err
		}
		if w == "via" && strings.HasPrefix(v, "inet") && len(r.words) > 0 { // via inet6 GATEWAY
			v, r.words = r.words[0], r.words[1:]
		}
		scoped = scoped || w == "scope"
		if known, err := routeName(t, w, v); err != nil {
			return nil, err
		} else if known {
			continue
		}
		if seen, err = routeWord(t, w, v, seen); err != nil {
			return nil, err
		}
	}
	if !seen {
		return nil, tools.Usage("a destination is missing")
	}
	if t.Gw == nil && !scoped && t.LinkIndex != 0 && (t.Dst == nil || t.Dst.IP.To4() != nil) {
		t.Scope = netlink.SCOPE_LINK
	}
	if t.Dst == nil && t.Gw != nil && t.Gw.To4() == nil {
		t.Dst = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return t, nil
}

// routeName reads the words with an address, a device or a scope; false for other words.
func routeName(t *netlink.Route, word, value string) (bool, error) {
	switch word {
	case "via":
		if t.Gw = net.ParseIP(value); t.Gw == nil {
			return true, tools.Usage("any valid address is expected rather than %q.", value)
		}
	case "dev":
		l, err := link(value)
		if err != nil {
			return true, err
		}
		t.LinkIndex = l.Attrs().Index
	case "src":
		t.Src = net.ParseIP(value)
	case "onlink":
		t.Flags |= unix.RTNH_F_ONLINK
	case "scope":
		n, err := scopeOf(value)
		if err != nil {
			return true, err
		}
		t.Scope = netlink.Scope(n)
	default:
		return false, nil
	}
	return true, nil
}

// routeWord reads the words with numbers and names, the type, and the destination, which is
// any other word.
func routeWord(t *netlink.Route, word, value string, seen bool) (bool, error) {
	numbers := map[string]*int{"metric": &t.Priority, "priority": &t.Priority, "mtu": &t.MTU, "table": &t.Table}
	switch to := numbers[word]; {
	case word == "proto":
		for n, name := range protocols {
			if name == value {
				t.Protocol = netlink.RouteProtocol(n)
				return seen, nil
			}
		}
		return seen, tools.Usage("argument %q is wrong: protocol value is invalid", value)
	case to != nil:
		n, err := strconv.Atoi(value)
		if table, ok := tables[value]; ok && word == "table" {
			n, err = table, nil
		}
		if err != nil {
			return seen, tools.Usage("argument %q is wrong: not a number", value)
		}
		*to = n
		return seen, nil
	case word == "to":
		word = value
	}
	for n, name := range types {
		if name == word && !seen {
			t.Type = n
			return false, nil
		}
	}
	if seen {
		return true, tools.Usage("either \"to\" is duplicate, or %q is a garbage.", word)
	}
	var err error
	t.Dst, err = prefix(word)
	return true, err
}

// change reads a route and gives it to the kernel.
func (r *run) change(do func(*netlink.Route) error) error {
	t, err := r.route()
	if err != nil {
		return err
	}
	return do(t)
}

func (r *run) addRoute() error { return r.change(netlink.RouteAdd) }

func (r *run) replaceRoute() error { return r.change(netlink.RouteReplace) }

func (r *run) delRoute() error {
	return r.change(func(t *netlink.Route) error {
		t.Protocol, t.Scope = 0, netlink.SCOPE_NOWHERE // any
		return netlink.RouteDel(t)
	})
}

func (r *run) flushRoute() error {
	if len(r.words) == 0 {
		return tools.Usage("\"ip route flush\" requires arguments.")
	}
	return r.routes(func(_ chosen, t *netlink.Route) error { return netlink.RouteDel(t) })
}

func (r *run) getRoute() error {
	if len(r.words) == 0 {
		return tools.Usage("need at least a destination address")
	}
	to := net.ParseIP(r.words[0])
	if to == nil {
		return tools.Usage("any valid prefix is expected rather than %q.", r.words[0])
	}
	ts, err := netlink.RouteGet(to)
	if err != nil {
		return err
	}
	for _, t := range ts {
		local := ""
		if t.Type == unix.RTN_LOCAL {
			local = "local "
		}
		fmt.Fprintf(r.Out, "%s%s", local, to)
		if t.Gw != nil {
			fmt.Fprintf(r.Out, " via %s", t.Gw)
		}
		fmt.Fprintf(r.Out, " dev %s", nameOf(t.LinkIndex))
		if t.Src != nil {
			fmt.Fprintf(r.Out, " src %s", t.Src)
		}
		fmt.Fprint(r.Out, " uid 0 \n    cache ")
		if local != "" {
			fmt.Fprint(r.Out, "<local> ")
		}
		fmt.Fprintln(r.Out)
	}
	return nil
}
