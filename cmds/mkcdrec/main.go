// Command mkcdrec makes rescue media and backup sets of a Linux machine.
//
// Synopsis:
//
//	mkcdrec [-c FILE] [-n] [-v|-q] [--json] COMMAND ...
//
// Commands: test, rescue, pxe, serve, path, list, verify, extract, prune, status,
// enable, disable, layout, coverage, version. Each
// has its own --help. `mkcdrec applet` lists the other commands of the one
// executable; `mkcdrec applet NAME ARGS` runs one of them.
//
// Exit status: 0 done, 1 failed, 2 wrong usage, 3 done but something was not
// covered, 4 refused for safety.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/builder"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/memory"
	"github.com/mkcdrec/mkcdrec/internal/nightly"
	"github.com/mkcdrec/mkcdrec/internal/signing"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/ui"
	"github.com/mkcdrec/mkcdrec/internal/usage"
	"github.com/mkcdrec/mkcdrec/internal/version"
	"github.com/mkcdrec/mkcdrec/kernelcfg"
)

func main() { os.Exit(run(os.Args)) }

func run(args []string) int {
	// A backup runs beside production: better the collector works harder
	// than the machine swaps.
	memory.Limit(archive.MemoryLimit())
	ctx, stop := interrupt.Context(context.Background())
	defer stop()
	a := &app{out: &output{w: ui.Stdout()}}
	cli.HelpPrinter = a.help
	var err error
	if len(args) == 2 && args[1] == usage.JSON {
		err = define(a.command()).Define().WriteJSON(a.out)
	} else if len(args) == 2 && args[1] == "--version" { // as other programs have it
		_, err = fmt.Fprintln(a.out, "mkcdrec", version.String())
	} else {
		err = interrupted(ctx, a.command().Run(ctx, args))
		if _, ok := err.(cli.ExitCoder); ok { // help for an unknown command
			err = exit.Usage(err)
		}
	}
	if a.ui == nil {
		mode := ui.Normal
		if slices.Contains(args, "--json") { // the options could not be read
			mode = ui.JSON
		}
		a.ui = ui.New(mode)
	}
	a.ui.End()
	h := hint(err, a.verb)
	if exit.Code(err) == exit.BadUsage && h == "" {
		h = "`" + strings.TrimRight("mkcdrec "+a.verb, " ") + " --help` lists words and options"
	}
	status := exit.Status(a.ui, "mkcdrec", a.out.or(err), h)
	if a.verb == "status" && a.out.err != nil {
		return int(nightly.Unknown) // to what reads it the others are states of the backup
	}
	return cmp.Or(status, int(a.state))
}

// define gives the definition of the whole command line.
func define(c *cli.Command) *usage.Command { return describe(c, true) }

// describe gives the definition of a command; uppermost is set for the one that has the options of all.
func describe(c *cli.Command, uppermost bool) *usage.Command {
	d := &usage.Command{Name: c.Name, Summary: c.Usage, Args: c.ArgsUsage, Text: c.Description}
	if !uppermost && c.Before != nil { // noDryRun
		d.Without = []string{"dry-run"}
	}
	for _, f := range c.Flags {
		g, ok := f.(cli.DocGenerationFlag)
		if !ok || slices.Contains(f.Names(), "help") {
			continue
		}
		d.Options = append(d.Options, usage.NewOption(f.Names(), g.TakesValue(), g.GetValue(), g.GetUsage()))
		if uppermost {
			d.Global = append(d.Global, f.Names()[0])
		}
	}
	for _, s := range c.Commands {
		if !s.Hidden && s.Name != "help" {
			d.Commands = append(d.Commands, describe(s, false))
		}
	}
	return d
}

// help prints the help of a command; output keeps its error.
func (a *app) help(w io.Writer, _ string, command any) {
	c := command.(*cli.Command)
	d := define(c.Root()).Define()
	for _, n := range strings.Fields(c.FullName())[1:] {
		d = d.Find(n)
	}
	_, _ = io.WriteString(w, d.Help())
}

// interrupted reports of a run that a signal ended that it was that, and not what it
// was doing, which failed.
func interrupted(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || exit.Code(err) == exit.Partial {
		return err
	}
	return interrupt.Err(ctx, err)
}

// output is standard output. It keeps the first error: a list that did not reach
// its reader is not done.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil && o.err == nil {
		o.err = err
	}
	return n, err
}

// or gives the error of a run: that of its output, unless it failed otherwise.
func (o *output) or(err error) error {
	if o.err == nil || err != nil && exit.Code(err) != exit.Partial && !errors.Is(err, o.err) {
		return err
	}
	// Not wrapped: the hints for a full disk are about what is written to disks.
	return fmt.Errorf("cannot write to standard output: %v", o.err)
}

// app is what the verbs share.
type app struct {
	ui   *ui.Printer
	cfg  *builder.Config
	out  *output
	verb string
	// state is what status reports by its exit status.
	state  nightly.State
	dryRun bool
}

