package recreate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

// Surface reads all disks of the plan to their ends, side by side; with CheckWrite it writes
// them before, and all that was on them is lost. Bad sectors are an error: a refusal, if
// nothing was written.
func (r *Recreator) Surface(ctx context.Context, how string) error {
	var total quantity.Size
	for _, d := range r.Plan.Disks {
		total += d.New.Size
	}
	name := "reading all of the disks"
	if how == CheckWrite {
		name, total = "writing and reading all of the disks", 2*total
	}
	p := r.Report.Phase(name, int64(total))
	errs := make([]error, len(r.Plan.Disks))
	var wg sync.WaitGroup
	for i, d := range r.Plan.Disks {
		wg.Go(func() {
			bad, err := r.surfaceOf(ctx, d.New.Name, how, p)
			if len(bad) > 0 {
				err = errors.Join(fmt.Errorf("/dev/%s (%s %s) has bad sectors: %s; replace it, or restore onto another disk with --map", d.New.Name, d.New.Model, d.New.Serial, sectors(bad)), err)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	err := errors.Join(errs...)
	if err != nil && how == CheckRead && ctx.Err() == nil {
		return &exit.Refusal{Reason: err.Error()}
	}
	return err
}

// surfaceOf gives the bad sectors of one disk.
func (r *Recreator) surfaceOf(ctx context.Context, name, how string, p progress.Counter) ([]blockcopy.Extent, error) {
	dev, err := blockcopy.OpenDevice(r.kernel().Path("/dev/" + name))
	if err != nil {
		return nil, fmt.Errorf("cannot check /dev/%s: %w", name, err)
	}
	defer dev.Close()
	var bad []blockcopy.Extent
	if how == CheckWrite {
		f, e := r.openDisk(name)
		if e != nil {
			return nil, e
		}
		defer f.Close()
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
