// Command guest runs inside the machines of the test scenarios: it makes the
// tree of difficult files, and describes file systems.
//
// Synopsis:
//
//	guest tree DIR [huge]
//	guest describe DIR...     JSON on standard output
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mkcdrec/mkcdrec/vmtest/tree"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("want tree DIR [huge], or describe and directories")
	}
	switch args[0] {
	case "tree":
		if err := os.MkdirAll(args[1], 0o755); err != nil {
			return err
		}
		return tree.Make(args[1], tree.Options{Trusted: true, Huge: len(args) > 2, Flags: true})
	case "describe":
		var all []tree.Entry
		for _, root := range args[1:] {
			es, err := tree.Describe(root, nil)
			if err != nil {
				return err
			}
			for _, e := range es {
				// Paths of any bytes have to pass through JSON.
				// "/boot" is the mount point, "/boot/." what is mounted there.
				full := filepath.Join(root, e.Path)
				if e.Path == "." && root != "/" {
					full += "/."
				}
				e.Path = fmt.Sprintf("%q", full)
				all = append(all, e)
			}
		}
		return json.NewEncoder(os.Stdout).Encode(all)
	}
	return fmt.Errorf("unknown command %q", args[0])
}
