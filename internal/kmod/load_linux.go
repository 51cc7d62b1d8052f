package kmod

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Loader loads modules into the running kernel. It may be used by several
// goroutines: a module is loaded once, and who needs it waits for it.
type Loader struct {
	x    *Index
	conf *Conf
	mu   sync.Mutex
	mods map[string]*state
}

// state of a module: done is closed when it is in, or can't be.
type state struct {
	done chan struct{}
	err  error
}

// NewLoader makes a loader for the tree x; what is loaded already is known
// from /proc/modules. conf may be nil.
func NewLoader(x *Index, conf *Conf) *Loader {
	l := &Loader{x: x, conf: conf, mods: map[string]*state{}}
	if conf == nil {
		l.conf = &Conf{}
	}
	if b, err := os.ReadFile("/proc/modules"); err == nil {
		for _, line := range strings.Split(string(b), "\n") {
			if n, _, ok := strings.Cut(line, " "); ok {
				s := &state{done: make(chan struct{})}
				close(s.done)
				l.mods[n] = s
			}
		}
	}
	return l
}

// Load loads a module by name or alias with all it depends on; params go to
// the module itself, after the configured ones. Modules on the blacklist are
// loaded by their name only, not by an alias. It returns the names that were
// loaded now.
func (l *Loader) Load(name, params string) ([]string, error) {
	names := l.x.Resolve(name)
	if len(names) == 0 {
		if l.x.Builtin[Norm(name)] {
			return nil, nil
		}
		return nil, fmt.Errorf("cannot load module %s: no such module", name)
	}
	var done []string
	var errs []error
	for _, n := range names {
		if l.conf.Blacklist[n] && n != Norm(name) {
			continue
		}
		for _, m := range l.x.Order(n) {
			p := l.conf.Options[m]
			if m == n {
				p = strings.TrimSpace(p + " " + params)
			}
			loaded, err := l.ensure(m, p)
			if err != nil && (l.x.needs(n, m) || errors.As(err, new(Unreadable))) {
				errs = append(errs, err)
			}
			if loaded {
				done = append(done, m)
			}
		}
	}
	return done, errors.Join(errs...)
}

// needs reports whether a module can't do without another one, or is it. As for modprobe(8),
// what it would only like to have may fail to load: a cipher's driver for another processor.
func (x *Index) needs(name, other string) bool {
	return name == other || slices.Contains(x.Deps[name], other)
}

// ensure loads one module, or waits until another goroutine has.
func (l *Loader) ensure(m, params string) (loaded bool, err error) {
	if l.x.Builtin[m] {
		return false, nil
	}
	l.mu.Lock()
	s, known := l.mods[m]
	if !known {
		s = &state{done: make(chan struct{})}
		l.mods[m] = s
	}
	l.mu.Unlock()
	if known {
		<-s.done
		return false, nil // its failure was reported by who tried
	}
	s.err = l.insert(m, params)
	close(s.done)
	if s.err != nil {
		// Another try may succeed: a device may have come.
		l.mu.Lock()
		delete(l.mods, m)
		l.mu.Unlock()
	}
	return s.err == nil, s.err
}

func (l *Loader) insert(name, params string) error {
	if l.x.Packed(name) {
		b, err := l.x.Read(name)
		if err != nil {
			return err
		}
		return insertErr(name, unix.InitModule(b, params))
	}
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
	return insertErr(name, err)
}

func insertErr(name string, err error) error {
	if err == nil || errors.Is(err, unix.EEXIST) {
		return nil
	}
	return fmt.Errorf("cannot load module %s: %w", name, err)
}
