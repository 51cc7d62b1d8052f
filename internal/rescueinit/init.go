// Package rescueinit is the rescue system's process 1: it mounts, loads
// drivers as devices appear, brings up consoles, finds its medium and its
// set, reports its progress, and gives a shell on every console or runs the
// unattended job. Each failure is reported, and a shell starts in any case.
package rescueinit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/keymap"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/medium"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/store/tape"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// How long is waited for what the system was told to expect.
const (
	mediumTimeout = 20 * time.Second
	setTimeout    = 20 * time.Second
	tapeTimeout   = 60 * time.Second // drives that were switched on just now are slow
)

// System is the running rescue system.
type System struct {
	ctx      context.Context // ends when the machine is being stopped
	host     host
	start    time.Time
	info     *rescue.Info
	opts     rescue.Options
	consoles []string // devices: "/dev/tty1", "/dev/ttyS0"
	out      io.Writer
	log      io.Writer
	drivers  *drivers
	state    []string // lines that say where it stands
	mu       sync.Mutex
	waits    map[int]chan unix.WaitStatus
	// idle: there are no children. ending: the machine is being stopped.
	idle, ending atomic.Bool
}

func newSystem(ctx context.Context, h host) *System {
	return &System{ctx: ctx, host: h, start: time.Now(), waits: map[int]chan unix.WaitStatus{}, out: os.Stderr, info: &rescue.Info{}, drivers: newDrivers(h)}
}

// Main never returns when it is process 1.
func Main() error {
	ctx := context.Background()
	if os.Getpid() != 1 { // the worker; what process 1 is told by signals: supervise
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, unix.SIGTERM)
		defer stop()
	}
	s := newSystem(ctx, machine{})
	switch {
	case os.Getpid() == 1:
		s.mounts()
		s.openConsoles()
		s.supervise(worker, func() { s.shells(false) })
	case os.Getenv(workerEnv) != "" && os.Getppid() == 1:
		os.Unsetenv(workerEnv) // shells do not inherit it
		s.openConsoles()
		s.begin("the reaper", s.reap)
		s.work()
		<-s.ctx.Done() // shells and hot-plugging continue until then
		return nil
	}
	return errors.New("cannot run: only the kernel starts init; to restart the machine run reboot")
}

// work brings the system up. If a step fails, the steps after it are done, and
// there is a shell.
func (s *System) work() {
	// The kernel makes entropy only when somebody waits for it; without this
	// DHCP hangs on machines without a hardware generator.
	rng := make(chan struct{})
	for _, step := range []struct {
		name string
		do   func()
		full bool // not where only a shell is wanted
	}{
		{"environment", s.environment, false},
		{"facts", s.facts, false},
		{"check of the system", s.whole, false},
		{"keyboard", s.keyboard, false},
		{"drivers", s.loadDrivers, false},
		{"clock", s.clock, false},
		{"entropy", func() { s.begin("entropy", func() { entropy(rng) }) }, false},
		{"medium", s.medium, true},
		{"network", func() { s.network(rng) }, true},
		{"ssh", s.ssh, true},
		{"search of the set", s.search, true},
		{"settling", s.drivers.settle, false},
	} {
		if s.ctx.Err() != nil {
			return
		}
		if step.full && s.opts.Shell {
			continue
		}
		if step.name == "search of the set" && s.opts.Fleet != "" {
			continue // the server names the set; one on a disk here must not keep the disk busy
		}
		if !s.guard(step.name, step.do) {
			s.notWhole("NOT WHOLE: " + step.name + ": internal error")
		}
	}
	s.guard("banner", s.banner)
	if s.ctx.Err() != nil {
		return // nothing unattended is begun while the machine stops
	}
	if s.opts.Fleet != "" && !s.opts.Shell {
		s.begin("the client of "+s.opts.Fleet, s.fleet)
	}
	s.shells(s.opts.Auto != "" && !s.opts.Shell)
}

