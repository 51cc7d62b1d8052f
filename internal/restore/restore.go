// Package restore brings a machine back from a backup set: verify, map disks,
// plan, confirm, recreate, restore the files, make it start. Until the plan is
// confirmed nothing is written anywhere.
package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/bootloader"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/hooks"
	"github.com/mkcdrec/mkcdrec/internal/identity"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/keyring"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/recreate"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Options of one restore: a request that was validated, and what a program adds to it.
type Options struct {
	Request
	// Wish is what the request has about disks.
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
	// DataOnly is set if there is no system that has to boot.
	DataOnly bool
	// Wanted is which set is meant where there are several. Found: Set was not named,
	// it was found; when nothing is asked, it must be the one that is wanted, or of
	// that host.
	Wanted manifest.Wanted
	Found  bool
	// Medium is what the rescue system knows; nil outside of one.
	Medium *rescue.Info
	// Keys open the set, and check whose it is.
	Keys keyring.Ring
	// WhenRead is called when everything was read from the content, before the file
	// systems are unmounted: what is kept on them for others can go. nil for nothing.
	WhenRead func(context.Context) error
	// Hooks run before disks are looked at and before file systems are unmounted; nil for none.
	Hooks  *hooks.Set
	Target string // rescue.TargetDir if ""
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
	// name of one of them. An error is why there was no choice.
	Choose(u *plan.Undecided) (string, error)
	// Confirm asks for the serial numbers of the plan's disks and returns what
	// was typed.
	Confirm(p *plan.Plan) ([]string, error)
}

// Report is what was done.
type Report struct {
	// Plan is what was done, or would be.
	Plan     *plan.Plan        `json:"-"`
	Archives []Restored        `json:"archives"`
	Problems []archive.Problem `json:"problems"`
	// NotCovered is what the set lacks: it was on the old machine, and is not restored.
	NotCovered []string `json:"notCovered"`
	Seconds    float64  `json:"seconds"`
}

// Planned is what a plan is printed as for programs.
type Planned struct {
	Plan       *plan.Plan     `json:"plan"`
	Layout     *layout.Layout `json:"layout"`
	NotCovered []string       `json:"notCovered"`
}

// Planned gives the plan with the layout that it makes.
func (r *Report) Planned() Planned { return Planned{r.Plan, r.Plan.Layout, r.NotCovered} }

// Restored is one archive that was unpacked.
type Restored struct {
	Mount   string        `json:"mount"`
	Device  string        `json:"device"`
	Members int64         `json:"members"`
	Data    quantity.Size `json:"data"`
	Seconds float64       `json:"seconds"`
}

// Restorer carries out one restore.
type Restorer struct {
	Run      tool.Runner
	Screen   Screen
	Machine  probe.Machine
	opt      Options
	content  Content
	set      *manifest.Set // nil where the content is not a set
	keyKnown bool          // the set is signed with a key that is known for its host
	plan     *plan.Plan
	rec      *recreate.Recreator
	journal  *journal
	report   Report
	have     []layout.Present
	replace  []bootloader.Identity // of a new identity
	sources  []string              // devices that the set is read from
	// locks are what becomes immutable or append-only at the end.
	locks []lockedPlace
	after bool // the hooks after the restore have run
}

// Untouched is a failure before anything was written to a disk.
type Untouched struct{ Err error }

func (u *Untouched) Error() string { return u.Err.Error() }

func (u *Untouched) Unwrap() error { return u.Err }

// Restore does it. A *exit.Refusal error means that nothing was written, unless a
// *recreate.StepError has it.
func (r *Restorer) Restore(ctx context.Context, opt Options) (*Report, error) {
	r.opt = opt
	if r.opt.Target == "" {
		r.opt.Target = r.kernel().Path(rescue.TargetDir)
	}
	if !opt.PlanOnly && !opt.DryRun && !opt.Outside && !rescue.Inside() {
		return nil, &exit.Refusal{Reason: "this is not a rescue system, and restore overwrites disks; --outside-rescue-system allows it, --plan shows what it would do"}
	}
	if !opt.PlanOnly {
		release, err := r.alone()
		if err != nil {
			return nil, &Untouched{err}
		}
		defer release()
	}
	return r.hooked(ctx)
}

