// Package vmtest starts real machines in QEMU: source machines of the test
// matrix are installed, backed up, destroyed, restored from their own rescue
// medium and compared. Everything waits for text on the serial console, never
// for time alone.
package vmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is a disk of a machine.
type Disk struct {
	File   string
	Serial string
	Bus    string // virtio (default), ahci, nvme, usb, scsi, sd (mmcblk0; SDSerial, a power of two in size)
	RO     bool
	// Sector is the size of a logical sector, 512 if 0.
	Sector int
	// Removable makes a USB or SCSI disk say that it can be taken out.
	Removable bool
	Snapshot  bool // writes are thrown away
	// FailAt has the first write at this byte of a qcow2 file fail with EIO, once;
	// 0 for none.
	FailAt int64
}

// SDSerial is the serial number of QEMU's SD cards, for all of them.
const SDSerial = "0xdeadbeef"

// Machine says what QEMU is to start.
type Machine struct {
	Name   string
	Memory int    // MiB, default 1024
	CPUs   int    // default 1
	UEFI   string // file of the NVRAM; "" for BIOS
	Secure bool   // firmware with Secure Boot; UEFI is a SecureNVRAM
	CDROM  string // a SCSI drive, which every kernel here knows
	IDECD  string // an AHCI drive, as real machines have
	Disks  []Disk
	// Kernel, Initrd and Append start a kernel without firmware and loader.
	Kernel, Initrd, Append string
	Net                    bool
	// NIC are QEMU's words for network cards, instead of Net; NetBoot makes the
	// first one what the firmware starts from.
	NIC     []string
	NetBoot bool
	// Display starts with a screen, and a control socket at this path that
	// takes pictures of it.
	Display string
	// Extra are more words for QEMU.
	Extra []string
	Log   string // file that gets the console's output
}

// CPU is the emulated processor. With erms and fsrm, kernel and C library fill
// and copy memory by "rep stosb" and "rep movsb", which emulation does byte by
// byte: a machine then takes three times as long for everything that reads files.
const CPU = "max,-erms,-fsrm"

// KernelWords are for kernels in emulation: to clear pages that a read fills
// anyway is most of what reading a file costs there, and on a busy host timer
// interrupts come too late for a check that ends in a panic ("IO-APIC + timer
// doesn't work"). install.sh has them for the source machines.
const KernelWords = "init_on_alloc=0 no_timer_check"

