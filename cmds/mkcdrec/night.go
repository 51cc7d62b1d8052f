package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/mkcdrec/mkcdrec/builder"
	"github.com/mkcdrec/mkcdrec/builder/retention"
	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/nightly"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/ui"
)

// destination gives the directory of a command that takes at most one, which the
// configuration names if the command line does not.
func (a *app) destination(c *cli.Command) (string, error) {
	dir := a.cfg.Destination
	switch {
	case c.Args().Present():
		dir = c.Args().First()
	case dir == "":
		return "", exit.Usage(fmt.Errorf("no directory: name it, or set destination in %s", c.String("config")))
	}
	if err := store.CheckPlace(dir); err != nil {
		return "", exit.Usage(err)
	}
	if store.IsHome(dir) {
		return dir, nil
	}
	dir, err := filepath.Abs(strings.TrimPrefix(dir, "file://")) // for those who read the record of the run from elsewhere
	if st, e := os.Stat(dir); err == nil && e == nil && st.IsDir() && manifest.IsSet(dir) {
		err = exit.Usage(fmt.Errorf("%s is a backup set; name the directory that has the sets, or is to have them", dir))
	}
	return dir, err
}

// decimal is for numbers of options: 010 is 10.
var decimal = cli.IntegerConfig{Base: 10}

func (a *app) pruneCommand() *cli.Command {
	flag := func(name, what string) cli.Flag {
		return &cli.IntFlag{Config: decimal, Name: "keep-" + name, Usage: what + ", `N`"}
	}
	return &cli.Command{Name: "prune", Usage: "remove old backup sets of this machine from DIR", ArgsUsage: "[DIR|URL]",
		Description: "A set stays if any rule names it; the key keep of the configuration has the rules that no option names. The last good set, the last one that covers everything, sets of other machines and those dated in the future always stay. Unfinished sets of this machine are removed a day after their run has ended. With -n nothing is removed, and every set is listed with the reason. While a backup of this machine to DIR runs, prune ends with status 4.\n\nWithout DIR the key destination of the configuration names it.",
		Flags: []cli.Flag{flag("last", "keep the newest sets"), flag("daily", "keep the newest set of each of the last days that have one"),
			flag("weekly", "the same for weeks"), flag("monthly", "the same for months"),
			&cli.StringFlag{Name: "credentials", Usage: "`FILE` with the secrets of servers, instead of the one that the configuration names"}},
		Action: func(ctx context.Context, c *cli.Command) error {
			dir, err := a.destination(c)
			if err != nil {
				return err
			}
			keep := a.cfg.Keep
			for name, n := range map[string]*int{"keep-last": &keep.Last, "keep-daily": &keep.Daily, "keep-weekly": &keep.Weekly, "keep-monthly": &keep.Monthly} {
				if c.IsSet(name) {
					*n = c.Int(name)
				}
			}
			if err := keep.Validate(); err != nil {
				return exit.Usage(err)
			}
			if !keep.Set() {
				return exit.Usage(errors.New("no rule of what to keep: give --keep-last or another option, or set keep in " + c.String("config")))
			}
			return a.prune(ctx, c, dir, keep)
		}}
}

// prune removes sets, or lists what it would remove.
func (a *app) prune(ctx context.Context, c *cli.Command, dir string, keep retention.Keep) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("cannot read the name of this machine: %w", err)
	}
	which := a.pruneDir
	if store.IsHome(dir) {
		which = a.pruneHome
	}
	r, err := which(ctx, c, dir, host, keep)
	for _, s := range r.Removed {
		a.ui.Note("removed: %s", s)
	}
	if err != nil {
		return err
	}
	a.ui.Result("prune", r)
	if c.Bool("json") || c.Bool("quiet") {
		return nil
	}
	var rows [][]string
	for _, s := range r.Sets {
		fate := "keep"
		if s.Remove {
			fate = "remove"
		}
		old, size := age(s.Age), s.Size.String()
		if s.Created.IsZero() { // of what it is not known
			old, size = "-", "-"
		}
		rows = append(rows, []string{s.Set, old, size, fate, strings.Join(s.Reasons, ", ")})
	}
	ui.Table(c.Root().Writer, []string{"SET", "AGE", "SIZE", "RESULT", "WHY"}, rows)
	if c.Bool("dry-run") {
		a.ui.Note("dry run: nothing was removed")
	}
	return nil
}

