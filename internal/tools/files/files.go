// Package files has the commands that list, copy, move and change files.
package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// Commands are the commands of this package.
func Commands() []tools.Command {
	return slices.Concat(changeCommands(), listCommands(), findCommands(), statCommands(), copyCommands(), dateCommands())
}

func changeCommands() []tools.Command {
	return []tools.Command{
		{Name: "mkdir", Opts: "p/parents m/mode: v/verbose", Synopsis: "DIRECTORY...", Run: mkdir},
		{Name: "rmdir", Opts: "p/parents v/verbose ignore-fail-on-non-empty", Synopsis: "DIRECTORY...", Run: rmdir},
		{Name: "rm", Opts: "r/R/recursive f/force i I d/dir v/verbose preserve-root? no-preserve-root one-file-system", Synopsis: "[FILE]...", Run: rm},
		{Name: "unlink", Opts: "", Synopsis: "FILE", Run: unlink},
		{Name: "mv", Opts: "f/force n/no-clobber i/interactive v/verbose t/target-directory: T/no-target-directory u/update b S/suffix: backup?", Synopsis: "SOURCE... DEST", Run: mv},
		{Name: "ln", Opts: "s/symbolic f/force n/no-dereference v/verbose t/target-directory: T/no-target-directory r/relative b L P", Synopsis: "TARGET... LINK_NAME", Run: ln},
		{Name: "touch", Opts: "a c/no-create d/date: h/no-dereference m r/reference: t: f", Synopsis: "FILE...", Run: touch},
		{Name: "chmod", Opts: "-", Synopsis: "[-Rvcf] [--reference=FILE] MODE FILE...", Run: chmod},
		{Name: "chown", Opts: "R/recursive h/no-dereference v/verbose c/changes f/silent/quiet reference: from: H L P dereference", Synopsis: "[OWNER][:[GROUP]] FILE...", Run: chown},
		{Name: "chgrp", Opts: "R/recursive h/no-dereference v/verbose c/changes f/silent/quiet reference: H L P dereference", Synopsis: "GROUP FILE...", Run: chown},
		{Name: "truncate", Opts: "s/size: c/no-create r/reference: o/io-blocks", Synopsis: "FILE...", Run: truncate},
		{Name: "mktemp", Opts: "d/directory u/dry-run q/quiet p: tmpdir? suffix: t", Synopsis: "[TEMPLATE]", Run: mktemp},
		{Name: "readlink", Opts: "f/canonicalize e/canonicalize-existing m/canonicalize-missing n/no-newline q/quiet s/silent v/verbose z/zero", Synopsis: "FILE...", Run: readlink},
		{Name: "realpath", Opts: "e/canonicalize-existing m/canonicalize-missing s/no-symlinks/strip q/quiet z/zero relative-to:", Synopsis: "FILE...", Run: readlink},
		{Name: "pwd", Opts: "L/logical P/physical", Run: pwd},
		{Name: "mkfifo", Opts: "m/mode:", Synopsis: "NAME...", Run: mkfifo},
		{Name: "sync", Opts: "d/data f/file-system", Synopsis: "[FILE]...", Run: syncFiles},
	}
}

// parseMode reads an octal or symbolic mode for a file with the mode old.
func parseMode(s string, old uint32, dir bool, umask uint32) (uint32, error) {
	if n, err := strconv.ParseUint(s, 8, 32); err == nil && n <= 0o7777 {
		// GNU keeps the set-ID bits of a directory unless the mode has five digits.
		if dir && len(s) < 5 {
			return uint32(n) | old&0o6000, nil
		}
		return uint32(n), nil
	}
	mode := old
	for _, clause := range strings.Split(s, ",") {
		who, rest := uint32(0), clause
		for rest != "" && strings.IndexByte("ugoa", rest[0]) >= 0 {
			who |= map[byte]uint32{'u': 0o4700, 'g': 0o2070, 'o': 0o1007, 'a': 0o7777}[rest[0]]
			rest = rest[1:]
		}
		mask := uint32(0)
		if who == 0 {
			who, mask = 0o7777, umask
		}
		if rest == "" {
			return 0, fmt.Errorf("invalid mode: '%s'", s)
		}
		for rest != "" {
			op := rest[0]
			if strings.IndexByte("+-=", op) < 0 {
				return 0, fmt.Errorf("invalid mode: '%s'", s)
			}
			rest = rest[1:]
			n := len(rest) - len(strings.TrimLeft(rest, "rwxXstugo"))
			bits := permissions(rest[:n], mode, dir)
			rest = rest[n:]
			bits &= who &^ mask
			switch op {
			case '+':
				mode |= bits
			case '-':
				mode &^= bits
			default:
				keep := who &^ mask
				if dir {
					keep &^= 0o6000
				}
				mode = mode&^(keep&(who|0o7000&who)) | bits
			}
		}
	}
	return mode, nil
}

