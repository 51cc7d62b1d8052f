// Command env prints the environment or runs a program in another one.
//
// Synopsis: env [-i] [NAME=VALUE...] [COMMAND ARG...]
package main

import (
	"os"

	"github.com/mkcdrec/mkcdrec/internal/smalltools"
)

func main() { os.Exit(smalltools.Main("env", smalltools.Env)) }
