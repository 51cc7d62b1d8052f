package files

import (
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// dfField is a column of df --output: its heading, least width, and what it has.
type dfField struct {
	name, head string
	width      int // negative: to the left
	text       func(r dfRow) string
}

// dfFields are the columns in the order of --output without a list.
func dfFields(e *tools.Env) []dfField {
	show, unit := dfUnit(e)
	count := show
	if !e.On("h", "H") {
		count = func(n uint64) string { return strconv.FormatUint(n, 10) }
	}
	bytes := func(n func(r dfRow) uint64) func(r dfRow) uint64 {
		return func(r dfRow) uint64 { return n(r) * uint64(r.st.Frsize) }
	}
	field := func(name, head string, width int, show func(uint64) string, n func(r dfRow) uint64) dfField {
		return dfField{name, head, width, func(r dfRow) string { return show(n(r)) }}
	}
	text := func(name, head string, width int, text func(r dfRow) string) dfField {
		return dfField{name, head, width, text}
	}
	return []dfField{
		text("source", "Filesystem", -14, func(r dfRow) string { return r.source }),
		text("fstype", "Type", -4, func(r dfRow) string { return r.kind }),
		field("itotal", "Inodes", 5, count, func(r dfRow) uint64 { return r.st.Files }),
		field("iused", "IUsed", 5, count, func(r dfRow) uint64 { return r.st.Files - r.st.Ffree }),
		field("iavail", "IFree", 5, count, func(r dfRow) uint64 { return r.st.Ffree }),
		text("ipcent", "IUse%", 4, func(r dfRow) string { return percent(r.st.Files-r.st.Ffree, r.st.Ffree) }),
		field("size", unit, 5, show, bytes(func(r dfRow) uint64 { return r.st.Blocks })),
		field("used", "Used", 5, show, bytes(func(r dfRow) uint64 { return r.st.Blocks - r.st.Bfree })),
		field("avail", "Avail", 5, show, bytes(func(r dfRow) uint64 { return r.st.Bavail })),
		text("pcent", "Use%", 4, func(r dfRow) string { return percent(r.st.Blocks-r.st.Bfree, r.st.Bavail) }),
		text("file", "File", -4, func(r dfRow) string {
			if r.file == "" {
				return "-"
			}
			return r.file
		}),
		text("target", "Mounted on", -10, func(r dfRow) string { return r.path }),
	}
}

// dfColumns are the columns of --output; nil without that option.
func dfColumns(e *tools.Env) ([]dfField, error) {
	if !e.On("output") {
		return nil, nil
	}
	for _, o := range []string{"i", "P", "T"} {
		if e.On(o) {
			return nil, tools.Usage("options -%s and --output are mutually exclusive", o)
		}
	}
	all := dfFields(e)
	var out []dfField
	for _, v := range e.Vals("output") {
		if v == "" {
			return all, nil
		}
		for _, n := range strings.Split(v, ",") {
			named := func(f dfField) bool { return f.name == n }
			i := slices.IndexFunc(all, named)
			switch {
			case i < 0:
				return nil, tools.Usage("option --output: field '%s' unknown", n)
			case slices.ContainsFunc(out, named):
				return nil, tools.Usage("option --output: field '%s' used more than once", n)
			}
			out = append(out, all[i])
		}
	}
	return out, nil
}

// dfOutput prints the columns of --output.
func dfOutput(e *tools.Env, rows []dfRow, columns []dfField) {
	if e.On("total") {
		total := dfTotal(rows)
		if !slices.ContainsFunc(columns, func(c dfField) bool { return c.name == "source" }) {
			total.path = "total"
		}
		rows = append(rows, total)
	}
	var table [][]string
	widths := make([]int, len(columns))
	for i := range len(rows) + 1 {
		var line []string
		for j, c := range columns {
			s := c.head
			if i > 0 {
				s = c.text(rows[i-1])
			}
			line = append(line, s)
			widths[j] = max(widths[j], len(s), c.width, -c.width)
		}
		table = append(table, line)
	}
	for _, line := range table {
		for j, s := range line {
			switch {
			case columns[j].width > 0:
				e.Printf("%*s", widths[j], s)
			case j == len(line)-1:
				e.Printf("%s", s)
			default:
				e.Printf("%-*s", widths[j], s)
			}
			if j < len(line)-1 {
				e.Printf(" ")
			}
		}
		e.Printf("\n")
	}
}

// dfTotal is the line of --total, in bytes.
func dfTotal(rows []dfRow) dfRow {
	t := dfRow{source: "total", kind: "-", path: "-"}
	t.st.Frsize = 1
	for _, r := range rows {
		f := uint64(r.st.Frsize)
		t.st.Blocks += r.st.Blocks * f
		t.st.Bfree += r.st.Bfree * f
		t.st.Bavail += r.st.Bavail * f
		t.st.Files += r.st.Files
		t.st.Ffree += r.st.Ffree
	}
	return t
}
