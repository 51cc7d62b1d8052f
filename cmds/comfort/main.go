// Command comfort is the interpreter of the scripts that stand in the places of packed
// programs: it unpacks the program, and becomes it. When that is not possible, our own
// command of the same name does the work.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: comfort SCRIPT [WORD...]: the kernel starts it")
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, "comfort:", run(os.Args[1], os.Args[1:]))
	os.Exit(126)
}

// run returns only when there is nothing that it could become.
func run(script string, words []string) error {
	file, err := filepath.Abs(script)
	if err == nil {
		file, err = filepath.EvalSymlinks(file)
	}
	if err != nil {
		return fmt.Errorf("cannot find %s: %w", script, err)
	}
	words[0] = filepath.Base(script) // which is what was typed, as far as anybody knows
	if err = initramfs.Unpack("/", file, "/"+initramfs.NeededInTree, "/"+initramfs.ComfortInTree, filepath.Join(rescue.MediumDir, initramfs.ComfortFile)); err == nil {
		err = syscall.Exec(file, words, os.Environ())
	}
	own := filepath.Base(script)
	if own == "bash" {
		own = "sh"
	}
	words[0] = own // by which the one executable knows what it is
	if e := syscall.Exec("/bbin/"+own, words, os.Environ()); !errors.Is(e, os.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}
