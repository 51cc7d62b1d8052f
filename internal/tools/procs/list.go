package procs

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func listCommands() []tools.Command {
	const grep = "f/full x/exact v/inverse n/newest o/oldest u/euid: U/uid: P/parent: g/pgroup: t/terminal: i/ignore-case c/count "
	return []tools.Command{
		{Name: "ps", Opts: "-", Synopsis: "[aux] [-ef] [-o FORMAT] [-p PIDS] [-C NAME] [-u USERS] [--sort KEY]", Run: ps},
		{Name: "pgrep", Opts: grep + "l/list-name a/list-full d/delimiter:", Synopsis: "PATTERN", Bad: 2, Run: pgrep},
		{Name: "pkill", Opts: "-", Synopsis: "[-SIGNAL] [-fxvnoi] [-u USER] PATTERN", Bad: 2, Run: pkill},
		{Name: "pidof", Opts: "s/single-shot x q o/omit-pid: c S:", Synopsis: "PROGRAM...", Run: pidof},
		{Name: "kill", Opts: "-", Synopsis: "[-SIGNAL | -s SIGNAL] PID... | -l [NUMBER]", Run: kill},
		{Name: "killall", Opts: "-", Synopsis: "[-SIGNAL] [-qv] NAME...", Run: killall},
		{Name: "fuser", Opts: "-", Synopsis: "[-kmsv] [-SIGNAL] NAME...", Run: fuser},
		{Name: "lsof", Opts: "p: t n P w D: c: u: i?", Synopsis: "[NAME]...", Run: lsof},
	}
}

// process is what /proc has of a process; proc_pid_stat(5).
type process struct {
	pid, ppid, pgrp, sid, tty, tpgid int
	name, state                      string
	nice, threads                    int
	ticks                            int64 // of the processor, in 1/100 s
	start                            int64 // ticks after boot
	vsize, rss                       int64 // bytes
	uid, gid                         uint32
	ruid                             uint32
	locked                           bool
	args                             []string
}

const hertz = 100 // USER_HZ on every Linux

func parseStat(s string) (p process, ok bool) {
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if open < 1 || end < open {
		return p, false
	}
	f := strings.Fields(s[end+1:])
	if len(f) < 22 {
		return p, false
	}
	var n [22]int64
	for i, w := range f[:22] {
		v, err := strconv.ParseInt(w, 10, 64)
		if err != nil && i != 0 {
			u, err := strconv.ParseUint(w, 10, 64)
			if err != nil {
				return p, false
			}
			v = int64(u)
		}
		n[i] = v
	}
	pid, err := strconv.Atoi(strings.TrimSpace(s[:open]))
	return process{pid: pid, name: s[open+1 : end], state: f[0], ppid: int(n[1]), pgrp: int(n[2]), sid: int(n[3]), tty: int(n[4]), tpgid: int(n[5]), ticks: n[11] + n[12], nice: int(n[16]), threads: int(n[17]), start: n[19], vsize: n[20], rss: n[21] * int64(os.Getpagesize())}, err == nil
}

func processes() []process {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	var out []process
	for _, d := range dirs {
		b, err := os.ReadFile(d + "/stat")
		if err != nil {
			continue // it ended
		}
		p, ok := parseStat(string(b))
		if !ok {
			continue
		}
		if b, err := os.ReadFile(d + "/status"); err == nil {
			for l := range strings.Lines(string(b)) {
				f := strings.Fields(l)
				switch {
				case len(f) > 2 && f[0] == "Uid:":
					p.ruid, p.uid = number(f[1]), number(f[2])
				case len(f) > 2 && f[0] == "Gid:":
					p.gid = number(f[2])
				case len(f) > 1 && f[0] == "VmLck:":
					p.locked = f[1] != "0"
				}
			}
		}
		if b, err := os.ReadFile(d + "/cmdline"); err == nil && len(b) > 0 {
			p.args = strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b process) int { return cmp.Compare(a.pid, b.pid) })
	return out
}

