package main

import (
	"context"
	"fmt"
	"net"

	"github.com/mkcdrec/mkcdrec/internal/netconf"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/ui"
)

// online configures the network by DHCP in a rescue system that has none, if the set is on a
// server.
func online(ctx context.Context, p *ui.Printer, place string) error {
	if !store.IsHome(place) || !rescue.Inside() || connected() {
		return nil
	}
	p.Note("the set is on a server: configuring the network by DHCP")
	line, err := netconf.Configure(ctx, rescue.Network{IP: "dhcp"}, nil)
	if err != nil {
		return fmt.Errorf("cannot reach the server of the set: %w (ip or dhclient configure the network by hand)", err)
	}
	p.Note("network: %s", line)
	return nil
}

// connected reports whether an interface has an address that others can reach.
func connected() bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true // what is wrong shows when the server is asked
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			return true
		}
	}
	return false
}
