package rescueinit

import (
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// loopback brings up lo.
func loopback() error {
	return up("lo")
}

// up sets an interface's IFF_UP by ioctl, netdevice(7).
func up(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r); err != nil {
		return err
	}
	r.SetUint16(r.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// network configures the network only when the command line asks for it: the
// machine's own address may be in use by its replacement.
func (s *System) network(rng chan struct{}) {
	if s.opts.IP == "" {
		s.state = append(s.state, "network: not configured (mkcdrec.ip=dhcp, or: dhclient)")
		return
	}
	select {
	case <-rng:
	case <-time.After(30 * time.Second):
		s.say("WARNING: no entropy after 30 s; DHCP may hang")
	}
	names, err := cards()
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("there is no network card, or no driver for it")
	}
	if err == nil && s.opts.IP == "dhcp" {
		err = s.run(append([]string{"/bbin/dhclient", "-ipv6=false", "-timeout=10", "-retry=3"}, "^("+strings.Join(names, "|")+")$")...)
	} else if err == nil {
		err = s.static(names[0])
	}
	if err != nil {
		s.say("WARNING: network: %v", err)
		s.state = append(s.state, "network: failed")
		return
	}
	s.state = append(s.state, "network: "+addresses())
}

// static sets CIDR[,GATEWAY] on the first card.
func (s *System) static(name string) error {
	addr, gw, _ := strings.Cut(s.opts.IP, ",")
	if _, _, err := net.ParseCIDR(addr); err != nil {
		return fmt.Errorf("mkcdrec.ip=%s: %w", s.opts.IP, err)
	}
	if err := s.run("/bbin/ip", "addr", "add", addr, "dev", name); err != nil {
		return err
	}
	if err := up(name); err != nil {
		return err
	}
	if gw == "" {
		return nil
	}
	return s.run("/bbin/ip", "route", "add", "default", "via", gw, "dev", name)
}

// cards lists the interfaces of hardware.
func cards() ([]string, error) {
	all, err := os.ReadDir("/sys/class/net")
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range all {
		if _, err := os.Stat("/sys/class/net/" + n.Name() + "/device"); err == nil {
			out = append(out, n.Name())
		}
	}
	return out, nil
}

func addresses() string {
	var out []string
	as, err := net.InterfaceAddrs()
	if err != nil {
		return err.Error()
	}
	for _, a := range as {
		if ip, _, err := net.ParseCIDR(a.String()); err == nil && ip.IsGlobalUnicast() {
			out = append(out, a.String())
		}
	}
	return strings.Join(out, " ")
}