func number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

func (p process) command() string {
	if len(p.args) == 0 {
		return "[" + printable.Clean(p.name) + "]"
	}
	return printable.Clean(strings.Join(p.args, " "))
}

// stat is the state with its signs: session leader, threads, priority, foreground.
func (p process) stat() string {
	s := p.state
	switch {
	case p.nice < 0:
		s += "<"
	case p.nice > 0:
		s += "N"
	}
	if p.locked {
		s += "L"
	}
	if p.sid == p.pid {
		s += "s"
	}
	if p.threads > 1 {
		s += "l"
	}
	if p.tpgid == p.pgrp {
		s += "+"
	}
	return s
}

func (p process) terminal() string {
	if p.tty == 0 {
		return "?"
	}
	major, minor := p.tty>>8&0xfff, p.tty&0xff|p.tty>>12&0xfff00
	switch {
	case major == 4 && minor < 64:
		return fmt.Sprintf("tty%d", minor)
	case major == 4:
		return fmt.Sprintf("ttyS%d", minor-64)
	case major >= 136 && major < 144:
		return fmt.Sprintf("pts/%d", (major-136)*256+minor)
	case major == 229:
		return fmt.Sprintf("hvc%d", minor)
	case major == 5 && minor == 1:
		return "console"
	}
	return fmt.Sprintf("%d,%d", major, minor)
}

// system is what the values of all processes are compared with.
type system struct {
	boot   time.Time
	now    time.Time
	memory int64 // bytes
}

func newSystem() system {
	s := system{now: time.Now(), memory: 1}
	if i, err := sysinfo(); err == nil {
		s.memory = int64(i.Totalram) * int64(i.Unit)
	}
	if up, err := uptimeSeconds(); err == nil {
		s.boot = s.now.Add(-time.Duration(up * float64(time.Second)))
	}
	return s
}

func (s system) started(p process) time.Time {
	return s.boot.Add(time.Duration(p.start) * time.Second / hertz)
}

// tenths is the processor use since the start, in 1/1000.
func (s system) busy(p process) int64 {
	alive := s.now.Sub(s.started(p)).Seconds()
	if alive < 1 {
		return 0
	}
	return int64(float64(p.ticks) / hertz * 1000 / alive)
}

func clock(seconds int64, hours bool) string {
	if !hours {
		return fmt.Sprintf("%d:%02d", seconds/60, seconds%60)
	}
	s := fmt.Sprintf("%02d:%02d:%02d", seconds/3600%24, seconds/60%60, seconds%60)
	if d := seconds / 86400; d > 0 {
		s = fmt.Sprintf("%d-%s", d, s)
	}
	return s
}

func (s system) start(p process) string {
	t := s.started(p)
	switch {
	case s.now.Sub(t) < 24*time.Hour:
		return t.Format("15:04")
	case t.Year() == s.now.Year():
		return t.Format("Jan02")
	}
	return t.Format("2006")
}

func userName(id uint32) string {
	s := strconv.FormatUint(uint64(id), 10)
	u, err := user.LookupId(s)
	if err != nil {
		return s
	}
	return u.Username
}

// shortUser is a name that fits into a column; a long one is cut.
func shortUser(id uint32) string {
	if n := userName(id); len(n) <= 8 {
		return n
	}
	return userName(id)[:7] + "+"
}

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
		case "forest":
		default:
			return nil, tools.Usage("error: unknown gnu long option")
		}
		return args, err
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
	true:  {'f': "user pid ppid c stime tname time cmd", 'F': "user pid ppid c stime tname time cmd", 'l': "s uid pid ppid c ni rss tname time ucmd"},
	false: {'u': "user pid %cpu %mem vsz rss tname stat start bsdtime args", 'l': "ppid pid pgid sid tname stat uid bsdtime args", 'j': "ppid pid pgid sid tname stat uid bsdtime args"},
}

