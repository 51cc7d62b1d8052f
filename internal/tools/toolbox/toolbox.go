// Package toolbox is the list of the small commands, for the multicall executable.
package toolbox

import (
	"os"
	"slices"

	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/tools/attrs"
	"github.com/mkcdrec/mkcdrec/internal/tools/disks"
	"github.com/mkcdrec/mkcdrec/internal/tools/files"
	"github.com/mkcdrec/mkcdrec/internal/tools/iproute"
	"github.com/mkcdrec/mkcdrec/internal/tools/machine"
	nettools "github.com/mkcdrec/mkcdrec/internal/tools/net"
	"github.com/mkcdrec/mkcdrec/internal/tools/pack"
	"github.com/mkcdrec/mkcdrec/internal/tools/procs"
	"github.com/mkcdrec/mkcdrec/internal/tools/session"
	"github.com/mkcdrec/mkcdrec/internal/tools/text"
)

func all() []tools.Command {
	return slices.Concat(
		attrs.Commands(),
		disks.Commands(),
		files.Commands(),
		iproute.Commands(),
		machine.Commands(),
		nettools.Commands(),
		pack.Commands(),
		procs.Commands(), session.Commands(),
		text.Commands(),
	)
}

// Find gives the command of that name.
func Find(name string) (tools.Command, bool) {
	cs := all()
	i := slices.IndexFunc(cs, func(c tools.Command) bool { return c.Name == name })
	if i < 0 {
		return tools.Command{}, false
	}
	return cs[i], true
}

// Names adds the names of the small commands to others.
func Names(others []string) []string {
	for _, c := range all() {
		others = append(others, c.Name)
	}
	slices.Sort(others)
	return slices.Compact(others)
}

// Run gives what runs a command by its name: a small one here, or what others runs.
func Run(others func(string) error) func(string) error {
	return func(name string) error {
		if c, ok := Find(name); ok {
			os.Exit(tools.Main(c, os.Args[1:]))
		}
		return others(name)
	}
}

// Options are the options of a small command, as they are typed.
func Options(name string) []string {
	c, ok := Find(name)
	if !ok || c.Opts == "-" {
		return nil
	}
	return tools.Names(c.Opts)
}
