// Package iproute has the commands ip and ping, with the words and the output of iproute2
// and iputils.
package iproute

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// Commands are the commands of this package.
func Commands() []tools.Command {
	return []tools.Command{
		{Name: "ip", Opts: "-", Synopsis: "[-4|-6] [-br] addr|link|route|neigh [show|add|del|set|replace|flush|get] [WORD]...", Bad: 255, Run: ip},
		{Name: "ping", Opts: "c: i: W: w: s: I: q n 4 6", Synopsis: "HOST", Bad: 2, Run: ping},
	}
}

// run is one call of ip.
type run struct {
	*tools.Env
	family int // 0 for both
	brief  bool
	words  []string // that follow the object and the verb
}

// objects are what ip works on, with what is done to them; the first verb is the default.
var objects = []struct {
	name  string
	verbs []verb
}{
	{"address", []verb{{"show", (*run).showAddr}, {"list", (*run).showAddr}, {"add", (*run).addAddr}, {"replace", (*run).addAddr}, {"delete", (*run).delAddr}, {"flush", (*run).flushAddr}}},
	{"link", []verb{{"show", (*run).showLink}, {"set", (*run).setLink}, {"list", (*run).showLink}, {"add", (*run).addLink}, {"delete", (*run).delLink}}},
	{"route", []verb{{"show", (*run).showRoute}, {"list", (*run).showRoute}, {"add", (*run).addRoute}, {"replace", (*run).replaceRoute}, {"delete", (*run).delRoute}, {"get", (*run).getRoute}, {"flush", (*run).flushRoute}}},
	{"neighbor", []verb{{"show", (*run).showNeigh}, {"list", (*run).showNeigh}, {"flush", (*run).flushNeigh}}},
	{"neighbour", []verb{{"show", (*run).showNeigh}, {"list", (*run).showNeigh}, {"flush", (*run).flushNeigh}}},
}

type verb struct {
	name string
	do   func(*run) error
}

func ip(e *tools.Env) error {
	r := &run{Env: e, words: e.Line}
	for len(r.words) > 0 && strings.HasPrefix(r.words[0], "-") {
		switch strings.TrimLeft(r.words[0], "-") {
		case "4":
			r.family = unix.AF_INET
		case "6":
			r.family = unix.AF_INET6
		case "br", "brief":
			r.brief = true
		case "V", "Version":
			fmt.Fprintln(e.Out, "ip of mkcdrec, like iproute2-6.1.0")
			return nil
		case "c", "color", "d", "details":
		default:
			return tools.Usage("Option %q is unknown", r.words[0])
		}
		r.words = r.words[1:]
	}
	if len(r.words) == 0 {
		return tools.Usage("an object is missing: addr, link, route or neigh")
	}
	for _, o := range objects {
		if !strings.HasPrefix(o.name, r.words[0]) {
			continue
		}
		do := o.verbs[0].do
		if r.words = r.words[1:]; len(r.words) > 0 {
			for _, v := range o.verbs {
				if strings.HasPrefix(v.name, r.words[0]) {
					do, r.words = v.do, r.words[1:]
					return r.answer(do(r))
				}
			}
		}
		return r.answer(do(r))
	}
	return tools.Usage("Object %q is unknown", r.words[0])
}

// answer has the words and the exit statuses of iproute2: 2 for what the kernel refuses, 255
// for what was not understood.
func (r *run) answer(err error) error {
	var no unix.Errno
	switch {
	case errors.As(err, &no):
		_ = r.Out.Flush() // an error stays in it
		fmt.Fprintf(r.Err, "RTNETLINK answers: %s\n", tools.Cause(no))
		return tools.Status(2)
	case errors.As(err, new(said)):
		_ = r.Out.Flush() // an error stays in it
		fmt.Fprintln(r.Err, err)
		return tools.Status(1)
	}
	return err
}

// said is a message that has iproute2's words.
type said string

func (s said) Error() string { return string(s) }

