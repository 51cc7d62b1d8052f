// Package keymap reads the keyboard map of the kernel's console and sets it
// again, by the ioctls of ioctl_console(2): the keyboard of the rescue system
// works as on the source machine, without loadkeys and its files.
package keymap

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/ioctl"
)

// include/uapi/linux/kd.h and keyboard.h.
const (
	kdGetMode      = 0x4B44
	kdSetMode      = 0x4B45
	kdGetEntry     = 0x4B46
	kdSetEntry     = 0x4B47
	kdGetDiacritic = 0x4BFA
	kdSetDiacritic = 0x4BFB
	keys           = 256
	maxTables      = 256
	hole           = 0x200
	noSuchMap      = 0x27f
	maxDiacritics  = 256
)

// Map is a keyboard map.
type Map struct {
	// Mode is the keyboard's mode: 1 is bytes, 3 Unicode.
	Mode int `json:"mode"`
	// Tables are the actions of all keys, by combination of modifiers.
	Tables map[int][]uint16 `json:"tables"`
	// Diacritics are what a dead key and another make: both, and the result.
	Diacritics [][3]uint32 `json:"diacritics"`
}

type entry struct {
	table, index uint8
	value        uint16
}

type diacritics struct {
	count uint32
	table [maxDiacritics][3]uint32
}

// ErrNoConsole means that a machine has no screen and keyboard console.
var ErrNoConsole = errors.New("there is no console with a keyboard")

func open(tty string) (*os.File, error) {
	f, err := os.OpenFile(tty, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoConsole, err)
	}
	return f, nil
}

// Read reads the map of a console, usually /dev/tty0.
func Read(tty string) (*Map, error) {
	f, err := open(tty)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m := &Map{Tables: map[int][]uint16{}}
	mode, err := unix.IoctlGetInt(int(f.Fd()), kdGetMode)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoConsole, err)
	}
	m.Mode = mode
	for t := range maxTables {
		e := entry{table: uint8(t)}
		if err := ioctl.Do(f.Fd(), kdGetEntry, &e); err != nil || e.value == noSuchMap {
			continue
		}
		row := make([]uint16, keys)
		for k := range keys {
			e := entry{table: uint8(t), index: uint8(k), value: hole}
			if err := ioctl.Do(f.Fd(), kdGetEntry, &e); err != nil {
				return nil, fmt.Errorf("cannot read keyboard map: %w", err)
			}
			row[k] = e.value
		}
		m.Tables[t] = row
	}
	var d diacritics
	if err := ioctl.Do(f.Fd(), kdGetDiacritic, &d); err == nil {
		m.Diacritics = append(m.Diacritics, d.table[:min(d.count, maxDiacritics)]...)
	}
	return m, nil
}

// Write sets the map on a console; it is one for all consoles.
func (m *Map) Write(tty string) error {
	f, err := open(tty)
	if err != nil {
		return err
	}
	defer f.Close()
	for t, row := range m.Tables {
		for k, v := range row {
			if v == hole && k == 0 {
				continue // entry 0 is what allocates and frees a table
			}
			e := entry{uint8(t), uint8(k), v}
			// Values that this kernel does not know are refused; the others are set.
			if err := ioctl.Do(f.Fd(), kdSetEntry, &e); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("cannot set keyboard map: %w", err)
			}
		}
	}
	var d diacritics
	d.count = uint32(copy(d.table[:], m.Diacritics))
	if err := ioctl.Do(f.Fd(), kdSetDiacritic, &d); err != nil {
		return fmt.Errorf("cannot set keyboard map: %w", err)
	}
	if m.Mode == 1 || m.Mode == 3 {
		if err := unix.IoctlSetInt(int(f.Fd()), kdSetMode, m.Mode); err != nil {
			return fmt.Errorf("cannot set keyboard mode: %w", err)
		}
	}
	return nil
}

// Parse reads a map in JSON.
func Parse(b []byte) (*Map, error) {
	var m Map
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("cannot read keyboard map: %w", err)
	}
	for t, row := range m.Tables {
		if t < 0 || t >= maxTables || len(row) > keys {
			return nil, fmt.Errorf("cannot read keyboard map: table %d with %d keys", t, len(row))
		}
	}
	if len(m.Diacritics) > maxDiacritics {
		return nil, fmt.Errorf("cannot read keyboard map: %d diacritics", len(m.Diacritics))
	}
	return &m, nil
}
