package disks

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// findmntRun is one run of findmnt.
type findmntRun struct {
	*tools.Env
	all  []sysconf.Mount
	cols []string
	rows [][]string
}

func findmnt(e *tools.Env) error {
	f := &findmntRun{Env: e, cols: []string{"TARGET", "SOURCE", "FSTYPE", "OPTIONS"}}
	if o := e.Val("o"); o != "" {
		f.cols = strings.Split(strings.ToUpper(o), ",")
	}
	if e.On("D") {
		f.cols = []string{"SOURCE", "FSTYPE", "SIZE", "USED", "AVAIL", "USE%", "TARGET"}
	}
	for _, c := range f.cols {
		if _, ok := f.cell(sysconf.Mount{}, c); !ok {
			return fmt.Errorf("unknown column: %s", c)
		}
	}
	var err error
	if f.all, err = sysconf.Mounts(""); err != nil {
		return err
	}
	list, tree := f.selected()
	if len(list) == 0 {
		return tools.Status(1)
	}
	if tree && !e.On("l", "r", "P", "D") {
		f.tree(list)
	} else {
		for _, m := range list {
			f.add(m, "")
		}
	}
	if e.On("P") {
		for _, r := range f.rows {
			for i, c := range r {
				r[i] = f.cols[i] + "=" + strconv.Quote(c)
			}
			e.Printf("%s\n", strings.Join(r, " "))
		}
		return nil
	}
	table(e, f.cols, f.rows, map[string]bool{"SIZE": true, "USED": true, "AVAIL": true, "USE%": true, "MAJ:MIN": true, "ID": true}, e.On("n"), e.On("r"))
	return nil
}

// selected gives the mounts that the options ask for, and whether they are all of them.
func (f *findmntRun) selected() (list []sysconf.Mount, tree bool) {
	keep := func(ok func(m sysconf.Mount) bool) {
		list = slices.DeleteFunc(slices.Clone(list), func(m sysconf.Mount) bool { return !ok(m) })
	}
	list, tree = f.all, true
	if t := f.Val("t"); t != "" {
		not := strings.HasPrefix(t, "no")
		types := strings.Split(strings.TrimPrefix(t, "no"), ",")
		keep(func(m sysconf.Mount) bool { return slices.Contains(types, m.Type) != not })
		tree = false
	}
	if o := f.Val("O"); o != "" {
		keep(func(m sysconf.Mount) bool {
			have := strings.Split(options(m), ",")
			return !slices.ContainsFunc(strings.Split(o, ","), func(w string) bool { return !slices.Contains(have, w) })
		})
		tree = false
	}
	if t := f.Val("T"); t != "" {
		real, err := filepath.EvalSymlinks(t)
		if err != nil {
			real = t
		}
		abs, err := filepath.Abs(real)
		keep(func(m sysconf.Mount) bool { return err == nil && m.Path == mountOf(f.all, abs) })
		return list, false
	}
	for _, a := range append(append(f.Vals("S"), f.Vals("M")...), f.Args...) {
		src := a
		if real, err := filepath.EvalSymlinks(a); err == nil {
			src = real
		}
		keep(func(m sysconf.Mount) bool {
			return m.Path == src && !f.On("S") || (m.Source == a || m.Source == src) && !f.On("M")
		})
		tree = false
	}
	if f.On("R") && !tree {
		list, tree = f.below(list), true
	}
	if f.On("f") {
		list = list[:min(1, len(list))]
	}
	return list, tree
}

