package files

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

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
	letters := func(m uint32) string { return fmt.Sprintf("%04o (%s)", m, tools.ModeString(m | unix.S_IFREG)[1:]) }
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
	c := ownerChange{Env: e, fromU: -1, fromG: -1}
	var err error
	c.uid, c.gid, err = newOwner(e)
	if f := e.Val("from"); f != "" && err == nil {
		c.fromU, c.fromG, err = owner(f)
	}
	if err != nil {
		return err
	}
	for _, p := range e.Args {
		each(e, p, e.On("R"), c.file)
	}
	return nil
}

// ownerChange is a new owner of files, and the one that they need to have; -1 stands for any.
type ownerChange struct {
	*tools.Env
	uid, gid, fromU, fromG int
}

func (c ownerChange) file(p string, d fs.DirEntry) {
	do, stat := unix.Chown, unix.Stat
	if c.On("h") || d != nil && d.Type()&fs.ModeSymlink != 0 {
		do, stat = unix.Lchown, unix.Lstat
	}
	var st unix.Stat_t
	what, err := "cannot access", stat(p, &st)
	if err == nil && (c.fromU >= 0 && int(st.Uid) != c.fromU || c.fromG >= 0 && int(st.Gid) != c.fromG) {
		return
	}
	if err == nil {
		what = map[string]string{"chown": "changing ownership of", "chgrp": "changing group of"}[c.Name]
		err = do(p, c.uid, c.gid)
	}
	switch {
	case err != nil && c.On("f"):
		c.Set(1)
	case err != nil:
		c.Warn("%s '%s': %s", what, p, tools.Cause(err))
	case c.On("v", "c"):
		c.report(p, &st)
	}
}

// report prints what was changed, with -v also what is as before.
func (c ownerChange) report(p string, st *unix.Stat_t) {
	kind, old, now := "group", groupName(st.Gid), groupName(uint32(max(c.gid, 0)))
	if c.Name == "chown" {
		kind = "ownership"
		switch {
		case c.gid < 0:
			old, now = userName(st.Uid), userName(uint32(c.uid))
		case c.uid < 0:
			old, now = userName(st.Uid)+":"+old, ":"+now
		default:
			old, now = userName(st.Uid)+":"+old, userName(uint32(c.uid))+":"+now
		}
	}
	switch {
	case c.uid >= 0 && int(st.Uid) != c.uid || c.gid >= 0 && int(st.Gid) != c.gid:
		c.Printf("changed %s of '%s' from %s to %s\n", kind, p, old, now)
	case c.On("v"):
		c.Printf("%s of '%s' retained as %s\n", kind, p, old)
	}
}
