// Command network configures the rescue system's network, as the mkcdrec.ip
// word of the kernel command line does:
//
//	network [-nic MAC|NAME] [-vlan ID] [-bond MODE:CARD+CARD] [-dns IP,IP] dhcp|dhcp6|source|ADDRESS/LENGTH[,GATEWAY]
//
// source takes the addresses that the source machine had: see to it that the
// source machine is not on the network any more.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/netconf"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/ui"
)

func main() {
	f := flag.NewFlagSet("network", flag.ExitOnError)
	var w rescue.Network
	f.StringVar(&w.NIC, "nic", "", "the card, by its hardware `ADDRESS` or name")
	f.IntVar(&w.VLAN, "vlan", 0, "802.1Q `ID`")
	f.StringVar(&w.Bond, "bond", "", "`MODE:CARD+CARD`")
	dns := f.String("dns", "", "name servers, `IP,IP`")
	_ = f.Parse(os.Args[1:]) // ExitOnError
	if f.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: network [-nic CARD] [-vlan ID] [-bond MODE:CARD+CARD] [-dns IP,IP] dhcp|dhcp6|source|ADDRESS/LENGTH[,GATEWAY]")
		os.Exit(2)
	}
	w.IP = f.Arg(0)
	if *dns != "" {
		w.DNS = strings.Split(*dns, ",")
	}
	ctx, stop := interrupt.Context(context.Background())
	defer stop()
	if code := exit.Status(ui.New(ui.Normal), "network", interrupt.Err(ctx, run(ctx, w)), ""); code != exit.OK {
		os.Exit(code)
	}
}

func run(ctx context.Context, w rescue.Network) error {
	if !rescue.Inside() {
		return fmt.Errorf("refused: this is not a rescue system")
	}
	var source []layout.Interface
	if w.IP == "source" {
		f, err := os.Open(rescue.LayoutFile)
		if err != nil {
			return fmt.Errorf("cannot read the source machine's layout: %w", err)
		}
		defer f.Close()
		l, err := layout.Read(f)
		if err != nil {
			return err
		}
		source = l.Network
	}
	line, err := netconf.Configure(ctx, w, source)
	if err != nil {
		return err
	}
	_, err = fmt.Println(line)
	return err
}
