// Command swapon switches swap on.
//
// Synopsis: swapon [-a] DEVICE...
package main

import (
	"os"

	"github.com/mkcdrec/mkcdrec/internal/smalltools"
)

func main() { os.Exit(smalltools.Main("swapon", smalltools.Swapon)) }
