package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/recreate"
	"github.com/mkcdrec/mkcdrec/internal/storage"
)

// carryOut does the steps, unpacks archives as soon as their file systems are
// mounted, and makes the system start.
func (r *Restorer) carryOut(ctx context.Context) (err error) {
	id, digest := r.content.ID()
	done, err := r.journal.start(journalLine{Digest: r.plan.Digest(), Set: id, Manifest: digest, Disks: r.disks()}, r.opt.Resume)
	if err != nil {
		return err
	}
	r.locks = nil
	for i, s := range r.plan.Steps {
		locks, before := done[i]
		mount, mounts := s.(*plan.MountFS)
		// Mounts are not journaled: a stop ends them.
		if !mounts && before {
			r.Screen.Note("%d. %s: was done before", i+1, s)
			if err := r.again(ctx, i, s); err != nil {
				return err
			}
			continue
		}
		r.Screen.Note("%d. %s", i+1, s)
		if err := r.rec.Do(ctx, i); err != nil {
			return errors.Join(err, r.dryFull())
		}
		if mounts && !r.opt.DryRun {
			if locks, err = r.fill(ctx, mount, locks, before); err != nil {
				return &recreate.StepError{Number: i + 1, Step: s, Err: err}
			}
		}
		r.stop(i)
		if err := r.journal.done(i, s.String(), locks); err != nil {
			return err
		}
	}
	if r.opt.DryRun {
		if err := r.compareDry(ctx); err != nil {
			return err
		}
		return r.endDry(ctx)
	}
	return r.complete(ctx)
}

// again makes available what a step has made in an earlier run.
func (r *Restorer) again(ctx context.Context, i int, s plan.Step) error {
	switch s := s.(type) {
	case *plan.MakeArray:
		return storage.AssembleArray(ctx, r.Run, s.Device, s.Array.UUID, s.Array.Devs(), storage.Degraded) // as the plan has it
	case *plan.MakeCrypt:
		return storage.OpenCrypt(ctx, r.Run, s.Crypt, s.Device, r.rec.Keys[s.Crypt.Name].Passphrase, storage.ReadWrite)
	case *plan.RestoreVG:
		return storage.ActivateGroup(ctx, r.Run, s.Group, storage.ReadWrite)
	case *plan.PutImage:
		if more, ok := r.opt.Content.(Again); ok && !r.opt.NewIdentity {
			if err := more.Again(ctx, s.Image, func() (*os.File, error) { return r.rec.Again(s.Device) }, r.Screen); err != nil {
				return &recreate.StepError{Number: i + 1, Step: s, Err: err}
			}
		}
	}
	return nil
}

// fill restores the files of a file system that a step has mounted, unless an earlier run
// did, which left locks for them. It returns what is to be locked at the end.
func (r *Restorer) fill(ctx context.Context, s *plan.MountFS, locks []archive.Lock, before bool) ([]archive.Lock, error) {
	at, err := r.tree().Place(s)
	if err != nil {
		return nil, err
	}
	in, err := r.placeOf(s, at)
	if err == nil {
		err = in.isMounted(r.kernel(), s)
	}
	if err != nil {
		return nil, err
	}
	if before {
		r.Screen.Note("%s: was restored before", s)
		// What stays locked fails where it is to be changed.
		if _, err := archive.TakeLocksBelow(in.dest, in.below, locks); err != nil {
			return nil, err
		}
	} else if locks, err = r.unpack(ctx, s, in); err != nil {
		return nil, err
	}
	r.locks = append(r.locks, lockedPlace{in, s.Mount.Path, locks})
	// Before the journal records that they are there.
	r.Screen.Phase("writing "+cmp.Or(s.Mount.Path, "/dev/"+s.Device)+" to its disk", 0)
	return locks, r.tree().SyncMount(s)
}

// complete makes the system start, writes everything to the disks and closes them.
func (r *Restorer) complete(ctx context.Context) (err error) {
	if r.opt.Only == "" && !r.opt.DataOnly {
		err = r.finalize(ctx)
	}
	hooks := r.afterHooks(ctx, err)
	defer func() { err = errors.Join(err, hooks) }()
	if r.opt.WhenRead != nil {
		if e := r.opt.WhenRead(ctx); e != nil {
			r.Screen.Warn("%v", e)
		}
	}
	// Also where the system may not start: nobody may return to do it.
	if err := errors.Join(err, r.lock()); err != nil {
		return err
	}
	if err := r.tree().Seal(); err != nil {
		return err
	}
	r.Screen.Phase("writing everything to the disks", 0)
	if err := r.tree().Sync(); err != nil {
		return err
	}
	return r.tree().Release(ctx)
}

// disks are those of the plan, for the journal.
func (r *Restorer) disks() []journalDisk {
	var out []journalDisk
	for _, d := range r.plan.Disks {
		out = append(out, journalDisk{d.New.Name, r.Machine.Place(d.New.Name).Seq})
	}
	return out
}

// lock makes immutable or append-only what was so, now that nothing more is
// changed.
func (r *Restorer) lock() error {
	for _, l := range r.locks {
		problems, err := archive.SetLocksBelow(l.dest, l.below, l.locks)
		if err != nil {
			return err
		}
		r.problems(l.mount, problems)
	}
	return nil
}

func (r *Restorer) problems(mount string, problems []archive.Problem) {
	for _, p := range problems {
		r.Screen.Warn("%s/%v", strings.TrimSuffix(mount, "/"), p)
	}
	r.report.Problems = append(r.report.Problems, (&archive.Summary{Problems: problems}).Incomplete()...)
}

// unpack restores the archive of the file system that was just mounted, and gives
// what is to be locked in it.
func (r *Restorer) unpack(ctx context.Context, s *plan.MountFS, in place) ([]archive.Lock, error) {
	if s.FS.New {
		return nil, nil // there is nothing for it
	}
	if r.plan.Copied(s.FS.Device) { // everything is there
		if r.opt.DataOnly {
			return nil, nil
		}
		return unlocked(in)
	}
	start := time.Now()
	sum, err := r.content.Files(ctx, r.wasOn(s.FS.Device), *s.Mount, in.dest, archive.ExtractOptions{Below: in.below, Salvage: r.opt.Salvage, KeepUnlocked: true}, r.Screen)
	if err != nil || sum == nil {
		return nil, err
	}
	name := (&manifest.Archive{Device: r.wasOn(s.FS.Device), Mount: s.Mount.Path}).Name()
	r.problems(name, sum.Problems)
	r.report.Archives = append(r.report.Archives, Restored{name, s.Device, sum.Members, quantity.Size(sum.Data), time.Since(start).Seconds()})
	return sum.Locks, nil
}

// changedDirs are where files are that are changed when a system is made to start.
var changedDirs = []string{"boot", "efi", "etc", "grub", "grub2", "loader", "EFI", "var/log/mkcdrec", "var/lib/mkcdrec"}

// unlocked takes the locks off what a copied system has in those places, and gives them.
func unlocked(in place) ([]archive.Lock, error) {
	locks, err := archive.FindLocksBelow(in.dest, in.below, changedDirs...)
	if err != nil || len(locks) == 0 {
		return nil, err
	}
	problems, err := archive.TakeLocksBelow(in.dest, in.below, locks)
	if err == nil && len(problems) > 0 {
		err = fmt.Errorf("cannot unlock what has to be changed: %v", problems[0])
	}
	return locks, err
}

// wasOn gives the old machine's name for a device of the plan's layout.
func (r *Restorer) wasOn(dev string) string {
	for old, now := range r.plan.Layout.Moved {
		if now == dev {
			return old
		}
	}
	return dev
}
