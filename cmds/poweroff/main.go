// Command poweroff stops the rescue system and the machine: everything is
// unmounted and written to the disks first.
//
// Synopsis: poweroff [-f]
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
	f := flag.NewFlagSet("poweroff", flag.ExitOnError)
	force := f.Bool("f", false, "at once, without asking init")
	_ = f.Parse(os.Args[1:]) // ExitOnError
	if err := rescueinit.Power("poweroff", *force); err != nil {
		fmt.Fprintln(os.Stderr, "poweroff:", err)
		os.Exit(1)
	}
}
