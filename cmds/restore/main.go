// Command restore brings a machine back from a backup set. It verifies the
// set, finds the disks, prints a plan, has the disks confirmed by their serial
// numbers, and then makes partitions, file systems, files and boot loader
// again.
//
// Synopsis:
//
//	restore [--plan] [--map OLD=NEW]... [--yes --confirm SERIAL...] [--resume] [--salvage] [SET]
//	        [--size WHAT=SIZE]... [--keep-sizes] [--fs-type MOUNT=TYPE]...
//	        [--exclude-disk OLD]... [--mirror OLD]... [--unmirror] [--firmware uefi|bios]
//	restore [...] VOLUME [VOLUME...]
//	        [--identity FILE] [--key-file FILE] [--new-luks]
//	restore mount [--ro|--degraded] [--key-file FILE] [SET]
//	restore mount [--ro|--degraded] [--key-file FILE] [--root DEV] --disks|DISK...
//	restore --menu [...] [SET]
//	restore --dry-run [...] [SET]
//	restore --only MOUNT [--onto DEV] [...] [SET]
//	restore extract SET PATH... --to DIR
//	restore verify [SET]
//	restore umount
//	restore boot [--key-file FILE] [SET]
//
// SET is a directory or URL; without it, the set that the rescue system has
// found. VOLUMEs are all the directories of a backup made by mkCDrec 1.x.
//
// mount opens the installed system below /mnt/target for repair, ready for
// chroot; umount closes it. It knows the system by SET's layout, or by the one
// that the medium carries; with disks, it is found by looking at what is on them,
// whatever machine it is. verify compares it with SET, file by file. boot starts the
// installed system at once, by kexec: without the firmware, and whatever medium is in
// the drive.
//
// Exit status: 0 done, 1 failed, 2 wrong usage, 3 done but with problems, 4
// refused, and no disk was touched.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/legacy"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/medium"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/rescueinit"
	"github.com/mkcdrec/mkcdrec/internal/restore"
	"github.com/mkcdrec/mkcdrec/internal/screen"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/ui"
)

func main() { os.Exit(run(os.Args[1:])) }

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, strings.Split(s, ",")...); return nil }

