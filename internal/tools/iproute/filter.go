package iproute

import (
	"fmt"
	"net"
	"path"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// filter is what the words of show and flush choose: devices, and addresses of them.
type filter struct {
	dev, kind, label string
	master           int // index; 0 for any
	up               bool
	scope            int // -1 for any
	to               *net.IPNet
	set, clear       int // flags of addresses
}

// garbage refuses a word that is not known here: what it was meant to leave alone would be
// changed, too.
func garbage(duplicate, word string) error {
	return tools.Usage("either %q is duplicate, or %q is a garbage.", duplicate, word)
}

// filter reads the words that choose devices, and with addresses those that choose addresses.
func (r *run) filter(addresses bool) (*filter, error) {
	f := &filter{scope: -1}
	for len(r.words) > 0 {
		w, v, err := r.next("dev type master scope to label")
		if err != nil {
			return nil, err
		}
		known := false
		if addresses {
			if known, err = f.address(w, v); err != nil {
				return nil, err
			}
		}
		switch {
		case known:
		case w == "up":
			f.up = true
		case w == "type":
			f.kind = v
		case w == "master":
			l, err := link(v)
			if err != nil {
				return nil, err
			}
			f.master = l.Attrs().Index
		case w == "dev" && f.dev == "":
			f.dev = v
		case !slices.Contains([]string{"dev", "scope", "to", "label"}, w) && f.dev == "":
			f.dev = w
		default:
			return nil, garbage("dev", w)
		}
	}
	return f, nil
}

// address reads a word that chooses addresses; false for other words.
func (f *filter) address(word, value string) (known bool, err error) {
	name, not := strings.CutPrefix(word, "-")
	switch {
	case word == "scope":
		if value != "all" {
			f.scope, err = scopeOf(value)
		}
	case word == "to":
		f.to, err = prefix(value)
	case word == "label":
		f.label = value
	case name == "dynamic":
		not, name = !not, "permanent"
		fallthrough
	default:
		bit := 0
		for _, a := range append(addrFlags, addrFlag{unix.IFA_F_PERMANENT, "permanent"}, addrFlag{unix.IFA_F_SECONDARY, "temporary"}) {
			if a.name == name {
				bit = a.bit
			}
		}
		if name == "primary" {
			not, bit = !not, unix.IFA_F_SECONDARY
		}
		if bit == 0 {
			return false, nil
		}
		if not {
			f.clear |= bit
		} else {
			f.set |= bit
		}
	}
	return true, err
}

// links are the devices that are chosen.
func (f *filter) links() ([]netlink.Link, error) {
	var all []netlink.Link
	if f.dev != "" {
		l, err := link(f.dev)
		if _, ok := err.(said); ok {
			err = said(fmt.Sprintf("Device %q does not exist.", f.dev))
		}
		if err != nil {
			return nil, err
		}
		all = []netlink.Link{l}
	} else {
		var err error
		if all, err = netlink.LinkList(); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(all, func(l netlink.Link) bool {
		a := l.Attrs()
		return f.up && a.Flags&net.FlagUp == 0 || f.kind != "" && l.Type() != f.kind || f.master != 0 && a.MasterIndex != f.master
	}), nil
}

// addresses are those of a device that are chosen.
func (f *filter) addresses(all []netlink.Addr) []netlink.Addr {
	var out []netlink.Addr
	for _, a := range all {
		switch {
		case f.scope >= 0 && a.Scope != f.scope, f.to != nil && !f.to.Contains(a.IP), a.Flags&f.set != f.set, a.Flags&f.clear != 0:
			continue
		}
		if ok, err := path.Match(f.label, a.Label); f.label != "" && (!ok || err != nil || a.IP.To4() == nil) {
			continue
		}
		out = append(out, a)
	}
	return out
}

// within reports whether all of n is in outer.
func within(n, outer *net.IPNet) bool {
	if n == nil || outer == nil || (n.IP.To4() == nil) != (outer.IP.To4() == nil) {
		return false
	}
	a, _ := n.Mask.Size()
	b, _ := outer.Mask.Size()
	return a >= b && (&net.IPNet{IP: outer.IP.Mask(outer.Mask), Mask: outer.Mask}).Contains(n.IP)
}
