package files

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

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
		{Name: "du", Opts: "a/all s/summarize h/human-readable c/total k m b/bytes apparent-size d/max-depth: x/one-file-system S/separate-dirs L/dereference D l/count-links exclude: t/threshold: si 0/null B/block-size: inodes time?", Synopsis: "[FILE]...", Run: du},
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
}

type lister struct {
	*tools.Env
	long, columns bool
	width         int
	color, quote  bool
	painted       bool // the first color was printed
	now           time.Time
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
	var files, dirs []lsEntry
	for _, a := range args {
		x, ok := l.entry(a, a, e.On("H") || !l.long && !e.On("d", "F") || strings.HasSuffix(a, "/"))
		switch {
		case !ok:
		case x.st.Mode&unix.S_IFMT == unix.S_IFDIR && !e.On("d"):
			dirs = append(dirs, x)
		default:
			files = append(files, x)
		}
	}
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
		rc := 1
		if p == name {
			rc = 2
		}
		l.Fault(rc, "cannot access '%s': %s", p, tools.Cause(err))
		return x, false
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
		if l.On("group-directories-first") {
			dir := func(x lsEntry) int {
				if x.st.Mode&unix.S_IFMT == unix.S_IFDIR || x.targetMode&unix.S_IFMT == unix.S_IFDIR {
					return 0
				}
				return 1
			}
			if r := cmp.Compare(dir(a), dir(b)); r != 0 {
				return r
			}
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

// suffix is what -F and -p append.
func (l *lister) suffix(mode uint32) string {
	full := l.On("F")
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if full || l.On("p", "file-type") {
			return "/"
		}
	case unix.S_IFLNK:
		if full || l.On("file-type") {
			return "@"
		}
	case unix.S_IFIFO:
		if full || l.On("file-type") {
			return "|"
		}
	case unix.S_IFSOCK:
		if full || l.On("file-type") {
			return "="
		}
	case unix.S_IFREG:
		if full && mode&0o111 != 0 {
			return "*"
		}
	}
	return ""
}

// name is an entry's name as it is shown, and its width.
func (l *lister) shown(x lsEntry) (string, int) {
	n := x.name
	switch {
	case l.On("Q"):
		n = strconv.Quote(n)
	case l.On("b") || l.Name == "dir":
		n = strings.ReplaceAll(strings.Trim(strconv.Quote(n), `"`), " ", `\ `)
	case l.quote:
		n = tools.ShellQuote(n)
	case l.On("q"):
		n = strings.Map(func(r rune) rune {
			if r < 32 || r == 127 {
				return '?'
			}
			return r
		}, n)
	}
	w := utf8.RuneCountInString(n)
	n = l.paint(n, x.st.Mode)
	s := ""
	if !l.long || x.link == "" {
		s = l.suffix(x.st.Mode)
	}
	return n + s, w + len(s)
}

// colors are those that GNU's ls has without LS_COLORS.
var colors = map[uint32]string{unix.S_IFDIR: "01;34", unix.S_IFLNK: "01;36", unix.S_IFIFO: "33", unix.S_IFSOCK: "01;35", unix.S_IFBLK: "01;33", unix.S_IFCHR: "01;33"}

func (l *lister) paint(n string, mode uint32) string {
	if !l.color {
		return n
	}
	code := colors[mode&unix.S_IFMT]
	switch kind := mode & unix.S_IFMT; {
	case kind == unix.S_IFDIR && mode&unix.S_ISVTX != 0 && mode&0o002 != 0:
		code = "30;42"
	case kind == unix.S_IFDIR && mode&0o002 != 0:
		code = "34;42"
	case kind == unix.S_IFREG && mode&unix.S_ISUID != 0:
		code = "37;41"
	case kind == unix.S_IFREG && mode&unix.S_ISGID != 0:
		code = "30;43"
	case kind == unix.S_IFREG && mode&0o111 != 0:
		code = "01;32"
	}
	if code == "" {
		return n
	}
	begin := ""
	if !l.painted {
		begin, l.painted = "\x1b[0m", true
	}
	return begin + "\x1b[" + code + "m" + n + "\x1b[0m"
}

func (l *lister) show(list []lsEntry) {
	if l.long {
		l.table(list)
		return
	}
	inodes, blocks := 0, 0
	for _, x := range list {
		inodes, blocks = max(inodes, len(strconv.FormatUint(x.st.Ino, 10))), max(blocks, len(l.blocks(x.st.Blocks)))
	}
	var names []string
	var widths []int
	for _, x := range list {
		n, w := l.shown(x)
		pre := ""
		if l.On("i") {
			pre += fmt.Sprintf("%*d ", inodes, x.st.Ino)
		}
		if l.On("s") {
			pre += fmt.Sprintf("%*s ", blocks, l.blocks(x.st.Blocks))
		}
		names, widths = append(names, pre+n), append(widths, len(pre)+w)
	}
	end := "\n"
	if l.On("zero") {
		end = "\x00"
	}
	if o, _ := l.Last("l", "1", "C", "x", "m"); o.Name == "m" {
		l.commas(names, widths)
		return
	} else if !l.columns {
		for _, n := range names {
			l.Out.WriteString(n + end)
		}
		return
	}
	l.grid(names, widths, l.On("x"))
}

func (l *lister) commas(names []string, widths []int) {
	col := 0
	for i, n := range names {
		w := widths[i]
		if i < len(names)-1 {
			n, w = n+",", w+1
		}
		switch {
		case col > 0 && col+1+w >= l.width:
			l.Out.WriteByte('\n')
			col = 0
		case col > 0:
			l.Out.WriteByte(' ')
			col++
		}
		l.Out.WriteString(n)
		col += w
	}
	if len(names) > 0 {
		l.Out.WriteByte('\n')
	}
}

// grid prints names in as many columns as fit, top down or, with across, in rows.
func (l *lister) grid(names []string, widths []int, across bool) {
	n := len(names)
	if n == 0 {
		return
	}
	at := func(row, col, rows, cols int) int {
		if across {
			return row*cols + col
		}
		return col*rows + row
	}
	cols, rows := min(n, max(1, l.width/3)), 1
	var ws []int
	for ; ; cols-- {
		rows = (n + cols - 1) / cols
		ws = make([]int, cols)
		sum := 0
		for c := range cols {
			for r := range rows {
				if i := at(r, c, rows, cols); i < n {
					w := widths[i]
					if c < cols-1 {
						w += 2
					}
					ws[c] = max(ws[c], w)
				}
			}
			sum += ws[c]
		}
		if sum < l.width && ((cols-1)*rows < n || across) || cols == 1 {
			break
		}
	}
	for r := range rows {
		col := 0
		for c := range cols {
			i := at(r, c, rows, cols)
			if i >= n {
				break
			}
			l.Out.WriteString(names[i])
			if next := at(r, c+1, rows, cols); c < cols-1 && next < n {
				l.indent(col+widths[i], col+ws[c])
			}
			col += ws[c]
		}
		l.Out.WriteByte('\n')
	}
}

// indent fills up with tabs where they fit, as GNU's ls.
func (l *lister) indent(from, to int) {
	for from < to {
		if to/8 > (from+1)/8 {
			l.Out.WriteByte('\t')
			from += 8 - from%8
		} else {
			l.Out.WriteByte(' ')
			from++
		}
	}
}

func (l *lister) table(list []lsEntry) {
	var rows [][]string
	var widths []int
	right := []bool{true, true, false, true, false, false, true}
	minor := 0
	for _, x := range list {
		minor = max(minor, len(strconv.Itoa(int(unix.Minor(x.st.Rdev)))))
	}
	for _, x := range list {
		mode := modeString(x.st.Mode)
		owner, group := userName(x.st.Uid), groupName(x.st.Gid)
		if l.On("n") {
			owner, group = strconv.Itoa(int(x.st.Uid)), strconv.Itoa(int(x.st.Gid))
		}
		size := strconv.FormatInt(x.st.Size, 10)
		switch {
		case x.st.Mode&unix.S_IFMT == unix.S_IFBLK || x.st.Mode&unix.S_IFMT == unix.S_IFCHR:
			size = fmt.Sprintf("%d, %*d", unix.Major(x.st.Rdev), minor, unix.Minor(x.st.Rdev))
		default:
			if s, ok := l.human(x.st.Size); ok {
				size = s
			}
		}
		if l.On("g") {
			owner = ""
		}
		if l.On("o", "G") {
			group = ""
		}
		row := []string{"", "", mode, strconv.Itoa(int(x.st.Nlink)), owner, group, size}
		if l.On("i") {
			row[0] = strconv.FormatUint(x.st.Ino, 10)
		}
		if l.On("s") {
			row[1] = l.blocks(x.st.Blocks)
		}
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len(c))
		}
		n, _ := l.shown(x)
		if x.link != "" {
			n += " -> " + x.link + l.suffix(x.targetMode)
		}
		rows = append(rows, append(row, l.stamp(l.time(x)), n))
	}
	for _, r := range rows {
		for i, c := range r[:len(r)-2] {
			switch {
			case widths[i] == 0:
			case right[i]:
				l.Printf("%*s ", widths[i], c)
			default:
				l.Printf("%-*s ", widths[i], c)
			}
		}
		l.Printf("%s %s\n", r[len(r)-2], r[len(r)-1])
	}
}

