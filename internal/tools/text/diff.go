package text

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func diffCommands() []tools.Command {
	return []tools.Command{
		{Name: "cmp", Opts: "s/quiet/silent l/verbose b/print-bytes n/bytes: i/ignore-initial:", Synopsis: "FILE1 [FILE2 [SKIP1 [SKIP2]]]", Bad: 2, Run: cmpFiles},
		{Name: "diff", Opts: "u U/unified: c C/context: q/brief s/report-identical-files r/recursive N/new-file i/ignore-case w/ignore-all-space b/ignore-space-change B/ignore-blank-lines a/text normal L/label: x/exclude: Z/ignore-trailing-space strip-trailing-cr 0 d/minimal color?", Synopsis: "FILES", Bad: 2, Run: diff},
	}
}

// differ is one run of diff.
type differ struct {
	*tools.Env
	context int  // lines around a change; -1: the normal format
	old     bool // the context format
}

func diff(e *tools.Env) error {
	if err := e.Need(2, 2); err != nil {
		return err
	}
	if c, _ := e.Last("color"); c.Value == "always" {
		return tools.Usage("--color=always is not supported")
	}
	d := &differ{Env: e, context: -1}
	if err := d.format(); err != nil {
		return err
	}
	a, b := e.Args[0], e.Args[1]
	sa, err1 := os.Stat(a)
	sb, err2 := os.Stat(b)
	for i, err := range []error{err1, err2} {
		if e.Args[i] != "-" && err != nil && !e.On("N") {
			e.Fault(2, "%s: %s", e.Args[i], tools.Cause(err))
		}
	}
	if e.Failed() {
		return nil
	}
	dirA, dirB := err1 == nil && sa.IsDir(), err2 == nil && sb.IsDir()
	switch {
	case dirA && dirB:
		return d.dirs(a, b)
	case dirA:
		a = filepath.Join(a, filepath.Base(b))
	case dirB:
		b = filepath.Join(b, filepath.Base(a))
	}
	return d.files(a, b, "")
}

// format reads how many lines of context are wanted; none are for the normal format.
func (d *differ) format() (err error) {
	switch o, _ := d.Last("u", "U", "c", "C"); o.Name {
	case "u":
		d.context = 3
	case "U":
		d.context, err = strconv.Atoi(o.Value)
	case "c":
		d.context, d.old = 3, true
	case "C":
		d.old = true
		d.context, err = strconv.Atoi(o.Value)
	}
	if o, ok := d.Last("0"); ok {
		d.context, err = strconv.Atoi(o.Value)
	}
	if err != nil {
		return tools.Usage("invalid context length '%s'", cmp.Or(d.Val("U"), d.Val("C")))
	}
	return nil
}

func (d *differ) dirs(a, b string) error {
	names := func(dir string) []string {
		es, err := os.ReadDir(dir)
		if err != nil && !(d.On("N") && errors.Is(err, os.ErrNotExist)) {
			d.Fault(2, "%s: %s", dir, tools.Cause(err))
		}
		var out []string
		for _, x := range es {
			if !slices.ContainsFunc(d.Vals("x"), func(p string) bool { ok, _ := filepath.Match(p, x.Name()); return ok }) {
				out = append(out, x.Name())
			}
		}
		return out
	}
	na, nb := names(a), names(b)
	all := slices.Concat(na, nb)
	slices.Sort(all)
	for _, n := range slices.Compact(all) {
		dir := ""
		switch {
		case d.On("N"):
		case !slices.Contains(nb, n):
			dir = a
		case !slices.Contains(na, n):
			dir = b
		}
		if dir != "" {
			d.Printf("Only in %s: %s\n", strings.TrimSuffix(dir, "/"), n)
			d.Set(1)
			continue
		}
		if err := d.pair(strings.TrimSuffix(a, "/")+"/"+n, strings.TrimSuffix(b, "/")+"/"+n); err != nil {
			return err
		}
	}
	return nil
}

// pair compares what has the same name in two directories.
func (d *differ) pair(a, b string) error {
	sa, err1 := os.Stat(a)
	sb, err2 := os.Stat(b)
	if err1 != nil && err2 != nil {
		d.Fault(2, "%s: %s", a, tools.Cause(err1))
		return nil
	}
	dirA, dirB := err1 == nil && sa.IsDir(), err2 == nil && sb.IsDir()
	switch {
	case (dirA || err1 != nil) && (dirB || err2 != nil):
		if d.On("r") {
			return d.dirs(a, b)
		}
		d.Printf("Common subdirectories: %s and %s\n", a, b)
	case dirA || dirB:
		kind := map[bool]string{true: "directory", false: "regular file"}
		d.Printf("File %s is a %s while file %s is a %s\n", a, kind[dirA], b, kind[dirB])
		d.Set(1)
	default:
		return d.files(a, b, d.line())
	}
	return nil
}