// fleet joins the room of a server. A client that failed is started again: the machine
// must not wait for a person because of it.
func (s *System) fleet() {
	for s.ctx.Err() == nil {
		if err := s.run("/bbin/fleet"); err != nil {
			s.say("the client of %s ended: %v", s.opts.Fleet, err)
			time.Sleep(10 * time.Second)
			continue
		}
		return // it stops the machine
	}
}

func entropy(filled chan struct{}) {
	_, _ = unix.Getrandom(make([]byte, 1), 0) // blocks until the pool is filled
	close(filled)
}

// keyboard sets the source machine's keyboard map.
func (s *System) keyboard() {
	b, err := os.ReadFile(s.host.Path(rescue.KeymapFile))
	if err != nil {
		return // the source machine had no keyboard
	}
	m, err := keymap.Parse(b)
	if err == nil {
		err = s.host.Keyboard(m)
	}
	if err != nil && !errors.Is(err, keymap.ErrNoConsole) {
		s.say("WARNING: the keyboard has its default map: %v", err)
	}
}

// logOnly writes into the log and on no console.
func (s *System) logOnly(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log != nil {
		fmt.Fprintln(s.log, line)
	}
}

// say prints on every console and into the log.
func (s *System) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, "mkcdrec: "+format+"\n", args...)
}

// mounts makes the kernel's file systems available.
func (s *System) mounts() {
	for _, m := range []struct {
		src, dir, typ string
		flags         uintptr
		data          string
	}{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, ""},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	} {
		dir := s.host.Path(m.dir)
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = s.host.Mount(m.src, dir, m.typ, m.flags, m.data)
		}
		if err != nil && !errors.Is(err, unix.EBUSY) {
			s.say("cannot mount %s: %v", m.dir, err)
		}
	}
	for _, d := range []string{rescue.StateDir, "/run/lock/lvm", "/run/lvm"} {
		if err := os.MkdirAll(s.host.Path(d), 0o755); err != nil {
			s.say("cannot make %s: %v", d, err)
		}
	}
	for l, t := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2"} {
		if err := os.Symlink(t, s.host.Path(l)); err != nil && !os.IsExist(err) {
			s.say("cannot make %s: %v", l, err)
		}
	}
}

func (s *System) environment() {
	for k, v := range map[string]string{"PATH": "/usr/sbin:/usr/bin:/bbin", "HOME": "/root", tool.NoUdev: "1", "LANG": "C", "SHELL": "/bin/sh"} {
		os.Setenv(k, v)
	}
	if b, err := os.ReadFile(s.host.Path("/etc/hostname")); err == nil {
		if err := s.host.Hostname(strings.TrimSpace(string(b))); err != nil {
			s.say("cannot set host name: %v", err)
		}
	}
	// Ctrl-Alt-Del comes to us as SIGINT, and syncs first.
	if err := s.host.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		s.say("cannot catch Ctrl-Alt-Del: %v", err)
	}
	if err := s.host.Up("lo"); err != nil {
		s.say("%v", err)
	}
}

// whole checks that all of the rescue system was unpacked.
func (s *System) whole() {
	mem := "?"
	if n, err := s.host.Memory(); err == nil {
		mem = fmt.Sprint(n >> 20)
	}
	if err := initramfs.Whole(s.root()); err != nil {
		s.say("ERROR: %v", err)
		s.say("ERROR: this machine has %s MiB of memory, too little for this rescue system; a medium made with --module-set host needs less", mem)
		s.notWhole("NOT WHOLE: restoring is not safe with this much memory")
	}
	s.state = append(s.state, "memory: "+mem+" MiB")
}

func (s *System) facts() {
	var err error
	unread := ""
	if s.info, err = rescue.ReadInfo(s.root()); err != nil {
		s.say("ERROR: %v", err)
		s.info = &rescue.Info{}
		unread = "NOT WHOLE: the medium's facts can't be read"
	}
	line, err := sysconf.RunningCmdline(s.root())
	if err == nil {
		s.opts, err = rescue.ParseCmdline(line)
	}
	if err != nil {
		s.say("WARNING: kernel command line: %v", err)
	}
	if unread != "" {
		s.notWhole(unread)
	}
}

