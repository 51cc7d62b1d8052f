package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// intoDir reports whether dest is a directory that things go into, and the error of looking at it.
func intoDir(e *tools.Env, dest string) (bool, error) {
	st, err := os.Stat(dest)
	if l, lerr := os.Lstat(dest); e.Name == "ln" && e.On("n") && lerr == nil && l.Mode()&fs.ModeSymlink != 0 {
		return false, err
	}
	return err == nil && st.IsDir() && !e.On("T"), err
}

// target gives the place of each source: in a directory, or the one name.
func target(e *tools.Env, missing string) (sources []string, to func(src string) string, err error) {
	args := e.Args
	if t := e.Val("t"); t != "" {
		if st, err := os.Stat(t); err != nil || !st.IsDir() {
			return nil, nil, fmt.Errorf("target directory '%s': %s", t, tools.Cause(errors.Join(err, map[bool]error{true: unix.ENOTDIR}[err == nil])))
		}
		if len(args) == 0 {
			return nil, nil, tools.Usage("missing file operand")
		}
		return args, func(src string) string { return join(t, src) }, nil
	}
	switch len(args) {
	case 0:
		return nil, nil, tools.Usage("missing file operand")
	case 1:
		return nil, nil, tools.Usage("missing %s after '%s'", missing, args[0])
	}
	dest := args[len(args)-1]
	args = args[:len(args)-1]
	isDir, err := intoDir(e, dest)
	switch {
	case isDir:
		return args, func(src string) string { return join(dest, src) }, nil
	case len(args) > 1 && e.On("T"):
		return nil, nil, tools.Usage("extra operand '%s'", dest)
	case len(args) > 1 && err == nil:
		return nil, nil, fmt.Errorf("target '%s': Not a directory", dest)
	case len(args) > 1:
		return nil, nil, fmt.Errorf("target '%s': %s", dest, tools.Cause(err))
	}
	return args, func(string) string { return dest }, nil
}

// sameEntry reports two paths of the same name in the same directory.
func sameEntry(a, b string) bool {
	da, err1 := os.Stat(filepath.Dir(a))
	db, err2 := os.Stat(filepath.Dir(b))
	return err1 == nil && err2 == nil && os.SameFile(da, db) && filepath.Base(a) == filepath.Base(b)
}

// survives reports whether src can still be read when dest has been removed.
func survives(src, dest string) bool {
	d, err := os.Lstat(dest)
	if err != nil {
		return true
	}
	s, err := os.Stat(src)
	if err != nil || !os.SameFile(s, d) {
		return true
	}
	l, err := os.Lstat(src)
	st, ok := d.Sys().(*syscall.Stat_t)
	return err == nil && l.Mode()&fs.ModeSymlink == 0 && ok && st.Nlink > 1 && !sameEntry(src, dest)
}

func join(dir, src string) string {
	return strings.TrimSuffix(dir, "/") + "/" + filepath.Base(strings.TrimRight(src, "/"))
}

func mv(e *tools.Env) error {
	if _, err := backupMode(e); err != nil {
		return err
	}
	srcs, to, err := target(e, "destination file operand")
	if err != nil {
		return err
	}
	for _, src := range srcs {
		dest := to(src)
		sst, err := os.Lstat(src)
		if err != nil {
			e.Warn("cannot stat '%s': %s", src, tools.Cause(err))
			continue
		}
		ok, backup := makeRoom(e, src, dest, sst)
		if !ok {
			continue
		}
		err = unix.Rename(src, dest)
		switch {
		case errors.Is(err, unix.EXDEV):
			err = moveAcross(e, src, dest)
		case errors.Is(err, unix.EINVAL) && sst.IsDir():
			e.Warn("cannot move '%s' to a subdirectory of itself, '%s'", src, dest)
			continue
		}
		if err != nil {
			e.Warn("cannot move '%s' to '%s': %s", src, dest, tools.Cause(err))
		} else if e.On("v") {
			e.Printf("renamed '%s' -> '%s'%s\n", src, dest, backupNote(backup))
		}
	}
	return nil
}

