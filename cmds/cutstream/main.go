// Command cutstream; see internal/streams.
package main

import (
	"context"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/streams"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/ui"
)

func main() {
	ctx, stop := interrupt.Context(context.Background())
	defer stop()
	s := streams.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Run: tool.Exec{Inherit: true}, Terminal: streams.OpenTerminal()}
	err := streams.Cut(ctx, s, os.Args[1:])
	if code := exit.Status(ui.New(ui.Normal), "cutstream", interrupt.Err(ctx, err), ""); code != exit.OK {
		os.Exit(code)
	}
}