// letter takes a letter, and reports whether it has a value.
func (r *psRun) letter(c byte, dash bool) (bool, error) {
	values, ignored := "opk", "axwfeHcnluj"
	if dash {
		values, ignored = "opCuUk", "aNHLTwjyfFleA"
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
		return false, tools.Usage("error: unsupported option")
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
	case 'p':
		r.pids = append(r.pids, list(v)...)
	case 'C':
		r.names = append(r.names, list(v)...)
	case 'u', 'U':
		r.users = append(r.users, list(v)...)
	case 'k':
		r.sort = v
		return
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

// find gives the processes that pgrep and pkill select.
func find(e *tools.Env) ([]process, error) {
	if len(e.Args) > 1 {
		return nil, tools.Usage("only one pattern can be provided")
	}
	if len(e.Args) == 0 && !e.On("u", "U", "P", "g", "t") {
		return nil, tools.Usage("no matching criteria specified")
	}
	pattern := strings.Join(e.Args, "")
	if e.On("x") {
		pattern = "^(?:" + pattern + ")$"
	}
	if e.On("i") {
		pattern = "(?i)" + pattern
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	out := slices.DeleteFunc(processes(), func(p process) bool {
		text := p.name
		if e.On("f") && len(p.args) > 0 {
			text = strings.Join(p.args, " ")
		}
		return p.pid == os.Getpid() || (re.MatchString(text) && belongs(e, p)) == e.On("v")
	})
	if n := len(out); n > 0 && e.On("n", "o") {
		slices.SortStableFunc(out, func(a, b process) int { return cmp.Compare(a.start, b.start) })
		if e.On("n") {
			return out[n-1:], nil
		}
		return out[:1], nil
	}
	return out, nil
}

// belongs reports whether a process has the owner, parent, group and terminal of the options.
func belongs(e *tools.Env, p process) bool {
	in := func(option string, values ...string) bool {
		return !e.On(option) || slices.ContainsFunc(list(e.Val(option)), func(w string) bool { return slices.Contains(values, w) })
	}
	id := strconv.Itoa
	return in("u", userName(p.uid), id(int(p.uid))) && in("U", userName(p.ruid), id(int(p.ruid))) && in("P", id(p.ppid)) && in("g", id(p.pgrp)) && in("t", p.terminal())
}

func pgrep(e *tools.Env) error {
	ps, err := find(e)
	if err != nil {
		return err
	}
	var out []string
	for _, p := range ps {
		s := strconv.Itoa(p.pid)
		switch {
		case e.On("a"):
			s += " " + p.command()
		case e.On("l"):
			s += " " + printable.Clean(p.name)
		}
		out = append(out, s)
	}
	switch {
	case e.On("c"):
		e.Printf("%d\n", len(out))
	case len(out) > 0:
		e.Printf("%s\n", strings.Join(out, e.Or("d", "\n")))
	}
	if len(out) == 0 {
		return tools.Status(1)
	}
	return nil
}

// signalArg takes a signal such as -9, -HUP, -s 9 or --signal 9 out of arguments.
func signalArg(args []string) (syscall.Signal, []string, error) {
	sig, taken := syscall.SIGTERM, false
	var rest []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		v := ""
		switch {
		case taken || len(a) < 2 || a[0] != '-':
		case (a == "-s" || a == "--signal") && i+1 < len(args):
			i++
			v = args[i]
		case strings.HasPrefix(a, "--signal="):
			v = a[len("--signal="):]
		default:
			if s, err := signalOf(a[1:]); err == nil {
				sig, taken = s, true
				continue
			}
		}
		if v == "" {
			rest = append(rest, a)
			continue
		}
		s, err := signalOf(v)
		if err != nil {
			return 0, nil, err
		}
		sig, taken = s, true
	}
	return sig, rest, nil
}

// signalOf reads a number or a name, with or without SIG.
func signalOf(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n <= 64 {
		return syscall.Signal(n), nil
	}
	if n := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")); n != 0 {
		return n, nil
	}
	return 0, fmt.Errorf("invalid signal: %s", s)
}

func signalName(s syscall.Signal) string {
	return strings.TrimPrefix(unix.SignalName(s), "SIG")
}

func pkill(e *tools.Env) error {
	sig, args, err := signalArg(e.Args)
	if err != nil {
		return err
	}
	o, rest, err := tools.Parse("f/full x/exact v/inverse n/newest o/oldest u/euid: U/uid: P/parent: g/pgroup: t/terminal: i/ignore-case c/count e/echo", args)
	if err != nil {
		return tools.Usage("%v", err)
	}
	e.Options, e.Args = o, rest
	ps, err := find(e)
	if err != nil {
		return err
	}
	for _, p := range ps {
		if err := unix.Kill(p.pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			e.Warn("killing pid %d failed: %s", p.pid, tools.Cause(err))
		} else if e.On("e") {
			e.Printf("%s killed (pid %d)\n", printable.Clean(p.name), p.pid)
		}
	}
	if e.On("c") {
		e.Printf("%d\n", len(ps))
	}
	if len(ps) == 0 {
		return tools.Status(1)
	}
	return nil
}

func pidof(e *tools.Env) error {
	var out []string
	for _, p := range slices.Backward(processes()) {
		for _, n := range e.Args {
			exe := ""
			if len(p.args) > 0 {
				exe = p.args[0]
			}
			if (p.name == n || exe == n || filepath.Base(exe) == n && exe != "") && p.state != "Z" && p.pid != os.Getpid() && !slices.Contains(list(e.Val("o")), strconv.Itoa(p.pid)) {
				out = append(out, strconv.Itoa(p.pid))
				break
			}
		}
	}
	if len(out) == 0 {
		return tools.Status(1)
	}
	if e.On("s") {
		out = out[:1]
	}
	if !e.On("q") {
		e.Printf("%s\n", strings.Join(out, " "))
	}
	return nil
}

func kill(e *tools.Env) error {
	if len(e.Args) > 0 && (e.Args[0] == "-l" || e.Args[0] == "-L" || e.Args[0] == "--list" || e.Args[0] == "--table") {
		return listSignals(e, e.Args[1:])
	}
	sig, args, err := signalArg(e.Args)
	if err != nil {
		return err
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return tools.Usage("not enough arguments")
	}
	for _, a := range args {
		pid, err := strconv.Atoi(a)
		if err != nil {
			e.Warn("failed to parse argument: '%s'", a)
			continue
		}
		if err := unix.Kill(pid, sig); err != nil {
			e.Warn("(%d): %s", pid, tools.Cause(err))
		}
	}
	return nil
}

func listSignals(e *tools.Env, args []string) error {
	for _, a := range args {
		n, err := strconv.Atoi(a)
		s, serr := signalOf(a)
		switch {
		case err == nil && signalName(syscall.Signal(n&127)) != "":
			e.Printf("%s\n", signalName(syscall.Signal(n&127)))
		case err != nil && serr == nil:
			e.Printf("%d\n", s)
		default:
			return fmt.Errorf("unknown signal name %s", a)
		}
	}
	if len(args) > 0 {
		return nil
	}
	var all []string
	for i := 1; i < 32; i++ {
		all = append(all, strings.Replace(signalName(syscall.Signal(i)), "IO", "POLL", 1))
	}
	e.Printf("%s\n%s\n", strings.Join(all[:16], " "), strings.Join(all[16:], " "))
	return nil
}

func killall(e *tools.Env) error {
	sig, args, err := signalArg(e.Args)
	if err != nil {
		return err
	}
	o, names, err := tools.Parse("q/quiet v/verbose w/wait e/exact I/ignore-case i/interactive", args)
	if err != nil {
		return tools.Usage("%v", err)
	}
	if len(names) == 0 {
		return tools.Usage("no process name specified")
	}
	all := processes()
	for _, n := range names {
		found := false
		for _, p := range all {
			if p.pid == os.Getpid() || p.name != n && (len(p.args) == 0 || filepath.Base(p.args[0]) != n) {
				continue
			}
			if err := unix.Kill(p.pid, sig); err != nil {
				e.Warn("%s(%d): %s", n, p.pid, tools.Cause(err))
			} else if found = true; o.On("v") {
				e.Fault(0, "Killed %s(%d) with signal %d", n, p.pid, sig)
			}
		}
		if !found {
			e.Set(1)
			if !o.On("q") {
				fmt.Fprintf(e.Err, "%s: no process found\n", printable.Clean(n))
			}
		}
	}
	return nil
}

// use is how a process uses a file or file system.
type use struct {
	p     process
	marks string // c directory, e program, f open file, m mapped, r root
}

// opened is one thing that a process has open.
type opened struct {
	fd, path string
	mark     byte
	dev, ino uint64
}

func (p process) open() []opened {
	dir := fmt.Sprintf("/proc/%d/", p.pid)
	var out []opened
	add := func(fd, link string, mark byte) {
		path, err := os.Readlink(link)
		if err != nil {
			return
		}
		var st unix.Stat_t
		o := opened{fd: fd, path: path, mark: mark}
		if unix.Stat(link, &st) == nil {
			o.dev, o.ino = st.Dev, st.Ino
			if st.Mode&unix.S_IFMT == unix.S_IFBLK {
				o.dev = st.Rdev
			}
		}
		out = append(out, o)
	}
	add("cwd", dir+"cwd", 'c')
	add("rtd", dir+"root", 'r')
	add("txt", dir+"exe", 'e')
	fds, err := os.ReadDir(dir + "fd")
	if err == nil {
		for _, f := range fds {
			add(f.Name(), dir+"fd/"+f.Name(), 'f')
		}
	}
	maps, err := os.ReadDir(dir + "map_files")
	if err == nil {
		seen := map[string]bool{}
		for _, f := range maps {
			if l, err := os.Readlink(dir + "map_files/" + f.Name()); err == nil && !seen[l] {
				seen[l] = true
				add("mem", dir+"map_files/"+f.Name(), 'm')
			}
		}
	}
	return out
}

// users finds who uses what is at a path; with whole, the file system that it is on.
func users(path string, whole bool) ([]use, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, err
	}
	dev := st.Dev
	if whole && st.Mode&unix.S_IFMT == unix.S_IFBLK {
		dev = st.Rdev
	}
	var out []use
	for _, p := range processes() {
		marks := ""
		for _, o := range p.open() {
			if (o.dev == dev && (whole || o.ino == st.Ino)) && !strings.Contains(marks, string(o.mark)) && p.pid != os.Getpid() {
				marks += string(o.mark)
			}
		}
		if marks != "" {
			out = append(out, use{p, marks})
		}
	}
	return out, nil
}

