// Command blockdev reads and changes properties of block devices.
//
// Synopsis: blockdev --getsize64|--getss|--getro|--setro|--setrw|--rereadpt|--flushbufs DEVICE...
package main

import (
	"os"

	"github.com/mkcdrec/mkcdrec/internal/smalltools"
)

func main() { os.Exit(smalltools.Main("blockdev", smalltools.Blockdev)) }
