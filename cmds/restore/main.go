// Command restore recreates a machine from a backup set, and opens, compares and boots
// installed systems. restore --help describes it.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/hooks"
	"github.com/mkcdrec/mkcdrec/internal/keyring"
	"github.com/mkcdrec/mkcdrec/internal/legacy"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/medium"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/restore"
	"github.com/mkcdrec/mkcdrec/internal/screen"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/ui"
	"github.com/mkcdrec/mkcdrec/internal/usage"
	"github.com/mkcdrec/mkcdrec/internal/version"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop, f := screen.Begin()
	defer stop()
	var req restore.Request
	req.Flags(f.FlagSet)
	answers := f.String("answers", "", "`FILE` or URL with the answers to all questions, in YAML")
	whenRead := f.String("when-read", "", "`URL` on this machine that is posted to when everything was read from the set; the answer is waited for")
	withMenu := f.Bool("menu", false, "show the plan, change it by a menu, and then carry it out")
	var keys keyring.Ring
	op := opening{keys: &keys}
	ex := extraction{keys: &keys}
	c, words, err := command(f.FlagSet, &op, &ex).Parse(os.Stdout, args)
	p, end := f.Printer()
	defer end()
	sc := screen.New(ctx, p, os.Stdin, os.Stderr)
	keys.Ask = sc.Secret
	switch {
	case err != nil:
	case c.Name == "verify":
		err = verify(ctx, p, &keys, words)
	case c.Name == "mount", c.Name == "umount", c.Name == "boot":
		err = open(ctx, p, sc, &op, c.Name, words)
	case c.Name == "extract":
		err = extract(ctx, p, &ex, words)
	default:
		var read func(context.Context) error
		if *answers != "" {
			err = req.Answers(ctx, f.FlagSet, *answers)
		}
		if err == nil && *whenRead != "" {
			read, err = tell(*whenRead)
		}
		if err == nil {
			err = whole(p, sc, req, *withMenu, func(req restore.Request) error { return do(ctx, p, sc, &req, words, read) })
		}
		p.End()
		err = screen.Interrupted(ctx, err)
		return exit.Status(p, "restore", err, screen.Hint(err, "restore", req.DryRun))
	}
	err = screen.Interrupted(ctx, err)
	p.End()
	return exit.Status(p, c.Full(), err, "")
}

// command defines the command line.
func command(f *flag.FlagSet, op *opening, ex *extraction) *usage.Command {
	return &usage.Command{Name: "restore", Summary: "recreate a machine from a backup set", Args: "[SET|VOLUME...]", Flags: f, Global: []string{"json", "v"}, Text: `
Verifies the set, finds the disks, prints a plan, has the disks confirmed by their serial numbers, and then makes partitions, file systems, files and boot loader again.

SET is a directory or URL; without it, the set that the rescue system has found is used. VOLUMEs are all the directories of a backup made by mkCDrec 1.x.`,
		Commands: []*usage.Command{
			{Name: "mount", Summary: "open the installed system below /mnt/target, for chroot", Args: "[SET|DISK...]", Flags: op.flags(), Text: `
The system is known by the layout of SET, or by the one that the medium carries. With disks it is found by looking at what is on them, whichever machine it is.`},
			{Name: "umount", Summary: "close the system that mount has opened", Args: "[SET]", Flags: op.flags()},
			{Name: "boot", Summary: "start the installed system at once, by kexec", Args: "[SET|DISK...]", Flags: op.flags(), Text: `
The firmware is not used, and the medium may stay in the drive.`},
			{Name: "extract", Summary: "take files out of a set", Args: "SET PATH...", Flags: ex.flags()},
			{Name: "verify", Summary: "compare the system below /mnt/target with a set, file by file", Args: "[SET]", Flags: keyFlags(flag.NewFlagSet("", flag.ContinueOnError), op.keys)},
		}}
}

