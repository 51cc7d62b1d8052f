package multicall

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inputs are command lines with wrong words or files, and the exit status that each must
// give. FILE, DIR, EMPTY and MISSING are paths in the test's directory; what is behind <
// is on standard input.
var inputs = []struct {
	status int
	lines  string
}{
	{2, `mkcdrec|mkcdrec nosuch|mkcdrec layout|mkcdrec layout nosuch|mkcdrec help nosuch|mkcdrec -c MISSING version|mkcdrec -c DIR version|mkcdrec -c FILE version
mkcdrec list|mkcdrec verify|mkcdrec extract|mkcdrec layout diff|mkcdrec layout diff FILE FILE FILE|mkcdrec pxe|mkcdrec usbkey|mkcdrec device|mkcdrec obdr
mkcdrec path|mkcdrec status x|mkcdrec disable x|mkcdrec enable x|mkcdrec enable --at 24:00|mkcdrec enable --at 2|mkcdrec enable|mkcdrec prune|mkcdrec prune DIR|mkcdrec prune DIR DIR|mkcdrec prune --keep-last many DIR|mkcdrec prune --keep-last -1 DIR|mkcdrec path DIR DIR|mkcdrec cdrom DIR DIR|mkcdrec cdrom --size many DIR|mkcdrec rescue DIR|mkcdrec completion|mkcdrec completion tcsh|mkcdrec test nosuch
mkcdrec usbkey --keep many DIR|mkcdrec usbkey --rescue-size many DIR|mkcdrec list --directory DIR|mkcdrec path --kernel|mkcdrec serve --proxy FILE
mkcdrec coverage DIR DIR|mkcdrec coverage --html
restore|restore --plan --dry-run FILE|restore --size x FILE|restore --answers MISSING|restore extract DIR|restore --confirm|restore DIR DIR
clonedsk|clonedsk DIR|clonedsk --identity other DIR DIR|clonedsk --target-size many DIR DIR
cutstream FILE|cutstream --size many|cutstream --size 0|cutstream --name a/b|pastestream|pastestream --id x DIR|pastestream --old DIR
mkcdrec-swarm|mkcdrec-swarm nosuch|mkcdrec-swarm seed|mkcdrec-swarm torrent|mkcdrec-swarm get|mkcdrec-swarm get --linger long|mkcdrec-swarm get FILE`},
	{1, `mkcdrec list MISSING|mkcdrec list FILE|mkcdrec list DIR|mkcdrec list EMPTY|mkcdrec verify MISSING|mkcdrec verify FILE|mkcdrec verify DIR|mkcdrec extract MISSING|mkcdrec extract DIR
mkcdrec prune --keep-last 1 MISSING|mkcdrec prune --keep-last 1 FILE|mkcdrec layout diff MISSING|mkcdrec layout diff DIR|mkcdrec layout diff FILE|mkcdrec layout show MISSING|mkcdrec layout show EMPTY|mkcdrec --json list MISSING
mkcdrec coverage MISSING|mkcdrec coverage FILE
restore --plan MISSING|restore --plan FILE|restore --plan EMPTY|restore verify MISSING|restore extract MISSING x --to DIR|clonedsk --plan MISSING MISSING2|clonedsk MISSING MISSING2
cutstream --dir MISSING < x|pastestream MISSING|pastestream EMPTY|pastestream --mkcdrec list DIR|pastestream --mkcdrec list MISSING
mkcdrec-swarm seed MISSING|mkcdrec-swarm seed FILE|mkcdrec-swarm torrent DIR|mkcdrec-swarm torrent MISSING`},
	{4, `restore mount|restore umount|restore boot|restore EMPTY`},
	{0, `cutstream --dir DIR < x|mkcdrec --help|mkcdrec help path|mkcdrec version|restore --help|restore mount -h|clonedsk -h|mkcdrec-swarm get --help|mkcdrec-swarm --help`},
}

// daring are commands that are run with an unknown option only, and "" those that are not run.
var daring = map[string]string{"init": "", "sshd": "", "yes": "", "watch": "-", "top": "-", "sh": "-", "editor": "-", "ping": "-", "traceroute": "-", "dhclient": "-", "strace": "-",
	"reboot": "-", "halt": "-", "poweroff": "-", "network": "-", "fleet": "-", "backoff": "-", "nohup": "-", "time": "-", "unshare": "-", "ntpdate": "-"}

// takesAny are commands for which any word is a good one.
var takesAny = map[string]bool{"echo": true, "true": true, "basename": true, "dirname": true, "printenv": true, "expr": true, "printf": true, "test": true, "[": true}

