// Command stat prints what the kernel knows of files.
//
// Synopsis: stat FILE...
package main

import (
	"os"

	"github.com/mkcdrec/mkcdrec/internal/smalltools"
)

func main() { os.Exit(smalltools.Main("stat", smalltools.Stat)) }