// stamp is a time of a file: with the clock if it is less than half a year old.
func (l *lister) stamp(nano int64) string {
	t := time.Unix(0, nano)
	style := l.Val("time-style")
	if l.On("full-time") {
		style = "full-iso"
	}
	recent := t.After(l.now.Add(-31556952*time.Second/2)) && !t.After(l.now)
	switch {
	case strings.HasPrefix(style, "+"):
		return tools.Strftime(style[1:], t)
	case style == "full-iso":
		return t.Format(longTime)
	case style == "long-iso":
		return t.Format("2006-01-02 15:04")
	case style == "iso" && recent:
		return t.Format("01-02 15:04")
	case style == "iso":
		return t.Format("2006-01-02 ")
	case recent:
		return t.Format("Jan _2 15:04")
	}
	return t.Format("Jan _2  2006")
}

// usage counts the space below directories.
type duRun struct {
	*tools.Env
	seen  map[[2]uint64]bool
	depth int
	dev   uint64
	least int64
}

func du(e *tools.Env) error {
	d := &duRun{Env: e, seen: map[[2]uint64]bool{}}
	var err error
	if d.depth, err = e.Int("d", -1); err != nil {
		return tools.Usage("invalid maximum depth '%s'", e.Val("d"))
	}
	if e.On("s") {
		d.depth = 0
	}
	if e.On("t") {
		if d.least, err = tools.Size(e.Val("t")); err != nil {
			return err
		}
	}
	args := e.Args
	if len(args) == 0 {
		args = []string{"."}
	}
	total := int64(0)
	for _, a := range args {
		var st syscall.Stat_t
		stat := syscall.Lstat
		if e.On("L", "D") {
			stat = syscall.Stat
		}
		if err := stat(a, &st); err != nil {
			e.Warn("cannot access '%s': %s", a, tools.Cause(err))
			continue
		}
		d.dev = st.Dev
		n, ok := d.count(a, st, 0)
		if total += n; ok && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			d.line(n, a)
		}
	}
	if e.On("c") {
		d.line(total, "total")
	}
	return nil
}

