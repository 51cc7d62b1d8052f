// Package rescueinit is the rescue system's process 1: it mounts, loads
// drivers as devices appear, brings up consoles, finds its medium and its
// set, says where it stands, and gives a shell on every console or runs the
// unattended job. Whatever fails is said, and a shell comes all the same.
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
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/efivar"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/keymap"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/medium"
	"github.com/mkcdrec/mkcdrec/internal/netconf"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/store/tape"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
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

// Main never returns when it is process 1.
func Main() error {
	ctx := context.Background()
	if os.Getpid() != 1 { // the worker; what process 1 is told by signals: supervise
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, unix.SIGTERM)
		defer stop()
	}
	s := &System{ctx: ctx, start: time.Now(), waits: map[int]chan unix.WaitStatus{}, out: os.Stderr, info: &rescue.Info{}, drivers: newDrivers()}
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

// work brings the system up. Whatever fails on the way, what comes after it is done, and
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

// extraConsoles are the virtual terminals that get a shell besides the
// kernel's consoles; it starts when somebody presses a key there.
var extraConsoles = []string{"/dev/tty1", "/dev/tty2", "/dev/tty3", "/dev/tty4"}

// shells starts a shell on every console; the first one runs the unattended
// job before.
func (s *System) shells(auto bool) {
	for i, c := range s.consoles {
		s.begin("the shell on "+c, func() { s.session(c, i == 0 && auto, false) })
	}
	if _, err := os.Stat("/sys/class/tty/tty0"); err != nil {
		return // a kernel or a machine without screen
	}
	for _, c := range extraConsoles {
		if !slices.Contains(s.consoles, c) {
			s.begin("the shell on "+c, func() { s.session(c, false, true) })
		}
	}
}

// keyboard sets the source machine's keyboard map.
func (s *System) keyboard() {
	b, err := os.ReadFile(rescue.KeymapFile)
	if err != nil {
		return // the source machine had no keyboard
	}
	m, err := keymap.Parse(b)
	if err == nil {
		err = m.Write("/dev/tty0")
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
		err := os.MkdirAll(m.dir, 0o755)
		if err == nil {
			err = unix.Mount(m.src, m.dir, m.typ, m.flags, m.data)
		}
		if err != nil && !errors.Is(err, unix.EBUSY) {
			s.say("cannot mount %s: %v", m.dir, err)
		}
	}
	for _, d := range []string{rescue.StateDir, "/run/lock/lvm", "/run/lvm"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			s.say("cannot make %s: %v", d, err)
		}
	}
	for l, t := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2"} {
		if err := os.Symlink(t, l); err != nil && !os.IsExist(err) {
			s.say("cannot make %s: %v", l, err)
		}
	}
}

// openConsoles finds the kernel's consoles; what is said goes to all of them.
func (s *System) openConsoles() {
	b, err := os.ReadFile("/sys/class/tty/console/active")
	names := strings.Fields(string(b))
	if err != nil || len(names) == 0 {
		names = []string{"console"}
	}
	writers := []io.Writer{}
	for _, n := range names {
		if n == "tty0" {
			n = "tty1"
		}
		f, err := os.OpenFile("/dev/"+n, os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		s.consoles = append(s.consoles, "/dev/"+n)
		writers = append(writers, bestEffort{f})
	}
	if err := os.MkdirAll(filepath.Dir(rescue.LogFile), 0o755); err == nil {
		if f, err := os.OpenFile(rescue.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
			writers = append(writers, f)
			s.log = f
		}
	}
	s.out = io.MultiWriter(writers...)
	if len(s.consoles) == 0 {
		s.consoles = []string{"/dev/console"}
	}
}

// bestEffort never fails: a console that is gone must not silence the others.
type bestEffort struct{ w io.Writer }

func (b bestEffort) Write(p []byte) (int, error) {
	_, _ = b.w.Write(p) // see above
	return len(p), nil
}

func (s *System) environment() {
	for k, v := range map[string]string{"PATH": "/usr/sbin:/usr/bin:/bbin", "HOME": "/root", "DM_DISABLE_UDEV": "1", "LANG": "C", "SHELL": "/bin/sh"} {
		os.Setenv(k, v)
	}
	if b, err := os.ReadFile("/etc/hostname"); err == nil {
		if err := unix.Sethostname([]byte(strings.TrimSpace(string(b)))); err != nil {
			s.say("cannot set host name: %v", err)
		}
	}
	// Ctrl-Alt-Del comes to us as SIGINT, and syncs first.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		s.say("cannot catch Ctrl-Alt-Del: %v", err)
	}
	if err := netconf.Up("lo"); err != nil {
		s.say("%v", err)
	}
}

