package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/mkcdrec/mkcdrec/builder"
	"github.com/mkcdrec/mkcdrec/builder/rescue"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/loaders"
	"github.com/mkcdrec/mkcdrec/internal/multicall"
	"github.com/mkcdrec/mkcdrec/internal/nightly"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/streams"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/ui"
	"github.com/mkcdrec/mkcdrec/internal/usage"
	"github.com/mkcdrec/mkcdrec/internal/version"
)

// rescueFlags are the options of every command that makes a rescue system.
func rescueFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "kernel", Usage: "kernel image `FILE` instead of the running one"},
		&cli.StringFlag{Name: "modules", Usage: "`DIR` of the kernel's modules instead of /lib/modules/VERSION"},
		&cli.StringFlag{Name: "module-set", Usage: "`host|default|all`: set of drivers"},
		&cli.StringFlag{Name: "programs", Usage: "`comfort|needed|required|none`: programs of this machine to carry; comfort reads some from the medium when they are used, required has no editor, pager and bash, none makes a medium that can't restore"},
		&cli.StringFlag{Name: "default", Usage: "`local|rescue`: entry of the menu that starts after the time-out"},
		&cli.StringFlag{Name: "medium-size", Usage: "refuse an image larger than `SIZE`: bytes, or 700M, 4G, CD, DVD"},
		&cli.StringFlag{Name: "append", Usage: "`WORDS` for the rescue system's kernel command line"},
	}
}

func (a *app) rescueOptions(c *cli.Command) error {
	r := &a.cfg.Rescue
	for name, to := range map[string]*string{"kernel": &r.Kernel, "modules": &r.ModulesDir, "module-set": &r.Modules, "append": &r.Append, "programs": &r.Programs, "default": &r.Default, "medium-size": &r.MediumSize} {
		if c.IsSet(name) {
			*to = c.String(name)
		}
	}
	if err := a.cfg.Validate(); err != nil {
		return exit.Usage(err)
	}
	return nil
}

func (a *app) rescueCommand() *cli.Command {
	return &cli.Command{Name: "rescue", Usage: "make a rescue medium, without a backup",
		Flags: append(rescueFlags(), &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "image `FILE`; HOST-rescue.iso if not given"},
			&cli.BoolFlag{Name: "if-changed", Usage: "do nothing if FILE is a whole medium, and neither the storage layout nor anything that goes onto the medium has changed since"},
			&cli.BoolFlag{Name: "local", Usage: "no image: put the rescue system onto this machine, and into its boot menu"},
			&cli.BoolFlag{Name: "local-remove", Usage: "remove the rescue system and its entry again"}),
		Action: func(ctx context.Context, c *cli.Command) error {
			if err := a.rescueOptions(c); err != nil {
				return err
			}
			b, err := a.builder()
			if err != nil {
				return err
			}
			if c.Bool("local") || c.Bool("local-remove") {
				return a.local(ctx, c, b)
			}
			return a.medium(ctx, c, b)
		}}
}

// medium makes a rescue medium, with --if-changed only if it would be another one.
func (a *app) medium(ctx context.Context, c *cli.Command, b *builder.Builder) error {
	if o := c.String("output"); o != "" {
		if err := regular.Output(o); errors.Is(err, regular.ErrNot) {
			return &exit.Refusal{Reason: err.Error() + "; write the image to a file, and copy that to a stick with dd, or make a stick with usbkey"}
		} else if err != nil {
			return err
		}
	}
	p, err := a.rescuePlan(ctx, b, c.Bool("if-changed"))
	if err != nil {
		return err
	}
	out := cmp.Or(c.String("output"), p.Layout.Hostname+"-rescue.iso")
	same := false
	if c.Bool("if-changed") {
		why, err := b.Maker().Changed(ctx, p.Machine(), out)
		if err != nil {
			return err
		}
		same = len(why) == 0
		for _, w := range why {
			a.ui.Note("changed: %s", w)
		}
	}
	switch {
	case same:
		a.ui.Note("%s is not made again: nothing has changed", out)
	case c.Bool("dry-run"):
		if err := b.Maker().Try(ctx, p.Machine()); err != nil {
			return err
		}
		a.ui.Note("would write %s", out)
		return nil
	default:
		if err := b.Maker().Medium(ctx, p.Machine(), rescue.Hint{}, out); err != nil {
			return err
		}
	}
	st, err := os.Stat(out)
	if err != nil {
		return err
	}
	a.ui.Result("image", builder.ImageResult{ISO: out, Bytes: st.Size(), Unchanged: same})
	a.ui.Note("%s, %s", out, quantity.Size(st.Size()))
	return nil
}

