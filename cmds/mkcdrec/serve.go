package main

import (
	"context"
	"errors"

	"github.com/urfave/cli/v3"

	"github.com/mkcdrec/mkcdrec/builder"
	"github.com/mkcdrec/mkcdrec/internal/exit"
)

// defaultState is where the state of a room is kept.
const defaultState = "/var/lib/mkcdrec/fleet.json"

func (a *app) serveCommand() *cli.Command {
	return &cli.Command{Name: "serve", Before: noDryRun, Usage: "boot machines from the network, and restore sets onto those that are released", ArgsUsage: "[NAME=]SET...",
		Description: "Machines that boot from the network register themselves and wait on the page whose\naddress is printed, or start the restore at once if a rule names them. docs/FLEET.md has the rules.\nWithout --dhcp the network's own DHCP server gives the addresses. Ctrl-C ends the server;\nmachines continue, and so does the server when it is started again.",
		Flags: append(rescueFlags(),
			&cli.StringFlag{Name: "listen", Usage: "`INTERFACE` that machines start from; DHCP and TFTP answer on no other"},
			&cli.StringFlag{Name: "rules", Usage: "YAML `FILE` with what each machine gets"},
			&cli.StringFlag{Name: "dhcp", Usage: "give out addresses, `FIRST-LAST`; refused where another DHCP server answers"},
			&cli.BoolFlag{Name: "proxy", Usage: "give out none, beside another DHCP server (the default)"},
			&cli.BoolFlag{Name: "swarm", Usage: "machines pass sets on to each other in a chain, unencrypted; for more than a few"},
			&cli.IntFlag{Config: decimal, Name: "swarm-port", Value: builder.SwarmPort, Usage: "the first `PORT` of two for each set, with --swarm"},
			&cli.StringFlag{Name: "state", Value: defaultState, Usage: "`FILE` that keeps the room; it holds the page's token"},
			&cli.StringFlag{Name: "http", Usage: "`ADDRESS:PORT` of the boot files, if not the interface's address and port 80"},
			&cli.StringFlag{Name: "web", Usage: "`ADDRESS:PORT` of the page, if not the interface's address and port 8443"}),
		Action: func(ctx context.Context, c *cli.Command) error {
			if c.Bool("proxy") && c.IsSet("dhcp") {
				return exit.Usage(errors.New("--dhcp and --proxy exclude each other"))
			}
			if c.Bool("proxy") && c.String("listen") == "" {
				return exit.Usage(errors.New("--proxy wants --listen"))
			}
			if err := a.rescueOptions(c); err != nil {
				return err
			}
			b, err := a.builder()
			if err != nil {
				return err
			}
			return b.Serve(ctx, builder.ServeOptions{
				Sets: c.Args().Slice(), Interface: c.String("listen"), Rules: c.String("rules"), DHCP: c.String("dhcp"), State: c.String("state"), HTTP: c.String("http"), Web: c.String("web"),
				Swarm: c.Bool("swarm"), SwarmPort: c.Int("swarm-port"),
				Built: a.ui.End,
				Ready: func(s builder.Serving) {
					a.ui.Result("room", builder.RoomResult{Page: s.Page, Boot: s.Boot, Fingerprint: s.Fingerprint})
				},
			})
		}}
}