// Args gives QEMU's argument list.
func (m Machine) Args() []string {
	mem, cpus := m.Memory, m.CPUs
	if mem == 0 {
		mem = 1024
	}
	if cpus == 0 {
		cpus = 1
	}
	machine := "q35"
	if m.Secure {
		machine = "q35,smm=on"
	}
	a := []string{"-name", m.Name, "-machine", machine, "-cpu", CPU, "-m", fmt.Sprint(mem), "-smp", fmt.Sprint(cpus), "-display", "none", "-serial", "stdio", "-no-reboot",
		"-device", "virtio-rng-pci", "-rtc", "base=utc"}
	// Emulation works everywhere and is what CI has; a /dev/kvm that opens may
	// still fail at the start, so it has to be asked for.
	if os.Getenv("MKCDREC_KVM") != "" {
		a = append(a, "-accel", "kvm")
	} else {
		a = append(a, "-accel", "tcg,thread=multi,tb-size=512")
	}
	if m.Display != "" {
		a = append(a, "-vga", "std", "-qmp", "unix:"+m.Display+",server=on,wait=off")
	}
	a = append(a, "-monitor", "none")
	switch {
	case len(m.NIC) > 0:
		for i, n := range m.NIC {
			net, dev, _ := strings.Cut(n, " ")
			if m.NetBoot && i == 0 {
				dev += ",bootindex=0"
			}
			a = append(a, "-netdev", fmt.Sprintf("%s,id=n%d", net, i), "-device", fmt.Sprintf("%s,netdev=n%d", dev, i))
		}
	case m.Net:
		a = append(a, "-nic", "user,model=virtio-net-pci")
	default:
		a = append(a, "-nic", "none")
	}
	a = append(a, m.Extra...)
	if m.UEFI != "" {
		code := "OVMF_CODE_4M.fd"
		if m.Secure {
			code = "OVMF_CODE_4M.ms.fd"
			a = append(a, "-global", "driver=cfi.pflash01,property=secure,value=on")
		}
		a = append(a, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/"+code, "-drive", "if=pflash,format=raw,unit=1,file="+m.UEFI)
	}
	usb := false
	for i, d := range m.Disks {
		id := fmt.Sprintf("d%d", i)
		format := "raw"
		if strings.HasSuffix(d.File, ".qcow2") {
			format = "qcow2"
		}
		file := d.File
		if d.FailAt > 0 {
			file = "blkdebug:" + d.File + ".fail:" + d.File
		}
		drive := fmt.Sprintf("if=none,id=%s,format=%s,file=%s,cache=unsafe,discard=unmap", id, format, file)
		if d.FailAt > 0 {
			drive += ",werror=report"
		}
		if d.Snapshot {
			drive += ",snapshot=on"
		}
		if d.RO {
			drive += ",readonly=on"
		}
		a = append(a, "-drive", drive)
		dev := ""
		switch d.Bus {
		case "", "virtio":
			dev = "virtio-blk-pci"
		case "ahci":
			dev = fmt.Sprintf("ide-hd,bus=ide.%d", i+1)
		case "nvme":
			dev = "nvme"
		case "scsi":
			a = append(a, "-device", "virtio-scsi-pci,id=scsi"+id)
			dev = "scsi-hd,bus=scsi" + id + ".0"
		case "sd":
			a = append(a, "-device", "sdhci-pci,id=sd"+id)
			dev = "sd-card,bus=sd-bus"
		case "usb":
			if !usb {
				a = append(a, "-device", "qemu-xhci")
				usb = true
			}
			dev = "usb-storage"
		}
		dev += ",id=dev" + id + ",drive=" + id
		if d.Removable {
			dev += ",removable=on"
		}
		if d.Sector > 0 {
			dev += fmt.Sprintf(",logical_block_size=%d,physical_block_size=%d", d.Sector, d.Sector)
		}
		if d.Serial != "" && d.Bus != "sd" {
			dev += ",serial=" + d.Serial
		}
		if i == 0 && m.CDROM == "" && m.IDECD == "" && m.Kernel == "" && !m.NetBoot {
			dev += ",bootindex=0"
		}
		// Firmware that is told an order knows only what is in it.
		if (m.CDROM != "" || m.IDECD != "") && m.Kernel == "" && !m.NetBoot {
			dev += fmt.Sprintf(",bootindex=%d", i+1)
		}
		a = append(a, "-device", dev)
	}
	if m.CDROM != "" {
		// Debian's cloud kernel has no AHCI driver: the CD is a SCSI one.
		a = append(a, "-drive", "if=none,id=cd,media=cdrom,readonly=on,format=raw,file="+m.CDROM, "-device", "virtio-scsi-pci,id=scsicd", "-device", "scsi-cd,id=cdrom,bus=scsicd.0,drive=cd,bootindex=0")
	}
	if m.IDECD != "" {
		a = append(a, "-drive", "if=none,id=idecd,media=cdrom,readonly=on,format=raw,file="+m.IDECD, "-device", "ide-cd,bus=ide.0,drive=idecd,bootindex=0")
	}
	if m.Kernel != "" {
		a = append(a, "-kernel", m.Kernel, "-append", strings.TrimSpace(m.Append+" "+KernelWords))
		if m.Initrd != "" {
			a = append(a, "-initrd", m.Initrd)
		}
	}
	return a
}

// VM is a running machine.
type VM struct {
	m     Machine
	cmd   *exec.Cmd
	stdin io.WriteCloser
	mu    sync.Mutex
	cond  *sync.Cond
	buf   bytes.Buffer // all output since the start
	pos   int          // how far Expect has read
	heard time.Time    // when the console said something last
	ended bool
	start time.Time
}

// hostFull says that the host has no room for the machine's disks: QEMU stops a
// machine then, and says nothing.
func (v *VM) hostFull() string {
	for _, d := range v.m.Disks {
		var st unix.Statfs_t
		if dir := filepath.Dir(d.File); unix.Statfs(dir, &st) == nil && st.Bavail*uint64(st.Bsize) < 64<<20 {
			return ", for " + dir + " is full"
		}
	}
	return ""
}

// Start starts the machine; it is killed when ctx ends.
func Start(ctx context.Context, m Machine) (*VM, error) {
	for _, d := range m.Disks {
		if d.FailAt > 0 {
			text := fmt.Sprintf("[inject-error]\nevent = \"write_aio\"\nerrno = \"5\"\nonce = \"on\"\nsector = \"%d\"\n", d.FailAt/512)
			if err := os.WriteFile(d.File+".fail", []byte(text), 0o600); err != nil {
				return nil, err
			}
		}
	}
	v := &VM{m: m, start: time.Now()}
	v.cond = sync.NewCond(&v.mu)
	v.cmd = exec.CommandContext(ctx, "qemu-system-x86_64", m.Args()...)
	var err error
	if v.stdin, err = v.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	v.cmd.Stderr = v.cmd.Stdout
	var log io.Writer = io.Discard
	if m.Log != "" {
		if err := os.MkdirAll(filepath.Dir(m.Log), 0o755); err != nil {
			return nil, err
		}
		f, err := os.Create(m.Log)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(f, "qemu-system-x86_64 %s\n", strings.Join(m.Args(), " "))
		log = &stamped{w: f, start: v.start}
	}
	if err := v.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start machine %s: %w", m.Name, err)
	}
	go v.read(out, log)
	return v, nil
}