// local adds the rescue system to this machine's boot menu, or removes it.
func (a *app) local(ctx context.Context, c *cli.Command, b *builder.Builder) error {
	if c.Bool("local") && c.Bool("local-remove") || c.IsSet("output") || c.Bool("if-changed") {
		return exit.Usage(errors.New("use only one of --local, --local-remove, and --output with or without --if-changed"))
	}
	p, err := a.plan(ctx, b, "")
	if err != nil {
		return err
	}
	if c.Bool("dry-run") {
		if c.Bool("local") {
			err = b.Maker().Try(ctx, p.Machine())
		}
		if err == nil {
			a.ui.Note("would change this machine's boot menu")
		}
		return err
	}
	if c.Bool("local-remove") {
		if err := rescue.LocalRemove(p.Layout); err != nil {
			return err
		}
		a.ui.Note("the rescue system is removed from this machine")
		return nil
	}
	done, err := b.Maker().Local(ctx, p.Machine())
	if err != nil {
		return err
	}
	a.ui.Result("local", done)
	for _, d := range done {
		a.ui.Note("added: %s", d)
	}
	return nil
}

// rescuePlan is the plan for a medium without a backup, which can be made of a
// machine whose disks can't be read, too, unless its layout must be known.
func (a *app) rescuePlan(ctx context.Context, b *builder.Builder, must bool) (*builder.Plan, error) {
	p, err := a.plan(ctx, b, "")
	if must {
		return p, err
	}
	if err != nil {
		a.ui.Warn("%v\nthe medium is made without this machine's layout: it can restore sets, but knows nothing of this machine", err)
		return builder.Unprobed(), nil
	}
	return p, nil
}

func (a *app) pxeCommand() *cli.Command {
	return &cli.Command{Name: "pxe", Before: noDryRun, Usage: "write a tree for network boot into DIR, for any TFTP and HTTP server", ArgsUsage: "DIR",
		Description: "pxelinux, GRUB for UEFI, an iPXE script, and UEFI HTTP Boot. DIR/README.txt describes how to serve it.",
		Flags: append(rescueFlags(),
			&cli.StringFlag{Name: "url", Usage: "where DIR is served by HTTP, http://SERVER/DIR; without it all goes by TFTP"},
			&cli.StringFlag{Name: "source", Usage: "`URL` of the backup set, for the rescue system"},
			&cli.StringFlag{Name: "host", Usage: "`NAME` of the machine whose set that is; without it the set is asked, or else it is this machine"}),
		Action: func(ctx context.Context, c *cli.Command) error {
			if c.Args().Len() != 1 {
				return exit.Usage(fmt.Errorf("pxe wants one directory, not %d", c.Args().Len()))
			}
			if err := a.rescueOptions(c); err != nil {
				return err
			}
			b, err := a.builder()
			if err != nil {
				return err
			}
			dir := c.Args().First()
			p, err := a.rescuePlan(ctx, b, false)
			if err != nil {
				return err
			}
			if err := b.Maker().PXE(ctx, p.Machine(), dir, rescue.PXEOptions{URL: c.String("url"), Source: c.String("source"), Host: c.String("host")}); err != nil {
				return err
			}
			a.ui.Result("netboot", builder.TreeResult{Dir: dir})
			a.ui.Note("%s: README.txt there describes how to serve it", dir)
			return nil
		}}
}

// plan reads the machine and decides what is saved.
func (a *app) plan(ctx context.Context, b *builder.Builder, dir string) (*builder.Plan, error) {
	l, mounts, err := b.Probe(ctx)
	if err != nil {
		return nil, err
	}
	p, err := builder.NewPlan(a.cfg, l, mounts, dir)
	if err == nil && len(p.Idle) > 0 {
		a.ui.Warn("exclude_devices: this machine has no %s", strings.Join(p.Idle, ", "))
	}
	return p, err
}