// whole checks that all of the rescue system was unpacked.
func (s *System) whole() {
	var si unix.Sysinfo_t
	mem := "?"
	if unix.Sysinfo(&si) == nil {
		mem = fmt.Sprint(uint64(si.Totalram) * uint64(si.Unit) >> 20)
	}
	if err := initramfs.Whole(""); err != nil {
		s.say("ERROR: %v", err)
		s.say("ERROR: this machine has %s MiB of memory, too little for this rescue system; a medium made with --module-set host needs less", mem)
		s.notWhole("NOT WHOLE: restoring is not safe with this much memory")
	}
	s.state = append(s.state, "memory: "+mem+" MiB")
}

func (s *System) facts() {
	var err error
	unread := ""
	if s.info, err = rescue.ReadInfo(""); err != nil {
		s.say("ERROR: %v", err)
		s.info = &rescue.Info{}
		unread = "NOT WHOLE: the medium's facts can't be read"
	}
	line, err := sysconf.RunningCmdline("")
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

func (s *System) finder() medium.Finder { return medium.Finder{Kernel: kernel.Linux{}} }

// search waits for the set that the system was told of.
func (s *System) search() {
	if s.info.Tape != "" && len(s.opts.Source) == 0 {
		s.tape()
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
		s.state = append(s.state, "backup set: "+sysconf.RedactURL(dir))
		if err := os.WriteFile(rescue.SetFile, []byte(dir+"\n"), 0o600); err != nil {
			s.say("cannot keep %s: %v", rescue.SetFile, err)
		}
	case limit > 0:
		s.say("WARNING: %v", err)
		s.notWhole("backup set: none found; mount it and run restore DIR")
	default:
		s.state = append(s.state, "backup set: none on this machine's disks")
	}
}

// findSet waits for the set that the medium was made for. When the time is over, the
// newest set of its host will do, and where a person decides, that of any.
func (s *System) findSet(sources []medium.Source, limit time.Duration) (dir string, remarks []string, err error) {
	find := func(w manifest.Wanted) func() (string, error) {
		return func() (string, error) {
			d, r, err := s.finder().FindSet(s.ctx, sources, w)
			remarks = r
			return d, err
		}
	}
	want := medium.Expected(s.info, s.opts)
	want.Strict = true
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
			cds, err := tape.CDDrives("")
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
		all, err := filepath.Glob("/dev/nst[0-9]*")
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
	if err := os.WriteFile(rescue.SetFile, []byte("tape:"+dev+"\n"), 0o600); err != nil {
		s.say("cannot keep %s: %v", rescue.SetFile, err)
	}
}

// wait tries until it works, the time is over or the machine is being stopped; a
// device that appears makes it try again at once.
func (s *System) wait(limit time.Duration, try func() (string, error)) (string, error) {
	end := time.Now().Add(limit)
	for {
		v, err := try()
		if err == nil || time.Now().After(end) || s.ctx.Err() != nil {
			return v, err
		}
		s.drivers.change(min(500*time.Millisecond, time.Until(end)))
	}
}

// banner says where the system stands, and then that it is ready.
func (s *System) banner() {
	fmt.Fprintf(s.out, "\nmkcdrec rescue system %s for %s\n  kernel %s, made %s\n", s.info.Program, s.info.Host, s.info.Kernel, s.info.Created.Format("2006-01-02 15:04 UTC"))
	s.state = append(s.state, "disks: "+diskList(), "drivers: "+s.drivers.summary())
	for _, l := range s.state {
		fmt.Fprintf(s.out, "  %s\n", l)
	}
	if s.opts.Auto == "" {
		fmt.Fprintf(s.out, "  say `help` for what to do here, `restore --plan` to see what it would do\n")
	}
	fmt.Fprintf(s.out, "%s\n", rescue.Ready)
	s.uptime()
}

// uptime logs the time from the kernel's start to here.
func (s *System) uptime() {
	if b, err := os.ReadFile("/proc/uptime"); err == nil {
		up, _, _ := strings.Cut(string(b), " ")
		fmt.Fprintf(s.out, "mkcdrec: ready %s s after the kernel's start, init took %.1f s\n", up, time.Since(s.start).Seconds())
	}
}

func diskList() string {
	names, err := os.ReadDir("/sys/block")
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, n := range names {
		// A drive is no disk: there may be no disc in it, and nothing restores to it.
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

// session keeps a shell on a console. auto runs the unattended job before, ask
// waits for a key, so that shells nobody uses take no memory.
func (s *System) session(dev string, auto, ask bool) {
	if auto {
		s.guard("the unattended job", s.unattended)
	}
	said := false
	for {
		if ask {
			if err := askKey(dev); err != nil {
				return // no such terminal
			}
		}
		if err := s.shell(dev); err != nil {
			if !said { // another process may have it
				s.say("no shell on %s: %v", dev, err)
			}
			said = true
			time.Sleep(5 * time.Second)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// askKey waits for Enter on a terminal.
func askKey(dev string) error {
	f, err := os.OpenFile(dev, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Fprintf(f, "\nmkcdrec: press Enter for a shell on %s\n", filepath.Base(dev))
	b := make([]byte, 1)
	for {
		if n, err := f.Read(b); err != nil {
			return err
		} else if n > 0 && b[0] == '\n' {
			return nil
		}
	}
}

// unattended runs the job that the command line asks for.
func (s *System) unattended() {
	args := []string{"/bbin/restore", "--yes"}
	if !s.opts.Again {
		args = append(args, "--once")
	}
	for _, c := range s.opts.Confirm {
		args = append(args, "--confirm", c)
	}
	for _, m := range s.opts.Map {
		args = append(args, "--map", m)
	}
	if s.opts.Answers != "" {
		args = append(args, "--answers", s.opts.Answers)
	}
	s.say("unattended restore begins")
	err := s.run(args...)
	var e *exitError
	switch {
	case err == nil:
		s.say("UNATTENDED RESTORE DONE")
	case errors.As(err, &e) && e.status.ExitStatus() == exit.Partial:
		s.say("UNATTENDED RESTORE DONE, but not everything is restored: see above, or /var/log/mkcdrec in the restored system")
	case repeated():
		s.restoredBefore()
		return
	default:
		s.say("UNATTENDED RESTORE FAILED: %v", err)
		return
	}
	switch s.opts.After {
	case "reboot":
		s.stop("reboot")
	case "shell":
	default:
		// Not reboot: the medium may still be in the drive, and come first.
		s.stop("poweroff")
	}
}

// repeated tells whether restore refused because the disks were restored before.
func repeated() bool {
	_, err := os.Stat(rescue.RepeatedFile)
	return err == nil
}

// restoredBefore starts the restored system: the medium is still there, and would start
// again. The firmware is told to, or else the kernel. Where neither can, it waits for a
// person.
func (s *System) restoredBefore() {
	s.startRestored(starter{
		next: func() (string, error) { return efivar.Next(efivar.Dir, onDisk(probe.Machine{})) },
		boot: func() error { return s.run(bootArgs(rescue.RepeatedFile)...) },
		stop: s.stop,
		uefi: func() bool { _, err := os.Stat(efivar.Dir); return err == nil },
	})
}

// onDisk tells of the firmware's boot entries, by number, which of them start something
// from a partition of this machine's disks: not from the network, which this system may
// have come from by another entry, and not from the medium.
func onDisk(m probe.Machine) func(id string) bool {
	disks, err := m.Disks()
	if err != nil {
		return func(string) bool { return false }
	}
	var medium []string
	if dev, err := m.DeviceAt(rescue.MediumDir); err == nil {
		medium = m.DisksOf(dev)
	}
	there := map[string]bool{}
	for _, d := range disks {
		if d.Table == nil || d.Table.Label != layout.GPT || slices.Contains(medium, d.Name) {
			continue
		}
		for _, p := range d.Table.Partitions {
			there[strings.ToUpper(p.GUID)] = true
		}
	}
	found := map[string]bool{}
	entries, _ := efivar.Entries(m.Root + efivar.Dir)
	for _, e := range entries {
		found[e.ID] = e.PartGUID != "" && there[strings.ToUpper(e.PartGUID)]
	}
	return func(id string) bool { return found[id] }
}

// bootArgs is the program that boots the system of the set that a file names; a tape is
// not read again, the medium knows its layout.
func bootArgs(file string) []string {
	args := []string{"/bbin/restore", "boot"}
	b, err := os.ReadFile(file)
	if set := strings.TrimSpace(string(b)); err == nil && set != "" && !strings.HasPrefix(set, manifest.TapePrefix) {
		args = append(args, set)
	}
	return args
}

// starter has the ways to start the restored system.
type starter struct {
	uefi func() bool
	next func() (id string, err error) // sets the firmware's next boot entry
	boot func() error                  // loads the kernel; process 1 starts it
	stop func(how string)
}

func (s *System) startRestored(by starter) {
	s.say("NOT RESTORED AGAIN: this machine was restored from the set before; nothing was changed")
	if s.opts.After != "shell" {
		if by.uefi() {
			id, err := by.next()
			if err == nil {
				s.say("the firmware's entry Boot%s is started next", id)
				by.stop("reboot")
				return
			}
			s.say("%v", err)
		}
		s.say("the restored system is booted from its disk, without the firmware")
		err := by.boot()
		if err == nil {
			return
		}
		s.say("cannot boot the restored system: %v", err)
	}
	s.say("remove the medium and run reboot, or choose the local disk in the boot menu; with mkcdrec.again it is restored again")
}

// shell runs one shell on a console, with the console as its terminal.
func (s *System) shell(dev string) error {
	f, err := os.OpenFile(dev, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	termName := "linux"
	if !strings.HasPrefix(dev, "/dev/tty") || strings.HasPrefix(dev, "/dev/ttyS") || strings.HasPrefix(dev, "/dev/ttyA") || strings.HasPrefix(dev, "/dev/ttyU") {
		termName = "vt220"
	}
	for _, sh := range []string{"/usr/bin/bash", "/bbin/sh"} {
		if _, err = os.Stat(sh); err != nil {
			continue
		}
		c := exec.Command(sh)
		c.Args = []string{filepath.Base(sh), "-i"}
		c.Dir = "/root"
		c.Env = append(os.Environ(), "TERM="+termName)
		c.Stdin, c.Stdout, c.Stderr = f, f, f
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
		var ch chan unix.WaitStatus
		if ch, err = s.spawn(c); err == nil {
			<-ch
			return nil
		}
	}
	return err
}

// unmountAll unmounts what is on disks, the last mounted first.
func (s *System) unmountAll() {
	mounts, err := sysconf.Mounts("")
	if err != nil {
		s.say("%v", err)
	}
	for _, d := range onDisks(mounts) {
		_ = unix.Unmount(d, 0) // what is busy is synced already
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
