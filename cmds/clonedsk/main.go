// clonedsk copies a disk with all that is on it onto a disk of any size.
//
//	clonedsk [OPTIONS] SRC DST
//
// Each partition is copied by its used blocks if its file system fits, as files if it gets
// smaller or its type changes, and as a whole if its content is not known. The plan says
// which, before anything is written. SRC is only read.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/clone"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/screen"
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
	debug.SetMemoryLimit(archive.MemoryLimit())
	if len(args) == 2 && args[0] == clone.GuardWord { // started by internal/clone
		if err := clone.Guard(args[1], os.Stdin, os.Stdout); err != nil {
			return exit.Failed
		}
		return exit.OK
	}
	f := flag.NewFlagSet("clonedsk", flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "Usage: clonedsk [OPTIONS] SRC DST\nCopies the disk SRC with all that is on it onto the disk DST, which may be smaller or larger.\nSRC may also be the directory of a Clonezilla image, an image of partclone, or a backup set; DST may be a new file, or for an image of partclone a partition. Several disks of one system are separated by commas: clonedsk sda,sdb sdc,sdd\n\n")
		f.PrintDefaults()
	}
	var o clone.Options
	var sizes, types, confirm, forget list
	r := &o.Restore
	f.BoolVar(&r.PlanOnly, "plan", false, "print what would be done, and stop")
	f.BoolVar(&r.Yes, "yes", false, "ask nothing; every disk that is overwritten must be named by --confirm")
	f.Var(&confirm, "confirm", "`SERIAL` number of a disk that may be overwritten")
	f.BoolVar(&r.Resume, "resume", false, "continue after the last finished step of the run before")
	f.BoolVar(&o.Verify, "verify", false, "read each copy back and compare it with the source; a difference ends the clone with exit status 1")
	f.BoolVar(&o.Raw, "raw", false, "copy whole disks byte by byte, whatever is on them, onto disks that are at least as large")
	f.BoolVar(&o.Live, "live", false, "clone disks that are in use, those of the running system: from LVM or btrfs snapshots, others as files while they are in use")
	f.BoolVar(&o.Freeze, "freeze", false, "with --live, copy ext and XFS file systems that keep their UUIDs by blocks, and let programs that write to them wait meanwhile")
	f.StringVar(&o.Map, "map", "", "`FILE` that records which areas of a failing SRC were copied, as GNU ddrescue does; with --resume, what is finished in it is left out and bad sectors are tried again")
	f.StringVar(&o.Identity, "identity", clone.Keep, "`keep` the UUIDs, for a source that is retired, or new ones, so that both disks can be used in one machine")
	f.StringVar(&o.Personal.Hostname, "hostname", "", "`NAME` of the clone's system, with --identity new")
	f.Var(&forget, "forget", "`PATH` or pattern of files that are removed from the clone, with --identity new: licences, keys")
	f.Var(&sizes, "size", "`WHAT=SIZE`: what is mounted there, or a swap device, gets this size: /=20G")
	f.Var(&types, "fs-type", "`MOUNT=TYPE`: another type for a file system: ext2, ext3, ext4, xfs or btrfs")
	f.BoolVar(&r.Wish.Keep, "keep-sizes", false, "every partition and volume keeps its size, whatever the disk")
	f.StringVar(&r.Wish.Firmware, "firmware", "", "`uefi` or bios: convert the system to boot with this firmware")
	target := f.String("target-size", "", "`SIZE` of a DST that is a new file: disk.img, disk.qcow2")
	f.StringVar(&o.Root, "root", "", "`DEV` of the root file system, where SRC has several systems")
	f.StringVar(&r.Secrets.KeyFile, "key-file", "", "`FILE` with the passphrase of LUKS devices; asked for without")
	f.BoolVar(&r.Wish.NewLUKS, "new-luks", false, "recreate LUKS devices with a new passphrase and without their other keys")
	f.BoolVar(&r.Outside, "outside-rescue-system", false, "allow this on a machine that is not a rescue system")
	asJSON := f.Bool("json", false, "one JSON event per line on standard output")
	verbose := f.Bool("v", false, "say more")
	var words []string
	for len(args) > 0 { // options may come last
		if err := f.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return exit.OK
			}
			return exit.BadUsage
		}
		if args = f.Args(); len(args) > 0 {
			words, args = append(words, args[0]), args[1:]
		}
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
	r.Wish.Confirmed, o.Personal.Forget = confirm, forget
	err := prepare(&o, words, sizes, types)
	if err == nil && *target != "" {
		if o.TargetSize, err = quantity.Parse(*target); err != nil || o.TargetSize <= 0 {
			err = exit.Usage(fmt.Errorf("--target-size: %q is not a size such as 20G", *target))
		}
	}
	if err == nil {
		err = do(ctx, p, o)
	}
	p.End()
	err = screen.Interrupted(ctx, err)
	return exit.Status(p, "clonedsk", err, screen.Hint(err, "clonedsk", false))
}

