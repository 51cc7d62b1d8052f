package archive

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/ioctl"
)

// Flags are the attributes of chattr(1), as bits of FS_IOC_GETFLAGS
// (linux/fs.h). Those that tell how a file system keeps a file, like extents or
// indexed directories, are not among them.
type Flags uint32

// Every one of them; lsattr(1) shows each as the letter behind it.
const (
	flagSecureDelete Flags = 0x00000001 // s
	flagUndelete     Flags = 0x00000002 // u
	flagCompress     Flags = 0x00000004 // c
	flagSync         Flags = 0x00000008 // S
	flagImmutable    Flags = 0x00000010 // i
	flagAppend       Flags = 0x00000020 // a
	flagNoDump       Flags = 0x00000040 // d
	flagNoAtime      Flags = 0x00000080 // A
	flagNoCompress   Flags = 0x00000400 // m
	flagJournal      Flags = 0x00004000 // j
	flagNoTail       Flags = 0x00008000 // t
	flagDirSync      Flags = 0x00010000 // D
	flagTopDir       Flags = 0x00020000 // T
	flagNoCow        Flags = 0x00800000 // C
	flagDAX          Flags = 0x02000000 // x
	flagProjInherit  Flags = 0x20000000 // P
	flagCasefold     Flags = 0x40000000 // F
)

// flagNames are what libarchive calls them in SCHILY.fflags. It has no name for
// the last three.
var flagNames = []struct {
	bit  Flags
	name string
}{
	{flagSecureDelete, "secdel"}, {flagUndelete, "undel"}, {flagCompress, "compress"}, {flagSync, "sync"},
	{flagImmutable, "schg"}, {flagAppend, "sappnd"}, {flagNoDump, "nodump"}, {flagNoAtime, "noatime"},
	{flagJournal, "journal-data"}, {flagNoTail, "notail"}, {flagDirSync, "dirsync"}, {flagTopDir, "topdir"},
	{flagNoCow, "nocow"}, {flagProjInherit, "projinherit"},
	{flagNoCompress, "nocompress"}, {flagDAX, "dax"}, {flagCasefold, "casefold"},
}

const (
	// Locks keep a file, and the directory it is in, from being changed by
	// anybody: they come last.
	flagLocks = flagImmutable | flagAppend
	// These say how what is written gets kept: they are wanted on an empty
	// file, and a new file has them from its directory.
	flagEarlyFile = flagCompress | flagNoCompress | flagNoCow | flagJournal
	flagEarlyDir  = flagNoCow | flagCasefold
	// These ask for a way of keeping a file, and mean nothing on a file system
	// that lacks it.
	flagHints = flagCompress | flagNoCompress | flagNoCow | flagJournal | flagSecureDelete | flagUndelete | flagNoTail | flagTopDir | flagDAX

	flagAll = flagHints | flagLocks | flagSync | flagNoDump | flagNoAtime | flagDirSync | flagProjInherit | flagCasefold
)

// String gives the names, parted by commas: the value of SCHILY.fflags.
func (f Flags) String() string {
	var out []string
	for _, n := range flagNames {
		if f&n.bit != 0 {
			out = append(out, n.name)
		}
	}
	return strings.Join(out, ",")
}

// parseFlags reads names. Those of other systems, which bsdtar may have
// written, are left out, as bsdtar does.
func parseFlags(s string) (f Flags) {
	for name := range strings.SplitSeq(s, ",") {
		for _, n := range flagNames {
			if name == n.name {
				f |= n.bit
			}
		}
	}
	return f
}

// paxProject is the pax record of a project, the number that quotas of XFS and
// ext4 go by.
const paxProject = "MKCDREC.project"

func parseProject(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%w: project %q", errHeader, s)
	}
	return uint32(n), nil
}

// From linux/fs.h; the structure is fsxattr.
const (
	iocFSGetXattr = 0x801c581f
	iocFSSetXattr = 0x401c5820
)

type fsxattr struct {
	Flags, ExtentSize, Extents, Project, CowExtentSize uint32
	_                                                  [8]byte
}

// allFlags gives all bits of an open file or directory, also those that are
// no Flags; ENOTTY or EOPNOTSUPP where the file system has no such thing.
func allFlags(fd int) (uint32, error) {
	// The kernel takes it for an int, and FUSE before Linux 5.13 for the long that
	// the request's number has.
	var v [2]uint32
	err := ioctl.Do(uintptr(fd), unix.FS_IOC_GETFLAGS, &v)
	return v[0], err
}

// readFlags fills in flags and project of an open file or directory. Where the
// file system has none, or doesn't report them, they stay 0.
func (m *Member) readFlags(fd int) {
	if n, err := allFlags(fd); err == nil {
		m.Flags = Flags(n) & flagAll
	}
	var x fsxattr
	if ioctl.Do(uintptr(fd), iocFSGetXattr, &x) == nil {
		m.Project = x.Project
	}
}

