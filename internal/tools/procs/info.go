package procs

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func infoCommands() []tools.Command {
	return []tools.Command{
		{Name: "free", Opts: "b/bytes k/kibi m/mebi g/gibi h/human si w/wide t/total s/seconds: c/count:", Run: free},
		{Name: "uptime", Opts: "p/pretty s/since", Run: uptime},
		{Name: "uname", Opts: "a/all s/kernel-name n/nodename r/kernel-release v/kernel-version m/machine p/processor i/hardware-platform o/operating-system", Run: uname},
		{Name: "arch", Opts: "", Run: func(e *tools.Env) error { return printUname(e, []string{"m"}) }},
		{Name: "nproc", Opts: "all ignore:", Run: nproc},
		{Name: "id", Opts: "u/user g/group G/groups n/name r/real a", Synopsis: "[USER]", Run: id},
		{Name: "whoami", Opts: "", Run: func(e *tools.Env) error { e.Printf("%s\n", userName(uint32(os.Geteuid()))); return nil }},
		{Name: "tty", Opts: "s/silent/quiet", Bad: 2, Run: tty},
		{Name: "hostname", Opts: "s/short F/file:", Synopsis: "[NAME]", Run: hostname},
	}
}

func sysinfo() (unix.Sysinfo_t, error) {
	var i unix.Sysinfo_t
	return i, unix.Sysinfo(&i)
}

func uptimeSeconds() (float64, error) {
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0, err
	}
	s, _, _ := strings.Cut(string(b), " ")
	return strconv.ParseFloat(s, 64)
}

func free(e *tools.Env) error {
	every, err := strconv.ParseFloat(e.Or("s", "1"), 64)
	if err != nil {
		return fmt.Errorf("seconds argument failed: '%s'", e.Val("s"))
	}
	count, err := e.Int("c", 1)
	if err != nil {
		return err
	}
	if e.On("s") && !e.On("c") {
		count = 1 << 30
	}
	for i := range count {
		if i > 0 {
			e.Printf("\n")
			if err := e.Out.Flush(); err != nil {
				return err
			}
			time.Sleep(time.Duration(every * float64(time.Second)))
		}
		if err := memory(e); err != nil {
			return err
		}
	}
	return nil
}

func memory(e *tools.Env) error {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return err
	}
	m := map[string]uint64{}
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		if len(f) > 1 {
			n, err := strconv.ParseUint(f[1], 10, 64)
			if err == nil {
				m[strings.TrimSuffix(f[0], ":")] = n
			}
		}
	}
	o, _ := e.Last("b", "k", "m", "g", "h")
	show := func(n uint64) string {
		base := uint64(1024)
		if e.On("si") {
			base = 1000
		}
		if o.Name == "h" {
			return human(n*1024, base)
		}
		n *= 1024
		return strconv.FormatUint(n/map[string]uint64{"b": 1, "": base, "k": base, "m": base * base, "g": base * base * base}[o.Name], 10)
	}
	cached := m["Cached"] + m["SReclaimable"]
	used := m["MemTotal"] - m["MemAvailable"]
	rows := [][]uint64{{m["MemTotal"], used, m["MemFree"], m["Shmem"]}, {m["SwapTotal"], m["SwapTotal"] - m["SwapFree"], m["SwapFree"]}}
	if e.On("w") {
		e.Printf("%20s%12s%12s%12s%12s%12s%12s\n", "total", "used", "free", "shared", "buffers", "cache", "available")
		rows[0] = append(rows[0], m["Buffers"], cached, m["MemAvailable"])
	} else {
		e.Printf("%20s%12s%12s%12s%12s%12s\n", "total", "used", "free", "shared", "buff/cache", "available")
		rows[0] = append(rows[0], m["Buffers"]+cached, m["MemAvailable"])
	}
	if e.On("t") {
		rows = append(rows, []uint64{rows[0][0] + rows[1][0], rows[0][1] + rows[1][1], rows[0][2] + rows[1][2]})
	}
	for i, r := range rows {
		e.Printf("%-9s", []string{"Mem:", "Swap:", "Total:"}[i])
		for j, n := range r {
			e.Printf("%*s", map[bool]int{true: 11, false: 12}[j == 0], show(n))
		}
		e.Printf("\n")
	}
	return nil
}

// human is a number of bytes as free -h has it: 1.5Gi.
func human(n, base uint64) string {
	f, i := float64(n), 0
	for f >= float64(base) && i < 5 {
		f /= float64(base)
		i++
	}
	unit := []string{"B", "Ki", "Mi", "Gi", "Ti", "Pi"}[i]
	if base == 1000 && i > 0 {
		unit = unit[:1]
	}
	if s := fmt.Sprintf("%.1f%s", f, unit); i > 0 && f < 9.95 {
		return s
	}
	return fmt.Sprintf("%d%s", int64(f), unit)
}

func uptime(e *tools.Env) error {
	up, err := uptimeSeconds()
	if err != nil {
		return err
	}
	n := int64(up)
	now := time.Now()
	if e.On("s") {
		e.Printf("%s\n", now.Add(-time.Duration(up*float64(time.Second))).Format("2006-01-02 15:04:05"))
		return nil
	}
	if e.On("p") {
		var parts []string
		for _, u := range []struct {
			name string
			n    int64
		}{{"week", n / 604800}, {"day", n / 86400 % 7}, {"hour", n / 3600 % 24}, {"minute", n / 60 % 60}} {
			if u.n == 1 {
				parts = append(parts, "1 "+u.name)
			} else if u.n > 1 || u.name == "minute" && parts == nil {
				parts = append(parts, fmt.Sprintf("%d %ss", u.n, u.name))
			}
		}
		e.Printf("up %s\n", strings.Join(parts, ", "))
		return nil
	}
	s := ""
	switch d := n / 86400; {
	case d == 1:
		s = "1 day, "
	case d > 1:
		s = fmt.Sprintf("%d days, ", d)
	}
	if h := n / 3600 % 24; h > 0 {
		s += fmt.Sprintf("%2d:%02d", h, n/60%60)
	} else {
		s += fmt.Sprintf("%d min", n/60%60)
	}
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	load := strings.Fields(string(b))
	who, err := users1()
	if err != nil {
		return err
	}
	e.Printf(" %s up %s,  %d user%s,  load average: %s\n", now.Format("15:04:05"), s, who, map[bool]string{true: "s"}[who > 1], strings.Join(load[:3], ", "))
	return nil
}