// faulty are commands whose faults are known: they take unknown options for good, panic
// without operands, or never end with a directory as their input.
var faulty = map[string]bool{"blkid": true, "clear": true, "help": true, "less": true, "switch_root": true, "tty": true, "uniq": true}

// trace is what Go prints when a program panics.
var trace = regexp.MustCompile(`goroutine \d+ \[|panic:|runtime error|SIGSEGV`)

// ours builds the commands that people type, and gives their directory.
func ours(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin+"/", "./cmds/mkcdrec", "./cmds/restore", "./cmds/clonedsk", "./cmds/cutstream", "./cmds/pastestream", "./internal/swarm/mkcdrec-swarm")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// ran is how a command has ended.
type ran struct {
	status      int // minus the signal that ended it
	out, errors string
}

// start runs a line without rights to anything, and kills it after half a minute.
func start(t *testing.T, bin, dir, line string, prepare func(*exec.Cmd)) ran {
	t.Helper()
	line, input, given := strings.Cut(line, " < ")
	words := strings.Fields(line)
	c := exec.Command(filepath.Join(bin, words[0]), words[1:]...)
	var out, errs bytes.Buffer
	c.Dir, c.Env, c.Stdout, c.Stderr = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TERM=dumb"}, &out, &errs
	if given {
		c.Stdin = strings.NewReader(input)
	}
	if os.Geteuid() == 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if prepare != nil {
		prepare(c)
	}
	if err := c.Start(); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	timer := time.AfterFunc(30*time.Second, func() { c.Process.Kill() })
	_ = c.Wait() // the state tells
	timer.Stop()
	r := ran{c.ProcessState.ExitCode(), out.String(), errs.String()}
	if s := c.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() {
		r.status = -int(s.Signal())
	}
	if trace.MatchString(r.errors) {
		t.Errorf("%s ends with a stack trace:\n%s", line, r.errors)
	}
	return r
}

// short tests that a message is one line, or two with a hint, and has the command's name.
func short(t *testing.T, line string, r ran) {
	t.Helper()
	name := strings.Fields(line)[0]
	lines := strings.Split(strings.TrimSuffix(r.errors, "\n"), "\n")
	last := lines[len(lines)-1]
	if len(lines) > 2 || !strings.HasPrefix(last, name) || len(lines) == 2 && !strings.Contains(last, ": hint: ") {
		t.Errorf("%s prints\n%s\nwant a line, and perhaps a hint", line, r.errors)
	}
}

