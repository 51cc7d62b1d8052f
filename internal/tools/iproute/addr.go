package iproute

import (
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// scopes are the names in /etc/iproute2/rt_scopes.
var scopes = map[int]string{unix.RT_SCOPE_UNIVERSE: "global", unix.RT_SCOPE_SITE: "site", unix.RT_SCOPE_LINK: "link", unix.RT_SCOPE_HOST: "host", unix.RT_SCOPE_NOWHERE: "nowhere"}

func scopeOf(name string) (int, error) {
	for n, s := range scopes {
		if s == name {
			return n, nil
		}
	}
	n, err := strconv.ParseUint(name, 0, 8)
	if err != nil {
		return 0, tools.Usage("argument %q is wrong: invalid \"scope\" value", name)
	}
	return int(n), nil
}

type addrFlag struct {
	bit  int
	name string
}

// addrFlags are what iproute2 prints of an address, in its order.
var addrFlags = []addrFlag{{unix.IFA_F_SECONDARY, "secondary"}, {unix.IFA_F_TENTATIVE, "tentative"}, {unix.IFA_F_DEPRECATED, "deprecated"}, {unix.IFA_F_HOMEADDRESS, "home"}, {unix.IFA_F_NODAD, "nodad"}, {unix.IFA_F_MANAGETEMPADDR, "mngtmpaddr"}, {unix.IFA_F_NOPREFIXROUTE, "noprefixroute"}, {unix.IFA_F_DADFAILED, "dadfailed"}}

// of gives the addresses of a device, of one family or both, IPv4 first.
func (r *run) of(l netlink.Link) ([]netlink.Addr, error) {
	var out []netlink.Addr
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		if r.family != 0 && r.family != f {
			continue
		}
		as, err := netlink.AddrList(l, f)
		if err != nil {
			return nil, err
		}
		out = append(out, as...)
	}
	return out, nil
}

func (r *run) showAddr() error {
	ls, f, err := r.chooseAddresses()
	if err != nil {
		return err
	}
	for _, l := range ls {
		all, err := r.of(l)
		if err != nil {
			return err
		}
		as := f.addresses(all)
		if len(as) == 0 && (r.family != 0 || len(all) > 0) {
			continue
		}
		if r.brief {
			r.briefHead(l.Attrs())
			for _, a := range as {
				fmt.Fprintf(r.Out, "%s ", ends(&a))
			}
			fmt.Fprintln(r.Out)
			continue
		}
		if r.family == 0 {
			r.head(l, "")
		} else {
			r.headOnly(l)
		}
		for _, a := range as {
			r.address(&a)
		}
	}
	return nil
}

// chooseAddresses gives the devices that the words choose, and what chooses their addresses.
func (r *run) chooseAddresses() ([]netlink.Link, *filter, error) {
	f, err := r.filter(true)
	if err != nil {
		return nil, nil, err
	}
	if f.to != nil {
		if r.family = unix.AF_INET; f.to.IP.To4() == nil {
			r.family = unix.AF_INET6
		}
	}
	ls, err := f.links()
	return ls, f, err
}

// headOnly is the first line of head, which is all that -4 and -6 show of a device.
func (r *run) headOnly(l netlink.Link) {
	var b strings.Builder
	whole := *r
	e := tools.New(tools.Command{}, nil, &b, r.Err)
	whole.Env = e
	whole.head(l, "")
	_ = e.Out.Flush() // into memory
	first, _, _ := strings.Cut(b.String(), "\n")
	fmt.Fprintln(r.Out, first)
}

// ends is an address with its length, or with the other end of the line.
func ends(a *netlink.Addr) string {
	if a.Peer != nil && !a.Peer.IP.Equal(a.IP) {
		return a.IP.String() + " peer " + a.Peer.String()
	}
	return a.IPNet.String()
}

