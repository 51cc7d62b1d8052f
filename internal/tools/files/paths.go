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

// resolve is what the options demand of a path: the whole path, or the text of a link.
func resolve(e *tools.Env, p string, follow bool) (string, error) {
	how, _ := e.Last("e", "f", "m")
	switch {
	case !follow:
		return os.Readlink(p)
	case e.On("s"):
		return filepath.Abs(p)
	}
	return canonical(p, how.Name)
}

func readlink(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return err
	}
	follow := e.Name == "realpath" || e.On("f", "e", "m")
	for i, p := range e.Args {
		out, err := resolve(e, p, follow)
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

// mayBeMissing reports whether a path may have a part for which err was found.
func mayBeMissing(how string, last bool, err error) bool {
	return how == "m" || how != "e" && last && errors.Is(err, unix.ENOENT)
}

// linkParts are the parts of a link's target, and the directory in which they begin.
func linkParts(link, dir string) ([]string, string, error) {
	l, err := os.Readlink(link)
	if filepath.IsAbs(l) {
		dir = "/"
	}
	return strings.Split(l, "/"), dir, err
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
			if !mayBeMissing(how, last, err) {
				return "", err
			}
		case st.Mode()&fs.ModeSymlink != 0:
			if hops++; hops > 40 {
				return "", unix.ELOOP
			}
			var parts []string
			if parts, done, err = linkParts(next, done); err != nil {
				return "", err
			}
			rest = append(parts, rest...)
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
