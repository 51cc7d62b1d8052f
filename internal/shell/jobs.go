package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// jobBuiltins are the commands of job control. The interpreter has none of them.
var jobBuiltins = []string{"jobs", "fg", "bg", "wait"}

// stoppedStatus is that of a command that Ctrl-Z has stopped.
const stoppedStatus = interp.ExitStatus(128 + uint8(unix.SIGTSTP))

// errStopped ends a statement whose command was stopped, as errInterrupted does for Ctrl-C.
var errStopped, errInterrupted = errors.New("stopped"), errors.New("interrupted")

// errKilled ends a job in the background of which no program runs.
var errKilled = errors.New("killed")

// killing are the options of kill that end such a job.
var killing = []string{"-1", "-2", "-9", "-15", "-HUP", "-INT", "-KILL", "-TERM", "-SIGHUP", "-SIGINT", "-SIGKILL", "-SIGTERM"}

// firstProgram is how long a job in the background may take to start a program, whose number
// is printed.
const firstProgram = 200 * time.Millisecond

// job is a statement whose programs are in one process group.
type job struct {
	id         int // 0 for one that was never stopped or in the background
	text       string
	pgid       int
	procs      map[int]bool // those that run or, if true, are stopped
	background bool         // it never had the terminal
	running    bool         // its statement is still interpreted
	reported   string       // the state that was printed
	status     int
	end        context.CancelCauseFunc
}

// jobs is job control on a terminal.
type jobs struct {
	mu      sync.Mutex
	changed *sync.Cond
	list    []*job
	tty     int
	shell   int // the shell's own process group
	modes   *unix.Termios
	out     io.Writer
}

type jobKey struct{}

// newJobs gives job control for a shell that has the terminal; nil without it.
func newJobs(tty int, out io.Writer) *jobs {
	group, err := unix.IoctlGetInt(tty, unix.TIOCGPGRP)
	modes, err2 := unix.IoctlGetTermios(tty, unix.TCGETS)
	if err != nil || err2 != nil || group != unix.Getpgrp() {
		return nil
	}
	j := &jobs{tty: tty, shell: group, modes: modes, out: out}
	j.changed = sync.NewCond(&j.mu)
	return j
}

// state is how bash calls it; jobs is locked.
func (b *job) state() string {
	stopped := len(b.procs) > 0
	for _, s := range b.procs {
		stopped = stopped && s
	}
	switch {
	case stopped:
		return "Stopped"
	case len(b.procs) > 0 || b.running:
		return "Running"
	case b.status > 128:
		name := unix.Signal(b.status - 128).String()
		return strings.ToUpper(name[:1]) + name[1:]
	case b.status != 0:
		return fmt.Sprintf("Exit %d", b.status)
	}
	return "Done"
}

// give gives the terminal to a process group. Who is not in the foreground may do that only
// with SIGTTOU blocked.
func (j *jobs) give(pgid int) {
	unblock := blockTTOU()
	defer unblock()
	_ = unix.IoctlSetPointerInt(j.tty, unix.TIOCSPGRP, pgid) // the group may have ended
}

// take gives the terminal back to the shell, with its modes if a program did not end by itself.
func (j *jobs) take(restore bool) {
	unblock := blockTTOU()
	defer unblock()
	_ = unix.IoctlSetPointerInt(j.tty, unix.TIOCSPGRP, j.shell) // a terminal that is disconnected ends the shell later
	if restore {
		_ = unix.IoctlSetTermios(j.tty, unix.TCSETSW, j.modes) // likewise
	}
}

// exec runs programs in the process group of their job. What is not for files, such as a
// command substitution, is left to next.
func (j *jobs) exec(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
	return func(ctx context.Context, args []string) error {
		hc := interp.HandlerCtx(ctx)
		b, _ := ctx.Value(jobKey{}).(*job)
		files := make([]*os.File, 3)
		for i, f := range []any{hc.Stdin, hc.Stdout, hc.Stderr} {
			files[i], _ = f.(*os.File)
		}
		path, err := interp.LookPathDir(hc.Dir, hc.Env, args[0])
		if err != nil {
			return notFound(hc, args[0], err)
		}
		if b == nil || slices.Contains(files, nil) || ctx.Err() != nil {
			return next(ctx, args)
		}
		attr := &os.ProcAttr{Dir: hc.Dir, Env: environ(hc.Env), Files: files}
		pid, group, err := j.start(b, path, args, attr)
		if errors.Is(err, unix.ENOEXEC) || errors.Is(err, unix.ETXTBSY) {
			return next(ctx, args)
		}
		if err != nil {
			fmt.Fprintf(hc.Stderr, "sh: %s: %v\n", args[0], errors.Unwrap(err))
			return interp.ExitStatus(126)
		}
		stop := context.AfterFunc(ctx, func() { // the shell itself was interrupted
			if !errors.Is(context.Cause(ctx), errStopped) {
				_ = unix.Kill(-group, unix.SIGINT) // it may have ended
			}
		})
		defer stop()
		return j.follow(b, pid)
	}
}

