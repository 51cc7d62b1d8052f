// Package restore brings a machine back from a backup set: verify, map disks,
// plan, confirm, recreate, restore the files, make it start. Until the plan is
// confirmed nothing is written anywhere.
package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/bootloader"
	"github.com/mkcdrec/mkcdrec/internal/identity"
	"github.com/mkcdrec/mkcdrec/internal/inroot"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/medium"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/recreate"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Options of one restore: a request that was validated, and what a program adds to it.
type Options struct {
	Request
	// Wish is what the request says of disks.
	Wish     plan.Wish
	Personal identity.Personal
	// Content is used instead of a set, where it is not nil. The devices that it is read
	// from are in Sources, by name without /dev/, each with the reason for which it must
	// not be overwritten.
	Content Content
	Sources map[string]string
	// Draft, if not nil, changes the plan before its steps are made. was gives Content's
	// name of a device that the draft has.
	Draft func(d *plan.Draft, was func(dev string) string) error
	// DataOnly says that there is no system that has to boot.
	DataOnly bool
	// Wanted says which set is meant where there are several. Found: nobody named Set,
	// it was found; when nothing is asked, it must be the one that is wanted, or of
	// that host.
	Wanted manifest.Wanted
	Found  bool
	// WhenRead is called when everything was read from the content, before the file
	// systems are unmounted: what is kept on them for others can go. nil for nothing.
	WhenRead func(context.Context) error
	Target   string // rescue.TargetDir if ""
	// Known are passphrases that opened the source of a clone, and are tried first.
	Known [][]byte
}

// Screen is what a restore shows to the person in front of it.
type Screen interface {
	progress.Reporter
	Asker
	// Plan shows what will be done.
	Plan(p *plan.Plan, c Content)
	// Choose asks which of several disks takes an old one's place, and gives the
	// name of one of them. An error says why nobody chose.
	Choose(u *plan.Undecided) (string, error)
	// Confirm asks for the serial numbers of the plan's disks and returns what
	// was typed.
	Confirm(p *plan.Plan) ([]string, error)
}

// Report is what was done.
type Report struct {
	// Plan is what was done, or would be.
	Plan     *plan.Plan `json:"-"`
	Archives []Restored
	Problems []archive.Problem
	// NotCovered is what the set lacks: it was on the old machine, and is not restored.
	NotCovered []string
	Seconds    float64
}

// Restored is one archive that was unpacked.
type Restored struct {
	Mount   string
	Device  string
	Members int64
	Data    quantity.Size
	Seconds float64
}

// Restorer carries out one restore.
type Restorer struct {
	Run     tool.Runner
	Screen  Screen
	Machine probe.Machine
	opt     Options
	content Content
	set     *manifest.Set // nil where the content is none
	plan    *plan.Plan
	rec     *recreate.Recreator
	journal *journal
	report  Report
	have    []plan.Present
	replace []bootloader.Identity // of a new identity
	sources []string              // devices that the set is read from
	// locks are what becomes immutable or append-only at the end.
	locks []lockedPlace
}

// Untouched is a failure before anything was written to a disk.
type Untouched struct{ Err error }

func (u *Untouched) Error() string { return u.Err.Error() }
func (u *Untouched) Unwrap() error { return u.Err }

