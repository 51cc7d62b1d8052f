package screen

import (
	"context"
	"flag"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/memory"
	"github.com/mkcdrec/mkcdrec/internal/ui"
)

// Flags are the options of a command: its own, --json and -v.
type Flags struct {
	*flag.FlagSet
	json, verbose bool
}

// Begin prepares a command. Ctrl-C ends the context, and the memory is limited, since the
// rescue system has no swap.
func Begin() (context.Context, context.CancelFunc, *Flags) {
	ctx, stop := interrupt.Context(context.Background())
	memory.Limit(archive.MemoryLimit())
	f := &Flags{FlagSet: flag.NewFlagSet("", flag.ContinueOnError)}
	f.BoolVar(&f.json, "json", false, "one JSON event per line on standard output")
	f.BoolVar(&f.verbose, "v", false, "print more")
	return ctx, stop, f
}

// Printer is Printer with the options' mode.
func (f *Flags) Printer() (p *ui.Printer, end func()) { return Printer(f.json, f.verbose) }
