package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v3"
	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/builder"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/ui"
)

func (a *app) usbkeyCommand() *cli.Command {
	return &cli.Command{Name: "usbkey", Usage: "write rescue system and backup to a stick that starts BIOS and UEFI machines", ArgsUsage: "DEV",
		Description: "DEV is the whole stick, /dev/sdb. The first time all that is on it is lost, after its serial number was\ntyped or given by --confirm; the name of the device confirms nothing. From then on every run adds a backup and replaces the older of two rescue\nsystems; the stick stays as it was until both are whole.",
		Flags: append(rescueFlags(),
			&cli.IntFlag{Config: decimal, Name: "keep", Value: 2, Usage: "backups of this machine that stay on the stick, `N`; 0 for all"},
			&cli.BoolFlag{Name: "make-room", Usage: "remove old backups of this machine first, if the stick is too full"},
			&cli.StringFlag{Name: "rescue-size", Usage: "the most that a rescue system may need, `SIZE`: when the stick is divided"},
			&cli.BoolFlag{Name: "format", Usage: "make a new key, even if it is one"},
			&cli.BoolFlag{Name: "fixed-disk", Usage: "take a disk that is not removable"},
			&cli.StringSliceFlag{Name: "confirm", Usage: "`SERIAL` number of the stick that may be overwritten; asks nothing"}),
		Action: func(ctx context.Context, c *cli.Command) error {
			if c.Args().Len() != 1 {
				return exit.Usage(fmt.Errorf("usbkey wants one stick, not %d", c.Args().Len()))
			}
			if err := a.rescueOptions(c); err != nil {
				return err
			}
			opt := builder.KeyOptions{Device: c.Args().First(), Keep: c.Int("keep"), MakeRoom: c.Bool("make-room"), Format: c.Bool("format"), Fixed: c.Bool("fixed-disk"), Confirm: a.confirmKey(ctx, c.StringSlice("confirm"))}
			if opt.Keep < 0 {
				return exit.Usage(errors.New("--keep can't be negative"))
			}
			if s := c.String("rescue-size"); s != "" {
				n, err := quantity.Parse(s)
				if err != nil || n <= 0 {
					return exit.Usage(fmt.Errorf("--rescue-size %q: want a size such as 512M", s))
				}
				opt.RescueSize = n
			}
			b, err := a.builder()
			if err != nil {
				return err
			}
			return a.hooked(ctx, c, b, opt.Device, func() (string, error) { return a.key(ctx, c, b, opt) })
		}}
}

// key writes a stick, and returns the name of the new set on it.
func (a *app) key(ctx context.Context, c *cli.Command, b *builder.Builder, opt builder.KeyOptions) (string, error) {
	if c.Bool("dry-run") {
		p, err := b.KeyPlan(ctx, opt)
		if err != nil {
			return "", err
		}
		return "", a.listPlanned(ctx, c, p)
	}
	r, err := b.Key(ctx, opt)
	if err != nil {
		return "", err
	}
	a.ui.End()
	a.ui.Result("usbkey", r)
	if !c.Bool("json") && !c.Bool("quiet") {
		var rows [][]string
		for i, g := range r.Generations {
			what := ""
			if i == 0 {
				what = "starts with it"
			}
			rows = append(rows, []string{g, what})
		}
		ui.Table(c.Root().Writer, []string{"BACKUP ON " + r.Device, ""}, rows)
	}
	for _, g := range r.Removed {
		a.ui.Note("removed: %s", g)
	}
	return r.Set, lacking(r.NotCovered)
}

// confirmKey has one of the words typed that tell the stick from other disks, its
// serial number where it has one, or compares them with what was given. Its kernel
// name, which the next stick may have, confirms nothing.
func (a *app) confirmKey(ctx context.Context, said []string) func(layout.Present) error {
	return func(d layout.Present) error {
		if len(d.Words) == 0 {
			return &exit.Refusal{Reason: fmt.Sprintf("%s has neither a serial number nor a slot that no other disk has: it cannot be confirmed; remove the other disks like it", d.Target())}
		}
		want := d.Words[0]
		if len(said) == 0 {
			if !term.IsTerminal(int(os.Stdin.Fd())) {
				return &exit.Refusal{Reason: fmt.Sprintf("%s would be overwritten (it holds: %s) and is not confirmed: give --confirm %s", d.Target(), d.Holds, want)}
			}
			a.ui.End()
			fmt.Fprint(os.Stderr, ui.CleanLines(fmt.Sprintf("All data on /dev/%s will be lost.\n  model   %s\n  serial  %s\n  size    %s\n  holds   %s\nTo overwrite it, type %s: ", d.Name, d.Model, d.Serial, d.Size, d.Holds, want)))
			line, err := interrupt.NewLines(os.Stdin).ReadLine(ctx)
			if err != nil && err != io.EOF {
				return err
			}
			said = []string{strings.TrimSpace(line)}
		}
		if d.Is(said...) {
			return nil
		}
		return &exit.Refusal{Reason: fmt.Sprintf("%q does not confirm %s (expected %s): it was not changed", strings.Join(said, ","), d.Target(), want)}
	}
}