// line is the command line that is printed before the differences of a pair of files.
func (d *differ) line() string {
	w := "diff"
	for _, a := range d.Line {
		if !slices.Contains(d.Args, a) {
			w += " " + a
		}
	}
	return w
}

// read gives the lines of a file and the time in its heading.
func (d *differ) read(name string) (lines []string, heading string, err error) {
	if name == "-" {
		b, err := io.ReadAll(d.In)
		return splitLines(b), "-", err
	}
	layout := "2006-01-02 15:04:05.000000000 -0700"
	if d.old && plainLocale() {
		layout = "Mon Jan _2 15:04:05 2006"
	}
	st, err := os.Stat(name)
	if err != nil {
		if d.On("N") && errors.Is(err, os.ErrNotExist) {
			return nil, name + "\t" + time.Unix(0, 0).UTC().Format(layout), nil
		}
		return nil, "", err
	}
	b, err := os.ReadFile(name)
	return splitLines(b), name + "\t" + st.ModTime().Format(layout), err
}

// plainLocale reports whether dates are written as in C.
func plainLocale() bool {
	for _, v := range []string{"LC_ALL", "LC_TIME", "LANG"} {
		if l := os.Getenv(v); l != "" {
			return l == "C" || l == "POSIX"
		}
	}
	return true
}

func splitLines(b []byte) []string {
	l := strings.SplitAfter(string(b), "\n")
	if n := len(l); l[n-1] == "" {
		return l[:n-1]
	}
	return l
}

// key is what is compared of a line.
func (d *differ) key(l string) string {
	if d.On("strip-trailing-cr") {
		l = strings.TrimSuffix(strings.TrimSuffix(l, "\n"), "\r") + l[len(strings.TrimSuffix(l, "\n")):]
	}
	switch {
	case d.On("w"):
		l = strings.Join(strings.Fields(l), "")
	case d.On("b"):
		text := strings.TrimRight(l, " \t\n")
		l = strings.Join(strings.Fields(text), " ")
		if text != "" && (text[0] == ' ' || text[0] == '\t') {
			l = " " + l
		}
	case d.On("Z"):
		l = strings.TrimRight(l, " \t\n")
	}
	if d.On("i") {
		l = strings.ToLower(l)
	}
	return l
}

func (d *differ) files(a, b, title string) error {
	la, ha, err := d.read(a)
	if err != nil {
		d.Fault(2, "%s: %s", a, tools.Cause(err))
		return nil
	}
	lb, hb, err := d.read(b)
	if err != nil {
		d.Fault(2, "%s: %s", b, tools.Cause(err))
		return nil
	}

	same := slices.Equal(la, lb)
	isText := func(l []string) bool {
		return d.On("a") || !slices.ContainsFunc(l, func(s string) bool { return bytes.IndexByte([]byte(s), 0) >= 0 })
	}
	if !same && (!isText(la) || !isText(lb)) {
		d.Printf("%s\n", map[bool]string{true: "Files " + a + " and " + b + " differ", false: "Binary files " + a + " and " + b + " differ"}[d.On("q")])
		d.Set(1)
		return nil
	}
	hunks := d.changes(la, lb)
	if len(hunks) == 0 {
		if d.On("s") {
			d.Printf("Files %s and %s are identical\n", a, b)
		}
		return nil
	}
	d.Set(1)
	if d.On("q") {
		d.Printf("Files %s and %s differ\n", a, b)
		return nil
	}
	if title != "" {
		d.Printf("%s %s %s\n", title, a, b)
	}
	if d.context < 0 {
		d.normal(hunks, la, lb)
		return nil
	}
	labels := d.Vals("L")
	for i, h := range []string{ha, hb} {
		if i < len(labels) {
			h = labels[i]
		}
		mark := []string{"---", "+++"}[i]
		if d.old {
			mark = []string{"***", "---"}[i]
		}
		d.Printf("%s %s\n", mark, h)
	}
	if d.old {
		d.contexts(hunks, la, lb)
	} else {
		d.unified(hunks, la, lb)
	}
	return nil
}

// change is a run of lines a0..a1 of one file that became b0..b1 of the other.
type change struct{ a0, a1, b0, b1 int }

// numbers gives lines that are compared as equal the same number.
func (d *differ) numbers(l []string, ids map[string]int) []int {
	out := make([]int, len(l))
	for i, s := range l {
		k := d.key(s)
		if _, ok := ids[k]; !ok {
			ids[k] = len(ids)
		}
		out[i] = ids[k]
	}
	return out
}

