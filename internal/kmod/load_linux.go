package kmod

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Loader loads modules into the running kernel.
type Loader struct {
	x      *Index
	loaded map[string]bool
}

// NewLoader makes a loader for the tree x; what is loaded already is known
// from /proc/modules.
func NewLoader(x *Index) *Loader {
	l := &Loader{x: x, loaded: map[string]bool{}}
	if b, err := os.ReadFile("/proc/modules"); err == nil {
		for _, line := range strings.Split(string(b), "\n") {
			if n, _, ok := strings.Cut(line, " "); ok {
				l.loaded[n] = true
			}
		}
	}
	return l
}

// Load loads a module by name or alias with all it depends on; params go to
// the module itself. It returns the names that were loaded now.
func (l *Loader) Load(name, params string) ([]string, error) {
	names := l.x.Resolve(name)
	if len(names) == 0 {
		if l.x.Builtin[Norm(name)] {
			return nil, nil
		}
		return nil, fmt.Errorf("cannot load module %s: there is none of that name", name)
	}
	var done []string
	var errs []error
	for _, n := range names {
		for _, m := range l.x.Order(n) {
			if l.loaded[m] || l.x.Builtin[m] {
				continue
			}
			p := ""
			if m == n {
				p = params
			}
			if err := l.insert(m, p); err != nil {
				errs = append(errs, err)
				continue
			}
			l.loaded[m] = true
			done = append(done, m)
		}
	}
	return done, errors.Join(errs...)
}

func (l *Loader) insert(name, params string) error {
	f, err := os.Open(l.x.Dir + "/" + l.x.Path[name])
	if err != nil {
		return fmt.Errorf("cannot load module %s: %w", name, err)
	}
	defer f.Close()
	err = unix.EINVAL
	if PlainPath(l.x.Path[name]) == l.x.Path[name] {
		err = unix.FinitModule(int(f.Fd()), params, 0)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		b, e := l.x.Read(name)
		if e != nil {
			return e
		}
		err = unix.InitModule(b, params)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot load module %s: %w", name, err)
	}
	return nil
}