// TestWrongInput: our commands answer wrong words and files with one line and the status
// that docs/COMMANDS.md has.
func TestWrongInput(t *testing.T) {
	bin := ours(t)
	dir := t.TempDir()
	paths := strings.NewReplacer("FILE", dir+"/file", "DIR", dir+"/dir", "EMPTY", dir+"/empty", "MISSING", dir+"/missing")
	for _, d := range []string{dir, filepath.Dir(dir), bin, filepath.Dir(bin)} {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"/dir", "/empty"} {
		if err := os.Mkdir(dir+d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir+"/dir", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/file", []byte("text of no kind: [\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range inputs {
		for l := range strings.FieldsFuncSeq(c.lines, func(r rune) bool { return r == '|' || r == '\n' }) {
			line := paths.Replace(l)
			r := start(t, bin, dir, line, nil)
			if r.status != c.status {
				t.Errorf("%s: exit status %d; want %d\n%s%s", l, r.status, c.status, r.out, r.errors)
			} else if c.status == 2 || c.status == 1 && !strings.Contains(l, "--json") {
				short(t, l, r)
			}
			if c.status == 2 && r.out != "" {
				t.Errorf("%s prints to standard output:\n%s", l, r.out)
			}
		}
	}
	for _, name := range []string{"mkcdrec", "restore", "clonedsk", "cutstream", "pastestream", "mkcdrec-swarm"} {
		each(t, bin, dir, name, func(full string) {
			if r := start(t, bin, dir, full+" --nosuch", nil); r.status != 2 || !strings.Contains(r.errors, "unknown option --nosuch") {
				t.Errorf("%s --nosuch: exit status %d; want 2\n%s", full, r.status, r.errors)
			} else {
				short(t, full, r)
			}
			help := full + " --help"
			if r := start(t, bin, dir, help, nil); r.status != 0 || r.errors != "" || !strings.HasPrefix(r.out, full+" - ") {
				t.Errorf("%s: exit status %d\n%s%s", help, r.status, r.out, r.errors)
			}
			device, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer device.Close()
			if r := start(t, bin, dir, help, func(c *exec.Cmd) { c.Stdout = device }); r.status != 1 || !strings.Contains(r.errors, "no space") {
				t.Errorf("%s > /dev/full: exit status %d\n%s", help, r.status, r.errors)
			} else {
				short(t, help, r)
			}
			from, to, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			from.Close()
			defer to.Close()
			if r := start(t, bin, dir, help, func(c *exec.Cmd) { c.Stdout = to }); r.status != 1 && r.status != -int(syscall.SIGPIPE) {
				t.Errorf("%s with a closed pipe: exit status %d\n%s", help, r.status, r.errors)
			}
		})
	}
	for _, line := range []string{"cutstream --dir DIR --name waits", "pastestream --wait EMPTY"} {
		r := start(t, bin, dir, paths.Replace(line), func(c *exec.Cmd) {
			in, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { in.Close(); w.Close() })
			c.Stdin = in
			time.AfterFunc(time.Second, func() { c.Process.Signal(os.Interrupt) })
		})
		if lines := strings.Split(strings.TrimSpace(r.errors), "\n"); r.status != 1 || !strings.Contains(r.errors, ": interrupted") || len(lines) > 2 {
			t.Errorf("%s and Ctrl-C: exit status %d; want 1 and a line\n%s", line, r.status, r.errors)
		}
	}
	// Go opens /dev/null in the place of a closed standard input.
	for l, want := range map[string]int{"cutstream --dir DIR --name closed": 0, "restore --plan MISSING": 1, "clonedsk --plan MISSING MISSING2": 1, "mkcdrec list MISSING": 1} {
		line := paths.Replace(l)
		r := start(t, "", dir, "/bin/sh "+line, func(c *exec.Cmd) {
			words := strings.Fields(line)
			c.Args = append([]string{"sh", "-c", `exec "$@" <&-`, "sh", filepath.Join(bin, words[0])}, words[1:]...)
		})
		if r.status != want {
			t.Errorf("%s <&-: exit status %d; want %d\n%s", l, r.status, want, r.errors)
		} else if want != 0 {
			short(t, l, r)
		}
	}
}

// each calls fn with the full names of a command and all below it.
func each(t *testing.T, bin, dir, name string, fn func(string)) {
	t.Helper()
	type command struct {
		Name     string
		Commands []command
	}
	var c command
	if err := json.NewDecoder(strings.NewReader(start(t, bin, dir, name+" --help=json", nil).out)).Decode(&c); err != nil && err != io.EOF || c.Name != name {
		t.Fatalf("%s --help=json: %v", name, err)
	}
	var walk func(string, command)
	walk = func(above string, c command) {
		fn(strings.TrimSpace(above + " " + c.Name))
		for _, s := range c.Commands {
			walk(strings.TrimSpace(above+" "+c.Name), s)
		}
	}
	walk("", c)
}

// TestEveryCommand: no command of the multicall binary, u-root's included, ends with a
// stack trace, takes an unknown option or a file that is missing for done, or waits for ever.
func TestEveryCommand(t *testing.T) {
	if _, err := os.Stat("../bbgen/main.go"); err != nil {
		t.Skip("internal/bbgen is missing; make generate makes it")
	}
	bin, dir := t.TempDir(), t.TempDir()
	build := exec.Command("go", "build", "-o", bin+"/mkcdrec", "./internal/bbgen")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, d := range []string{dir, filepath.Dir(dir), bin, filepath.Dir(bin)} {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	names := strings.Fields(start(t, bin, dir, "mkcdrec applet", nil).out)
	if len(names) < 100 {
		t.Fatalf("%d commands", len(names))
	}
	for _, n := range names {
		if words, ok := daring[n]; ok && words == "" || faulty[n] {
			continue
		}
		line := "mkcdrec applet " + n + " --no-such-option"
		r := start(t, bin, dir, line, nil)
		if _, takes := takesAny[n]; r.status == 0 && !takes || r.status == -int(syscall.SIGKILL) {
			t.Errorf("%s: exit status %d\n%s%s", line, r.status, r.out, r.errors)
		}
		if _, ok := daring[n]; !ok {
			for _, words := range []string{"", " " + dir + "/missing", " " + dir} {
				line := "mkcdrec applet " + n + words
				if r := start(t, bin, dir, line, func(c *exec.Cmd) { c.Stdout = nil }); r.status == -int(syscall.SIGKILL) {
					t.Errorf("%s waits\n%.300s", line, r.errors)
				}
			}
		}
	}
}
