package recreate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/storage"
)

// Release unmounts everything below target, and closes the plan's volume groups,
// LUKS devices and arrays: after a run, and before a new try. It reports what stays.
// What only has their names and is on other disks is left alone.
func (r *Recreator) Release(ctx context.Context) error {
	err := r.release(ctx)
	if err != nil {
		// LUKS may be on LVM, and LVM on LUKS: what was in use before is not now.
		err = r.release(ctx)
	}
	return err
}

func (r *Recreator) release(ctx context.Context) error {
	var errs []error
	mounts, err := r.Machine.Mounts()
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if storage.Below(r.Target, m.Path) {
			if err := r.kernel().Unmount(m.Path); err != nil {
				errs = append(errs, fmt.Errorf("cannot unmount %s: %w", m.Path, err))
			}
		}
	}
	for _, s := range slices.Backward(r.Plan.Steps) {
		switch s := s.(type) {
		case *plan.RestoreVG:
			errs = append(errs, storage.CloseGroup(ctx, r.Run, r.Machine.Root, s.Group, r.own))
		case *plan.MakeCrypt:
			if r.own(s.Crypt.Mapper()) {
				errs = append(errs, storage.CloseCrypt(ctx, r.Run, s.Crypt.Name))
			}
		case *plan.MakeArray:
			if r.own(s.Device) {
				errs = append(errs, storage.StopArray(ctx, r.Run, s.Device))
			}
		}
	}
	r.kernel().Sync()
	return errors.Join(errs...)
}

// own tells whether a device is on disks that are the recreator's, or were until they
// were disconnected; with no disks known, anything is.
func (r *Recreator) own(dev string) bool {
	names := r.Own
	if names == nil {
		for _, d := range r.Plan.Disks {
			names = append(names, d.New.Name)
		}
		if names == nil {
			return true
		}
	}
	for _, d := range r.Machine.DisksOf(dev) {
		gone := !r.Machine.There(d) && slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(d, n) })
		if !gone && !slices.Contains(names, d) {
			return false
		}
	}
	return true
}