func permissions(letters string, mode uint32, dir bool) uint32 {
	bits := uint32(0)
	for _, c := range letters {
		switch c {
		case 'r':
			bits |= 0o444
		case 'w':
			bits |= 0o222
		case 'x':
			bits |= 0o111
		case 'X':
			if dir || mode&0o111 != 0 {
				bits |= 0o111
			}
		case 's':
			bits |= 0o6000
		case 't':
			bits |= 0o1000
		case 'u', 'g', 'o':
			m := mode >> map[rune]uint{'u': 6, 'g': 3, 'o': 0}[c] & 7
			bits |= m | m<<3 | m<<6
		}
	}
	return bits
}

func umask() uint32 {
	m := unix.Umask(0)
	unix.Umask(m)
	return uint32(m)
}

// chmodRun is one run of chmod. A mode such as -w is an operand, not an option.
type chmodRun struct {
	*tools.Env
	rec, verbose, changes, quiet bool
	reference, spec              string
	mask                         uint32
}

func (c *chmodRun) options() error {
	var args []string
	for i, a := range c.Args {
		flags, dash := strings.CutPrefix(a, "-")
		switch {
		case a == "--":
			c.Args = append(args, c.Args[i+1:]...)
			return nil
		case a == "--recursive":
			c.rec = true
		case strings.HasPrefix(a, "--reference="):
			c.reference = a[len("--reference="):]
		case dash && flags != "" && strings.Trim(flags, "Rvcf") == "":
			has := func(letter string) bool { return strings.Contains(flags, letter) }
			c.rec, c.verbose, c.changes, c.quiet = c.rec || has("R"), c.verbose || has("v"), c.changes || has("c"), c.quiet || has("f")
		case dash && strings.Trim(flags, "rwxXstugo,+=") != "":
			return tools.Usage("unrecognized option '%s'", a)
		default:
			args = append(args, a)
		}
	}
	c.Args = args
	return nil
}

func chmod(e *tools.Env) error {
	c := &chmodRun{Env: e, mask: umask()}
	if err := c.options(); err != nil {
		return err
	}
	if c.reference != "" {
		var st unix.Stat_t
		if err := unix.Stat(c.reference, &st); err != nil {
			return fmt.Errorf("failed to get attributes of '%s': %s", c.reference, tools.Cause(err))
		}
		c.spec = fmt.Sprintf("%05o", st.Mode&0o7777)
	} else {
		if err := e.Need(2, -1); err != nil {
			return err
		}
		c.spec, e.Args = e.Args[0], e.Args[1:]
	}
	if _, err := parseMode(c.spec, 0, false, 0); err != nil {
		return tools.Usage("%v", err)
	}
	for _, p := range e.Args {
		each(e, p, c.rec, func(p string, d fs.DirEntry) {
			if d == nil || d.Type()&fs.ModeSymlink == 0 {
				c.change(p)
			}
		})
	}
	return nil
}

