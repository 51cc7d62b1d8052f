package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

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

// refuses reports whether an operand is one that is never removed.
func (r *remover) refuses(p string) bool {
	base := filepath.Base(strings.TrimRight(p, "/"))
	switch {
	case p == "":
		return false
	case r.On("r") && filepath.Clean(p) == "/" && !r.On("no-preserve-root"):
		r.Warn("it is dangerous to operate recursively on '/'")
		fmt.Fprintln(r.Err, "rm: use --no-preserve-root to override this failsafe")
		return true
	case base == "." || base == "..":
		r.Warn("refusing to remove '.' or '..' directory: skipping '%s'", p)
		return true
	}
	return false
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
		if r.refuses(p) {
			continue
		}
		st, err := os.Lstat(p)
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
