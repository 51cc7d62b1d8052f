package builder

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/mkcdrec/mkcdrec/builder/rescue"
	"github.com/mkcdrec/mkcdrec/builder/retention"
	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/hooks"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// Builder carries out plans.
type Builder struct {
	Run     tool.Runner
	Report  progress.Reporter
	Version string // of this program
	Config  *Config
	// Executable is the multicall binary that the rescue system gets.
	Executable string
	// States is the directory with what increments compare files with; "" for DefaultStates.
	States string
	// SigningKey is the file of the key that signs sets, signing.KeyFile; "" leaves them unsigned.
	SigningKey string
	// DryRun: nothing is made that stays, not even the key that signs sets.
	DryRun bool
	// Work is a directory for temporary files, "" for the system's.
	Work string
	// Snapshots is the directory with the records of snapshots; "" for snapshot.DefaultRecords.
	Snapshots string
	hooks     *hooks.Set // that run around the backup, nil for none
	// afterSnapshot is what failed of the hooks that run after the snapshots were made.
	afterSnapshot error
}

// Maker makes rescue systems by the configuration.
func (b *Builder) Maker() *rescue.Maker {
	return &rescue.Maker{Run: b.Run, Report: b.Report, Version: b.Version, Executable: b.Executable, Config: b.Config.Rescue, Hooks: b.Config.Hooks, Signer: b.signer, Credentials: b.Config.credentialsFile(), Destination: b.Config.server()}
}

// Machine is what a rescue system for the plan is made for.
func (p *Plan) Machine() *rescue.Machine {
	return &rescue.Machine{Layout: p.Layout, Generic: p.generic}
}

// Result is what a run made.
type Result struct {
	Dir      string             `json:"dir"` // of the set
	Manifest *manifest.Manifest `json:"manifest"`
	ISO      int64              `json:"iso"` // bytes
	// NotCovered is what a restore would not bring back; exit code 3.
	NotCovered []string `json:"notCovered"`
	Removed    []string `json:"removed,omitempty"` // old sets, by Config.Keep
}

// Path writes a backup set below dir, as dir/HOST-TIME. It appears whole: until
// then it has a temporary name, and on any error nothing is left.
func (b *Builder) Path(ctx context.Context, p *Plan, dir string) (*Result, error) {
	if err := mustDir(dir); err != nil {
		return nil, err
	}
	p.leaveOutStates(b)
	now, id := time.Now(), uuid.New()
	sink, err := set.NewDirectory(dir, p.Layout.Hostname, now, b.Report)
	if err != nil {
		return nil, err
	}
	p.generation, err = b.generation(p, dir, id, filepath.Base(sink.Final()), now)
	if err != nil {
		return nil, errors.Join(err, sink.Remove())
	}
	name := filepath.Base(sink.Final())
	removed, err := b.room(ctx, p, b.directoryPlace(ctx, p, dir, now), name, id, p.generation.needs(), now)
	if err != nil {
		return nil, errors.Join(err, p.generation.discard(), sink.Remove())
	}
	r, err := b.withMedium(ctx, p, id, now, sink, dir, sink.Final(), rescue.Hint{SetID: id})
	if err != nil {
		return nil, err
	}
	r.Removed = append(removed, b.prune(ctx, dir, r.Manifest.Host, filepath.Base(r.Dir), now)...)
	return r, nil
}

// below begins a set below a directory of this machine, encrypted if that is configured. Its small
// files may be put together in work.
func (b *Builder) below(ctx context.Context, p *Plan, dir, work, id string, now time.Time) (set.Placed, error) {
	recipients, _, err := b.encryptFor()
	if err != nil {
		return nil, err
	}
	if len(recipients) == 0 {
		return set.NewDirectory(dir, p.Layout.Hostname, now, b.Report)
	}
	home, err := store.OpenHome(ctx, dir, store.Access{})
	if err != nil {
		return nil, err
	}
	return set.NewHome(ctx, home, work, p.Layout.Hostname, id, now, recipients, b.Report)
}