// notFound reports why there is no such program.
func notFound(hc interp.HandlerContext, name string, err error) error {
	if strings.Contains(err.Error(), "permission denied") {
		fmt.Fprintf(hc.Stderr, "sh: %s: permission denied\n", name)
		return interp.ExitStatus(126)
	}
	fmt.Fprintf(hc.Stderr, "sh: %s: not found\n", name)
	return interp.ExitStatus(127)
}

// start starts a program in the group of its job, or in a new one if that has ended.
func (j *jobs) start(b *job, path string, args []string, attr *os.ProcAttr) (pid, group int, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	attr.Sys = &unix.SysProcAttr{Setpgid: true}
	if len(b.procs) > 0 {
		attr.Sys.Pgid = b.pgid
	}
	p, err := os.StartProcess(path, args, attr)
	if attr.Sys.Pgid != 0 && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.ESRCH)) {
		attr.Sys.Pgid = 0
		p, err = os.StartProcess(path, args, attr)
	}
	if err != nil {
		return 0, 0, err
	}
	pid = p.Pid
	_ = p.Release() // it is waited for by its number
	if attr.Sys.Pgid == 0 {
		b.pgid = pid
	}
	if !b.background {
		j.give(b.pgid)
	}
	b.procs[pid] = false
	j.changed.Broadcast()
	return pid, b.pgid, nil
}

// follow waits for a program. When one in the foreground is stopped, it is watched from then
// on, and its statement ends.
func (j *jobs) follow(b *job, pid int) error {
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(pid, &ws, unix.WUNTRACED|unix.WCONTINUED, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if ended, err := j.event(b, pid, ws, err != nil); ended {
			return err
		}
	}
}

// event enters what happened to a program, and reports whether its statement need not wait for
// it any more.
func (j *jobs) event(b *job, pid int, ws unix.WaitStatus, lost bool) (bool, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer j.changed.Broadcast()
	end := func(cause error) {
		if !b.background && b.end != nil {
			b.end(cause)
		}
	}
	switch {
	case lost || ws.Exited() || ws.Signaled():
		if delete(b.procs, pid); len(b.procs) == 0 && !b.background {
			j.take(false) // Ctrl-C between two programs of a loop is for the shell
		}
		rc := uint8(ws.ExitStatus())
		if ws.Signaled() {
			rc = 128 + uint8(ws.Signal())
			if ws.Signal() == unix.SIGINT {
				end(errInterrupted)
			}
		}
		if b.status = int(rc); rc == 0 {
			return true, nil
		}
		return true, interp.ExitStatus(rc)
	case ws.Continued():
		b.procs[pid] = false
	case ws.Stopped() && (ws.StopSignal() == unix.SIGTTIN || ws.StopSignal() == unix.SIGTTOU) && j.foreground(b):
		_ = unix.Kill(-b.pgid, unix.SIGCONT) // it asked before it had the terminal
	case ws.Stopped():
		b.procs[pid] = true
		end(errStopped)
		if !b.background {
			go func() { _ = j.follow(b, pid) }() // the status is in the job
			return true, stoppedStatus
		}
	}
	return false, nil
}

// foreground reports whether a job has the terminal.
func (j *jobs) foreground(b *job) bool {
	pgid, err := unix.IoctlGetInt(j.tty, unix.TIOCGPGRP)
	return err == nil && pgid == b.pgid
}

func environ(env expand.Environ) []string {
	set := map[string]string{}
	for name, v := range env.Each {
		delete(set, name)
		if v.IsSet() && v.Exported && v.Kind == expand.String {
			set[name] = v.String()
		}
	}
	var out []string
	for name, v := range set {
		out = append(out, name+"="+v)
	}
	slices.Sort(out)
	return out
}