func (v *VM) read(r io.Reader, log io.Writer) {
	b := make([]byte, 64<<10)
	for {
		n, err := r.Read(b)
		v.mu.Lock()
		v.buf.Write(b[:n])
		if n > 0 {
			v.heard = time.Now()
		}
		if err != nil {
			v.ended = true
		}
		v.cond.Broadcast()
		v.mu.Unlock()
		if n > 0 {
			log.Write(b[:n])
		}
		if err != nil {
			return
		}
	}
}

// stamped writes the seconds since the start before each line of a log: what
// takes long is seen there.
type stamped struct {
	w      io.Writer
	start  time.Time
	inLine bool
}

func (s *stamped) Write(b []byte) (int, error) {
	for line := range bytes.Lines(b) {
		if !s.inLine {
			fmt.Fprintf(s.w, "%6.1f ", time.Since(s.start).Seconds())
		}
		if _, err := s.w.Write(line); err != nil {
			return 0, err
		}
		s.inLine = !bytes.HasSuffix(line, []byte("\n"))
	}
	return len(b), nil
}

// Output is everything the console has shown.
func (v *VM) Output() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.buf.String()
}

// Shown is what a terminal would have left of a text on its screen: of a line
// that was written again and again, as progress is, the last.
func Shown(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		for _, again := range []string{"\x1b[K", "\r"} {
			if i := strings.LastIndex(line, again); i >= 0 {
				line = line[i+len(again):]
			}
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// Tail is the end of the output, for messages.
func (v *VM) Tail(n int) string {
	o := v.Output()
	return o[max(0, len(o)-n):]
}

// patience is how many times the limit a machine is waited for that goes on saying
// something.
const patience = 4

// lastLine gives the last line that is not empty.
func lastLine(s string) string {
	l := strings.Split(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(l[len(l)-1])
}

// Expect waits for the regular expression in what comes after the last match
// and returns its groups. A machine that ends, or says nothing new for limit, is an
// error that shows the end of the console; so is one that talks on for four times limit.
func (v *VM) Expect(pattern string, limit time.Duration) ([]string, error) {
	return v.expect(pattern, limit, false)
}

// kernelLine is a message of the kernel on the console; it may come in the middle
// of what a program prints.
var kernelLine = regexp.MustCompile(`\[ {0,4}\d+\.\d{6}\] [^\n]*\n`)

// withoutKernel gives a text without the kernel's messages; at tells where a
// place of it is in the whole text.
func withoutKernel(text []byte) (out []byte, at func(int) int) {
	lines := kernelLine.FindAllIndex(text, -1)
	from := 0
	for _, l := range lines {
		out = append(out, text[from:l[0]]...)
		from = l[1]
	}
	return append(out, text[from:]...), func(i int) int {
		for _, l := range lines {
			if i > l[0] {
				i += l[1] - l[0]
			}
		}
		return i
	}
}

// expect is Expect; between says that messages of the kernel may lie between
// what is waited for.
func (v *VM) expect(pattern string, limit time.Duration, between bool) ([]string, error) {
	re := regexp.MustCompile(pattern)
	stop := make(chan struct{})
	defer close(stop)
	go func() { // looks at the clock
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				v.mu.Lock()
				v.cond.Broadcast()
				v.mu.Unlock()
			}
		}
	}()
	start := time.Now()
	v.mu.Lock()
	defer v.mu.Unlock()
	for {
		rest, at := v.buf.Bytes()[v.pos:], func(i int) int { return i }
		loc := re.FindSubmatchIndex(rest)
		if loc == nil && between {
			rest, at = withoutKernel(rest)
			loc = re.FindSubmatchIndex(rest)
		}
		if loc != nil {
			var g []string
			for i := 0; i < len(loc); i += 2 {
				if loc[i] < 0 {
					g = append(g, "")
					continue
				}
				g = append(g, string(rest[loc[i]:loc[i+1]]))
			}
			v.pos += at(loc[1])
			return g, nil
		}
		why := ""
		// A machine that goes on saying something may be slow only.
		now := time.Now()
		if v.ended {
			why = "the machine ended"
		} else if now.Sub(start) > limit && now.Sub(v.heard) > limit || now.Sub(start) > patience*limit {
			why = fmt.Sprintf("it did not come within %v", now.Sub(start).Round(time.Second)) + v.hostFull()
		}
		if why != "" {
			o := v.buf.String()
			return nil, fmt.Errorf("machine %s: waiting for %q: %s; the last line is %q; the console ends with:\n%s", v.m.Name, pattern, why, lastLine(o), o[max(0, len(o)-2500):])
		}
		v.cond.Wait()
	}
}

// Send types text.
func (v *VM) Send(text string) error {
	_, err := io.WriteString(v.stdin, text)
	return err
}

// Menu waits for the medium's boot menu on the serial line and presses a key
// of it: l local disk, r rescue, s serial console, g safe graphics, c check.
func (v *VM) Menu(key string, limit time.Duration) error {
	if _, err := v.Expect(`Rescue system with safe`, limit); err != nil {
		return err
	}
	// The whole of the menu is drawn before it reads keys.
	if _, err := v.Expect(`(?i)automatic|seconds|\d+s`, limit); err != nil {
		return err
	}
	return v.Send(key)
}

// Wait waits for the machine to end by itself.
func (v *VM) Wait(limit time.Duration) error {
	if _, err := v.Expect(`\z.^`, limit); err == nil || !v.hasEnded() {
		return errors.Join(fmt.Errorf("machine %s did not end within %v", v.m.Name, limit), v.Kill())
	}
	return v.cmd.Wait()
}

func (v *VM) hasEnded() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.ended }