// whole does a request with work, or what a person makes of it by the menu.
func whole(p *ui.Printer, sc screen.Screen, req restore.Request, withMenu bool, work func(restore.Request) error) error {
	if !withMenu {
		return work(req)
	}
	if req.PlanOnly || req.DryRun || req.Yes {
		return exit.Usage(errors.New("--menu shows the plan and asks: leave out --plan, --dry-run and --yes"))
	}
	return menu(sc.In, os.Stderr, req, func(req restore.Request, what int) error {
		req.PlanOnly, req.DryRun = what == showPlan, what == doDryRun
		req.NoVerify = req.NoVerify || what != doRestore
		err := work(req)
		p.End()
		if what != doRestore && exit.Code(err) == exit.Partial {
			return nil // it was shown with the plan
		}
		return err
	})
}

// tell gives what posts to a URL of this machine, and waits for the answer.
func tell(where string) (func(context.Context) error, error) {
	u, err := url.Parse(where)
	if err != nil || u.Scheme != "http" || u.Hostname() != "127.0.0.1" {
		return nil, exit.Usage(fmt.Errorf("--when-read %q is not http://127.0.0.1:PORT/", printable.Short(where, 100)))
	}
	return func(ctx context.Context) error {
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, where, nil)
		if err != nil {
			return err
		}
		a, err := http.DefaultClient.Do(q)
		if err != nil {
			return fmt.Errorf("cannot tell that everything was read: %w", err)
		}
		a.Body.Close()
		if a.StatusCode >= 300 {
			return fmt.Errorf("cannot tell that everything was read: the answer is %s", a.Status)
		}
		return nil
	}, nil
}

// options validates a request and finds its set.
func options(req *restore.Request, args []string) (*restore.Options, error) {
	opt, err := req.Validate()
	if err != nil {
		return nil, err
	}
	if len(args) == 0 && req.Set != "" { // of an answer file
		args = []string{req.Set}
	}
	return opt, setArgument(opt, args)
}

func do(ctx context.Context, p *ui.Printer, sc screen.Screen, req *restore.Request, args []string, read func(context.Context) error) error {
	opt, err := options(req, args)
	if err != nil {
		return err
	}
	opt.WhenRead = read
	if !opt.PlanOnly {
		ui.KeepRunning()
	}
	if err := ofMedium(opt, p); err != nil {
		return err
	}
	if err := online(ctx, p, opt.Set); err != nil {
		return err
	}
	run := tool.Exec{Log: func(s string) { p.Detail("+ %s", s) }}
	r := &restore.Restorer{Run: run, Machine: probe.Machine{Run: run}, Screen: sc}
	rep, err := r.Restore(ctx, *opt)
	var again *restore.Repeated
	if errors.As(err, &again) && rescue.Inside() {
		err = errors.Join(err, os.WriteFile(rescue.RepeatedFile, []byte(opt.Set+"\n"), 0o600))
	}
	if err != nil {
		return err
	}
	if opt.DryRun {
		p.End()
		p.Note("the dry run is done: nothing on any disk was changed")
		return screen.Lacking(rep)
	}
	if opt.PlanOnly {
		p.Result("plan", rep.Planned())
		return screen.Lacking(rep)
	}
	p.End()
	p.Result("restore", rep)
	var rows [][]string
	for _, a := range rep.Archives {
		rows = append(rows, []string{a.Mount, "/dev/" + a.Device, fmt.Sprint(a.Members), a.Data.String(), fmt.Sprintf("%.1f s", a.Seconds)})
	}
	ui.Table(os.Stderr, []string{"RESTORED", "ON", "MEMBERS", "DATA", "TIME"}, rows)
	if opt.Only != "" {
		p.Note("%s is restored in %.0f s", opt.Only, rep.Seconds)
	} else {
		p.Note("the machine is restored in %.0f s: remove the medium and run reboot", rep.Seconds)
	}
	return screen.Lacking(rep)
}

