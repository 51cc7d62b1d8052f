package files

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func findCommands() []tools.Command {
	return []tools.Command{
		{Name: "find", Opts: "-", Synopsis: "[-H] [-L] [-P] [PATH...] [EXPRESSION]", Run: find},
		{Name: "xargs", Opts: "+n/max-args: 0/null P/max-procs: I: i? L/max-lines: d/delimiter: r/no-run-if-empty t/verbose p/interactive s/max-chars: a/arg-file: E:", Synopsis: "[COMMAND [ARG]...]", Run: xargs},
	}
}

// found is a file that find looks at.
type found struct {
	path  string
	depth int
	start string
	st    syscall.Stat_t
	link  bool // a link, whether it is followed or not
}

type predicate func(f *found) bool

type finder struct {
	*tools.Env
	args     []string
	i        int
	min, max int
	depth    bool
	xdev     bool
	follow   byte // 'P', 'H', 'L'
	prune    bool
	quit     bool
	action   bool
	now      time.Time
	batches  []*batch
	dev      uint64
	daystart bool

	regexType string
	warned    bool // of -printf
}

// batch collects files for -exec … {} +.
type batch struct {
	argv  []string
	files []string
	dir   string
	size  int
}

// roots takes what stands before the expression: how links are followed, and where to begin.
func (f *finder) roots() (roots []string) {
	for len(f.args) > 0 && len(f.args[0]) == 2 && strings.Contains("-H-L-P", f.args[0]) {
		f.follow = f.args[0][1]
		f.args = f.args[1:]
	}
	for len(f.args) > 0 && !strings.HasPrefix(f.args[0], "-") && f.args[0] != "!" && f.args[0] != "(" {
		roots = append(roots, f.args[0])
		f.args = f.args[1:]
	}
	if roots == nil {
		return []string{"."}
	}
	return roots
}

func find(e *tools.Env) error {
	f := &finder{Env: e, args: e.Args, max: 1 << 30, follow: 'P', now: time.Now()}
	roots := f.roots()
	var p predicate = func(*found) bool { return true }
	if len(f.args) > 0 {
		var err error
		if p, err = f.or(); err == nil && f.i < len(f.args) {
			err = fmt.Errorf("invalid expression; you have used a binary operator '%s' with nothing before it", f.args[f.i])
		}
		if err != nil {
			return err
		}
	}
	if !f.action {
		all := p
		p = func(x *found) bool {
			if all(x) {
				e.Printf("%s\n", x.path)
			}
			return true
		}
	}
	for _, r := range roots {
		x := &found{path: r, start: r}
		if err := f.stat(x, f.follow != 'P'); err != nil {
			f.Warn("'%s': %s", r, tools.Cause(err))
			continue
		}
		f.dev = x.st.Dev
		f.walk(x, p)
	}
	for _, b := range f.batches {
		f.flush(b)
	}
	return nil
}

func (f *finder) stat(x *found, follow bool) error {
	if err := syscall.Lstat(x.path, &x.st); err != nil {
		return err
	}
	x.link = x.st.Mode&unix.S_IFMT == unix.S_IFLNK
	var st syscall.Stat_t
	if x.link && follow && syscall.Stat(x.path, &st) == nil {
		x.st = st
	}
	return nil
}

func (f *finder) walk(x *found, p predicate) {
	isDir := x.st.Mode&unix.S_IFMT == unix.S_IFDIR
	f.prune = false
	test := func() {
		if x.depth >= f.min && x.depth <= f.max {
			p(x)
		}
	}
	if !f.depth {
		test()
	}
	if f.quit {
		return
	}
	if isDir && !f.prune && x.depth < f.max && !(f.xdev && x.st.Dev != f.dev) {
		es, err := readDir(x.path)
		if err != nil {
			f.Warn("'%s': %s", x.path, tools.Cause(err))
		}
		for _, n := range es {
			y := &found{path: strings.TrimSuffix(x.path, "/") + "/" + n, depth: x.depth + 1, start: x.start}
			if err := f.stat(y, f.follow == 'L'); err != nil {
				f.Warn("'%s': %s", y.path, tools.Cause(err))
				continue
			}
			if f.walk(y, p); f.quit {
				return
			}
		}
	}
	if f.depth {
		test()
	}
}

// readDir gives the names in a directory in the order of the file system, as find has them.
func readDir(p string) ([]string, error) {
	d, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

func (f *finder) peek() string {
	if f.i < len(f.args) {
		return f.args[f.i]
	}
	return ""
}

func (f *finder) or() (predicate, error) {
	a, err := f.and()
	for err == nil && (f.peek() == "-o" || f.peek() == "-or") {
		f.i++
		var b predicate
		left := a
		if b, err = f.and(); err == nil {
			a = func(x *found) bool { return left(x) || b(x) }
		}
	}
	return a, err
}

func (f *finder) and() (predicate, error) {
	a, err := f.not()
	for err == nil && f.i < len(f.args) {
		switch f.peek() {
		case "-o", "-or", ")", ",":
			return a, nil
		case "-a", "-and":
			f.i++
		}
		var b predicate
		left := a
		if b, err = f.not(); err == nil {
			a = func(x *found) bool { return left(x) && b(x) }
		}
	}
	return a, err
}

func (f *finder) not() (predicate, error) {
	switch w := f.peek(); w {
	case "!", "-not":
		f.i++
		p, err := f.not()
		return func(x *found) bool { return !p(x) }, err
	case "(":
		f.i++
		p, err := f.or()
		if err == nil && f.peek() != ")" {
			err = errors.New("invalid expression; expected to find a ')' but didn't see one. Perhaps you need an extra predicate after '('")
		}
		f.i++
		return p, err
	case "":
		return nil, errors.New("invalid expression; I was expecting an expression after an operator")
	default:
		f.i++
		if fn := f.plain(w); fn != nil {
			return fn, nil
		}
		if strings.HasPrefix(w, "-exec") || strings.HasPrefix(w, "-ok") {
			return f.exec(w)
		}
		if f.i == len(f.args) {
			if _, err := f.valued(w, ""); errors.Is(err, errUnknown) {
				return nil, fmt.Errorf("unknown predicate '%s'", w)
			}
			return nil, fmt.Errorf("missing argument to '%s'", w)
		}
		f.i++
		p, err := f.valued(w, f.args[f.i-1])
		if errors.Is(err, errUnknown) {
			err = fmt.Errorf("unknown predicate '%s'", w)
		}
		return p, err
	}
}
