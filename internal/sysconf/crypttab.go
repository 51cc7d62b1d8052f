package sysconf

import "cmp"

// Crypttab is the text of a crypttab(5).
type Crypttab struct {
	Entries []*CrypttabEntry
	lines   []*line
}

// CrypttabEntry is a line of crypttab(5) with at least a name and a device; its
// fields are decoded.
type CrypttabEntry struct {
	Line    int // from 1
	Name    string
	Spec    string
	Key     string // "" and "none" stand for a passphrase
	Options string

	l *line
}

// ParseCrypttab reads a crypttab(5).
func ParseCrypttab(text string) *Crypttab {
	c := &Crypttab{lines: splitLines(text)}
	for n, l := range tableLines(c.lines) {
		e := &CrypttabEntry{Line: n, l: l}
		e.read()
		c.Entries = append(c.Entries, e)
	}
	return c
}

func (e *CrypttabEntry) read() { e.l.decode(&e.Name, &e.Spec, &e.Key, &e.Options) }

// String gives the text.
func (c *Crypttab) String() string { return joinLines(c.lines) }

// Raw is a field as it is written, for messages; 0 is the name.
func (e *CrypttabEntry) Raw(field int) string { return e.l.raw(field) }

// SetSpec changes the encrypted device.
func (e *CrypttabEntry) SetSpec(s string) {
	if s != e.Spec {
		e.l.set(1, cmp.Or(Escape(s), "none"), nil)
		e.read()
	}
}

// AddOption adds an option behind the others.
func (e *CrypttabEntry) AddOption(o string) {
	raw := e.l.raw(3)
	if raw == "-" {
		raw = ""
	}
	e.l.set(3, AppendOption(raw, o), []string{"", "", "none"})
	e.read()
}

// NoAuto reports a device that is not opened at boot.
func (e *CrypttabEntry) NoAuto() bool { return lastOf(e.Options, "noauto", "auto") }

// NoFail reports a device without which the system starts.
func (e *CrypttabEntry) NoFail() bool { return lastOf(e.Options, "nofail", "fail") }

// Throwaway reports a device that gets a new key at every boot, for swap or
// temporary files: nothing has to be on it.
func (e *CrypttabEntry) Throwaway() bool {
	switch e.Key {
	case "/dev/urandom", "/dev/random", "/dev/hwrng":
		return true
	}
	return HasOption(e.Options, "swap") || HasOption(e.Options, "tmp")
}

// Plain reports a device that is not LUKS: nothing on it shows what it is.
func (e *CrypttabEntry) Plain() bool {
	for _, o := range []string{"plain", "tcrypt", "tcrypt-hidden", "bitlk", "fvault2"} {
		if HasOption(e.Options, o) {
			return true
		}
	}
	return e.Throwaway()
}
