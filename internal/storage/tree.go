package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/inroot"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Tree is where a plan's file systems are mounted while a system is restored.
type Tree struct {
	Plan *plan.Plan
	Run  tool.Runner
	// Machine is asked what is mounted, and what is on which disk.
	Machine probe.Machine
	// Target is the directory that the file systems are mounted below.
	Target string
	// Own names the disks whose arrays, LUKS devices and volumes Release may close; nil
	// for those of the plan. Others may have the same names.
	Own []string
}

func (t *Tree) kernel() kernel.Kernel { return kernel.Of(t.Run) }

// Place is where a MountFS step mounts, with links in the restored system followed in
// it. What is missing is made.
func (t *Tree) Place(s *plan.MountFS) (string, error) {
	if s.Mount.Path == "" {
		dir := PrivateDir(t.Target, s.FS.Device)
		return dir, os.MkdirAll(dir, 0o700)
	}
	return inroot.MkdirAll(t.Target, s.Mount.Path, 0o755)
}

// makePlace is Place for a target that may not be there.
func (t *Tree) makePlace(s *plan.MountFS) (string, error) {
	err := os.MkdirAll(t.Target, 0o755)
	dir, err2 := t.Place(s)
	return dir, errors.Join(err, err2)
}

// Mount mounts what a step of the plan wants.
func (t *Tree) Mount(s *plan.MountFS) error {
	dir, err := t.makePlace(s)
	if err != nil {
		return fmt.Errorf("cannot make mount point %s: %w", s.Mount.Path, err)
	}
	if s.FS.Type == fstype.TypeBtrfs {
		var opts []string
		for _, o := range strings.Split(s.Mount.Options, ",") {
			if strings.HasPrefix(o, "compress") {
				opts = append(opts, o)
			}
		}
		return MountBtrfs(t.kernel(), s.Device, s.Others, s.Mount.Subvolume, dir, unix.MS_NOATIME, opts...)
	}
	data := fstype.Of(s.FS.Type).Mount
	if fstype.Of(s.FS.Type).Foreign {
		data = s.Mount.Owners() // then all of them are as they were
	}
	if err := t.kernel().Mount("/dev/"+s.Device, dir, s.FS.Type, unix.MS_NOATIME, data); err != nil {
		return fmt.Errorf("cannot mount /dev/%s on %s: %w", s.Device, dir, err)
	}
	return nil
}

// Seal makes the subvolumes read-only that were.
func (t *Tree) Seal() error {
	for _, s := range plan.StepsOf[*plan.MountFS](t.Plan) {
		if s.FS.Type != fstype.TypeBtrfs {
			continue
		}
		at, err := t.Place(s)
		if err != nil {
			return err
		}
		inner := s.FS.Inner(*s.Mount)
		for _, v := range s.FS.Subvolumes {
			rel := strings.TrimPrefix(strings.TrimPrefix(v.Path, s.Mount.Subvolume), "/")
			if v.ReadOnly && (v.Path == s.Mount.Subvolume || slices.Contains(inner, rel)) {
				if err := btrfs.SetReadOnly(filepath.Join(at, rel)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Sync writes everything that was restored to the disks and reports whether the
// kernel could: an error that only unmounting would meet would be lost.
func (t *Tree) Sync() error {
	var errs []error
	for _, s := range plan.StepsOf[*plan.MountFS](t.Plan) {
		errs = append(errs, t.SyncMount(s))
	}
	return errors.Join(errs...)
}

// SyncMount is Sync for what one step has mounted.
func (t *Tree) SyncMount(s *plan.MountFS) error {
	at, err := t.Place(s)
	var d *os.File
	if err == nil {
		d, err = os.Open(at)
	}
	if err == nil {
		err = unix.Syncfs(int(d.Fd()))
		d.Close()
	}
	if err != nil {
		return fmt.Errorf("cannot write the restored files of %s to /dev/%s: %w", s.Mount.Path, s.Device, err)
	}
	return nil
}

// Release unmounts everything below target, and closes the plan's volume groups,
// LUKS devices and arrays: after a run, and before a new try. It reports what stays.
// What only has their names and is on other disks is left alone.
func (t *Tree) Release(ctx context.Context) error {
	err := t.release(ctx)
	if err != nil {
		// LUKS may be on LVM, and LVM on LUKS: what was in use before is not now.
		err = t.release(ctx)
	}
	return err
}

func (t *Tree) release(ctx context.Context) error {
	var errs []error
	mounts, err := t.Machine.Mounts()
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if Below(t.Target, m.Path) {
			if err := t.kernel().Unmount(m.Path); err != nil {
				errs = append(errs, fmt.Errorf("cannot unmount %s: %w", m.Path, err))
			}
		}
	}
	for _, s := range slices.Backward(t.Plan.Steps) {
		switch s := s.(type) {
		case *plan.RestoreVG:
			errs = append(errs, CloseGroup(ctx, t.Run, s.Group, t.own))
		case *plan.MakeCrypt:
			if t.own(s.Crypt.Mapper()) {
				errs = append(errs, CloseCrypt(ctx, t.Run, s.Crypt.Name))
			}
		case *plan.MakeArray:
			if t.own(s.Device) {
				errs = append(errs, StopArray(ctx, t.Run, s.Device))
			}
		}
	}
	t.kernel().Sync()
	return errors.Join(errs...)
}

// own reports whether a device is on disks that are the tree's, or were until they
// were disconnected; with no disks known, anything is.
func (t *Tree) own(dev string) bool {
	names := t.Own
	if names == nil {
		for _, d := range t.Plan.Disks {
			names = append(names, d.New.Name)
		}
		if names == nil {
			return true
		}
	}
	for _, d := range t.Machine.DisksOf(dev) {
		gone := !t.Machine.There(d) && slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(d, n) })
		if !gone && !slices.Contains(names, d) {
			return false
		}
	}
	return true
}