// medium waits for the medium that the loader was read from, and checks it
// when asked to.
func (s *System) medium() {
	if s.opts.Medium == "" {
		return
	}
	dev, err := s.wait(mediumTimeout, func() (string, error) { return s.finder().FindMedium(s.info) })
	if err != nil {
		s.say("WARNING: the medium this system was started from did not appear within %v: was it pulled out, or is its driver missing? The system itself is in memory and works", mediumTimeout)
		s.notWhole("medium: not found")
		return
	}
	s.state = append(s.state, "medium: /dev/"+dev)
	if _, err := os.Stat(s.host.Path(rescue.MediumDir + "/" + rescue.SecondFile)); err == nil {
		s.state = append(s.state, "second system: superrescue opens it, then chroot "+rescue.SecondDir+" /bin/sh")
	}
	s.drivers.settle()
	if others := s.finder().Others(s.info); len(others) > 0 {
		s.state = append(s.state, "other media of ours are here too, and are left alone: "+strings.Join(others, ", "))
	}
	if !s.opts.Check {
		return
	}
	s.say("checking the medium, Ctrl-Alt-Del ends it ...")
	if err := s.run("/bbin/checkmedium", "/dev/"+dev); err != nil {
		s.say("ERROR: the medium is damaged or can't be read; do not restore from it: %v", err)
		s.notWhole("MEDIUM DAMAGED: /dev/" + dev)
		return
	}
	s.state = append(s.state, "medium is whole")
}

// root is the directory that has the machine's files, "" outside of tests.
func (s *System) root() string { return strings.TrimSuffix(s.host.Path("/"), "/") }

func (s *System) finder() medium.Finder { return medium.Finder{Kernel: s.host} }

// search waits for the set that the system was told of.
func (s *System) search() {
	s.secrets()
	if s.info.Tape != "" && len(s.opts.Source) == 0 {
		s.tape()
		return
	}
	if s.info.Source != "" && len(s.opts.Source) == 0 && s.opts.Net.IP == "" {
		// restore configures the network; the set is looked for then.
		s.found(s.info.Source)
		return
	}
	sources, err := medium.Sources(s.opts.Source, s.info)
	if err != nil {
		s.say("WARNING: %v", err)
	}
	limit := setTimeout
	if s.info.SetID == "" && len(s.opts.Source) == 0 && s.opts.Auto == "" {
		limit = 0 // nobody promised a set
	}
	dir, remarks, err := s.findSet(sources, limit)
	for _, r := range remarks {
		s.say("%s", r)
	}
	switch {
	case err == nil:
		s.found(dir)
	case limit > 0:
		s.say("WARNING: %v", err)
		s.notWhole("backup set: none found; mount it and run restore DIR")
	default:
		s.state = append(s.state, "backup set: none on this machine's disks")
	}
}

// secrets points out that the medium has some.
func (s *System) secrets() {
	if s.info.Credentials {
		s.state = append(s.state, "CONTAINS SECRETS: the credentials of servers are on this medium")
	}
}

// found keeps the place of the set for restore.
func (s *System) found(place string) {
	s.state = append(s.state, "backup set: "+sysconf.RedactURL(place))
	if err := os.WriteFile(s.host.Path(rescue.SetFile), []byte(place+"\n"), 0o600); err != nil {
		s.say("cannot keep %s: %v", rescue.SetFile, err)
	}
}

