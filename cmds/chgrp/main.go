// Command chgrp changes the groups of files.
//
// Synopsis: chgrp [-Rh] GROUP FILE...
package main

import (
	"os"

	"github.com/mkcdrec/mkcdrec/internal/smalltools"
)

func main() { os.Exit(smalltools.Main("chgrp", smalltools.Chgrp)) }
