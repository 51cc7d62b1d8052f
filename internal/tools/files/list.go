package files

import (
	"cmp"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

const lsOpts = "a/all A/almost-all l 1 C x m h/human-readable t S r/reverse R/recursive F/classify? p i/inode d/directory n/numeric-uid-gid s/size k/kibibytes L/dereference H/dereference-command-line u c U X v g o G/no-group Q/quote-name N/literal b/escape q/hide-control-chars B/ignore-backups f color? full-time time-style: sort: time: group-directories-first si w/width: I/ignore: hide: Z/context block-size: file-type zero"

func listCommands() []tools.Command {
	return []tools.Command{
		{Name: "ls", Opts: lsOpts, Synopsis: "[FILE]...", Bad: 2, Run: ls},
		{Name: "dir", Opts: lsOpts, Synopsis: "[FILE]...", Bad: 2, Run: ls},
		{Name: "du", Opts: "a/all s/summarize h/human-readable c/total k m b/bytes apparent-size d/max-depth: x/one-file-system S/separate-dirs L/dereference D l/count-links exclude: t/threshold: si 0/null B/block-size: inodes time? time-style:", Synopsis: "[FILE]...", Run: du},
		{Name: "df", Opts: "a/all h/human-readable H/si i/inodes T/print-type t/type: x/exclude-type: k m P/portability B/block-size: l/local total output? sync no-sync", Synopsis: "[FILE]...", Run: df},
	}
}

func mounts() ([]sysconf.Mount, error) { return sysconf.Mounts("") }

// lsEntry is a file that ls shows.
type lsEntry struct {
	name, path string
	st         syscall.Stat_t
	link       string
	targetMode uint32
	unknown    bool // a link to nothing that was to be followed
}

type lister struct {
	*tools.Env
	long, columns bool
	width         int
	color, quote  bool
	painted       bool // the first color was printed
	now           time.Time
}

// operands looks at what was named; the content of dirs is to be listed.
func (l *lister) operands(args []string) (files, dirs []lsEntry) {
	for _, a := range args {
		x, ok := l.entry(a, a, l.On("H") || !l.long && !l.On("d", "F") || strings.HasSuffix(a, "/"))
		switch {
		case !ok:
		case x.st.Mode&unix.S_IFMT == unix.S_IFDIR && !l.On("d"):
			dirs = append(dirs, x)
		default:
			files = append(files, x)
		}
	}
	return files, dirs
}

func ls(e *tools.Env) error {
	l := &lister{Env: e, now: time.Now(), width: 80}
	if err := l.options(); err != nil {
		return err
	}
	args := e.Args
	if len(args) == 0 {
		args = []string{"."}
	}
	files, dirs := l.operands(args)
	l.order(files)
	l.order(dirs)
	if len(files) > 0 {
		l.show(files)
	}
	for i, d := range dirs {
		if len(args) > 1 || e.On("R") {
			if i > 0 || len(files) > 0 {
				e.Out.WriteByte('\n')
			}
			e.Printf("%s:\n", l.label(d.path))
		}
		l.dir(d.path)
	}
	return nil
}

// options finds the kind of the list, which is another one on a terminal.
func (l *lister) options() (err error) {
	tty := term.IsTerminal(1)
	if w, _, err := term.GetSize(1); tty && err == nil && w > 0 {
		l.width = w
	}
	l.width, err = l.Int("w", l.width)
	o, given := l.Last("l", "1", "C", "x", "m", "n", "g", "o", "full-time")
	grid := o.Name == "C" || o.Name == "x"
	l.long = l.On("l", "n", "g", "o", "full-time") && !grid && o.Name != "m"
	l.columns = grid || !given && (tty || l.Name == "dir")
	when, given := l.Last("color")
	l.color = given && (when.Value == "" || when.Value == "always") || when.Value == "auto" && tty
	l.quote = tty && !l.On("N")
	return err
}

func (l *lister) entry(p, name string, follow bool) (lsEntry, bool) {
	x := lsEntry{name: name, path: p}
	stat := syscall.Lstat
	if l.On("L") || follow {
		stat = syscall.Stat
	}
	err := stat(p, &x.st)
	if err != nil && follow && !l.On("L") {
		err = syscall.Lstat(p, &x.st)
	}
	if err != nil {
		if p == name {
			l.Fault(2, "cannot access '%s': %s", p, tools.Cause(err))
			return x, false
		}
		if l.long || l.color || l.On("i", "s", "F", "p", "t", "S", "file-type") {
			l.Fault(1, "cannot access '%s': %s", p, tools.Cause(err))
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return x, false
		}
		x.unknown, x.st.Mode = true, st.Mode&unix.S_IFMT
		return x, true
	}
	if x.st.Mode&unix.S_IFMT == unix.S_IFLNK {
		x.link, _ = os.Readlink(p) // shown as empty
		var t syscall.Stat_t
		if syscall.Stat(p, &t) == nil {
			x.targetMode = t.Mode
		}
	}
	return x, true
}

func (l *lister) hidden(n string) bool {
	if n[0] == '.' && !l.On("a", "A", "f") || (n == "." || n == "..") && l.On("A") && !l.On("a") {
		return true
	}
	match := func(patterns []string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, n); return ok })
	}
	return l.On("B") && strings.HasSuffix(n, "~") || match(l.Vals("I")) || match(l.Vals("hide")) && !l.On("a", "A")
}