func (a *app) command() *cli.Command {
	c := &cli.Command{
		Name:        "mkcdrec",
		Usage:       "disaster recovery for Linux: rescue media and backup sets",
		Version:     version.String(),
		HideVersion: true,
		Writer:      a.out,
		ErrWriter:   io.Discard,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Value: builder.DefaultConfig, Usage: "configuration `FILE`"},
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "print what would be done, do nothing"},
			&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "print more"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "warnings and errors only"},
			&cli.BoolFlag{Name: "json", Usage: "one JSON event per line on standard output"},
		},
		Before:         a.before,
		ExitErrHandler: func(context.Context, *cli.Command, error) {},
		Commands: []*cli.Command{a.testCommand(), a.rescueCommand(), a.pxeCommand(), a.serveCommand(), a.pathCommand(), a.cdromCommand(), a.usbkeyCommand(), a.deviceCommand(), a.obdrCommand(), a.listCommand(), a.verifyCommand(), a.extractCommand(), a.pruneCommand(), a.statusCommand(), a.enableCommand(), a.disableCommand(), a.layoutCommand(),
			a.coverageCommand(), a.completionCommand(), a.versionCommand()},
	}
	a.usageErrors(c)
	return c
}

// noDryRun refuses --dry-run for a command that writes, and has none.
func noDryRun(ctx context.Context, c *cli.Command) (context.Context, error) {
	if c.Bool("dry-run") {
		return ctx, exit.Usage(fmt.Errorf("%s can't be tried: it has no --dry-run", c.Name))
	}
	return ctx, nil
}

// usageErrors has c and the commands below it report wrong usage in our words, without the whole help.
func (a *app) usageErrors(c *cli.Command) {
	c.OnUsageError = func(_ context.Context, c *cli.Command, err error, _ bool) error {
		_, a.verb, _ = strings.Cut(c.FullName(), " ")
		return exit.Usage(usage.Wrong(err))
	}
	var names []string
	for _, s := range c.Commands {
		a.usageErrors(s)
		names = append(names, s.Name)
	}
	if c.Action == nil {
		c.Action = func(_ context.Context, c *cli.Command) error {
			if c.Args().Present() {
				return exit.Usage(fmt.Errorf("unknown command %q", c.Args().First()))
			}
			return exit.Usage(fmt.Errorf("expected a command: %s", strings.Join(names, ", ")))
		}
	} else if action, most := c.Action, operands(c.ArgsUsage); most >= 0 {
		c.Action = func(ctx context.Context, c *cli.Command) error {
			if n := c.Args().Len(); n > most {
				return exit.Usage(tooMany(c, most, n))
			}
			return action(ctx, c)
		}
	}
}

// operands is how many words a command takes at most, from what --help prints of them: "SRC [DST]"; -1 for any number.
func operands(args string) int {
	if strings.Contains(args, "...") {
		return -1
	}
	return len(strings.Fields(args))
}

func tooMany(c *cli.Command, most, n int) error {
	if most == 0 {
		return fmt.Errorf("%s takes no argument %q", c.Name, c.Args().First())
	}
	return fmt.Errorf("%s takes %s, not %d arguments", c.Name, c.ArgsUsage, n)
}

func (a *app) before(ctx context.Context, c *cli.Command) (context.Context, error) {
	mode := ui.Normal
	switch {
	case c.Bool("json"):
		mode = ui.JSON
	case c.Bool("quiet"):
		mode = ui.Quiet
	case c.Bool("verbose"):
		mode = ui.Verbose
	}
	if a.ui = ui.New(mode); mode == ui.JSON {
		c.Root().Writer = io.Discard // what is for people
	}
	if c.Command(c.Args().First()) != nil {
		a.verb = c.Args().First()
	}
	a.dryRun = c.Bool("dry-run")
	if !c.Bool("dry-run") && !slices.Contains(lookers, a.verb) {
		ui.KeepRunning()
	}
	cfg, err := builder.LoadConfig(c.String("config"), c.IsSet("config"))
	if err != nil {
		a.verb = badConfig
		return ctx, exit.Usage(err)
	}
	a.cfg = cfg
	return ctx, nil
}

func (a *app) builder() (*builder.Builder, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cannot find this program's own file: %w", err)
	}
	return &builder.Builder{Run: tool.Exec{Log: func(s string) { a.ui.Detail("+ %s", s) }}, Report: a.ui, Version: version.String(), Config: a.cfg, Executable: exe, SigningKey: signingKey, DryRun: a.dryRun}, nil
}

// signingKey is the file of the key that signs sets; tests have their own.
var signingKey = signing.KeyFile

// lookers are the commands that end like others when the reader of their output does: they change nothing.
var lookers = []string{"", "list", "verify", "test", "layout", "coverage", "status", "completion", "version"}

// badConfig stands for the command's name where the configuration is wrong.
const badConfig = "configuration"

// hint is what may be done about an error of a verb.
func hint(err error, verb string) string {
	var nf *kernelcfg.NotFoundError
	reads := slices.Contains([]string{"list", "verify", "extract"}, verb)
	switch {
	case errors.Is(err, errDamaged):
		return "`mkcdrec extract --salvage` and `restore --salvage` take what can be read, and name what is lost"
	case verb == badConfig:
		return "mkcdrec.yaml(5) and docs/CONFIG.md describe the keys"
	case errors.As(err, &nf):
		return builder.KernelHint
	case errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 && reads:
		return "run as root, or as the user who owns the set"
	case errors.Is(err, os.ErrPermission) && os.Geteuid() != 0:
		return "run as root: disks and files of all users have to be read"
	case errors.Is(err, unix.ENOSPC) && strings.Contains(err.Error(), os.TempDir()+"/mkcdrec-"):
		return "make room in " + os.TempDir() + ", or name another directory by TMPDIR; nothing unfinished was left at the destination"
	case errors.Is(err, unix.ENOSPC) && (verb == "path" || verb == "cdrom"):
		return "make room at the destination, for instance with `mkcdrec prune`; nothing unfinished was left there"
	case errors.Is(err, unix.ENOSPC):
		return "make room on the file system that is full"
	}
	return ""
}
