package rescueinit

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/rescue"
)

// sigKexec has process 1 start the kernel that was loaded: SIGRTMIN+6, as systemd(1) has it.
const sigKexec = unix.Signal(34 + 6)

// Power asks process 1 to stop the machine: "reboot", "poweroff" or "halt", or to start
// the kernel that was loaded, "kexec".
// With force it is done at once, after a sync. Outside of a rescue system it
// refuses: an executable that is on every machine must not restart one.
func Power(what string, force bool) error { return power(machine{}, what, force) }

func power(h host, what string, force bool) error {
	if _, err := os.Stat(h.Path(rescue.InfoFile)); err != nil {
		return errors.New("refused: this is not a rescue system")
	}
	var sig unix.Signal
	var cmd int
	switch what {
	case "reboot":
		sig, cmd = unix.SIGTERM, unix.LINUX_REBOOT_CMD_RESTART
	case "poweroff":
		sig, cmd = unix.SIGUSR2, unix.LINUX_REBOOT_CMD_POWER_OFF
	case "halt":
		sig, cmd = unix.SIGUSR1, unix.LINUX_REBOOT_CMD_HALT
	case "kexec":
		sig, cmd = sigKexec, unix.LINUX_REBOOT_CMD_KEXEC
	default:
		return fmt.Errorf("cannot %s: unknown", what)
	}
	if force {
		h.Sync()
		return h.Reboot(cmd)
	}
	return h.Kill(1, sig)
}
