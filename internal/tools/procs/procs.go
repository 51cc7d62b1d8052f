// Package procs has the commands that list, start, watch and end processes.
package procs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// Commands are the commands of this package.
func Commands() []tools.Command {
	return slices.Concat(startCommands(), listCommands(), infoCommands())
}

func startCommands() []tools.Command {
	return []tools.Command{
		{Name: "timeout", Opts: "+s/signal: k/kill-after: foreground preserve-status v/verbose t:", Synopsis: "DURATION COMMAND [ARG]...", Bad: 125, Run: timeout},
		{Name: "nohup", Opts: "+", Synopsis: "COMMAND [ARG]...", Bad: 125, Run: nohup},
		{Name: "setsid", Opts: "+c/ctty f/fork w/wait", Synopsis: "COMMAND [ARG]...", Run: setsid},
		{Name: "nice", Opts: "+n/adjustment:", Synopsis: "[COMMAND [ARG]...]", Bad: 125, Run: nice},
		{Name: "env", Opts: "+i/ignore-environment u/unset: C/chdir: 0/null S/split-string:", Synopsis: "[NAME=VALUE]... [COMMAND [ARG]...]", Bad: 125, Run: env},
		{Name: "printenv", Opts: "0/null", Synopsis: "[VARIABLE]...", Bad: 2, Run: printenv},
		{Name: "watch", Opts: "+n/interval: d/differences? t/no-title e/errexit g/chgexit x/exec c/color", Synopsis: "COMMAND [ARG]...", Run: watch},
		{Name: "which", Opts: "a/all", Synopsis: "COMMAND...", Run: which},
	}
}

func listCommands() []tools.Command {
	const grep = "f/full x/exact v/inverse n/newest o/oldest u/euid: U/uid: P/parent: g/pgroup: t/terminal: i/ignore-case c/count "
	return []tools.Command{
		{Name: "ps", Opts: "-", Synopsis: "[aux] [-ef] [-o FORMAT] [-p PIDS] [-C NAME] [-u USERS] [--sort KEY]", Run: ps},
		{Name: "pgrep", Opts: grep + "l/list-name a/list-full d/delimiter:", Synopsis: "PATTERN", Bad: 2, Run: pgrep},
		{Name: "pkill", Opts: "-", Synopsis: "[-SIGNAL] [-fxvnoi] [-u USER] PATTERN", Bad: 2, Run: pkill},
		{Name: "pidof", Opts: "s/single-shot x q o/omit-pid:", Synopsis: "PROGRAM...", Run: pidof},
		{Name: "kill", Opts: "-", Synopsis: "[-SIGNAL | -s SIGNAL] PID... | -l [NUMBER]", Run: kill},
		{Name: "killall", Opts: "-", Synopsis: "[-SIGNAL] [-qv] NAME...", Run: killall},
		{Name: "fuser", Opts: "-", Synopsis: "[-kmsv] [-SIGNAL] NAME...", Run: fuser},
		{Name: "lsof", Opts: "p: t n P w c: u:", Synopsis: "[NAME]...", Run: lsof},
	}
}