// makeRoom reports whether src may be moved to dest, where something else may be, and the name
// that this got.
func makeRoom(e *tools.Env, src, dest string, sst fs.FileInfo) (ok bool, backup string) {
	dst, err := os.Lstat(dest)
	if err != nil {
		return true, backup
	}
	o, _ := e.Last("f", "n", "i")
	switch {
	case sameEntry(src, dest), !backs(e) && (os.SameFile(sst, dst) || !survives(src, dest)):
		e.Warn("'%s' and '%s' are the same file", src, dest)
		return false, ""
	case o.Name == "n", e.On("u") && !sst.ModTime().After(dst.ModTime()):
		return false, ""
	case o.Name == "i" && !tools.Confirm(e, "overwrite '%s'? ", dest):
		return false, ""
	case dst.IsDir() && !sst.IsDir():
		e.Warn("cannot overwrite directory '%s' with non-directory", dest)
		return false, ""
	case !dst.IsDir() && sst.IsDir():
		e.Warn("cannot overwrite non-directory '%s' with directory '%s'", dest, src)
		return false, ""
	case backs(e):
		if backup, err = backUp(e, dest); err != nil {
			e.Warn("cannot backup '%s': %s", dest, tools.Cause(err))
			return false, ""
		}
	}
	return true, backup
}

// moveAcross copies to another file system and removes the source.
func moveAcross(e *tools.Env, src, dest string) error {
	c := &copier{Env: e, all: true, keep: true, links: true, made: map[[2]uint64]string{}}
	if !c.copy(src, dest, true) {
		return tools.Status(1)
	}
	return os.RemoveAll(src)
}

// linked reports that dest is another name of src already.
func linked(e *tools.Env, src, dest string) bool {
	a, err1 := os.Lstat(src)
	b, err2 := os.Lstat(dest)
	return !e.On("s") && err1 == nil && err2 == nil && os.SameFile(a, b) && !sameEntry(src, dest)
}

// makeWay removes or renames what is where a link is to be, and gives its new name.
func makeWay(e *tools.Env, src, dest, text string) (ok bool, backup string) {
	old, err := os.Lstat(dest)
	if err != nil {
		return true, ""
	}
	file, err := os.Lstat(src)
	switch {
	case old.IsDir():
		e.Warn("%s: cannot overwrite directory", dest)
		return false, ""
	case e.On("s") && !survives(src, dest), !e.On("s") && err == nil && os.SameFile(old, file) && sameEntry(src, dest):
		e.Warn("'%s' and '%s' are the same file", text, dest)
		return false, ""
	}
	if backs(e) {
		if backup, err = backUp(e, dest); err != nil {
			e.Warn("cannot backup '%s': %s", dest, tools.Cause(err))
		}
		return err == nil, backup
	}
	if err := os.Remove(dest); err != nil {
		e.Warn("cannot remove '%s': %s", dest, tools.Cause(err))
		return false, ""
	}
	return true, ""
}

func ln(e *tools.Env) error {
	if _, err := backupMode(e); err != nil {
		return err
	}
	if len(e.Args) == 1 && !e.On("t") {
		e.Args = append(e.Args, ".")
	}
	srcs, to, err := target(e, "destination file operand")
	if err != nil {
		return err
	}
	for _, src := range srcs {
		link(e, src, to(src))
	}
	return nil
}

// link makes one link.
func link(e *tools.Env, src, dest string) {
	text := src
	if e.On("r") {
		d, err1 := filepath.Abs(filepath.Dir(dest))
		s, err2 := filepath.Abs(src)
		rel, err := filepath.Rel(d, s)
		if err := errors.Join(err1, err2, err); err != nil {
			e.Warn("failed to access '%s': %s", src, tools.Cause(err))
			return
		}
		text = rel
	}
	backup := ""
	if e.On("f") || backs(e) {
		ok := backs(e) || !linked(e, src, dest)
		if ok {
			ok, backup = makeWay(e, src, dest, text)
		}
		if !ok {
			return
		}
	}
	arrow, err := "->", error(nil)
	if e.On("s") {
		err = os.Symlink(text, dest)
	} else {
		arrow = "=>"
		from := text
		if real, err := filepath.EvalSymlinks(src); e.On("L") && err == nil {
			from = real
		}
		st, serr := os.Lstat(src)
		switch {
		case serr != nil:
			e.Warn("failed to access '%s': %s", src, tools.Cause(serr))
			return
		case st.IsDir():
			e.Warn("%s: hard link not allowed for directory", src)
			return
		}
		err = os.Link(from, dest)
	}
	switch {
	case err != nil && e.On("s"):
		e.Warn("failed to create symbolic link '%s': %s", dest, tools.Cause(err))
	case err != nil:
		e.Warn("failed to create hard link '%s' => '%s': %s", dest, src, tools.Cause(err))
	case e.On("v"):
		if backup != "" {
			backup = "'" + backup + "' ~ "
		}
		e.Printf("%s'%s' %s '%s'\n", backup, dest, arrow, text)
	}
}