// setFlags makes the flags within mask those of want; the others stay. The error
// names those that can't be set, but for hints that the file system doesn't know.
func setFlags(fd int, want, mask Flags) error {
	is, err := allFlags(fd)
	if err != nil {
		if want&mask&^flagHints == 0 {
			return nil
		}
		return fmt.Errorf("cannot set flags %s: %w", want&mask, err)
	}
	set := func(to uint32) error {
		if to == is {
			return nil
		}
		v := [2]uint32{to}
		if err := ioctl.Do(uintptr(fd), unix.FS_IOC_SETFLAGS, &v); err != nil {
			return err
		}
		is = to
		return nil
	}
	err = set(is&^uint32(mask) | uint32(want&mask))
	if err == nil {
		return nil
	}
	// One after the other, to see which.
	var not Flags
	for _, n := range flagNames {
		if n.bit&mask == 0 {
			continue
		}
		e := set(is&^uint32(n.bit) | uint32(want&n.bit))
		if e == nil || n.bit&flagHints != 0 && (e == unix.EOPNOTSUPP || e == unix.EINVAL) {
			continue
		}
		not, err = not|n.bit, e
	}
	if not != 0 {
		return fmt.Errorf("cannot set flags %s: %w", not, err)
	}
	return nil
}

func setProject(fd int, project uint32) error {
	var x fsxattr
	err := ioctl.Do(uintptr(fd), iocFSGetXattr, &x)
	if err == nil && x.Project != project {
		x.Project = project
		err = ioctl.Do(uintptr(fd), iocFSSetXattr, &x)
	}
	if err != nil {
		return fmt.Errorf("cannot set project %d: %w", project, err)
	}
	return nil
}

// A Lock is a file or directory that nobody may change (immutable), or only
// append to.
type Lock struct {
	Path  string `json:"path"` // as a member's
	Flags Flags  `json:"flags"`
}

// SetLocksBelow sets the locks of what was extracted with KeepUnlocked to the directory below
// in dest (ExtractOptions.Below), and lists those that could not be set.
func SetLocksBelow(dest, below string, locks []Lock) ([]Problem, error) {
	return changeLocks(dest, below, locks, flagLocks)
}

// FindLocksBelow lists what is locked of the directory below, in dest: itself, what is on
// the way to its directories dirs, and what is in those and on the same file system.
// Symbolic links are not followed. What a file system does not report is not listed.
func FindLocksBelow(dest, below string, dirs ...string) ([]Lock, error) {
	f, err := OpenBelow(dest, below, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	at, dev, err := lockAt(int(f.Fd()), "")
	if err != nil {
		return nil, fmt.Errorf("cannot look at %s: %w", f.Name(), err)
	}
	w := &lockWalk{dev: dev, dirs: dirs}
	w.add(".", at)
	if err := w.dir(f, ""); err != nil {
		return nil, fmt.Errorf("cannot look for locked files in %s: %w", f.Name(), err)
	}
	return w.locks, nil
}

type lockWalk struct {
	dev   uint64
	dirs  []string
	locks []Lock
}

func (w *lockWalk) add(name string, f Flags) {
	if f != 0 {
		w.locks = append(w.locks, Lock{name, f})
	}
}

// wanted reports whether a path is one of the directories, in one, or on the way to one.
func (w *lockWalk) wanted(name string) bool {
	return slices.ContainsFunc(w.dirs, func(d string) bool {
		return name == d || strings.HasPrefix(name, d+"/") || strings.HasPrefix(d, name+"/")
	})
}

func (w *lockWalk) dir(d *os.File, at string) error {
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		name := path.Join(at, n)
		if !w.wanted(name) {
			continue
		}
		f, dev, err := lockAt(int(d.Fd()), n)
		if err != nil {
			return fmt.Errorf("%s: %w", Quote(name), err)
		}
		if dev != w.dev {
			continue
		}
		w.add(name, f)
		fd, err := unix.Openat(int(d.Fd()), n, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.ENOTDIR || err == unix.ELOOP {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", Quote(name), err)
		}
		sub := os.NewFile(uintptr(fd), name)
		err = w.dir(sub, name)
		sub.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// lockAt gives the locks of a file in an open directory, "" for that itself, and its device.
func lockAt(fd int, name string) (f Flags, dev uint64, err error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT|unix.AT_EMPTY_PATH, unix.STATX_TYPE, &st); err != nil {
		return 0, 0, err
	}
	if st.Attributes&unix.STATX_ATTR_IMMUTABLE != 0 {
		f |= flagImmutable
	}
	if st.Attributes&unix.STATX_ATTR_APPEND != 0 {
		f |= flagAppend
	}
	return f, unix.Mkdev(st.Dev_major, st.Dev_minor), nil
}

// TakeLocksBelow takes off what SetLocksBelow set.
func TakeLocksBelow(dest, below string, locks []Lock) ([]Problem, error) {
	return changeLocks(dest, below, locks, 0)
}

func changeLocks(dest, below string, locks []Lock, keep Flags) ([]Problem, error) {
	fd, _, err := openBelow(dest, below, false)
	if err != nil {
		return nil, err
	}
	dirs := newDirCache(fd)
	dirs.lookOnly = true
	defer dirs.close()
	var out []Problem
	for _, l := range locks {
		if err := dirs.lock(Lock{l.Path, l.Flags & keep}); err != nil {
			out = append(out, Problem{l.Path, Metadata, err.Error()})
		}
	}
	return out, nil
}

func (c *dirCache) lock(l Lock) error {
	if err := clean(l.Path); err != nil {
		return err
	}
	fd, err := c.openAny(l.Path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return setFlags(fd, l.Flags, flagLocks)
}
