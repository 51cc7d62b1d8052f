// Command lsblk lists block devices and what is on them.
//
// Synopsis: lsblk
package main

import (
	"os"

	"github.com/mkcdrec/mkcdrec/internal/smalltools"
)

func main() { os.Exit(smalltools.Main("lsblk", smalltools.Lsblk)) }
