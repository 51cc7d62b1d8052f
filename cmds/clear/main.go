// Command clear clears the screen.
//
// Synopsis: clear
package main

import (
	"os"

	"github.com/mkcdrec/mkcdrec/internal/smalltools"
)

func main() { os.Exit(smalltools.Main("clear", smalltools.Clear)) }
