package rescueinit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/keymap"
	"github.com/mkcdrec/mkcdrec/internal/kmod"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/machinetest"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
)

const (
	setID    = "01234567-89ab-4def-8123-456789abcdef"
	otherID  = "11111111-89ab-4def-8123-456789abcdef"
	release  = "6.1.0-test"
	cdDevice = "sr0"
)

// fakeHost is a machine in a rescue system.
type fakeHost struct {
	*machinetest.Machine
	s *System
	// exits are the exit statuses of programs, by how their command lines begin; what is
	// not in it runs on for ever.
	exits map[string]int
	// loaded is called when a module is loaded.
	loaded func(module string)
	events chan string
	pid    int
	out    safe
}

// safe is a buffer for several goroutines.
type safe struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safe) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (f *fakeHost) Start(c *exec.Cmd) (int, error) {
	line := strings.Join(append([]string{c.Path}, c.Args[1:]...), " ")
	if err := f.Note("start %s", line); err != nil {
		return 0, err
	}
	f.pid++
	pid := f.pid
	for begin, code := range f.exits {
		if strings.HasPrefix(line, begin) {
			if c.Stdout != nil {
				fmt.Fprintf(c.Stdout, "output of %s\n", c.Path)
			}
			go f.s.ended(pid, unix.WaitStatus(code<<8))
		}
	}
	return pid, nil
}

func (f *fakeHost) Kill(pid int, sig unix.Signal) error { return f.Note("kill %d %v", pid, sig) }
func (f *fakeHost) Reboot(cmd int) error                { return f.Note("reboot %#x", cmd) }
func (f *fakeHost) Hostname(name string) error          { return f.Note("hostname %s", name) }
func (f *fakeHost) Memory() (uint64, error)             { return 2 << 30, f.Note("memory") }
func (f *fakeHost) Keyboard(m *keymap.Map) error        { return f.Note("keyboard %d tables", len(m.Tables)) }
func (f *fakeHost) Up(card string) error                { return f.Note("up %s", card) }

func (f *fakeHost) Network(_ context.Context, w rescue.Network, source []layout.Interface) (string, error) {
	return "eth0 " + w.IP, f.Note("network %s, %d cards of the source", w.IP, len(source))
}

func (f *fakeHost) Modules(*kmod.Index, *kmod.Conf) loader { return f }

func (f *fakeHost) Load(name, _ string) ([]string, error) {
	if err := f.Note("module %s", name); err != nil {
		return nil, err
	}
	if f.loaded != nil {
		f.loaded(name)
	}
	return []string{name}, nil
}

func (f *fakeHost) Events() (func([]byte) (int, error), error) {
	return func(b []byte) (int, error) {
		e, ok := <-f.events
		if !ok {
			return 0, io.EOF
		}
		return copy(b, e), nil
	}, f.Note("events")
}