func (c *chmodRun) change(p string) {
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		if !c.quiet {
			c.Warn("cannot access '%s': %s", p, tools.Cause(err))
		}
		c.Set(1)
		return
	}
	old := st.Mode & 0o7777
	mode, err := parseMode(c.spec, old, st.Mode&unix.S_IFMT == unix.S_IFDIR, c.mask)
	if err == nil {
		err = unix.Chmod(p, mode)
	}
	letters := func(m uint32) string { return fmt.Sprintf("%04o (%s)", m, modeString(m | unix.S_IFREG)[1:]) }
	switch {
	case err != nil:
		c.Warn("changing permissions of '%s': %s", p, tools.Cause(err))
	case mode != old && (c.verbose || c.changes):
		c.Printf("mode of '%s' changed from %s to %s\n", p, letters(old), letters(mode))
	case mode == old && c.verbose:
		c.Printf("mode of '%s' retained as %s\n", p, letters(mode))
	}
}

// each calls fn for p and, with rec, for all below it, the directory first.
func each(e *tools.Env, p string, rec bool, fn func(p string, d fs.DirEntry)) {
	if !rec {
		fn(p, nil)
		return
	}
	if _, err := os.Lstat(p); err != nil {
		e.Warn("cannot access '%s': %s", p, tools.Cause(err))
		return
	}
	_ = filepath.WalkDir(p, func(q string, d fs.DirEntry, err error) error { // errors are reported here
		if err != nil {
			e.Warn("cannot read directory '%s': %s", q, tools.Cause(err))
			return nil
		}
		fn(q, d)
		return nil
	})
}

func userID(s string) (int, error) {
	if u, err := user.Lookup(s); err == nil {
		return strconv.Atoi(u.Uid)
	}
	return strconv.Atoi(strings.TrimPrefix(s, "+"))
}

func groupID(s string) (int, error) {
	if g, err := user.LookupGroup(s); err == nil {
		return strconv.Atoi(g.Gid)
	}
	return strconv.Atoi(strings.TrimPrefix(s, "+"))
}

// owner reads OWNER[:GROUP]; what is not given is -1.
func owner(spec string) (uid, gid int, err error) {
	u, g, has := strings.Cut(spec, ":")
	if !has && strings.Contains(spec, ".") {
		if _, err := userID(spec); err != nil {
			u, g, has = strings.Cut(spec, ".")
		}
	}
	uid, gid = -1, -1
	if u != "" {
		if uid, err = userID(u); err != nil {
			return 0, 0, fmt.Errorf("invalid user: '%s'", spec)
		}
	}
	switch {
	case g != "":
		if gid, err = groupID(g); err != nil {
			return 0, 0, fmt.Errorf("invalid group: '%s'", spec)
		}
	case has && u != "":
		if x, err := user.LookupId(strconv.Itoa(uid)); err == nil {
			gid, err = strconv.Atoi(x.Gid)
			if err != nil {
				return 0, 0, err
			}
		}
	}
	return uid, gid, nil
}

// newOwner is the owner that chown and chgrp give: -1 for what stays.
func newOwner(e *tools.Env) (uid, gid int, err error) {
	if r := e.Val("reference"); r != "" {
		var st unix.Stat_t
		if err := unix.Stat(r, &st); err != nil {
			return 0, 0, fmt.Errorf("failed to get attributes of '%s': %s", r, tools.Cause(err))
		}
		uid, gid = int(st.Uid), int(st.Gid)
		if e.Name == "chgrp" {
			uid = -1
		}
		return uid, gid, nil
	}
	if err := e.Need(2, -1); err != nil {
		return 0, 0, err
	}
	spec := e.Args[0]
	e.Args = e.Args[1:]
	if e.Name == "chgrp" {
		if gid, err = groupID(spec); err != nil {
			return 0, 0, fmt.Errorf("invalid group: '%s'", spec)
		}
		return -1, gid, nil
	}
	return owner(spec)
}

