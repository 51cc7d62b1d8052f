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
	"os/signal"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/netconf"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
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
	if err := run(w); err != nil {
		fmt.Fprintln(os.Stderr, "network:", err)
		os.Exit(1)
	}
}

func run(w rescue.Network) error {
	if !rescue.Inside() {
		return fmt.Errorf("refused: this is not a rescue system")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
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
	fmt.Println(line)
	return nil
}
