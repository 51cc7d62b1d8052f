package smalltools

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/volume"
)

// Chown changes owners: chown [-Rh] OWNER[:GROUP] FILE...
func Chown(s IO, args []string) error { return own(s, "chown", args) }

// Chgrp changes groups: chgrp [-Rh] GROUP FILE...
func Chgrp(s IO, args []string) error { return own(s, "chgrp", args) }

func own(s IO, name string, args []string) error {
	f := flags(s, name, "[-Rh] OWNER FILE...")
	rec := f.Bool("R", false, "everything below as well")
	link := f.Bool("h", false, "links themselves, not what they point to")
	args, err := parse(f, args)
	if err != nil {
		return err
	}
	if len(args) < 2 {
		return usage{errors.New("who, and which files?")}
	}
	spec := args[0]
	if name == "chgrp" {
		spec = ":" + spec
	}
	uid, gid, err := owner(spec)
	if err != nil {
		return err
	}
	do := func(p string, isLink bool) error {
		if *link || isLink && *rec {
			return os.Lchown(p, uid, gid)
		}
		return os.Chown(p, uid, gid)
	}
	var errs []error
	for _, p := range args[1:] {
		if !*rec {
			errs = append(errs, do(p, false))
			continue
		}
		errs = append(errs, filepath.WalkDir(p, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return do(p, d.Type()&fs.ModeSymlink != 0)
		}))
	}
	return errors.Join(errs...)
}

// owner reads "USER", "USER:GROUP", ":GROUP"; names or numbers.
func owner(spec string) (uid, gid int, err error) {
	u, g, _ := strings.Cut(spec, ":")
	uid, gid = -1, -1
	if u != "" {
		if uid, err = strconv.Atoi(u); err != nil {
			x, err := user.Lookup(u)
			if err != nil {
				return 0, 0, err
			}
			if uid, err = strconv.Atoi(x.Uid); err != nil {
				return 0, 0, err
			}
		}
	}
	if g != "" {
		if gid, err = strconv.Atoi(g); err != nil {
			x, err := user.LookupGroup(g)
			if err != nil {
				return 0, 0, err
			}
			if gid, err = strconv.Atoi(x.Gid); err != nil {
				return 0, 0, err
			}
		}
	}
	return uid, gid, nil
}