// next takes a word, and its value if it is one of those named.
func (r *run) next(valued string) (word, value string, err error) {
	word, r.words = r.words[0], r.words[1:]
	if !strings.Contains(" "+valued+" ", " "+word+" ") {
		return word, "", nil
	}
	if len(r.words) == 0 {
		return "", "", tools.Usage("%s wants a value", word)
	}
	value, r.words = r.words[0], r.words[1:]
	return word, value, nil
}

func link(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, said(fmt.Sprintf("Cannot find device %q", name))
	}
	return l, err
}

// linkFlags are those of iproute2, in its order.
var linkFlags = []struct {
	bit  uint32
	name string
}{
	{unix.IFF_LOOPBACK, "LOOPBACK"}, {unix.IFF_BROADCAST, "BROADCAST"}, {unix.IFF_POINTOPOINT, "POINTOPOINT"}, {unix.IFF_MULTICAST, "MULTICAST"}, {unix.IFF_NOARP, "NOARP"}, {unix.IFF_ALLMULTI, "ALLMULTI"},
	{unix.IFF_PROMISC, "PROMISC"}, {unix.IFF_MASTER, "MASTER"}, {unix.IFF_SLAVE, "SLAVE"}, {unix.IFF_DEBUG, "DEBUG"}, {unix.IFF_DYNAMIC, "DYNAMIC"}, {unix.IFF_UP, "UP"}, {unix.IFF_LOWER_UP, "LOWER_UP"}, {unix.IFF_DORMANT, "DORMANT"},
}

func flags(a *netlink.LinkAttrs) string {
	var out []string
	if a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_RUNNING == 0 {
		out = append(out, "NO-CARRIER")
	}
	for _, f := range linkFlags {
		if a.RawFlags&f.bit != 0 {
			out = append(out, f.name)
		}
	}
	if a.ParentIndex != 0 && a.ParentIndex != a.Index && a.NetNsID < 0 {
		if p, err := netlink.LinkByIndex(a.ParentIndex); err == nil && p.Attrs().RawFlags&unix.IFF_UP == 0 {
			out = append(out, "M-DOWN")
		}
	}
	return "<" + strings.Join(out, ",") + ">"
}

func nameOf(index int) string {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("if%d", index)
	}
	return l.Attrs().Name
}

// fullName is "eth0.7@eth0" for what is on another device.
func fullName(a *netlink.LinkAttrs) string {
	switch {
	case a.ParentIndex == 0 || a.ParentIndex == a.Index:
		return a.Name
	case a.NetNsID >= 0:
		return fmt.Sprintf("%s@if%d", a.Name, a.ParentIndex)
	}
	return a.Name + "@" + nameOf(a.ParentIndex)
}

// state is the word for a device's operational state.
func state(a *netlink.LinkAttrs) string {
	return strings.ToUpper(strings.ReplaceAll(a.OperState.String(), "-", ""))
}

// hardware is a device's address; the library leaves out one of zeros.
func hardware(a *netlink.LinkAttrs) string {
	if a.EncapType == "loopback" || a.EncapType == "ether" && len(a.HardwareAddr) == 0 {
		return "00:00:00:00:00:00"
	}
	return a.HardwareAddr.String()
}

