package rescueinit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/efivar"
	"github.com/mkcdrec/mkcdrec/internal/kmod"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// drivers loads a module for every device, those that are there and those
// that come later.
type drivers struct {
	mu     sync.Mutex
	index  *kmod.Index
	loader loader
	host   host
	seen   map[string]bool
	count  int
	failed []string
	// damaged: not every module could be read, so devices may be missing.
	damaged bool
	event   chan struct{}                     // a device came or went
	guard   func(name string, fn func()) bool // System.guard
	// hot: the listener loads what devices want. Before, walk does, a bus first and then
	// all that is on it: a disk driver that comes while its bus is still counting
	// takes the disks in any order, and their names change from start to start.
	// Until then the listener keeps what it hears in later: not every bus (mmc) has in
	// /sys what it reports in an event.
	hot   bool
	later []string
}

func newDrivers(h host) *drivers {
	return &drivers{host: h, seen: map[string]bool{}, event: make(chan struct{}, 1), guard: func(_ string, fn func()) bool { fn(); return true }}
}

// loadDrivers loads what the present devices want, until nothing new shows
// up, and continues to listen for more.
func (s *System) loadDrivers() {
	d := s.drivers
	d.guard = s.guard
	release, err := os.ReadFile(s.host.Path("/proc/sys/kernel/osrelease"))
	var x *kmod.Index
	if err == nil {
		x, err = kmod.Open(s.host.Path("/lib/modules/" + strings.TrimSpace(string(release))))
	}
	if err != nil {
		s.say("cannot load drivers: %v", err)
		s.notWhole("NOT WHOLE: the kernel's modules can't be read")
		return
	}
	conf := kmod.ReadConf(s.root())
	if line, err := sysconf.RunningCmdline(s.root()); err == nil {
		conf.Cmdline(line)
	}
	d.index, d.loader = x, s.host.Modules(x, conf)
	// Listen first: what appears while we walk is not missed.
	if err := d.listen(); err != nil {
		s.say("no hot-plugging: %v", err)
	}
	for d.walk() > 0 {
	}
	d.mu.Lock()
	d.hot = true
	later := d.later
	d.mu.Unlock()
	d.loadAll(later)
	// No device asks for these by name.
	d.loadAll([]string{"sr_mod", "sd_mod", "isofs", "dm_mod", "crc32c_intel", "efivarfs"})
	x.FlushPack()
	dir := s.host.Path(efivar.Dir)
	if _, err := os.Stat(dir); err == nil {
		if err := s.host.Mount("efivarfs", dir, "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			s.say("the firmware's boot entries can't be reached: %v", err)
		}
	}
	if d.incomplete() {
		s.notWhole("NOT WHOLE: kernel modules can't be read, so devices may be missing")
	}
}

// walk loads a module for every modalias in /sys that was not seen before.
func (d *drivers) walk() int {
	var aliases []string
	_ = filepath.WalkDir(d.host.Path("/sys/devices"), func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Name() == "modalias" {
			if b, err := os.ReadFile(p); err == nil {
				aliases = append(aliases, strings.TrimSpace(string(b)))
			}
		}
		return nil // devices come and go while we walk
	})
	return d.loadAll(aliases)
}

// loaders is how many modules are loaded at a time: a driver that waits for
// its hardware must not hold up the others.
const loaders = 8

// loadAll loads modules for aliases, several at a time, and returns how many
// were new.
func (d *drivers) loadAll(aliases []string) int {
	var wg sync.WaitGroup
	var n atomic.Int64
	todo := make(chan string)
	for range min(loaders, len(aliases)) {
		wg.Go(func() {
			for a := range todo {
				d.guard("loading a module", func() { n.Add(int64(d.load(a))) })
			}
		})
	}
	for _, a := range aliases {
		todo <- a
	}
	close(todo)
	wg.Wait()
	return int(n.Load())
}

func (d *drivers) load(alias string) int {
	// A processor's features ask for ciphers, whose self-tests take seconds;
	// what needs one loads it.
	if alias == "" || d.loader == nil || strings.HasPrefix(alias, "cpu:") {
		return 0
	}
	d.mu.Lock()
	seen := d.seen[alias]
	d.seen[alias] = true
	d.mu.Unlock()
	if seen || len(d.index.Resolve(alias)) == 0 {
		return 0
	}
	names, err := d.loader.Load(alias, "")
	d.mu.Lock()
	defer d.mu.Unlock()
	var u kmod.Unreadable
	d.damaged = d.damaged || errors.As(err, &u)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		d.failed = append(d.failed, err.Error())
	}
	d.count += len(names)
	return len(names)
}

// listen follows the device events of the kernel.
func (d *drivers) listen() error {
	receive, err := d.host.Events()
	if err != nil {
		return err
	}
	go d.guard("hot-plugging", func() {
		buf := make([]byte, 16<<10)
		for {
			n, err := receive(buf)
			if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			if n <= 0 {
				continue
			}
			for _, kv := range bytes.Split(buf[:n], []byte{0}) {
				if v, ok := bytes.CutPrefix(kv, []byte("MODALIAS=")); ok {
					d.guard("loading a module", func() { d.heard(string(v)) })
				}
			}
			select {
			case d.event <- struct{}{}:
			default:
			}
		}
	})
	return nil
}

// heard loads what a device asks for, or keeps it for later.
func (d *drivers) heard(alias string) {
	d.mu.Lock()
	if !d.hot {
		d.later = append(d.later, alias)
		d.mu.Unlock()
		return
	}
	d.mu.Unlock()
	d.load(alias)
}

// change returns when a device came or went, at the latest after t.
func (d *drivers) change(t time.Duration) {
	select {
	case <-d.event:
		time.Sleep(50 * time.Millisecond) // its partitions follow at once
	case <-time.After(t):
	}
}

// usbSettle is how long a USB disk may take from its driver to its name: the
// kernel itself waits a second (usb-storage.delay_use), slow ones spin up.
const usbSettle = 5 * time.Second

// settle waits for USB disks that have a driver and no disk yet: without it
// they would appear after the ready line.
func (d *drivers) settle() {
	for end := time.Now().Add(usbSettle); time.Now().Before(end) && usbPending(d.host.Path("/sys")); {
		d.change(100 * time.Millisecond)
	}
}

// usbPending reports whether a USB storage interface has no SCSI target yet.
func usbPending(sys string) bool {
	for _, driver := range []string{"usb-storage", "uas"} {
		ifs, err := filepath.Glob(sys + "/bus/usb/drivers/" + driver + "/*:*")
		if err != nil {
			continue
		}
		for _, i := range ifs {
			if t, err := filepath.Glob(i + "/host*/target*/*/block/*"); err == nil && len(t) == 0 {
				return true
			}
		}
	}
	return false
}

// incomplete reports whether a module could not be read.
func (d *drivers) incomplete() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.damaged
}

func (d *drivers) summary() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := fmt.Sprintf("%d modules loaded", d.count)
	if len(d.failed) > 0 {
		s += fmt.Sprintf(", %d failed (%s)", len(d.failed), d.failed[0])
	}
	return s
}
