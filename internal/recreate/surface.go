package recreate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"

	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// What Surface does with each disk.
const (
	CheckRead  = "read"
	CheckWrite = "write"
)

// Overwritten is a failure after Surface has begun to write: what was on the disks is lost,
// so that it is not a refusal.
type Overwritten struct{ Err error }

func (o *Overwritten) Error() string { return o.Err.Error() }

func (o *Overwritten) Unwrap() error { return o.Err }

// Touched reports that disks were written to.
func (o *Overwritten) Touched() bool { return true }

// Surface reads all disks of the plan to their ends, side by side; with CheckWrite it writes
// them before, and all that was on them is lost. Bad sectors are an error: a refusal, if
// nothing was written, and an *Overwritten otherwise.
func (r *Recreator) Surface(ctx context.Context, how string) error {
	var total quantity.Size
	for _, d := range r.Plan.Disks {
		total += d.New.Size
	}
	name := "reading all of the disks"
	if how == CheckWrite {
		name, total = "writing and reading all of the disks", 2*total
	}
	// All of them are opened before the first one is written to: one that is not the disk it
	// was, or is in use, is refused while nothing is lost.
	files := make([]*os.File, len(r.Plan.Disks))
	defer func() {
		for _, f := range files {
			if f != nil {
				f.Close()
			}
		}
	}()
	for i, d := range r.Plan.Disks {
		if how != CheckWrite {
			break
		}
		var err error
		if files[i], err = r.openDisk(d.New.Name); err != nil {
			return err
		}
	}
	p := r.Report.Phase(name, int64(total))
	errs := make([]error, len(r.Plan.Disks))
	var wg sync.WaitGroup
	for i, d := range r.Plan.Disks {
		wg.Go(func() {
			bad, err := r.surfaceOf(ctx, d.New.Name, files[i], p)
			if len(bad) > 0 {
				err = errors.Join(fmt.Errorf("/dev/%s (%s %s) has bad sectors: %s; replace it, or restore onto another disk with --map", d.New.Name, d.New.Model, d.New.Serial, sectors(bad)), err)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	err := errors.Join(errs...)
	switch {
	case err != nil && how == CheckWrite:
		return &Overwritten{err}
	case err != nil && ctx.Err() == nil:
		return &exit.Refusal{Reason: err.Error()}
	}
	return err
}

// surfaceOf gives the bad sectors of one disk, which is written to if it is open for that.
func (r *Recreator) surfaceOf(ctx context.Context, name string, f *os.File, p progress.Counter) ([]blockcopy.Extent, error) {
	dev, err := blockcopy.OpenDevice(r.kernel().Path("/dev/" + name))
	if err != nil {
		return nil, fmt.Errorf("cannot check /dev/%s: %w", name, err)
	}
	defer dev.Close()
	var bad []blockcopy.Extent
	if f != nil {
		bad, err = blockcopy.WriteSurface(ctx, dev, f, rand.Uint64(), func() error { return r.kernel().Forget(f) }, p)
	} else {
		bad, err = blockcopy.ReadSurface(ctx, dev, nil, p)
	}
	if err != nil {
		err = fmt.Errorf("cannot check /dev/%s: %w", name, err)
	}
	return bad, err
}

// sectors lists ranges for people.
func sectors(bad []blockcopy.Extent) string {
	var out []string
	for _, e := range bad[:min(len(bad), 20)] {
		if e.Length == 1 {
			out = append(out, fmt.Sprint(e.Start))
		} else {
			out = append(out, fmt.Sprintf("%d-%d", e.Start, e.Start+e.Length-1))
		}
	}
	if len(bad) > 20 {
		out = append(out, "...")
	}
	return strings.Join(out, ", ")
}
