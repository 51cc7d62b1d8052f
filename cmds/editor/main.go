// Command editor edits a text file on the whole screen; see
// internal/fullscreen.
package main

import (
	"fmt"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/fullscreen"
)

func main() {
	if err := fullscreen.Edit(os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "editor:", err)
		os.Exit(1)
	}
}
