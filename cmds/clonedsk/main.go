// Command clonedsk copies a disk with all that is on it onto a disk of any size.
// clonedsk --help describes it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/clone"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/restore"
	"github.com/mkcdrec/mkcdrec/internal/screen"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/ui"
	"github.com/mkcdrec/mkcdrec/internal/usage"
)

const text = `
Copies the disk SRC with all that is on it onto the disk DST, which may be smaller or larger. SRC is only read. Each partition is copied by its used blocks if its file system fits, as files if it gets smaller or its type changes, and as a whole if its content is not known. The plan shows which, before anything is written.

SRC may also be the directory of a Clonezilla image, an image of partclone, or a backup set; DST may be a new file, or for an image of partclone a partition. Several disks of one system are separated by commas:

  clonedsk sda,sdb sdc,sdd
`

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop, f := screen.Begin()
	defer stop()
	if len(args) == 2 && args[0] == clone.GuardWord { // started by internal/clone
		if err := clone.Guard(args[1], os.Stdin, os.Stdout); err != nil {
			return exit.Failed
		}
		return exit.OK
	}
	var o clone.Options
	var req restore.Request
	req.Flags(f.FlagSet, "plan", "yes", "confirm", "resume", "hostname", "forget", "size", "fs-type", "keep-sizes", "firmware", "key-file", "new-luks", "outside-rescue-system")
	f.BoolVar(&o.Verify, "verify", false, "read each copy back and compare it with the source; a difference ends the clone with exit status 1")
	f.BoolVar(&o.Raw, "raw", false, "copy whole disks byte by byte, with any content, onto disks that are at least as large")
	f.BoolVar(&o.Live, "live", false, "clone disks that are in use, those of the running system: from LVM or btrfs snapshots, others as files while they are in use")
	f.BoolVar(&o.Freeze, "freeze", false, "with --live, copy ext and XFS file systems that keep their UUIDs by blocks, and let programs that write to them wait meanwhile")
	f.StringVar(&o.Map, "map", "", "`FILE` that records which areas of a failing SRC were copied, as GNU ddrescue does; with --resume, what is finished in it is left out and bad sectors are tried again")
	f.StringVar(&o.Identity, "identity", clone.Keep, "`keep|new`: keep the UUIDs, for a source that is retired, or new ones, so that both disks can be used in one machine")
	target := f.String("target-size", "", "`SIZE` of a DST that is a new file: disk.img, disk.qcow2")
	f.StringVar(&o.Root, "root", "", "`DEV` of the root file system, where SRC has several systems")
	c := usage.Command{Name: "clonedsk", Summary: "copy a disk onto a disk of any size", Args: "SRC DST", Text: text, Flags: f.FlagSet}
	_, words, err := c.Parse(os.Stdout, args)
	p, end := f.Printer()
	defer end()
	if err == nil {
		err = prepare(&o, words, &req)
	}
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
func prepare(o *clone.Options, words []string, req *restore.Request) error {
	if len(words) != 2 {
		return exit.Usage(fmt.Errorf("expected SRC and DST, not %d words", len(words)))
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
	if o.Identity == clone.Keep && (req.Hostname != "" || len(req.Forget) > 0) {
		return exit.Usage(errors.New("--hostname and --forget are for --identity new"))
	}
	if o.Raw && (o.Identity == clone.New || len(req.Size)+len(req.FSType) > 0 || req.Firmware != "") {
		return exit.Usage(errors.New("--raw changes nothing on the disk: leave out --identity new, --size, --fs-type and --firmware"))
	}
	switch {
	case o.Freeze && !o.Live:
		return exit.Usage(errors.New("--freeze is for --live"))
	case o.Live && (o.Raw || o.Verify || o.Map != "" || req.Resume):
		return exit.Usage(errors.New("--live cannot be combined with --raw, --verify, --map or --resume: the source changes while it is copied"))
	}
	req.NewIdentity = o.Identity == clone.New
	opt, err := req.Validate()
	if err != nil {
		return err
	}
	o.Restore, o.Personal = *opt, opt.Personal
	return nil
}

func do(ctx context.Context, p *ui.Printer, o clone.Options) error {
	if !o.Restore.PlanOnly {
		ui.KeepRunning()
	}
	rep, err := clone.Run(ctx, tool.Exec{Log: func(s string) { p.Detail("+ %s", s) }}, screen.New(ctx, p, os.Stdin, os.Stderr), o)
	if err != nil {
		return err
	}
	p.End()
	if o.Restore.PlanOnly {
		p.Result("plan", rep.Planned())
		return screen.Lacking(rep)
	}
	p.Result("restore", rep)
	p.Note("the clone is finished in %.0f s", rep.Seconds)
	if _, err := os.Stat("/dev/" + o.Source[0]); err == nil && o.Identity == clone.Keep && !o.Restore.PlanOnly {
		p.Note("both disks have the same UUIDs: remove one of them before the machine boots")
	}
	return screen.Lacking(rep)
}