// findSet waits for the set that the medium was made for. When the time is over, the
// newest set of its machine will do, then that of another one with its name, which restore
// judges, and where a person decides, that of any.
func (s *System) findSet(sources []medium.Source, limit time.Duration) (dir string, remarks []string, err error) {
	find := func(w manifest.Wanted) func() (string, error) {
		return func() (string, error) {
			d, r, err := s.finder().FindSet(s.ctx, sources, w)
			remarks = r
			return d, err
		}
	}
	want := medium.Expected(s.info, s.opts)
	want.Strict, want.Own = true, true
	if dir, err = s.wait(limit, find(want)); err == nil {
		return dir, remarks, nil
	}
	if want.ID != "" && want.Host != "" {
		missing := want.ID
		want.ID = ""
		if dir, e := find(want)(); e == nil {
			return dir, append(remarks, "the set "+missing+" that this medium was made with was not found: the newest one of its host is taken"), nil
		}
	}
	if want.Own = false; want.Machine != "" {
		if dir, e := find(want)(); e == nil {
			return dir, append(remarks, "no backup set of the machine that this medium was made for was found: the newest one of another machine with the name "+want.Host+" is taken"), nil
		}
	}
	if s.opts.Auto == "" {
		dir, err = find(manifest.Wanted{Host: want.Host})()
	}
	return dir, remarks, err
}

// notWhole notes that something is missing or damaged: the unattended job is not begun.
func (s *System) notWhole(state string) {
	s.state = append(s.state, state)
	if s.opts.Auto != "" {
		s.say("ERROR: the unattended job is not begun: %s", state)
		s.opts.Auto = ""
	}
	if s.opts.Fleet != "" {
		s.say("ERROR: this machine does not join %s: %s", s.opts.Fleet, state)
		s.opts.Fleet = ""
	}
}

// tape waits for the drive that the set was written with, or the first there
// is.
func (s *System) tape() {
	if tape.IsRemote(s.info.Tape) {
		s.notWhole("backup set: on the tape " + s.info.Tape + "; once there is a network and ssh: restore tape:" + s.info.Tape)
		return
	}
	left := false
	dev, err := s.wait(tapeTimeout, func() (string, error) {
		if !left {
			// A drive that started this machine is a CD drive until it is told.
			cds, err := tape.CDDrives(s.root())
			if err != nil {
				s.say("WARNING: %v", err)
			}
			for _, c := range cds {
				left = true
				s.say("the drive at %s leaves CD mode", c.Address)
				if err := c.Leave(); err != nil {
					s.say("WARNING: %v", err)
				}
			}
		}
		all, err := filepath.Glob(s.host.Path("/dev/nst[0-9]*"))
		for i, n := range all {
			all[i] = strings.TrimPrefix(n, s.root())
		}
		all = slices.DeleteFunc(all, func(n string) bool { return strings.TrimLeft(n, "/devnst0123456789") != "" })
		if err != nil || len(all) == 0 {
			return "", errors.New("there is no tape drive: is it switched on, and its driver here?")
		}
		if i := slices.Index(all, s.info.Tape); i > 0 {
			all[0], all[i] = all[i], all[0]
		}
		return strings.Join(all, ","), nil
	})
	if err != nil {
		s.say("WARNING: %v", err)
		s.notWhole("backup set: on tape; no drive was found within " + tapeTimeout.String())
		return
	}
	s.state = append(s.state, "backup set: on tape, drive "+dev)
	if err := os.WriteFile(s.host.Path(rescue.SetFile), []byte("tape:"+dev+"\n"), 0o600); err != nil {
		s.say("cannot keep %s: %v", rescue.SetFile, err)
	}
}

// wait tries until it works, the time is over or the machine is being stopped; a
// device that appears makes it try again at once.
func (s *System) wait(limit time.Duration, try func() (string, error)) (string, error) {
	end := time.Now().Add(limit)
	for {
		v, err := try()
		if err == nil || !time.Now().Before(end) || s.ctx.Err() != nil {
			return v, err
		}
		s.drivers.change(min(500*time.Millisecond, time.Until(end)))
	}
}

// banner prints the state of the system, and then that it is ready.
func (s *System) banner() {
	fmt.Fprintf(s.out, "\nmkcdrec rescue system %s for %s\n  kernel %s, made %s\n", s.info.Program, s.info.Host, s.info.Kernel, s.info.Created.Format("2006-01-02 15:04 UTC"))
	s.state = append(s.state, "disks: "+s.diskList(), "drivers: "+s.drivers.summary())
	for _, l := range s.state {
		fmt.Fprintf(s.out, "  %s\n", l)
	}
	if s.opts.Auto == "" {
		fmt.Fprintf(s.out, "  say `help` for what to do here, `restore --plan` to see what it would do\n")
	}
	s.quiet()
	fmt.Fprintf(s.out, "%s\n", rescue.Ready)
	s.uptime()
}

