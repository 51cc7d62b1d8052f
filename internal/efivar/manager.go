package efivar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// Manager is what the firmware's boot manager has; UEFI 2.10, section 3.3. Numbers are
// -1 where there is no variable.
type Manager struct {
	Current, Next, Timeout int
	Order                  []uint16 // nil where there is no variable
	Loads                  []Load   // by number
}

// Load is an entry: EFI_LOAD_OPTION.
type Load struct {
	Number uint16
	Active bool
	Label  string
	Path   string // the device path as text
	Data   []byte // what the loader is given
}

// ReadManager reads the variables below dir.
func ReadManager(dir string) (*Manager, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, errors.New("EFI variables are not supported on this system")
	}
	number := func(name string) int {
		b, err := os.ReadFile(variable(dir, name))
		if err != nil || len(b) < 6 {
			return -1
		}
		return int(binary.LittleEndian.Uint16(b[4:]))
	}
	m := &Manager{Current: number("BootCurrent"), Next: number("BootNext"), Timeout: number("Timeout")}
	order, err := readOrder(dir)
	if err != nil {
		return nil, err
	}
	for ; len(order) >= 2; order = order[2:] {
		m.Order = append(m.Order, binary.LittleEndian.Uint16(order))
	}
	files, err := filepath.Glob(filepath.Join(dir, "Boot[0-9A-F][0-9A-F][0-9A-F][0-9A-F]-"+global))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		n, err := strconv.ParseUint(filepath.Base(f)[4:8], 16, 16)
		if err != nil {
			continue
		}
		if b, err := os.ReadFile(f); err == nil && len(b) > 4 {
			if l, ok := parseLoad(b[4:]); ok {
				l.Number = uint16(n)
				m.Loads = append(m.Loads, l)
			}
		}
	}
	return m, nil
}

func parseLoad(b []byte) (Load, bool) {
	if len(b) < 6 {
		return Load{}, false
	}
	n := int(binary.LittleEndian.Uint16(b[4:]))
	label, rest, ok := parseUTF16(b[6:])
	if !ok || n > len(rest) {
		return Load{}, false
	}
	return Load{Active: b[0]&1 != 0, Label: label, Path: PathText(rest[:n]), Data: rest[n:]}, true
}

// Has reports whether there is an entry of that number.
func (m *Manager) Has(n uint16) bool {
	return slices.ContainsFunc(m.Loads, func(l Load) bool { return l.Number == n })
}

// SetOrder sets the boot order; an empty one removes the variable.
func SetOrder(dir string, order []uint16) error {
	if len(order) == 0 {
		return unset(dir, "BootOrder")
	}
	var b []byte
	for _, n := range order {
		b = binary.LittleEndian.AppendUint16(b, n)
	}
	return set(dir, "BootOrder", b)
}

// SetNumber sets BootNext or Timeout; -1 removes the variable.
func SetNumber(dir, name string, n int) error {
	if n < 0 {
		return unset(dir, name)
	}
	return set(dir, name, []byte{byte(n), byte(n >> 8)})
}

// SetActive changes whether the firmware starts an entry by itself.
func SetActive(dir string, n uint16, active bool) error {
	name := fmt.Sprintf("Boot%04X", n)
	b, err := os.ReadFile(variable(dir, name))
	if err != nil || len(b) < 5 {
		return fmt.Errorf("cannot read boot entry %04X: %w", n, errors.Join(err))
	}
	b[4] &^= 1
	if active {
		b[4] |= 1
	}
	return set(dir, name, b[4:])
}

// Delete removes an entry and its places in the order.
func Delete(dir string, n uint16) error {
	m, err := ReadManager(dir)
	if err == nil {
		err = unset(dir, fmt.Sprintf("Boot%04X", n))
	}
	if err == nil && slices.Contains(m.Order, n) {
		err = SetOrder(dir, slices.DeleteFunc(m.Order, func(o uint16) bool { return o == n }))
	}
	return err
}

func set(dir, name string, b []byte) error {
	if err := write(dir, name, b); err != nil {
		return fmt.Errorf("cannot set the variable %s: %w", name, err)
	}
	return nil
}

func unset(dir, name string) error {
	if err := os.Remove(variable(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot delete the variable %s: %w", name, err)
	}
	return nil
}
