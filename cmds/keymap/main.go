// Command keymap prints the keyboard map of the console, or sets one:
//
//	keymap dump > FILE
//	keymap load FILE
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/keymap"
	"github.com/mkcdrec/mkcdrec/internal/regular"
)

const console = "/dev/tty0"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "keymap:", err)
		os.Exit(1)
	}
}

// dump prints a map; what does not reach its reader is an error.
func dump(w io.Writer, m *keymap.Map) error { return json.NewEncoder(w).Encode(m) }

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "dump":
		m, err := keymap.Read(console)
		if err != nil {
			return err
		}
		return dump(os.Stdout, m)
	case len(args) == 2 && args[0] == "load":
		b, err := regular.ReadFile(args[1], 1<<20)
		if err != nil {
			return err
		}
		m, err := keymap.Parse(b)
		if err != nil {
			return err
		}
		return m.Write(console)
	}
	return errors.New("usage: keymap dump | keymap load FILE")
}
