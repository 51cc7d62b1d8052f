// Command killall sends a signal to programs by name.
//
// Synopsis: killall [-SIGNAL] NAME...
package main

import (
	"os"

	"github.com/mkcdrec/mkcdrec/internal/smalltools"
)

func main() { os.Exit(smalltools.Main("killall", smalltools.Killall)) }