// Restore does it. A *plan.Refused error means that nothing was written, unless a
// *recreate.StepError has it.
func (r *Restorer) Restore(ctx context.Context, opt Options) (*Report, error) {
	start := time.Now()
	r.opt = opt
	if r.opt.Target == "" {
		r.opt.Target = rescue.TargetDir
	}
	if !opt.PlanOnly && !opt.DryRun && !opt.Outside && !rescue.Inside() {
		return nil, &plan.Refused{Reason: "this is not a rescue system, and restore overwrites disks; --outside-rescue-system allows it, --plan shows what it would do"}
	}
	if !opt.PlanOnly {
		release, err := r.alone()
		if err != nil {
			return nil, &Untouched{err}
		}
		defer release()
	}
	if err := r.prepare(ctx); err != nil {
		return nil, &Untouched{err}
	}
	r.report.Plan = r.plan
	r.Screen.Plan(r.plan, r.content)
	r.lacks()
	if opt.PlanOnly {
		return &r.report, nil
	}
	if opt.DryRun {
		r.dryKeys()
		return &r.report, r.carryOut(ctx)
	}
	if opt.Once && !opt.Resume && opt.Only == "" {
		if err := r.before(ctx); err != nil {
			return nil, &Untouched{err}
		}
	}
	if err := r.confirm(); err != nil {
		return nil, &Untouched{err}
	}
	if err := r.keys(ctx); err != nil {
		return nil, &Untouched{err}
	}
	// Between plan and confirmation a person may have pulled out the stick.
	for _, dev := range r.sources {
		if _, err := os.Stat("/sys/class/block/" + dev); err != nil {
			return nil, &Untouched{&plan.Refused{Reason: "/dev/" + dev + ", which holds the backup set, is disconnected: connect it again, mount it, and start again"}}
		}
	}
	err := r.carryOut(ctx)
	r.report.NotCovered = append(r.report.NotCovered, r.content.Lost()...)
	if err == nil {
		r.report.Seconds = time.Since(start).Seconds()
	}
	return &r.report, err
}

