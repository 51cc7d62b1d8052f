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

// hostFull is the error that the host has no room for the machine's disks: QEMU stops a
// machine then, and prints nothing.
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
	return start(m, exec.CommandContext(ctx, "qemu-system-x86_64", m.Args()...))
}

// start starts the command that is the machine: its standard input and output are the
// console.
func start(m Machine, cmd *exec.Cmd) (*VM, error) {
	v := &VM{m: m, start: time.Now(), cmd: cmd}
	v.cond = sync.NewCond(&v.mu)
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
		fmt.Fprintln(f, strings.Join(cmd.Args, " "))
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

// patience is how many times the limit a machine is waited for that continues to print
// something.
const patience = 4

// lastLine gives the last line that is not empty, as a terminal shows it.
func lastLine(s string) string {
	l := strings.Split(strings.TrimSpace(Shown(s)), "\n")
	return strings.TrimSpace(l[len(l)-1])
}

// Expect waits for the regular expression in what comes after the last match
// and returns its groups. A machine that ends, or prints nothing new for limit, is an
// error that shows the end of the console; so is one that talks on for four times limit.
func (v *VM) Expect(pattern string, limit time.Duration) ([]string, error) {
	return v.expect(strconv.Quote(pattern), pattern, limit, false)
}

// kernelLine is a message of the kernel on the console; it may appear in the middle
// of what a program prints.
var kernelLine = regexp.MustCompile(`\[ {0,4}\d+\.\d{6}\] [^\n]*\n`)

// withoutKernel gives a text without the kernel's messages; at returns where a
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

// lost returns why a machine is waited for no longer since start, "" if it still is. One
// that continues to print may be slow only.
func (v *VM) lost(start time.Time, limit time.Duration) string {
	waited, silent := time.Since(start), time.Since(v.heard)
	switch {
	case v.ended:
		return "the machine ended"
	case waited > limit && silent > limit:
		return fmt.Sprintf("nothing new for %v", min(waited, silent).Round(time.Second)) + v.hostFull()
	case waited > patience*limit:
		return fmt.Sprintf("it did not come within %v", waited.Round(time.Second)) + v.hostFull()
	}
	return ""
}

// failure is an error whose first line has the machine, what happened, and the last line of
// the console, whose end follows.
func (v *VM) failure(what, console string) error {
	return fmt.Errorf("machine %s: %s; the last line is %q; the console ends with:\n%s", v.m.Name, what, lastLine(console), console[max(0, len(console)-4000):])
}

// failed is the failure of a machine that has printed what it should not.
func (v *VM) failed(what string) error { return v.failure(what, v.Output()) }

// expect is Expect; what is what is waited for, in the words of an error, and between
// has messages of the kernel ignored in the middle of it.
func (v *VM) expect(what, pattern string, limit time.Duration, between bool) ([]string, error) {
	re := regexp.MustCompile(pattern)
	stop := make(chan struct{})
	defer close(stop)
	go func() { // looks at the clock
		tick := time.NewTicker(min(time.Second, limit))
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
		if why := v.lost(start, limit); why != "" {
			return nil, v.failure(fmt.Sprintf("waiting for %s: %s", what, why), v.buf.String())
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
		return errors.Join(v.failed(fmt.Sprintf("waiting for its end: it did not come within %v", limit)), v.Kill())
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
// the exit status are returned; the prompt is set by Login.
func (v *VM) Run(command string, limit time.Duration) (string, int, error) {
	mark := fmt.Sprint(time.Now().UnixNano())
	// The marks are put together by the shell, so that the echo is not them.
	if err := v.Send("echo \"BEG\"\"" + mark + "\"; " + command + "; echo \"END\"\"" + mark + "=$?\"\n"); err != nil {
		return "", 0, err
	}
	g, err := v.expect("the end of the command "+strconv.Quote(command), `(?s)BEG`+mark+`\r?\n(.*?)END`+mark+`=(\d+)\r?\n`, limit, true)
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