func (a *app) pathCommand() *cli.Command {
	return &cli.Command{Name: "path", Usage: "write a backup set and its rescue medium below DIR", ArgsUsage: "[DIR|URL]",
		Description: "The set appears as DIR/HOST-TIME when it is complete. The backups in DIR are left out of\nit; the file system that DIR is on is saved, unless it holds nothing but backups. With -n, every path that would be saved is listed.\n\nURL is a place on a server: sftp://HOST/DIR, s3://HOST/BUCKET, https://HOST/DIR (WebDAV), nfs://HOST/DIR, smb://HOST/SHARE, or rclone:REMOTE:PATH. docs/STORES.md has what each needs. With encrypt in the configuration, the set is encrypted for its recipients.\n\nWithout DIR the key destination of the configuration names it. If the configuration has the key keep, old sets of this machine are removed as by prune once the new one is complete. While another backup of this machine to DIR runs, path ends with status 4 and names its process.",
		Flags:       append(rescueFlags(), &cli.StringFlag{Name: "credentials", Usage: "`FILE` with the secrets of servers, instead of the one that the configuration names"}),
		Action: func(ctx context.Context, c *cli.Command) error {
			dir, err := a.destination(c)
			if err != nil {
				return err
			}
			if err := store.CheckWritten(dir); err != nil {
				return exit.Usage(err)
			}
			if err := a.rescueOptions(c); err != nil {
				return err
			}
			b, err := a.builder()
			if err != nil {
				return err
			}
			run := nightly.Run{Started: time.Now(), Destination: sysconf.RedactURL(dir), NotCovered: []string{}}
			if !c.Bool("dry-run") {
				a.begin(run)
			}
			var is *layout.Layout
			err = a.hooked(ctx, c, b, dir, func() (string, error) {
				r, l, err := a.path(ctx, c, b, dir)
				if is = l; r == nil || err != nil {
					return "", err
				}
				run.Set, run.Size = r.Dir, r.Manifest.Size()
				run.NotCovered = append(run.NotCovered, r.NotCovered...)
				return r.Dir, lacking(r.NotCovered)
			})
			if !c.Bool("dry-run") {
				a.record(ctx, b, run, is, err)
			}
			return err
		}}
}

// path makes a set in a directory or on a server. A dry run only lists what it would have. The
// layout is that of the machine, also with an error, or nil where that is not known.
func (a *app) path(ctx context.Context, c *cli.Command, b *builder.Builder, dir string) (*builder.Result, *layout.Layout, error) {
	local := dir
	if store.IsHome(dir) {
		local = ""
	}
	p, err := a.plan(ctx, b, local)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range p.LeftOut {
		a.ui.Note("left out: %s", e)
	}
	if c.Bool("dry-run") {
		if short := b.Short(p, dir); local != "" && short != "" {
			a.ui.Warn("%s", short)
			for _, s := range b.WouldRemove(ctx, p, dir) {
				a.ui.Note("would be removed before the backup, as far as needed: %s", s)
			}
		}
		b.SnapshotPlan(ctx, p)
		return nil, p.Layout, a.listPlanned(ctx, c, p)
	}
	r, err := a.write(ctx, c, b, p, dir)
	if err != nil {
		return nil, p.Layout, err
	}
	a.ui.End()
	a.ui.Result("backup", r)
	if !c.Bool("json") && !c.Bool("quiet") {
		a.summary(c, r)
	}
	return r, p.Layout, nil
}

// write writes the set of a plan.
func (a *app) write(ctx context.Context, c *cli.Command, b *builder.Builder, p *builder.Plan, dir string) (r *builder.Result, err error) {
	if !store.IsHome(dir) && !a.cfg.Encrypt {
		return b.Path(ctx, p, dir)
	}
	access, err := a.ring(ctx, c).Access()
	if err != nil {
		return nil, err
	}
	home, err := store.OpenHome(ctx, dir, access)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, home.Close()) }()
	return b.ToHome(ctx, p, home, dir)
}

// hooked does the work of a command that writes a backup to a destination, between its
// hooks. A dry run names them.
func (a *app) hooked(ctx context.Context, c *cli.Command, b *builder.Builder, destination string, work func() (set string, err error)) error {
	switch {
	case c.Bool("dry-run"):
	case c.Name == "path":
		return b.Alone(ctx, c.Name, destination, work)
	default:
		return b.Hooked(ctx, c.Name, destination, work)
	}
	if err := b.HookPlan(); err != nil {
		return err
	}
	_, err := work()
	return err
}

