package efivar

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// Entries reads the firmware's boot entries and their order; UEFI specification, section 3.1.3.
func Entries(dir string) (entries []layout.NVRAMEntry, order []string) {
	files, err := filepath.Glob(dir + "/Boot[0-9A-F][0-9A-F][0-9A-F][0-9A-F]-" + global)
	if err != nil {
		return nil, nil
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || len(b) < 4 {
			continue
		}
		if e, ok := parseLoadOption(b[4:]); ok {
			e.ID = filepath.Base(f)[4:8]
			entries = append(entries, e)
		}
	}
	if b, err := os.ReadFile(variable(dir, "BootOrder")); err == nil {
		for b = b[min(4, len(b)):]; len(b) >= 2; b = b[2:] {
			order = append(order, fmt.Sprintf("%04X", binary.LittleEndian.Uint16(b)))
		}
	}
	return entries, order
}

// parseLoadOption reads an EFI_LOAD_OPTION: attributes, length of the device
// path, description, device path.
func parseLoadOption(b []byte) (layout.NVRAMEntry, bool) {
	le := binary.LittleEndian
	if len(b) < 6 {
		return layout.NVRAMEntry{}, false
	}
	e := layout.NVRAMEntry{Active: le.Uint32(b)&1 != 0}
	n := int(le.Uint16(b[4:]))
	desc, rest, ok := parseUTF16(b[6:])
	if !ok || n > len(rest) {
		return layout.NVRAMEntry{}, false
	}
	e.Label = desc
	for p := rest[:n]; len(p) >= 4; {
		l := int(le.Uint16(p[2:]))
		if l < 4 || l > len(p) {
			break
		}
		switch {
		case p[0] == 4 && p[1] == 1 && l >= 42 && p[41] == 2: // hard drive, GPT
			g := p[24:40]
			e.PartGUID = strings.ToUpper(fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(g), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:16]))
		case p[0] == 4 && p[1] == 4:
			e.Path, _, _ = parseUTF16(append(slices.Clone(p[4:l]), 0, 0))
		}
		p = p[l:]
	}
	return e, true
}

// parseUTF16 reads a text that ends with a zero character, and gives what is behind it.
func parseUTF16(b []byte) (text string, rest []byte, ok bool) {
	var u []uint16
	for ; len(b) >= 2; b = b[2:] {
		c := binary.LittleEndian.Uint16(b)
		if c == 0 {
			return string(utf16.Decode(u)), b[2:], true
		}
		u = append(u, c)
	}
	return "", nil, false
}

// loaderInfo is the variable in which a boot loader leaves its name and version;
// https://systemd.io/BOOT_LOADER_INTERFACE.
const loaderInfo = "LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// LoaderInfo is the name and version of the boot loader that started the machine; ok is false when it
// left none.
func LoaderInfo(dir string) (info string, ok bool) {
	v, err := os.ReadFile(filepath.Join(dir, loaderInfo))
	if err != nil || len(v) <= 4 {
		return "", false
	}
	info, _, _ = parseUTF16(append(v[4:], 0, 0))
	return info, true
}

// SecureBoot reports whether the firmware started this machine with Secure Boot: section 3.3
// of the UEFI specification.
func SecureBoot(dir string) bool {
	b, err := os.ReadFile(variable(dir, "SecureBoot"))
	return err == nil && len(b) == 5 && b[4] == 1 // four bytes of attributes
}
