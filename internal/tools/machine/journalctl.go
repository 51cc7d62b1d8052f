package machine

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/journal"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func logCommands() []tools.Command {
	return []tools.Command{{Name: "journalctl", Opts: "D/directory: root: file: b/boot~ k/dmesg u/unit: t/identifier: p/priority: g/grep: case-sensitive? S/since: U/until: n/lines~ r/reverse e/pager-end o/output: list-boots F/field: N/fields q/quiet a/all l/full no-pager no-hostname utc no-tail x/catalog system", Synopsis: "[FIELD=VALUE]...", Run: journalctl}}
}

// logReader is one run of journalctl.
type logReader struct {
	*tools.Env
	j            *journal.Journal
	boot         string // "" for all
	since, until uint64 // microseconds
	units        []string
	ids          []string
	first, last  int // priorities
	grep         *regexp.Regexp
	matches      map[string][]string
	format       string
	zone         *time.Location
	lastBoot     string
}

func journalctl(e *tools.Env) error {
	r := &logReader{Env: e, last: 7, format: e.Or("o", "short"), zone: time.Local, matches: map[string][]string{}, ids: e.Vals("t")}
	if e.On("utc") {
		r.zone = time.UTC
	}
	if err := r.options(); err != nil {
		return err
	}
	if err := r.open(); err != nil {
		return err
	}
	defer r.j.Close()
	switch {
	case e.On("list-boots"):
		return r.listBoots()
	case e.On("F"):
		return r.values(func(f journal.Field) string { return map[bool]string{true: string(f.Value)}[f.Name == e.Val("F")] })
	case e.On("N"):
		return r.values(func(f journal.Field) string { return f.Name })
	}
	if err := r.chooseBoot(); err != nil {
		return err
	}
	return r.print()
}

// open opens the files that options name, or those of this system.
func (r *logReader) open() (err error) {
	switch {
	case r.On("file"):
		names, err := filepath.Glob(r.Val("file"))
		if err != nil || len(names) == 0 {
			return fmt.Errorf("cannot open %s: No such file or directory", r.Val("file"))
		}
		r.j, err = journal.OpenFiles(names)
		return err
	case r.On("D"):
		if st, err := os.Stat(r.Val("D")); err != nil || !st.IsDir() {
			return fmt.Errorf("cannot open %s: No such file or directory", r.Val("D"))
		}
		r.j, err = journal.OpenDir(r.Val("D"))
	default:
		var names []string
		root := strings.TrimRight(r.Val("root"), "/")
		for _, d := range []string{"/var/log/journal", "/run/log/journal"} {
			m, _ := filepath.Glob(root + d + "/*/*.journal*") // the pattern is correct
			names = append(names, m...)
		}
		if len(names) == 0 {
			return fmt.Errorf("no journal files below %s/var/log/journal; name those of the installed system with -D, such as -D /mnt/target/var/log/journal", root)
		}
		r.j, err = journal.OpenFiles(names)
	}
	if err != nil {
		r.Fault(0, "%v", err)
	}
	return nil
}

var levels = []string{"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}

// priorities reads a level, or two with dots between them.
func (r *logReader) priorities(p string) (err error) {
	if p == "" {
		return nil
	}
	level := func(s string) (int, error) {
		if i := slices.Index(levels, s); i >= 0 {
			return i, nil
		}
		if n, err := strconv.Atoi(s); err == nil && n >= 0 && n < len(levels) {
			return n, nil
		}
		return 0, fmt.Errorf("unknown log level %s", p)
	}
	from, to, isRange := strings.Cut(p, "..")
	if r.last, err = level(from); err == nil && isRange {
		var second int
		second, err = level(to)
		r.first, r.last = min(r.last, second), max(r.last, second)
	}
	return err
}

// options reads the options that choose entries.
func (r *logReader) options() error {
	err := r.priorities(r.Val("p"))
	for _, u := range r.Vals("u") {
		if !strings.Contains(path.Base(u), ".") && !strings.ContainsAny(u, "*?[") {
			u += ".service"
		}
		r.units = append(r.units, u)
	}
	for option, to := range map[string]*uint64{"S": &r.since, "U": &r.until} {
		if r.On(option) && err == nil {
			*to, err = logTime(r.Val(option), r.zone)
		}
	}
	if g := r.Val("g"); g != "" && err == nil {
		if strings.ToLower(g) == g && r.Val("case-sensitive") == "" {
			g = "(?i)" + g
		}
		if r.grep, err = regexp.Compile(g); err != nil {
			err = fmt.Errorf("bad pattern '%s': %w", r.Val("g"), err)
		}
	}
	for _, m := range r.Args {
		name, value, ok := strings.Cut(m, "=")
		if !ok {
			return fmt.Errorf("cannot add match '%s': it has no =", m)
		}
		r.matches[name] = append(r.matches[name], value)
	}
	if _, ok := formats[r.format]; !ok && err == nil {
		err = fmt.Errorf("unknown output format '%s'", r.format)
	}
	return err
}

// logTime reads a time: those of date -d, of which the names of days begin at midnight, and
// offsets such as -1h.
func logTime(s string, zone *time.Location) (uint64, error) {
	now := time.Now().In(zone)
	if d, err := time.ParseDuration(strings.TrimSpace(s)); err == nil && strings.ContainsAny(s[:1], "+-") {
		return uint64(now.Add(d).UnixMicro()), nil
	}
	t, err := tools.ParseDate(s, now)
	if err != nil {
		return 0, fmt.Errorf("cannot read the time %s", s)
	}
	if slices.Contains([]string{"today", "yesterday", "tomorrow"}, s) {
		t = time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, zone)
	}
	return uint64(t.UnixMicro()), nil
}

// boots are the boots in their order, with the times of their first and last entries.
type boot struct {
	id          string
	first, last uint64
}

