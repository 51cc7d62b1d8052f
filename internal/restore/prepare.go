package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/bootloader"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/medium"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/recreate"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// openContent opens what is restored, the backup set if nothing else was given, and gives it another identity
// if that is wanted.
func (r *Restorer) openContent(ctx context.Context) error {
	if r.content = r.opt.Content; r.content == nil {
		if err := r.openSet(ctx); err != nil {
			return err
		}
	}
	r.incomplete()
	if r.opt.NewIdentity {
		return r.renew(ctx)
	}
	return nil
}

// adapt lets the caller change the draft; was gives the names that devices had before the content got another identity.
func (r *Restorer) adapt(d *plan.Draft) error {
	if r.opt.Draft == nil {
		return nil
	}
	was := func(dev string) string { return dev }
	if n, ok := r.content.(renewed); ok {
		was = n.was
	}
	return r.opt.Draft(d, was)
}

// prepare checks everything that can be checked before a disk is touched.
func (r *Restorer) prepare(ctx context.Context) error {
	if err := r.openContent(ctx); err != nil {
		return err
	}
	r.journal = openJournal(r.kernel().Path(rescue.StateDir))
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
	if err := r.adapt(d); err != nil {
		return err
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

// incomplete has a set restored as data that lacks a part of the root file system.
func (r *Restorer) incomplete() {
	if r.content.Layout().DataOnly() && !r.opt.DataOnly {
		r.Screen.Warn("the set lacks a part of the root file system, because of include in the configuration: the restored system will not boot")
		r.opt.DataOnly = true
	}
}

// openSet opens the set, checks that it is the one that is meant, and verifies it.
func (r *Restorer) openSet(ctx context.Context) error {
	want := r.opt.Wanted.OfHost()
	want.Strict = r.opt.Yes && want.Host != ""
	door, err := r.ring().Door(ctx, want, r.Screen.Note)
	if err != nil {
		return err
	}
	door.Salvage = r.opt.Salvage
	if r.set, err = door.Open(ctx, r.opt.Set); err != nil {
		return err
	}
	if err := r.trusted(time.Now()); err != nil {
		return err
	}
	r.content = setContent{r.set}
	if err := r.meant(); err != nil {
		return err
	}
	if !r.set.WholeLayout() && r.set.Layout.Mounted("/") == nil && r.opt.Only == "" {
		return &exit.Refusal{Reason: "the backup has no root file system that restore can make:\n  " + strings.Join(r.set.Manifest.NotCovered, "\n  ")}
	}
	if r.opt.Only == "" && !r.opt.NewIdentity { // which may give volume groups other names
		if err := plan.Check(r.set.Layout, r.opt.Wish); err != nil {
			return err
		}
	}
	if r.opt.Salvage {
		r.set.GiveUp()
	}
	if rescue.Inside() && strings.HasPrefix(r.set.String(), rescue.SetDir+"/") {
		r.set.Use(ctx, &medium.Drives{ID: r.set.Manifest.ID, Say: r.Screen.Note, Check: !r.opt.NoVerify, Progress: func(name string, total int64) func(int64) {
			return r.Screen.Phase(name, total).Add
		}})
	}
	if r.opt.NoVerify {
		return nil
	}
	return r.verifySet(ctx)
}

// verifySet reads all of the set. With Salvage damage is a warning.
func (r *Restorer) verifySet(ctx context.Context) error {
	err := r.set.Verify(ctx, false, r.Screen.Phase("verifying the set", r.set.VerifySize(false)))
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("interrupted while the set was read: whether it is damaged is not known: %w", context.Cause(ctx))
	case err != nil && !r.opt.Salvage:
		return fmt.Errorf("cannot restore from a damaged set:\n%w", err)
	case err != nil:
		r.Screen.Warn("the set is damaged, and what can't be read of it will be missing:\n%v", err)
	}
	if r.set.ListFault != nil {
		r.Screen.Warn("a list of checksums of the set is damaged; a restore does not need it: %v", r.set.ListFault)
	}
	return nil
}

// meant checks that the set is what the rescue system was made for, where it knows.
func (r *Restorer) meant() error {
	w, m := r.opt.Wanted, r.set.Manifest
	if w.OtherMachine(m.Machine(), m.Host) && m.ID != w.ID {
		return r.otherMachine()
	}
	if w.ID == "" && w.Host == "" || w.Is(m.ID, m.Host) {
		return nil
	}
	what := fmt.Sprintf("the backup set %s is of host %s (made %s, id %s), and this rescue system was made for host %s", r.set, m.Host, m.Created.Format("2006-01-02 15:04 UTC"), m.ID, w.Host)
	if r.opt.Yes && r.opt.Found {
		return &exit.Refusal{Reason: what + "; name the set's directory to restore it, or start with mkcdrec.host=" + m.Host}
	}
	r.Screen.Warn("%s", what)
	return nil
}

// otherMachine warns of a set of another machine that has the name of the one that is meant. An
// unattended restore refuses it, unless it was named, or signed with a key that is known for the
// name: two machines have different ones.
func (r *Restorer) otherMachine() error {
	m := r.set.Manifest
	what := fmt.Sprintf("the backup set %s (made %s, id %s) is of another machine with the name %s than the one that this rescue system was made for", r.set, m.Created.Format("2006-01-02 15:04 UTC"), m.ID, m.Host)
	if r.opt.Yes && (r.opt.Found || r.set.Chosen) && !r.keyKnown {
		return &exit.Refusal{Reason: what + "; name the set's directory to restore it"}
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
		for _, d := range r.set.Dirs() {
			holders[d] = "it holds the backup set"
		}
	}
	for dir, why := range holders {
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
func (r *Restorer) draft(was *layout.Layout, have []layout.Present) (*plan.Draft, error) {
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
	if _, err := os.Stat(r.kernel().Path("/sys/firmware/efi")); err == nil {
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
	return &exit.Refusal{Reason: fmt.Sprintf("--firmware %s: the system in the set has no boot loader for it (%s is missing; on Debian it is in %s)", r.opt.Wish.Firmware, dir, pkg)}
}

// newArrays checks that the restored system can start from RAID that it lacked,
// and that this rescue system can make it.
func (r *Restorer) newArrays(ctx context.Context, l *layout.Layout) error {
	i := slices.IndexFunc(l.Arrays, func(a layout.Array) bool { return a.New })
	if i < 0 {
		return nil
	}
	if _, err := r.Run.Run(ctx, tool.New("modprobe", l.Arrays[i].Module())); err != nil {
		return &exit.Refusal{Reason: fmt.Sprintf("--mirror: this rescue system has no %s: %v", l.Arrays[i].Level, err)}
	}
	found, err := r.content.Has("/usr/sbin/mdadm", "/sbin/mdadm", "/usr/bin/mdadm")
	if err == nil && !found {
		err = &exit.Refusal{Reason: "--mirror: the system in the set has no mdadm, and would not start from a RAID array"}
	}
	return err
}

// deviceWith finds the one device that has the UUID of the file system that is restored.
func (r *Restorer) deviceWith(uuid string) (dev string, err error) {
	devs, err := medium.Finder{Kernel: r.kernel()}.Devices()
	if err != nil {
		return "", err
	}
	for _, d := range devs {
		if !d.Held && strings.EqualFold(d.Info.UUID, uuid) && uuid != "" {
			if dev != "" {
				return "", &exit.Refusal{Reason: fmt.Sprintf("/dev/%s and /dev/%s have the UUID of %s: choose one with --onto", dev, d.Name, r.opt.Only)}
			}
			dev = d.Name
		}
	}
	if dev == "" {
		return "", &exit.Refusal{Reason: fmt.Sprintf("no device has the UUID %s of %s: --onto names the one to be used", uuid, r.opt.Only)}
	}
	return dev, nil
}

// only plans to restore one file system onto a device that is there.
func (r *Restorer) only(have []layout.Present) (*plan.Plan, error) {
	was := r.content.Layout()
	dev := strings.TrimPrefix(r.opt.Onto, "/dev/")
	f := was.Mounted(r.opt.Only)
	if f == nil && r.opt.Only != "" {
		return nil, &exit.Refusal{Reason: fmt.Sprintf("--only %s: nothing was mounted there", r.opt.Only)}
	}
	if dev == "" && f != nil {
		var err error
		if dev, err = r.deviceWith(f.UUID); err != nil {
			return nil, err
		}
	}
	dev = r.Machine.Name(dev)
	size := r.Machine.SizeOf(dev)
	if size == 0 {
		return nil, &exit.Refusal{Reason: "/dev/" + dev + " is not there"}
	}
	if why := r.Machine.InUse(dev); why != "" {
		return nil, &exit.Refusal{Reason: "/dev/" + dev + " would be overwritten, but " + why}
	}
	var disks []layout.Present
	for _, n := range r.Machine.DisksOf(dev) {
		i := slices.IndexFunc(have, func(p layout.Present) bool { return p.Name == n })
		if i < 0 {
			return nil, &exit.Refusal{Reason: "/dev/" + dev + " is on " + n + ", which is not a disk that can be confirmed"}
		}
		if n == dev && have[i].Table != nil {
			return nil, &exit.Refusal{Reason: "/dev/" + dev + " has a partition table: --onto names a partition or volume"}
		}
		if !slices.ContainsFunc(disks, func(p layout.Present) bool { return p.Name == n }) {
			disks = append(disks, have[i])
		}
	}
	if r.opt.Only == "" {
		return plan.OnlyImage(was, r.opt.Wish, dev, size, r.Machine.StartOf(dev), disks)
	}
	return plan.Only(was, r.opt.Wish, r.opt.Only, dev, size, disks)
}

// isSource reports whether a device is on disks that the content is read from, and that are
// not overwritten: a clone has their identities.
func (r *Restorer) isSource(dev string) bool {
	disks := r.Machine.DisksOf(dev)
	return r.opt.Content != nil && len(disks) > 0 && !slices.ContainsFunc(disks, func(d string) bool { return r.opt.Sources[d] == "" })
}

// duplicates compares what will be made with what is on disks that stay.
func (r *Restorer) duplicates(ctx context.Context) error {
	devs, err := medium.Finder{Kernel: r.kernel()}.Devices()
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
	have := slices.DeleteFunc(slices.Clone(r.have), func(p layout.Present) bool { return r.isSource(p.Name) })
	warnings, err := r.plan.Duplicates(have, ids)
	for _, w := range warnings {
		r.Screen.Warn("%s", w)
	}
	return err
}

func mountedOn(m probe.Machine, dir string) bool {
	mounts, err := m.Mounts()
	return err == nil && slices.ContainsFunc(mounts, func(mi probe.MountInfo) bool { return mi.Path == dir })
}

// tidy undoes what an earlier run of ours that was stopped has left: its mounts, and
// arrays, LUKS devices and volume groups on its disks. It does so only where the journal
// of this very system shows that a run began. Others may have the same names.
func (r *Restorer) tidy(ctx context.Context) error {
	if !r.journal.began() || r.opt.PlanOnly {
		return nil
	}
	old := &storage.Tree{Plan: r.whatever(), Own: r.journal.disks(r.Machine), Run: r.Run, Target: r.opt.Target, Machine: r.Machine}
	if err := old.Release(ctx); err != nil {
		return fmt.Errorf("cannot clean up after the run before:\n%w", err)
	}
	return nil
}

// everything is a plan with all that the set's layout may have active.
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
		return &exit.Refusal{Reason: "the plan needs programs that are not here:\n  " + strings.Join(missing, "\n  ")}
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
		if !r.knows(typ) {
			_, err := r.Run.Run(ctx, tool.New("modprobe", typ))
			if !r.knows(typ) {
				errs = append(errs, &exit.Refusal{Reason: fmt.Sprintf("the plan needs the file system %s, and the kernel here can't mount it: %v", typ, cmp.Or(err, errors.New("it has no driver")))})
			}
		}
	}
	return errors.Join(errs...)
}

// knows reports whether the kernel has a type of file system.
func (r *Restorer) knows(typ string) bool {
	b, err := os.ReadFile(r.kernel().Path("/proc/filesystems"))
	return err != nil || slices.Contains(strings.Fields(string(b)), typ)
}