// quiet leaves the console to people from here on; dmesg has the kernel's messages. A kernel
// command line that asks for its messages has them.
func (s *System) quiet() {
	if line, err := sysconf.RunningCmdline(s.root()); err == nil && slices.ContainsFunc(sysconf.ParseCmdline(line).Words, func(w *sysconf.Word) bool {
		return slices.Contains([]string{"loglevel", "debug", "ignore_loglevel"}, w.Name)
	}) {
		return
	}
	if err := os.WriteFile(s.host.Path("/proc/sys/kernel/printk"), []byte("1\n"), 0o644); err != nil {
		s.say("the kernel's messages come onto the console: %v", err)
	}
}

// uptime logs the time from the kernel's start to here.
func (s *System) uptime() {
	if b, err := os.ReadFile(s.host.Path("/proc/uptime")); err == nil {
		up, _, _ := strings.Cut(string(b), " ")
		fmt.Fprintf(s.out, "mkcdrec: ready %s s after the kernel's start, init took %.1f s\n", up, time.Since(s.start).Seconds())
	}
}

func (s *System) diskList() string {
	names, err := os.ReadDir(s.host.Path("/sys/block"))
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, n := range names {
		// A drive is not a disk: there may be no disc in it, and nothing restores to it.
		if slices.ContainsFunc([]string{"ram", "loop", "sr", "fd", "zram"}, func(p string) bool { return strings.HasPrefix(n.Name(), p) }) {
			continue
		}
		out = append(out, n.Name())
	}
	if len(out) == 0 {
		return "none; is the driver missing? (dmesg, modprobe NAME)"
	}
	return strings.Join(out, " ")
}

// run starts a program of ours to its end, its output on all consoles.
func (s *System) run(args ...string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	c := exec.Command(args[0], args[1:]...)
	c.Stdout, c.Stderr = w, w
	c.Env = append(os.Environ(), rescue.LoggedEnv+"=1")
	ch, err := s.spawn(c)
	w.Close()
	if err != nil {
		r.Close()
		return fmt.Errorf("cannot run %s: %w", strings.Join(args, " "), err)
	}
	done := make(chan struct{})
	s.begin("the output of "+args[0], func() {
		defer close(done)
		_, _ = io.Copy(lockedWriter{s}, r) // a console that fails must not stop the job
	})
	ws := <-ch
	<-done
	r.Close()
	if ws.ExitStatus() != 0 {
		return &exitError{args[0], ws}
	}
	return nil
}

// exitError is a program that failed. Its arguments are not shown: they may be secret.
type exitError struct {
	program string
	status  unix.WaitStatus
}

func (e *exitError) Error() string {
	if e.status.Signaled() {
		return fmt.Sprintf("%s was ended by signal %v", e.program, e.status.Signal())
	}
	return fmt.Sprintf("%s ended with exit status %d", e.program, e.status.ExitStatus())
}

type lockedWriter struct{ s *System }

func (l lockedWriter) Write(p []byte) (int, error) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.s.out.Write(p)
}

// unmountAll unmounts what is on disks, the last mounted first.
func (s *System) unmountAll() {
	mounts, err := sysconf.Mounts(s.root())
	if err != nil {
		s.say("%v", err)
	}
	for _, d := range onDisks(mounts) {
		_ = s.host.Unmount(d) // what is busy is synced already
	}
}

// onDisks gives the mount points that are on disks or below the restored system's,
// the last mounted first.
func onDisks(mounts []sysconf.Mount) []string {
	var out []string
	for _, m := range slices.Backward(mounts) {
		if strings.HasPrefix(m.Source, "/dev/") || m.Path == rescue.TargetDir || strings.HasPrefix(m.Path, rescue.TargetDir+"/") {
			out = append(out, m.Path)
		}
	}
	return out
}
