package files

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func copyCommands() []tools.Command {
	return []tools.Command{
		{Name: "cp", Opts: "a/archive R/r/recursive p/preserve? f/force i/interactive n/no-clobber v/verbose u/update d L/dereference P/no-dereference H l/link s/symbolic-link t/target-directory: T/no-target-directory x/one-file-system b backup? S/suffix: sparse: reflink? remove-destination parents attributes-only no-preserve:", Synopsis: "SOURCE... DEST", Run: cp},
		{Name: "install", Opts: "d/directory m/mode: o/owner: g/group: v/verbose t/target-directory: T/no-target-directory D p/preserve-timestamps c b backup? S/suffix:", Synopsis: "SOURCE... DEST", Run: install},
		{Name: "dd", Opts: "-", Synopsis: "[OPERAND]...", Run: dd},
	}
}

// copier copies files with what belongs to them.
type copier struct {
	*tools.Env
	all    bool // directories, links and devices as such
	keep   bool // owner, mode and times
	links  bool // hard links stay together
	xattrs bool
	dev    uint64
	made   map[[2]uint64]string // copies of files with several names
	backup string               // the name that the file in the place of this one got
}

func cp(e *tools.Env) error {
	if _, err := backupMode(e); err != nil {
		return err
	}
	srcs, to, err := target(e, "destination file operand")
	if err != nil {
		return err
	}
	if e.Val("reflink") == "always" {
		return errors.New("--reflink=always is not supported")
	}
	p, preserve := e.Last("p")
	c := &copier{Env: e, all: e.On("a", "R"), keep: preserve || e.On("a"), links: e.On("a", "d"), made: map[[2]uint64]string{}}
	c.links = c.links || preserve && (strings.Contains(p.Value, "links") || p.Value == "all")
	c.xattrs = e.On("a") || strings.Contains(p.Value, "xattr") || p.Value == "all"
	if strings.Contains(e.Val("no-preserve"), "all") {
		c.keep = false
	}
	for _, src := range srcs {
		dest := to(src)
		if e.On("parents") {
			dest = filepath.Join(e.Args[len(e.Args)-1], src)
			if err := os.MkdirAll(filepath.Dir(dest), 0o777); err != nil {
				return err
			}
		}
		c.dev = 0
		c.copy(src, dest, true)
	}
	return nil
}

func (c *copier) fail(format string, a ...any) bool {
	c.Warn(format, a...)
	return false
}