// head prints the first lines of a device; mode is what link shows and addr does not.
func (r *run) head(l netlink.Link, mode string) {
	a := l.Attrs()
	fmt.Fprintf(r.Out, "%d: %s: %s mtu %d ", a.Index, fullName(a), flags(a), a.MTU)
	if q := qdisc(l); q != "" && r.family != unix.AF_INET6 { // the kernel leaves it out
		fmt.Fprintf(r.Out, "qdisc %s ", q)
	}
	if a.MasterIndex != 0 && r.family != unix.AF_INET6 {
		fmt.Fprintf(r.Out, "master %s ", nameOf(a.MasterIndex))
	}
	fmt.Fprintf(r.Out, "state %s %s", state(a), mode)
	switch {
	case r.family == unix.AF_INET6:
	case a.Group == 0:
		fmt.Fprint(r.Out, "group default ")
	default:
		fmt.Fprintf(r.Out, "group %d ", a.Group)
	}
	if a.TxQLen > 0 {
		fmt.Fprintf(r.Out, "qlen %d", a.TxQLen)
	}
	kind := a.EncapType
	if kind == "none" && len(a.HardwareAddr) == 0 {
		fmt.Fprintf(r.Out, "\n    link/none ")
	} else {
		fmt.Fprintf(r.Out, "\n    link/%s %s", kind, hardware(a))
		switch kind {
		case "ether":
			fmt.Fprint(r.Out, " brd ff:ff:ff:ff:ff:ff")
		case "loopback":
			fmt.Fprint(r.Out, " brd 00:00:00:00:00:00")
		}
	}
	if len(a.PermHWAddr) > 0 && a.PermHWAddr.String() != a.HardwareAddr.String() {
		fmt.Fprintf(r.Out, " permaddr %s", a.PermHWAddr)
	}
	if a.NetNsID >= 0 {
		fmt.Fprintf(r.Out, " link-netnsid %d", a.NetNsID)
	}
	fmt.Fprintln(r.Out)
	for _, n := range a.AltNames {
		fmt.Fprintf(r.Out, "    altname %s\n", n)
	}
}

// qdisc is the kind of a device's queue.
func qdisc(l netlink.Link) string {
	all, err := netlink.QdiscList(l)
	if err != nil {
		return ""
	}
	for _, q := range all {
		if q.Attrs().Parent == netlink.HANDLE_ROOT {
			return q.Type()
		}
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		return "noop"
	}
	return "noqueue"
}

func (r *run) briefHead(a *netlink.LinkAttrs) {
	fmt.Fprintf(r.Out, "%-16s %-14s ", fullName(a), state(a))
}

func (r *run) showLink() error {
	f, err := r.filter(false)
	if err != nil {
		return err
	}
	ls, err := f.links()
	if err != nil {
		return err
	}
	for _, l := range ls {
		if r.brief {
			r.briefHead(l.Attrs())
			fmt.Fprintf(r.Out, "%s %s \n", hardware(l.Attrs()), flags(l.Attrs()))
			continue
		}
		r.head(l, "mode DEFAULT ")
	}
	return nil
}