// prepare takes the words and wishes of the command line.
func prepare(o *clone.Options, words, sizes, types []string) error {
	if len(words) != 2 {
		return exit.Usage(fmt.Errorf("clonedsk wants a source and a target, not %d words", len(words)))
	}
	disks := func(s string) (out []string) {
		if st, err := os.Stat(s); err == nil && st.IsDir() || strings.Contains(s, ":") {
			return []string{s} // an image or a set
		}
		for _, d := range strings.Split(s, ",") {
			out = append(out, strings.TrimPrefix(d, "/dev/")) // a file has another path
		}
		return out
	}
	o.Source, o.Target = disks(words[0]), disks(words[1])
	if o.Identity != clone.Keep && o.Identity != clone.New {
		return exit.Usage(fmt.Errorf("--identity %q is neither keep nor new", o.Identity))
	}
	if o.Identity == clone.Keep && (o.Personal.Hostname != "" || len(o.Personal.Forget) > 0) {
		return exit.Usage(errors.New("--hostname and --forget are for --identity new"))
	}
	if err := o.Personal.Check(); err != nil {
		return exit.Usage(err)
	}
	w := &o.Restore.Wish
	if o.Raw && (o.Identity == clone.New || len(sizes)+len(types) > 0 || w.Firmware != "") {
		return exit.Usage(errors.New("--raw changes nothing on the disk: leave out --identity new, --size, --fs-type and --firmware"))
	}
	switch {
	case o.Freeze && !o.Live:
		return exit.Usage(errors.New("--freeze is for --live"))
	case o.Live && (o.Raw || o.Verify || o.Map != "" || o.Restore.Resume):
		return exit.Usage(errors.New("--live cannot be combined with --raw, --verify, --map or --resume: the source changes while it is copied"))
	}
	w.Sizes, w.Types = map[string]quantity.Size{}, map[string]string{}
	for _, s := range sizes {
		i := strings.LastIndexByte(s, '=')
		if i <= 0 {
			return exit.Usage(fmt.Errorf("--size %q is not WHAT=SIZE", s))
		}
		n, err := quantity.Parse(s[i+1:])
		if err != nil || n <= 0 {
			return exit.Usage(fmt.Errorf("--size %s: %q is not a size such as 20G", s, s[i+1:]))
		}
		w.Sizes[strings.TrimPrefix(s[:i], "/dev/")] = n.AlignUp(quantity.MiB)
	}
	for _, t := range types {
		i := strings.LastIndexByte(t, '=')
		if i <= 0 {
			return exit.Usage(fmt.Errorf("--fs-type %q is not MOUNT=TYPE", t))
		}
		w.Types[t[:i]] = t[i+1:]
	}
	if w.Firmware != "" && w.Firmware != "uefi" && w.Firmware != "bios" {
		return exit.Usage(fmt.Errorf("--firmware %q is neither uefi nor bios", w.Firmware))
	}
	if len(sizes) > 0 && w.Keep {
		return exit.Usage(errors.New("--size and --keep-sizes exclude each other"))
	}
	return nil
}

func do(ctx context.Context, p *ui.Printer, o clone.Options) error {
	rep, err := clone.Run(ctx, tool.Exec{Log: func(s string) { p.Detail("+ %s", s) }}, screen.New(ctx, p, os.Stdin, os.Stderr), o)
	if err != nil {
		return err
	}
	p.End()
	if o.Restore.PlanOnly {
		p.Result(map[string]any{"plan": rep.Plan, "layout": rep.Plan.Layout, "notCovered": rep.NotCovered})
		return screen.Lacking(rep)
	}
	p.Result(rep)
	p.Note("the clone is finished in %.0f s", rep.Seconds)
	if _, err := os.Stat("/dev/" + o.Source[0]); err == nil && o.Identity == clone.Keep && !o.Restore.PlanOnly {
		p.Note("both disks have the same UUIDs: remove one of them before the machine boots")
	}
	return screen.Lacking(rep)
}
