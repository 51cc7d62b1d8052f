// Command dhclient asks for an address by DHCP, as `network dhcp` does, under the name
// that people know:
//
//	dhclient [-4|-6] [CARD...]
//
// It returns when the address is there: nobody waits for IPv6 who did not ask for it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/netconf"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/ui"
)

func main() {
	f := flag.NewFlagSet("dhclient", flag.ExitOnError)
	four, six := f.Bool("4", false, "ask for an IPv4 address (the default)"), f.Bool("6", false, "ask for an IPv6 address")
	f.Bool("v", false, "print what is configured (the default)")
	_ = f.Parse(os.Args[1:]) // ExitOnError
	ctx, stop := interrupt.Context(context.Background())
	defer stop()
	code := exit.Status(ui.New(ui.Normal), "dhclient", interrupt.Err(ctx, run(ctx, f.Args(), *four || !*six, *six)), "")
	if code != exit.OK {
		os.Exit(code)
	}
}

func run(ctx context.Context, cards []string, four, six bool) error {
	if !rescue.Inside() {
		return errors.New("refused: this is not a rescue system")
	}
	if len(cards) == 0 {
		cards = []string{""} // the first one that gets an answer
	}
	for _, card := range cards {
		for _, ip := range []string{"dhcp", "dhcp6"} {
			if ip == "dhcp" && !four || ip == "dhcp6" && !six {
				continue
			}
			line, err := netconf.Configure(ctx, rescue.Network{IP: ip, NIC: card}, nil)
			if err == nil {
				_, err = fmt.Println(line)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