func (d *duRun) line(n int64, p string) {
	if n < d.least {
		return
	}
	size := ""
	u, given := blockSize(d.Env)
	o, _ := d.Last("h", "k", "m", "b", "si", "B", "inodes")
	switch {
	case d.On("inodes"):
		size = strconv.FormatInt(n, 10)
	case o.Name == "h":
		size = tools.Human(uint64(n), 1024)
	case o.Name == "si":
		size = tools.Human(uint64(n), 1000)
	case o.Name == "b":
		size = strconv.FormatInt(n, 10)
	case o.Name == "m":
		size = strconv.FormatInt((n+1<<20-1)>>20, 10)
	default:
		if size = strconv.FormatInt((n+u-1)/u, 10); given && len(d.Val("B")) == 1 && u > 1 {
			size += d.Val("B")
		}
	}
	end := "\n"
	if d.On("0") {
		end = "\x00"
	}
	d.Printf("%s\t%s%s", size, p, end)
}

// count adds up p; ok is false for what was counted before or is left out.
func (d *duRun) count(p string, st syscall.Stat_t, depth int) (n int64, ok bool) {
	for _, x := range d.Vals("exclude") {
		if m, _ := path.Match(x, filepath.Base(p)); m {
			return 0, false
		}
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	id := [2]uint64{st.Dev, st.Ino}
	if isDir || st.Nlink > 1 && !d.On("l") {
		if d.seen[id] {
			return 0, false
		}
		d.seen[id] = true
	}
	n = st.Blocks * 512
	switch {
	case d.On("inodes"):
		n = 1
	case d.On("b", "apparent-size"):
		n = st.Size
	}
	shown := n
	if isDir {
		below, own := d.below(p, depth)
		if shown += below; d.On("S") {
			shown = n + own
		}
		n += below
	}
	if (d.depth < 0 || depth <= d.depth) && (isDir || d.On("a") && depth > 0) {
		d.line(shown, p)
	}
	return n, true
}

// below adds up what is in a directory: everything, and without its subdirectories.
func (d *duRun) below(p string, depth int) (all, own int64) {
	es, err := os.ReadDir(p)
	if err != nil {
		d.Warn("cannot read directory '%s': %s", p, tools.Cause(err))
	}
	stat := syscall.Lstat
	if d.On("L") {
		stat = syscall.Stat
	}
	for _, x := range es {
		q := strings.TrimSuffix(p, "/") + "/" + x.Name()
		var s syscall.Stat_t
		if err := stat(q, &s); err != nil {
			d.Warn("cannot access '%s': %s", q, tools.Cause(err))
			continue
		}
		if d.On("x") && s.Dev != d.dev {
			continue
		}
		k, _ := d.count(q, s, depth+1)
		if all += k; s.Mode&unix.S_IFMT != unix.S_IFDIR {
			own += k
		}
	}
	return all, own
}

// dfRow is a file system.
type dfRow struct {
	source, kind, path string
	st                 unix.Statfs_t
}

func df(e *tools.Env) error {
	ms, err := mounts()
	if err != nil {
		return err
	}
	var rows []dfRow
	if len(e.Args) > 0 {
		for _, a := range e.Args {
			real, err := canonical(a, "e")
			if err != nil {
				e.Warn("%s: %s", a, tools.Cause(err))
				continue
			}
			m, ok := mountOf(real)
			if st, err := os.Stat(real); err == nil && st.Mode()&fs.ModeDevice != 0 { // what is mounted from it
				for _, x := range ms {
					if x.Source == real {
						m, ok = x, true
						break
					}
				}
			}
			r := dfRow{m.Source, m.Type, m.Path, unix.Statfs_t{}}
			if err := unix.Statfs(r.path, &r.st); err != nil || !ok {
				e.Warn("%s: %s", a, tools.Cause(err))
				continue
			}
			rows = append(rows, r)
		}
		if e.Failed() && len(rows) == 0 {
			return nil
		}
	} else {
		rows = dfAll(e, ms)
	}
	rows = slices.DeleteFunc(rows, func(r dfRow) bool {
		return e.On("t") && !slices.Contains(e.Vals("t"), r.kind) || slices.Contains(e.Vals("x"), r.kind)
	})
	if len(rows) == 0 {
		return fmt.Errorf("no file systems processed")
	}
	dfPrint(e, rows)
	return nil
}

// dfAll are the mounts with a size, the last one of each device.
func dfAll(e *tools.Env, ms []sysconf.Mount) []dfRow {
	var rows []dfRow
	at := map[[2]int32]int{}
	for _, m := range ms {
		r := dfRow{m.Source, m.Type, m.Path, unix.Statfs_t{}}
		if top, ok := mountOf(m.Path); ok && (top.Source != m.Source || top.Type != m.Type) {
			continue // another one is mounted over it
		}
		if err := unix.Statfs(m.Path, &r.st); err != nil || !e.On("a") && r.st.Blocks == 0 {
			continue
		}
		if e.On("l") && slices.Contains([]string{"nfs", "nfs4", "cifs", "smb3"}, m.Type) {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(m.Path, &st); err != nil {
			continue
		}
		id := [2]int32{int32(st.Dev >> 32), int32(st.Dev)}
		if i, ok := at[id]; ok && !e.On("a") {
			// The shorter path, and a device's name before another one.
			if len(m.Path) < len(rows[i].path) || strings.HasPrefix(m.Source, "/") && !strings.HasPrefix(rows[i].source, "/") {
				rows[i] = r
			}
			continue
		}
		at[id] = len(rows)
		rows = append(rows, r)
	}
	return rows
}

// dfUnit is how df prints a number of bytes, and the heading of that column.
func dfUnit(e *tools.Env) (show func(n uint64) string, head string) {
	unit, given := blockSize(e)
	o, _ := e.Last("h", "H", "k", "m", "B", "P")
	suffix := ""
	switch o.Name {
	case "h":
		return func(n uint64) string { return tools.Human(n, 1024) }, "Size"
	case "H":
		return func(n uint64) string { return tools.Human(n, 1000) }, "Size"
	case "m":
		unit, head = 1<<20, "1M-blocks"
	case "P":
		head = "1024-blocks"
	default:
		head = "1K-blocks"
	}
	if given {
		name := e.Or("B", e.Val("block-size"))
		if len(name) == 1 && unit > 1 {
			suffix = name
		}
		if !tools.IsDigit(name[0]) {
			name = "1" + name
		}
		if head = name + "-blocks"; unit == 1 {
			head = "1B-blocks"
		}
	}
	u := uint64(unit)
	return func(n uint64) string { return strconv.FormatUint((n+u-1)/u, 10) + suffix }, head
}

func dfPrint(e *tools.Env, rows []dfRow) {
	show, unit := dfUnit(e)
	head := []string{"Filesystem", "Type", unit, "Used", "Available", "Use%", "Mounted on"}
	switch {
	case e.On("i"):
		head = []string{"Filesystem", "Type", "Inodes", "IUsed", "IFree", "IUse%", "Mounted on"}
		if !e.On("h") {
			show = func(n uint64) string { return strconv.FormatUint(n, 10) }
		}
	case unit == "Size":
		head[4] = "Avail"
	case unit == "1024-blocks":
		head[5] = "Capacity"
	}
	table := [][]string{head}
	line := func(source, kind, path string, n [3]uint64) {
		table = append(table, []string{source, kind, show(n[0]), show(n[1]), show(n[2]), percent(n[1], n[2]), path})
	}
	var sum [3]uint64
	for _, r := range rows {
		f := uint64(r.st.Frsize)
		n := [3]uint64{r.st.Blocks * f, (r.st.Blocks - r.st.Bfree) * f, r.st.Bavail * f}
		if e.On("i") {
			n = [3]uint64{r.st.Files, r.st.Files - r.st.Ffree, r.st.Ffree}
		}
		for i := range sum {
			sum[i] += n[i]
		}
		line(r.source, r.kind, r.path, n)
	}
	if e.On("total") {
		line("total", "-", "-", sum)
	}
	widths := []int{14, 4, 5, 5, 5, 4, 0}
	if !e.On("T") {
		widths = slices.Delete(widths, 1, 2)
	}
	for i, r := range table {
		if !e.On("T") {
			table[i] = slices.Delete(r, 1, 2)
		}
		for j, c := range table[i] {
			widths[j] = max(widths[j], len(c))
		}
	}
	for _, r := range table {
		for j, c := range r {
			switch {
			case j == len(r)-1:
				e.Printf("%s\n", c)
			case j == 0 || j == 1 && e.On("T"):
				e.Printf("%-*s ", widths[j], c)
			default:
				e.Printf("%*s ", widths[j], c)
			}
		}
	}
}

func percent(used, free uint64) string {
	if used+free == 0 {
		return "-"
	}
	return strconv.FormatUint((used*100+used+free-1)/(used+free), 10) + "%"
}
