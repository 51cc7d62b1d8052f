package toolbox

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// TestMain is each command as a program, too, by the name of a link.
func TestMain(m *testing.M) {
	if c, ok := Find(filepath.Base(os.Args[0])); ok {
		os.Exit(tools.Main(c, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// prints are command lines that print, of commands that have none in testdata/lines.txt which
// prints the same everywhere.
var prints = map[string]string{
	"printf":  "printf hi",
	"echo":    "echo hi",
	"bc":      "echo 1+1 | bc",
	"blkid":   "truncate -s 1M x; mkswap x >x.log; blkid -p x",
	"bunzip2": "bzip2 -c a.txt | bunzip2 -c",
	"bzcat":   "bzip2 -c a.txt | bzcat",
	"bzip2":   "bzip2 -c a.txt",
	"chgrp":   "chgrp -v 65534 a.txt",
	"chmod":   "chmod -v 600 a.txt",
	"chown":   "chown -v 65534 a.txt",
	"cksum":   "cksum a.txt",
	"cmp":     "cmp -l a.txt b.txt",
	"comm":    "comm a.txt a.txt",
	"cp":      "cp -v a.txt x",
	"curl":    "curl -sS file://$PWD/a.txt",
	"df":      "df -h /",
	"egrep":   "egrep one a.txt",
	"free":    "free",
	"gunzip":  "gzip -c a.txt | gunzip -c",
	"gzip":    "gzip -c a.txt",
	"install": "install -v a.txt x",
	"ip":      "ip link",
	"kill":    "kill -l",
	"ln":      "ln -sv a.txt x",
	"lsof":    "sleep 9 & lsof -p $!; rc=$?; kill $!; exit $rc",
	"lz4":     "lz4 -c a.txt",
	"lz4cat":  "lz4 -c a.txt | lz4cat",
	"mkdir":   "mkdir -v x",
	"mkswap":  "truncate -s 1M x; mkswap x",
	"mktemp":  "mktemp -p d",
	"mount":   "mount",
	"mv":      "mv -v a.txt x",
	"pgrep":   "pgrep sh",
	"pidof":   "sleep 9 & p=$!; while [ \"$(cat /proc/$p/comm)\" != sleep ]; do :; done; pidof sleep; rc=$?; kill $p; exit $rc",
	"pwd":     "pwd",
	"rev":     "rev a.txt",
	"rm":      "rm -v a.txt",
	"rmdir":   "rmdir -v emptydir",
	"screen":  "chmod 700 emptydir; screen -ls",
	"session": "chmod 700 emptydir; session -ls",
	"shuf":    "shuf a.txt",
	"tar":     "tar -cf - a.txt",
	"tee":     "tee x <a.txt",
	"tmux":    "chmod 700 emptydir; tmux ls",
	"tr":      "echo a | tr a b",
	"tty":     "tty <a.txt",
	"unlz4":   "lz4 -c a.txt | unlz4 -c",
	"unxz":    "xz -c a.txt | unxz -c",
	"unzstd":  "zstd -c a.txt | unzstd -c",
	"which":   "which sh",
	"wipefs":  "truncate -s 1M x; mkswap x >x.log; wipefs x",
	"xargs":   "echo a | xargs echo",
	"xz":      "xz -c a.txt",
	"xzcat":   "xz -c a.txt | xzcat",
	"yes":     "yes",
	"zcat":    "gzip -c a.txt | zcat",
	"zstd":    "zstd -c a.txt",
	"zstdcat": "zstd -c a.txt | zstdcat",
}

// mute are commands without a line that prints, and the reason.
var mute = map[string]string{
	"fuser":      "prints on both outputs",
	"[":          "prints nothing",
	"blkdiscard": "prints nothing",
	"chattr":     "prints nothing",
	"chpasswd":   "prints nothing",
	"eject":      "prints nothing",
	"false":      "prints nothing",
	"getfattr":   "prints nothing",
	"killall":    "prints nothing",
	"mkfifo":     "prints nothing",
	"partprobe":  "prints nothing",
	"pkill":      "prints nothing",
	"setfacl":    "prints nothing",
	"setfattr":   "prints nothing",
	"sleep":      "prints nothing",
	"sync":       "prints nothing",
	"test":       "prints nothing",
	"touch":      "prints nothing",
	"true":       "prints nothing",
	"truncate":   "prints nothing",
	"umount":     "prints nothing",
	"unlink":     "prints nothing",
	"dig":        "needs the network or a server",
	"host":       "needs the network or a server",
	"nc":         "needs the network or a server",
	"netcat":     "needs the network or a server",
	"nslookup":   "needs the network or a server",
	"ping":       "needs the network or a server",
	"rsync":      "needs the network or a server",
	"scp":        "needs the network or a server",
	"sftp":       "needs the network or a server",
	"ssh":        "needs the network or a server",
	"wget":       "needs the network or a server",
	"badblocks":  "needs devices or files of the system",
	"ddrescue":   "needs devices or files of the system",
	"dmesg":      "needs devices or files of the system",
	"efibootmgr": "needs devices or files of the system",
	"hwclock":    "needs devices or files of the system",
	"journalctl": "needs devices or files of the system",
	"losetup":    "needs devices or files of the system",
	"lspci":      "needs devices or files of the system",
	"lsscsi":     "needs devices or files of the system",
	"lsusb":      "needs devices or files of the system",
	"passwd":     "needs devices or files of the system",
	"watch":      "needs devices or files of the system",
}

// endless are commands that run until they are ended, with their least arguments.
var endless = map[string]string{"yes": "", "watch": "true"}

// byName are commands that send signals to processes by their names: they get no words here.
var byName = []string{"pkill", "killall", "kill", "fuser"}

// goodAnyway are commands for which unknown options are words.
var goodAnyway = []string{"true", "false", "test", "[", "expr", "echo", "printf", "rsync"}

// noFile are commands whose first operand is no file: awk's is a program, lsscsi filters by it.
var noFile = []string{"awk", "lsscsi"}

var panicked = regexp.MustCompile(`goroutine \d+ \[|panic:|runtime error|SIGSEGV`)

// TestFaults: each command with an unknown option, a missing file, a directory for a file, no
// operand, a closed standard input, a full standard output, a closed pipe and Ctrl-C: a message of
// a line, the right status, never a stack trace, and an end.
func TestFaults(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to run the commands without rights: some of them end processes and change disks")
	}
	bin := t.TempDir()
	program, err := os.ReadFile(os.Args[0])
	if err = errors.Join(err, os.WriteFile(bin+"/program", program, 0o755), os.Chmod(bin, 0o755), os.Chmod(filepath.Dir(bin), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, c := range all() {
		if err := os.Symlink("program", bin+"/"+c.Name); err != nil {
			t.Fatal(err)
		}
	}
	lines := map[string][]string{}
	for _, s := range sections(t) {
		for _, l := range s.lines {
			lines[s.name] = append(lines[s.name], l.text)
		}
	}
	for _, c := range all() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			f := &faults{t: t, bin: bin, c: c}
			defer f.place.remove(t)
			f.unknownOption()
			f.files()
			f.closedInput()
			f.output(lines[c.Name])
			f.interrupted()
		})
	}
}

// faults are the faulty calls of one command.
type faults struct {
	t     *testing.T
	bin   string
	c     tools.Command
	place place
}

// ended is how a program has ended; the status is minus the signal that ended it.
type ended struct {
	status    int
	out, errs string
}

// run runs a line, and sends it Ctrl-C after a while if that is wanted.
func (f *faults) run(line string, change func(*exec.Cmd), interrupt ...bool) ended {
	f.t.Helper()
	f.place.renew(f.t)
	if !strings.ContainsAny(line, "|;") {
		line = "exec " + line
	}
	c := exec.Command("/bin/sh", "-c", line)
	var out, errs bytes.Buffer
	c.Dir, c.Stdout, c.Stderr = f.place.dir, &out, &errs
	c.Env = []string{"PATH=" + f.bin + ":" + systemPath, "LC_ALL=C", "TZ=UTC", "HOME=" + f.place.dir, "TERM=linux", "VAR=value", "SCREENDIR=" + f.place.dir + "/emptydir"}
	const nobody = 65534
	err := filepath.WalkDir(f.place.dir, func(p string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(p, nobody, nobody))
	})
	if err != nil {
		f.t.Fatal(err)
	}
	// Without any rights, and where there are no devices of the network, mounts and names to change.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC}
	c.WaitDelay = time.Second
	if change != nil {
		change(c)
	}
	if err := c.Start(); err != nil {
		f.t.Fatalf("%s: %v", line, err)
	}
	if len(interrupt) > 0 {
		time.AfterFunc(500*time.Millisecond, func() { _ = c.Process.Signal(os.Interrupt) })
	}
	timer := time.AfterFunc(20*time.Second, func() { _ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) })
	_ = c.Wait() // the state tells
	timer.Stop()
	r := ended{c.ProcessState.ExitCode(), out.String(), errs.String()}
	if s := c.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() {
		r.status = -int(s.Signal())
	}
	if panicked.MatchString(r.errs) {
		f.t.Errorf("%s ends with a stack trace:\n%.2000s", line, r.errs)
	}
	if r.status == -int(syscall.SIGKILL) {
		f.t.Errorf("%s does not end\n%.300s", line, r.errs)
	}
	return r
}

