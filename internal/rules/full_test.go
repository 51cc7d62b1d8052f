package rules

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// printing has a command line of each of our commands that prints what was asked for
// to standard output. FILE, VOLUMES and MISSING are paths in the test's directory.
var printing = []string{
	"blockdev --getsize64 FILE", "clear", "clonedsk --json MISSING", "help", "less FILE",
	"mkcdrec --help", "mkcdrec version", "mkcdrec --help=json", "restore verify --help", "mkcdrec --json version", "mkcdrec --json test", "mkcdrec status", "mkcdrec --json status", "mkcdrec --json prune --keep-last 1 .", "mkcdrec --json list MISSING", "pastestream VOLUMES",
	"mkcdrec --json coverage MISSING", "restore --json MISSING", "restore --json verify MISSING", "restore --json extract MISSING MISSING",
	"sh -c help", "sh FILE.sh", "top -n 1 -d 0.1",
}

// silent are the others, with the reason.
var silent = map[string]string{
	"checkmedium": "prints for people, on standard error", "comfort": "prints nothing", "cutstream": "prints on standard error",
	"editor": "needs a terminal", "halt": "prints nothing", "fleet": "runs in a rescue system only", "init": "is process 1", "keymap": "needs a console: its own test",
	"modprobe": "needs the modules of the running kernel", "dhclient": "runs in a rescue system only", "network": "runs in a rescue system only", "poweroff": "prints nothing", "reboot": "prints nothing",
	"sshd": "writes a log, and serves without its reader, too", "swapoff": "prints nothing", "swapon": "prints nothing", "superrescue": "opens what a medium has",
}

// TestFullOutput: every command of ours whose standard output is a full device, or a
// pipe that nobody reads, ends with another status than 0 and names the cause; with
// neither, the same line prints something.
func TestFullOutput(t *testing.T) {
	dirs, err := filepath.Glob("../../cmds/*/main.go")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("%d commands, %v", len(dirs), err)
	}
	build := []string{"build", "-o", t.TempDir() + "/"}
	for _, d := range dirs {
		name := filepath.Base(filepath.Dir(d))
		listed := slices.ContainsFunc(printing, func(l string) bool { return strings.Fields(l)[0] == name })
		if _, ok := silent[name]; ok == listed {
			t.Errorf("cmds/%s must be in one of the lists printing and silent", name)
		}
		if listed {
			build = append(build, "./cmds/"+name)
		}
	}
	c := exec.Command("go", build...)
	c.Dir = "../.."
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	bin, dir := build[2], t.TempDir()
	if err := os.WriteFile(dir+"/f", []byte("a\tb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/f.sh", []byte("echo x || exit 5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cut := exec.Command("go", "run", "./cmds/cutstream", "-name", "v", "-dir", dir+"/v")
	cut.Dir, cut.Stdin = "../..", strings.NewReader("stream")
	if err := os.Mkdir(dir+"/v", 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := cut.CombinedOutput(); err != nil {
		t.Fatalf("cutstream: %v\n%s", err, out)
	}
	paths := strings.NewReplacer("FILE", dir+"/f", "VOLUMES", dir+"/v", "MISSING", dir+"/missing")
	for _, line := range printing {
		run := func(out *os.File) (int, string) {
			w := strings.Fields(paths.Replace(line))
			c := exec.Command(bin+w[0], w[1:]...)
			var errs, printed bytes.Buffer
			c.Env = append(os.Environ(), "TERM=vt100", "PATH="+bin+":"+os.Getenv("PATH"))
			c.Stderr, c.Stdout = &errs, &printed
			if out != nil {
				c.Stdout = out
			}
			_ = c.Run() // the status tells
			if out == nil && printed.Len() == 0 {
				t.Errorf("%s prints nothing: %s", line, &errs)
			}
			return c.ProcessState.ExitCode(), errs.String()
		}
		run(nil)
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if code, text := run(full); code <= 0 || !strings.Contains(text, "no space") {
			t.Errorf("%s > /dev/full: exit status %d\n%s", line, code, text)
		}
		full.Close()
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		// -1: ended by SIGPIPE, as others do. A restore or backup must not be.
		code, text := run(w)
		if code == 0 || code < 0 && strings.Contains(line, "--json") {
			t.Errorf("%s with a closed pipe: exit status %d\n%s", line, code, text)
		}
		w.Close()
	}
}
