// Command cp copies files and, with -a, trees with everything they have.
//
// Synopsis: cp [-aRrpv] SOURCE... DEST
package main

import (
	"os"

	"github.com/mkcdrec/mkcdrec/internal/smalltools"
)

func main() { os.Exit(smalltools.MainContext("cp", smalltools.Cp)) }
