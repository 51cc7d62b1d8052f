// Command checkmedium reads a CD, stick or image through and compares it with
// the sum that was written into it, as checkisomd5 does.
//
//	checkmedium [DEVICE|FILE]
//
// Without an argument it takes the medium that the rescue system was started
// from. Exit status 0: whole; 1: damaged, or it can't be read.
package main

import (
	"fmt"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/medium"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/ui"
	"github.com/mkcdrec/mkcdrec/internal/volume"
)

func main() {
	p := ui.New(ui.Normal)
	err := run(p, os.Args[1:])
	p.End()
	os.Exit(exit.Status(p, "checkmedium", err, ""))
}

func run(p *ui.Printer, args []string) error {
	file := ""
	switch len(args) {
	case 1:
		file = args[0]
	case 0:
		info, err := rescue.ReadInfo("")
		if err != nil {
			return exit.Usage(fmt.Errorf("which medium? %w", err))
		}
		dev, err := medium.Finder{Kernel: kernel.Linux{}}.FindMedium(info)
		if err != nil {
			return fmt.Errorf("cannot find this system's medium: %w", err)
		}
		file = "/dev/" + dev
	default:
		return exit.Usage(fmt.Errorf("one medium, not %d", len(args)))
	}
	f, err := volume.Open(file, true)
	if err != nil {
		return fmt.Errorf("cannot check medium: %w", err)
	}
	defer f.Close()
	size, err := media.VolumeSize(f)
	if err != nil {
		return fmt.Errorf("cannot check %s: %w", file, err)
	}
	c := p.Phase("reading "+file, size)
	if _, err := media.CheckSum(f, c.Add); err != nil {
		return fmt.Errorf("cannot trust %s: %w", file, err)
	}
	p.End()
	p.Note("%s is whole", file)
	return nil
}
