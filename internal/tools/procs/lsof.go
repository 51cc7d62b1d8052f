package procs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

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

// report prints who uses a file, and with -k sends them a signal.
func report(e *tools.Env, o tools.Options, name string, us []use, sig syscall.Signal) error {
	abs, err := filepath.Abs(name)
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
	return nil
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
	o, names, err := tools.Parse("k/kill m/mount s/silent v/verbose c", args)
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
		if err := report(e, o, n, us, sig); err != nil {
			return err
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

// selects reports whether the options -p, -c and -u name a process.
func selects(e *tools.Env, p process) bool {
	return (!e.On("p") || slices.Contains(list(e.Val("p")), strconv.Itoa(p.pid))) && strings.HasPrefix(p.name, e.Val("c")) && (!e.On("u") || slices.Contains(list(e.Val("u")), userName(p.uid)))
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
		if !selects(e, p) || p.pid == os.Getpid() {
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