// copy copies src to dest and reports whether all of it was copied.
func (c *copier) copy(src, dest string, top bool) bool {
	var st syscall.Stat_t
	stat := syscall.Lstat
	if c.follow(top) {
		stat = syscall.Stat
	}
	if err := stat(src, &st); err != nil {
		return c.fail("cannot stat '%s': %s", src, tools.Cause(err))
	}
	c.dev = cmp.Or(c.dev, st.Dev)
	if c.On("x") && st.Dev != c.dev {
		return true
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR {
		if !c.all {
			return c.fail("-r not specified; omitting directory '%s'", src)
		}
		return c.dir(src, dest, &st)
	}
	done, skip := c.clear(src, dest, &st)
	if !done || skip {
		return done
	}
	id := [2]uint64{st.Dev, st.Ino}
	first, again := c.made[id]
	if c.links && st.Nlink > 1 && again {
		if err := os.Link(first, dest); err != nil {
			return c.fail("cannot create hard link '%s' to '%s': %s", dest, first, tools.Cause(err))
		}
		c.said(src, dest)
		return true
	}
	c.made[id] = dest
	if err := c.make(src, dest, &st); err != nil {
		return c.fail("cannot create regular file '%s': %s", dest, tools.Cause(err))
	}
	c.said(src, dest)
	return c.On("l", "s") || c.attributes(src, dest, &st)
}

// follow reports whether links are copied as what they point to.
func (c *copier) follow(top bool) bool {
	if o, ok := c.Last("L", "P", "d", "a", "H"); ok {
		return o.Name == "L" || o.Name == "H" && top
	}
	return !c.all
}

// make makes dest, which is not a directory.
func (c *copier) make(src, dest string, st *syscall.Stat_t) error {
	kind := st.Mode & unix.S_IFMT
	switch {
	case c.On("l"):
		return c.linked(os.Link, src, dest)
	case c.On("s"):
		return c.linked(os.Symlink, src, dest)
	case kind == unix.S_IFLNK:
		l, err := os.Readlink(src)
		if err != nil {
			return err
		}
		return os.Symlink(l, dest)
	case kind != unix.S_IFREG && c.all:
		return unix.Mknod(dest, st.Mode, int(st.Rdev))
	}
	return c.file(src, dest, st)
}

// linked makes a link; with -f in the place of what is there.
func (c *copier) linked(link func(old, name string) error, src, dest string) error {
	err := link(src, dest)
	if errors.Is(err, fs.ErrExist) && c.On("f") && survives(src, dest) && os.Remove(dest) == nil {
		err = link(src, dest)
	}
	return err
}

func (c *copier) said(src, dest string) {
	if c.On("v") && c.Name == "cp" {
		c.Printf("'%s' -> '%s'%s\n", src, dest, backupNote(c.backup))
	}
	c.backup = ""
}

// clear looks at what is at dest. skip: it is to stay, without an error.
func (c *copier) clear(src, dest string, st *syscall.Stat_t) (ok, skip bool) {
	var d syscall.Stat_t
	if syscall.Lstat(dest, &d) != nil {
		return true, false
	}
	o, _ := c.Last("n", "i", "f")
	var target, source syscall.Stat_t
	same := syscall.Stat(dest, &target) == nil && syscall.Stat(src, &source) == nil && target.Dev == source.Dev && target.Ino == source.Ino
	switch {
	case same && c.On("l") && d.Ino == st.Ino:
		return true, true
	case d.Mode&unix.S_IFMT == unix.S_IFDIR:
		return c.fail("cannot overwrite directory '%s' with non-directory", dest), false
	case o.Name == "n", c.On("u") && d.Mtim.Nano() >= st.Mtim.Nano():
		return true, true
	case same && (!backs(c.Env) && !c.On("remove-destination") || !survives(src, dest)):
		return c.fail("'%s' and '%s' are the same file", src, dest), false
	case o.Name == "i" && !tools.Confirm(c.Env, "overwrite '%s'? ", dest):
		return true, true
	}
	return c.makeRoom(dest, st), false
}

// makeRoom renames or removes what is at dest if the options demand it.
func (c *copier) makeRoom(dest string, st *syscall.Stat_t) bool {
	var err error
	switch {
	case backs(c.Env):
		c.backup, err = backUp(c.Env, dest)
	case c.On("remove-destination") || st.Mode&unix.S_IFMT != unix.S_IFREG && c.all || c.made != nil && c.links && st.Nlink > 1:
		err = os.Remove(dest)
	}
	if err != nil {
		return c.fail("cannot remove '%s': %s", dest, tools.Cause(err))
	}
	return true
}

func (c *copier) dir(src, dest string, st *syscall.Stat_t) bool {
	real, err1 := canonical(src, "e")
	if into, err := canonical(dest, "m"); err == nil && err1 == nil && (into == real || strings.HasPrefix(into, real+"/")) {
		return c.fail("cannot copy a directory, '%s', into itself, '%s'", src, dest)
	}
	es, err := os.ReadDir(src)
	if err != nil {
		return c.fail("cannot access '%s': %s", src, tools.Cause(err))
	}
	isNew, ok := c.mkdir(src, dest, st.Mode&0o777|0o700)
	if !ok {
		return false
	}
	for _, x := range es {
		ok = c.copy(src+"/"+x.Name(), dest+"/"+x.Name(), false) && ok
	}
	if isNew && !c.keep {
		err := unix.Chmod(dest, st.Mode&0o7777&^umask())
		if err != nil {
			return c.fail("setting permissions for '%s': %s", dest, tools.Cause(err))
		}
	}
	return c.attributes(src, dest, st) && ok
}

// mkdir makes a directory, unless there is one.
func (c *copier) mkdir(src, dest string, mode uint32) (isNew, ok bool) {
	err := unix.Mkdir(dest, mode)
	if err == nil {
		c.said(src, dest)
		return true, true
	}
	if d, serr := os.Stat(dest); errors.Is(err, unix.EEXIST) && serr == nil && !d.IsDir() {
		return false, c.fail("cannot overwrite non-directory '%s' with directory '%s'", dest, src)
	} else if !errors.Is(err, unix.EEXIST) {
		return false, c.fail("cannot create directory '%s': %s", dest, tools.Cause(err))
	}
	return false, true
}

// preserved lists the attributes that are copied.
func (c *copier) preserved() string {
	what := c.Val("p")
	if c.On("a") || what == "" || what == "all" {
		return "ownership,mode,timestamps"
	}
	return what
}

// attributes gives dest the owner, mode, times and attributes of src.
func (c *copier) attributes(src, dest string, st *syscall.Stat_t) bool {
	link := st.Mode&unix.S_IFMT == unix.S_IFLNK
	if !c.keep {
		return true
	}
	what := c.preserved()
	var err error
	if strings.Contains(what, "ownership") {
		if err = unix.Lchown(dest, int(st.Uid), int(st.Gid)); err != nil && os.Geteuid() != 0 {
			err = nil
		}
	}
	if err == nil && strings.Contains(what, "mode") && !link {
		err = unix.Chmod(dest, st.Mode&0o7777)
	}
	if c.xattrs || c.Name == "mv" || strings.Contains(what, "mode") {
		err = errors.Join(err, c.copyXattrs(src, dest, link))
	}
	if err == nil && strings.Contains(what, "timestamps") {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, dest, []unix.Timespec{unix.Timespec(st.Atim), unix.Timespec(st.Mtim)}, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return c.fail("preserving attributes of '%s': %s", dest, tools.Cause(err))
	}
	return true
}

// copyXattrs copies extended attributes; without -a only the ACLs, which belong to the mode.
func (c *copier) copyXattrs(src, dest string, link bool) error {
	names, err := tools.Xattrs(src, link)
	if err != nil {
		return nil // the file system has none
	}
	set := unix.Setxattr
	if link {
		set = unix.Lsetxattr
	}
	for _, name := range names {
		if !c.xattrs && !strings.HasPrefix(name, "system.posix_acl_") {
			continue
		}
		v, err := tools.Xattr(src, name, link)
		if err != nil {
			continue // it was removed
		}
		if err := set(dest, name, v, 0); err != nil && (!errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EPERM) || strings.HasPrefix(name, "user.") && !errors.Is(err, unix.EOPNOTSUPP)) {
			return fmt.Errorf("setting attribute %s: %w", name, err)
		}
	}
	return nil
}

