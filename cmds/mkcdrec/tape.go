package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/mkcdrec/mkcdrec/builder"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/store/tape"
	"github.com/mkcdrec/mkcdrec/internal/streams"
)

func (a *app) deviceCommand() *cli.Command {
	return &cli.Command{Name: "device", Usage: "write a backup to tape, and its rescue medium to a file", ArgsUsage: "DEV [DEV...]",
		Description: "DEV is a drive that does not rewind, /dev/nst0, or one of another machine, HOST:/dev/nst0, where\nonly dd and mt are needed (ssh without a password). Further drives take further reels; with one,\nthe tape is changed when it is full, on a terminal. A tape that is neither blank nor ours is left alone.",
		Flags: append(rescueFlags(), overwriteFlag(),
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "image `FILE`; HOST-rescue.iso if not given"}),
		Action: func(ctx context.Context, c *cli.Command) error { return a.toTape(ctx, c, false) }}
}

func (a *app) obdrCommand() *cli.Command {
	return &cli.Command{Name: "obdr", Usage: "write a tape that boots the rescue system (One Button Disaster Recovery)", ArgsUsage: "DEV [DEV...]",
		Description: "The drive must report that it supports OBDR. To boot, hold its eject button while it is switched on.",
		Flags: append(rescueFlags(), overwriteFlag(),
			&cli.BoolFlag{Name: "force", Usage: "write it even if the drive does not report that it supports OBDR"}),
		Action: func(ctx context.Context, c *cli.Command) error { return a.toTape(ctx, c, true) }}
}

func overwriteFlag() cli.Flag {
	return &cli.BoolFlag{Name: "overwrite", Usage: "erase tapes that hold something that is not ours"}
}

func (a *app) toTape(ctx context.Context, c *cli.Command, obdr bool) error {
	if !c.Args().Present() {
		return exit.Usage(errors.New("which drive? /dev/nst0"))
	}
	if err := a.rescueOptions(c); err != nil {
		return err
	}
	b, err := a.builder()
	if err != nil {
		return err
	}
	return a.hooked(ctx, c, b, c.Args().First(), func() (string, error) { return a.tape(ctx, c, b, obdr) })
}

// tape writes a tape, and returns the id of the set.
func (a *app) tape(ctx context.Context, c *cli.Command, b *builder.Builder, obdr bool) (string, error) {
	p, err := a.plan(ctx, b, "")
	if err != nil {
		return "", err
	}
	for _, e := range p.LeftOut {
		a.ui.Note("left out: %s", e)
	}
	if c.Bool("dry-run") {
		return "", a.listPlanned(ctx, c, p)
	}
	opt := builder.TapeOptions{Device: c.Args().First(), Overwrite: c.Bool("overwrite"), OBDR: obdr, ISO: c.String("output"), NextReel: a.nextReel()}
	if opt.ISO == "" {
		opt.ISO = p.Layout.Hostname + "-rescue.iso"
	}
	for _, name := range c.Args().Slice() {
		d, err := tape.OpenDrive(name, true)
		if err != nil {
			return "", err
		}
		defer d.Close()
		opt.Drives = append(opt.Drives, d)
	}
	if obdr {
		can, err := tape.CanOBDR("", opt.Device)
		if err == nil && !can {
			err = fmt.Errorf("%s does not report that it supports OBDR (no $DR-10 in its INQUIRY data)", opt.Device)
		}
		if err != nil && !c.Bool("force") {
			return "", &exit.Refusal{Reason: err.Error() + "; use --force to write the tape"}
		}
		if err != nil {
			a.ui.Warn("%v", err)
		}
	}
	r, err := b.Tape(ctx, p, opt)
	if tape.IsRefused(err) {
		return "", &exit.Refusal{Reason: err.Error()}
	}
	if err != nil {
		return "", err
	}
	a.ui.End()
	a.ui.Result("tape", r)
	a.ui.Note("set %s of %d archives on %d reels", r.ID, len(r.Manifest.Archives), r.Reels)
	if r.ISO != "" {
		a.ui.Note("rescue medium: %s", r.ISO)
	}
	return r.ID, lacking(r.NotCovered)
}

// nextReel asks on the terminal for the next tape; nil without one.
func (a *app) nextReel() func(context.Context, tape.Drive, int, error) error {
	t := streams.OpenTerminal()
	if t == nil {
		return nil
	}
	return func(ctx context.Context, d tape.Drive, reel int, problem error) error {
		a.ui.End()
		if problem != nil {
			a.ui.Note("%v", problem)
		}
		if _, err := t(ctx, fmt.Sprintf("Put an empty tape for reel %d into %v, then press Enter: ", reel, d)); err != nil {
			return err
		}
		return d.Reload()
	}
}