// Cp copies: cp [-aRrpv] SOURCE... DEST. Directories are copied by the
// archiver, with owners, times, links, holes and attributes.
func Cp(ctx context.Context, s IO, args []string) error {
	f := flags(s, "cp", "[-aRrpfv] SOURCE... DEST")
	all := f.Bool("a", false, "directories too, with owners, times, links, holes and attributes")
	rec := f.Bool("R", false, "directories too")
	f.BoolVar(rec, "r", false, "as -R")
	keep := f.Bool("p", false, "owners, mode and times")
	f.Bool("f", false, "overwrite (always done)")
	verbose := f.Bool("v", false, "say what is copied")
	args, err := parse(f, args)
	if err != nil {
		return err
	}
	if len(args) < 2 {
		return usage{errors.New("from where to where?")}
	}
	dest := args[len(args)-1]
	st, err := os.Stat(dest)
	isDir := err == nil && st.IsDir()
	if len(args) > 2 && !isDir {
		return fmt.Errorf("%s is no directory", dest)
	}
	var errs []error
	for _, src := range args[:len(args)-1] {
		to := dest
		if isDir {
			to = filepath.Join(dest, filepath.Base(src))
		}
		if *verbose {
			fmt.Fprintf(s.Out, "%s -> %s\n", printable.Clean(src), printable.Clean(to))
		}
		errs = append(errs, copyOne(ctx, src, to, *all || *rec, *all || *keep))
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func copyOne(ctx context.Context, src, to string, tree, keep bool) error {
	st, err := os.Lstat(src)
	if err != nil {
		return err
	}
	if st.Mode()&fs.ModeSymlink != 0 && !tree {
		if st, err = os.Stat(src); err != nil {
			return err
		}
	}
	switch {
	case st.IsDir() && !tree:
		return fmt.Errorf("%s is a directory; -a or -R copies it", src)
	case st.IsDir():
		return copyTree(ctx, src, to)
	case st.Mode()&fs.ModeSymlink != 0:
		t, err := os.Readlink(src)
		if err != nil {
			return err
		}
		return os.Symlink(t, to)
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file; copy its directory with -a", src)
	}
	return copyFile(ctx, src, to, keep)
}

// reading gives up a copy when its context ends.
type reading struct {
	ctx context.Context
	io.Reader
}

func (r reading) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}

// create opens what a file is copied to. A fifo is refused: it would be waited for.
// A disk is opened exclusively: not one that is in use.
func create(to string, mode fs.FileMode) (f *os.File, isNew bool, err error) {
	f, err = os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err == nil || !errors.Is(err, os.ErrExist) {
		return f, err == nil, err
	}
	st, err := os.Stat(to)
	if err != nil {
		return nil, false, err
	}
	flags := os.O_WRONLY | unix.O_NONBLOCK
	if st.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice {
		flags |= os.O_EXCL
	}
	if f, err = os.OpenFile(to, flags, 0); err != nil {
		return nil, false, err
	}
	if st, err = f.Stat(); err == nil {
		switch {
		case st.Mode().IsRegular():
			err = f.Truncate(0)
		case st.Mode()&fs.ModeDevice == 0:
			err = fmt.Errorf("cannot write %s: it is neither a regular file nor a device", to)
		default:
			err = unix.SetNonblock(int(f.Fd()), false)
		}
	}
	if err != nil {
		f.Close()
		return nil, false, err
	}
	return f, false, nil
}

func copyFile(ctx context.Context, src, to string, keep bool) error {
	in, err := volume.Open(src, false)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	if ts, err := os.Stat(to); err == nil && os.SameFile(st, ts) {
		return fmt.Errorf("%s and %s are the same file", src, to)
	}
	out, isNew, err := create(to, st.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{out}, reading{ctx, in}, make([]byte, 1<<20))
	if err != nil && isNew {
		err = errors.Join(err, os.Remove(to))
	}
	if keep && err == nil {
		u := st.Sys().(*syscall.Stat_t)
		err = errors.Join(os.Chown(to, int(u.Uid), int(u.Gid)), unix.Chmod(to, u.Mode&0o7777))
	}
	if err = errors.Join(err, out.Close()); err == nil && keep {
		err = os.Chtimes(to, time.Time{}, st.ModTime())
	}
	return err
}

// copyTree archives into memory-bounded frames in a temporary file beside the
// destination, and extracts them: the one code that knows every attribute.
func copyTree(ctx context.Context, src, to string) error {
	root, err := os.Open(src)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(to), ".cp-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	sum, err := archive.Create(ctx, tmp, root, archive.CreateOptions{})
	if err != nil {
		return err
	}
	r, err := archive.Open(tmp, sum.Packed, tmp.Name())
	if err != nil {
		return err
	}
	x, err := r.Extract(ctx, to, archive.ExtractOptions{NoOwner: os.Geteuid() != 0})
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range append(sum.Problems, x.Problems...) {
		errs = append(errs, errors.New(p.String()))
	}
	return errors.Join(errs...)
}

// Rmdir removes empty directories.
func Rmdir(s IO, args []string) error {
	f := flags(s, "rmdir", "[-p] DIR...")
	parents := f.Bool("p", false, "the directories above as well")
	args, err := parse(f, args)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return usage{errors.New("which directory?")}
	}
	var errs []error
	for _, d := range args {
		for d = filepath.Clean(d); ; d = filepath.Dir(d) {
			if err := unix.Rmdir(d); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", d, err))
				break
			}
			if !*parents || filepath.Dir(d) == "." || filepath.Dir(d) == "/" {
				break
			}
		}
	}
	return errors.Join(errs...)
}