func chown(e *tools.Env) error {
	uid, gid, err := newOwner(e)
	fromU, fromG := -1, -1
	if f := e.Val("from"); f != "" && err == nil {
		fromU, fromG, err = owner(f)
	}
	if err != nil {
		return err
	}
	for _, p := range e.Args {
		each(e, p, e.On("R"), func(p string, d fs.DirEntry) {
			do, stat := unix.Chown, unix.Stat
			if e.On("h") || d != nil && d.Type()&fs.ModeSymlink != 0 {
				do, stat = unix.Lchown, unix.Lstat
			}
			var st unix.Stat_t
			what, err := "cannot access", stat(p, &st)
			if err == nil && (fromU >= 0 && int(st.Uid) != fromU || fromG >= 0 && int(st.Gid) != fromG) {
				return
			}
			if err == nil {
				what = map[string]string{"chown": "changing ownership of", "chgrp": "changing group of"}[e.Name]
				err = do(p, uid, gid)
			}
			switch {
			case err != nil && e.On("f"):
				e.Set(1)
			case err != nil:
				e.Warn("%s '%s': %s", what, p, tools.Cause(err))
			case e.On("v"):
				e.Printf("ownership of '%s' is %s:%s\n", p, userName(uint32(max(uid, 0))), groupName(uint32(max(gid, 0))))
			}
		})
	}
	return nil
}

func mkdir(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return err
	}
	mode := uint32(0o777)
	if m := e.Val("m"); m != "" {
		var err error
		if mode, err = parseMode(m, 0o777, false, umask()); err != nil {
			return fmt.Errorf("invalid mode '%s'", m)
		}
	}
	for _, d := range e.Args {
		var err error
		if e.On("p") {
			err = makeAll(e, d, mode)
		} else {
			err = makeOne(e, d, mode, true)
		}
		if err != nil {
			e.Warn("cannot create directory '%s': %s", d, tools.Cause(err))
		}
	}
	return nil
}

func makeOne(e *tools.Env, p string, mode uint32, last bool) error {
	err := unix.Mkdir(p, 0o777)
	if err == nil && e.On("v") {
		e.Printf("mkdir: created directory '%s'\n", p)
	}
	if err == nil && last && e.On("m") {
		err = unix.Chmod(p, mode)
	}
	return err
}

func makeAll(e *tools.Env, d string, mode uint32) error {
	for i := 1; i <= len(d); i++ {
		if i < len(d) && d[i] != '/' || d[i-1] == '/' && i > 1 {
			continue
		}
		err := makeOne(e, d[:i], mode, i == len(d))
		if st, serr := os.Stat(d[:i]); err != nil && !(errors.Is(err, unix.EEXIST) && serr == nil && st.IsDir()) {
			return err
		}
	}
	return nil
}

func rmdir(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return err
	}
	for _, d := range e.Args {
		for ; ; d = filepath.Dir(d) {
			if e.On("v") {
				e.Printf("rmdir: removing directory, '%s'\n", d)
			}
			err := unix.Rmdir(d)
			if err != nil && !(errors.Is(err, unix.ENOTEMPTY) && e.On("ignore-fail-on-non-empty")) {
				e.Warn("failed to remove '%s': %s", d, tools.Cause(err))
			}
			if err != nil || !e.On("p") || filepath.Dir(d) == "." || filepath.Dir(d) == "/" {
				break
			}
		}
	}
	return nil
}

func unlink(e *tools.Env) error {
	if err := e.Need(1, 1); err != nil {
		return err
	}
	if err := unix.Unlink(e.Args[0]); err != nil {
		return fmt.Errorf("cannot unlink '%s': %s", e.Args[0], tools.Cause(err))
	}
	return nil
}

func rm(e *tools.Env) error {
	if len(e.Args) == 0 && !e.On("f") {
		return tools.Usage("missing operand")
	}
	o, _ := e.Last("f", "i", "I")
	r := &remover{Env: e, force: o.Name == "f", ask: o.Name == "i"}
	if o.Name == "I" && (len(e.Args) > 3 || e.On("r")) && !r.yes("remove %d arguments? ", len(e.Args)) {
		return nil
	}
	for _, p := range e.Args {
		clean := filepath.Clean(p)
		base := filepath.Base(strings.TrimRight(p, "/"))
		st, err := os.Lstat(p)
		switch {
		case p == "":
			err = unix.ENOENT
		case e.On("r") && clean == "/" && !e.On("no-preserve-root"):
			e.Warn("it is dangerous to operate recursively on '/'")
			fmt.Fprintln(e.Err, "rm: use --no-preserve-root to override this failsafe")
			continue
		case base == "." || base == "..":
			e.Warn("refusing to remove '.' or '..' directory: skipping '%s'", p)
			continue
		}
		if err != nil {
			if !r.force || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
				e.Warn("cannot remove '%s': %s", p, tools.Cause(err))
			}
			continue
		}
		if s, ok := sysStat(st); ok {
			r.dev = s.Dev
		}
		r.remove(p, st)
	}
	return nil
}

