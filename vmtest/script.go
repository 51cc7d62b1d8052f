package vmtest

import (
	"errors"
	"fmt"
	"regexp"
	"time"
)

// How long a machine may print nothing while it boots, and while it does its job.
const bootLimit, jobLimit = 3 * time.Minute, 12 * time.Minute

// step is one exchange with a machine's console: a scenario is a list of them.
type step struct {
	// run is a command that has to end with exit status 0. Its output matches want, a
	// regular expression.
	run, want string
	// wait is a regular expression that has to appear on the console, if run is "".
	// Then send is typed.
	wait, send string
}

// play carries out steps in their order.
func play(vm *VM, steps ...step) error {
	for _, s := range steps {
		if s.run != "" {
			out, err := must(vm, s.run, jobLimit)
			if err != nil {
				return err
			}
			if ok, err := regexp.MatchString(s.want, out); err != nil || !ok {
				return errors.Join(fmt.Errorf("%s: no %q in the output, which ends with %q:\n%s", s.run, s.want, lastLine(out), out), err)
			}
			continue
		}
		if _, err := vm.Expect(s.wait, jobLimit); err != nil {
			return err
		}
		if err := vm.Send(s.send); err != nil {
			return err
		}
	}
	return nil
}

// must runs a command that has to end with exit status 0.
func must(vm *VM, cmd string, limit time.Duration) (string, error) {
	out, code, err := vm.Run(cmd, limit)
	if err == nil && code != 0 {
		err = fmt.Errorf("%s: exit status %d; the last line is %q:\n%s", cmd, code, lastLine(out), out)
	}
	return out, err
}

// all runs commands that have to end with exit status 0; "" is skipped.
func all(vm *VM, commands ...string) error {
	for _, c := range commands {
		if c == "" {
			continue
		}
		if _, err := must(vm, c, jobLimit); err != nil {
			return err
		}
	}
	return nil
}

// powerOff ends a machine as its user does.
func powerOff(vm *VM) error {
	if err := vm.Send("poweroff\n"); err != nil {
		return err
	}
	return vm.Wait(bootLimit)
}

// writes defines a command of the shell that prints how many writes each disk has
// had, and how many sectors were written: Documentation/block/stat.rst.
const writes = `writes() { for s in /sys/block/[sv]d*/stat /sys/block/nvme*/stat; do [ -e $s ] || continue; read -r _ _ _ _ n _ sectors _ < $s; echo $s $n $sectors; done; }`