// withMedium writes a set with the medium that restores it, and keeps the state for the next
// increment. dir is the directory with the sets, "" for none; committed has the manifest then.
func (b *Builder) withMedium(ctx context.Context, p *Plan, id string, now time.Time, sink set.Placed, dir, committed string, h rescue.Hint) (*Result, error) {
	if p.Holder != nil {
		h.FSUUID, h.Path = p.Holder.UUID, filepath.Join(p.HolderPath, filepath.Base(sink.Final()))
	}
	iso := filepath.Join(sink.Dir(), manifest.RescueISO)
	man, err := b.write(ctx, p, id, now, sink, dir, func() error { return b.Maker().Medium(ctx, p.Machine(), h, iso) })
	if err != nil {
		return nil, errors.Join(err, p.generation.discard())
	}
	if err := p.generation.commit(ctx, man, committed); err != nil {
		b.Report.Warn("%v", err)
	}
	return &Result{Dir: sink.Final(), Manifest: man, ISO: int64(man.Sum(manifest.RescueISO).Size), NotCovered: man.NotCovered}, nil
}

// prune removes the sets in dir that the configuration does not keep, now that there is a new one,
// made.
func (b *Builder) prune(ctx context.Context, dir, host, made string, now time.Time) []string {
	return b.pruned(func() ([]string, error) {
		sets, err := b.Config.Keep.Plan(ctx, dir, host, &retention.Next{Set: made}, now)
		if err != nil {
			return nil, err
		}
		return retention.Apply(ctx, dir, sets, nil)
	})
}

// pruned calls remove, if the configuration keeps only some sets. The new set is good whether it
// succeeds or not.
func (b *Builder) pruned(remove func() (removed []string, err error)) []string {
	if !b.Config.Keep.Set() {
		return nil
	}
	removed, err := remove()
	if err != nil {
		b.Report.Warn("the new backup is complete, but old ones were not removed: %v", err)
	}
	for _, s := range removed {
		b.Report.Note("removed: %s", s)
	}
	return removed
}

// write writes a set with an id to a sink; dir is the directory with the sets, "" for none.
// medium makes what starts the restore of it: what is missing for that must fail before
// hours of archives.
func (b *Builder) write(ctx context.Context, p *Plan, id string, now time.Time, sink set.Sink, dir string, medium func() error) (man *manifest.Manifest, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, sink.Remove())
		}
	}()
	if _, _, err := b.Config.Rescue.Cmdline(p.Layout); err != nil {
		return nil, err
	}
	p.planSnapshots(ctx, b)
	job := p.job(b, dir)
	if job.Sign, err = b.signing(); err != nil {
		return nil, err
	}
	w, err := set.Start(job, id, now, sink)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	if err := medium(); err != nil {
		return nil, err
	}
	b.remounted(p, w, sink.Dir())
	if err := b.snapshots(ctx, p, w); err != nil {
		return nil, err
	}
	defer func() {
		if err := p.snapshots.Close(ctx); err != nil {
			b.Report.Warn("the next backup will try again: %v", err)
		}
	}()
	return w.Write(ctx)
}

// job is what the set of the plan gets. dir is the directory with the sets, "" for none.
func (p *Plan) job(b *Builder, dir string) set.Job {
	j := set.Job{Layout: p.Layout, Images: p.Images, LeftOut: p.LeftOut, NotCovered: p.NotCovered, Marks: p.Marks(), Recipients: p.recipients, Program: b.Version, Report: b.Report, Needs: p.generation.needs(), ImageStates: p.generation.imageStates()}
	if b.hooks != nil {
		j.Said = b.hooks.Said
	}
	for i := range p.Archives {
		a := &p.Archives[i]
		// unfinished has the archive leave out what is being written to dir.
		unfinished := func() error {
			if i+1 == p.holderArchive && dir != "" {
				return p.leaveUnfinished(dir)
			}
			return nil
		}
		s := set.Archive{File: a.File, Device: a.Device, Type: a.Type, Mount: a.Mount, Name: a.Name(), Used: a.Used, Options: a.options(p), States: p.generation.states(a), Open: func() (*os.File, error) {
			if err := unfinished(); err != nil {
				return nil, err
			}
			return a.open(b, p)
		}}
		if p.snapshotPlan.Has(a.Device) {
			s.Frozen = func() (*set.Frozen, error) {
				if err := unfinished(); err != nil {
					return nil, err
				}
				return a.frozen(p)
			}
		}
		j.Archives = append(j.Archives, s)
	}
	return j
}
