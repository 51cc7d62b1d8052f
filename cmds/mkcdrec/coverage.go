package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v3"

	"github.com/mkcdrec/mkcdrec/internal/coverage"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

func (a *app) coverageCommand() *cli.Command {
	return &cli.Command{Name: "coverage", Usage: "account for every byte of the disks: saved, recreated, left out, or not covered", ArgsUsage: "[DIR|SET]",
		Description: "Shows what a backup to DIR would have, or what SET has. Without an argument DIR is the\ndestination of the configuration. Exit status 3 means that something is not covered.",
		Flags: append(setFlags(), &cli.StringFlag{Name: "html", Usage: "write a page for a browser to `FILE`"},
			&cli.BoolFlag{Name: "files", Usage: "measure what rules leave out of each file system, which goes through all directories"}),
		Action: func(ctx context.Context, c *cli.Command) error {
			r, incomplete := a.coverage(ctx, c, c.Args().First())
			if r == nil {
				return incomplete
			}
			if c.IsSet("html") {
				if _, err := noDryRun(ctx, c); err != nil {
					return err
				}
				var b bytes.Buffer
				if err := r.HTML(&b); err != nil {
					return err
				}
				if err := regular.WriteFile(c.String("html"), b.Bytes()); err != nil {
					return err
				}
			}
			a.ui.Result("coverage", r)
			if err := r.Draw(c.Root().Writer); err != nil {
				return err
			}
			if incomplete != nil {
				return incomplete
			}
			return lacking(r.Lacks())
		}}
}

// coverage gives the report of a set, or that of a backup to a directory; both a report and
// an error where the machine is not one that can be backed up.
func (a *app) coverage(ctx context.Context, c *cli.Command, place string) (*coverage.Report, error) {
	if manifest.IsSet(place) || store.IsHome(place) && c.Args().Present() {
		if c.Bool("files") {
			return nil, exit.Usage(errors.New("--files is for this machine, and not for a set"))
		}
		s, err := a.openSet(ctx, c, place, nil)
		if err != nil {
			return nil, err
		}
		defer s.Close()
		r, err := s.Coverage()
		if err == nil && r == nil {
			err = fmt.Errorf("cannot show the coverage: the set was made without %s, by an older version", coverage.File)
		}
		return r, err
	}
	if st, err := os.Stat(place); place != "" && err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", place, err)
	} else if place != "" && !st.IsDir() {
		return nil, fmt.Errorf("cannot use %s: it is not a directory", place)
	}
	if place == "" {
		if st, err := os.Stat(a.cfg.Destination); err == nil && st.IsDir() {
			place = a.cfg.Destination
		}
	}
	b, err := a.builder()
	if err != nil {
		return nil, err
	}
	p, incomplete := a.plan(ctx, b, place)
	if p == nil {
		return nil, incomplete
	}
	m := p.Marks()
	if c.Bool("files") {
		a.ui.Phase("measuring what rules leave out", 0)
		m.Omitted, err = p.Omitted(ctx, b)
		a.ui.End()
		if err != nil {
			return nil, fmt.Errorf("cannot measure what rules leave out: %w", err)
		}
		m.NotCovered = p.NotCovered
	}
	r, err := coverage.Of(p.Layout, m)
	if err != nil {
		return nil, err
	}
	return r, incomplete
}