type remover struct {
	*tools.Env
	force, ask bool
	dev        uint64
}

func (r *remover) yes(format string, a ...any) bool { return tools.Confirm(r.Env, format, a...) }

// remove removes p and reports whether it is there no longer.
func (r *remover) remove(p string, st fs.FileInfo) bool {
	fail := func(err error) bool {
		r.Warn("cannot remove '%s': %s", p, tools.Cause(err))
		return false
	}
	if st.IsDir() {
		if !r.On("r", "d") {
			return fail(unix.EISDIR)
		}
		if s, ok := sysStat(st); ok && r.On("one-file-system") && s.Dev != r.dev {
			r.Warn("skipping '%s', since it's on a different device", p)
			return false
		}
		if r.On("r") && !r.below(p) {
			return false
		}
	}
	if r.ask && !r.yes("remove %s '%s'? ", kindOf(st), p) {
		return false
	}
	var err error
	if st.IsDir() {
		err = unix.Rmdir(p)
	} else {
		err = unix.Unlink(p)
	}
	if err != nil {
		return fail(err)
	}
	if r.On("v") {
		what := "removed"
		if st.IsDir() {
			what = "removed directory"
		}
		r.Printf("%s '%s'\n", what, p)
	}
	return true
}

// below removes what is in a directory.
func (r *remover) below(p string) bool {
	es, err := os.ReadDir(p)
	if err != nil {
		r.Warn("cannot remove '%s': %s", p, tools.Cause(err))
		return false
	}
	if r.ask && len(es) > 0 && !r.yes("descend into directory '%s'? ", p) {
		return false
	}
	all := true
	for _, x := range es {
		q := strings.TrimSuffix(p, "/") + "/" + x.Name()
		if i, err := x.Info(); err == nil {
			all = r.remove(q, i) && all
		} else {
			r.Warn("cannot remove '%s': %s", q, tools.Cause(err))
			all = false
		}
	}
	return all
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
	st, err := os.Stat(dest)
	isDir := err == nil && st.IsDir() && !e.On("T")
	if l, err := os.Lstat(dest); e.Name == "ln" && e.On("n") && err == nil && l.Mode()&fs.ModeSymlink != 0 {
		isDir = false
	}
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

func join(dir, src string) string {
	return strings.TrimSuffix(dir, "/") + "/" + filepath.Base(strings.TrimRight(src, "/"))
}

func mv(e *tools.Env) error {
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
		if !makeRoom(e, src, dest, sst) {
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
			e.Printf("renamed '%s' -> '%s'\n", src, dest)
		}
	}
	return nil
}

// makeRoom reports whether src may be moved to dest, where something else may be.
func makeRoom(e *tools.Env, src, dest string, sst fs.FileInfo) bool {
	dst, err := os.Lstat(dest)
	if err != nil {
		return true
	}
	o, _ := e.Last("f", "n", "i")
	switch {
	case os.SameFile(sst, dst) && filepath.Clean(src) == filepath.Clean(dest):
		e.Warn("'%s' and '%s' are the same file", src, dest)
		return false
	case o.Name == "n", e.On("u") && !sst.ModTime().After(dst.ModTime()):
		return false
	case o.Name == "i" && !tools.Confirm(e, "overwrite '%s'? ", dest):
		return false
	case dst.IsDir() && !sst.IsDir():
		e.Warn("cannot overwrite directory '%s' with non-directory", dest)
		return false
	case !dst.IsDir() && sst.IsDir():
		e.Warn("cannot overwrite non-directory '%s' with directory '%s'", dest, src)
		return false
	case e.On("b", "S", "backup"):
		if err := os.Rename(dest, dest+e.Or("S", "~")); err != nil {
			e.Warn("cannot backup '%s': %s", dest, tools.Cause(err))
			return false
		}
	}
	return true
}

