// Command help prints one screen of what to do in the rescue system.
package main

import (
	"fmt"

	"github.com/mkcdrec/mkcdrec/templates"
)

func main() { fmt.Print(templates.Help) }