// ofMedium adds the hooks of the system that this runs on, and what the medium's
// configuration has about restores.
func ofMedium(opt *restore.Options, p *ui.Printer) error {
	h := &hooks.Set{Config: hooks.Config{Dir: hooks.Dir, Timeout: hooks.DefaultTimeout}, Run: tool.Exec{}, Report: p, Env: []string{"MKCDREC_COMMAND=restore", "MKCDREC_VERSION=" + version.String()}}
	if rescue.Inside() {
		info, err := rescue.ReadInfo("")
		if err != nil {
			return err
		}
		opt.Medium = info
		h.Timeout = cmp.Or(info.HookTimeout, h.Timeout)
		opt.CheckTarget = cmp.Or(opt.CheckTarget, info.CheckTarget)
		h.Env = append(h.Env, "MKCDREC_HOST="+info.Host)
	}
	opt.Hooks = h
	return nil
}

// wanted gives whose sets are meant where there are several: of what this rescue
// system was made for. Elsewhere it is any.
func wanted() (manifest.Wanted, error) {
	if !rescue.Inside() {
		return manifest.Wanted{}, nil
	}
	info, err := rescue.ReadInfo("")
	if err != nil {
		return manifest.Wanted{}, err
	}
	line, err := sysconf.RunningCmdline("")
	if err != nil {
		return manifest.Wanted{}, err
	}
	o, _ := rescue.ParseCmdline(line) // init has reported unknown words
	w := medium.Expected(info, o)
	w.Strict = false
	return w, nil
}

// setArgument finds the set: the one named, or the one the rescue system found.
func setArgument(opt *restore.Options, args []string) error {
	var err error
	if opt.Wanted, err = wanted(); err != nil {
		return err
	}
	switch len(args) {
	case 1:
		opt.Set = args[0]
	case 0:
		b, err := os.ReadFile(rescue.SetFile)
		if err != nil {
			return exit.Usage(errors.New("no backup set was found at boot; mount it and give its directory"))
		}
		opt.Set, opt.Found = strings.TrimSpace(string(b)), true
	default:
		for _, d := range args {
			if !legacy.IsSet(d) {
				return exit.Usage(fmt.Errorf("one set, not %d; only backups of mkCDrec 1.x have several directories, and %s is not one", len(args), d))
			}
		}
		opt.Set = strings.Join(args, ",")
	}
	return nil
}

// extraction are the options of extract.
type extraction struct {
	to      string
	salvage bool
	keys    *keyring.Ring
}

func (x *extraction) flags() *flag.FlagSet {
	f := flag.NewFlagSet("", flag.ContinueOnError)
	f.StringVar(&x.to, "to", "", "`DIR` to put them below, with their full paths")
	f.BoolVar(&x.salvage, "salvage", false, "take what can be read of a damaged set, and name what is lost")
	f.StringVar(&x.keys.Signer, "signer", "", "`FILE` with public keys of hosts: a set that is not signed with one of them is refused; `none`: no key is expected")
	return keyFlags(f, x.keys)
}

// extract takes files out of a set.
func extract(ctx context.Context, p *ui.Printer, x *extraction, words []string) error {
	if len(words) < 2 || x.to == "" {
		return exit.Usage(errors.New("extract wants a set, paths, and --to DIR"))
	}
	w, err := wanted()
	if err != nil {
		return err
	}
	set, err := openSet(ctx, p, x.keys, w, words[0], x.salvage)
	if err != nil {
		return err
	}
	defer set.Close()
	if err := x.keys.Trust(set, !x.salvage, p.Warn); err != nil {
		return err
	}
	n, lost, err := set.ExtractPaths(ctx, manifest.CleanPaths(words[1:]), x.to, archive.ExtractOptions{Salvage: x.salvage, NoOwner: os.Geteuid() != 0}, p)
	if err != nil {
		return err
	}
	p.End()
	p.Note("members extracted below %s: %d", x.to, n)
	if len(lost) > 0 {
		return exit.NotCovered(lost)
	}
	return nil
}