// message tests that what was printed is one line with the command's name, and perhaps where help is.
func (f *faults) message(line string, r ended) {
	f.t.Helper()
	text := strings.TrimSuffix(r.errs, "\n")
	text = strings.TrimSuffix(text, "\nTry '"+f.c.Name+" --help' for more information.")
	if text == "" || strings.Contains(text, "\n") {
		f.t.Errorf("%s = %d, %q; want one line", line, r.status, r.errs)
	}
}

func (f *faults) unknownOption() {
	if slices.Contains(goodAnyway, f.c.Name) {
		return
	}
	line := f.c.Name + " --no-such-option"
	r := f.run(line, nil)
	if want := max(f.c.Bad, 1); r.status != want {
		f.t.Errorf("%s = %d (%s); want %d", line, r.status, r.errs, want)
	}
	f.message(line, r)
}

// files gives it none, one that is missing, and a directory.
func (f *faults) files() {
	if _, ok := endless[f.c.Name]; ok {
		return
	}
	for _, words := range []string{"", " missing/file", " d"} {
		if words != "" && slices.Contains(byName, f.c.Name) {
			break
		}
		line := f.c.Name + words
		r := f.run(line, nil)
		if n := strings.Count(r.errs, "\n"); n > 3 {
			f.t.Errorf("%s = %d, %d lines: %q", line, r.status, n, r.errs)
		}
		if words == " missing/file" && r == (ended{}) && !slices.Contains(goodAnyway, f.c.Name) && !slices.Contains(noFile, f.c.Name) {
			f.t.Errorf("%s is silent", line)
		}
	}
}