func run(args []string) int {
	ctx, stop := interrupt.Context(context.Background())
	defer stop()
	debug.SetMemoryLimit(archive.MemoryLimit()) // the rescue system has no swap
	f := flag.NewFlagSet("restore", flag.ContinueOnError)
	var opt restore.Options
	var maps, confirm, sizes, types, exclude, mirror, forget list
	f.BoolVar(&opt.PlanOnly, "plan", false, "print what would be done, and stop")
	f.BoolVar(&opt.DryRun, "dry-run", false, "make all of it on sparse files instead of disks, compare, and take it away again")
	f.IntVar(&opt.KillAfter, "kill-after", 0, "kill a dry run after `STEP`: for tests of --resume")
	f.BoolVar(&opt.Yes, "yes", false, "ask nothing; every disk must be named by --confirm")
	f.BoolVar(&opt.Resume, "resume", false, "continue after the last finished step of the run before")
	f.BoolVar(&opt.Once, "once", false, "refuse to restore onto disks that were restored from this set before; unattended media do")
	f.BoolVar(&opt.Salvage, "salvage", false, "restore what can be read of a damaged set, and name what is lost")
	f.BoolVar(&opt.NoVerify, "no-verify", false, "do not read the set through beforehand")
	f.BoolVar(&opt.Outside, "outside-rescue-system", false, "allow this on a machine that is not a rescue system")
	f.Var(&maps, "map", "`OLD=NEW`: disk OLD of the set goes to the disk NEW (name, serial number or WWN)")
	f.Var(&sizes, "size", "`WHAT=SIZE`: what is mounted there, or a swap device, gets this size: /=20G")
	f.Var(&types, "fs-type", "`MOUNT=TYPE`: another type for a file system: ext2, ext3, ext4, xfs or btrfs")
	f.BoolVar(&opt.Wish.Keep, "keep-sizes", false, "every partition and volume gets the size it had, whatever the disk")
	f.StringVar(&opt.Only, "only", "", "`MOUNT` point: make and restore this file system only, on a device that is there")
	f.StringVar(&opt.Onto, "onto", "", "`DEV` that --only overwrites; without it, the one with the same UUID")
	f.Var(&exclude, "exclude-disk", "`OLD` disk of the set that is left alone, with all that was on it")
	f.Var(&mirror, "mirror", "`OLD` disk of the set that goes to a RAID1 of two disks; the second one is OLD-mirror for --map")
	f.BoolVar(&opt.Wish.Unmirror, "unmirror", false, "make no RAID1: what was on one goes to the first of its disks")
	answers := f.String("answers", "", "`FILE` or URL with the answers to all questions, in YAML")
	f.StringVar(&opt.Secrets.Identity, "identity", "", "`FILE` with the age identity or SSH key that decrypts the set's LUKS headers; asked for without")
	f.StringVar(&opt.Secrets.KeyFile, "key-file", "", "`FILE` with the passphrase of LUKS devices; asked for without")
	f.BoolVar(&opt.Wish.NewLUKS, "new-luks", false, "recreate LUKS devices with a new passphrase and without their other keys")
	f.Var(&confirm, "confirm", "`SERIAL` number of a disk that may be overwritten")
	f.StringVar(&opt.Wish.Firmware, "firmware", "", "`uefi` or bios: convert the system to boot with this firmware")
	f.BoolVar(&opt.NewIdentity, "new-identity", false, "other UUIDs, machine-id and SSH host keys, for a machine that is used beside the set's")
	f.StringVar(&opt.Personal.Hostname, "hostname", "", "`NAME` of the restored system, with --new-identity")
	whenRead := f.String("when-read", "", "`URL` on this machine that is posted to when everything was read from the set; the answer is waited for")
	f.Var(&forget, "forget", "`PATH` or pattern of files that are removed, with --new-identity: licences, keys")
	withMenu := f.Bool("menu", false, "show the plan, change it by a menu, and then carry it out")
	asJSON := f.Bool("json", false, "one JSON event per line on standard output")
	verbose := f.Bool("v", false, "say more")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exit.OK
		}
		return exit.BadUsage
	}
	mode := ui.Normal
	if *asJSON {
		mode = ui.JSON
	} else if *verbose {
		mode = ui.Verbose
	}
	p := ui.New(mode)
	if rescue.Inside() && os.Getenv(rescue.LoggedEnv) == "" {
		if l, err := os.OpenFile(rescue.LogFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			defer l.Close()
			p.Log(l)
		}
	}
	sc := screen.New(ctx, p, os.Stdin, os.Stderr)
	switch f.Arg(0) {
	case "verify":
		err := screen.Interrupted(ctx, verify(ctx, p, f.Args()[1:]))
		p.End()
		return exit.Status(p, "restore verify", err, "")
	case "mount", "umount", "boot":
		err := screen.Interrupted(ctx, repair(ctx, p, sc, f.Arg(0), f.Args()[1:]))
		return exit.Status(p, "restore "+f.Arg(0), err, "")
	case "extract":
		err := screen.Interrupted(ctx, extract(ctx, p, f.Args()[1:]))
		p.End()
		return exit.Status(p, "restore extract", err, "")
	}
	args, err := f.Args(), error(nil)
	if *answers != "" {
		args, err = answer(ctx, f, *answers, args)
	}
	opt.Personal.Forget = forget
	if err == nil && *whenRead != "" {
		opt.WhenRead, err = tell(*whenRead)
	}
	if err == nil && !opt.NewIdentity && (opt.Personal.Hostname != "" || len(forget) > 0) {
		err = exit.Usage(errors.New("--hostname and --forget are for --new-identity"))
	}
	if err == nil {
		w := wishes{maps, sizes, types, exclude, mirror, opt.Wish.Keep, opt.Wish.Unmirror}
		if *withMenu {
			err = menu(sc.In, os.Stderr, w, func(w wishes, what int) error {
				o := opt
				o.PlanOnly, o.DryRun = what == showPlan, what == doDryRun
				o.NoVerify = o.NoVerify || what != doRestore
				err := do(ctx, p, sc, &o, args, w, confirm)
				p.End()
				if what != doRestore && exit.Code(err) == exit.Partial {
					return nil // it was shown with the plan
				}
				return err
			})
		} else {
			err = do(ctx, p, sc, &opt, args, w, confirm)
		}
	}
	p.End()
	var again *restore.Repeated
	if errors.As(err, &again) && rescue.Inside() {
		if e := os.WriteFile(rescue.RepeatedFile, []byte(opt.Set+"\n"), 0o600); e != nil {
			err = errors.Join(err, e)
		}
	}
	err = screen.Interrupted(ctx, err)
	return exit.Status(p, "restore", err, screen.Hint(err, "restore", opt.DryRun))
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

