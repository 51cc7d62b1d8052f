package procs

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// column is one of ps.
type column struct {
	head  string
	width int // negative: to the left
	text  func(s system, p process) string
}

// pidWidth is the number of digits of the largest process number.
func pidWidth() int {
	b, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		return 7
	}
	return len(strings.TrimSpace(string(b)))
}

func columns() map[string]column {
	width := pidWidth()
	num := func(n func(p process) int64) func(system, process) string {
		return func(_ system, p process) string { return strconv.FormatInt(n(p), 10) }
	}
	pid := func(head string, n func(p process) int) column {
		return column{head, width, num(func(p process) int64 { return int64(n(p)) })}
	}
	args := func(_ system, p process) string { return p.command() }
	m := map[string]column{
		"pid": pid("PID", func(p process) int { return p.pid }), "ppid": pid("PPID", func(p process) int { return p.ppid }),
		"pgid": pid("PGID", func(p process) int { return p.pgrp }), "sid": pid("SID", func(p process) int { return p.sid }),
		"user": {"USER", -8, func(_ system, p process) string { return shortUser(p.uid) }}, "ruser": {"RUSER", -8, func(_ system, p process) string { return shortUser(p.ruid) }},
		"uid":  {"UID", 5, num(func(p process) int64 { return int64(p.uid) })},
		"%cpu": {"%CPU", 4, func(s system, p process) string { b := s.busy(p); return fmt.Sprintf("%d.%d", b/10, b%10) }},
		"c":    {"C", 2, func(s system, p process) string { return strconv.FormatInt(min(99, s.busy(p)/10), 10) }},
		"%mem": {"%MEM", 4, func(s system, p process) string {
			m := p.rss * 1000 / s.memory
			return fmt.Sprintf("%d.%d", m/10, m%10)
		}},
		"vsz":     {"VSZ", 6, num(func(p process) int64 { return p.vsize / 1024 })},
		"rss":     {"RSS", 5, num(func(p process) int64 { return p.rss / 1024 })},
		"tname":   {"TTY", -8, func(_ system, p process) string { return p.terminal() }},
		"tty":     {"TT", -8, func(_ system, p process) string { return p.terminal() }},
		"stat":    {"STAT", -4, func(_ system, p process) string { return p.stat() }},
		"s":       {"S", -1, func(_ system, p process) string { return p.state }},
		"start":   {"START", 5, func(s system, p process) string { return s.start(p) }},
		"stime":   {"STIME", 5, func(s system, p process) string { return s.start(p) }},
		"bsdtime": {"TIME", 6, func(_ system, p process) string { return clock(p.ticks/hertz, false) }}, "time": {"TIME", 8, func(_ system, p process) string { return clock(p.ticks/hertz, true) }},
		"etime": {"ELAPSED", 11, func(s system, p process) string { return elapsed(int64(s.now.Sub(s.started(p)).Seconds())) }},
		"etimes": {"ELAPSED", 7, func(s system, p process) string {
			return strconv.FormatInt(int64(s.now.Sub(s.started(p)).Seconds()), 10)
		}},
		"lstart": {"STARTED", 24, func(s system, p process) string { return s.started(p).Format("Mon Jan _2 15:04:05 2006") }},
		"ni":     {"NI", 3, num(func(p process) int64 { return int64(p.nice) })}, "nlwp": {"NLWP", 4, num(func(p process) int64 { return int64(p.threads) })},
		"comm": {"COMMAND", -15, func(_ system, p process) string { return printable.Clean(p.name) }}, "cmd": {"CMD", -27, args}, "args": {"COMMAND", -27, args}, "command": {"COMMAND", -27, args},
		"ucmd": {"CMD", -15, func(_ system, p process) string { return printable.Clean(p.name) }},
	}
	for other, name := range map[string]string{"pcpu": "%cpu", "pmem": "%mem", "euser": "user", "tt": "tty", "state": "s", "bsdstart": "start", "start_time": "stime", "cputime": "time", "nice": "ni", "euid": "uid", "vsize": "vsz", "rssize": "rss", "ucomm": "comm", "session": "sid", "pgrp": "pgid", "thcount": "nlwp"} {
		m[other] = m[name]
	}
	return m
}