// refuseFifos refuses those of the files that would be waited for.
func refuseFifos(paths ...string) error {
	for _, p := range paths {
		if i, err := os.Stat(p); err == nil && i.Mode()&fs.ModeNamedPipe != 0 {
			return fmt.Errorf("%s is a fifo", p)
		}
	}
	return nil
}

// file copies content; holes stay holes.
func (c *copier) file(src, dest string, st *syscall.Stat_t) error {
	if err := refuseFifos(src, dest); err != nil {
		return err
	}
	in, err := os.Open(src)
	if err != nil {
		c.Warn("cannot open '%s' for reading: %s", src, tools.Cause(err))
		return tools.Status(1)
	}
	defer in.Close()
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if d, err := os.Stat(dest); err == nil && d.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice {
		flags = os.O_WRONLY | unix.O_EXCL // not a disk that is in use
	}
	mode := fs.FileMode(st.Mode & 0o777)
	if strings.Contains(c.Val("no-preserve"), "mode") || strings.Contains(c.Val("no-preserve"), "all") {
		mode = 0o666
	}
	out, err := os.OpenFile(dest, flags, mode)
	if err != nil && c.On("f") {
		if os.Remove(dest) == nil {
			out, err = os.OpenFile(dest, flags, mode)
		}
	}
	if err != nil {
		return err
	}
	if c.On("attributes-only") {
		return out.Close()
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG && flags&os.O_TRUNC != 0 && c.Val("sparse") != "never" {
		err = copySparse(out, in, st.Size)
	} else {
		_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 1<<20))
	}
	return errors.Join(err, out.Close())
}

