// Command cut prints parts of lines.
//
// Synopsis: cut (-f LIST [-d C] [-s] | -c LIST) [FILE...]
package main

import (
	"os"

	"github.com/mkcdrec/mkcdrec/internal/smalltools"
)

func main() { os.Exit(smalltools.Main("cut", smalltools.Cut)) }
