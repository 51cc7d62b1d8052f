package efivar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// Next has the firmware start, once, the first entry of its boot order for which wanted
// is true of the number ("001A"), and which is not the one that this system was started
// by, and gives its number. UEFI 2.10, section 3.3: BootNext, BootCurrent.
func Next(dir string, wanted func(id string) bool) (string, error) {
	order, err := readOrder(dir)
	if err != nil {
		return "", fmt.Errorf("cannot read the firmware's boot order: %w", err)
	}
	current := -1
	b, err := os.ReadFile(variable(dir, "BootCurrent"))
	if err == nil && len(b) == 6 { // attributes and a number
		current = int(binary.LittleEndian.Uint16(b[4:]))
	}
	for ; len(order) >= 2; order = order[2:] {
		n := binary.LittleEndian.Uint16(order)
		if int(n) == current {
			continue
		}
		id := fmt.Sprintf("%04X", n)
		if _, err := os.Stat(variable(dir, "Boot"+id)); err != nil || !wanted(id) {
			continue
		}
		if err := write(dir, "BootNext", []byte{byte(n), byte(n >> 8)}); err != nil {
			return "", fmt.Errorf("cannot set what the firmware starts next: %w", err)
		}
		return id, nil
	}
	return "", errors.New("the firmware has no boot entry for a system on a disk")
}