// moveAcross copies to another file system and removes the source.
func moveAcross(e *tools.Env, src, dest string) error {
	c := &copier{Env: e, all: true, keep: true, links: true, made: map[[2]uint64]string{}}
	if !c.copy(src, dest, true) {
		return tools.Status(1)
	}
	return os.RemoveAll(src)
}

func ln(e *tools.Env) error {
	if len(e.Args) == 1 && !e.On("t") {
		e.Args = append(e.Args, ".")
	}
	srcs, to, err := target(e, "destination file operand")
	if err != nil {
		return err
	}
	for _, src := range srcs {
		dest := to(src)
		text := src
		if e.On("r") {
			d, err1 := filepath.Abs(filepath.Dir(dest))
			s, err2 := filepath.Abs(src)
			if text, err = filepath.Rel(d, s); errors.Join(err1, err2, err) != nil {
				e.Warn("failed to access '%s': %s", src, tools.Cause(errors.Join(err1, err2, err)))
				continue
			}
		}
		if st, err := os.Lstat(dest); err == nil && e.On("f") {
			if st.IsDir() {
				e.Warn("%s: cannot overwrite directory", dest)
				continue
			}
			if src, err := os.Lstat(src); err == nil && os.SameFile(st, src) && !e.On("s") {
				e.Warn("'%s' and '%s' are the same file", text, dest)
				continue
			}
			if err := os.Remove(dest); err != nil {
				e.Warn("cannot remove '%s': %s", dest, tools.Cause(err))
				continue
			}
		}
		kind, arrow := "hard", "=>"
		make := os.Link
		if e.On("s") {
			kind, arrow, make = "symbolic", "->", os.Symlink
		} else if st, err := os.Lstat(src); err != nil {
			e.Warn("failed to access '%s': %s", src, tools.Cause(err))
			continue
		} else if st.IsDir() {
			e.Warn("%s: hard link not allowed for directory", src)
			continue
		}
		if err := make(text, dest); err != nil {
			if kind == "hard" {
				e.Warn("failed to create hard link '%s' => '%s': %s", dest, src, tools.Cause(err))
			} else {
				e.Warn("failed to create symbolic link '%s': %s", dest, tools.Cause(err))
			}
		} else if e.On("v") {
			e.Printf("'%s' %s '%s'\n", dest, arrow, text)
		}
	}
	return nil
}

func touch(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return tools.Usage("missing file operand")
	}
	now := time.Now()
	a, m := unix.NsecToTimespec(now.UnixNano()), unix.NsecToTimespec(now.UnixNano())
	switch o, _ := e.Last("r", "d", "t"); o.Name {
	case "r":
		var st unix.Stat_t
		if err := unix.Stat(o.Value, &st); err != nil {
			return fmt.Errorf("failed to get attributes of '%s': %s", o.Value, tools.Cause(err))
		}
		a, m = st.Atim, st.Mtim
	case "d", "t":
		t, err := tools.ParseDate(o.Value, now)
		if o.Name == "t" {
			t, err = stamp(o.Value, now)
		}
		if err != nil {
			return err
		}
		a = unix.NsecToTimespec(t.UnixNano())
		m = a
	}
	omit := unix.Timespec{Nsec: unix.UTIME_OMIT}
	if e.On("a") && !e.On("m") {
		m = omit
	}
	if e.On("m") && !e.On("a") {
		a = omit
	}
	flags := 0
	if e.On("h") {
		flags = unix.AT_SYMLINK_NOFOLLOW
	}
	for _, p := range e.Args {
		err := unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{a, m}, flags)
		if errors.Is(err, unix.ENOENT) && !e.On("h") {
			if e.On("c") {
				continue
			}
			fd, cerr := unix.Open(p, unix.O_WRONLY|unix.O_CREAT|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o666)
			if err = cerr; err == nil {
				unix.Close(fd)
				err = unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{a, m}, 0)
			}
		}
		if err != nil {
			e.Warn("cannot touch '%s': %s", p, tools.Cause(err))
		}
	}
	return nil
}

