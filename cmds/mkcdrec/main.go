// Command mkcdrec makes rescue media and backup sets of a Linux machine.
//
// Synopsis:
//
//	mkcdrec [-c FILE] [-n] [-v|-q] [--json] COMMAND ...
//
// Commands: test, rescue, pxe, path, list, verify, extract, layout, version. Each
// has its own --help. `mkcdrec applet` lists the other commands of the one
// executable; `mkcdrec applet NAME ARGS` runs one of them.
//
// Exit status: 0 done, 1 failed, 2 wrong usage, 3 done but something was not
// covered, 4 refused for safety.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"

	"github.com/urfave/cli/v3"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/builder"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/ui"
	"github.com/mkcdrec/mkcdrec/internal/version"
	"github.com/mkcdrec/mkcdrec/kernelcfg"
)

func main() { os.Exit(run(os.Args)) }

func run(args []string) int {
	// A backup runs beside production: better the collector works harder
	// than the machine swaps.
	debug.SetMemoryLimit(archive.MemoryLimit())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	a := &app{}
	err := a.command().Run(ctx, args)
	if a.ui == nil {
		a.ui = ui.New(ui.Normal)
	}
	a.ui.End()
	return exit.Status(a.ui, "mkcdrec", err, hint(err))
}

// app is what the verbs share.
type app struct {
	ui  *ui.Printer
	cfg *builder.Config
}

func (a *app) command() *cli.Command {
	return &cli.Command{
		Name:                  "mkcdrec",
		Usage:                 "disaster recovery for Linux: rescue media and backup sets",
		Version:               version.String(),
		EnableShellCompletion: true,
		HideVersion:           true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Value: builder.DefaultConfig, Usage: "configuration `FILE`"},
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "say what would be done, do nothing"},
			&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "say more"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "warnings and errors only"},
			&cli.BoolFlag{Name: "json", Usage: "one JSON event per line on standard output"},
		},
		Before:         a.before,
		OnUsageError:   func(_ context.Context, _ *cli.Command, err error, _ bool) error { return exit.Usage(err) },
		ExitErrHandler: func(context.Context, *cli.Command, error) {},
		Action: func(_ context.Context, c *cli.Command) error {
			if c.Args().Present() {
				return exit.Usage(fmt.Errorf("unknown command %q", c.Args().First()))
			}
			return cli.ShowAppHelp(c)
		},
		Commands: []*cli.Command{a.testCommand(), a.rescueCommand(), a.pxeCommand(), a.pathCommand(), a.cdromCommand(), a.usbkeyCommand(), a.deviceCommand(), a.obdrCommand(), a.listCommand(), a.verifyCommand(), a.extractCommand(), a.layoutCommand(),
			a.versionCommand()},
	}
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
	a.ui = ui.New(mode)
	cfg, err := builder.LoadConfig(c.String("config"), c.IsSet("config"))
	if err != nil {
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
	return &builder.Builder{Run: tool.Exec{Log: func(s string) { a.ui.Detail("+ %s", s) }}, Report: a.ui, Version: version.String(), Config: a.cfg, Executable: exe}, nil
}

func hint(err error) string {
	var nf *kernelcfg.NotFoundError
	switch {
	case errors.As(err, &nf):
		return builder.KernelHint
	case errors.Is(err, os.ErrPermission) && os.Geteuid() != 0:
		return "run as root: disks and files of all users have to be read"
	case errors.Is(err, unix.ENOSPC):
		return "the destination is full; nothing unfinished was left there"
	}
	return ""
}
