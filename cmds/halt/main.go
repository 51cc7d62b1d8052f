// Command halt stops the rescue system and the machine: everything is
// unmounted and written to the disks first.
//
// Synopsis: halt [-f]
//
// Options: -f does it at once, after a sync.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/rescueinit"
)

func main() {
	f := flag.NewFlagSet("halt", flag.ExitOnError)
	force := f.Bool("f", false, "at once, without asking init")
	_ = f.Parse(os.Args[1:]) // ExitOnError
	if err := rescueinit.Power("halt", *force); err != nil {
		fmt.Fprintln(os.Stderr, "halt:", err)
		os.Exit(1)
	}
}
