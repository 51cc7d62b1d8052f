package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/urfave/cli/v3"

	"github.com/mkcdrec/mkcdrec/builder"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/ui"
	"github.com/mkcdrec/mkcdrec/kernelcfg"
)

// rescueFlags are the options of every command that makes a rescue system.
func rescueFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "kernel", Usage: "kernel image `FILE` instead of the running one"},
		&cli.StringFlag{Name: "modules", Usage: "`DIR` of the kernel's modules instead of /lib/modules/VERSION"},
		&cli.StringFlag{Name: "module-set", Usage: "`SET` of drivers: host or all"},
		&cli.StringFlag{Name: "programs", Usage: "carry `WHICH` programs of this machine: needed, or none (a medium that can't restore)"},
		&cli.StringFlag{Name: "append", Usage: "`WORDS` for the rescue system's kernel command line"},
	}
}

func (a *app) rescueOptions(c *cli.Command) error {
	r := &a.cfg.Rescue
	for name, to := range map[string]*string{"kernel": &r.Kernel, "modules": &r.ModulesDir, "module-set": &r.Modules, "append": &r.Append, "programs": &r.Programs} {
		if c.IsSet(name) {
			*to = c.String(name)
		}
	}
	if r.Modules != kernelcfg.SetHost && r.Modules != kernelcfg.SetAll {
		return exit.Usage(fmt.Errorf("--module-set %q is not known; want %s or %s", r.Modules, kernelcfg.SetHost, kernelcfg.SetAll))
	}
	if r.Programs != "" && r.Programs != "needed" && r.Programs != "none" {
		return exit.Usage(fmt.Errorf("--programs %q is not known; want needed or none", r.Programs))
	}
	return nil
}

func (a *app) rescueCommand() *cli.Command {
	return &cli.Command{Name: "rescue", Usage: "make a rescue medium, without a backup",
		Flags: append(rescueFlags(), &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "image `FILE`; HOST-rescue.iso if not given"}),
		Action: func(ctx context.Context, c *cli.Command) error {
			if c.Args().Present() {
				return exit.Usage(fmt.Errorf("rescue takes no argument %q", c.Args().First()))
			}
			if err := a.rescueOptions(c); err != nil {
				return err
			}
			b, err := a.builder()
			if err != nil {
				return err
			}
			p, err := a.plan(ctx, b, "")
			if err != nil {
				a.ui.Warn("%v\nthe medium is made without this machine's layout: it can restore sets, but knows nothing of this machine", err)
				p = builder.Unprobed()
			}
			out := c.String("output")
			if out == "" {
				out = p.Layout.Hostname + "-rescue.iso"
			}
			if c.Bool("dry-run") {
				a.ui.Note("would write %s", out)
				return nil
			}
			if err := b.Rescue(ctx, p, out); err != nil {
				return err
			}
			st, err := os.Stat(out)
			if err != nil {
				return err
			}
			a.ui.Result(map[string]any{"iso": out, "bytes": st.Size()})
			a.ui.Note("%s, %s", out, quantity.Size(st.Size()))
			return nil
		}}
}

// plan reads the machine and decides what is saved.
func (a *app) plan(ctx context.Context, b *builder.Builder, dir string) (*builder.Plan, error) {
	l, mounts, err := b.Probe(ctx)
	if err != nil {
		return nil, err
	}
	return builder.NewPlan(a.cfg, l, mounts, dir)
}

func (a *app) pathCommand() *cli.Command {
	return &cli.Command{Name: "path", Usage: "write a backup set and its rescue medium below DIR", ArgsUsage: "DIR",
		Description: "The set appears as DIR/HOST-TIME when it is whole. The file system that holds DIR is\nleft out of the backup. With -n, every path that would be saved is listed.",
		Flags:       rescueFlags(),
		Action: func(ctx context.Context, c *cli.Command) error {
			if c.Args().Len() != 1 {
				return exit.Usage(fmt.Errorf("path wants one directory, not %d", c.Args().Len()))
			}
			if err := a.rescueOptions(c); err != nil {
				return err
			}
			b, err := a.builder()
			if err != nil {
				return err
			}
			p, err := a.plan(ctx, b, c.Args().First())
			if err != nil {
				return err
			}
			for _, e := range p.LeftOut {
				a.ui.Note("left out: %s", e)
			}
			if c.Bool("dry-run") {
				return a.listPlanned(ctx, c, p)
			}
			r, err := b.Path(ctx, p, c.Args().First())
			if err != nil {
				return err
			}
			a.ui.End()
			a.ui.Result(r)
			if !c.Bool("json") && !c.Bool("quiet") {
				a.summary(c, r)
			}
			if len(r.NotCovered) > 0 {
				return exit.NotCovered(r.NotCovered)
			}
			return nil
		}}
}

// listPlanned prints every path, of any bytes, quoted, with its archive.
func (a *app) listPlanned(ctx context.Context, c *cli.Command, p *builder.Plan) error {
	w := c.Root().Writer
	total, err := p.List(ctx, func(ar builder.PlannedArchive, m *archive.Member) {
		fmt.Fprintf(w, "%s\n", archive.Quote(filepath.Join(ar.Mount, m.Path)))
	}, func(path, rule string) { a.ui.Note("left out: %s by rule %s", archive.Quote(path), rule) })
	if err != nil {
		return err
	}
	a.ui.Note("would save %s in %d archives", quantity.Size(total), len(p.Archives))
	if len(p.NotCovered) > 0 {
		return exit.NotCovered(p.NotCovered)
	}
	return nil
}

func (a *app) summary(c *cli.Command, r *builder.Result) {
	var rows [][]string
	for _, ar := range r.Manifest.Archives {
		rows = append(rows, []string{ar.Mount, ar.Device, ar.Type, strconv.FormatInt(ar.Members, 10), ar.DataSize.String(), ar.Size.String(), ar.File})
	}
	ui.Table(c.Root().Writer, []string{"MOUNT", "DEVICE", "TYPE", "MEMBERS", "DATA", "PACKED", "ARCHIVE"}, rows)
	fmt.Fprintf(c.Root().Writer, "set %s, rescue.iso %s\n", r.Dir, quantity.Size(r.ISO))
}

func (a *app) testCommand() *cli.Command {
	return &cli.Command{Name: "test", Usage: "check this machine's prerequisites", Flags: rescueFlags(),
		Action: func(ctx context.Context, c *cli.Command) error {
			if err := a.rescueOptions(c); err != nil {
				return err
			}
			b, err := a.builder()
			if err != nil {
				return err
			}
			checks := b.Test(ctx)
			a.ui.Result(checks)
			failed := 0
			var rows [][]string
			for _, k := range checks {
				rows = append(rows, []string{string(k.Severity), k.ID, k.Seen})
				if k.Remedy != "" {
					rows = append(rows, []string{"", "", "-> " + k.Remedy})
				}
				if k.Severity == builder.Error {
					failed++
				}
			}
			if !c.Bool("json") {
				ui.Table(c.Root().Writer, []string{"RESULT", "CHECK", "SEEN"}, rows)
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d checks failed", failed, len(checks))
			}
			return nil
		}}
}
