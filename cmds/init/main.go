// Command init is process 1 of the rescue system; see internal/rescueinit.
package main

import (
	"fmt"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/rescueinit"
)

func main() {
	if err := rescueinit.Main(); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		os.Exit(1)
	}
}
