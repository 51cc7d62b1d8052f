// Package machine has the commands that show and set up a machine: its hardware, clock,
// firmware, users and logs, and what files are.
package machine

import (
	"slices"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// Commands are the commands of this package.
func Commands() []tools.Command {
	return slices.Concat(userCommands(), fileCommands(), hardwareCommands(), clockCommands(), firmwareCommands(), logCommands())
}
