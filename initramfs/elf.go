package initramfs

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"strings"
)

// interpreter gives the dynamic loader an ELF program names, "" for a static
// program and for what is not an ELF file.
func interpreter(file string) (string, error) {
	f, err := elf.Open(file)
	var fe *elf.FormatError
	if errors.As(err, &fe) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read program: %w", err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b, err := io.ReadAll(p.Open())
			if err != nil {
				return "", fmt.Errorf("cannot read program %s: %w", file, err)
			}
			return strings.TrimRight(string(b), "\x00"), nil
		}
	}
	return "", nil
}
