package restore

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/archive"
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
func (p place) isMounted(s *plan.MountFS) error {
	d, err := archive.OpenBelow(p.dest, p.below, false)
	if err != nil {
		return err
	}
	defer d.Close()
	var st unix.Statx_t
	if err := unix.Statx(int(d.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return fmt.Errorf("cannot look at %s: %w", d.Name(), err)
	}
	// Kernels before 5.8 do not know it.
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return fmt.Errorf("cannot restore %s: nothing is mounted on %s", s.Mount.Path, d.Name())
	}
	if st.Dev_major == 0 {
		return nil // a type such as btrfs, whose device numbers are not those of its disks
	}
	var dev unix.Stat_t
	if err := unix.Stat("/dev/"+s.Device, &dev); err != nil {
		return fmt.Errorf("cannot look at /dev/%s: %w", s.Device, err)
	}
	if unix.Major(dev.Rdev) != st.Dev_major || unix.Minor(dev.Rdev) != st.Dev_minor {
		return fmt.Errorf("cannot restore %s: on %s is device %d:%d, and not /dev/%s", s.Mount.Path, d.Name(), st.Dev_major, st.Dev_minor, s.Device)
	}
	return nil
}
