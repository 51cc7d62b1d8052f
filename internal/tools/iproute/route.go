package iproute

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
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
	table            int
	all              bool
	dev, proto, name string // name of the type
	scope            int    // -1 for any
	metric           int    // -1 for any
	via, src         *net.IPNet
	root, match      *net.IPNet // the route is inside, is around
	cache            bool
}

func (r *run) chosen() (c chosen, err error) {
	c = chosen{table: unix.RT_TABLE_MAIN, scope: -1, metric: -1}
	seen := false
	for len(r.words) > 0 {
		w, v, err := r.next("table dev oif proto protocol via src to exact root match scope type metric priority")
		if err == nil && (w == "to" || w == "via") && len(r.words) > 0 && strings.Contains(" exact root match inet inet6 ", " "+v+" ") {
			if w = v; strings.HasPrefix(v, "inet") {
				w = "via"
			}
			v, r.words = r.words[0], r.words[1:]
		}
		if err == nil {
			err = c.word(r, w, v, &seen)
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// word takes one word, and its value.
func (c *chosen) word(r *run, w, v string, seen *bool) (err error) {
	switch w {
	case "table":
		return c.ofTable(v)
	case "cache", "cached", "cloned":
		c.cache = true
	case "dev", "oif":
		c.dev = v
	case "proto", "protocol":
		return c.ofProtocol(v)
	case "scope":
		if v != "all" {
			c.scope, err = scopeOf(v)
		}
	case "type":
		if c.name = v; v != "unicast" && !slices.Contains(slices.Collect(maps.Values(types)), v) {
			return tools.Usage("argument %q is wrong: node type value is invalid", v)
		}
	case "metric", "priority":
		if c.metric, err = strconv.Atoi(v); err != nil || c.metric < 0 {
			return tools.Usage("argument %q is wrong: invalid \"metric\" value", v)
		}
	case "via":
		c.via, err = prefix(v)
	case "src":
		c.src, err = prefix(v)
	default:
		if *seen {
			return garbage("to", w)
		}
		*seen = true
		return c.ofNetwork(r, w, v)
	}
	return err
}

func (c *chosen) ofTable(v string) (err error) {
	n, ok := tables[v]
	c.cache = v == "cache"
	if c.all = v == "all"; !ok && !c.all && !c.cache {
		if n, err = strconv.Atoi(v); err != nil {
			return tools.Usage("argument %q is wrong: table id value is invalid", v)
		}
	}
	c.table = n
	return nil
}

func (c *chosen) ofProtocol(v string) error {
	c.proto = v
	if n, err := strconv.ParseUint(v, 0, 8); err == nil {
		c.proto = named(protocols, int(n))
	} else if v != "all" && !slices.Contains(slices.Collect(maps.Values(protocols)), v) {
		return tools.Usage("argument %q is wrong: invalid \"protocol\"", v)
	}
	return nil
}

// ofNetwork takes a network, behind a word for how routes compare with it or alone.
func (c *chosen) ofNetwork(r *run, w, v string) error {
	if !slices.Contains([]string{"to", "exact", "root", "match"}, w) {
		v = w
	}
	p, err := r.network(v)
	if w != "match" {
		c.root = p
	}
	if w != "root" {
		c.match = p
	}
	return err
}

// network reads a prefix; default is that of all addresses.
func (r *run) network(s string) (*net.IPNet, error) {
	p, err := prefix(s)
	if p != nil || err != nil {
		return p, err
	}
	if r.family == unix.AF_INET6 {
		return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}, nil
	}
	return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, nil
}

// has reports whether a route is chosen; index is that of the device.
func (c *chosen) has(t *netlink.Route, index int) bool {
	dst := t.Dst
	if dst == nil {
		if dst = (&net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}); t.Family == unix.AF_INET6 {
			dst = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		}
	}
	kind := types[t.Type]
	if kind == "" {
		kind = "unicast"
	}
	switch {
	case t.Flags&unix.RTM_F_CLONED != 0, index != 0 && t.LinkIndex != index,
		c.proto != "" && c.proto != "all" && named(protocols, int(t.Protocol)) != c.proto,
		c.name != "" && kind != c.name, c.scope >= 0 && int(t.Scope) != c.scope, c.metric >= 0 && t.Priority != c.metric,
		c.via != nil && !c.via.Contains(t.Gw), c.src != nil && !c.src.Contains(t.Src),
		c.root != nil && !within(dst, c.root), c.match != nil && !within(c.match, dst):
		return false
	}
	return true
}

// routes are those of the tables, chosen by the words of show.
func (r *run) routes(each func(chosen, *netlink.Route) error) error {
	c, err := r.chosen()
	if err != nil || c.cache {
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
	table := &netlink.Route{Table: c.table}
	if c.all {
		table.Table = unix.RT_TABLE_UNSPEC
	}
	families := []int{r.family}
	if p := cmp.Or(c.root, c.match); r.family == 0 && p != nil && p.IP.To4() == nil {
		families = []int{unix.AF_INET6}
	} else if r.family == 0 && c.all {
		families = []int{unix.AF_INET, unix.AF_INET6}
	} else if r.family == 0 {
		families = []int{unix.AF_INET}
	}
	for _, f := range families {
		ts, err := netlink.RouteListFiltered(f, table, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, t := range ts {
			if c.has(&t, index) {
				if err := each(c, &t); err != nil {
					return err
				}
			}
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
	if t.Gw != nil && !single(c.via) {
		b.WriteString(" via " + t.Gw.String())
	}
	if t.LinkIndex != 0 && c.dev == "" {
		b.WriteString(" dev " + nameOf(t.LinkIndex))
	}
	if c.all && t.Table != unix.RT_TABLE_MAIN && t.Table != 0 {
		b.WriteString(" table " + tableName(t.Table))
	}
	if t.Protocol != unix.RTPROT_BOOT && (c.proto == "" || c.proto == "all") {
		b.WriteString(" proto " + named(protocols, int(t.Protocol)))
	}
	if t.Scope != netlink.SCOPE_UNIVERSE && c.scope < 0 && t.Family != unix.AF_INET6 {
		b.WriteString(" scope " + scopes[int(t.Scope)])
	}
	if t.Src != nil && !single(c.src) {
		b.WriteString(" src " + t.Src.String())
	}
	if c.metric < 0 && (t.Priority != 0 || t.Family == unix.AF_INET6) {
		fmt.Fprintf(&b, " metric %d", t.Priority)
	}
	b.WriteString(extras(t))
	return b.String()
}

func tableName(n int) string {
	for name, i := range tables {
		if i == n {
			return name
		}
	}
	return fmt.Sprint(n)
}

// single reports a network of one address.
func single(n *net.IPNet) bool {
	if n == nil {
		return false
	}
	ones, bits := n.Mask.Size()
	return ones == bits
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
	t := &netlink.Route{Family: r.family, Scope: netlink.SCOPE_NOWHERE}
	seen := false
	for len(r.words) > 0 {
		w, v, err := r.next("via dev src metric priority proto scope table mtu to")
		if err != nil {
			return nil, err
		}
		if w == "via" && strings.HasPrefix(v, "inet") && len(r.words) > 0 { // via inet6 GATEWAY
			v, r.words = r.words[0], r.words[1:]
		}
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
		if t.Src = net.ParseIP(value); t.Src == nil {
			return true, tools.Usage("any valid address is expected rather than %q.", value)
		}
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

// change reads a route, completes it and gives it to the kernel.
func (r *run) change(do func(*netlink.Route) error) error {
	t, err := r.route()
	if err != nil {
		return err
	}
	if t.Protocol == 0 {
		t.Protocol = unix.RTPROT_BOOT
	}
	if t.Scope == netlink.SCOPE_NOWHERE {
		if t.Scope = netlink.SCOPE_UNIVERSE; t.Gw == nil && t.LinkIndex != 0 && (t.Dst == nil || t.Dst.IP.To4() != nil) {
			t.Scope = netlink.SCOPE_LINK
		}
	}
	return do(t)
}

func (r *run) addRoute() error { return r.change(netlink.RouteAdd) }

func (r *run) replaceRoute() error { return r.change(netlink.RouteReplace) }

func (r *run) delRoute() error {
	t, err := r.route()
	if err != nil {
		return err
	}
	return netlink.RouteDel(t) // of any protocol and scope without a word for them
}

func (r *run) flushRoute() error {
	if len(r.words) == 0 {
		return tools.Usage("\"ip route flush\" requires arguments.")
	}
	return r.routes(func(_ chosen, t *netlink.Route) error {
		err := netlink.RouteDel(t)
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
			return nil // it went with another one
		}
		return err
	})
}

func (r *run) getRoute() error {
	if len(r.words) == 0 {
		return tools.Usage("need at least a destination address")
	}
	if len(r.words) > 1 && r.words[0] == "to" {
		r.words = r.words[1:]
	}
	if len(r.words) > 1 {
		return garbage("to", r.words[1])
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