// users1 is the number of sessions in utmp; none where there is no such file.
func users1() (int, error) {
	b, err := os.ReadFile("/run/utmp")
	if os.IsNotExist(err) {
		return 0, nil
	}
	const record, userProcess = 384, 7 // utmp(5)
	n := 0
	for ; len(b) >= record; b = b[record:] {
		if b[0] == userProcess {
			n++
		}
	}
	return n, err
}

func uname(e *tools.Env) error {
	var fields []string
	for _, f := range []string{"s", "n", "r", "v", "m", "p", "i", "o"} {
		if e.On(f) || e.On("a") && f != "p" && f != "i" {
			fields = append(fields, f)
		}
	}
	if fields == nil {
		fields = []string{"s"}
	}
	return printUname(e, fields)
}

func printUname(e *tools.Env, fields []string) error {
	if len(e.Args) > 0 {
		return tools.Usage("extra operand '%s'", e.Args[0])
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	text := func(b [65]byte) string { return unix.ByteSliceToString(b[:]) }
	all := map[string]string{"s": text(u.Sysname), "n": text(u.Nodename), "r": text(u.Release), "v": text(u.Version), "m": text(u.Machine), "p": "unknown", "i": "unknown", "o": "GNU/Linux"}
	var out []string
	for _, f := range fields {
		out = append(out, all[f])
	}
	e.Printf("%s\n", strings.Join(out, " "))
	return nil
}

func nproc(e *tools.Env) error {
	n := runtime.NumCPU()
	if dirs, err := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*"); e.On("all") && err == nil {
		n = max(n, len(dirs))
	}
	less, err := e.Int("ignore", 0)
	if err != nil {
		return err
	}
	e.Printf("%d\n", max(1, n-less))
	return nil
}

// named is the user that the operand names, with all groups.
func named(e *tools.Env) (u *user.User, groups []string, err error) {
	if u, err = user.Lookup(e.Args[0]); err != nil {
		if u, err = user.LookupId(e.Args[0]); err != nil {
			return nil, nil, fmt.Errorf("'%s': no such user", e.Args[0])
		}
	}
	if groups, err = u.GroupIds(); err != nil {
		groups = []string{u.Gid}
	}
	return u, groups, nil
}

// self is the effective user of this process, or the real one, with all groups.
func self(e *tools.Env) (*user.User, []string, error) {
	u := &user.User{Uid: strconv.Itoa(os.Geteuid()), Gid: strconv.Itoa(os.Getegid())}
	if e.On("r") {
		u = &user.User{Uid: strconv.Itoa(os.Getuid()), Gid: strconv.Itoa(os.Getgid())}
	}
	gs, err := os.Getgroups()
	var groups []string
	for _, g := range gs {
		groups = append(groups, strconv.Itoa(g))
	}
	return u, groups, err
}

func id(e *tools.Env) error {
	if err := e.Need(0, 1); err != nil {
		return err
	}
	find := self
	if len(e.Args) == 1 {
		find = named
	}
	u, groups, err := find(e)
	if err != nil {
		return err
	}
	groups = slices.DeleteFunc(groups, func(g string) bool { return g == u.Gid })
	groups = append([]string{u.Gid}, groups...)
	name := func(id string, group bool) string {
		if group {
			if g, err := user.LookupGroupId(id); err == nil {
				return g.Name
			}
		} else if x, err := user.LookupId(id); err == nil {
			return x.Username
		}
		return ""
	}
	plain := func(id string, group bool) string {
		if n := name(id, group); e.On("n") && n != "" {
			return n
		}
		return id
	}
	both := func(id string, group bool) string {
		if n := name(id, group); n != "" {
			return id + "(" + n + ")"
		}
		return id
	}
	switch o, _ := e.Last("u", "g", "G"); o.Name {
	case "u":
		e.Printf("%s\n", plain(u.Uid, false))
	case "g":
		e.Printf("%s\n", plain(u.Gid, true))
	case "G":
		for i, g := range groups {
			groups[i] = plain(g, true)
		}
		e.Printf("%s\n", strings.Join(groups, " "))
	default:
		for i, g := range groups {
			groups[i] = both(g, true)
		}
		e.Printf("uid=%s gid=%s groups=%s\n", both(u.Uid, false), both(u.Gid, true), strings.Join(groups, ","))
	}
	return nil
}

func tty(e *tools.Env) error {
	if !term.IsTerminal(0) {
		if !e.On("s") {
			e.Printf("not a tty\n")
		}
		e.Set(1)
		return nil
	}
	n, err := os.Readlink("/proc/self/fd/0")
	if !e.On("s") {
		e.Printf("%s\n", n)
	}
	return err
}

func hostname(e *tools.Env) error {
	if f := e.Val("F"); f != "" {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		e.Args = strings.Fields(string(b))
	}
	if len(e.Args) > 0 {
		return unix.Sethostname([]byte(e.Args[0]))
	}
	h, err := os.Hostname()
	if e.On("s") {
		h, _, _ = strings.Cut(h, ".")
	}
	e.Printf("%s\n", h)
	return err
}