// lacking is the error of a set that lacks something.
func lacking(what []string) error {
	if len(what) > 0 {
		return exit.NotCovered(what)
	}
	return nil
}

func (a *app) cdromCommand() *cli.Command {
	return &cli.Command{Name: "cdrom", Usage: "write a backup as images of discs, with the rescue system on the first", ArgsUsage: "[DIR]",
		Description: "DIR (or the current directory) gets HOST-TIME_1.iso, HOST-TIME_2.iso ..., and needs\nroom for the backup and the images. --burn writes them to discs, too.",
		Flags: append(rescueFlags(),
			&cli.StringFlag{Name: "size", Value: "CD", Usage: "`SIZE` of a disc: CD, DVD, DVD-DL, BD, or bytes with K, M, G"},
			&cli.StringFlag{Name: "from", Usage: "make discs of the existing backup `SET`"},
			&cli.BoolFlag{Name: "keep-set", Usage: "keep the backup set that the images were made of"},
			&cli.StringFlag{Name: "burn", Usage: "burn the images in the drive `DEV`, and read them back"}),
		Action: func(ctx context.Context, c *cli.Command) error {
			if err := a.rescueOptions(c); err != nil {
				return err
			}
			size, ok := quantity.Medium(c.String("size"))
			if !ok {
				var err error
				if size, err = quantity.Parse(c.String("size")); err != nil {
					return exit.Usage(fmt.Errorf("--size: %w", err))
				}
			}
			if size < builder.SmallestDisc {
				return exit.Usage(fmt.Errorf("--size: a disc of %s is too small for a rescue system; the smallest has %s", size, builder.SmallestDisc))
			}
			dir := c.Args().First()
			if dir == "" {
				dir = "."
			}
			b, err := a.builder()
			if err != nil {
				return err
			}
			if c.IsSet("burn") {
				if err := builder.CheckBurn(c.String("burn")); err != nil {
					return err
				}
			}
			opt := builder.DiscOptions{Size: size, From: c.String("from"), Keep: c.Bool("keep-set")}
			if c.IsSet("from") { // nothing is backed up
				p, err := a.rescuePlan(ctx, b, false)
				if err == nil {
					_, err = a.discs(ctx, c, b, p, dir, opt)
				}
				return err
			}
			return a.hooked(ctx, c, b, dir, func() (string, error) {
				p, err := a.plan(ctx, b, dir)
				if err != nil {
					return "", err
				}
				return a.discs(ctx, c, b, p, dir, opt)
			})
		}}
}

// discs writes, and burns, images of discs, and returns the place of their set.
func (a *app) discs(ctx context.Context, c *cli.Command, b *builder.Builder, p *builder.Plan, dir string, opt builder.DiscOptions) (string, error) {
	if c.Bool("dry-run") {
		return "", a.listPlanned(ctx, c, p)
	}
	r, err := b.Discs(ctx, p, dir, opt)
	if err != nil {
		return "", err
	}
	a.ui.End()
	a.ui.Result("discs", r)
	if !c.Bool("json") && !c.Bool("quiet") {
		var rows [][]string
		for _, i := range r.Images {
			rows = append(rows, []string{i.File, i.Label, i.Size.String()})
		}
		ui.Table(c.Root().Writer, []string{"IMAGE", "LABEL", "SIZE"}, rows)
	}
	if c.IsSet("burn") {
		if err := b.Burn(ctx, c.String("burn"), r.Images, askEnter(ctx)); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, r.Set), lacking(r.NotCovered)
}

// askEnter shows a text on the terminal and waits for Enter; nil without one.
func askEnter(ctx context.Context) func(string) error {
	t := streams.OpenTerminal()
	if t == nil {
		return nil
	}
	return func(text string) error {
		_, err := t(ctx, text+", then press Enter: ")
		return err
	}
}