// stamp reads [[CC]YY]MMDDhhmm[.ss].
func stamp(s string, now time.Time) (time.Time, error) {
	main, sec, _ := strings.Cut(s, ".")
	if sec == "" {
		sec = "00"
	}
	switch len(main) {
	case 8:
		main = now.Format("2006") + main
	case 10:
		century := "20"
		if main[0] >= '7' {
			century = "19"
		}
		main = century + main
	}
	t, err := time.ParseInLocation("20060102150405", main+sec, time.Local)
	if err != nil {
		return t, fmt.Errorf("invalid date format '%s'", s)
	}
	return t, nil
}

func truncate(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return tools.Usage("missing file operand")
	}
	spec, op := strings.TrimSpace(e.Val("s")), byte(0)
	if !e.On("s", "r") {
		return tools.Usage("you must specify either '--size' or '--reference'")
	}
	if spec != "" && strings.IndexByte("+-<>/%", spec[0]) >= 0 {
		op, spec = spec[0], spec[1:]
	}
	n := int64(0)
	var err error
	if r := e.Val("r"); r != "" {
		st, serr := os.Stat(r)
		if serr != nil {
			return fmt.Errorf("cannot stat '%s': %s", r, tools.Cause(serr))
		}
		n = st.Size()
	} else if n, err = tools.Size(spec); err != nil {
		return fmt.Errorf("invalid number: '%s'", e.Val("s"))
	}
	for _, p := range e.Args {
		flags := os.O_WRONLY | unix.O_NONBLOCK
		if !e.On("c") {
			flags |= os.O_CREATE
		}
		f, err := os.OpenFile(p, flags, 0o666)
		if err != nil {
			if !e.On("c") || !errors.Is(err, unix.ENOENT) {
				e.Warn("cannot open '%s' for writing: %s", p, tools.Cause(err))
			}
			continue
		}
		st, err := f.Stat()
		if err == nil {
			err = f.Truncate(resized(st.Size(), op, n))
		}
		if err = errors.Join(err, f.Close()); err != nil {
			e.Warn("failed to truncate '%s': %s", p, tools.Cause(err))
		}
	}
	return nil
}

// resized is a size changed as truncate's -s has it.
func resized(size int64, op byte, n int64) int64 {
	switch op {
	case '+':
		return size + n
	case '-':
		return max(0, size-n)
	case '<':
		return min(size, n)
	case '>':
		return max(size, n)
	case '/':
		return size - size%max(n, 1)
	case '%':
		return (size + n - 1) / max(n, 1) * n
	}
	return n
}

func mktemp(e *tools.Env) error {
	if err := e.Need(0, 1); err != nil {
		return err
	}
	dir := ""
	t := "tmp.XXXXXXXXXX"
	if len(e.Args) == 1 {
		t = e.Args[0]
	}
	if len(e.Args) == 0 || e.On("p", "tmpdir", "t") {
		dir = e.Or("p", e.Val("tmpdir"))
		if dir == "" {
			dir = os.TempDir()
		}
	}
	suffix := e.Val("suffix")
	if i := strings.LastIndex(t, "X"); suffix == "" && i >= 0 {
		t, suffix = t[:i+1], t[i+1:]
	}
	base := strings.TrimRight(t, "X")
	if len(t)-len(base) < 3 {
		return fmt.Errorf("too few X's in template '%s'", t)
	}
	what := "file"
	for {
		name := base
		for range len(t) - len(base) {
			name += string("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"[random(62)])
		}
		name = filepath.Join(dir, name+suffix)
		var err error
		switch {
		case e.On("u"):
			_, serr := os.Lstat(name)
			if serr == nil {
				err = unix.EEXIST
			}
		case e.On("d"):
			what = "directory"
			err = unix.Mkdir(name, 0o700)
		default:
			var f *os.File
			if f, err = os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err == nil {
				err = f.Close()
			}
		}
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil {
			if e.On("q") {
				return tools.Status(1)
			}
			return fmt.Errorf("failed to create %s via template '%s': %s", what, filepath.Join(dir, t+suffix), tools.Cause(err))
		}
		e.Printf("%s\n", name)
		return nil
	}
}