// Kill ends the machine as a power cut does.
func (v *VM) Kill() error {
	if v.cmd.ProcessState == nil {
		_ = v.cmd.Process.Kill()
		_ = v.cmd.Wait() // killed: the error has that
	}
	return nil
}

// Run types a command at a root prompt and waits for its end. The output and
// the exit status come back; the prompt is set by Login.
func (v *VM) Run(command string, limit time.Duration) (string, int, error) {
	mark := fmt.Sprint(time.Now().UnixNano())
	// The marks are put together by the shell, so that the echo is not them.
	if err := v.Send("echo \"BEG\"\"" + mark + "\"; " + command + "; echo \"END\"\"" + mark + "=$?\"\n"); err != nil {
		return "", 0, err
	}
	g, err := v.expect(`(?s)BEG`+mark+`\r?\n(.*?)END`+mark+`=(\d+)\r?\n`, limit, true)
	if err != nil {
		return "", 0, err
	}
	code, err := strconv.Atoi(g[2])
	return g[1], code, err
}

// Login waits for the login prompt and logs in as root.
func (v *VM) Login(password string, limit time.Duration) error {
	if _, err := v.Expect(`login: `, limit); err != nil {
		return err
	}
	if err := v.Send("root\n"); err != nil {
		return err
	}
	if _, err := v.Expect(`Password: `, limit); err != nil {
		return err
	}
	if err := v.Send(password + "\n"); err != nil {
		return err
	}
	if _, err := v.Expect(`# `, limit); err != nil {
		return err
	}
	_, _, err := v.Run("stty -echo cols 500; PS1=; bind 'set enable-bracketed-paste off'; dmesg -n 1", limit)
	return err
}

// Control sends a command to the machine's control socket (Machine.Display),
// in QEMU's machine protocol: a JSON object. Errors are QEMU's answers.
func (v *VM) Control(execute string, args map[string]any) error {
	c, err := net.Dial("unix", v.m.Display)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	d := json.NewDecoder(c)
	for _, m := range []map[string]any{nil, {"execute": "qmp_capabilities"}, {"execute": execute, "arguments": args}} {
		if m != nil {
			b, err := json.Marshal(m)
			if err != nil {
				return err
			}
			if _, err := c.Write(b); err != nil {
				return err
			}
		}
		for {
			var r map[string]any
			if err := d.Decode(&r); err != nil {
				return fmt.Errorf("machine %s: %s: %w", v.m.Name, execute, err)
			}
			if r["event"] != nil {
				continue
			}
			if e := r["error"]; e != nil {
				return fmt.Errorf("machine %s: %s: %v", v.m.Name, execute, e)
			}
			break
		}
	}
	return nil
}

// Pull takes a disk away, by its number in Machine.Disks, as somebody who pulls
// out a stick; the machine needs a control socket.
func (v *VM) Pull(disk int) error {
	return v.Control("device_del", map[string]any{"id": fmt.Sprintf("devd%d", disk)})
}

// ChangeDisc puts an image into the drive of Machine.CDROM; the machine needs a
// control socket.
func (v *VM) ChangeDisc(image string) error {
	return v.Control("blockdev-change-medium", map[string]any{"id": "cdrom", "filename": image, "format": "raw", "force": true})
}

// Screenshot writes what the screen shows to a PNG file.
func (v *VM) Screenshot(file string) error {
	abs, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	return v.Control("screendump", map[string]any{"filename": abs, "format": "png"})
}
