package files

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

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
	d.Printf("%s\t%s%c", size, p, d.End("0"))
}

// count adds up p; ok is false for what was counted before or is left out.
func (d *duRun) count(p string, st syscall.Stat_t, depth int) (n int64, ok bool) {
	excluded := func(x string) bool { m, _ := path.Match(x, filepath.Base(p)); return m }
	if slices.ContainsFunc(d.Vals("exclude"), excluded) {
		return 0, false
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