// hooked restores between the hooks. Those after it run in complete; if it does not get
// there, they run here.
func (r *Restorer) hooked(ctx context.Context) (*Report, error) {
	h := r.opt.Hooks
	if h == nil || r.opt.NoHooks {
		return r.restore(ctx)
	}
	if r.opt.PlanOnly || r.opt.DryRun {
		if err := errors.Join(hooks.Plan(h.Config, hooks.BeforeRestore, r.Screen), hooks.Plan(h.Config, hooks.AfterRestore, r.Screen)); err != nil {
			return nil, &Untouched{err}
		}
		return r.restore(ctx)
	}
	r.after = false
	h.Env = append(h.Env, "MKCDREC_SET="+r.opt.Set, "MKCDREC_TARGET="+r.opt.Target)
	if err := h.Before(ctx, hooks.BeforeRestore); err != nil {
		return nil, &Untouched{hooks.Join(err, h.After(ctx, hooks.AfterRestore, err))}
	}
	rep, err := r.restore(ctx)
	if !r.after {
		err = hooks.Join(err, h.After(ctx, hooks.AfterRestore, interrupt.Err(ctx, err)))
	}
	return rep, err
}

// afterHooks runs the hooks after a restore, while its file systems are mounted.
func (r *Restorer) afterHooks(ctx context.Context, failed error) error {
	if h := r.opt.Hooks; h != nil && !r.opt.NoHooks {
		r.after = true
		err := h.After(ctx, hooks.AfterRestore, interrupt.Err(ctx, failed))
		if err != nil && failed == nil {
			err = fmt.Errorf("everything was restored, but:\n%w", err)
		}
		return err
	}
	return nil
}

func (r *Restorer) restore(ctx context.Context) (*Report, error) {
	start, opt := time.Now(), r.opt
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
		if _, err := os.Stat(r.kernel().Path("/sys/class/block/" + dev)); err != nil {
			return nil, &Untouched{&exit.Refusal{Reason: "/dev/" + dev + ", which holds the backup set, is disconnected: connect it again, mount it, and start again"}}
		}
	}
	overwritten, err := r.surface(ctx)
	if err != nil {
		return nil, err
	}
	if err = r.carryOut(ctx); err != nil && overwritten {
		err = &recreate.Overwritten{Err: err}
	}
	r.report.NotCovered = append(r.report.NotCovered, r.content.Lost()...)
	if err == nil {
		r.report.Seconds = time.Since(start).Seconds()
	}
	return &r.report, err
}

// surface looks for bad sectors on the disks, where that is wished, and reports whether it has
// written to all of them. A run that continues has data on them.
func (r *Restorer) surface(ctx context.Context) (overwritten bool, err error) {
	how := r.opt.CheckTarget
	if how == "" || how == "none" {
		return false, nil
	}
	if r.opt.Resume {
		r.Screen.Note("--resume: the disks are not checked for bad sectors again")
		return false, nil
	}
	if r.opt.Only != "" {
		how = recreate.CheckRead // other partitions stay
	}
	err = r.rec.Surface(ctx, how)
	if err != nil && how == recreate.CheckRead {
		err = &Untouched{err}
	}
	return how == recreate.CheckWrite, err
}

// kernel is that of the machine that is restored.
func (r *Restorer) kernel() kernel.Kernel { return kernel.Of(r.Run) }

// tree is where the plan's file systems are mounted.
func (r *Restorer) tree() *storage.Tree {
	return &storage.Tree{Plan: r.plan, Run: r.Run, Machine: r.Machine, Target: r.opt.Target}
}

// alone has the lock of restores, and removes what a killed one has left.
func (r *Restorer) alone() (release func(), err error) {
	if release, err = Lock(r.kernel().Path(rescue.StateDir)); err != nil {
		return nil, err
	}
	swept, err := Sweep(r.kernel().Path(os.TempDir()))
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
	r.amounts()
	lacks, left := r.content.Lacks()
	for _, n := range left {
		r.Screen.Note("left out of the backup: %s", n)
	}
	for _, n := range lacks {
		r.Screen.Warn("not in the backup, and not restored: %s", n)
		r.report.NotCovered = append(r.report.NotCovered, n)
	}
}

func (r *Restorer) confirm() error {
	said := r.opt.Wish.Confirmed
	if !r.opt.Yes {
		err := r.plan.Confirmable()
		if err != nil {
			return err
		}
		if said, err = r.Screen.Confirm(r.plan); err != nil {
			return err
		}
	}
	return r.plan.Check(said)
}
