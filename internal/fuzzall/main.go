// Command fuzzall runs every fuzz test of the module for the time given, one
// after the other: go run ./internal/fuzzall 20s
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "fuzzall:", err)
		os.Exit(1)
	}
}

func run() error {
	long := "10s"
	if len(os.Args) > 1 {
		long = os.Args[1]
	}
	pkgs, err := exec.Command("go", "list", "./...").Output()
	if err != nil {
		return fmt.Errorf("cannot list packages: %w", err)
	}
	n := 0
	for _, p := range strings.Fields(string(pkgs)) {
		if strings.Contains(p, "/bbgen") {
			continue
		}
		out, err := exec.Command("go", "test", "-list", "^Fuzz", p).Output()
		if err != nil {
			return fmt.Errorf("cannot list fuzz tests of %s: %w", p, err)
		}
		for _, f := range strings.Fields(string(out)) {
			if !strings.HasPrefix(f, "Fuzz") {
				continue
			}
			n++
			c := exec.Command("go", "test", "-run", "^$", "-fuzz", "^"+f+"$", "-fuzztime", long, p)
			if out, err := c.CombinedOutput(); err != nil {
				return fmt.Errorf("%s in %s: %w\n%s", f, p, err, out)
			}
			fmt.Printf("ok  \t%s %s\n", p, f)
		}
	}
	if n == 0 {
		return fmt.Errorf("found no fuzz test at all")
	}
	return nil
}
