package fleet

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// Limits of what a machine may say of itself.
const (
	// MaxRegistration is the size of a registration in bytes.
	MaxRegistration = 64 << 10
	maxDisks        = 64
	maxParts        = 64 // of one disk
	maxCards        = 32
	maxText         = 128 // bytes of a name or number
)

// Registration is what a machine reports of itself.
type Registration struct {
	// MAC is that of the card which the machine was started from; it is the
	// machine's name in the room. MACs are those of all cards.
	MAC  string   `json:"mac"`
	MACs []string `json:"macs,omitempty"`
	// Serial, Vendor, Model and UUID are the firmware's (SMBIOS type 1).
	Serial   string `json:"serial"`
	Vendor   string `json:"vendor"`
	Model    string `json:"model"`
	UUID     string `json:"uuid"`
	Firmware string `json:"firmware"` // "bios" or "uefi"
	Memory   int64  `json:"memory"`   // bytes
	// Boot is another one each time that the machine is started.
	Boot  string `json:"boot"`
	Disks []Disk `json:"disks"`
}

// Disk is a disk of a machine.
type Disk struct {
	layout.Disk // without a table
	// Busy is why nothing can be restored onto it.
	Busy string `json:"busy,omitempty"`
	// Parts is what is on it now.
	Parts []Part `json:"parts,omitempty"`
}

// Part is a piece of a disk that is in use; Start and Size are in bytes.
type Part struct {
	Start int64  `json:"start"`
	Size  int64  `json:"size"`
	What  string `json:"what"`
}

// ParseRegistration reads a registration. What is in it is bounded, and text that a
// terminal or a page could act on is escaped; such text confirms nothing.
func ParseRegistration(r io.Reader) (*Registration, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxRegistration+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read registration: %w", err)
	}
	if len(b) > MaxRegistration {
		return nil, fmt.Errorf("cannot read registration: it has more than %d bytes", MaxRegistration)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	out := &Registration{}
	if err := d.Decode(out); err != nil {
		return nil, fmt.Errorf("cannot read registration: %s", printable.Short(err.Error(), maxText))
	}
	if d.More() {
		return nil, errors.New("cannot read registration: there is more behind it")
	}
	if err := out.normalize(); err != nil {
		return nil, fmt.Errorf("cannot use registration: %w", err)
	}
	return out, nil
}

// normalize checks what a registration must have, and makes the rest safe to show.
func (r *Registration) normalize() error {
	var err error
	if r.MAC, err = ParseMAC(r.MAC); err != nil {
		return err
	}
	if len(r.Disks) > maxDisks || len(r.MACs) > maxCards {
		return fmt.Errorf("%d disks and %d network cards; at most %d and %d are known", len(r.Disks), len(r.MACs), maxDisks, maxCards)
	}
	for i := range r.MACs {
		if r.MACs[i], err = ParseMAC(r.MACs[i]); err != nil {
			return err
		}
	}
	if r.Firmware != "bios" && r.Firmware != "uefi" {
		return fmt.Errorf("firmware %q; want bios or uefi", printable.Short(r.Firmware, maxText))
	}
	for _, s := range []*string{&r.Serial, &r.Vendor, &r.Model, &r.UUID, &r.Boot} {
		*s = text(*s)
	}
	if r.Boot == "" {
		return errors.New("it has no boot id")
	}
	r.Memory = max(r.Memory, 0)
	names := map[string]bool{}
	for i := range r.Disks {
		if err := r.Disks[i].normalize(names); err != nil {
			return err
		}
	}
	return nil
}

// normalize checks a disk and its partitions, and adds its name to those of the others.
func (d *Disk) normalize(names map[string]bool) error {
	for _, s := range []*string{&d.Name, &d.Model, &d.Serial, &d.WWN, &d.Busy} {
		*s = text(*s)
	}
	d.Table = nil
	if d.Name == "" || names[d.Name] || d.Size <= 0 || d.Size > 1<<62 {
		return fmt.Errorf("disk %q: no name, the name of another one, or no size", d.Name)
	}
	names[d.Name] = true
	if len(d.Parts) > maxParts {
		return fmt.Errorf("disk %s: %d partitions; at most %d are known", d.Name, len(d.Parts), maxParts)
	}
	for j := range d.Parts {
		p := &d.Parts[j]
		p.What = text(p.What)
		if p.Start < 0 || p.Size <= 0 || p.Start > int64(d.Size) || p.Size > int64(d.Size)-p.Start {
			return fmt.Errorf("disk %s: a partition is not on the disk", d.Name)
		}
	}
	return nil
}

// text is a word of a machine, made safe to show.
func text(s string) string { return printable.Short(strings.TrimSpace(s), maxText) }

// ParseMAC reads the address of an Ethernet card, in the forms that net.ParseMAC knows,
// and writes it as "52:54:00:12:34:56". Addresses of groups do not belong to a card.
func ParseMAC(s string) (string, error) {
	m, err := net.ParseMAC(s)
	if err != nil || len(m) != 6 || m[0]&1 != 0 || bytes.Equal(m, make([]byte, 6)) {
		return "", fmt.Errorf("MAC %q is not the address of a network card", printable.Short(s, maxText))
	}
	return m.String(), nil
}

// noSerials are what firmware has in the place of a serial number.
var noSerials = []string{"", "none", "n/a", "na", "null", "unknown", "invalid", "empty", "oem", "standard", "default", "default string", "not specified", "not applicable", "not available",
	"to be filled by o.e.m.", "to be filled by oem", "system serial number", "chassis serial number", "serial number", "serial", "sernum", "0123456789", "123456789", "1234567890", "12345678"}

// Usable reports whether a serial number can be a machine's own: it is not one of the
// placeholders that firmware has, not the same character all over, and has nothing that
// had to be escaped.
func Usable(serial string) bool {
	s := strings.ToLower(strings.TrimSpace(serial))
	if slices.Contains(noSerials, s) || strings.ContainsRune(s, '\\') {
		return false
	}
	for _, r := range s {
		if r != rune(s[0]) {
			return true
		}
	}
	return false
}

// confirmable reports whether a disk's number can be a word of restore's command line: the
// lists there are separated by commas.
func confirmable(w string) bool {
	return w != "" && len(w) <= maxText && !strings.ContainsAny(w, ",=\\ \t") && !strings.HasPrefix(w, "/") && !strings.HasSuffix(w, "...") && printable.Clean(w) == w
}

// Words gives for each disk the serial number or WWN that confirms it, "" for a disk
// without one, or with a placeholder, or with one that another disk here has as well.
func (r *Registration) Words() []string {
	out := make([]string, len(r.Disks))
	for i, p := range identify(r.Disks) {
		for _, w := range p.Words {
			// One letter is not a placeholder.
			if confirmable(w) && (len(w) == 1 || Usable(w)) && !slices.ContainsFunc(r.Disks, func(d Disk) bool { return d.Name == w }) {
				out[i] = w
				break
			}
		}
	}
	return out
}

// Digest is short and another one for another machine or other disks: a person who
// releases a machine confirms by it what was seen.
func (r *Registration) Digest() string {
	type disk struct {
		Name, Model, Serial, WWN string
		Size                     int64
	}
	var ds []disk
	for _, d := range r.Disks {
		ds = append(ds, disk{d.Name, d.Model, d.Serial, d.WWN, int64(d.Size)})
	}
	b, err := json.Marshal([]any{r.MAC, r.Serial, r.UUID, r.Vendor, r.Model, ds})
	if err != nil {
		panic(err) // strings and numbers
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
