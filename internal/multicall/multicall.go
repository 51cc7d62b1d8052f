// Package multicall picks the command that the one executable runs as.
package multicall

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Host is the command the executable is under its own name.
const Host = "mkcdrec"

// Applet is the first argument that makes the next one the command's name:
// `mkcdrec applet ls -l`.
const Applet = "applet"

// Pick gives the command and its argument list. A link's name counts; a login
// shell's leading "-" does not; any other name is the host command's.
func Pick(argv []string, cmds []string) (string, []string) {
	if len(argv) == 0 {
		return Host, []string{Host}
	}
	name := strings.TrimPrefix(filepath.Base(argv[0]), "-")
	if name != Host && slices.Contains(cmds, name) {
		return name, argv
	}
	if len(argv) > 2 && argv[1] == Applet {
		return argv[2], argv[2:]
	}
	return Host, argv
}

// Main runs the command, whose own main function ends the process.
func Main(cmds []string, run func(string) error) {
	name, args := Pick(os.Args, cmds)
	if len(os.Args) == 2 && name == Host && os.Args[1] == Applet {
		slices.Sort(cmds)
		for _, c := range cmds {
			fmt.Println(c)
		}
		return
	}
	os.Args = args
	if err := run(name); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(127)
	}
}
