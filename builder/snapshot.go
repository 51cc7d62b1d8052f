package builder

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/hooks"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/snapshot"
)

// Values of the key snapshot.
const (
	snapshotAuto = "auto"
	snapshotOff  = "off"
)

func (b *Builder) snapshotMaker() *snapshot.Maker {
	return &snapshot.Maker{Run: b.Run, Report: b.Report, Records: b.Snapshots}
}

// sweepSnapshots removes the snapshots of runs that were killed. They are removed with any
// configuration; a failure does not end the run, which leaves them out.
func (b *Builder) sweepSnapshots(ctx context.Context) {
	if err := b.snapshotMaker().Sweep(ctx); err != nil {
		b.Report.Warn("%v", err)
	}
}

// planSnapshots decides which file systems of the plan are read from snapshots.
func (p *Plan) planSnapshots(ctx context.Context, b *Builder) {
	if b.Config.Snapshot != snapshotAuto {
		return
	}
	var sources []snapshot.Source
	for i := range p.Archives {
		a := &p.Archives[i]
		f := p.Layout.On(a.Device)
		if f == nil {
			continue
		}
		part := a.part(f)
		if n := slices.IndexFunc(sources, func(s snapshot.Source) bool { return s.Device == f.Device }); n >= 0 {
			sources[n].Mounts = append(sources[n].Mounts, part)
			continue
		}
		sources = append(sources, snapshot.Source{Filesystem: f, Mounts: []layout.Mount{part}, Written: p.Holder != nil && p.Holder.Device == f.Device, ReadOnly: p.readOnly(f)})
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	p.snapshotPlan = b.snapshotMaker().Plan(ctx, hex.EncodeToString(id[:]), p.Layout, sources)
	p.leaveSnapshots(b)
}

// part is the mount of the file system that the archive is of.
func (a *PlannedArchive) part(f *layout.Filesystem) layout.Mount {
	if a.Mount == "" {
		return layout.Mount{}
	}
	return f.MountAt(a.Mount)
}

// readOnly reports whether a file system is mounted, and can't be written to.
func (p *Plan) readOnly(f *layout.Filesystem) bool {
	some := false
	for _, m := range p.mounts {
		if slices.Contains(f.Devs(), m.Device) {
			if some = true; !m.SuperReadOnly {
				return false
			}
		}
	}
	return some
}

// leaveSnapshots adds to what archives leave out: the directories with snapshots in the top
// level of a btrfs, also of other runs, and the records of snapshots.
func (p *Plan) leaveSnapshots(b *Builder) {
	records := b.Snapshots
	if records == "" {
		records = snapshot.DefaultRecords
	}
	for i := range p.Archives {
		a := &p.Archives[i]
		if rel, err := filepath.Rel(a.Mount, records); a.Mount != "" && err == nil && filepath.IsLocal(rel) {
			a.leaveOut(rel, "records of snapshots")
		}
		f := p.Layout.On(a.Device)
		if a.Type != fstype.TypeBtrfs || f == nil || a.part(f).Subvolume != "" {
			continue
		}
		a.leaveOut(p.snapshotPlan.Dir(), "a snapshot of this backup")
		if a.Mount == "" {
			continue
		}
		entries, _ := os.ReadDir(a.Mount) // the archive reports what can't be read
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), probe.SnapshotDir) {
				a.leaveOut(e.Name(), "a snapshot of another backup")
			}
		}
	}
}

// leaveOut has the archive leave a path out.
func (a *PlannedArchive) leaveOut(rel, why string) {
	if a.leftOut == nil {
		a.leftOut = map[string]string{}
	}
	a.leftOut[rel] = why
}

// SnapshotPlan reports which file systems a backup would read from snapshots.
func (b *Builder) SnapshotPlan(ctx context.Context, p *Plan) {
	p.planSnapshots(ctx, b)
	if p.snapshotPlan == nil {
		return
	}
	for i := range p.Archives {
		if a := &p.Archives[i]; p.snapshotPlan.Has(a.Device) {
			b.Report.Note("%s would be read from a snapshot", a.Name())
		}
	}
	p.noteLive(b.Report.Note)
}