// listPlanned prints every path, of any bytes, quoted, with its archive.
func (a *app) listPlanned(ctx context.Context, c *cli.Command, p *builder.Plan) error {
	w := c.Root().Writer
	b, err := a.builder()
	if err != nil {
		return err
	}
	if err := b.Maker().Try(ctx, p.Machine()); err != nil {
		return err
	}
	total, err := p.List(ctx, b, func(ar builder.PlannedArchive, m *archive.Member) error {
		path := filepath.Join(ar.Name(), m.Path)
		a.ui.Result("entry", builder.EntryResult{Path: path})
		_, err := fmt.Fprintf(w, "%s\n", archive.Quote(path))
		return err
	}, func(l builder.Left) { a.ui.Note("left out: %s by rule %s", archive.Quote(l.Path), l.Rule) })
	if err != nil {
		return err
	}
	a.ui.Note("would save %s in %d archives", quantity.Size(total), len(p.Archives))
	return lacking(p.NotCovered)
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
	return &cli.Command{Name: "test", Usage: "check this machine's prerequisites", ArgsUsage: "[" + strings.Join(builder.Scopes, "|") + "]", Flags: rescueFlags(),
		Description: "For what the command needs; path, which needs the most, if none is named.",
		Action: func(ctx context.Context, c *cli.Command) error {
			if err := a.rescueOptions(c); err != nil {
				return err
			}
			b, err := a.builder()
			if err != nil {
				return err
			}
			scope := builder.ForPath
			if c.Args().Present() {
				scope = c.Args().First()
			}
			if c.Args().Len() > 1 || !slices.Contains(builder.Scopes, scope) {
				return exit.Usage(fmt.Errorf("test takes one of %s, not %q", strings.Join(builder.Scopes, ", "), strings.Join(c.Args().Slice(), " ")))
			}
			checks := b.Test(ctx, scope)
			a.ui.Result("checks", checks)
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

// linked are the commands of the multicall binary that are links beside mkcdrec on a host.
var linked = []string{"restore", "clonedsk", "cutstream", "pastestream"}

func (a *app) completionCommand() *cli.Command {
	return &cli.Command{Name: "completion", Usage: "print the completion of our commands for a shell", ArgsUsage: strings.Join(usage.Shells, "|"),
		Description: "Packages install it. Without one: eval \"$(mkcdrec completion bash)\", in fish: mkcdrec completion fish | source",
		Action: func(ctx context.Context, c *cli.Command) error {
			if c.Args().Len() != 1 || !slices.Contains(usage.Shells, c.Args().First()) {
				return exit.Usage(fmt.Errorf("expected one of %s", strings.Join(usage.Shells, ", ")))
			}
			w := a.out // a script is not an event
			fmt.Fprint(w, define(a.command()).Define().Completion(c.Args().First()))
			exe, err := os.Executable()
			for _, n := range linked {
				var b []byte
				if err == nil {
					b, err = tool.Exec{}.Run(ctx, tool.Cmd{Args: []string{exe, multicall.Applet, n, usage.JSON}})
				}
				var d *usage.Command
				if err == nil {
					d, err = usage.Read(b)
				}
				if err == nil {
					_, err = fmt.Fprint(w, d.Completion(c.Args().First()))
				}
			}
			return err
		}}
}

func (a *app) versionCommand() *cli.Command {
	return &cli.Command{Name: "version", Usage: "print the version",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "loaders", Usage: "and the boot loaders in this program, with their licences"}},
		Action: func(_ context.Context, c *cli.Command) error {
			w := c.Root().Writer
			if !c.Bool("loaders") {
				a.ui.Result("version", builder.VersionResult{Version: version.String()})
				_, err := fmt.Fprintln(w, "mkcdrec", version.String())
				return err
			}
			exe, err := os.Executable()
			if err != nil {
				return fmt.Errorf("cannot find this program's own file: %w", err)
			}
			p, err := loaders.Open(exe)
			if err != nil {
				return err
			}
			a.ui.Result("loaders", p.Packages)
			if c.Bool("json") {
				return nil
			}
			var rows [][]string
			for _, k := range p.Packages {
				for i, f := range k.Files {
					if i == 0 {
						rows = append(rows, []string{k.Name, k.Version, k.Licence, f, k.Source})
					} else {
						rows = append(rows, []string{"", "", "", f, ""})
					}
				}
			}
			fmt.Fprintln(w, "mkcdrec", version.String())
			ui.Table(w, []string{"DEBIAN PACKAGE", "VERSION", "LICENCE", "FILE", "SOURCE CODE"}, rows)
			return nil
		}}
}
