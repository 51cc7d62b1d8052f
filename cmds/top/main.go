// Command top shows the busiest processes until q or Ctrl-C; see
// internal/smalltools.
package main

import (
	"os"

	"github.com/mkcdrec/mkcdrec/internal/smalltools"
)

func main() { os.Exit(smalltools.Main("top", smalltools.Top)) }
