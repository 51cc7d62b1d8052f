// Command mount mounts file systems, by device, UUID or label, and directories
// at another place.
//
// Synopsis: mount [-r] [-t TYPE] [-o OPTIONS] [--bind|--rbind] DEVICE|UUID=X|LABEL=X DIR
package main

import (
	"os"

	"github.com/mkcdrec/mkcdrec/internal/smalltools"
)

func main() { os.Exit(smalltools.Main("mount", smalltools.Mount)) }