// run runs a statement on r as a job, in the background if it ends with "&". With broken it
// was interrupted or stopped, which the interpreter takes for its end.
func (j *jobs) run(ctx context.Context, r *interp.Runner, st *syntax.Stmt) (broken bool, err error) {
	var text strings.Builder
	_ = syntax.NewPrinter(syntax.SingleLine(true)).Print(&text, st) // a job without a text
	b := &job{text: strings.TrimSuffix(text.String(), " &"), procs: map[int]bool{}, background: st.Background, running: true}
	if st.Background {
		inner := *st
		inner.Background = false
		j.background(b, r.Subshell(), &inner)
		return false, nil
	}
	ctx, b.end = context.WithCancelCause(context.WithValue(ctx, jobKey{}, b))
	cancel := b.end
	defer cancel(nil)
	err = r.Run(ctx, st)
	j.mu.Lock()
	defer j.mu.Unlock()
	b.running, b.end = false, nil
	b.background = true // what stays of it
	stopped := len(b.procs) > 0 && errors.Is(context.Cause(ctx), errStopped)
	j.take(stopped || errors.Is(context.Cause(ctx), errInterrupted))
	if stopped {
		j.add(b)
		fmt.Fprintf(j.out, "\r\n%s\n", j.line(b))
		return true, stoppedStatus
	}
	if ctx.Err() != nil {
		fmt.Fprintln(j.out)
		return true, interp.ExitStatus(128 + uint8(unix.SIGINT))
	}
	return false, err
}

func (j *jobs) background(b *job, sub *interp.Runner, st *syntax.Stmt) {
	var ctx context.Context
	ctx, b.end = context.WithCancelCause(context.WithValue(context.Background(), jobKey{}, b))
	go func() {
		err := sub.Run(ctx, st)
		j.mu.Lock()
		defer j.mu.Unlock()
		b.running, b.status = false, 0
		var es interp.ExitStatus
		if errors.As(err, &es) {
			b.status = int(es)
		} else if err != nil {
			b.status = 1
		}
		if errors.Is(context.Cause(ctx), errKilled) {
			b.status = 128 + int(unix.SIGTERM)
		}
		j.changed.Broadcast()
	}()
	j.mu.Lock()
	defer j.mu.Unlock()
	waited, cancel := context.WithTimeout(ctx, firstProgram)
	defer cancel()
	_ = j.wait(waited, func() bool { return b.pgid == 0 && b.running }) // there may be no number to print
	j.add(b)
	b.reported = "Running" // it may have ended already
	number := ""
	if b.pgid != 0 {
		number = fmt.Sprint(" ", b.pgid)
	}
	fmt.Fprintf(j.out, "[%d]%s\n", b.id, number)
}

// wait waits while a condition holds, and no longer than until ctx ends; jobs is locked.
func (j *jobs) wait(ctx context.Context, while func() bool) error {
	stop := context.AfterFunc(ctx, func() {
		j.mu.Lock() // not between the condition and Wait
		defer j.mu.Unlock()
		j.changed.Broadcast()
	})
	defer stop()
	for while() {
		if ctx.Err() != nil {
			return interp.ExitStatus(128 + uint8(unix.SIGINT))
		}
		j.changed.Wait()
	}
	return nil
}

// add enters a job into the list; jobs is locked.
func (j *jobs) add(b *job) {
	for _, o := range j.list {
		b.id = max(b.id, o.id)
	}
	b.id++
	j.list = append(j.list, b)
	b.reported = b.state()
}

// line is a job as bash prints it; jobs is locked.
func (j *jobs) line(b *job) string {
	mark := " "
	if n := len(j.list); n > 0 && j.list[n-1] == b {
		mark = "+"
	} else if n > 1 && j.list[n-2] == b {
		mark = "-"
	}
	state, amp := b.state(), ""
	if state == "Running" {
		amp = " &"
	}
	return fmt.Sprintf("[%d]%s  %-24s%s%s", b.id, mark, state, b.text, amp)
}