func fuser(e *tools.Env) error {
	sig, args := syscall.SIGKILL, []string{}
	for _, a := range e.Args {
		// -k and -s are options: the name of a signal has three letters and more.
		if s, err := signalOf(strings.TrimPrefix(a, "-")); err == nil && a[0] == '-' {
			sig = s
		} else {
			args = append(args, a)
		}
	}
	o, names, err := tools.Parse("k/kill m/mount s/silent v/verbose a/all u/user i/interactive M/ismountpoint c", args)
	if err != nil {
		return tools.Usage("%v", err)
	}
	if len(names) == 0 {
		return tools.Usage("no process specification given")
	}
	any := false
	for _, n := range names {
		us, err := users(n, o.On("m", "c"))
		if err != nil {
			fmt.Fprintf(e.Err, "Specified filename %s does not exist.\n", printable.Clean(n))
			e.Set(1)
			continue
		}
		if len(us) == 0 {
			continue
		}
		any = true
		abs, err := filepath.Abs(n)
		if err != nil {
			return err
		}
		if !o.On("s") {
			if o.On("v") {
				fmt.Fprintf(e.Err, "%*s USER        PID ACCESS COMMAND\n", len(abs)+1, "")
			}
			fmt.Fprintf(e.Err, "%s:", abs)
		}
		for _, u := range us {
			switch letters := strings.NewReplacer("f", "").Replace(u.marks); {
			case o.On("s"):
			case o.On("v"):
				e.Printf(" %-8s %6d %-6s %s\n", shortUser(u.p.uid), u.p.pid, u.marks, printable.Clean(u.p.name))
			default:
				e.Printf("%6d", u.p.pid)
				if err := e.Out.Flush(); err != nil {
					return err
				}
				fmt.Fprint(e.Err, letters)
			}
			if o.On("k") {
				if err := unix.Kill(u.p.pid, sig); err != nil {
					e.Warn("could not kill process %d: %s", u.p.pid, tools.Cause(err))
				}
			}
		}
		if !o.On("s", "v") {
			fmt.Fprintln(e.Err)
		}
	}
	if !any {
		return tools.Status(1)
	}
	return nil
}

