// Command rmdir removes empty directories.
//
// Synopsis: rmdir [-p] DIR...
package main

import (
	"os"

	"github.com/mkcdrec/mkcdrec/internal/smalltools"
)

func main() { os.Exit(smalltools.Main("rmdir", smalltools.Rmdir)) }