// report prints the jobs whose state has changed, and removes those that have ended.
func (j *jobs) report(all bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, b := range slices.Clone(j.list) {
		state := b.state()
		if all || state != b.reported {
			fmt.Fprintln(j.out, j.line(b))
		}
		b.reported = state
		if state != "Running" && state != "Stopped" {
			j.list = slices.DeleteFunc(j.list, func(o *job) bool { return o == b })
		}
	}
}

// stopped reports whether there are stopped jobs.
func (j *jobs) stopped() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.ContainsFunc(j.list, func(b *job) bool { return b.state() == "Stopped" })
}

// find gives the job that %1, %%, %-, or %text means; the last one without a name. jobs is
// locked.
func (j *jobs) find(name string) (*job, error) {
	name = strings.TrimPrefix(name, "%")
	n := len(j.list)
	switch {
	case n == 0 && (name == "" || name == "+" || name == "%"):
		return nil, errors.New("no current job")
	case name == "" || name == "+" || name == "%":
		return j.list[n-1], nil
	case name == "-" && n > 1:
		return j.list[n-2], nil
	}
	for _, b := range j.list {
		if strconv.Itoa(b.id) == name || strconv.Itoa(b.pgid) == name || strings.HasPrefix(b.text, name) {
			return b, nil
		}
	}
	return nil, fmt.Errorf("%%%s: no such job", name)
}

// builtin runs one of jobBuiltins.
func (j *jobs) builtin(ctx context.Context, name string, args []string) error {
	if name == "jobs" {
		j.report(true)
		return nil
	}
	if name == "wait" && len(args) == 0 {
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.wait(ctx, func() bool {
			return slices.ContainsFunc(j.list, func(b *job) bool { return b.state() == "Running" })
		})
	}
	if len(args) == 0 {
		args = []string{""}
	}
	for _, a := range args {
		j.mu.Lock()
		b, err := j.find(a)
		if err == nil {
			err = j.do(ctx, name, b)
		}
		j.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// do moves a job to the foreground or the background, or waits for it; jobs is locked.
func (j *jobs) do(ctx context.Context, name string, b *job) error {
	switch name {
	case "bg":
		fmt.Fprintf(j.out, "[%d]+ %s &\n", b.id, b.text)
	case "fg":
		fmt.Fprintln(j.out, b.text)
		j.give(b.pgid)
	}
	if name != "wait" {
		for pid := range b.procs {
			b.procs[pid] = false
		}
		b.reported = b.state()
		_ = unix.Kill(-b.pgid, unix.SIGCONT) // it may have ended
	}
	if name == "bg" {
		return nil
	}
	err := j.wait(ctx, func() bool { return b.state() == "Running" })
	stopped := b.state() == "Stopped"
	if name == "fg" {
		j.take(true)
		if err != nil && b.end != nil { // Ctrl-C came to the shell, since no program of the job has the terminal
			b.end(errKilled)
			j.list = slices.DeleteFunc(j.list, func(o *job) bool { return o == b })
		}
	}
	if err != nil {
		return err
	}
	if stopped {
		b.reported = "Stopped"
		j.list = append(slices.DeleteFunc(j.list, func(o *job) bool { return o == b }), b)
		fmt.Fprintf(j.out, "\r\n%s\n", j.line(b))
		return stoppedStatus
	}
	j.list = slices.DeleteFunc(j.list, func(o *job) bool { return o == b })
	if b.status != 0 {
		return interp.ExitStatus(b.status)
	}
	return nil
}

// group replaces the names of jobs in the arguments of kill by those of their groups.
func (j *jobs) group(args []string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []string
	killed, named := false, false
	for i, a := range args {
		b, err := j.find(a)
		job := strings.HasPrefix(a, "%") && err == nil
		if job && len(b.procs) == 0 && b.end != nil && (i == 1 || slices.Contains(killing, args[1])) {
			b.end(errKilled)
			killed = true
			continue
		}
		named = named || i > 0 && !strings.HasPrefix(a, "-")
		if !job || b.pgid == 0 { // group 0 would be the shell's
			out = append(out, a)
			continue
		}
		_ = unix.Kill(-b.pgid, unix.SIGCONT) // one that is stopped would not get the signal
		if i == 1 {
			out = append(out, "-TERM")
		}
		if !slices.Contains(out, "--") {
			out = append(out, "--")
		}
		out = append(out, strconv.Itoa(-b.pgid))
	}
	if killed && !named {
		return []string{"true"}
	}
	return out
}
