package builder

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
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

	modules ModuleReport // of the last rescue system made
	// carry is what a rescue system has beside the programs that it needs.
	carry []initramfs.Program
}

// Result says what a run made.
type Result struct {
	Dir      string // of the set
	Manifest *manifest.Manifest
	ISO      int64 // bytes
	// NotCovered is what a restore would not bring back; exit code 3.
	NotCovered []string
}

// Path writes a backup set below dir, as dir/HOST-TIME. It appears whole: until
// then it has a temporary name, and on any error nothing is left.
func (b *Builder) Path(ctx context.Context, p *Plan, dir string) (*Result, error) {
	size := int64(0)
	r, err := b.directory(ctx, p, dir, uuid.New(), func(h Hint, to string) error {
		iso := filepath.Join(to, manifest.RescueISO)
		if err := b.rescue(ctx, p, h, iso); err != nil {
			return err
		}
		st, err := os.Stat(iso)
		if err == nil {
			size = st.Size()
		}
		return err
	})
	if err == nil {
		r.ISO = size
	}
	return r, err
}

// directory writes a set with an id below dir. medium makes what starts the restore of it,
// maybe in the directory of the set's files.
func (b *Builder) directory(ctx context.Context, p *Plan, dir, id string, medium func(h Hint, to string) error) (*Result, error) {
	if err := mustDir(dir); err != nil {
		return nil, err
	}
	if _, _, err := b.cmdline(p); err != nil { // before hours of archives, not after
		return nil, err
	}
	now := time.Now()
	sink, err := set.NewDirectory(dir, p.Layout.Hostname, now, b.Report)
	if err != nil {
		return nil, err
	}
	man, err := b.writeSet(ctx, p, id, now, sink, dir, medium)
	if err != nil {
		return nil, errors.Join(err, sink.Remove())
	}
	return &Result{Dir: sink.Final(), Manifest: man, NotCovered: man.NotCovered}, nil
}

func (b *Builder) writeSet(ctx context.Context, p *Plan, id string, now time.Time, sink *set.Directory, dir string, medium func(h Hint, to string) error) (*manifest.Manifest, error) {
	w, err := set.Start(p.job(b, dir), id, now, sink)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	h := Hint{SetID: id}
	if p.Holder != nil {
		h.FSUUID, h.Path = p.Holder.UUID, filepath.Join(p.HolderPath, filepath.Base(sink.Final()))
	}
	if err := medium(h, sink.Dir()); err != nil {
		return nil, err
	}
	b.remounted(p, w, sink.Dir())
	return w.Write(ctx)
}

// job is what the set of the plan gets. dir is the directory with the sets, "" for none.
func (p *Plan) job(b *Builder, dir string) set.Job {
	j := set.Job{Layout: p.Layout, Images: p.Images, LeftOut: p.LeftOut, NotCovered: p.NotCovered, Recipients: p.recipients, Program: b.Version, Report: b.Report}
	for i := range p.Archives {
		a := &p.Archives[i]
		j.Archives = append(j.Archives, set.Archive{File: a.File, Device: a.Device, Type: a.Type, Mount: a.Mount, Name: a.Name(), Used: a.Used, Options: a.options(p), Open: func() (*os.File, error) {
			if i+1 == p.holderArchive && dir != "" {
				if err := p.leaveUnfinished(dir); err != nil {
					return nil, err
				}
			}
			return a.open(b, p)
		}})
	}
	return j
}
