package set

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// deviceUse is what can change a device while it is read.
type deviceUse struct {
	dev  string // "/dev/vg0/vm1"
	rdev uint64
	// near are the device itself, the disk that it is a partition of, and its own
	// partitions: a write to one changes the other.
	near []uint64
}

// newDeviceUse looks at the open device f; name is its path.
func newDeviceUse(f *os.File, name string) (*deviceUse, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("cannot look at %s: %w", name, err)
	}
	u := &deviceUse{dev: name, rdev: uint64(st.Rdev), near: []uint64{uint64(st.Rdev)}}
	sys, err := filepath.EvalSymlinks(u.sys(u.rdev))
	if err != nil {
		return u, nil // not a block device, in tests
	}
	add := func(dir string) {
		if b, err := os.ReadFile(filepath.Join(dir, "dev")); err == nil {
			var major, minor uint32
			if _, err := fmt.Sscanf(string(b), "%d:%d", &major, &minor); err == nil {
				u.near = append(u.near, unix.Mkdev(major, minor))
			}
		}
	}
	if _, err := os.Stat(filepath.Join(sys, "partition")); err == nil {
		add(filepath.Dir(sys))
		return u, nil
	}
	parts, err := os.ReadDir(sys)
	if err != nil {
		return u, nil
	}
	for _, p := range parts {
		if _, err := os.Stat(filepath.Join(sys, p.Name(), "partition")); err == nil {
			add(filepath.Join(sys, p.Name()))
		}
	}
	return u, nil
}

func (u *deviceUse) sys(rdev uint64) string {
	return fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(rdev), unix.Minor(rdev))
}

// writers names who can write to the device now: mounts, devices that are built
// on it, programs that have it open for writing, and others that hold it.
func (u *deviceUse) writers() []string {
	rw, ro := u.mounts()
	out := rw
	var held []string
	for _, d := range u.near {
		h, err := os.ReadDir(filepath.Join(u.sys(d), "holders"))
		if err != nil {
			continue
		}
		for _, x := range h {
			if d == u.rdev {
				held = append(held, "/dev/"+x.Name()+" is built on it")
			}
		}
	}
	out = append(out, held...)
	programs := u.programs()
	out = append(out, programs...)
	if len(rw) == 0 && len(ro) == 0 && len(held) == 0 && u.exclusive() {
		out = append(out, "the kernel, or a program in another namespace, holds it exclusively")
	}
	return out
}

// mounts gives the places where the device is mounted for writing, and for
// reading only.
func (u *deviceUse) mounts() (rw, ro []string) {
	all, err := sysconf.Mounts("")
	if err != nil {
		return []string{err.Error()}, nil
	}
	dev := fmt.Sprintf("%d:%d", unix.Major(u.rdev), unix.Minor(u.rdev))
	for _, m := range all {
		// The superblock's options count: a file system that is writable elsewhere is
		// written to, even if this mount is read-only.
		switch {
		case m.Dev != dev:
		case sysconf.HasOption(m.Super, "ro"):
			ro = append(ro, m.Path)
		default:
			rw = append(rw, "it is mounted on "+m.Path)
		}
	}
	return rw, ro
}

// programs names the processes that have the device open for writing.
func (u *deviceUse) programs() []string {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return []string{"cannot list processes: " + err.Error()}
	}
	var out []string
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		if u.opens(pid) {
			name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			if err != nil {
				continue // it has ended
			}
			out = append(out, fmt.Sprintf("%s (process %d) has it open for writing", strings.TrimSpace(string(name)), pid))
		}
	}
	return out
}

// opens reports whether a process has the device open for writing.
func (u *deviceUse) opens(pid int) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, fd := range fds {
		link, err := os.Readlink(filepath.Join(dir, fd.Name()))
		if err != nil || !strings.HasPrefix(link, "/") {
			continue // a socket or pipe
		}
		var st unix.Stat_t
		if unix.Stat(filepath.Join(dir, fd.Name()), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK || !slices.Contains(u.near, uint64(st.Rdev)) {
			continue
		}
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd.Name()))
		if err != nil {
			continue
		}
		for _, l := range strings.Split(string(info), "\n") {
			if v, ok := strings.CutPrefix(l, "flags:"); ok {
				n, err := strconv.ParseUint(strings.TrimSpace(v), 8, 64)
				if err == nil && n&unix.O_ACCMODE != unix.O_RDONLY {
					return true
				}
			}
		}
	}
	return false
}

// exclusive reports whether something holds the device so that nobody else gets it
// exclusively: open(2), O_EXCL of a block device.
func (u *deviceUse) exclusive() bool {
	fd, err := unix.Open(u.dev, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil {
		unix.Close(fd)
	}
	return errors.Is(err, unix.EBUSY)
}

// written is how many sectors were written to the device since the machine was
// started; -1 when that is not known. Documentation/block/stat.rst, field 7.
func (u *deviceUse) written() int64 {
	b, err := os.ReadFile(u.sys(u.rdev) + "/stat")
	f := strings.Fields(string(b))
	if err != nil || len(f) < 7 {
		return -1
	}
	n, err := strconv.ParseInt(f[6], 10, 64)
	if err != nil {
		return -1
	}
	return n
}