// copySparse copies the data of a file and leaves its holes out.
func copySparse(out, in *os.File, size int64) error {
	fd := int(in.Fd())
	for at := int64(0); ; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil { // a file system without holes
			_, err := io.Copy(out, in)
			return err
		}
		hole, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := in.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := out.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(out, in, hole-data); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		at = hole
	}
	if st, err := out.Stat(); err == nil && st.Mode().IsRegular() && st.Size() < size {
		return out.Truncate(size)
	}
	return nil
}

func install(e *tools.Env) error {
	if _, err := backupMode(e); err != nil {
		return err
	}
	finish, err := finisher(e)
	if err != nil {
		return err
	}
	if e.On("d") {
		for _, d := range e.Args {
			_, serr := os.Stat(d)
			if err := errors.Join(os.MkdirAll(d, 0o755), finish(d)); err != nil {
				e.Warn("cannot create directory '%s': %s", d, tools.Cause(err))
			} else if e.On("v") && serr != nil {
				e.Printf("install: creating directory '%s'\n", d)
			}
		}
		return nil
	}
	if e.On("D") && len(e.Args) == 2 {
		if err := os.MkdirAll(filepath.Dir(e.Args[1]), 0o755); err != nil {
			return err
		}
	}
	srcs, to, err := target(e, "destination file operand")
	if err != nil {
		return err
	}
	for _, src := range srcs {
		installFile(e, src, to(src), finish)
	}
	return nil
}

func installFile(e *tools.Env, src, dest string, finish func(string) error) {
	var st syscall.Stat_t
	if err := syscall.Stat(src, &st); err != nil {
		e.Warn("cannot stat '%s': %s", src, tools.Cause(err))
		return
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		e.Warn("omitting directory '%s'", src)
		return
	}
	if !survives(src, dest) {
		e.Warn("'%s' and '%s' are the same file", src, dest)
		return
	}
	var err error
	backup := ""
	if _, serr := os.Lstat(dest); serr == nil && backs(e) {
		backup, err = backUp(e, dest)
	} else if err = os.Remove(dest); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		e.Warn("cannot remove '%s': %s", dest, tools.Cause(err))
		return
	}
	err = errors.Join((&copier{Env: e}).file(src, dest, &st), finish(dest))
	if err == nil && e.On("p") {
		err = os.Chtimes(dest, time.Unix(st.Atim.Unix()), time.Unix(st.Mtim.Unix()))
	}
	if err != nil {
		e.Warn("cannot create regular file '%s': %s", dest, tools.Cause(err))
	} else if e.On("v") {
		e.Printf("'%s' -> '%s'%s\n", src, dest, backupNote(backup))
	}
}

// finisher gives what sets the mode and owner of a file that was installed.
func finisher(e *tools.Env) (func(p string) error, error) {
	mode, uid, gid := uint32(0o755), -1, -1
	var errs [3]error
	if m := e.Val("m"); m != "" {
		mode, errs[0] = parseMode(m, 0, false, 0)
	}
	if o := e.Val("o"); o != "" {
		uid, errs[1] = userID(o)
	}
	if g := e.Val("g"); g != "" {
		gid, errs[2] = groupID(g)
	}
	return func(p string) error {
		if uid >= 0 || gid >= 0 {
			if err := os.Chown(p, uid, gid); err != nil {
				return err
			}
		}
		return unix.Chmod(p, mode)
	}, errors.Join(errs[:]...)
}
