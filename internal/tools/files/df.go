package files

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// dfRow is a file system.
type dfRow struct {
	source, kind, path string
	st                 unix.Statfs_t
	file               string // the operand; "" without one
}

func df(e *tools.Env) error {
	columns, err := dfColumns(e)
	if err != nil {
		return err
	}
	if e.On("sync") && !e.On("no-sync") {
		unix.Sync()
	}
	ms, err := mounts()
	if err != nil {
		return err
	}
	var rows []dfRow
	if len(e.Args) > 0 {
		for _, a := range e.Args {
			if r, ok := dfOperand(e, ms, a); ok {
				rows = append(rows, r)
			}
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
	if columns != nil {
		dfOutput(e, rows, columns)
	} else {
		dfPrint(e, rows)
	}
	return nil
}

// dfOperand is the mount that has a file, or that of a device.
func dfOperand(e *tools.Env, ms []sysconf.Mount, a string) (dfRow, bool) {
	real, err := canonical(a, "e")
	if err != nil {
		e.Warn("%s: %s", a, tools.Cause(err))
		return dfRow{}, false
	}
	m, ok := mountOf(real)
	if st, err := os.Stat(real); err == nil && st.Mode()&fs.ModeDevice != 0 {
		if i := slices.IndexFunc(ms, func(x sysconf.Mount) bool { return x.Source == real }); i >= 0 {
			m, ok = ms[i], true
		}
	}
	r := dfRow{source: m.Source, kind: m.Type, path: m.Path}
	r.file = a
	if err = unix.Statfs(r.path, &r.st); err != nil || !ok {
		e.Warn("%s: %s", a, tools.Cause(err))
		return r, false
	}
	return r, true
}

// better prefers the shorter path, and a device's name to another one.
func (r dfRow) better(than dfRow) bool {
	return len(r.path) < len(than.path) || strings.HasPrefix(r.source, "/") && !strings.HasPrefix(than.source, "/")
}

// dfAll are the mounts with a size, the last one of each device.
func dfAll(e *tools.Env, ms []sysconf.Mount) []dfRow {
	var rows []dfRow
	at := map[[2]int32]int{}
	for _, m := range ms {
		r := dfRow{source: m.Source, kind: m.Type, path: m.Path}
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
			if r.better(rows[i]) {
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
	dfTable(e, table)
}

// dfTable prints rows of seven columns; the second one only with -T.
func dfTable(e *tools.Env, table [][]string) {
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