// command prepares a program on the standard streams.
func command(argv []string) *exec.Cmd {
	c := exec.Command(argv[0], argv[1:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	return c
}

// notRun is the status of a program that could not be started: 127 if it is not there.
func notRun(e *tools.Env, what, name string, err error) error {
	rc := 126
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		rc, err = 127, unix.ENOENT
	}
	e.Fault(rc, "%s'%s': %s", what, name, tools.Cause(err))
	return tools.Status(rc)
}

// ended is the exit status of a program as a shell has it.
func ended(err error) error {
	var x *exec.ExitError
	if errors.As(err, &x) {
		if st, ok := x.Sys().(syscall.WaitStatus); ok && st.Signaled() {
			return tools.Status(128 + int(st.Signal()))
		}
		return tools.Status(x.ExitCode())
	}
	return err
}

func timeout(e *tools.Env) error {
	if t := e.Val("t"); t != "" { // as u-root's
		e.Args = append([]string{t}, e.Args...)
	}
	if err := e.Need(2, -1); err != nil {
		return err
	}
	limit, err := tools.Seconds(e.Args[0])
	if err != nil {
		return err
	}
	sig, err := signalOf(e.Or("s", "TERM"))
	if err != nil {
		return tools.Usage("%v", err)
	}
	var kill time.Duration
	if k := e.Val("k"); k != "" {
		if kill, err = tools.Seconds(k); err != nil {
			return err
		}
	}
	c := command(e.Args[1:])
	if !e.On("foreground") {
		// What the command starts ends with it.
		if err := unix.Setpgid(0, 0); err != nil && !errors.Is(err, unix.EPERM) {
			return err
		}
		signal.Ignore(unix.SIGTTIN, unix.SIGTTOU)
	}
	if err := c.Start(); err != nil {
		return notRun(e, "failed to run command ", e.Args[1], err)
	}
	return watchdog(e, c, limit, kill, sig)
}

// watchdog waits for a command, and ends it when its time is over: with sig, and after
// another time with SIGKILL. A time of 0 has no end.
func watchdog(e *tools.Env, c *exec.Cmd, limit, kill time.Duration, sig syscall.Signal) error {
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	timer := time.NewTimer(limit)
	if limit == 0 {
		timer.Stop()
	}
	for late := false; ; {
		select {
		case err := <-done:
			st := ended(err)
			if late && !e.On("preserve-status") && st != error(tools.Status(137)) {
				return tools.Status(124)
			}
			return st
		case <-timer.C:
		}
		if late {
			sig = syscall.SIGKILL
		}
		if e.On("v") {
			e.Fault(0, "sending signal %s to command '%s'", signalName(sig), c.Args[0])
		}
		_ = c.Process.Signal(sig) // it may have ended
		if !e.On("foreground") && !late {
			signal.Ignore(sig)
			_ = unix.Kill(0, sig) // likewise
		}
		if !late && kill > 0 {
			timer.Reset(kill)
		}
		late = true
	}
}

func nohup(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return err
	}
	signal.Ignore(unix.SIGHUP)
	if term.IsTerminal(1) {
		f, err := os.OpenFile("nohup.out", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		e.Fault(0, "ignoring input and appending output to 'nohup.out'")
		if err := unix.Dup2(int(f.Fd()), 1); err != nil {
			return err
		}
	}
	if term.IsTerminal(0) {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return err
		}
		if err := unix.Dup2(int(f.Fd()), 0); err != nil {
			return err
		}
	}
	if term.IsTerminal(2) {
		if err := unix.Dup2(1, 2); err != nil {
			return err
		}
	}
	return replaceBy(e, "failed to run command ", e.Args, os.Environ())
}

// replaceBy runs a program in the place of this one.
func replaceBy(e *tools.Env, what string, argv, environ []string) error {
	if err := e.Out.Flush(); err != nil {
		return err
	}
	p, err := exec.LookPath(argv[0])
	if err == nil {
		err = unix.Exec(p, argv, environ)
	}
	return notRun(e, what, argv[0], err)
}

func setsid(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return tools.Usage("no command specified")
	}
	if !e.On("f") && !e.On("w") {
		if _, err := unix.Setsid(); err == nil {
			return replaceBy(e, "failed to execute ", e.Args, os.Environ())
		}
	}
	c := command(e.Args)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: e.On("c")}
	if err := c.Start(); err != nil {
		return notRun(e, "failed to execute ", e.Args[0], err)
	}
	if e.On("w") {
		return ended(c.Wait())
	}
	return nil
}

func nice(e *tools.Env) error {
	n, err := e.Int("n", 10)
	if err != nil {
		return err
	}
	now, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return err
	}
	now = 20 - now // as the system call gives it
	if len(e.Args) == 0 {
		e.Printf("%d\n", now)
		return nil
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, now+n); err != nil {
		e.Fault(0, "cannot set niceness: %s", tools.Cause(err))
	}
	return replaceBy(e, "", e.Args, os.Environ())
}