func (f *faults) closedInput() {
	if _, ok := endless[f.c.Name]; ok {
		return
	}
	f.run(f.c.Name+" <&-", nil)
	if !slices.Contains(byName, f.c.Name) {
		f.run(f.c.Name+" a.txt <&-", nil)
	}
}

var simple = regexp.MustCompile(`[|;<>&$()*]`)

// output has a line that prints write to a full device, and to a pipe that nobody reads.
func (f *faults) output(lines []string) {
	var line string
	var usual ended
	if own := prints[f.c.Name]; own != "" {
		lines = nil
		if _, ok := endless[own]; ok {
			line = own
		} else if r := f.run(own, nil); r.out != "" {
			line, usual = own, r
		}
	}
	for _, l := range lines {
		if slices.Contains(byName, f.c.Name) || !strings.HasPrefix(l, f.c.Name+" ") && l != f.c.Name || simple.MatchString(l) {
			continue
		}
		r := f.run(l, nil)
		if r.status == 0 && r.out != "" {
			line, usual = l, r
			break
		}
	}
	if _, ok := mute[f.c.Name]; !ok && line == "" {
		f.t.Error("no line prints; every command needs one, or an entry in mute")
	}
	if line == "" {
		return
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	defer full.Close()
	r := f.run(line, func(c *exec.Cmd) { c.Stdout = full })
	if r.status <= 0 || !strings.Contains(r.errs, "No space left on device") {
		f.t.Errorf("%s >/dev/full = %d, %q; want an error", line, r.status, r.errs)
	}
	f.message(line+" >/dev/full", ended{r.status, r.out, strings.TrimPrefix(r.errs, usual.errs)})
	from, to, err := os.Pipe()
	if err != nil {
		f.t.Fatal(err)
	}
	from.Close()
	defer to.Close()
	if r := f.run(line, func(c *exec.Cmd) { c.Stdout = to }); r.status == 0 || strings.Count(strings.TrimPrefix(r.errs, usual.errs), "\n") > 1 {
		f.t.Errorf("%s with a closed pipe = %d, %q", line, r.status, r.errs)
	}
}

// interrupted sends Ctrl-C to a command that waits for its input.
func (f *faults) interrupted() {
	from, to, err := os.Pipe()
	if err != nil {
		f.t.Fatal(err)
	}
	defer from.Close()
	defer to.Close()
	line := f.c.Name
	if words, ok := endless[f.c.Name]; ok {
		line += " " + words
	}
	r := f.run(line, func(c *exec.Cmd) {
		c.Stdin = from
	}, true)
	if strings.Count(r.errs, "\n") > 5 {
		f.t.Errorf("%s and Ctrl-C = %d, %q", line, r.status, r.errs)
	}
}