func (l *lister) dir(p string) {
	es, err := os.ReadDir(p)
	if err != nil {
		l.Fault(2, "cannot open directory '%s': %s", p, tools.Cause(err))
		return
	}
	names := []string{}
	if l.On("a", "f") {
		names = append(names, ".", "..")
	}
	for _, x := range es {
		names = append(names, x.Name())
	}
	var list []lsEntry
	blocks := int64(0)
	for _, n := range names {
		if l.hidden(n) {
			continue
		}
		if x, ok := l.entry(strings.TrimSuffix(p, "/")+"/"+n, n, false); ok {
			list = append(list, x)
			blocks += x.st.Blocks
		}
	}
	l.order(list)
	if l.long || l.On("s") {
		l.Printf("total %s\n", l.blocks(blocks))
	}
	l.show(list)
	if !l.On("R") {
		return
	}
	for _, x := range list {
		if x.st.Mode&unix.S_IFMT == unix.S_IFDIR && x.name != "." && x.name != ".." {
			l.Printf("\n%s:\n", l.label(x.path))
			l.dir(x.path)
		}
	}
}

func (l *lister) label(p string) string {
	if l.quote || l.On("Q") {
		return tools.ShellQuote(p)
	}
	return p
}

func (l *lister) time(x lsEntry) int64 {
	o, _ := l.Last("u", "c", "time")
	switch {
	case o.Name == "u" || strings.HasPrefix(o.Value, "a") || o.Value == "use":
		return x.st.Atim.Nano()
	case o.Name == "c" || strings.HasPrefix(o.Value, "c") || o.Value == "status":
		return x.st.Ctim.Nano()
	}
	return x.st.Mtim.Nano()
}

// context is SELinux' label of a file; "?" without one.
func (x lsEntry) context() string {
	v, err := tools.Xattr(x.path, "security.selinux", true)
	if err != nil {
		return "?"
	}
	return strings.TrimRight(string(v), "\x00")
}

// isDir reports whether an entry is a directory or a link to one.
func (x lsEntry) isDir() bool {
	return x.st.Mode&unix.S_IFMT == unix.S_IFDIR || x.targetMode&unix.S_IFMT == unix.S_IFDIR
}

func (l *lister) order(list []lsEntry) {
	o, _ := l.Last("t", "S", "U", "X", "v", "sort", "f")
	key := o.Name
	if key == "sort" {
		key = map[string]string{"time": "t", "size": "S", "none": "U", "extension": "X", "version": "v"}[o.Value]
	}
	if key == "" && l.On("u", "c") && !l.long {
		key = "t"
	}
	if key == "U" || key == "f" {
		return
	}
	slices.SortStableFunc(list, func(a, b lsEntry) int {
		if l.On("group-directories-first") && a.isDir() != b.isDir() {
			return map[bool]int{true: -1, false: 1}[a.isDir()]
		}
		r := 0
		switch key {
		case "t":
			r = cmp.Compare(l.time(b), l.time(a))
		case "S":
			r = cmp.Compare(b.st.Size, a.st.Size)
		case "X":
			r = cmp.Compare(path.Ext(a.name), path.Ext(b.name))
		case "v":
			r = tools.Version(a.name, b.name)
		}
		if r = cmp.Or(r, cmp.Compare(a.name, b.name)); l.On("r") {
			return -r
		}
		return r
	})
}

func (l *lister) blocks(n int64) string {
	if s, ok := l.human(n * 512); ok {
		return s
	}
	return strconv.FormatInt((n+1)/2, 10)
}

// human is a number of bytes by -h, --si or --block-size, if one of them was given.
func (l *lister) human(n int64) (string, bool) {
	o, _ := l.Last("h", "si", "block-size")
	switch o.Name {
	case "h":
		return tools.Human(uint64(n), 1024), true
	case "si":
		return tools.Human(uint64(n), 1000), true
	case "block-size":
		u, _ := blockSize(l.Env)
		s := strconv.FormatInt((n+u-1)/u, 10)
		if len(o.Value) == 1 && u > 1 {
			s += o.Value
		}
		return s, true
	}
	return "", false
}

// blockSize is the unit of --block-size, bytes.
func blockSize(e *tools.Env) (int64, bool) {
	for _, n := range []string{"block-size", "B"} {
		if v := e.Val(n); v != "" {
			if u, ok := tools.Unit(v); ok {
				return u, true
			}
			if u, err := tools.Size(v); err == nil && u > 0 {
				return u, true
			}
		}
	}
	return 1024, false
}