// noteLive names the file systems that are read while they are in use, once for each reason.
func (p *Plan) noteLive(note func(format string, args ...any)) {
	var reasons []string
	names := map[string][]string{}
	for _, l := range p.snapshotPlan.Live {
		if names[l.Why] == nil {
			reasons = append(reasons, l.Why)
		}
		names[l.Why] = append(names[l.Why], l.Name)
	}
	for _, why := range reasons {
		note("read live, without a snapshot: %s: %s", strings.Join(names[why], ", "), why)
	}
}

// snapshots makes the snapshots of the plan between the hooks for that. Before it, programs are
// named whose files should not be read while they run.
func (b *Builder) snapshots(ctx context.Context, p *Plan, w *set.Writer) error {
	frozen := !p.snapshotPlan.Empty()
	if !p.generic {
		for _, r := range snapshot.Running("/proc", p.saves()) {
			w.Note("%s", r.Text(frozen))
		}
	}
	if p.snapshotPlan != nil {
		p.noteLive(w.Note)
	}
	if !frozen {
		return b.noSnapshots(p)
	}
	if b.hooks == nil {
		return b.makeSnapshots(ctx, p)
	}
	said, env := len(b.hooks.Said), b.hooks.Env
	defer func() {
		w.Hooks(b.hooks.Said[said:])
		b.hooks.Env = env
	}()
	var live []string
	for _, l := range p.snapshotPlan.Live {
		live = append(live, l.Name)
	}
	b.hooks.Env = append(slices.Clone(env), "MKCDREC_LIVE="+strings.Join(live, "\n"))
	err := b.hooks.Before(ctx, hooks.BeforeSnapshot)
	if err == nil {
		err = b.makeSnapshots(ctx, p)
	}
	// A service that was stopped starts again, also after a failure.
	if b.afterSnapshot = b.hooks.After(ctx, hooks.AfterSnapshot, err); b.afterSnapshot != nil {
		b.Report.Warn("%v", b.afterSnapshot)
	}
	return err
}

// makeSnapshots makes the snapshots of the plan. Without them, all is read live; an error is the end
// of ctx.
func (b *Builder) makeSnapshots(ctx context.Context, p *Plan) (err error) {
	b.Report.Phase("making snapshots", 0)
	if p.snapshots, err = b.snapshotMaker().Make(ctx, p.snapshotPlan); err != nil && ctx.Err() == nil {
		b.Report.Warn("all file systems are read live, without snapshots: %v", err)
		return nil
	}
	return err
}

// noSnapshots reports hooks that do not run since no snapshots are made.
func (b *Builder) noSnapshots(p *Plan) error {
	if b.hooks == nil {
		return nil
	}
	before, _, err1 := b.Config.Hooks.List(hooks.BeforeSnapshot)
	after, _, err2 := b.Config.Hooks.List(hooks.AfterSnapshot)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if len(before)+len(after) > 0 {
		why := "the configuration has no snapshot: auto"
		if p.snapshotPlan != nil {
			why = "no file system can have a snapshot"
		}
		b.Report.Warn("the hooks of %s and %s do not run: %s", hooks.BeforeSnapshot, hooks.AfterSnapshot, why)
	}
	return nil
}

// frozen opens the root of what is archived in its snapshot; nil without one.
func (a *PlannedArchive) frozen(p *Plan) (*set.Frozen, error) {
	f := p.Layout.On(a.Device)
	if f == nil {
		return nil, fmt.Errorf("cannot open /dev/%s: it is not in the layout", a.Device)
	}
	root, err := p.snapshots.Open(a.Device, a.part(f))
	if root == nil || err != nil {
		return nil, err
	}
	// Numbers of devices and subvolumes are those of the snapshot; inodes are the same.
	if err := archive.CheckRoot(root, archive.Root{Ino: a.root.Ino}); err != nil {
		root.Close()
		return nil, err
	}
	return &set.Frozen{Root: root, At: p.snapshots.At,
		Whole: func(ctx context.Context) error { return p.snapshots.Check(ctx, a.Device) },
		Done:  func(ctx context.Context) { p.snapshots.Done(ctx, a.Device) }}, nil
}