func env(e *tools.Env) error {
	environ := os.Environ()
	if len(e.Args) > 0 && e.Args[0] == "-" {
		environ, e.Args = nil, e.Args[1:]
	}
	if e.On("i") {
		environ = nil
	}
	drop := func(name string) {
		environ = slices.DeleteFunc(environ, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	}
	for _, n := range e.Vals("u") {
		drop(n)
	}
	args := append(strings.Fields(e.Val("S")), e.Args...)
	for len(args) > 0 && strings.Contains(args[0], "=") {
		name, _, _ := strings.Cut(args[0], "=")
		drop(name)
		environ, args = append(environ, args[0]), args[1:]
	}
	if len(args) == 0 {
		for _, v := range environ {
			e.Printf("%s%c", v, e.End("0"))
		}
		return nil
	}
	if d := e.Val("C"); d != "" {
		if err := os.Chdir(d); err != nil {
			e.Fault(125, "cannot change directory to '%s': %s", d, tools.Cause(err))
			return nil
		}
	}
	// The program is searched by its own PATH.
	for _, v := range environ {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			if err := os.Setenv("PATH", p); err != nil {
				return err
			}
		}
	}
	return replaceBy(e, "", args, environ)
}

func printenv(e *tools.Env) error {
	if len(e.Args) == 0 {
		for _, v := range os.Environ() {
			e.Printf("%s%c", v, e.End("0"))
		}
	}
	for _, n := range e.Args {
		if v, ok := os.LookupEnv(n); ok {
			e.Printf("%s%c", v, e.End("0"))
		} else {
			e.Set(1)
		}
	}
	return nil
}

func which(e *tools.Env) error {
	for _, n := range e.Args {
		var found []string
		dirs := strings.Split(os.Getenv("PATH"), ":")
		if strings.Contains(n, "/") {
			dirs = []string{""}
		}
		for _, d := range dirs {
			p := n
			if d != "" {
				p = d + "/" + n
			}
			if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && unix.Access(p, unix.X_OK) == nil {
				found = append(found, p)
			}
		}
		if len(found) == 0 {
			e.Set(1)
			continue
		}
		if !e.On("a") {
			found = found[:1]
		}
		e.Printf("%s\n", strings.Join(found, "\n"))
	}
	if len(e.Args) == 0 {
		return tools.Status(1)
	}
	return nil
}

// watch runs a command again and again and shows its output.
func watch(e *tools.Env) error {
	e.Ignore("c")
	if err := e.Need(1, -1); err != nil {
		return err
	}
	every, err := strconv.ParseFloat(e.Or("n", "2"), 64)
	if err != nil {
		return fmt.Errorf("failed to parse argument: '%s'", e.Val("n"))
	}
	every = max(every, 0.1)
	argv := e.Args
	if !e.On("x") {
		argv = []string{"sh", "-c", strings.Join(e.Args, " ")}
	}
	var before []byte
	for first := true; ; first = false {
		var out bytes.Buffer
		c := exec.Command(argv[0], argv[1:]...)
		c.Stdout, c.Stderr = &out, &out
		err := c.Run()
		var x *exec.ExitError
		if err != nil && !errors.As(err, &x) {
			return err
		}
		show(e, every, out.Bytes(), before)
		if e.On("e") && err != nil {
			return tools.Status(8)
		}
		if e.On("g") && !first && !bytes.Equal(before, out.Bytes()) {
			return nil
		}
		before = out.Bytes()
		time.Sleep(time.Duration(every * float64(time.Second)))
	}
}

func show(e *tools.Env, every float64, out, before []byte) {
	width, height := 80, 24
	if w, h, err := term.GetSize(1); err == nil && w > 0 && h > 2 {
		width, height = w, h
	}
	_, _ = io.WriteString(e.Out, "\x1b[H\x1b[J") // reported by the flush
	rows := height - 1
	if !e.On("t") {
		host, _ := os.Hostname() // only shown
		left := fmt.Sprintf("Every %.1fs: %s", every, strings.Join(e.Args, " "))
		right := host + ": " + time.Now().Format("Mon Jan _2 15:04:05 2006")
		e.Printf("%s%*s\n\n", left, max(width-len(left), len(right)+1), right)
		rows -= 2
	}
	old := strings.Split(string(before), "\n")
	for i, l := range strings.Split(string(out), "\n") {
		if i == rows {
			break
		}
		if l = l[:min(len(l), width)]; e.On("d") && before != nil && (i >= len(old) || old[i] != l) && l != "" {
			l = "\x1b[7m" + l + "\x1b[0m"
		}
		e.Printf("%s\n", l)
	}
	_ = e.Out.Flush() // reported at the end
}
