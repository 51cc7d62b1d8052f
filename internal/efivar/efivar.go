// Package efivar adds and removes boot entries of UEFI firmware, through the
// kernel's efivarfs; UEFI specification, sections 3.1.3 and 10.3.
package efivar

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf16"
)

// Dir is where the kernel shows the variables.
const Dir = "/sys/firmware/efi/efivars"

const global = "8be4df61-93ca-11d2-aa0d-00e098032b8c"

// attributes: non-volatile, boot service and runtime access.
const attributes = 7

// Entry is a boot entry for a file on a GPT partition.
type Entry struct {
	Label  string
	Number int    // of the partition
	Start  uint64 // in sectors
	Size   uint64
	GUID   string // of the partition
	Path   string // on it, with slashes
	// First puts the entry before all others, for the system that is to start.
	First bool
	Data  []byte // that the loader is given
}

func utf16z(s string) []byte {
	var b []byte
	for _, c := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}

// guid gives a GUID's bytes: the first three parts are little-endian.
func guid(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		return nil, fmt.Errorf("%q is not a GUID", s)
	}
	b[0], b[1], b[2], b[3] = b[3], b[2], b[1], b[0]
	b[4], b[5], b[6], b[7] = b[5], b[4], b[7], b[6]
	return b, nil
}

// option makes the EFI_LOAD_OPTION: attributes, length of the device path,
// description, device path.
func (e Entry) option() ([]byte, error) {
	le := binary.LittleEndian
	g, err := guid(e.GUID)
	if err != nil {
		return nil, err
	}
	// Media device path, hard drive: GPT, signature is a GUID.
	path := []byte{4, 1, 42, 0}
	path = le.AppendUint32(path, uint32(e.Number))
	path = le.AppendUint64(path, e.Start)
	path = le.AppendUint64(path, e.Size)
	path = append(append(path, g...), 2, 2)
	file := utf16z(strings.ReplaceAll(e.Path, "/", `\`))
	path = append(path, 4, 4)
	path = le.AppendUint16(path, uint16(4+len(file)))
	path = append(path, file...)
	path = append(path, 0x7f, 0xff, 4, 0)
	o := le.AppendUint32(nil, 1) // active
	o = le.AppendUint16(o, uint16(len(path)))
	o = append(o, utf16z(e.Label)...)
	return append(append(o, path...), e.Data...), nil
}

func variable(dir, name string) string { return filepath.Join(dir, name+"-"+global) }

func write(dir, name string, b []byte) error {
	return os.WriteFile(variable(dir, name), append([]byte{attributes, 0, 0, 0}, b...), 0o644)
}

// Add adds an entry at the end of the boot order, so that what the machine
// starts by itself does not change, or at its beginning. Entries with the same
// label go. It gives the entry's number, "0003".
func Add(dir string, e Entry) (string, error) {
	if err := Remove(dir, e.Label); err != nil {
		return "", fmt.Errorf("cannot add boot entry %q to the firmware: %w", e.Label, err)
	}
	return Create(dir, e, true)
}

// Create is Add that leaves entries with the same label. With ordered false the entry is
// not in the boot order.
func Create(dir string, e Entry, ordered bool) (string, error) {
	wrap := func(err error) error {
		return fmt.Errorf("cannot add boot entry %q to the firmware: %w", e.Label, err)
	}
	o, err := e.option()
	if err != nil {
		return "", wrap(err)
	}
	id, err := free(dir, 0x10000)
	if err != nil {
		return "", wrap(err)
	}
	if err := write(dir, "Boot"+id, o); err != nil {
		return "", wrap(err)
	}
	if !ordered {
		return id, nil
	}
	order, err := readOrder(dir)
	if err == nil {
		n, _ := hex.DecodeString(id) // four hexadecimal digits
		if mine := []byte{n[1], n[0]}; e.First {
			order = append(mine, order...)
		} else {
			order = append(order, mine...)
		}
		err = write(dir, "BootOrder", order)
	}
	if err != nil {
		return "", wrap(err)
	}
	return id, nil
}

// free gives the first number below most that no entry has.
func free(dir string, most int) (string, error) {
	for i := range most {
		id := fmt.Sprintf("%04X", i)
		if _, err := os.Stat(variable(dir, "Boot"+id)); errors.Is(err, os.ErrNotExist) {
			return id, nil
		} else if err != nil {
			return "", err
		}
	}
	return "", fmt.Errorf("all %d numbers are in use", most)
}

func readOrder(dir string) ([]byte, error) {
	b, err := os.ReadFile(variable(dir, "BootOrder"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(b) < 4 || len(b)%2 != 0 {
		return nil, errors.New("BootOrder is damaged")
	}
	return b[4:], nil
}

// Remove removes the entries with a label, and their places in the order.
func Remove(dir, label string) error {
	files, err := filepath.Glob(filepath.Join(dir, "Boot[0-9A-F][0-9A-F][0-9A-F][0-9A-F]-"+global))
	if err != nil {
		return err
	}
	want := string(utf16z(label))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || len(b) < 10 || !strings.HasPrefix(string(b[10:]), want) {
			continue
		}
		id := filepath.Base(f)[4:8]
		if err := os.Remove(f); err != nil {
			return fmt.Errorf("cannot remove boot entry %s: %w", id, err)
		}
		order, err := readOrder(dir)
		if err != nil {
			return fmt.Errorf("cannot remove boot entry %s from the order: %w", id, err)
		}
		n, err := hex.DecodeString(id)
		if err != nil {
			return err
		}
		var rest []byte
		for i := 0; i+1 < len(order); i += 2 {
			if order[i] != n[1] || order[i+1] != n[0] {
				rest = append(rest, order[i], order[i+1])
			}
		}
		if err := write(dir, "BootOrder", rest); err != nil {
			return fmt.Errorf("cannot remove boot entry %s from the order: %w", id, err)
		}
	}
	return nil
}
