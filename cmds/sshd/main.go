// Command sshd is the rescue system's ssh server; see internal/sshserver.
//
//	sshd [-p PORT] -keys FILE
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/sshserver"
)

func main() {
	f := flag.NewFlagSet("sshd", flag.ExitOnError)
	port := f.String("p", "22", "`PORT` to listen on")
	keys := f.String("keys", "/root/.ssh/authorized_keys", "`FILE` of the keys that may log in")
	_ = f.Parse(os.Args[1:]) // ExitOnError
	if err := run(*port, *keys); err != nil {
		fmt.Fprintln(os.Stderr, "sshd:", err)
		os.Exit(1)
	}
}

func run(port, file string) error {
	ctx, stop := interrupt.Context(context.Background())
	defer stop()
	b, err := regular.ReadFile(file, 16<<20)
	if err != nil {
		return fmt.Errorf("cannot serve ssh: %w", err)
	}
	keys, refused := sshserver.ParseKeys(string(b))
	if len(keys) == 0 && refused != nil {
		return refused
	}
	shell := []string{"/bbin/sh", "-i"}
	if _, err := os.Stat("/usr/bin/bash"); err == nil {
		shell[0] = "/usr/bin/bash"
	}
	s, err := sshserver.New(keys, shell, func(f string, a ...any) { fmt.Printf(f+"\n", a...) })
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return fmt.Errorf("cannot serve ssh: %w", err)
	}
	// The first line is what the rescue system shows; the others go to its log.
	if refused != nil {
		fmt.Printf("ssh: listening on port %s, host key %s; some keys were refused, see %s\n%s\n", port, s.Fingerprint, rescue.LogFile, printable.CleanLines(refused.Error()))
	} else {
		fmt.Printf("ssh: listening on port %s, host key %s\n", port, s.Fingerprint)
	}
	return s.Serve(ctx, l)
}