// alone has the lock of restores, and removes what a killed one has left.
func (r *Restorer) alone() (release func(), err error) {
	if release, err = Lock(rescue.StateDir); err != nil {
		return nil, err
	}
	swept, err := Sweep(os.TempDir())
	for _, n := range swept {
		r.Screen.Note("removed %s, which an earlier restore has left", n)
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// lacks names what the set does not have.
func (r *Restorer) lacks() {
	if r.opt.Only != "" {
		return
	}
	lacks, left := r.content.Lacks()
	for _, n := range left {
		r.Screen.Note("left out of the backup: %s", n)
	}
	for _, n := range lacks {
		r.Screen.Warn("not in the backup, and not restored: %s", n)
		r.report.NotCovered = append(r.report.NotCovered, n)
	}
}

// prepare checks everything that can be checked before a disk is touched.
func (r *Restorer) prepare(ctx context.Context) error {
	if r.content = r.opt.Content; r.content == nil {
		if err := r.openSet(ctx); err != nil {
			return err
		}
	}
	if r.opt.NewIdentity {
		if err := r.renew(ctx); err != nil {
			return err
		}
	}
	r.journal = openJournal()
	if !r.opt.DryRun { // it has a journal of its own
		if err := errors.Join(r.clearDry(ctx), r.tidy(ctx)); err != nil {
			return err
		}
	}
	have, err := r.Machine.Present(r.keep())
	if err != nil {
		return err
	}
	r.have = have
	if r.opt.Only != "" || r.opt.Onto != "" && r.opt.Content != nil {
		if r.plan, err = r.only(have); err != nil {
			return err
		}
		return r.ready(ctx)
	}
	if err := r.otherFirmware(); err != nil {
		return err
	}
	d, err := r.draft(r.content.Layout(), have)
	if err != nil {
		return err
	}
	if err := r.newArrays(ctx, d.Layout); err != nil {
		return err
	}
	if r.opt.Draft != nil {
		was := func(dev string) string { return dev }
		if n, ok := r.content.(renewed); ok {
			was = n.was
		}
		if err := r.opt.Draft(d, was); err != nil {
			return err
		}
	}
	if r.opt.DryRun {
		err = r.dryRun(ctx, d)
	} else {
		r.plan, err = d.Plan()
	}
	if err != nil {
		return err
	}
	return r.ready(ctx)
}

// openSet opens the set, checks that it is the one that is meant, and verifies it.
func (r *Restorer) openSet(ctx context.Context) error {
	var err error
	want := r.opt.Wanted.OfHost()
	want.Strict = r.opt.Yes && want.Host != ""
	if r.set, err = manifest.OpenPlace(ctx, r.opt.Set, want, r.Screen.Note); err != nil {
		return err
	}
	r.content = setContent{r.set}
	if err := r.meant(); err != nil {
		return err
	}
	if d := r.set.Discs; d != nil {
		d.GiveUp = r.opt.Salvage
		if rescue.Inside() && strings.HasPrefix(r.set.Dir, rescue.SetDir+"/") {
			d.Use(ctx, &medium.Drives{ID: r.set.Manifest.ID, Say: r.Screen.Note, Check: !r.opt.NoVerify, Progress: func(name string, total int64) func(int64) {
				return r.Screen.Phase(name, total).Add
			}})
		}
	}
	if !r.opt.NoVerify {
		if err := r.set.Verify(ctx, false, r.Screen.Phase("verifying the set", r.set.VerifySize(false))); err != nil {
			if !r.opt.Salvage || ctx.Err() != nil {
				if ctx.Err() != nil {
					return fmt.Errorf("interrupted while the set was read: whether it is damaged is not known: %w", context.Cause(ctx))
				}
				return fmt.Errorf("cannot restore from a damaged set:\n%w", err)
			}
			r.Screen.Warn("the set is damaged, and what can't be read of it will be missing:\n%v", err)
		}
	}
	return nil
}

// meant checks that the set is what the rescue system was made for, where it knows.
func (r *Restorer) meant() error {
	w, m := r.opt.Wanted, r.set.Manifest
	if w.ID == "" && w.Host == "" || w.Is(m.ID, m.Host) {
		return nil
	}
	what := fmt.Sprintf("the backup set %s is of host %s (made %s, id %s), and this rescue system was made for host %s", sysconf.RedactURL(r.set.Dir), m.Host, m.Created.Format("2006-01-02 15:04 UTC"), m.ID, w.Host)
	if r.opt.Yes && r.opt.Found {
		return &plan.Refused{Reason: what + "; name the set's directory to restore it, or start with mkcdrec.host=" + m.Host}
	}
	r.Screen.Warn("%s", what)
	return nil
}

// keep names the devices that the set and the medium are on, with the reason why
// they must not be overwritten.
func (r *Restorer) keep() map[string]string {
	keep := map[string]string{}
	for dev, why := range r.opt.Sources {
		keep[dev] = why
		r.sources = append(r.sources, dev)
	}
	holders := map[string]string{rescue.MediumDir: "it is the medium this system was started from"}
	if r.set != nil {
		for _, d := range (setContent{r.set}).dirs() {
			holders[d] = "it holds the backup set"
		}
	}
	for dir, why := range holders {
		if store.IsURL(dir) {
			continue
		}
		if dev, err := r.Machine.DeviceAt(dir); err == nil && dev != "" && (dir != rescue.MediumDir || mountedOn(r.Machine, dir)) {
			keep[dev] = why
			if dir != rescue.MediumDir && !strings.Contains(dev, "/") {
				r.sources = append(r.sources, dev)
			}
		}
	}
	return keep
}

// draft plans, and has a person choose where it is not clear which disk is meant, unless
// nobody is to be asked. The choice counts as if --map had given it.
func (r *Restorer) draft(was *layout.Layout, have []plan.Present) (*plan.Draft, error) {
	for {
		d, err := plan.Prepare(was, have, r.opt.Wish)
		var u *plan.Undecided
		if r.opt.Yes || !errors.As(err, &u) || len(u.Among) == 0 {
			return d, err
		}
		name, asked := r.Screen.Choose(u)
		if asked != nil {
			return nil, errors.Join(err, asked)
		}
		if r.opt.Wish.Map = maps.Clone(r.opt.Wish.Map); r.opt.Wish.Map == nil {
			r.opt.Wish.Map = map[string]string{}
		}
		r.opt.Wish.Map[u.Old.Name] = name
	}
}

// ready checks that the plan can be carried out.
func (r *Restorer) ready(ctx context.Context) error {
	if !r.opt.DryRun {
		if err := r.duplicates(ctx); err != nil {
			return err
		}
	}
	r.rec = &recreate.Recreator{Plan: r.plan, Run: r.Run, Report: r.Screen, Target: r.opt.Target, Machine: r.Machine, Keys: map[string]recreate.Key{}}
	if r.opt.DryRun {
		r.rec.Sparse = true
		r.rec.Image = func(context.Context, *layout.Image, *os.File) error { return nil }
		return errors.Join(r.programs(), r.drivers(ctx))
	}
	r.rec.Image = func(ctx context.Context, m *layout.Image, dst *os.File) error {
		return r.content.Blocks(ctx, m, dst, r.Screen)
	}
	// Where udev is, it would take what is on a loop device for the machine's own.
	r.rec.Loops = rescue.Inside() && storage.LoopDriver(ctx, r.Run) == nil
	return errors.Join(r.programs(), r.drivers(ctx), r.rec.Rehearse(ctx), r.rec.Ends())
}

// otherFirmware warns when this machine does not start as the old one did, and
// checks that the set's system has the boot loader that the wished firmware wants.
func (r *Restorer) otherFirmware() error {
	was := r.content.Layout().Boot.Firmware
	is := layout.BIOS
	if _, err := os.Stat("/sys/firmware/efi"); err == nil {
		is = layout.UEFI
	}
	if r.opt.Wish.Firmware == "" && is != was && rescue.Inside() {
		r.Screen.Warn("this machine was started by %s, the old one by %s: what is restored may not start here; --firmware %s makes it do so", strings.ToUpper(is), strings.ToUpper(was), is)
	}
	if r.opt.Wish.Firmware == "" || r.opt.Wish.Firmware == was {
		return nil
	}
	dir, pkg := bootloader.For(r.content.Layout().Boot.Loader).Modules(r.opt.Wish.Firmware)
	if dir == "" { // the plan refuses it
		return nil
	}
	if found, err := r.content.Has(dir); found || err != nil {
		return err
	}
	return &plan.Refused{Reason: fmt.Sprintf("--firmware %s: the system in the set has no boot loader for it (%s is missing; on Debian it is in %s)", r.opt.Wish.Firmware, dir, pkg)}
}

// newArrays checks that the restored system can start from RAID that it had not,
// and that this rescue system can make it.
func (r *Restorer) newArrays(ctx context.Context, l *layout.Layout) error {
	i := slices.IndexFunc(l.Arrays, func(a layout.Array) bool { return a.New })
	if i < 0 {
		return nil
	}
	if _, err := r.Run.Run(ctx, tool.New("modprobe", l.Arrays[i].Module())); err != nil {
		return &plan.Refused{Reason: fmt.Sprintf("--mirror: this rescue system has no %s: %v", l.Arrays[i].Level, err)}
	}
	found, err := r.content.Has("/usr/sbin/mdadm", "/sbin/mdadm", "/usr/bin/mdadm")
	if err == nil && !found {
		err = &plan.Refused{Reason: "--mirror: the system in the set has no mdadm, and would not start from a RAID array"}
	}
	return err
}

// only plans to restore one file system onto a device that is there.
func (r *Restorer) only(have []plan.Present) (*plan.Plan, error) {
	wanted, err := plan.Convert(r.content.Layout(), r.opt.Wish.Types)
	if err != nil {
		return nil, err
	}
	dev := strings.TrimPrefix(r.opt.Onto, "/dev/")
	if f := wanted.Mounted(r.opt.Only); dev == "" && f != nil {
		devs, err := medium.Devices()
		if err != nil {
			return nil, err
		}
		for _, d := range devs {
			if !d.Held && strings.EqualFold(d.Info.UUID, f.UUID) && f.UUID != "" {
				if dev != "" {
					return nil, &plan.Refused{Reason: fmt.Sprintf("/dev/%s and /dev/%s have the UUID of %s: --onto says which of them", dev, d.Name, r.opt.Only)}
				}
				dev = d.Name
			}
		}
		if dev == "" {
			return nil, &plan.Refused{Reason: fmt.Sprintf("no device has the UUID %s of %s: --onto names the one to be used", f.UUID, r.opt.Only)}
		}
	}
	dev = r.Machine.Name(dev)
	size := r.Machine.SizeOf(dev)
	if size == 0 {
		return nil, &plan.Refused{Reason: "/dev/" + dev + " is not there"}
	}
	if why := r.Machine.InUse(dev); why != "" {
		return nil, &plan.Refused{Reason: "/dev/" + dev + " would be overwritten, but " + why}
	}
	var disks []plan.Present
	for _, n := range r.Machine.DisksOf(dev) {
		i := slices.IndexFunc(have, func(p plan.Present) bool { return p.Name == n })
		if i < 0 {
			return nil, &plan.Refused{Reason: "/dev/" + dev + " is on " + n + ", which is not a disk that can be confirmed"}
		}
		if n == dev && have[i].Table != nil {
			return nil, &plan.Refused{Reason: "/dev/" + dev + " has a partition table: --onto names a partition or volume"}
		}
		if !slices.ContainsFunc(disks, func(p plan.Present) bool { return p.Name == n }) {
			disks = append(disks, have[i])
		}
	}
	if r.opt.Only == "" {
		return plan.OnlyImage(wanted, dev, size, r.Machine.StartOf(dev), disks)
	}
	return plan.Only(wanted, r.opt.Only, dev, size, disks)
}

// isSource tells whether a device is on disks that the content is read from, and that are
// not overwritten: a clone has their identities.
func (r *Restorer) isSource(dev string) bool {
	disks := r.Machine.DisksOf(dev)
	return r.opt.Content != nil && len(disks) > 0 && !slices.ContainsFunc(disks, func(d string) bool { return r.opt.Sources[d] == "" })
}

// duplicates compares what will be made with what is on disks that stay.
func (r *Restorer) duplicates(ctx context.Context) error {
	devs, err := medium.Devices()
	if err != nil {
		return err
	}
	var ids []plan.Identity
	for _, d := range devs {
		if r.isSource(d.Name) {
			continue
		}
		id := plan.Identity{Device: d.Name, Disks: r.Machine.DisksOf(d.Name), Type: d.Info.Type, UUID: d.Info.UUID}
		if d.Info.MD != nil {
			id.UUID = d.Info.MD.UUID
		}
		ids = append(ids, id)
	}
	if slices.ContainsFunc(devs, func(d medium.Device) bool { return d.Info.Type == superblock.TypeLVM }) {
		groups, err := storage.Groups(ctx, r.Run)
		if err != nil {
			return err
		}
		for _, g := range groups {
			if g.Disks = r.Machine.DisksOf(g.Device); !r.isSource(g.Device) {
				ids = append(ids, g)
			}
		}
	}
	have := slices.DeleteFunc(slices.Clone(r.have), func(p plan.Present) bool { return r.isSource(p.Name) })
	warnings, err := r.plan.Duplicates(have, ids)
	for _, w := range warnings {
		r.Screen.Warn("%s", w)
	}
	return err
}

func mountedOn(m probe.Machine, dir string) bool {
	mounts, err := m.Mounts()
	if err != nil {
		return false
	}
	for _, mi := range mounts {
		if mi.Path == dir {
			return true
		}
	}
	return false
}

// tidy undoes what an earlier run of ours that was stopped has left: its mounts, and
// arrays, LUKS devices and volume groups on its disks. It does so only where the journal
// of this very system says that a run began. Others may have the same names.
func (r *Restorer) tidy(ctx context.Context) error {
	if !r.journal.began() || r.opt.PlanOnly {
		return nil
	}
	rec := &recreate.Recreator{Plan: r.whatever(), Own: r.journal.disks(r.Machine), Run: r.Run, Target: r.opt.Target, Machine: r.Machine}
	if err := rec.Release(ctx); err != nil {
		return fmt.Errorf("cannot clean up after the run before:\n%w", err)
	}
	return nil
}

// whatever is a plan with all that the set's layout may have active.
func (r *Restorer) whatever() *plan.Plan {
	p := &plan.Plan{}
	for _, a := range r.content.Layout().Arrays {
		p.Steps = append(p.Steps, &plan.MakeArray{Device: a.Name})
	}
	for i := range r.content.Layout().Crypts {
		p.Steps = append(p.Steps, &plan.MakeCrypt{Crypt: &r.content.Layout().Crypts[i]})
	}
	for _, g := range r.content.Layout().VolumeGroup {
		p.Steps = append(p.Steps, &plan.RestoreVG{Group: g.Name})
	}
	return p
}

// programs refuses a plan whose programs are not all there.
func (r *Restorer) programs() error {
	var missing []string
	for _, p := range r.plan.Programs() {
		found := slices.ContainsFunc(filepath.SplitList(os.Getenv("PATH")), func(dir string) bool {
			st, err := os.Stat(filepath.Join(dir, p.Name))
			return err == nil && !st.IsDir()
		})
		if !found {
			missing = append(missing, fmt.Sprintf("%s, for step %d (%s)", p.Name, p.Step, r.plan.Steps[p.Step-1]))
		}
	}
	if len(missing) > 0 {
		return &plan.Refused{Reason: "the plan needs programs that are not here:\n  " + strings.Join(missing, "\n  ")}
	}
	return nil
}

// drivers checks that the kernel here can mount what will be made: wishes may
// want another type than the old machine had.
func (r *Restorer) drivers(ctx context.Context) error {
	var errs []error
	seen := map[string]bool{}
	for _, s := range plan.StepsOf[*plan.MountFS](r.plan) {
		typ := s.FS.Type
		if seen[typ] {
			continue
		}
		seen[typ] = true
		if !knows(typ) {
			_, err := r.Run.Run(ctx, tool.New("modprobe", typ))
			if !knows(typ) {
				errs = append(errs, &plan.Refused{Reason: fmt.Sprintf("the plan needs the file system %s, and the kernel here can't mount it: %v", typ, cmp.Or(err, errors.New("it has no driver")))})
			}
		}
	}
	return errors.Join(errs...)
}

// knows tells whether the kernel has a type of file system.
func knows(typ string) bool {
	b, err := os.ReadFile("/proc/filesystems")
	return err != nil || slices.Contains(strings.Fields(string(b)), typ)
}

func (r *Restorer) confirm() error {
	said := r.opt.Wish.Confirmed
	if !r.opt.Yes {
		var err error
		if said, err = r.Screen.Confirm(r.plan); err != nil {
			return err
		}
	}
	return r.plan.Check(said)
}

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
		// Mounts are not journaled: they are gone after any stop.
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
		return r.rec.Reassemble(ctx, s)
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
	at, err := r.rec.Place(s)
	if err != nil {
		return nil, err
	}
	in, err := r.placeOf(s, at)
	if err == nil {
		err = in.isMounted(s)
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
	// Before the journal says that they are there.
	r.Screen.Phase("writing "+cmp.Or(s.Mount.Path, "/dev/"+s.Device)+" to its disk", 0)
	return locks, r.rec.SyncMount(s)
}

// complete makes the system start, writes everything to the disks and closes them.
func (r *Restorer) complete(ctx context.Context) (err error) {
	if r.opt.Only == "" && !r.opt.DataOnly {
		err = r.finalize(ctx)
	}
	if r.opt.WhenRead != nil {
		if e := r.opt.WhenRead(ctx); e != nil {
			r.Screen.Warn("%v", e)
		}
	}
	// Also where the system may not start: nobody may come back to do it.
	if err := errors.Join(err, r.lock()); err != nil {
		return err
	}
	if err := r.rec.Seal(); err != nil {
		return err
	}
	r.Screen.Phase("writing everything to the disks", 0)
	if err := r.rec.Sync(); err != nil {
		return err
	}
	return r.rec.Release(ctx)
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

// finalize makes the restored system start and leaves the log in it.
func (r *Restorer) finalize(ctx context.Context) error {
	if err := r.mountPoints(); err != nil {
		return err
	}
	// Before what may fail: it would fail again at the next boot.
	if r.set != nil && r.set.Legacy == nil {
		if err := r.record(); err != nil {
			r.Screen.Warn("%v", err)
		}
	}
	if err := r.keyFiles(ctx); err != nil {
		return err
	}
	r.Screen.Phase("making the system start", 0)
	s := &bootloader.System{Root: r.opt.Target, Layout: r.plan.Layout, Devices: r.plan.Devices, Types: r.converted(), Copied: r.plan.Copied, Run: r.Run, Report: r.Screen, Identities: r.replace}
	if r.opt.NewIdentity {
		if err := r.opt.Personal.Apply(ctx, s); err != nil {
			return err
		}
	}
	if err := s.Install(ctx); err != nil {
		return err
	}
	if err := r.journal.copyTo(r.opt.Target); err != nil {
		r.Screen.Warn("%v", err) // the machine is restored all the same
	}
	if faults := s.Proof("/sys"); len(faults) > 0 {
		return fmt.Errorf("everything was restored, but the system may not start:\n  %s\nThe system is mounted on %s: fix it there (chroot), then run restore umount", strings.Join(faults, "\n  "), r.opt.Target)
	}
	r.Screen.Note("looked at fstab, the boot entries, initramfs and loader: what they refer to is there")
	return nil
}

// keyFiles gives LUKS devices that were recreated the key files that crypttab
// has for them.
func (r *Restorer) keyFiles(ctx context.Context) error {
	c, err := inroot.Open(r.opt.Target, "etc/crypttab")
	if err != nil {
		return nil // without a crypttab there are none
	}
	b, err := io.ReadAll(io.LimitReader(c, 1<<20))
	c.Close()
	if err != nil {
		return fmt.Errorf("cannot read crypttab: %w", err)
	}
	entries := sysconf.ParseCrypttab(string(b)).Entries
	for _, s := range plan.StepsOf[*plan.MakeCrypt](r.plan) {
		if r.rec.Keys[s.Crypt.Name].Header != nil {
			continue
		}
		for _, e := range entries {
			if e.Name != s.Crypt.Name || !strings.HasPrefix(e.Key, "/") {
				continue
			}
			key, err := inroot.Open(r.opt.Target, e.Key)
			if err != nil {
				continue
			}
			key.Close()
			if err := r.rec.AddKeyFile(ctx, s, key.Name()); err != nil {
				return fmt.Errorf("cannot make %s a key of %s again: %w", e.Key, s.Crypt.Name, err)
			}
			r.Screen.Note("%s opens %s again", e.Key, s.Crypt.Name)
		}
		r.Screen.Warn("%s has a new header: its other passphrases and tokens are gone", s.Crypt.Name)
	}
	return nil
}

// converted gives the types that differ from what the set's machine had, by
// mount point.
func (r *Restorer) converted() map[string]string {
	out := map[string]string{}
	for at, typ := range r.opt.Wish.Types {
		if f := r.content.Layout().Mounted(at); f != nil && f.Type != typ {
			out[at] = typ
		}
	}
	return out
}

// mountPoints makes the directories that a running system mounts things on,
// if the archive had them not.
func (r *Restorer) mountPoints() error {
	for _, d := range []struct {
		name string
		mode os.FileMode
	}{{"proc", 0o555}, {"sys", 0o555}, {"dev", 0o755}, {"run", 0o755}, {"tmp", 0o777 | os.ModeSticky}} {
		p := filepath.Join(r.opt.Target, d.name)
		if _, err := os.Lstat(p); err == nil {
			continue
		}
		if err := os.Mkdir(p, d.mode.Perm()); err != nil {
			return fmt.Errorf("cannot make mount point: %w", err)
		}
		if err := os.Chmod(p, d.mode); err != nil {
			return fmt.Errorf("cannot make mount point: %w", err)
		}
	}
	for _, f := range r.content.Layout().Filesystems {
		for _, m := range f.Mounts {
			p := filepath.Join(r.opt.Target, m.Path)
			if _, err := os.Lstat(p); errors.Is(err, os.ErrNotExist) && f.Excluded != "" {
				if _, err := inroot.MkdirAll(r.opt.Target, m.Path, 0o755); err != nil {
					return fmt.Errorf("cannot make mount point: %w", err)
				}
			}
		}
	}
	return nil
}
