package vmtest

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// shell is a machine whose console is a shell on this one.
func shell(t *testing.T) *VM {
	t.Helper()
	vm, err := start(Machine{Name: "shell"}, exec.Command("sh"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vm.Kill() })
	return vm
}

func TestRun(t *testing.T) {
	vm := shell(t)
	for _, c := range []struct {
		cmd, out string
		code     int
	}{{"echo one; echo two", "one\ntwo\n", 0}, {"true", "", 0}, {"echo no; (exit 7)", "no\n", 7}} {
		out, code, err := vm.Run(c.cmd, time.Minute)
		if err != nil || out != c.out || code != c.code {
			t.Errorf("Run(%q) = %q, %d, %v; want %q, %d", c.cmd, out, code, err, c.out, c.code)
		}
	}
}

func TestPlay(t *testing.T) {
	vm := shell(t)
	if err := play(vm,
		step{run: "x=7"},
		step{run: `echo "x is $x"`, want: `is \d\n`},
		step{run: `(sleep 0.1; echo "a name""? ") & true`},
		step{wait: `a name\? `, send: "echo typed $x\n"},
		step{wait: `typed 7`},
	); err != nil {
		t.Errorf("play = %v", err)
	}
	if err := play(vm, step{run: "echo one; echo two", want: "three"}, step{run: "exit"}); err == nil || firstLine(err) != `echo one; echo two: no "three" in the output, which ends with "two":` {
		t.Errorf("play without what is wanted = %v", err)
	}
	if err := play(vm, step{run: "echo why; false"}, step{run: "exit"}); err == nil || firstLine(err) != `echo why; false: exit status 1; the last line is "why":` {
		t.Errorf("play of a command that fails = %v", err)
	}
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// TestFailure: the first line of an error has what was waited for and the last line of
// the console.
func TestFailure(t *testing.T) {
	took := regexp.MustCompile(`\b\d+s\b`)
	for name, c := range map[string]struct {
		script, want string
		wait         func(*VM) error
	}{
		"silent": {"echo booting; printf '10 %%\\r50 %%'; exec cat", `machine shell: waiting for "login: ": nothing new for TIME; the last line is "50 %"; the console ends with:`,
			func(vm *VM) error { _, err := vm.Expect("login: ", time.Second); return err }},
		"ended": {"echo panic", `machine shell: waiting for "login: ": the machine ended; the last line is "panic"; the console ends with:`,
			func(vm *VM) error { _, err := vm.Expect("login: ", time.Minute); return err }},
		"command": {"echo '# '; exec cat > /dev/null", `machine shell: waiting for the end of the command "sleep 9": nothing new for TIME; the last line is "#"; the console ends with:`,
			func(vm *VM) error { _, _, err := vm.Run("sleep 9", time.Second); return err }},
		"still there": {"echo halting; exec cat", `machine shell: waiting for its end: it did not come within TIME; the last line is "halting"; the console ends with:`,
			func(vm *VM) error { return vm.Wait(time.Second) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vm, err := start(Machine{Name: "shell"}, exec.Command("sh", "-c", c.script))
			if err != nil {
				t.Fatal(err)
			}
			defer vm.Kill()
			if err := c.wait(vm); err == nil || took.ReplaceAllString(firstLine(err), "TIME") != c.want {
				t.Errorf("error = %v; want first line %q", err, c.want)
			}
		})
	}
}

// TestPatience: a machine that goes on printing is waited for longer than one that does not.
func TestPatience(t *testing.T) {
	vm, err := start(Machine{Name: "slow"}, exec.Command("sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo $i; sleep 0.2; done; echo done; exec cat"))
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	if _, err := vm.Expect("done", time.Second); err != nil {
		t.Errorf("Expect of a machine that prints all the time = %v", err)
	}
}
