// Command chown changes the owners of files.
//
// Synopsis: chown [-Rh] OWNER[:GROUP] FILE...
package main

import (
	"os"

	"github.com/mkcdrec/mkcdrec/internal/smalltools"
)

func main() { os.Exit(smalltools.Main("chown", smalltools.Chown)) }