func elapsed(n int64) string {
	s := fmt.Sprintf("%02d:%02d", n/60%60, n%60)
	if n >= 3600 {
		s = fmt.Sprintf("%02d:%s", n/3600%24, s)
	}
	if n >= 86400 {
		s = fmt.Sprintf("%d-%s", n/86400, s)
	}
	return s
}

// psRun is one run of ps.
type psRun struct {
	*tools.Env
	format       []string
	heads        map[int]string
	all, noHead  bool
	terminals, x bool
	pids, names  []string
	users        []string
	ppids        []string
	sort         string
	bsd, given   bool
}

func ps(e *tools.Env) error {
	r := &psRun{Env: e, heads: map[int]string{}}
	args := e.Args
	for len(args) > 0 {
		var err error
		if args, err = r.option(args); err != nil {
			return err
		}
	}
	cols := columns()
	if len(r.format) == 0 {
		r.format = []string{"pid", "tname", "time", "ucmd"}
	}
	for _, f := range r.format {
		if _, ok := cols[f]; !ok {
			return tools.Usage("error: unknown user-defined format specifier \"%s\"", f)
		}
	}
	sys := newSystem()
	list := slices.DeleteFunc(processes(), func(p process) bool { return !r.selected(p) })
	if err := r.order(list, sys); err != nil {
		return err
	}
	r.print(list, sys, cols)
	if len(list) == 0 {
		return tools.Status(1)
	}
	return nil
}

// long sets what a long option demands.
func (r *psRun) long(name, v string) error {
	switch name {
	case "no-headers", "no-heading":
		r.noHead = true
	case "sort":
		r.sort = v
	case "pid":
		r.pids, r.given = append(r.pids, list(v)...), true
	case "ppid":
		r.ppids, r.given = append(r.ppids, list(v)...), true
	case "format":
		r.columns(v)
	case "quick-pid":
		r.pids, r.given = append(r.pids, list(v)...), true
	case "forest":
		r.noTree()
	default:
		return tools.Usage("error: unknown gnu long option")
	}
	return nil
}

// noTree reports that processes are not shown as a tree.
func (r *psRun) noTree() {
	fmt.Fprintln(r.Err, "ps: processes are listed without their tree")
}

// option reads the first argument and its value, and gives the others.
func (r *psRun) option(args []string) ([]string, error) {
	a := args[0]
	args = args[1:]
	value := func(rest string) (string, error) {
		if rest != "" {
			return rest, nil
		}
		if len(args) == 0 {
			return "", tools.Usage("error: option %s needs a value", a)
		}
		v := args[0]
		args = args[1:]
		return v, nil
	}
	if long, ok := strings.CutPrefix(a, "--"); ok {
		name, v, has := strings.Cut(long, "=")
		var err error
		if !has && name != "no-headers" && name != "no-heading" && name != "forest" {
			v, err = value("")
		}
		return args, cmp.Or(r.long(name, v), err)
	}
	letters, dash := strings.CutPrefix(a, "-")
	if _, err := strconv.Atoi(letters); err == nil {
		r.pids, r.given = append(r.pids, letters), true
		return args, nil
	}
	for i := 0; i < len(letters); i++ {
		takes, err := r.letter(letters[i], dash)
		if err != nil {
			return nil, err
		}
		if !takes {
			continue
		}
		v, err := value(letters[i+1:])
		if err != nil {
			return nil, err
		}
		r.valued(letters[i], v)
		break
	}
	return args, nil
}

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// formats are the lists of columns that letters stand for: with a dash, and without.
var formats = map[bool]map[byte]string{
	true:  {'f': "user pid ppid c stime tname time cmd", 'F': "user pid ppid c stime tname time cmd", 'l': "s uid pid ppid c ni rss tname time ucmd", 'j': "pid pgid sid tname time ucmd"},
	false: {'u': "user pid %cpu %mem vsz rss tname stat start bsdtime args", 'l': "ppid pid pgid sid tname stat uid bsdtime args", 'j': "ppid pid pgid sid tname stat uid bsdtime args"},
}

