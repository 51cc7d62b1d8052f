package bootloader

import (
	"fmt"
	"strings"
)

// Identity is a UUID or name that the system's files have and that is another one now: of
// a clone that is to be used beside its source.
type Identity struct {
	Old, New string
	// Prefix is set if Old is the beginning of a name.
	Prefix bool
}

// Reidentify gives a text of the system with identities replaced where they are not part of
// a longer word, in any case, and what was changed.
func Reidentify(text string, ids []Identity) (out string, notes []string) {
	for _, i := range ids {
		var n int
		if text, n = i.replace(text); n > 0 {
			notes = append(notes, fmt.Sprintf("%s is replaced by %s", i.Old, i.New))
		}
	}
	return text, notes
}

func (i Identity) replace(text string) (out string, n int) {
	if i.Old == "" {
		return text, 0
	}
	var b strings.Builder
	rest, old := text, lower(i.Old)
	low, before := lower(text), byte(0)
	for {
		at := strings.Index(low, old)
		if at < 0 {
			b.WriteString(rest)
			return b.String(), n
		}
		end := at + len(old)
		if at > 0 {
			before = low[at-1]
		}
		if i.Prefix && rest[at:end] == i.Old || !i.Prefix && !inWord(before) && (end == len(low) || !inWord(low[end])) {
			b.WriteString(rest[:at] + i.New)
			n++
		} else {
			b.WriteString(rest[:end])
		}
		before = low[end-1]
		rest, low = rest[end:], low[end:]
	}
}

// lower changes ASCII letters, and no length.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func inWord(lower byte) bool {
	return lower >= '0' && lower <= '9' || lower >= 'a' && lower <= 'z'
}

// reidentify replaces identities in all files of the system that name devices.
func (s *System) reidentify() error {
	if len(s.Identities) == 0 {
		return nil
	}
	files := []string{"/etc/fstab", "/etc/crypttab", "/etc/crypttab.initramfs", "/etc/lvm/devices/system.devices"}
	files = append(files, arrayFiles()...)
	files = append(files, s.units()...)
	for _, c := range s.cmdlineFiles() {
		files = append(files, s.tree().Glob(c.dir, c.pattern)...)
	}
	seen := map[string]bool{}
	for _, f := range files {
		if seen[f] {
			continue
		}
		seen[f] = true
		if err := s.edit(f, func(text string) (string, []string, []string) {
			out, notes := Reidentify(text, s.Identities)
			return out, notes, nil
		}); err != nil {
			return err
		}
	}
	return nil
}
