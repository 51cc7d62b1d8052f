package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

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
