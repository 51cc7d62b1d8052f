package disks

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func umount(e *tools.Env) error {
	ms, err := sysconf.Mounts("")
	if err != nil {
		return err
	}
	names := e.Args
	if e.On("a") {
		names = removable(ms, e.Val("t"))
	}
	if len(names) == 0 && !e.On("a") {
		return tools.Usage("bad usage")
	}
	flags := 0
	if e.On("l") {
		flags |= unix.MNT_DETACH
	}
	if e.On("f") {
		flags |= unix.MNT_FORCE
	}
	for _, n := range names {
		for _, p := range pointsOf(e, ms, n) {
			err := unix.Unmount(p, flags)
			if errors.Is(err, unix.EBUSY) && e.On("r") {
				w := &wish{dir: p, flags: unix.MS_REMOUNT | unix.MS_RDONLY}
				if err = w.keep(); err == nil {
					err = unix.Mount("", p, "", w.flags, "")
				}
			}
			unmounted(e, p, err)
		}
	}
	return nil
}

// unmounted reports the end of an attempt to unmount p.
func unmounted(e *tools.Env, p string, err error) {
	switch {
	case errors.Is(err, unix.EBUSY):
		e.Fault(32, "%s: target is busy. (fuser -vm %s shows who uses it)", p, p)
	case errors.Is(err, unix.EINVAL) && e.On("q"):
		e.Set(32)
	case errors.Is(err, unix.EINVAL):
		e.Fault(32, "%s: not mounted.", p)
	case err != nil:
		e.Fault(32, "%s: umount failed: %s", p, tools.Cause(err))
	case e.On("v"):
		e.Fault(0, "%s unmounted", p)
	}
}

// removable are the mount points that umount -a unmounts: not those of the running system.
func removable(ms []sysconf.Mount, types string) []string {
	var out []string
	for _, m := range slices.Backward(ms) {
		top, _, _ := strings.Cut(strings.TrimPrefix(m.Path, "/"), "/")
		keep := slices.Contains([]string{"proc", "sys", "dev", "run", ""}, top)
		if !keep && (types == "" || slices.Contains(strings.Split(types, ","), m.Type)) {
			out = append(out, m.Path)
		}
	}
	return out
}

// pointsOf are the mount points that an operand of umount means, in the order of unmounting.
func pointsOf(e *tools.Env, ms []sysconf.Mount, name string) []string {
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		real = name
	}
	if abs, err := filepath.Abs(real); err == nil {
		real = abs
	}
	var out []string
	for _, m := range slices.Backward(ms) {
		if m.Path == real || m.Source == real && strings.HasPrefix(real, "/dev/") || e.On("R") && strings.HasPrefix(m.Path, real+"/") {
			out = append(out, m.Path)
			if !e.On("R", "A") {
				break
			}
		}
	}
	if out == nil {
		return []string{real}
	}
	return out
}

func eject(e *tools.Env) error {
	dev := "/dev/sr0"
	if len(e.Args) > 0 {
		dev = e.Args[0]
	}
	if !strings.HasPrefix(dev, "/") {
		dev = "/dev/" + dev
	}
	if e.On("n") {
		e.Printf("eject: device is `%s'\n", dev)
		return nil
	}
	fd, err := unix.Open(dev, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("unable to open %s: %s", dev, tools.Cause(err))
	}
	defer unix.Close(fd)
	const ejectDisc, closeTray, lockDoor = 0x5309, 0x5319, 0x5329 // linux/cdrom.h
	_ = unix.IoctlSetInt(fd, lockDoor, 0)                         // a drive without a lock has none to open
	req := uint(ejectDisc)
	if e.On("t") {
		req = closeTray
	}
	if err := unix.IoctlSetInt(fd, req, 0); err != nil {
		return fmt.Errorf("unable to eject %s: %s", dev, tools.Cause(err))
	}
	return nil
}
