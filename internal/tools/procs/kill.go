package procs

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

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
	o, names, err := tools.Parse("q/quiet v/verbose e/exact", args)
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
