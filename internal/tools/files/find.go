package files

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/tools/posix"
)

func findCommands() []tools.Command {
	return []tools.Command{
		{Name: "find", Opts: "-", Synopsis: "[-H] [-L] [-P] [PATH...] [EXPRESSION]", Run: find},
		{Name: "xargs", Opts: "+n/max-args: 0/null P/max-procs: I: i? L/max-lines: d/delimiter: r/no-run-if-empty t/verbose p/interactive s/max-chars: x/exit a/arg-file: E:", Synopsis: "[COMMAND [ARG]...]", Run: xargs},
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
}

// batch collects files for -exec … {} +.
type batch struct {
	argv  []string
	files []string
	dir   string
	size  int
}

func find(e *tools.Env) error {
	f := &finder{Env: e, args: e.Args, max: 1 << 30, follow: 'P', now: time.Now()}
	for len(f.args) > 0 && len(f.args[0]) == 2 && strings.Contains("-H-L-P", f.args[0]) {
		f.follow = f.args[0][1]
		f.args = f.args[1:]
	}
	var roots []string
	for len(f.args) > 0 && !strings.HasPrefix(f.args[0], "-") && f.args[0] != "!" && f.args[0] != "(" {
		roots = append(roots, f.args[0])
		f.args = f.args[1:]
	}
	if roots == nil {
		roots = []string{"."}
	}
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

var errUnknown = errors.New("unknown predicate")

func truthful(*found) bool { return true }

// plain are the words without a value.
func (f *finder) plain(w string) predicate {
	switch w {
	case "-print":
		f.action = true
		return func(x *found) bool { f.Printf("%s\n", x.path); return true }
	case "-print0":
		f.action = true
		return func(x *found) bool { f.Printf("%s\x00", x.path); return true }
	case "-ls":
		f.action = true
		return func(x *found) bool { f.ls(x); return true }
	case "-delete":
		f.action, f.depth = true, true
		return f.remove
	case "-prune":
		return func(*found) bool { f.prune = true; return true }
	case "-quit":
		f.action = true
		return func(*found) bool { f.quit = true; return true }
	case "-true", "-noleaf", "-nowarn", "-warn", "-ignore_readdir_race":
		return truthful
	case "-false":
		return func(*found) bool { return false }
	case "-depth", "-d":
		f.depth = true
		return truthful
	case "-xdev", "-mount":
		f.xdev = true
		return truthful
	case "-daystart":
		f.daystart = true
		return truthful
	case "-follow":
		f.follow = 'L'
		return truthful
	case "-empty":
		return empty
	case "-readable", "-writable", "-executable":
		mode := map[byte]uint32{'r': unix.R_OK, 'w': unix.W_OK, 'e': unix.X_OK}[w[1]]
		return func(x *found) bool { return unix.Access(x.path, mode) == nil }
	case "-nouser":
		return func(x *found) bool { return userName(x.st.Uid) == strconv.Itoa(int(x.st.Uid)) }
	case "-nogroup":
		return func(x *found) bool { return groupName(x.st.Gid) == strconv.Itoa(int(x.st.Gid)) }
	}
	return nil
}

func empty(x *found) bool {
	if x.st.Mode&unix.S_IFMT == unix.S_IFDIR {
		n, err := readDir(x.path)
		return err == nil && len(n) == 0
	}
	return x.st.Mode&unix.S_IFMT == unix.S_IFREG && x.st.Size == 0
}

// number makes a comparison of "+N", "-N" or "N".
func number(s string) (func(n int64) bool, error) {
	sign := byte(0)
	if s != "" && (s[0] == '+' || s[0] == '-') {
		sign, s = s[0], s[1:]
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return nil, err
	}
	return func(n int64) bool {
		return sign == '+' && n > v || sign == '-' && n < v || sign == 0 && n == v
	}, nil
}

func (f *finder) valued(w, v string) (predicate, error) {
	bad := fmt.Errorf("invalid argument '%s' to '%s'", v, w)
	glob := func(of func(x *found) string, fold bool) (predicate, error) {
		re, err := globRE(v, fold)
		return func(x *found) bool { return re.MatchString(of(x)) }, err
	}
	base := func(x *found) string {
		return path.Base(strings.TrimRight(x.path, "/") + map[bool]string{true: "/"}[x.path == "/"])
	}
	whole := func(x *found) string { return x.path }
	switch w {
	case "-name", "-iname":
		return glob(base, w == "-iname")
	case "-path", "-wholename", "-ipath", "-iwholename":
		return glob(whole, w[1] == 'i')
	case "-lname", "-ilname":
		return glob(func(x *found) string { l, _ := os.Readlink(x.path); return l }, w[1] == 'i')
	case "-regex", "-iregex":
		re, err := posix.Compile(`^\(`+strings.NewReplacer(`+`, `\+`, `?`, `\?`).Replace(v)+`\)$`, posix.Flags{Fold: w == "-iregex"})
		return func(x *found) bool { return re.MatchString(x.path) }, err
	case "-regextype":
		return truthful, nil
	case "-maxdepth", "-mindepth":
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("expected a positive decimal integer argument to %s, but got '%s'", w, v)
		}
		if w == "-maxdepth" {
			f.max = n
		} else {
			f.min = n
		}
		return truthful, nil
	case "-type", "-xtype":
		return f.typed(w, v)
	case "-size":
		return f.size(v)
	case "-links", "-inum":
		in, err := number(v)
		if err != nil {
			return nil, bad
		}
		return func(x *found) bool {
			if w == "-inum" {
				return in(int64(x.st.Ino))
			}
			return in(int64(x.st.Nlink))
		}, nil
	case "-perm":
		return perm(v)
	case "-printf":
		f.action = true
		return func(x *found) bool { f.Out.WriteString(f.format(x, v)); return true }, nil
	case "-fprint":
		out, err := os.Create(v)
		f.action = true
		return func(x *found) bool { fmt.Fprintln(out, x.path); return true }, err
	}
	return f.timed(w, v, bad)
}

func (f *finder) timed(w, v string, bad error) (predicate, error) {
	switch w {
	case "-user", "-uid", "-group", "-gid":
		id := userID
		if strings.HasPrefix(w, "-g") {
			id = groupID
		}
		n, err := id(v)
		if err != nil {
			return nil, fmt.Errorf("'%s' is not the name of a known %s", v, map[bool]string{true: "group", false: "user"}[w[1] == 'g'])
		}
		return func(x *found) bool {
			if w[1] == 'g' {
				return int(x.st.Gid) == n
			}
			return int(x.st.Uid) == n
		}, nil
	case "-mtime", "-atime", "-ctime", "-mmin", "-amin", "-cmin":
		in, err := number(v)
		if err != nil {
			return nil, bad
		}
		unit := int64(24 * time.Hour)
		if strings.HasSuffix(w, "min") {
			unit = int64(time.Minute)
		}
		now := f.now
		if f.daystart {
			now = time.Date(now.Year(), now.Month(), now.Day()+1, 0, 0, 0, 0, now.Location())
		}
		return func(x *found) bool {
			age := now.UnixNano() - timeOf(&x.st, w[1])
			if unit == int64(time.Minute) {
				return in((age + unit - 1) / unit)
			}
			return in(age / unit)
		}, nil
	case "-newer", "-anewer", "-cnewer", "-newermt", "-samefile":
		var st syscall.Stat_t
		if w == "-newermt" {
			t, err := tools.ParseDate(v, f.now)
			if err != nil {
				return nil, fmt.Errorf("i cannot figure out how to interpret '%s' as a date or time", v)
			}
			st.Mtim = syscall.NsecToTimespec(t.UnixNano())
		} else if err := syscall.Stat(v, &st); err != nil {
			return nil, fmt.Errorf("'%s': %s", v, tools.Cause(err))
		}
		if w == "-samefile" {
			return func(x *found) bool { return x.st.Dev == st.Dev && x.st.Ino == st.Ino }, nil
		}
		which := byte('m')
		if w[1] != 'n' {
			which = w[1]
		}
		return func(x *found) bool { return timeOf(&x.st, which) > st.Mtim.Nano() }, nil
	case "-fstype":
		return func(x *found) bool {
			real, err := canonical(x.path, "m")
			m, ok := mountOf(real)
			return err == nil && ok && m.Type == v
		}, nil
	}
	return nil, errUnknown
}

func timeOf(st *syscall.Stat_t, which byte) int64 {
	switch which {
	case 'a':
		return st.Atim.Nano()
	case 'c':
		return st.Ctim.Nano()
	}
	return st.Mtim.Nano()
}

// globRE makes an expression of a pattern of fnmatch(3), whose * takes slashes.
func globRE(p string, fold bool) (*regexp.Regexp, error) {
	var b strings.Builder
	b.WriteString("(?s")
	if fold {
		b.WriteByte('i')
	}
	b.WriteString(")^")
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c == '*':
			b.WriteString(".*")
		case c == '?':
			b.WriteByte('.')
		case c == '[':
			j := i + 1
			if j < len(p) && (p[j] == '!' || p[j] == '^') {
				j++
			}
			if j < len(p) && p[j] == ']' {
				j++
			}
			k := strings.IndexByte(p[min(j, len(p)):], ']')
			if k < 0 {
				b.WriteString(`\[`)
				continue
			}
			set := p[i+1 : j+k]
			if set[0] == '!' {
				set = "^" + set[1:]
			}
			b.WriteString("[" + strings.ReplaceAll(set, `\`, `\\`) + "]")
			i = j + k
		case c == '\\' && i+1 < len(p):
			i++
			b.WriteString(regexp.QuoteMeta(p[i : i+1]))
		case c >= 128:
			b.WriteByte(c)
		default:
			b.WriteString(regexp.QuoteMeta(p[i : i+1]))
		}
	}
	return regexp.Compile(b.String() + "$")
}

var typeLetters = map[byte]uint32{'f': unix.S_IFREG, 'd': unix.S_IFDIR, 'l': unix.S_IFLNK, 'b': unix.S_IFBLK, 'c': unix.S_IFCHR, 'p': unix.S_IFIFO, 's': unix.S_IFSOCK}

func (f *finder) typed(w, v string) (predicate, error) {
	var kinds []uint32
	for _, t := range strings.Split(v, ",") {
		if len(t) != 1 || typeLetters[t[0]] == 0 {
			return nil, fmt.Errorf("unknown argument to %s: %s", w, v)
		}
		kinds = append(kinds, typeLetters[t[0]])
	}
	return func(x *found) bool {
		mode := x.st.Mode
		var st syscall.Stat_t
		if w == "-xtype" && syscall.Stat(x.path, &st) == nil {
			mode = st.Mode
		}
		for _, k := range kinds {
			if mode&unix.S_IFMT == k {
				return true
			}
		}
		return false
	}, nil
}

func (f *finder) size(v string) (predicate, error) {
	unit, num := int64(512), v
	if v != "" {
		if u, ok := map[byte]int64{'c': 1, 'w': 2, 'b': 512, 'k': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}[v[len(v)-1]]; ok {
			unit, num = u, v[:len(v)-1]
		}
	}
	in, err := number(num)
	if err != nil {
		return nil, fmt.Errorf("invalid argument `%s' to -size", v)
	}
	return func(x *found) bool { return in((x.st.Size + unit - 1) / unit) }, nil
}

func perm(v string) (predicate, error) {
	how := byte(0)
	m := v
	if m != "" && (m[0] == '-' || m[0] == '/') {
		how, m = m[0], m[1:]
	}
	mode, err := parseMode(m, 0, false, 0)
	if err != nil {
		return nil, fmt.Errorf("invalid mode '%s'", v)
	}
	return func(x *found) bool {
		got := x.st.Mode & 0o7777
		switch how {
		case '-':
			return got&mode == mode
		case '/':
			return got&mode != 0 || mode == 0
		}
		return got == mode
	}, nil
}

func (f *finder) remove(x *found) bool {
	if x.path == "." {
		return true
	}
	do := syscall.Unlink
	if x.st.Mode&unix.S_IFMT == unix.S_IFDIR {
		do = syscall.Rmdir
	}
	if err := do(x.path); err != nil {
		f.Warn("cannot delete '%s': %s", x.path, tools.Cause(err))
		return false
	}
	return true
}

func (f *finder) exec(w string) (predicate, error) {
	f.action = true
	ask, inDir := strings.HasPrefix(w, "-ok"), strings.HasSuffix(w, "dir")
	start := f.i
	for ; f.i < len(f.args); f.i++ {
		a := f.args[f.i]
		if a == ";" {
			break
		}
		if a == "+" && f.i > start && f.args[f.i-1] == "{}" {
			b := &batch{argv: f.args[start : f.i-1]}
			f.i++
			f.batches = append(f.batches, b)
			return func(x *found) bool {
				p := x.path
				if inDir {
					if dir := path.Dir(p); dir != b.dir {
						f.flush(b)
						b.dir = dir
					}
					p = "./" + path.Base(p)
				}
				b.files = append(b.files, p)
				if b.size += len(p) + 9; b.size > 100<<10 {
					f.flush(b)
				}
				return true
			}, nil
		}
	}
	if f.i == len(f.args) || f.i == start {
		return nil, fmt.Errorf("missing argument to '%s'", w)
	}
	argv := f.args[start:f.i]
	f.i++
	return func(x *found) bool {
		var a []string
		p, dir := x.path, ""
		if inDir {
			p, dir = "./"+path.Base(p), path.Dir(p)
		}
		for _, s := range argv {
			a = append(a, strings.ReplaceAll(s, "{}", p))
		}
		if ask && !tools.Confirm(f.Env, "< %s ... %s > ? ", a[0], x.path) {
			return false
		}
		return f.run(a, dir) == nil
	}, nil
}

func (f *finder) run(argv []string, dir string) error {
	if err := f.Out.Flush(); err != nil {
		return err
	}
	c := exec.Command(argv[0], argv[1:]...)
	c.Dir = dir
	c.Stdin, c.Stdout, c.Stderr = f.In, os.Stdout, f.Err
	err := c.Run()
	var x *exec.ExitError
	if err != nil && !errors.As(err, &x) {
		f.Warn("'%s': %s", argv[0], tools.Cause(err))
	}
	return err
}

func (f *finder) flush(b *batch) {
	if len(b.files) == 0 {
		return
	}
	if err := f.run(append(b.argv[:len(b.argv):len(b.argv)], b.files...), b.dir); err != nil {
		f.Set(1)
	}
	b.files, b.size = nil, 0
}

func (f *finder) ls(x *found) {
	l := ""
	if t, err := os.Readlink(x.path); err == nil {
		l = " -> " + t
	}
	st := &x.st
	f.Printf("%9d %6d %s %3d %-8s %-8s %8d %s %s%s\n", st.Ino, (st.Blocks+1)/2, modeString(st.Mode), st.Nlink, userName(st.Uid), groupName(st.Gid), st.Size, (&lister{Env: f.Env, now: f.now}).stamp(st.Mtim.Nano()), x.path, l)
}

// format is -printf.
func (f *finder) format(x *found, spec string) string {
	spec = unescapeFormat(spec)
	st := &x.st
	when := func(ts syscall.Timespec, verb string) string {
		t := time.Unix(ts.Unix())
		if verb == "@" {
			return fmt.Sprintf("%d.%09d0", ts.Sec, ts.Nsec)
		}
		if verb == "T" || verb == "S" {
			return tools.Strftime("%"+verb, t) + fmt.Sprintf(".%09d0", ts.Nsec)
		}
		return tools.Strftime("%"+verb, t)
	}
	re := regexp.MustCompile(`%[-0-9.]*(?:[TAC].|[a-zA-Z%])`)
	return re.ReplaceAllStringFunc(spec, func(c string) string {
		verb := strings.TrimLeft(c[1:], "-0123456789.")
		width := c[1 : len(c)-len(verb)]
		s := ""
		switch verb[0] {
		case '%':
			return "%"
		case 'T':
			s = when(st.Mtim, verb[1:])
		case 'A':
			s = when(st.Atim, verb[1:])
		case 'C':
			s = when(st.Ctim, verb[1:])
		case 't':
			s = time.Unix(st.Mtim.Unix()).Format("Mon Jan _2 15:04:05.0000000000 2006")
		default:
			s = f.field(x, verb[0])
		}
		return fmt.Sprintf("%"+width+"s", s)
	})
}

func (f *finder) field(x *found, verb byte) string {
	st := &x.st
	switch verb {
	case 'p':
		return x.path
	case 'f':
		if x.path == "/" {
			return "/"
		}
		return path.Base(x.path)
	case 'h':
		if i := strings.LastIndexByte(x.path, '/'); i > 0 {
			return x.path[:i]
		} else if i == 0 {
			return ""
		}
		return "."
	case 'P':
		return strings.TrimPrefix(strings.TrimPrefix(x.path, strings.TrimSuffix(x.start, "/")), "/")
	case 'H':
		return x.start
	case 'm':
		return strconv.FormatUint(uint64(st.Mode&0o7777), 8)
	case 'M':
		return modeString(st.Mode)
	case 'u':
		return userName(st.Uid)
	case 'g':
		return groupName(st.Gid)
	case 'l':
		l, _ := os.Readlink(x.path) // empty where it is not a link
		return l
	}
	if n, ok := map[byte]int64{'s': st.Size, 'k': (st.Blocks + 1) / 2, 'b': st.Blocks, 'U': int64(st.Uid), 'G': int64(st.Gid), 'i': int64(st.Ino), 'n': int64(st.Nlink), 'd': int64(x.depth), 'D': int64(st.Dev)}[verb]; ok {
		return strconv.FormatInt(n, 10)
	}
	for l, m := range typeLetters {
		if verb == 'y' && m == st.Mode&unix.S_IFMT {
			return string(rune(l))
		}
	}
	return ""
}

// xargsRun starts commands with the words that were read.
type xargsRun struct {
	*tools.Env
	argv []string
	slot chan struct{}
	done chan int
	left int
	rc   int

	most, chars, lines int // words, bytes and lines of one command line
}

func xargs(e *tools.Env) error {
	x := &xargsRun{Env: e, argv: e.Args, done: make(chan int)}
	if len(x.argv) == 0 {
		x.argv = []string{"echo"}
	}
	var procs int
	var errs [4]error
	x.most, errs[0] = e.Int("n", 1<<30)
	procs, errs[1] = e.Int("P", 1)
	x.chars, errs[2] = e.Int("s", 120<<10)
	x.lines, errs[3] = e.Int("L", 0)
	if err := errors.Join(errs[:]...); err != nil || x.most < 1 {
		return fmt.Errorf("invalid number for an option")
	}
	for _, a := range x.argv {
		x.chars -= len(a) + 1
	}
	if procs == 0 {
		procs = 1 << 10
	}
	x.slot = make(chan struct{}, procs)
	in := e.In
	if a := e.Val("a"); a != "" {
		r, err := e.Open(a)
		if err != nil {
			return err
		}
		defer r.Close()
		in = r
	}
	groups, err := words(e, in)
	if err != nil {
		return err
	}
	if e.On("I", "i") {
		x.replace(groups)
	} else {
		x.append(groups)
	}
	for x.left > 0 {
		x.take()
	}
	if x.rc != 0 {
		return tools.Status(x.rc)
	}
	return nil
}

// replace runs the command once for each line, which replaces {}.
func (x *xargsRun) replace(groups [][]string) {
	mark, _ := x.Last("I", "i")
	if mark.Value == "" {
		mark.Value = "{}"
	}
	for _, g := range groups {
		argv := make([]string, len(x.argv))
		for i, a := range x.argv {
			argv[i] = strings.ReplaceAll(a, mark.Value, strings.TrimLeft(strings.Join(g, " "), " \t"))
		}
		x.start(argv)
	}
}

// append runs the command with as many words behind it as it may have.
func (x *xargsRun) append(groups [][]string) {
	var batch []string
	size, taken, ran := 0, 0, false
	run := func() {
		x.start(append(x.argv[:len(x.argv):len(x.argv)], batch...))
		batch, size, taken, ran = nil, 0, 0, true
	}
	for _, g := range groups {
		for _, w := range g {
			if len(batch) > 0 && (len(batch) >= x.most || size+len(w)+1 > x.chars) {
				run()
			}
			batch, size = append(batch, w), size+len(w)+1
		}
		if taken++; taken == x.lines {
			run()
		}
	}
	if len(batch) > 0 || !ran && !x.On("r") {
		run()
	}
}

// start runs a command, after another one ended where -P asks for that.
func (x *xargsRun) start(argv []string) {
	if x.rc == 124 || x.rc > 125 {
		return
	}
	if x.On("t") {
		fmt.Fprintln(x.Err, strings.Join(argv, " "))
	}
	if x.On("p") && !tools.Confirm(x.Env, "%s ?...", strings.Join(argv, " ")) {
		return
	}
	if x.left == cap(x.slot) {
		x.take()
	}
	c := exec.Command(argv[0], argv[1:]...)
	c.Stdout, c.Stderr = os.Stdout, x.Err
	x.left++
	go func() {
		err := c.Run()
		var bad *exec.ExitError
		switch {
		case err == nil:
			x.done <- 0
		case !errors.As(err, &bad):
			rc := 126
			if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
				rc = 127
				err = unix.ENOENT
			}
			fmt.Fprintf(x.Err, "xargs: %s: %s\n", argv[0], tools.Cause(err))
			x.done <- rc
		case bad.ExitCode() == 255:
			fmt.Fprintf(x.Err, "xargs: %s: exited with status 255; aborting\n", argv[0])
			x.done <- 124
		case bad.ExitCode() < 0:
			x.done <- 125
		default:
			x.done <- 123
		}
	}()
	if cap(x.slot) == 1 {
		x.take()
	}
}

func (x *xargsRun) take() {
	x.rc = max(x.rc, <-x.done)
	x.left--
}

// words reads the words of each line: blanks divide, quotes and backslashes keep together.
// With -0 or -d each piece is a word, with -I each line.
func words(e *tools.Env, in io.Reader) ([][]string, error) {
	sep, whole := byte('\n'), e.On("I", "i")
	if o, ok := e.Last("0", "d"); ok {
		whole = true
		if sep = 0; o.Name == "d" {
			sep, _ = delimiter(o.Value)
		}
	}
	var out [][]string
	var open []string
	for l, err := range tools.Lines(in, sep) {
		if err != nil {
			return nil, err
		}
		s := string(tools.Chomp(l, sep))
		if whole {
			if sep != '\n' || strings.TrimSpace(s) != "" || e.On("d") {
				out = append(out, []string{s})
			}
			continue
		}
		w, err := split(s)
		if err != nil {
			return nil, err
		}
		if open = append(open, w...); len(open) > 0 && !strings.HasSuffix(s, " ") {
			out = append(out, open)
			open = nil
		}
	}
	if len(open) > 0 {
		out = append(out, open)
	}
	return out, nil
}

func delimiter(s string) (byte, bool) {
	s = unescapeFormat(s)
	if s == "" {
		return 0, false
	}
	return s[0], true
}

func split(s string) ([]string, error) {
	var out []string
	var b strings.Builder
	open, quote := false, byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			b.WriteByte(c)
		case c == '\'' || c == '"':
			quote, open = c, true
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
			open = true
		case c == ' ' || c == '\t':
			if open {
				out = append(out, b.String())
			}
			b.Reset()
			open = false
		default:
			b.WriteByte(c)
			open = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("unmatched %s quote; by default quotes are special to xargs unless you use the -0 option", map[byte]string{'"': "double", '\'': "single"}[quote])
	}
	if open {
		out = append(out, b.String())
	}
	return out, nil
}