// place is a file, or with whole a file system, that lsof looks for.
type place struct {
	dev, ino uint64
	whole    bool
}

func (l place) has(o opened) bool { return o.dev == l.dev && (l.whole || o.ino == l.ino) }

// placeOf is what a name of lsof means: of a mount point and a device the file system.
func placeOf(name string) (place, error) {
	var st, up unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return place{}, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return place{st.Rdev, 0, true}, nil
	case unix.S_IFDIR:
		mounted := unix.Stat(name+"/..", &up) == nil && (up.Dev != st.Dev || up.Ino == st.Ino)
		return place{st.Dev, st.Ino, mounted}, nil
	}
	return place{st.Dev, st.Ino, false}, nil
}

func lsof(e *tools.Env) error {
	var want []place
	for _, n := range e.Args {
		l, err := placeOf(n)
		if err != nil {
			e.Warn("status error on %s: %s", n, tools.Cause(err))
			continue
		}
		want = append(want, l)
	}
	if len(e.Args) > 0 && len(want) == 0 {
		return nil
	}
	found := false
	for _, p := range processes() {
		if e.On("p") && !slices.Contains(list(e.Val("p")), strconv.Itoa(p.pid)) || !strings.HasPrefix(p.name, e.Val("c")) || e.On("u") && !slices.Contains(list(e.Val("u")), userName(p.uid)) || p.pid == os.Getpid() {
			continue
		}
		os := slices.DeleteFunc(p.open(), func(o opened) bool {
			return len(want) > 0 && !slices.ContainsFunc(want, func(l place) bool { return l.has(o) })
		})
		if len(os) == 0 {
			continue
		}
		if e.On("t") {
			e.Printf("%d\n", p.pid)
		} else {
			lsofLines(e, p, os, !found)
		}
		found = true
	}
	if !found {
		return tools.Status(1)
	}
	return nil
}

func lsofLines(e *tools.Env, p process, os []opened, heading bool) {
	if heading {
		e.Printf("%-15s %7s %-8s %4s %7s %10s %s\n", "COMMAND", "PID", "USER", "FD", "DEVICE", "NODE", "NAME")
	}
	for _, o := range os {
		dev := fmt.Sprintf("%d,%d", unix.Major(o.dev), unix.Minor(o.dev))
		e.Printf("%-15s %7d %-8s %4s %7s %10d %s\n", printable.Clean(p.name), p.pid, shortUser(p.uid), o.fd, dev, o.ino, printable.Clean(o.path))
	}
}
