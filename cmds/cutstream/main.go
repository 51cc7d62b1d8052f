// Command cutstream; see internal/streams and cutstream -h.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/streams"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	s := streams.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Run: tool.Exec{}, Terminal: streams.OpenTerminal()}
	err := streams.Cut(ctx, s, os.Args[1:])
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "cutstream:", err)
	var u streams.Usage
	if errors.As(err, &u) {
		os.Exit(2)
	}
	os.Exit(1)
}
