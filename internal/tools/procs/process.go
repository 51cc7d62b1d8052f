package procs

import (
	"cmp"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/smalltools"
)

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
	pid, name, f, ok := smalltools.StatFields(s)
	if !ok {
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
	return process{pid: pid, name: name, state: f[0], ppid: int(n[1]), pgrp: int(n[2]), sid: int(n[3]), tty: int(n[4]), tpgid: int(n[5]), ticks: n[11] + n[12], nice: int(n[16]), threads: int(n[17]), start: n[19], vsize: n[20], rss: n[21] * int64(os.Getpagesize())}, true
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

// start is the time for a process of today, the day for one of this year, and the year otherwise.
func (s system) start(p process) string {
	t := s.started(p)
	switch {
	case t.Year() != s.now.Year():
		return t.Format("2006")
	case t.YearDay() != s.now.YearDay():
		return t.Format("Jan02")
	}
	return t.Format("15:04")
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
