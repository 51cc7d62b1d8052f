// Command help prints one screen of what to do in the rescue system.
package main

import (
	"fmt"
	"os"

	"github.com/mkcdrec/mkcdrec/templates"
)

func main() {
	if _, err := fmt.Print(templates.Help); err != nil {
		fmt.Fprintln(os.Stderr, "help:", err)
		os.Exit(1)
	}
}
