package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/mkcdrec/mkcdrec/builder"
	"github.com/mkcdrec/mkcdrec/builder/retention"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/ui"
)

// destination gives the directory of a command that takes at most one, which the
// configuration names if the command line does not.
func (a *app) destination(c *cli.Command) (string, error) {
	dir := a.cfg.Destination
	switch {
	case c.Args().Len() > 1:
		return "", exit.Usage(fmt.Errorf("%s wants one directory, not %d", c.Name, c.Args().Len()))
	case c.Args().Len() == 1:
		dir = c.Args().First()
	case dir == "":
		return "", exit.Usage(fmt.Errorf("no directory: name it, or set destination in %s", c.String("config")))
	}
	return dir, nil
}

func (a *app) pruneCommand() *cli.Command {
	k := &a.keep
	flag := func(name, what string, to *int) cli.Flag {
		return &cli.IntFlag{Name: "keep-" + name, Usage: what + ", `N`", Destination: to}
	}
	return &cli.Command{Name: "prune", Usage: "remove old backup sets of this machine from DIR", ArgsUsage: "[DIR]",
		Description: "A set stays if any rule names it; the key keep of the configuration has the rules that no option names. The last good set, sets of other machines and those dated in the future always stay. Unfinished sets of this machine are removed a day after their run has ended. With -n nothing is removed, and every set is listed with the reason.\n\nWithout DIR the key destination of the configuration names it.",
		Flags: []cli.Flag{flag("last", "keep the newest sets", &k.Last), flag("daily", "keep the newest set of each of the last days that have one", &k.Daily),
			flag("weekly", "the same for weeks", &k.Weekly), flag("monthly", "the same for months", &k.Monthly)},
		Action: func(_ context.Context, c *cli.Command) error {
			dir, err := a.destination(c)
			if err != nil {
				return err
			}
			keep := a.cfg.Keep
			for name, n := range map[string][2]*int{"last": {&keep.Last, &k.Last}, "daily": {&keep.Daily, &k.Daily}, "weekly": {&keep.Weekly, &k.Weekly}, "monthly": {&keep.Monthly, &k.Monthly}} {
				if c.IsSet("keep-" + name) {
					*n[0] = *n[1]
				}
			}
			if err := keep.Validate(); err != nil {
				return exit.Usage(err)
			}
			if !keep.Set() {
				return exit.Usage(errors.New("no rule of what to keep: give --keep-last or another option, or set keep in " + c.String("config")))
			}
			return a.prune(c, dir, keep)
		}}
}

// prune removes sets, or lists what it would remove.
func (a *app) prune(c *cli.Command, dir string, keep retention.Keep) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("cannot read the name of this machine: %w", err)
	}
	sets, err := keep.Plan(dir, host, "", time.Now())
	if err != nil {
		return err
	}
	r := builder.PruneResult{Dir: dir, Sets: sets, Removed: []string{}}
	if !c.Bool("dry-run") {
		removed, err := retention.Apply(dir, sets)
		for _, s := range removed {
			a.ui.Note("removed: %s", s)
		}
		if err != nil {
			return err
		}
		r.Removed = append(r.Removed, removed...)
	}
	a.ui.Result("prune", r)
	if c.Bool("json") || c.Bool("quiet") {
		return nil
	}
	var rows [][]string
	for _, s := range sets {
		fate := "keep"
		if s.Remove {
			fate = "remove"
		}
		rows = append(rows, []string{s.Set, age(s.Age), s.Size.String(), fate, strings.Join(s.Reasons, ", ")})
	}
	ui.Table(c.Root().Writer, []string{"SET", "AGE", "SIZE", "RESULT", "WHY"}, rows)
	if c.Bool("dry-run") {
		a.ui.Note("dry run: nothing was removed")
	}
	return nil
}

// age is a number of seconds for people.
func age(seconds int64) string {
	d := time.Duration(seconds) * time.Second
	if d.Abs() < 48*time.Hour {
		return d.Truncate(time.Minute).String()
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