// changes finds a shortest list of changes, by Myers' algorithm in linear space.
func (d *differ) changes(a, b []string) []change {
	ids := map[string]int{}
	m := &myers{a: d.numbers(a, ids), b: d.numbers(b, ids)}
	m.goneA, m.goneB = make([]bool, len(a)), make([]bool, len(b))
	m.v1, m.v2 = make([]int, 2*(len(a)+len(b))+4), make([]int, 2*(len(a)+len(b))+4)
	m.compare(0, len(a), 0, len(b))
	shift(m.a, m.goneA)
	shift(m.b, m.goneB)
	var out []change
	for i, j := 0, 0; i < len(a) || j < len(b); {
		if i < len(a) && j < len(b) && !m.goneA[i] && !m.goneB[j] {
			i, j = i+1, j+1
			continue
		}
		c := change{i, i, j, j}
		for i < len(a) && m.goneA[i] {
			i++
		}
		for j < len(b) && m.goneB[j] {
			j++
		}
		c.a1, c.b1 = i, j
		if d.On("B") && blank(a[c.a0:c.a1]) && blank(b[c.b0:c.b1]) {
			continue
		}
		out = append(out, c)
	}
	return out
}

func blank(l []string) bool {
	return !slices.ContainsFunc(l, func(s string) bool { return strings.TrimSuffix(s, "\n") != "" })
}

func span(from, to int, sep string) string {
	if to-from <= 1 {
		return strconv.Itoa(to)
	}
	return strconv.Itoa(from+1) + sep + strconv.Itoa(to)
}

func (d *differ) put(mark string, lines []string) {
	for _, l := range lines {
		d.Out.WriteString(mark + l)
		if !strings.HasSuffix(l, "\n") {
			d.Out.WriteString("\n\\ No newline at end of file\n")
		}
	}
}

func (d *differ) normal(hunks []change, a, b []string) {
	for _, h := range hunks {
		kind := "c"
		switch {
		case h.a0 == h.a1:
			kind = "a"
		case h.b0 == h.b1:
			kind = "d"
		}
		d.Printf("%s%s%s\n", span(h.a0, h.a1, ","), kind, span(h.b0, h.b1, ","))
		d.put("< ", a[h.a0:h.a1])
		if kind == "c" {
			d.Printf("---\n")
		}
		d.put("> ", b[h.b0:h.b1])
	}
}

// together is the number of changes whose lines of context meet.
func (d *differ) together(hunks []change) int {
	n := 1
	for n < len(hunks) && hunks[n].a0-hunks[n-1].a1 <= 2*d.context {
		n++
	}
	return n
}

// contexts prints the context format of -c: the lines of both files, one after the other.
func (d *differ) contexts(hunks []change, a, b []string) {
	for len(hunks) > 0 {
		n := d.together(hunks)
		first, last := hunks[0], hunks[n-1]
		d.Printf("***************\n*** %s ****\n", span(max(0, first.a0-d.context), min(len(a), last.a1+d.context), ","))
		d.side(hunks[:n], a, "- ", func(h change) (int, int, bool) { return h.a0, h.a1, h.b0 == h.b1 })
		d.Printf("--- %s ----\n", span(max(0, first.b0-d.context), min(len(b), last.b1+d.context), ","))
		d.side(hunks[:n], b, "+ ", func(h change) (int, int, bool) { return h.b0, h.b1, h.a0 == h.a1 })
		hunks = hunks[n:]
	}
}

// side prints the lines of one file, if some of them changed. alone: the other file has none.
func (d *differ) side(hunks []change, lines []string, mark string, of func(h change) (from, to int, alone bool)) {
	if !slices.ContainsFunc(hunks, func(h change) bool { from, to, _ := of(h); return to > from }) {
		return
	}
	from, _, _ := of(hunks[0])
	at := max(0, from-d.context)
	for _, h := range hunks {
		from, to, alone := of(h)
		d.put("  ", lines[at:from])
		if alone {
			d.put(mark, lines[from:to])
		} else {
			d.put("! ", lines[from:to])
		}
		at = to
	}
	d.put("  ", lines[at:min(len(lines), at+d.context)])
}

func (d *differ) unified(hunks []change, a, b []string) {
	for len(hunks) > 0 {
		n := d.together(hunks)
		first, last := hunks[0], hunks[n-1]
		a0, b0 := max(0, first.a0-d.context), max(0, first.b0-d.context)
		a1, b1 := min(len(a), last.a1+d.context), min(len(b), last.b1+d.context)
		length := func(from, to int) string {
			switch {
			case to-from == 1:
				return strconv.Itoa(to)
			case to == from:
				return strconv.Itoa(from) + ",0"
			}
			return fmt.Sprintf("%d,%d", from+1, to-from)
		}
		d.Printf("@@ -%s +%s @@\n", length(a0, a1), length(b0, b1))
		at := a0
		for _, h := range hunks[:n] {
			d.put(" ", a[at:h.a0])
			d.put("-", a[h.a0:h.a1])
			d.put("+", b[h.b0:h.b1])
			at = h.a1
		}
		d.put(" ", a[at:a1])
		hunks = hunks[n:]
	}
}
