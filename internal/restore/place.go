package restore

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/plan"
)

// place is where a file system of the plan is mounted: the directory below, in dest.
// dest is ours, what is below it comes from archives: a symbolic link on the way, which
// one of them may have, is never followed.
type place struct{ dest, below string }

// lockedPlace is what is to be locked in a place; mount is its path in the system.
type lockedPlace struct {
	place
	mount string
	locks []archive.Lock
}

// placeOf gives the place of a step that mounted at the directory at, which has no links.
func (r *Restorer) placeOf(s *plan.MountFS, at string) (place, error) {
	if s.Mount.Path == "" {
		return place{dest: at}, nil // beside the target, and nothing of an archive is on the way
	}
	rel, err := filepath.Rel(r.opt.Target, at)
	if err != nil || !filepath.IsLocal(rel) {
		return place{}, fmt.Errorf("cannot restore %s: its mount point %s is not below %s", s.Mount.Path, at, r.opt.Target)
	}
	return place{r.opt.Target, rel}, nil
}

// isMounted checks that the root of the step's file system is at the place, and no
// directory of another one: the content would be on the wrong disk.
func (p place) isMounted(k kernel.Kernel, s *plan.MountFS) error {
	d, err := archive.OpenBelow(p.dest, p.below, false)
	if err != nil {
		return err
	}
	defer d.Close()
	root, number, err := k.MountRoot(d)
	if err != nil {
		return err
	}
	if !root {
		return fmt.Errorf("cannot restore %s: nothing is mounted on %s", s.Mount.Path, d.Name())
	}
	if number == "" {
		return nil
	}
	f, err := k.Open(s.Device, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("cannot look at /dev/%s: %w", s.Device, err)
	}
	defer f.Close()
	want, _, err := k.Number(f)
	if err != nil {
		return err
	}
	if number != want {
		return fmt.Errorf("cannot restore %s: on %s is device %s, and not /dev/%s", s.Mount.Path, d.Name(), number, s.Device)
	}
	return nil
}
