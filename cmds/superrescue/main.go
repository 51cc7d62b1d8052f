// Command superrescue opens the second system that a medium has beside the rescue system:
// the tree that rescue.extra_tree of the configuration has named.
//
//	superrescue [-u]
//
// It prints the command that enters the system; -u closes it again.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/repair"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/ui"
	"github.com/mkcdrec/mkcdrec/internal/usage"
)

func main() {
	p := ui.New(ui.Normal)
	err := run(p, os.Args[1:])
	p.End()
	os.Exit(exit.Status(p, "superrescue", err, ""))
}

func run(p *ui.Printer, args []string) error {
	f := flag.NewFlagSet("superrescue", flag.ContinueOnError)
	away := f.Bool("u", false, "close it again")
	c := &usage.Command{Name: "superrescue", Summary: "open the second system on the medium", Flags: f, Text: `
It is opened below ` + rescue.SecondDir + `. What is written there stays in memory.`}
	_, words, err := c.Parse(os.Stdout, args)
	if err != nil {
		return err
	}
	if len(words) > 0 {
		return exit.Usage(fmt.Errorf("superrescue takes no word %q", words[0]))
	}
	r := &repair.Opener{Run: tool.Exec{}, Report: p}
	if *away {
		return r.CloseSecond()
	}
	if err := r.OpenSecond(context.Background(), repair.AttachLoop); err != nil {
		return err
	}
	_, err = fmt.Printf("chroot %s /bin/sh\n", rescue.SecondDir)
	return err
}
