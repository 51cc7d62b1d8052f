package recreate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/plan"
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
		if Below(r.Target, m.Path) {
			if err := unix.Unmount(m.Path, 0); err != nil {
				errs = append(errs, fmt.Errorf("cannot unmount %s: %w", m.Path, err))
			}
		}
	}
	for _, s := range slices.Backward(r.Plan.Steps) {
		switch s.Kind {
		case plan.RestoreVG:
			errs = append(errs, r.closeGroup(ctx, s.Group))
		case plan.MakeCrypt:
			if r.own(s.Crypt.Mapper()) {
				errs = append(errs, CloseCrypt(ctx, r.Run, s.Crypt.Name))
			}
		case plan.MakeArray:
			if r.own(s.Device) {
				errs = append(errs, StopArray(ctx, r.Run, s.Device))
			}
		}
	}
	unix.Sync()
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

// volume is an active logical volume: the kernel's name of it and device-mapper's.
type volume struct{ kernel, name string }

// volumes lists the active volumes of a group, those inside others among them.
func (r *Recreator) volumes(name string) ([]volume, error) {
	return group{name: name, root: r.Machine.Root}.volumes()
}

// closeGroup deactivates a group's volumes. Where another group of the same name is on
// other disks, or LVM does not find the group any more, they are removed one by one.
func (r *Recreator) closeGroup(ctx context.Context, name string) error {
	all, err := r.volumes(name)
	if err != nil {
		return err
	}
	g := group{run: r.Run, name: name, root: r.Machine.Root}
	over, err := g.overlays() // of restore mount --ro
	if err != nil {
		return err
	}
	over = slices.DeleteFunc(over, func(o overlay) bool { return !r.own(o.kernel) })
	own := slices.DeleteFunc(slices.Clone(all), func(v volume) bool { return !r.own(v.kernel) })
	switch {
	case len(own) == 0:
	case len(own) < len(all):
		err = r.dropVolumes(ctx, name)
	default:
		args := []string{"vgchange", "-an"}
		if len(over) > 0 {
			args = append(args, onlyOverlays(over)...)
		}
		if err = r.lvm(ctx, append(args, name)...); err == nil {
			break
		}
		if drop := r.dropVolumes(ctx, name); drop != nil {
			err = errors.Join(err, drop)
			break
		}
		err = os.RemoveAll("/dev/" + name) // the names that LVM made here without udev
	}
	if err != nil {
		return err
	}
	return g.uncover(ctx, over)
}

// dropVolumes removes the own volumes of a group.
func (r *Recreator) dropVolumes(ctx context.Context, name string) error {
	return group{run: r.Run, name: name, root: r.Machine.Root}.drop(ctx, func(v volume) bool { return r.own(v.kernel) })
}
