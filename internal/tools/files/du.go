package files

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// usage counts the space below directories.
type duRun struct {
	*tools.Env
	seen  map[[2]uint64]bool
	depth int
	dev   uint64
	least int64
	style string // of --time
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
	if err := d.times(); err != nil {
		return err
	}
	args := e.Args
	if len(args) == 0 {
		args = []string{"."}
	}
	var total duSum
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
		if total.add(n); ok && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			d.line(n, a)
		}
	}
	if e.On("c") {
		d.line(total, "total")
	}
	return nil
}

func (d *duRun) line(sum duSum, p string) {
	n := sum.n
	if n < d.least {
		return
	}
	size := ""
	u, given := blockSize(d.Env)
	o, _ := d.Last("h", "k", "m", "b", "si", "B", "inodes")
	switch {
	case d.On("inodes"), o.Name == "b":
		size = strconv.FormatInt(n, 10)
	case o.Name == "h":
		size = tools.Human(uint64(n), 1024)
	case o.Name == "si":
		size = tools.Human(uint64(n), 1000)
	case o.Name == "m":
		size = strconv.FormatInt((n+1<<20-1)>>20, 10)
	default:
		if size = strconv.FormatInt((n+u-1)/u, 10); given && len(d.Val("B")) == 1 && u > 1 {
			size += d.Val("B")
		}
	}
	if d.On("time") {
		size += "\t" + tools.Strftime(d.style, time.Unix(0, sum.newest))
	}
	d.Printf("%s\t%s%c", size, p, d.End("0"))
}

// duSum is the space of files, and the newest of their times.
type duSum struct{ n, newest int64 }

func (s *duSum) add(o duSum) { s.n, s.newest = s.n+o.n, max(s.newest, o.newest) }

// times checks --time and --time-style.
func (d *duRun) times() error {
	if v := d.Val("time"); v != "" && timeKinds[v] == 0 {
		return tools.Usage("invalid argument '%s' for '--time'", v)
	}
	switch v := d.Or("time-style", "long-iso"); {
	case strings.HasPrefix(v, "+"):
		d.style = v[1:]
	default:
		var ok bool
		if d.style, ok = map[string]string{"long-iso": "%Y-%m-%d %H:%M", "full-iso": "%Y-%m-%d %H:%M:%S.%N %z", "iso": "%Y-%m-%d"}[v]; !ok {
			return tools.Usage("invalid argument '%s' for 'time style'", v)
		}
	}
	return nil
}

// timeKinds are the values of --time.
var timeKinds = map[string]byte{"atime": 'a', "access": 'a', "use": 'a', "ctime": 'c', "status": 'c'}

// count adds up p; ok is false for what was counted before or is left out.
func (d *duRun) count(p string, st syscall.Stat_t, depth int) (n duSum, ok bool) {
	excluded := func(x string) bool { m, _ := path.Match(x, filepath.Base(p)); return m }
	if slices.ContainsFunc(d.Vals("exclude"), excluded) {
		return n, false
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	id := [2]uint64{st.Dev, st.Ino}
	if isDir || st.Nlink > 1 && !d.On("l") {
		if d.seen[id] {
			return n, false
		}
		d.seen[id] = true
	}
	n = duSum{st.Blocks * 512, timeOf(&st, timeKinds[d.Val("time")])}
	switch {
	case d.On("inodes"):
		n.n = 1
	case d.On("b", "apparent-size"):
		n.n = st.Size
	}
	shown := n
	if isDir {
		below, own := d.below(p, depth)
		n.add(below)
		if d.On("S") {
			shown.add(own)
		} else {
			shown = n
		}
	}
	if (d.depth < 0 || depth <= d.depth) && (isDir || d.On("a") && depth > 0) {
		d.line(shown, p)
	}
	return n, true
}

// below adds up what is in a directory: everything, and without its subdirectories.
func (d *duRun) below(p string, depth int) (all, own duSum) {
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
		if all.add(k); s.Mode&unix.S_IFMT != unix.S_IFDIR {
			own.add(k)
		}
	}
	return all, own
}
