// Package files has the commands that list, copy, move and change files.
package files

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
		{Name: "ln", Opts: "s/symbolic f/force n/no-dereference v/verbose t/target-directory: T/no-target-directory r/relative b backup? S/suffix: L/logical P/physical", Synopsis: "TARGET... LINK_NAME", Run: ln},
		{Name: "touch", Opts: "a c/no-create d/date: h/no-dereference m r/reference: t: f", Synopsis: "FILE...", Run: touch},
		{Name: "chmod", Opts: "-", Synopsis: "[-Rvcf] [--reference=FILE] MODE FILE...", Run: chmod},
		{Name: "chown", Opts: "R/recursive h/no-dereference v/verbose c/changes f/silent/quiet reference: from: P dereference", Synopsis: "[OWNER][:[GROUP]] FILE...", Run: chown},
		{Name: "chgrp", Opts: "R/recursive h/no-dereference v/verbose c/changes f/silent/quiet reference: P dereference", Synopsis: "GROUP FILE...", Run: chown},
		{Name: "truncate", Opts: "s/size: c/no-create r/reference:", Synopsis: "FILE...", Run: truncate},
		{Name: "mktemp", Opts: "d/directory u/dry-run q/quiet p: tmpdir? suffix: t", Synopsis: "[TEMPLATE]", Run: mktemp},
		{Name: "readlink", Opts: "f/canonicalize e/canonicalize-existing m/canonicalize-missing n/no-newline q/quiet s/silent v/verbose z/zero", Synopsis: "FILE...", Run: readlink},
		{Name: "realpath", Opts: "e/canonicalize-existing m/canonicalize-missing s/no-symlinks/strip q/quiet z/zero relative-to:", Synopsis: "FILE...", Run: readlink},
		{Name: "pwd", Opts: "L/logical P/physical", Run: pwd},
		{Name: "mkfifo", Opts: "m/mode:", Synopsis: "NAME...", Run: mkfifo},
		{Name: "sync", Opts: "d/data f/file-system", Synopsis: "[FILE]...", Run: syncFiles},
	}
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

// touchTimes are the times of access and modification that files are to get.
func touchTimes(e *tools.Env) ([]unix.Timespec, error) {
	now := time.Now()
	a := unix.NsecToTimespec(now.UnixNano())
	m := a
	switch o, _ := e.Last("r", "d", "t"); o.Name {
	case "r":
		var st unix.Stat_t
		if err := unix.Stat(o.Value, &st); err != nil {
			return nil, fmt.Errorf("failed to get attributes of '%s': %s", o.Value, tools.Cause(err))
		}
		a, m = st.Atim, st.Mtim
	case "d", "t":
		t, err := tools.ParseDate(o.Value, now)
		if o.Name == "t" {
			t, err = stamp(o.Value, now)
		}
		if err != nil {
			return nil, err
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
	return []unix.Timespec{a, m}, nil
}

func touch(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return tools.Usage("missing file operand")
	}
	times, err := touchTimes(e)
	if err != nil {
		return err
	}
	flags := 0
	if e.On("h") {
		flags = unix.AT_SYMLINK_NOFOLLOW
	}
	for _, p := range e.Args {
		err := unix.UtimesNanoAt(unix.AT_FDCWD, p, times, flags)
		if errors.Is(err, unix.ENOENT) && !e.On("h") {
			if e.On("c") {
				continue
			}
			fd, cerr := unix.Open(p, unix.O_WRONLY|unix.O_CREAT|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o666)
			if err = cerr; err == nil {
				unix.Close(fd)
				err = unix.UtimesNanoAt(unix.AT_FDCWD, p, times, 0)
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

// makeTemp makes a file or directory, or only looks whether there is none, and gives its kind.
func makeTemp(e *tools.Env, name string) (kind string, err error) {
	switch {
	case e.On("u"):
		if _, serr := os.Lstat(name); serr == nil {
			err = unix.EEXIST
		}
	case e.On("d"):
		return "directory", unix.Mkdir(name, 0o700)
	default:
		var f *os.File
		if f, err = os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err == nil {
			err = f.Close()
		}
	}
	return "file", err
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
	for {
		name := base
		for range len(t) - len(base) {
			name += string("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"[random(62)])
		}
		name = filepath.Join(dir, name+suffix)
		what, err := makeTemp(e, name)
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
