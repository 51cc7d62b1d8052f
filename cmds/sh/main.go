// Command sh is the rescue system's shell: see internal/shell.
//
// Synopsis: sh [-eufxnail] [-c COMMAND [NAME [ARG...]] | -s | FILE [ARG...]]
package main

import (
	"os"

	"github.com/mkcdrec/mkcdrec/internal/shell"
	"github.com/mkcdrec/mkcdrec/internal/tools/toolbox"
)

func main() { os.Exit(shell.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, toolbox.Options)) }