func (r *run) address(a *netlink.Addr) {
	family := "inet"
	if a.IP.To4() == nil {
		family = "inet6"
	}
	fmt.Fprintf(r.Out, "    %s %s ", family, ends(a))
	if a.Broadcast != nil && family == "inet" {
		fmt.Fprintf(r.Out, "brd %s ", a.Broadcast)
	}
	scope, ok := scopes[a.Scope]
	if !ok {
		scope = fmt.Sprint(a.Scope)
	}
	fmt.Fprintf(r.Out, "scope %s ", scope)
	for _, f := range addrFlags {
		if a.Flags&f.bit == 0 {
			continue
		}
		if f.bit == unix.IFA_F_SECONDARY && family == "inet6" {
			f.name = "temporary"
		}
		fmt.Fprint(r.Out, f.name+" ")
	}
	if a.Flags&unix.IFA_F_PERMANENT == 0 {
		fmt.Fprint(r.Out, "dynamic ")
	}
	fmt.Fprintf(r.Out, "%s\n       valid_lft %s preferred_lft %s\n", a.Label, lifetime(a.ValidLft), lifetime(a.PreferedLft))
}

func lifetime(s int) string {
	if s < 0 || s >= math.MaxUint32 || s == 0 {
		return "forever"
	}
	return fmt.Sprintf("%dsec", s)
}

// wanted reads ADDRESS[/LENGTH] [brd +|ADDRESS] [peer A] [label L] [scope S] dev DEVICE.
func (r *run) wanted() (l netlink.Link, a *netlink.Addr, err error) {
	a = &netlink.Addr{}
	broadcast := false // what the library sets
	for len(r.words) > 0 {
		w, v, err := r.next("dev brd broadcast label scope peer local valid_lft preferred_lft")
		if err == nil {
			switch w {
			case "dev":
				l, err = link(v)
			case "label":
				a.Label = v
			case "scope":
				a.Scope, err = scopeOf(v)
			case "peer":
				a.Peer, err = prefix(v)
			case "brd", "broadcast":
				if a.Broadcast = net.ParseIP(v); v == "+" {
					broadcast = true
				} else if a.Broadcast == nil {
					err = tools.Usage("any valid address is expected rather than %q.", v)
				}
			case "valid_lft":
				a.ValidLft, err = validFor(w, v)
			case "preferred_lft":
				a.PreferedLft, err = validFor(w, v)
			default:
				if a.IPNet != nil {
					return nil, nil, garbage("local", w)
				}
				if w != "local" {
					v = w
				}
				a.IPNet, err = prefix(v)
			}
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if l == nil {
		return nil, nil, tools.Usage("Not enough information: %q argument is required.", "dev")
	}
	if a.IPNet == nil {
		return nil, nil, tools.Usage("an address is missing")
	}
	if a.Broadcast == nil && !broadcast && a.IP.To4() != nil {
		a.Broadcast = net.IPv4zero.To4()
	}
	return l, a, nil
}

// validFor reads the time that an address is valid; 0 stands for ever.
func validFor(word, s string) (int, error) {
	if s == "forever" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 0, 31)
	if err != nil || n == 0 {
		return 0, tools.Usage("argument %q is wrong: %s value", s, word)
	}
	return int(n), nil
}

// prefix reads ADDRESS[/LENGTH]; without a length it is one address.
func prefix(s string) (*net.IPNet, error) {
	if s == "default" || s == "any" || s == "all" {
		return nil, nil
	}
	if !strings.Contains(s, "/") {
		i := net.ParseIP(s)
		if i4 := i.To4(); i4 != nil {
			return &net.IPNet{IP: i4, Mask: net.CIDRMask(32, 32)}, nil
		}
		if i != nil {
			return &net.IPNet{IP: i, Mask: net.CIDRMask(128, 128)}, nil
		}
	}
	i, n, err := net.ParseCIDR(s)
	if err != nil {
		return nil, tools.Usage("any valid prefix is expected rather than %q.", s)
	}
	if i4 := i.To4(); i4 != nil {
		i = i4
	}
	return &net.IPNet{IP: i, Mask: n.Mask}, nil
}

func (r *run) addAddr() error {
	l, a, err := r.wanted()
	if err != nil {
		return err
	}
	return netlink.AddrAdd(l, a)
}

func (r *run) delAddr() error {
	l, a, err := r.wanted()
	if err != nil {
		return err
	}
	return netlink.AddrDel(l, a)
}

func (r *run) flushAddr() error {
	if len(r.words) == 0 {
		return tools.Usage("Flush requires arguments.")
	}
	ls, f, err := r.chooseAddresses()
	if err != nil {
		return err
	}
	for _, l := range ls {
		as, err := r.of(l)
		if err != nil {
			return err
		}
		for _, a := range f.addresses(as) {
			// The kernel removes secondary addresses with their primary one.
			if err := netlink.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return err
			}
		}
	}
	return nil
}

