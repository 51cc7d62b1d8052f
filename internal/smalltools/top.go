package smalltools

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// process is a line of /proc/PID/stat, proc_pid_stat(5).
type process struct {
	pid   int
	name  string
	state string
	ticks int64 // of the processor, in 1/100 s
	rss   int64 // pages
}

func processes(root string) []process {
	dirs, err := filepath.Glob(root + "/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	var out []process
	for _, d := range dirs {
		b, err := os.ReadFile(d)
		if err != nil {
			continue // it ended
		}
		if p, ok := parseStat(string(b)); ok {
			out = append(out, p)
		}
	}
	return out
}

// StatFields divides a line of /proc/PID/stat into number, name and the fields behind it,
// of which the first is the state. The name may hold spaces and brackets.
func StatFields(s string) (pid int, name string, fields []string, ok bool) {
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if open < 1 || end < open {
		return 0, "", nil, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(s[:open]))
	fields = strings.Fields(s[end+1:])
	return pid, s[open+1 : end], fields, err == nil && len(fields) >= 22
}

func parseStat(s string) (process, bool) {
	pid, name, f, ok := StatFields(s)
	if !ok {
		return process{}, false
	}
	n := func(s string) int64 { v, err := strconv.ParseInt(s, 10, 64); ok = ok && err == nil; return v }
	p := process{pid: pid, name: name, state: f[0], ticks: n(f[11]) + n(f[12]), rss: n(f[21])}
	return p, ok
}

// Top shows the busiest processes: top [-n TIMES] [-d SECONDS]
func Top(s IO, args []string) error {
	f := flags(s, "top", "[-n TIMES] [-d SECONDS]")
	times := f.Int("n", 0, "end after so many screens; 0: at q or Ctrl-C")
	delay := f.Float64("d", 2, "seconds between two screens")
	if _, err := parse(f, args); err != nil {
		return err
	}
	if *delay < 0.1 {
		*delay = 0.1
	}
	key := make(chan byte)
	file, ok := s.In.(*os.File)
	raw := ok && term.IsTerminal(int(file.Fd())) && *times == 0
	if raw {
		old, err := term.MakeRaw(int(file.Fd()))
		if err != nil {
			return err
		}
		defer term.Restore(int(file.Fd()), old)
		go func() {
			b := make([]byte, 1)
			for {
				if n, err := file.Read(b); n == 0 || err != nil {
					return
				}
				key <- b[0]
			}
		}()
	}
	before := map[int]int64{}
	for _, p := range processes("") {
		before[p.pid] = p.ticks
	}
	for i := 0; *times == 0 || i < *times; i++ {
		select {
		case k := <-key:
			if k == 'q' || k == 3 {
				return nil
			}
		case <-time.After(time.Duration(*delay * float64(time.Second))):
		}
		rows := 20
		if raw {
			fmt.Fprint(s.Out, "\x1b[H\x1b[J")
			if _, h, err := term.GetSize(int(file.Fd())); err == nil && h > 4 {
				rows = h - 3
			}
		}
		ps := processes("")
		topScreen(s.Out, ps, before, *delay, rows)
		if f, ok := s.Out.(interface{ Flush() error }); ok { // each screen, and not some of them at once
			if err := f.Flush(); err != nil {
				return fmt.Errorf("cannot write to standard output: %w", err)
			}
		}
		clear(before)
		for _, p := range ps {
			before[p.pid] = p.ticks
		}
	}
	return nil
}

func topScreen(w io.Writer, ps []process, before map[int]int64, seconds float64, rows int) {
	busy := func(p process) int64 { return p.ticks - before[p.pid] }
	slices.SortFunc(ps, func(a, b process) int {
		return cmp.Or(cmp.Compare(busy(b), busy(a)), cmp.Compare(b.rss, a.rss), cmp.Compare(a.pid, b.pid))
	})
	load, _ := os.ReadFile("/proc/loadavg") // a line less to show
	free := ""
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		for _, l := range strings.Split(string(b), "\n") {
			if strings.HasPrefix(l, "MemTotal:") || strings.HasPrefix(l, "MemAvailable:") {
				free += " " + strings.Join(strings.Fields(l), " ")
			}
		}
	}
	fmt.Fprintf(w, "load %s%s\r\n%7s %5s %8s %s %s\r\n", strings.TrimSpace(string(load)), free, "PID", "CPU%", "MEM KiB", "S", "NAME")
	for _, p := range ps[:min(rows, len(ps))] {
		fmt.Fprintf(w, "%7d %5.1f %8d %s %s\r\n", p.pid, float64(busy(p))/seconds, p.rss*int64(os.Getpagesize())/1024, p.state, printable.Clean(p.name))
	}
}
