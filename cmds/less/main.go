// Command less shows text by pages; see internal/fullscreen.
package main

import (
	"fmt"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/fullscreen"
)

func main() {
	if err := fullscreen.Page(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "less:", err)
		os.Exit(1)
	}
}