// letter takes a letter, and reports whether it has a value.
func (r *psRun) letter(c byte, dash bool) (bool, error) {
	values, ignored := "opkq", "axwf"
	if dash {
		values, ignored = "opCuUkq", "aHwyeA"
	}
	f, isFormat := formats[dash][c]
	switch {
	case strings.IndexByte(values, c) >= 0:
		return true, nil
	case isFormat:
		if r.format = strings.Fields(f); dash && c|32 == 'f' {
			r.heads[0] = "UID"
		}
	case strings.IndexByte(ignored, c) < 0:
		return false, tools.Usage("error: option -%c is not supported", c)
	}
	if dash && c == 'H' || !dash && c == 'f' {
		r.noTree()
	}
	r.all = r.all || dash && (c == 'e' || c == 'A')
	r.terminals = r.terminals || c == 'a'
	if r.x = r.x || c == 'x'; !dash && len(r.format) == 0 {
		r.format = strings.Fields("pid tname stat bsdtime args")
	}
	return false, nil
}

func (r *psRun) valued(c byte, v string) {
	switch c {
	case 'o', 'O':
		if !r.bsd {
			r.format, r.heads, r.bsd = nil, map[int]string{}, true
		}
		r.columns(v)
		return
	case 'k':
		r.sort = v
		return
	}
	if l := map[byte]*[]string{'p': &r.pids, 'q': &r.pids, 'C': &r.names, 'u': &r.users, 'U': &r.users}[c]; l != nil {
		*l = append(*l, list(v)...)
	}
	r.given = true
}

// columns reads the list of -o; "pid=" and "pid=HEAD" change the heading.
func (r *psRun) columns(v string) {
	for _, w := range list(v) {
		name, head, has := strings.Cut(w, "=")
		if has {
			r.heads[len(r.format)] = head
		}
		r.format = append(r.format, name)
	}
}

func (r *psRun) selected(p process) bool {
	if r.given {
		return slices.Contains(r.pids, strconv.Itoa(p.pid)) || slices.Contains(r.names, p.name) || slices.Contains(r.ppids, strconv.Itoa(p.ppid)) || slices.Contains(r.users, userName(p.uid)) || slices.Contains(r.users, strconv.Itoa(int(p.uid)))
	}
	switch {
	case r.all || r.terminals && r.x:
		return true
	case r.terminals:
		return p.tty != 0 && p.sid != p.pid
	case r.x:
		return int(p.uid) == os.Geteuid()
	}
	self, err := os.ReadFile("/proc/self/stat")
	me, ok := parseStat(string(self))
	return err == nil && ok && p.tty == me.tty && int(p.uid) == os.Geteuid()
}

func (r *psRun) order(ps []process, sys system) error {
	if r.sort == "" {
		return nil
	}
	keys := map[string]func(p process) int64{"pid": func(p process) int64 { return int64(p.pid) }, "ppid": func(p process) int64 { return int64(p.ppid) }, "%cpu": sys.busy, "pcpu": sys.busy, "%mem": func(p process) int64 { return p.rss }, "pmem": func(p process) int64 { return p.rss }, "rss": func(p process) int64 { return p.rss }, "vsz": func(p process) int64 { return p.vsize }, "time": func(p process) int64 { return p.ticks }, "start_time": func(p process) int64 { return p.start }, "uid": func(p process) int64 { return int64(p.uid) }}
	for _, k := range slices.Backward(list(r.sort)) {
		fn, ok := keys[strings.TrimLeft(k, "+-")]
		if !ok {
			return tools.Usage("error: unknown sort specifier")
		}
		slices.SortStableFunc(ps, func(a, b process) int {
			if k[0] == '-' {
				return cmp.Compare(fn(b), fn(a))
			}
			return cmp.Compare(fn(a), fn(b))
		})
	}
	return nil
}

func (r *psRun) print(ps []process, sys system, cols map[string]column) {
	line := func(text func(i int, c column) string) {
		for i, f := range r.format {
			c := cols[f]
			switch {
			case i == len(r.format)-1 && c.width < 0:
				r.Printf("%s\n", text(i, c))
			case i == len(r.format)-1:
				r.Printf("%*s\n", c.width, text(i, c))
			default:
				r.Printf("%*s ", c.width, text(i, c))
			}
		}
	}
	blank := true
	head := func(i int, c column) string {
		if h, ok := r.heads[i]; ok {
			return h
		}
		return c.head
	}
	for i := range r.format {
		blank = blank && head(i, cols[r.format[i]]) == ""
	}
	if !r.noHead && !blank {
		line(head)
	}
	for _, p := range ps {
		line(func(_ int, c column) string { return c.text(sys, p) })
	}
}
