// Command swapoff switches swap off.
//
// Synopsis: swapoff [-a] DEVICE...
package main

import (
	"os"

	"github.com/mkcdrec/mkcdrec/internal/smalltools"
)

func main() { os.Exit(smalltools.Main("swapoff", smalltools.Swapoff)) }