// Stat prints what the kernel knows of files.
func Stat(s IO, args []string) error {
	f := flags(s, "stat", "FILE...")
	args, err := parse(f, args)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return usage{errors.New("which file?")}
	}
	var errs []error
	for _, p := range args {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p, err))
			continue
		}
		kind := map[uint32]string{unix.S_IFREG: "regular file", unix.S_IFDIR: "directory", unix.S_IFLNK: "symbolic link", unix.S_IFBLK: "block device", unix.S_IFCHR: "character device", unix.S_IFIFO: "fifo", unix.S_IFSOCK: "socket"}[st.Mode&unix.S_IFMT]
		fmt.Fprintf(s.Out, "  File: %s\n  Type: %s  Size: %d  Blocks: %d  Links: %d  Inode: %d  Device: %d:%d\n", archive.Quote(p), kind, st.Size, st.Blocks, st.Nlink, st.Ino, unix.Major(st.Dev), unix.Minor(st.Dev))
		if st.Rdev != 0 {
			fmt.Fprintf(s.Out, "  Node: %d:%d\n", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		fmt.Fprintf(s.Out, "  Mode: %04o  Owner: %d  Group: %d\n", st.Mode&0o7777, st.Uid, st.Gid)
		for _, t := range []struct {
			n string
			t unix.Timespec
		}{{"Access", st.Atim}, {"Modify", st.Mtim}, {"Change", st.Ctim}} {
			fmt.Fprintf(s.Out, "%s: %s\n", t.n, time.Unix(t.t.Sec, t.t.Nsec).Format("2006-01-02 15:04:05.000000000 -0700"))
		}
	}
	return errors.Join(errs...)
}

// Cut prints fields or characters of lines: cut (-f LIST [-d C] [-s] | -c LIST) [FILE...]
func Cut(s IO, args []string) error {
	f := flags(s, "cut", "(-f LIST [-d C] [-s] | -c LIST) [FILE...]")
	fields := f.String("f", "", "fields: 1,3-5")
	chars := f.String("c", "", "characters: 1,3-5")
	delim := f.String("d", "\t", "the character between fields")
	only := f.Bool("s", false, "leave out lines without that character")
	args, err := parse(f, glue(args, "fcd"))
	if err != nil {
		return err
	}
	if (*fields == "") == (*chars == "") || len(*delim) != 1 {
		return usage{errors.New("one of -f and -c, and a single character for -d")}
	}
	in, err := ranges(*fields + *chars)
	if err != nil {
		return usage{err}
	}
	return each(s, args, func(r io.Reader) error {
		return lines(r, func(l string) error {
			if *chars != "" {
				var b strings.Builder
				for i, c := range []rune(l) {
					if in(i + 1) {
						b.WriteRune(c)
					}
				}
				_, err := fmt.Fprintln(s.Out, b.String())
				return err
			}
			parts := strings.Split(l, *delim)
			if len(parts) == 1 {
				if !*only {
					fmt.Fprintln(s.Out, l)
				}
				return nil
			}
			var out []string
			for i, p := range parts {
				if in(i + 1) {
					out = append(out, p)
				}
			}
			_, err := fmt.Fprintln(s.Out, strings.Join(out, *delim))
			return err
		})
	})
}

// glue turns -f1 into -f=1 for the letters given.
func glue(args []string, letters string) []string {
	var out []string
	for _, a := range args {
		if len(a) > 2 && a[0] == '-' && strings.IndexByte(letters, a[1]) >= 0 && a[2] != '=' {
			a = a[:2] + "=" + a[2:]
		}
		out = append(out, a)
	}
	return out
}

// ranges reads "1,3-5,7-".
func ranges(list string) (func(int) bool, error) {
	type span struct{ a, b int }
	var ss []span
	for _, p := range strings.Split(list, ",") {
		a, b, isRange := strings.Cut(p, "-")
		sp := span{1, 1 << 30}
		var err error
		if a != "" {
			if sp.a, err = strconv.Atoi(a); err != nil || sp.a < 1 {
				return nil, fmt.Errorf("%q is no list of numbers", list)
			}
		}
		if !isRange {
			sp.b = sp.a
		} else if b != "" {
			if sp.b, err = strconv.Atoi(b); err != nil || sp.b < sp.a {
				return nil, fmt.Errorf("%q is no list of numbers", list)
			}
		}
		if a == "" && b == "" {
			return nil, fmt.Errorf("%q is no list of numbers", list)
		}
		ss = append(ss, sp)
	}
	return func(n int) bool {
		for _, s := range ss {
			if n >= s.a && n <= s.b {
				return true
			}
		}
		return false
	}, nil
}

// lines calls fn for every line, of any length.
func lines(r io.Reader, fn func(string) error) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	for len(b) > 0 {
		l, rest, _ := bytes.Cut(b, []byte("\n"))
		if err := fn(string(l)); err != nil {
			return err
		}
		b = rest
	}
	return nil
}
