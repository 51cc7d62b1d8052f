// Package nettools has the commands that talk to other machines: ssh, scp and sftp, curl and
// wget, dig and nslookup, nc.
package nettools

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// Commands are the commands of this package.
func Commands() []tools.Command {
	const login = " 4 6 A B C c: F: i: J: o: q v"
	return []tools.Command{
		{Name: "ssh", Opts: "+a b: e: g k K l: L: M m: N n p: R: s S: t T V W: x X y Y" + login, Synopsis: "[USER@]HOST [COMMAND...]", Bad: sshFailed, Run: secureShell},
		{Name: "scp", Opts: "3 l: O p P: r R S: T" + login, Synopsis: "[[USER@]HOST:]FILE... [[USER@]HOST:]FILE", Run: secureCopy},
		{Name: "sftp", Opts: "+a b: D: f l: N p P: r R: s: S:" + login, Synopsis: "[USER@]HOST[:FILE [FILE]]", Run: secureFiles},
		{Name: "rsync", Opts: "-", Synopsis: "[OPTION]... SOURCE... TARGET", Run: rsync},
	}
}

// said is an error in the words of another project's program, capitals and full stops included.
func said(format string, a ...any) error { return saying(fmt.Sprintf(format, a...)) }

type saying string

func (s saying) Error() string { return string(s) }

// cause words an error of the network as the C library does.
func cause(err error) string {
	var name *net.DNSError
	var no syscall.Errno
	switch {
	case errors.As(err, &name) && name.IsNotFound:
		return "Name or service not known"
	case errors.As(err, &name):
		return "Temporary failure in name resolution"
	case os.IsTimeout(err):
		return "Connection timed out"
	case errors.As(err, &no):
		return tools.Cause(no)
	}
	return strings.TrimPrefix(tools.Cause(err), "ssh: ")
}