// neighbour states of the kernel, as iproute2 names them.
var neighStates = map[int]string{unix.NUD_INCOMPLETE: "INCOMPLETE", unix.NUD_REACHABLE: "REACHABLE", unix.NUD_STALE: "STALE", unix.NUD_DELAY: "DELAY", unix.NUD_PROBE: "PROBE", unix.NUD_FAILED: "FAILED", unix.NUD_NOARP: "NOARP", unix.NUD_PERMANENT: "PERMANENT"}

// neighbours calls each for those that the words choose: of a device, in states, and in a network.
// usual are the states without a word for them.
func (r *run) neighbours(usual int, each func(*filter, netlink.Link, *netlink.Neigh) error) error {
	f, states, err := r.chooseNeighbours()
	if err != nil {
		return err
	}
	ls, err := f.links()
	if err != nil {
		return err
	}
	if states == 0 {
		states = usual
	}
	for _, l := range ls {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			if r.family != 0 && r.family != family {
				continue
			}
			ns, err := netlink.NeighList(l.Attrs().Index, family)
			if err != nil {
				return err
			}
			for _, n := range ns {
				if n.State&states == 0 || f.to != nil && !f.to.Contains(n.IP) {
					continue
				}
				if err := each(f, l, &n); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// chooseNeighbours reads the words that choose neighbours; states are 0 without a word for them.
func (r *run) chooseNeighbours() (f *filter, states int, err error) {
	f = &filter{}
	for len(r.words) > 0 {
		w, v, err := r.next("dev nud to")
		if err == nil {
			switch {
			case w == "dev":
				f.dev = v
			case w == "nud":
				var n int
				n, err = stateOf(v)
				states |= n
			case f.to != nil:
				err = garbage("to", w)
			case w == "to":
				f.to, err = prefix(v)
			default:
				f.to, err = prefix(w)
			}
		}
		if err != nil {
			return nil, 0, err
		}
	}
	return f, states, nil
}

const anyState = unix.NUD_INCOMPLETE | unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_FAILED | unix.NUD_NOARP | unix.NUD_PERMANENT

func stateOf(name string) (int, error) {
	if name == "all" {
		return anyState, nil
	}
	for n, s := range neighStates {
		if strings.EqualFold(s, name) {
			return n, nil
		}
	}
	return 0, tools.Usage("argument %q is wrong: nud state is bad", name)
}

func (r *run) showNeigh() error {
	return r.neighbours(anyState&^unix.NUD_NOARP, func(f *filter, l netlink.Link, n *netlink.Neigh) error {
		fmt.Fprintf(r.Out, "%s ", n.IP)
		if f.dev == "" {
			fmt.Fprintf(r.Out, "dev %s ", l.Attrs().Name)
		}
		if len(n.HardwareAddr) > 0 {
			fmt.Fprintf(r.Out, "lladdr %s ", n.HardwareAddr)
		}
		if n.Flags&unix.NTF_ROUTER != 0 {
			fmt.Fprint(r.Out, "router ")
		}
		fmt.Fprintf(r.Out, "%s \n", neighStates[n.State])
		return nil
	})
}

func (r *run) flushNeigh() error {
	if len(r.words) == 0 {
		return tools.Usage("Flush requires arguments.")
	}
	return r.neighbours(anyState&^(unix.NUD_PERMANENT|unix.NUD_NOARP), func(_ *filter, _ netlink.Link, n *netlink.Neigh) error { return netlink.NeighDel(n) })
}