func do(ctx context.Context, p *ui.Printer, sc screen.Screen, opt *restore.Options, args []string, w wishes, confirm list) error {
	opt.Wish.Map, opt.Wish.Confirmed, opt.Wish.Sizes = map[string]string{}, confirm, map[string]quantity.Size{}
	opt.Wish.Exclude, opt.Wish.Keep = slices.Clone(w.exclude), w.keep
	opt.Wish.Mirror, opt.Wish.Unmirror = w.mirror, w.unmirror
	for _, s := range w.sizes {
		i := strings.LastIndexByte(s, '=')
		if i <= 0 {
			return exit.Usage(fmt.Errorf("--size %q is not WHAT=SIZE", s))
		}
		n, err := quantity.Parse(s[i+1:])
		if err != nil || n <= 0 {
			return exit.Usage(fmt.Errorf("--size %s: %q is no size such as 20G", s, s[i+1:]))
		}
		opt.Wish.Sizes[strings.TrimPrefix(s[:i], "/dev/")] = n.AlignUp(quantity.MiB)
	}
	opt.Wish.Types = map[string]string{}
	for _, t := range w.types {
		i := strings.LastIndexByte(t, '=')
		if i <= 0 {
			return exit.Usage(fmt.Errorf("--fs-type %q is not MOUNT=TYPE", t))
		}
		opt.Wish.Types[t[:i]] = t[i+1:]
	}
	switch {
	case opt.PlanOnly && opt.DryRun:
		return exit.Usage(errors.New("use either --plan or --dry-run, not both"))
	case opt.KillAfter != 0 && !opt.DryRun:
		return exit.Usage(errors.New("--kill-after is for --dry-run only"))
	case opt.Only != "" && (opt.DryRun || w.unmirror || len(w.maps)+len(w.exclude)+len(w.sizes)+len(w.mirror) > 0):
		return exit.Usage(errors.New("--only takes a device as it is: no --dry-run, --map, --size, --exclude-disk, --mirror or --unmirror"))
	case opt.Only != "" && opt.NewIdentity:
		return exit.Usage(errors.New("--only restores a part of a system, which has no identity of its own: no --new-identity"))
	case opt.Onto != "" && opt.Only == "":
		return exit.Usage(errors.New("--onto wants --only"))
	}
	if len(w.sizes) > 0 && w.keep {
		return exit.Usage(errors.New("--size and --keep-sizes exclude each other"))
	}
	for _, m := range w.maps {
		o, n, ok := strings.Cut(m, "=")
		if !ok {
			return exit.Usage(fmt.Errorf("--map %q is not OLD=NEW", m))
		}
		opt.Wish.Map[strings.TrimPrefix(o, "/dev/")] = n
	}
	if err := setArgument(opt, args); err != nil {
		return err
	}
	run := tool.Exec{Log: func(s string) { p.Detail("+ %s", s) }}
	r := &restore.Restorer{Run: run, Machine: probe.Machine{Run: run}, Screen: sc}
	rep, err := r.Restore(ctx, *opt)
	if err != nil {
		return err
	}
	if opt.DryRun {
		p.End()
		p.Note("the dry run is done: nothing on any disk was changed")
		return screen.Lacking(rep)
	}
	if opt.PlanOnly {
		p.Result(map[string]any{"plan": rep.Plan, "layout": rep.Plan.Layout, "notCovered": rep.NotCovered})
		return screen.Lacking(rep)
	}
	p.End()
	p.Result(rep)
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

// answer gives every option of an answer file that the command line does not
// have, as if it had been typed.
func answer(ctx context.Context, f *flag.FlagSet, file string, args []string) ([]string, error) {
	a, err := restore.LoadAnswers(ctx, file)
	if err != nil {
		return nil, exit.Usage(err)
	}
	said := map[string]bool{}
	f.Visit(func(g *flag.Flag) { said[g.Name] = true })
	for _, o := range a.Options() {
		if !said[o.Name] {
			if err := f.Set(o.Name, o.Value); err != nil {
				return nil, exit.Usage(fmt.Errorf("cannot use %s: %s: %w", file, o.Name, err))
			}
		}
	}
	if len(args) == 0 && a.Set != "" {
		args = []string{a.Set}
	}
	return args, nil
}

// extract takes files out of a set.
func extract(ctx context.Context, p *ui.Printer, args []string) error {
	f := flag.NewFlagSet("restore extract", flag.ContinueOnError)
	to := f.String("to", "", "`DIR` to put them below, with their full paths")
	salvage := f.Bool("salvage", false, "take what can be read of a damaged set, and name what is lost")
	var words []string
	for len(args) > 0 { // options may come last
		if err := f.Parse(args); err != nil {
			return exit.Usage(err)
		}
		if args = f.Args(); len(args) > 0 {
			words, args = append(words, args[0]), args[1:]
		}
	}
	if len(words) < 2 || *to == "" {
		return exit.Usage(errors.New("extract wants a set, paths, and --to DIR"))
	}
	w, err := wanted()
	if err != nil {
		return err
	}
	set, err := manifest.OpenPlace(ctx, words[0], w.OfHost(), p.Note)
	if err != nil {
		return err
	}
	defer set.Close()
	n, lost, err := set.ExtractPaths(ctx, manifest.CleanPaths(words[1:]), *to, archive.ExtractOptions{Salvage: *salvage, NoOwner: os.Geteuid() != 0}, p)
	if err != nil {
		return err
	}
	p.End()
	p.Note("%d members extracted below %s", n, *to)
	if len(lost) > 0 {
		return exit.NotCovered(lost)
	}
	return nil
}

// verify compares the system below /mnt/target with a set.
func verify(ctx context.Context, p *ui.Printer, args []string) error {
	var opt restore.Options
	if err := setArgument(&opt, args); err != nil {
		return err
	}
	set, err := manifest.OpenPlace(ctx, opt.Set, opt.Wanted.OfHost(), p.Note)
	if err != nil {
		return err
	}
	defer set.Close()
	r := &restore.Repair{Report: p, Target: rescue.TargetDir}
	v, err := r.Verify(ctx, set)
	if err != nil {
		return err
	}
	p.End()
	p.Result(v)
	for _, d := range v.Differences {
		p.Note("%v", d)
	}
	for name, n := range v.Expected {
		p.Note("%d differences that a restore makes: %s", n, name)
	}
	if n := len(v.Differences); n > 0 {
		return fmt.Errorf("%d differences between %s and the set", n, rescue.TargetDir)
	}
	p.Note("%d members compared: nothing else differs", v.Members)
	return nil
}

// repair opens or closes the installed system.
func repair(ctx context.Context, p *ui.Printer, sc screen.Screen, what string, args []string) error {
	f := flag.NewFlagSet("restore "+what, flag.ContinueOnError)
	ro := f.Bool("ro", false, "mount read-only, and change nothing on any disk: no log is replayed, no array resynchronized, and what LVM writes goes into memory")
	degraded := f.Bool("degraded", false, "start RAID arrays for writing also where members are missing that they had (--ro does so without writing)")
	keyFile := f.String("key-file", "", "`FILE` with the passphrase of LUKS devices")
	disks := f.Bool("disks", false, "find the system on the disks that are there, whatever it is")
	root := f.String("root", "", "`DEV` of its root file system, where there are several systems")
	if err := f.Parse(args); err != nil {
		return exit.Usage(err)
	}
	if !rescue.Inside() {
		return &plan.Refused{Reason: "this is not a rescue system"}
	}
	release, err := restore.Lock(rescue.StateDir)
	if err != nil {
		return err
	}
	defer release()
	if _, err := restore.Sweep(os.TempDir()); err != nil {
		p.Warn("%v", err)
	}
	var on []string
	for _, a := range f.Args() {
		if d, ok := strings.CutPrefix(a, "/dev/"); ok {
			on = append(on, d)
		}
	}
	if f.NArg() > 1 && len(on) < f.NArg() || *disks && f.NArg() > 0 {
		return exit.Usage(fmt.Errorf("%s wants one set, or disks", what))
	}
	r := &restore.Repair{Run: tool.Exec{Log: func(s string) { p.Detail("+ %s", s) }}, Report: p, Target: rescue.TargetDir}
	r.KeyFile, r.Secret = *keyFile, sc.Secret
	switch {
	case *ro:
		r.Access = storage.ReadOnly
	case *degraded:
		r.Access = storage.Degraded
	}
	if what == "umount" {
		l, err := opened(ctx, f.Args(), p.Note)
		if err != nil {
			return err
		}
		if err := r.Unmount(ctx, l); err != nil {
			return err
		}
		if err := os.Remove(openedFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	var l *layout.Layout
	if *disks || len(on) > 0 {
		if l, err = r.FromDisks(ctx, on, *root); err != nil {
			if l != nil {
				err = errors.Join(err, r.Unmount(ctx, l))
			}
			return err
		}
	} else if *root != "" {
		return exit.Usage(errors.New("--root is for disks: without them, the layout says where it is"))
	} else if l, err = layoutOf(ctx, f.Args(), p.Note); err != nil {
		return err
	}
	if what == "boot" {
		e, err := r.Boot(ctx, l, restore.KexecLoad)
		if err != nil {
			return err
		}
		p.Note("starting %s of the installed system", ui.Clean(e.Linux))
		return rescueinit.Power("kexec", false)
	}
	if _, err := r.Mount(ctx, l); err != nil {
		if !*disks && len(on) == 0 {
			err = fmt.Errorf("%w (restore mount --disks finds a system without knowing its layout)", err)
		}
		return err
	}
	if err := remember(l); err != nil {
		return err
	}
	p.Note("the system is open: chroot %s /bin/bash; afterwards: restore umount", rescue.TargetDir)
	return nil
}

// openedFile has the layout of the system that is open.
const openedFile = rescue.StateDir + "/opened.json"

func remember(l *layout.Layout) error {
	f, err := os.OpenFile(openedFile, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("cannot note what is open: %w", err)
	}
	return errors.Join(json.NewEncoder(f).Encode(l), f.Close())
}

// opened gives the layout of what is open, or else that of the words given.
func opened(ctx context.Context, args []string, say func(format string, args ...any)) (*layout.Layout, error) {
	b, err := os.ReadFile(openedFile)
	if errors.Is(err, os.ErrNotExist) {
		return layoutOf(ctx, args, say)
	}
	var l layout.Layout
	if err == nil {
		err = json.Unmarshal(b, &l)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what is open: %w", err)
	}
	return &l, nil
}

// layoutOf gives a set's layout, or the one that the medium carries.
func layoutOf(ctx context.Context, args []string, say func(format string, args ...any)) (*layout.Layout, error) {
	if len(args) > 0 {
		w, err := wanted()
		if err != nil {
			return nil, err
		}
		s, err := manifest.OpenNewest(ctx, args[0], w.OfHost(), say)
		if err != nil {
			return nil, err
		}
		return s.Layout, nil
	}
	file, err := os.Open(rescue.LayoutFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the layout: %w", err)
	}
	defer file.Close()
	return layout.Read(file)
}
