// Command modprobe loads a kernel module with all it depends on, by name or
// by alias. The kernel itself calls it as `modprobe -q -- ALIAS`.
//
// Synopsis: modprobe [-q] [-v] [-S RELEASE] NAME [PARAM=VALUE...]
//
// Exit status: 0 loaded, built in or there already; 1 otherwise.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/kmod"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

func main() {
	f := flag.NewFlagSet("modprobe", flag.ExitOnError)
	quiet := f.Bool("q", false, "say nothing when there is no such module")
	verbose := f.Bool("v", false, "print what is loaded")
	release := f.String("S", "", "kernel release whose modules are used")
	_ = f.Parse(os.Args[1:]) // ExitOnError
	if err := run(f.Args(), *release, *verbose); err != nil {
		if !*quiet {
			fmt.Fprintln(os.Stderr, "modprobe:", err)
		}
		os.Exit(1)
	}
}

func run(args []string, release string, verbose bool) error {
	if len(args) == 0 {
		return fmt.Errorf("which module?")
	}
	if release == "" {
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return err
		}
		release = unix.ByteSliceToString(u.Release[:])
	}
	x, err := kmod.Open("/lib/modules/" + release)
	if err != nil {
		return err
	}
	conf := kmod.ReadConf("")
	if line, err := sysconf.RunningCmdline(""); err == nil {
		conf.Cmdline(line)
	}
	names, err := kmod.NewLoader(x, conf).Load(args[0], strings.Join(args[1:], " "))
	if verbose {
		for _, n := range names {
			if _, e := fmt.Println(n); e != nil && err == nil {
				err = fmt.Errorf("cannot write to standard output: %w", e)
			}
		}
	}
	return err
}