func (r *logReader) boots() []*boot {
	var out []*boot
	by := map[string]*boot{}
	for _, e := range r.j.Entries(false) {
		b := by[e.Boot]
		if b == nil {
			b = &boot{id: e.Boot, first: e.Realtime}
			by[e.Boot], out = b, append(out, b)
		}
		b.last = e.Realtime
	}
	return out
}

func (r *logReader) listBoots() error {
	list := r.boots()
	const layout = "Mon 2006-01-02 15:04:05 MST"
	width := max(3, len(strconv.Itoa(-len(list)+1)))
	r.Printf("%*s %-32s %-27s %s\n", width, "IDX", "BOOT ID", "FIRST ENTRY", "LAST ENTRY")
	for i, b := range list {
		r.Printf("%*d %s %-27s %s\n", width, i+1-len(list), b.id, r.at(b.first, layout), r.at(b.last, layout))
	}
	return nil
}

func (r *logReader) at(us uint64, layout string) string {
	return time.UnixMicro(int64(us)).In(r.zone).Format(layout)
}

// chooseBoot finds what -b means: the last boot, one counted from it or from the first,
// or one by its identity.
func (r *logReader) chooseBoot() error {
	b, ok := r.Last("b")
	if (!ok && !r.On("k", "e")) || b.Value == "all" {
		return nil
	}
	list := r.boots()
	v, at := b.Value, len(list)-1
	if len(v) >= 32 {
		if at = slices.IndexFunc(list, func(b *boot) bool { return b.id == v[:32] }); at < 0 {
			return fmt.Errorf("the journal has no boot %s", v)
		}
		v = v[32:]
	}
	if v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("cannot read the number of a boot: %s", b.Value)
		}
		if n > 0 && len(b.Value) < 32 {
			at = -1 // counted from the first
		}
		at += n
	}
	if at < 0 || at >= len(list) {
		return fmt.Errorf("the journal has no boot %s", b.Value)
	}
	r.boot = list[at].id
	return nil
}

// values prints the different values of what fn gives.
func (r *logReader) values(fn func(journal.Field) string) error {
	seen := map[string]bool{}
	for f, e := range r.j.Entries(true) {
		for _, x := range f.Fields(e) {
			if v := fn(x); v != "" && !seen[v] {
				seen[v] = true
				r.Printf("%s\n", v)
			}
		}
	}
	return nil
}

// record is an entry with its fields.
type record struct {
	journal.Entry
	fields []journal.Field
	file   *journal.File
}

// get is the first value of a field.
func (x record) get(name string) string {
	for _, f := range x.fields {
		if f.Name == name {
			return string(f.Value)
		}
	}
	return ""
}

// limit is how many entries are printed at most, -1 for all.
func (r *logReader) limit() (int, error) {
	switch v := r.Val("n"); {
	case v == "all" || !r.On("n", "e"):
		return -1, nil
	case !r.On("n"):
		return 1000, nil
	case v == "":
		return 10, nil
	default:
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return 0, fmt.Errorf("invalid number of lines: %s", v)
		}
		return n, nil
	}
}

// print prints the entries that options choose.
func (r *logReader) print() error {
	limit, err := r.limit()
	if err != nil {
		return err
	}
	reverse := r.On("r") || r.grep != nil && limit >= 0
	var kept []record
	shown := 0
	for f, e := range r.j.Entries(reverse || limit >= 0) {
		if limit >= 0 && shown+len(kept) >= limit {
			break
		}
		if !r.within(e) {
			continue
		}
		x := record{e, f.Fields(e), f}
		switch {
		case !r.wanted(x):
		case limit >= 0 && !reverse:
			kept = append(kept, x)
		default:
			r.show(x)
			shown++
		}
	}
	for _, x := range slices.Backward(kept) {
		r.show(x)
	}
	if shown+len(kept) > 0 {
		return nil
	}
	if !r.On("q") && strings.HasPrefix(r.format, "short") {
		r.Printf("-- No entries --\n")
	}
	if r.grep != nil {
		r.Set(1)
	}
	return nil
}

// within reports whether an entry is of the boot and the times that are wanted.
func (r *logReader) within(e journal.Entry) bool {
	return (r.boot == "" || e.Boot == r.boot) && e.Realtime >= r.since && (r.until == 0 || e.Realtime <= r.until)
}

// wanted applies the options that look at fields.
func (r *logReader) wanted(x record) bool {
	if r.first > 0 || r.last < 7 {
		p, err := strconv.Atoi(x.get("PRIORITY"))
		if err != nil || p < r.first || p > r.last {
			return false
		}
	}
	if r.On("k") && x.get("_TRANSPORT") != "kernel" || len(r.ids) > 0 && !slices.Contains(r.ids, x.get("SYSLOG_IDENTIFIER")) {
		return false
	}
	if r.grep != nil && !r.grep.MatchString(x.get("MESSAGE")) {
		return false
	}
	if len(r.units) > 0 && !slices.ContainsFunc(r.units, x.of) {
		return false
	}
	for name, values := range r.matches {
		if !slices.ContainsFunc(x.fields, func(f journal.Field) bool { return f.Name == name && slices.Contains(values, string(f.Value)) }) {
			return false
		}
	}
	return true
}

// of reports whether the entry is a unit's: its own, or the manager's or a dump about it.
func (x record) of(unit string) bool {
	is := func(name string) bool {
		v := x.get(name)
		ok, err := path.Match(unit, v)
		return v != "" && (v == unit || err == nil && ok)
	}
	return is("_SYSTEMD_UNIT") || x.get("_PID") == "1" && is("UNIT") || x.get("_UID") == "0" && (is("OBJECT_SYSTEMD_UNIT") || is("COREDUMP_UNIT"))
}