// rescueSystem is a machine with a disk and a CD, on which the rescue system was booted
// with a command line. The CD appears when the driver of its bus is loaded.
func rescueSystem(t *testing.T, cmdline string) (*System, *fakeHost) {
	t.Helper()
	for _, k := range []string{"PATH", "HOME", "DM_DISABLE_UDEV", "LANG", "SHELL"} {
		t.Setenv(k, "") // what environment sets is undone after the test
	}
	m := machinetest.New(t)
	m.AddDisk("sda", 8<<20, "DISK1")
	m.Write("/proc/cmdline", cmdline+"\n")
	m.Write("/proc/uptime", "12.34 5.6\n")
	m.Write("/proc/sys/kernel/osrelease", release+"\n")
	m.Write("/etc/hostname", "web-rescue\n")
	m.Write(rescue.InfoFile, fmt.Sprintf(`{"version":1,"host":"web","created":"2026-01-02T03:04:05Z","program":"2.0","kernel":"k","mediumID":"M1","setID":%q}`, setID))
	m.Write("/etc/mkcdrec/files", "11 etc/hostname\n")
	m.Write("/zz-complete", "")
	m.Write(rescue.StateDir+"/x", "")
	m.Write(rescue.KeymapFile, `{"tables":{"0":[]}}`)
	lib := "/lib/modules/" + release
	m.Write(lib+"/modules.dep", "kernel/ahci.ko:\nkernel/usb.ko:\n")
	m.Write(lib+"/modules.alias", "alias pci:v1* ahci\nalias usb:v1* usb\n")
	m.Write("/sys/devices/pci0000:00/bus/modalias", "pci:v1d2\n")
	m.Write("/sys/devices/system/cpu/modalias", "cpu:type:x86\n")
	m.Write("/sys/class/tty/console/active", "tty0 ttyS0\n")
	m.Write("/sys/class/tty/tty0/dev", "4:0")
	for _, tty := range []string{"tty1", "tty2", "ttyS0"} {
		m.Write("/dev/"+tty, "")
	}
	m.Write("/bbin/sh", "")
	f := &fakeHost{Machine: m, exits: map[string]int{}, events: make(chan string, 10)}
	f.loaded = func(name string) {
		if name == "pci:v1d2" {
			f.addCD("M1", setID, "web")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	f.s = newSystem(ctx, f)
	f.s.out = &f.out
	return f.s, f
}

// addCD puts a CD with the mark of a medium and a set into the drive.
func (f *fakeHost) addCD(medium, set, host string) {
	f.AddDisk(cdDevice, quantity.MiB, "")
	iso := make([]byte, 1<<20)
	copy(iso[32768:], "\x01CD001")
	copy(iso[32768+40:], "MKCDREC                         ")
	iso[32768+81] = 2 // blocks
	f.Write("/dev/"+cdDevice, string(iso))
	f.Content[cdDevice] = map[string]string{".mkcdrec": medium + "\n"}
	if set != "" {
		f.Content[cdDevice][host+"/manifest.json"] = fmt.Sprintf(`{"version":1,"id":%q,"host":%q,"created":"2026-01-02T03:04:05Z","program":"2.0","kernel":"k","archives":[],"files":[{"name":"layout.json","size":1,"sha256":"%064d"}],"notCovered":[]}`, set, host, 0)
	}
}

// await waits until a line of the log begins with these words.
func (f *fakeHost) await(t *testing.T, words string) {
	t.Helper()
	for range 500 {
		if slices.ContainsFunc(f.Log(), func(l string) bool { return strings.HasPrefix(l, words) }) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("Log() = %q; want %q\nprinted: %s", f.Log(), words, &f.out)
}

// console is what was printed on a console, with the machine's paths.
func (f *fakeHost) console(name string) string { return strings.ReplaceAll(f.Read(name), f.Root, "") }

// Every step of the boot is done, in its order, and the banner tells what was found.
func TestBoot(t *testing.T) {
	s, f := rescueSystem(t, "quiet mkcdrec.medium=M1 mkcdrec.ip=dhcp mkcdrec.check")
	f.exits["/bbin/checkmedium"] = 0
	s.mounts()
	s.openConsoles()
	s.work()
	f.await(t, "start /bbin/sh -i")
	got := f.Did("mount", "hostname", "reboot", "up", "memory", "keyboard", "events", "module", "network", "start")
	i := slices.Index(got, "start /bbin/sh -i")
	want := []string{
		"mount proc /proc proc", "mount sysfs /sys sysfs", "mount devtmpfs /dev devtmpfs mode=0755", "mount devpts /dev/pts devpts gid=5,mode=620,ptmxmode=666",
		"mount tmpfs /dev/shm tmpfs", "mount tmpfs /run tmpfs mode=0755", "mount tmpfs /tmp tmpfs mode=1777",
		"hostname web-rescue", "reboot 0x0", "up lo", "memory", "keyboard 1 tables",
		"events", "module pci:v1d2",
		"mount /dev/sr0 /mnt/medium iso9660 read-only", "mount /dev/sr0 /run/mkcdrec/other iso9660 read-only", "start /bbin/checkmedium /dev/sr0",
		"network dhcp, 0 cards of the source", "mount /dev/sr0 /mnt/set iso9660 read-only",
	}
	if !slices.Equal(got[:i], want) {
		t.Errorf("Log() = %q; want %q", got[:i], want)
	}
	if got, want := f.Read(rescue.SetFile), f.Path("/mnt/set/web")+"\n"; got != want {
		t.Errorf("Read(%s) = %q; want %q", rescue.SetFile, got, want)
	}
	for _, c := range []string{"/dev/tty1", "/dev/ttyS0", rescue.LogFile} {
		for _, want := range []string{"memory: 2048 MiB", "medium: /dev/sr0", "medium is whole", "network: eth0 dhcp", "backup set: /mnt/set/web", "disks: sda", "1 modules loaded", rescue.Ready, "12.34 s after the kernel's start", "output of /bbin/checkmedium"} {
			if got := f.console(c); !strings.Contains(got, want) {
				t.Errorf("Read(%s) = %q; want %q in it", c, got, want)
			}
		}
	}
}

// A step that fails, in whatever way, leaves a system with shells; the unattended job is
// only begun on a system that is whole.
func TestBootFailures(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(s *System, f *fakeHost)
		want  string // printed
		auto  bool   // the job is begun nevertheless
	}{
		"nothing": {func(*System, *fakeHost) {}, "unattended restore begins", true},
		"facts": {func(_ *System, f *fakeHost) {
			f.Write(rescue.InfoFile, "{")
			f.Write("/proc/cmdline", "mkcdrec.auto=restore")
		}, "NOT WHOLE: the medium's facts", false},
		"cut off":   {func(_ *System, f *fakeHost) { f.Write("/etc/mkcdrec/files", "99 etc/hostname\n") }, "NOT WHOLE: restoring is not safe with this much memory", false},
		"no marker": {func(_ *System, f *fakeHost) { f.Write("/etc/mkcdrec/files", "1 nothing\n") }, "too little for this rescue system", false},
		"no modules": {func(_ *System, f *fakeHost) {
			f.addCD("M1", setID, "web")
			f.Write("/proc/sys/kernel/osrelease", "other")
		}, "NOT WHOLE: the kernel's modules can't be read", false},
		"damaged module": {func(_ *System, f *fakeHost) { f.s.drivers.damaged = true }, "NOT WHOLE: kernel modules can't be read", false},
		"a module fails": {func(_ *System, f *fakeHost) {
			f.addCD("M1", setID, "web")
			f.Fail["module pci:v1d2"] = errors.New("no such symbol")
		}, "1 failed (no such symbol)", true},
		"keyboard":           {func(_ *System, f *fakeHost) { f.Fail["keyboard"] = errors.New("broken") }, "the keyboard has its default map: broken", true},
		"no keyboard":        {func(_ *System, f *fakeHost) { f.Fail["keyboard"] = keymap.ErrNoConsole }, "unattended restore begins", true},
		"host name":          {func(_ *System, f *fakeHost) { f.Fail["hostname"] = unix.EPERM }, "cannot set host name: operation not permitted", true},
		"no events":          {func(_ *System, f *fakeHost) { f.Fail["events"] = unix.EPERM }, "no hot-plugging", true},
		"medium is damaged":  {func(_ *System, f *fakeHost) { f.exits["/bbin/checkmedium"] = 1 }, "MEDIUM DAMAGED: /dev/sr0", false},
		"unknown word":       {func(_ *System, f *fakeHost) { f.Write("/proc/cmdline", f.Read("/proc/cmdline")+" mkcdrec.nonsense") }, "mkcdrec.nonsense is not known", true},
		"a shell is wanted":  {func(_ *System, f *fakeHost) { f.Write("/proc/cmdline", f.Read("/proc/cmdline")+" mkcdrec.shell") }, rescue.Ready, false},
		"console is missing": {func(_ *System, f *fakeHost) { f.Write("/sys/class/tty/console/active", "ttyS9 ttyS0") }, "unattended restore begins", true},
	} {
		t.Run(name, func(t *testing.T) {
			s, f := rescueSystem(t, "mkcdrec.medium=M1 mkcdrec.check mkcdrec.auto=restore mkcdrec.confirm=DISK1 mkcdrec.after=shell")
			f.exits["/bbin/checkmedium"], f.exits["/bbin/restore"] = 0, 0
			c.spoil(s, f)
			s.openConsoles()
			s.out = io.MultiWriter(s.out, &f.out)
			s.work()
			f.await(t, "start /bbin/sh -i")
			if got := f.out.String(); !strings.Contains(got, c.want) {
				t.Errorf("printed %q; want %q in it", got, c.want)
			}
			job := len(f.Did("start /bbin/restore")) > 0
			for i := 0; c.auto && !job && i < 300; i++ {
				time.Sleep(10 * time.Millisecond)
				job = len(f.Did("start /bbin/restore")) > 0
			}
			if job != c.auto {
				t.Errorf("the unattended job ran: %v; want %v", job, c.auto)
			}
		})
	}
}

// inBubble does what waits on a clock that runs on by itself.
func inBubble(t *testing.T, s *System, fn func()) {
	synctest.Test(t, func(*testing.T) {
		s.drivers.event = make(chan struct{}, 1) // of the bubble
		fn()
	})
}

// What is waited for and does not come is a warning after its time, and nothing unattended
// is begun.
func TestNotFound(t *testing.T) {
	for name, c := range map[string]struct {
		cmdline string
		step    func(s *System)
		after   time.Duration
		want    string
	}{
		"medium": {"mkcdrec.auto=restore mkcdrec.medium=M1", (*System).medium, mediumTimeout, "the medium this system was started from did not appear within 20s"},
		"set":    {"mkcdrec.auto=restore", (*System).search, setTimeout, "no backup set was found"},
		"source": {"mkcdrec.auto=restore mkcdrec.source=UUID=1234", (*System).search, setTimeout, "UUID=1234:: no such device"},
		"tape":   {"mkcdrec.auto=restore", func(s *System) { s.info.Tape = "/dev/nst0"; s.search() }, tapeTimeout, "there is no tape drive"},
	} {
		t.Run(name, func(t *testing.T) {
			s, f := rescueSystem(t, c.cmdline)
			s.facts()
			inBubble(t, s, func() {
				start := time.Now()
				c.step(s)
				if took := time.Since(start); took < c.after || took > c.after+time.Second {
					t.Errorf("%s took %v; want %v", name, took, c.after)
				}
			})
			if got := f.out.String(); !strings.Contains(got, c.want) || !strings.Contains(got, "the unattended job is not begun") || s.opts.Auto != "" {
				t.Errorf("%s printed %q; want %q, and no unattended job", name, got, c.want)
			}
			if got := f.Read(rescue.SetFile); got != "" {
				t.Errorf("Read(%s) = %q; want none", rescue.SetFile, got)
			}
		})
	}
}

// Another medium in a drive is not taken for this system's, and is named.
func TestOtherMedium(t *testing.T) {
	s, f := rescueSystem(t, "mkcdrec.medium=M1")
	f.addCD("M2", "", "")
	f.Content[cdDevice][".disk/info"] = "mail, made 2026-01-01"
	s.facts()
	inBubble(t, s, func() { s.medium() })
	if got := s.state; !slices.Contains(got, "medium: not found") {
		t.Errorf("state = %q; want no medium", got)
	}
	if got := f.Mounted(); len(got) > 0 {
		t.Errorf("Mounted() = %q; want none", got)
	}
	if got, want := s.finder().Others(s.info), []string{"/dev/sr0 (mail, made 2026-01-01)"}; !slices.Equal(got, want) {
		t.Errorf("Others(M1) = %q; want %q", got, want)
	}
}

// A set that is not the medium's own is taken for the newest of its host; one of another
// host only where a person decides.
func TestSearch(t *testing.T) {
	for name, c := range map[string]struct {
		cmdline, set, host string
		want, printed      string // the state, and what is printed
	}{
		"the medium's":      {"mkcdrec.auto=restore", setID, "web", "backup set: /mnt/set/web", ""},
		"of its host":       {"mkcdrec.auto=restore", otherID, "web", "backup set: /mnt/set/web", "the newest one of its host is taken"},
		"another, alone":    {"mkcdrec.auto=restore", otherID, "mail", "backup set: none found; mount it and run restore DIR", "the unattended job is not begun"},
		"another, a person": {"", otherID, "mail", "backup set: /mnt/set/mail", "no backup set here is of web"},
		"host is named":     {"mkcdrec.auto=restore mkcdrec.host=mail", otherID, "mail", "backup set: /mnt/set/mail", ""},
		"a file":            {"mkcdrec.source=file:///sets", setID, "web", "backup set: none found; mount it and run restore DIR", "file:///sets: no set there"},
		"bad word":          {"mkcdrec.source=nonsense", setID, "web", "backup set: none found; mount it and run restore DIR", `cannot use source "nonsense"`},
	} {
		t.Run(name, func(t *testing.T) {
			s, f := rescueSystem(t, c.cmdline)
			f.addCD("M1", c.set, c.host)
			s.facts()
			inBubble(t, s, func() { s.search() })
			if got := strings.ReplaceAll(strings.Join(s.state, "\n"), f.Root, ""); got != c.want {
				t.Errorf("search() = %q; want %q\n%s", got, c.want, &f.out)
			}
			if got := f.out.String(); !strings.Contains(got, c.printed) {
				t.Errorf("search() printed %q; want %q", got, c.printed)
			}
			if found := strings.HasPrefix(c.want, "backup set: /"); found != (len(f.Mounted()) == 1) {
				t.Errorf("Mounted() = %q; want the set's device if it was found: %v", f.Mounted(), found)
			}
		})
	}
}

// TestSearchMachine: the set of the medium's own machine is taken, an older one, too; that of
// another machine with its name only where there is no other, and restore judges it.
func TestSearchMachine(t *testing.T) {
	set := func(id, created string, machine byte) string {
		return fmt.Sprintf(`{"version":1,"id":%q,"host":"web","created":"%sT03:04:05Z","program":"2.0","kernel":"k","archives":[],"files":[{"name":"layout.json","size":1,"sha256":"%064d"},{"name":"machine","size":37,"sha256":"%s"}],"notCovered":[]}`, id, created, 0, strings.Repeat(string(machine), 64))
	}
	const thirdID = "33333333-89ab-4def-8123-456789abcdef"
	for name, c := range map[string]struct {
		cmdline       string
		own, theirs   bool
		want, printed string
	}{
		"both":                   {"mkcdrec.auto=restore", true, true, "backup set: /mnt/set/own", "were passed over:\n  /mnt/set/theirs"},
		"both, a person":         {"", true, true, "backup set: /mnt/set/own", "were passed over:\n  /mnt/set/theirs"},
		"another's":              {"mkcdrec.auto=restore", false, true, "backup set: /mnt/set/theirs", "the newest one of another machine with the name web is taken"},
		"another's, a person":    {"", false, true, "backup set: /mnt/set/theirs", "the newest one of another machine with the name web is taken"},
		"own, the host is named": {"mkcdrec.auto=restore mkcdrec.host=web", true, true, "backup set: /mnt/set/own", "were passed over"},
	} {
		t.Run(name, func(t *testing.T) {
			s, f := rescueSystem(t, c.cmdline)
			f.addCD("M1", "", "")
			if c.own {
				f.Content[cdDevice]["own/manifest.json"] = set(otherID, "2026-01-02", 'a')
			}
			if c.theirs {
				f.Content[cdDevice]["theirs/manifest.json"] = set(thirdID, "2026-01-03", 'b')
			}
			s.facts()
			s.info.SetID, s.info.Machine = "", strings.Repeat("a", 64)
			inBubble(t, s, func() { s.search() })
			if got := strings.ReplaceAll(strings.Join(s.state, "\n"), f.Root, ""); got != c.want {
				t.Errorf("search() = %q; want %q\n%s", got, c.want, &f.out)
			}
			if got := strings.ReplaceAll(f.out.String(), f.Root, ""); !strings.Contains(got, c.printed) {
				t.Errorf("search() printed %q; want %q", got, c.printed)
			}
		})
	}
}

// The drive that the set was written with comes first; names of other forms are no drives.
func TestTape(t *testing.T) {
	s, f := rescueSystem(t, "")
	for _, n := range []string{"nst0", "nst1", "nst0a", "st0"} {
		f.Write("/dev/"+n, "")
	}
	s.info.Tape = "/dev/nst1"
	s.search()
	if got, want := s.state, []string{"backup set: on tape, drive /dev/nst1,/dev/nst0"}; !slices.Equal(got, want) {
		t.Errorf("search() = %q; want %q", got, want)
	}
	if got, want := f.Read(rescue.SetFile), "tape:/dev/nst1,/dev/nst0\n"; got != want {
		t.Errorf("Read(%s) = %q; want %q", rescue.SetFile, got, want)
	}
	s.state, s.info.Tape = nil, "root@backup:/dev/nst0"
	s.search()
	if got, want := s.state, []string{"backup set: on the tape root@backup:/dev/nst0; once there is a network and ssh: restore tape:root@backup:/dev/nst0"}; !slices.Equal(got, want) {
		t.Errorf("search() = %q; want %q", got, want)
	}
}

// An unattended restore confirms only the disks that the command line names, is done once,
// and is followed by what the command line says.
func TestUnattended(t *testing.T) {
	const after = " mkcdrec.after="
	for name, c := range map[string]struct {
		cmdline string
		exit    int
		start   string
		printed string
		signal  string // that process 1 gets
	}{
		"done":     {"mkcdrec.confirm=D1,D2", 0, "--yes --once --confirm D1 --confirm D2", "UNATTENDED RESTORE DONE\n", "kill 1 user defined signal 2"},
		"reboot":   {after + "reboot", 0, "--yes --once", "UNATTENDED RESTORE DONE\n", "kill 1 terminated"},
		"shell":    {after + "shell", 0, "--yes --once", "UNATTENDED RESTORE DONE\n", ""},
		"partial":  {"", 3, "--yes --once", "DONE, but not everything is restored", "kill 1 user defined signal 2"},
		"failed":   {after + "reboot", 1, "--yes --once", "UNATTENDED RESTORE FAILED: /bbin/restore ended with exit status 1", ""},
		"refused":  {"", 4, "--yes --once", "FAILED: /bbin/restore ended with exit status 4", ""},
		"again":    {"mkcdrec.again mkcdrec.map=sda=vda mkcdrec.answers=/a.yaml" + after + "shell", 0, "--yes --map sda=vda --answers /a.yaml", "DONE", ""},
		"repeated": {"", 4, "--yes --once", "NOT RESTORED AGAIN", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, f := rescueSystem(t, c.cmdline)
			s.facts()
			f.exits["/bbin/restore --yes"], f.exits["/bbin/restore boot"] = c.exit, 0
			if name == "repeated" {
				f.Write(rescue.RepeatedFile, "/mnt/set/web\n")
			}
			done := make(chan bool)
			go func() { s.unattended(); close(done) }()
			if c.signal == "" {
				<-done
			} else {
				f.await(t, "kill")
			}
			got := f.Did("start", "kill")
			want := []string{"start /bbin/restore " + c.start}
			if name == "repeated" {
				want = append(want, "start /bbin/restore boot /mnt/set/web")
			}
			if c.signal != "" {
				want = append(want, c.signal)
			}
			if !slices.Equal(got, want) || !strings.Contains(f.out.String(), c.printed) {
				t.Errorf("unattended() = %q, %q; want %q, %q", got, &f.out, want, c.printed)
			}
		})
	}
}

// Only a rescue system is stopped, and everything on disks is unmounted before, the last
// mounted first.
func TestEnd(t *testing.T) {
	s, f := rescueSystem(t, "")
	for _, d := range []string{"/mnt/a", "/mnt/a/b", "/mnt/t"} {
		f.Write(d+"/x", "")
	}
	for _, m := range [][3]string{{"/dev/sda", "/mnt/a", "ext4"}, {"/dev/sda", "/mnt/a/b", "ext4"}, {"tmpfs", "/mnt/t", "tmpfs"}} {
		if err := f.Mount(m[0], f.Path(m[1]), m[2], 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	s.idle.Store(true)
	go s.end(unix.LINUX_REBOOT_CMD_POWER_OFF)
	f.await(t, "reboot")
	want := []string{"kill -1 terminated", "sync", "unmount /mnt/a/b", "unmount /mnt/a", "sync", "reboot 0x4321fedc"}
	if got := f.Did("kill", "sync", "unmount", "reboot"); !slices.Equal(got, want) {
		t.Errorf("end() = %q; want %q", got, want)
	}
	for what, want := range map[string]string{"halt": "kill 1 user defined signal 1", "kexec": "kill 1 signal 40", "reboot": "kill 1 terminated"} {
		if err := power(f, what, false); err != nil || f.Log()[len(f.Log())-1] != want {
			t.Errorf("power(%s) = %v, %q; want %q", what, err, f.Log()[len(f.Log())-1], want)
		}
	}
	if err := power(f, "halt", true); err != nil || f.Log()[len(f.Log())-1] != "reboot 0xcdef0123" {
		t.Errorf("power(halt, force) = %v, %q; want a halt at once", err, f.Log()[len(f.Log())-1])
	}
	if err := power(f, "sleep", false); err == nil {
		t.Error("power(sleep) = nil; want an error")
	}
	before := len(f.Log())
	f.Machine = machinetest.New(t)
	if err := power(f, "reboot", true); err == nil || len(f.Log()) > 0 {
		t.Errorf("power(reboot) outside of a rescue system = %v, %q after %d; want a refusal", err, f.Log(), before)
	}
}

// A device that comes later gets its driver when the disks that are there have theirs.
func TestHotPlug(t *testing.T) {
	s, f := rescueSystem(t, "")
	f.events <- "add@/x\x00ACTION=add\x00MODALIAS=usb:v1d7\x00"
	s.loadDrivers()
	f.await(t, "module usb:v1d7")
	got := f.Did("module")
	if want := []string{"module pci:v1d2", "module usb:v1d7"}; !slices.Equal(got, want) {
		t.Errorf("Log() = %q; want %q", got, want)
	}
	f.events <- "add@/y\x00MODALIAS=usb:v1d8\x00"
	f.await(t, "module usb:v1d8")
	f.events <- "add@/y\x00MODALIAS=usb:v1d8\x00MODALIAS=usb:none\x00"
	s.drivers.change(5 * time.Second)
	if got := f.Did("module usb:v1d8"); len(got) != 1 {
		t.Errorf("Log() = %q; want each module loaded once", got)
	}
	close(f.events)
}

// The ssh server is started for keys of the medium and of the command line, and for none
// without; the line with its host key is shown.
func TestSSH(t *testing.T) {
	s, f := rescueSystem(t, "")
	s.ssh()
	if got := f.Did("start"); len(got) > 0 {
		t.Errorf("Log() = %q; want no server without keys", got)
	}
	f.Write(rescue.KeysFile, "ssh-ed25519 AAA a@b\n")
	s.opts.SSHKeys = []string{"ssh-ed25519 BBB"}
	f.exits["/bbin/sshd"] = 1
	s.ssh()
	if got, want := f.Read(rescue.KeysFile), "ssh-ed25519 AAA a@b\n\nssh-ed25519 BBB\n"; got != want {
		t.Errorf("Read(%s) = %q; want %q", rescue.KeysFile, got, want)
	}
	if got, want := s.state, []string{"ssh: failed: the ssh server did not start: output of /bbin/sshd"}; !slices.Equal(got, want) {
		t.Errorf("ssh() = %q; want %q", got, want)
	}
	f.Fail["start"] = errors.New("no such file")
	if _, err := s.startSSH(); err == nil || !strings.Contains(err.Error(), "cannot start the ssh server: no such file") {
		t.Errorf("startSSH() = %v; want that it cannot start", err)
	}
}

// The network is configured only when the command line asks for it, and the clock set by a
// server only then.
func TestNetwork(t *testing.T) {
	for cmdline, c := range map[string]struct {
		want  string
		calls []string
	}{
		"":                                     {"network: not configured", nil},
		"mkcdrec.ip=dhcp":                      {"network: eth0 dhcp", []string{"network dhcp, 0 cards of the source"}},
		"mkcdrec.ip=dhcp mkcdrec.ntp=10.0.0.1": {"by 10.0.0.1", []string{"network dhcp, 0 cards of the source", "start /bbin/timeout -t 15s /bbin/ntpdate 10.0.0.1"}},
	} {
		s, f := rescueSystem(t, cmdline)
		f.exits["/bbin/timeout"] = 0
		s.facts()
		rng := make(chan struct{})
		entropy(rng)
		s.network(rng)
		if got := strings.Join(s.state, "\n"); !strings.Contains(got, c.want) || !slices.Equal(f.Did("network", "start"), c.calls) {
			t.Errorf("network(%s) = %q, %q; want %q, %q", cmdline, got, f.Did("network", "start"), c.want, c.calls)
		}
	}
	s, f := rescueSystem(t, "mkcdrec.ip=dhcp")
	f.Fail["network"] = errors.New("no cable\nat eth0")
	s.facts()
	rng := make(chan struct{})
	close(rng)
	s.network(rng)
	if got, want := s.state, []string{"network: failed: no cable"}; !slices.Equal(got, want) {
		t.Errorf("network() = %q; want %q", got, want)
	}
}

// A machine of a room starts the client, and again when it failed; the set on its own disks
// is not looked for.
func TestFleet(t *testing.T) {
	s, f := rescueSystem(t, "mkcdrec.fleet=https://10.0.0.1:8443 mkcdrec.fleetcert="+strings.Repeat("ab", 32))
	f.exits["/bbin/fleet"] = 0
	s.work()
	f.await(t, "start /bbin/fleet")
	if got := f.Did("mount"); len(got) > 0 {
		t.Errorf("Log() = %q; want nothing mounted", got)
	}
	s.notWhole("MEDIUM DAMAGED")
	if s.opts.Fleet != "" || !strings.Contains(f.out.String(), "does not join https://10.0.0.1:8443: MEDIUM DAMAGED") {
		t.Errorf("notWhole() left %q, printed %q; want that it does not join", s.opts.Fleet, &f.out)
	}
}