// below adds the mounts that are on others, for -R.
func (f *findmntRun) below(list []sysconf.Mount) []sysconf.Mount {
	ids := map[int]bool{}
	for _, m := range list {
		ids[m.ID] = true
	}
	for n := 0; n != len(ids); {
		n = len(ids)
		for _, m := range f.all {
			if ids[m.Parent] {
				ids[m.ID] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(f.all), func(m sysconf.Mount) bool { return !ids[m.ID] })
}

// mountOf is the mount point that a path is below.
func mountOf(ms []sysconf.Mount, path string) string {
	best := ""
	for _, m := range ms {
		if (m.Path == "/" || path == m.Path || strings.HasPrefix(path, m.Path+"/")) && len(m.Path) >= len(best) {
			best = m.Path
		}
	}
	return best
}

func (f *findmntRun) add(m sysconf.Mount, prefix string) {
	var row []string
	for _, c := range f.cols {
		s, _ := f.cell(m, c)
		if c == "TARGET" {
			s = prefix + s
		}
		row = append(row, s)
	}
	f.rows = append(f.rows, row)
}

func (f *findmntRun) tree(list []sysconf.Mount) {
	children := map[int][]sysconf.Mount{}
	ids := map[int]bool{}
	for _, m := range list {
		ids[m.ID] = true
	}
	var roots []sysconf.Mount
	for _, m := range list {
		if ids[m.Parent] && m.Parent != m.ID {
			children[m.Parent] = append(children[m.Parent], m)
		} else {
			roots = append(roots, m)
		}
	}
	var walk func(m sysconf.Mount, first, next string)
	walk = func(m sysconf.Mount, first, next string) {
		f.add(m, first)
		cs := children[m.ID]
		for i, c := range cs {
			if i == len(cs)-1 {
				walk(c, next+"└─", next+"  ")
			} else {
				walk(c, next+"├─", next+"│ ")
			}
		}
	}
	for _, r := range roots {
		walk(r, "", "")
	}
}

// options are those of the mount and of the file system, as mount(8) joins them.
func options(m sysconf.Mount) string {
	have := strings.Split(m.Options, ",")
	for _, o := range strings.Split(m.Super, ",") {
		if o != "rw" && o != "ro" && o != "" && !slices.Contains(have, o) {
			have = append(have, o)
		}
	}
	return strings.Join(have, ",")
}

func (f *findmntRun) cell(m sysconf.Mount, col string) (string, bool) {
	if s, ok := map[string]string{"TARGET": m.Path, "FSTYPE": m.Type, "OPTIONS": options(m), "VFS-OPTIONS": m.Options, "FS-OPTIONS": m.Super, "MAJ:MIN": m.Dev, "ID": strconv.Itoa(m.ID), "FSROOT": m.Root}[col]; ok {
		return s, true
	}
	switch col {
	case "SOURCE":
		if m.Root != "/" && m.Root != "" && !f.On("v") {
			return m.Source + "[" + m.Root + "]", true
		}
		return m.Source, true
	case "UUID", "LABEL":
		if !strings.HasPrefix(m.Source, "/dev/") {
			return "", true
		}
		if i := look(m.Source); i != nil {
			return map[string]string{"UUID": i.UUID, "LABEL": i.Label}[col], true
		}
		return "", true
	}
	return space(col, m.Path)
}

func mountpoint(e *tools.Env) error {
	if err := e.Need(1, 1); err != nil {
		return err
	}
	p := e.Args[0]
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		if !e.On("q") {
			e.Warn("%s: %s", p, tools.Cause(err))
		}
		return tools.Status(1)
	}
	if e.On("x") {
		if st.Mode&unix.S_IFMT != unix.S_IFBLK {
			return fmt.Errorf("%s: not a block device", p)
		}
		e.Printf("%d:%d\n", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		return nil
	}
	real, err := filepath.EvalSymlinks(p)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	ms, err2 := sysconf.Mounts("")
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	is := slices.ContainsFunc(ms, func(m sysconf.Mount) bool { return m.Path == real })
	switch {
	case is && e.On("d"):
		e.Printf("%d:%d\n", unix.Major(st.Dev), unix.Minor(st.Dev))
	case is && !e.On("q"):
		e.Printf("%s is a mountpoint\n", p)
	case !is && !e.On("q"):
		e.Printf("%s is not a mountpoint\n", p)
	}
	if !is {
		return tools.Status(32)
	}
	return nil
}