// setLink changes one device by words that come in pairs or alone.
func (r *run) setLink() error {
	var l netlink.Link
	var changes []func() error // made when all words are known
	for len(r.words) > 0 {
		w, v, err := r.next("dev mtu address name master txqueuelen qlen alias promisc")
		if err != nil {
			return err
		}
		if w == "dev" || l == nil {
			if w != "dev" {
				v = w
			}
			if l, err = link(v); err != nil {
				return err
			}
			continue
		}
		do, err := set(l, w, v)
		if err != nil {
			return err
		}
		changes = append(changes, do)
	}
	if l == nil {
		return tools.Usage("Not enough of information: %q argument is required", "dev")
	}
	for _, do := range changes {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// set gives what makes one change of a device.
func set(l netlink.Link, word, value string) (func() error, error) {
	number := func(do func(netlink.Link, int) error) (func() error, error) {
		n, err := strconv.Atoi(value)
		if err != nil {
			return nil, tools.Usage("argument %q is wrong: not a number", value)
		}
		return func() error { return do(l, n) }, nil
	}
	simple := func(do func(netlink.Link) error) (func() error, error) { return func() error { return do(l) }, nil }
	switch word {
	case "up":
		return simple(netlink.LinkSetUp)
	case "down":
		return simple(netlink.LinkSetDown)
	case "nomaster":
		return simple(netlink.LinkSetNoMaster)
	case "mtu":
		return number(netlink.LinkSetMTU)
	case "txqueuelen", "qlen":
		return number(netlink.LinkSetTxQLen)
	case "name":
		return func() error { return netlink.LinkSetName(l, value) }, nil
	case "alias":
		return func() error { return netlink.LinkSetAlias(l, value) }, nil
	case "promisc":
		switch value {
		case "on":
			return simple(netlink.SetPromiscOn)
		case "off":
			return simple(netlink.SetPromiscOff)
		}
		return nil, tools.Usage("Error: argument of \"promisc\" must be \"on\" or \"off\", not %q", value)
	case "master":
		m, err := link(value)
		return func() error { return netlink.LinkSetMaster(l, m) }, err
	case "address":
		a, err := net.ParseMAC(value)
		if err != nil {
			return nil, tools.Usage("%q is invalid lladdr", value)
		}
		return func() error { return netlink.LinkSetHardwareAddr(l, a) }, nil
	}
	return nil, tools.Usage("Garbage instead of arguments %q. Try \"ip link help\"", word)
}

// newLink is a device that link add makes.
type newLink struct {
	netlink.LinkAttrs
	kind, mode, peer string
	id               int
}

func (r *run) newLink() (*newLink, error) {
	n := &newLink{LinkAttrs: netlink.NewLinkAttrs(), mode: "balance-rr"}
	for len(r.words) > 0 {
		w, v, err := r.next("link name dev type id mode mtu address peer")
		if err == nil && w == "peer" {
			r.words = append([]string{v}, r.words...)
		} else if err == nil {
			err = n.word(w, v)
		}
		if err != nil {
			return nil, err
		}
	}
	return n, nil
}

// word takes a word of link add, and its value.
func (n *newLink) word(w, v string) (err error) {
	switch w {
	case "link":
		p, err := link(v)
		if err != nil {
			return err
		}
		n.ParentIndex = p.Attrs().Index
	case "name", "dev":
		if n.kind == "veth" {
			n.peer = v
		} else {
			n.Name = v
		}
	case "type":
		n.kind = v
	case "mode":
		n.mode = v
	case "id":
		if n.id, err = strconv.Atoi(v); err != nil {
			return tools.Usage("argument %q is wrong: id is invalid", v)
		}
	case "mtu":
		if n.MTU, err = strconv.Atoi(v); err != nil {
			return tools.Usage("argument %q is wrong: Invalid \"mtu\" value", v)
		}
	case "address":
		if n.HardwareAddr, err = net.ParseMAC(v); err != nil {
			return tools.Usage("%q is invalid lladdr", v)
		}
	default:
		if n.Name != "" {
			return tools.Usage("Garbage instead of arguments %q. Try \"ip link help\"", w)
		}
		n.Name = w
	}
	return nil
}

func (r *run) addLink() error {
	n, err := r.newLink()
	if err != nil {
		return err
	}
	a := n.LinkAttrs
	switch n.kind {
	case "vlan":
		return netlink.LinkAdd(&netlink.Vlan{LinkAttrs: a, VlanId: n.id})
	case "bridge":
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: a})
	case "dummy":
		return netlink.LinkAdd(&netlink.Dummy{LinkAttrs: a})
	case "veth":
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: n.peer})
	case "bond":
		b := netlink.NewLinkBond(a)
		b.Mode = netlink.StringToBondMode(n.mode)
		return netlink.LinkAdd(b)
	}
	return tools.Usage("type %q is not known: vlan, bridge, bond, veth or dummy", n.kind)
}

func (r *run) delLink() error {
	f, err := r.filter(false)
	if err != nil {
		return err
	}
	if f.dev == "" {
		return tools.Usage("Not enough of information: %q argument is required", "dev")
	}
	l, err := link(f.dev)
	if err != nil {
		return err
	}
	if f.up || f.master != 0 || f.kind != "" && f.kind != l.Type() {
		return tools.Usage("%q is not of the type, or has words that choose several devices", f.dev)
	}
	return netlink.LinkDel(l)
}