func readlink(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return err
	}
	follow := e.Name == "realpath" || e.On("f", "e", "m")
	for i, p := range e.Args {
		var out string
		var err error
		switch {
		case e.On("s") && follow:
			out, err = filepath.Abs(p)
		case follow:
			how, _ := e.Last("e", "f", "m")
			out, err = canonical(p, how.Name)
		default:
			out, err = os.Readlink(p)
		}
		if base := e.Val("relative-to"); err == nil && base != "" {
			var b string
			if b, err = canonical(base, "m"); err == nil {
				out, err = filepath.Rel(b, out)
			}
		}
		if err != nil {
			if e.Name == "realpath" && !e.On("q") || e.On("v") {
				e.Warn("%s: %s", p, tools.Cause(err))
			}
			e.Set(1)
			continue
		}
		if e.Out.WriteString(out); e.Name == "realpath" || !e.On("n") || i < len(e.Args)-1 {
			e.Out.WriteByte(e.End("z"))
		}
	}
	return nil
}

// canonical is a path without links. how is what may be missing: "e" nothing, "m" any part,
// otherwise the last one.
func canonical(p, how string) (string, error) {
	if p == "" {
		return "", unix.ENOENT
	}
	abs, err := filepath.Abs(".")
	if err != nil {
		return "", err
	}
	if filepath.IsAbs(p) {
		abs = "/"
	}
	rest, done := strings.Split(p, "/"), abs
	for hops := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = filepath.Dir(done)
			continue
		}
		next := filepath.Join(done, part)
		st, err := os.Lstat(next)
		last := strings.Trim(strings.Join(rest, ""), "/") == ""
		switch {
		case err != nil:
			if how == "e" || how != "m" && (!last || !errors.Is(err, unix.ENOENT)) {
				return "", err
			}
		case st.Mode()&fs.ModeSymlink != 0:
			if hops++; hops > 40 {
				return "", unix.ELOOP
			}
			l, err := os.Readlink(next)
			if err != nil {
				return "", err
			}
			if filepath.IsAbs(l) {
				done = "/"
			}
			rest = append(strings.Split(l, "/"), rest...)
			continue
		case !last && !st.IsDir() && how != "m":
			return "", unix.ENOTDIR
		}
		done = next
	}
	return done, nil
}

func pwd(e *tools.Env) error {
	dir, err := os.Getwd()
	if o, _ := e.Last("L", "P"); err == nil && o.Name != "L" {
		dir, err = filepath.EvalSymlinks(dir)
	}
	e.Printf("%s\n", dir)
	return err
}

func mkfifo(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return err
	}
	mode := uint32(0o666)
	if m := e.Val("m"); m != "" {
		var err error
		if mode, err = parseMode(m, 0o666, false, 0); err != nil {
			return err
		}
	}
	for _, p := range e.Args {
		err := unix.Mkfifo(p, mode)
		if err == nil && e.On("m") {
			err = unix.Chmod(p, mode)
		}
		if err != nil {
			e.Warn("cannot create fifo '%s': %s", p, tools.Cause(err))
		}
	}
	return nil
}

func syncFiles(e *tools.Env) error {
	if len(e.Args) == 0 {
		unix.Sync()
	}
	for _, p := range e.Args {
		fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			e.Warn("error opening '%s': %s", p, tools.Cause(err))
			continue
		}
		do := unix.Fsync
		switch o, _ := e.Last("d", "f"); o.Name {
		case "d":
			do = unix.Fdatasync
		case "f":
			do = unix.Syncfs
		}
		if err := do(fd); err != nil {
			e.Warn("error syncing '%s': %s", p, tools.Cause(err))
		}
		unix.Close(fd)
	}
	return nil
}