// pruneDir decides about the sets in a directory, and removes them unless it is a dry run.
func (a *app) pruneDir(ctx context.Context, c *cli.Command, dir, host string, keep retention.Keep) (r builder.PruneResult, err error) {
	if !c.Bool("dry-run") {
		release, e := set.Lock(dir, host, a.ui.Note)
		if e != nil {
			return r, e
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	sets, err := keep.Plan(ctx, dir, host, nil, time.Now())
	r = builder.PruneResult{Dir: dir, Sets: sets, Removed: []string{}}
	if err == nil && !c.Bool("dry-run") {
		var removed []string
		removed, err = retention.Apply(ctx, dir, sets, nil)
		r.Removed = append(r.Removed, removed...)
	}
	return r, err
}

// pruneHome is pruneDir for a home.
func (a *app) pruneHome(ctx context.Context, c *cli.Command, place, host string, keep retention.Keep) (r builder.PruneResult, err error) {
	if !c.Bool("dry-run") {
		release, e := builder.LockPlace(place, host)
		if e != nil {
			return r, e
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	access, err := a.ring(ctx, c).Access()
	if err != nil {
		return r, err
	}
	home, err := store.OpenHome(ctx, place, access)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, home.Close()) }()
	sets, err := keep.PlanHome(ctx, home, host, nil, time.Now())
	r = builder.PruneResult{Dir: home.String(), Sets: sets, Removed: []string{}}
	if err == nil && !c.Bool("dry-run") {
		var removed []string
		removed, err = retention.ApplyHome(ctx, home, sets, nil)
		r.Removed = append(r.Removed, removed...)
	}
	return r, err
}

// age is a number of seconds for people.
func age(seconds int64) string {
	d := time.Duration(seconds) * time.Second
	switch {
	case d.Abs() < time.Minute:
		return d.String()
	case d.Abs() < 48*time.Hour:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// stateDir has the record of the last run; tests have their own.
var stateDir = nightly.Dir

// begin records that a run begins. The run is as good without that.
func (a *app) begin(run nightly.Run) {
	unended, err := run.Begin(stateDir)
	if err != nil {
		a.ui.Warn("%v", err)
	}
	if unended != nil {
		a.ui.Warn("%s", unended.Unended())
	}
}

// record records how a run has ended, also one that was interrupted; l is the machine's layout
// as that run has read it, nil if it ended before. The run is as good without that.
func (a *app) record(ctx context.Context, b *builder.Builder, run nightly.Run, l *layout.Layout, err error) {
	err = interrupted(ctx, err)
	if run.Ended, run.Status = time.Now(), exit.Code(err); err != nil {
		run.Error = err.Error()
	}
	err = run.Save(stateDir, l)
	defer a.notify(context.WithoutCancel(ctx), b, run)
	if err == nil && a.cfg.Status.Textfile != "" {
		var s *nightly.Status
		s, err = a.judge(context.WithoutCancel(ctx), b, func(context.Context) (*layout.Layout, error) {
			if l == nil {
				return nil, errors.New("the run ended before it had read the layout")
			}
			return l, nil
		})
		if err == nil {
			err = s.WriteMetrics(a.cfg.Status.Textfile)
		}
	}
	if err != nil {
		a.ui.Warn("%v", err)
	}
}

// notify sends the message about a run. The run is as good without that.
func (a *app) notify(ctx context.Context, b *builder.Builder, run nightly.Run) {
	c := a.cfg.Status
	var last nightly.Event
	if r, err := nightly.Read(stateDir); err == nil {
		last = r.Told
	}
	e := run.Event(last)
	if e == "" || !c.Notifies() {
		return
	}
	told, err := a.send(ctx, b, e, run)
	if told {
		err = errors.Join(err, nightly.Tell(stateDir, e))
	}
	if err != nil {
		a.ui.Warn("%v", err)
	}
}

// send sends a message.
func (a *app) send(ctx context.Context, b *builder.Builder, e nightly.Event, run nightly.Run) (told bool, err error) {
	host, err := os.Hostname()
	if err != nil {
		return false, fmt.Errorf("cannot read the name of this machine: %w", err)
	}
	a.ui.Phase("sending the message", 0)
	return a.cfg.Status.Notify(ctx, b.Run, nightly.NewMessage(e, host, b.Version, run))
}

// testNotify sends a message for a test.
func (a *app) testNotify(ctx context.Context, c *cli.Command, b *builder.Builder) error {
	if !a.cfg.Status.Notifies() {
		return exit.Usage(errors.New("no message is configured: set status.webhook, status.webhook_file or status.command in " + c.String("config")))
	}
	if c.Bool("dry-run") {
		a.ui.Note("dry run: no message was sent")
		return nil
	}
	now := time.Now()
	if _, err := a.send(ctx, b, nightly.Test, nightly.Run{Started: now, Ended: now, Destination: sysconf.RedactURL(a.cfg.Destination), NotCovered: []string{}}); err != nil {
		return err
	}
	a.ui.Note("the message was sent")
	return nil
}

// judge gives the state of the backups; probe reads the machine's layout.
func (a *app) judge(ctx context.Context, b *builder.Builder, probe func(context.Context) (*layout.Layout, error)) (*nightly.Status, error) {
	f := nightly.Found{Now: time.Now(), Begun: nightly.ReadBegun(stateDir), Timer: nightly.Timer{Run: b.Run}.Enabled(ctx)}
	var err error
	if f.Warn, f.Toolate, err = a.cfg.Status.Limits(); err != nil {
		return nil, exit.Usage(err)
	}
	if f.Record, f.RecordErr = nightly.Read(stateDir); f.RecordErr == nil && f.Record.Good != nil {
		var was, is *layout.Layout
		if was, f.LayoutErr = nightly.Layout(stateDir); f.LayoutErr == nil {
			is, f.LayoutErr = probe(ctx)
		}
		if f.LayoutErr == nil {
			f.Changed = layout.Diff(was, is)
		}
	}
	return nightly.Judge(f), nil
}

func (a *app) statusCommand() *cli.Command {
	return &cli.Command{Name: "status", Usage: "report the state of this machine's backups to people and to monitoring",
		Flags:       []cli.Flag{&cli.BoolFlag{Name: "test-notify", Usage: "report nothing, and send a message for a test to the webhook and the command of the configuration; exit status 1 if one of them did not take it"}},
		Description: "Of what mkcdrec path has made. The first line and the exit statuses are those of a plug-in for Nagios, and of this command alone: 0 good, 1 warning, 2 critical, 3 unknown. Wrong usage is 2, too. The keys status.warn and status.critical have the ages of the last backup that are too old.",
		Action: func(ctx context.Context, c *cli.Command) error {
			b, err := a.builder()
			if err != nil {
				return err
			}
			if c.Bool("test-notify") {
				return a.testNotify(ctx, c, b)
			}
			s, err := a.judge(ctx, b, func(ctx context.Context) (*layout.Layout, error) {
				l, _, err := b.Probe(ctx)
				return l, err
			})
			if err != nil {
				return err
			}
			a.state = s.State
			a.ui.Result("status", s)
			if c.Bool("json") {
				return nil
			}
			fmt.Fprintln(c.Root().Writer, s.Line()) // output keeps its error
			if !c.Bool("quiet") {
				ui.Table(c.Root().Writer, []string{"WHAT", "IS"}, s.Rows())
			}
			return nil
		}}
}

func (a *app) enableCommand() *cli.Command {
	return &cli.Command{Name: "enable", Usage: "have a backup begin every day, by mkcdrec path",
		Description: "Enables the package's timer of systemd; where systemd does not run, a file for cron is written. With -n nothing is done. The key destination of the configuration has to name the directory. The timer's backups use /etc/mkcdrec.yaml; -c with another file is refused.",
		Flags:       []cli.Flag{&cli.StringFlag{Name: "at", Usage: "`TIME` of the day such as 02:30; between 1 and 5 in the morning if not given"}},
		Action: func(ctx context.Context, c *cli.Command) error {
			if c.IsSet("at") {
				if _, err := nightly.ParseAt(c.String("at")); err != nil {
					return exit.Usage(fmt.Errorf("--at: %w", err))
				}
			}
			if file := c.String("config"); !sameFile(file, builder.DefaultConfig) {
				return exit.Usage(fmt.Errorf("cannot use -c %s: the timer's backups use %s; put the keys there", file, builder.DefaultConfig))
			}
			if a.cfg.Destination == "" {
				return exit.Usage(fmt.Errorf("no directory for the backups: set destination in %s", builder.DefaultConfig))
			}
			dir, err := a.destination(c)
			if err != nil {
				return err
			}
			if !store.IsHome(dir) {
				if st, err := os.Stat(dir); err != nil || !st.IsDir() {
					a.ui.Warn("the destination %s is not a directory now: a backup will fail without it", dir)
				}
			}
			if c.Bool("dry-run") {
				at := "between 1 and 5 in the morning"
				if c.IsSet("at") {
					at = "at " + c.String("at")
				}
				a.ui.Note("a backup to %s would begin every day, %s", sysconf.RedactURL(dir), at)
			}
			return a.timer(c, func(t nightly.Timer) ([]string, error) { return t.Enable(ctx, c.String("at")) })
		}}
}

func (a *app) disableCommand() *cli.Command {
	return &cli.Command{Name: "disable", Usage: "end what enable began: no backup every day",
		Description: "A backup that is running is not ended. With -n nothing is done.",
		Action: func(ctx context.Context, c *cli.Command) error {
			return a.timer(c, func(t nightly.Timer) ([]string, error) { return t.Disable(ctx) })
		}}
}

// sameFile reports whether two paths are one, or lead to one file.
func sameFile(a, b string) bool {
	if a == b {
		return true
	}
	is, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(is, other)
}

// timer changes the timer, and reports what was done.
func (a *app) timer(c *cli.Command, change func(nightly.Timer) ([]string, error)) error {
	b, err := a.builder()
	if err != nil {
		return err
	}
	if c.Bool("dry-run") {
		if c.Name == "disable" {
			a.ui.Note("no backup would begin any longer")
		}
		a.ui.Note("dry run: the timer was not changed")
		return nil
	}
	did, err := change(nightly.Timer{Run: b.Run, Program: b.Executable})
	for _, d := range did {
		a.ui.Note("%s", d)
	}
	return err
}
