package bootloader

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// Entry is what a boot loader starts a Linux system with.
type Entry = sysconf.BootEntry

// FirstEntry returns the entry that starts the system by itself: the one that GRUB has
// saved or the newest of the Boot Loader Specification, or the first of a grub.cfg. Its
// files exist; their paths are those of the system, without links resolved. Variables
// that the grub.cfg does not set as plain text are empty, as GRUB's are.
func (s *System) FirstEntry() (*Entry, error) {
	e, err := s.loader().First(s)
	if err != nil {
		return nil, err
	}
	for i := -1; i < len(e.Initrd); i++ {
		name := &e.Linux
		if i >= 0 {
			name = &e.Initrd[i]
		}
		at := s.initrdFile(*name) // a kernel is looked for likewise
		if at == "" {
			return nil, fmt.Errorf("cannot use the boot entry of %s: %s is missing", e.Linux, *name)
		}
		*name = path.Join("/", at)
	}
	e.Options = strings.TrimSpace(e.Options)
	return e, nil
}

// Open opens a file of the entry for reading.
func (s *System) Open(name string) (*os.File, error) { return s.tree().Open(name) }

// chosen is the entry that GRUB has saved, or the newest, but for the rescue one of
// Fedora.
func (s *System) chosen(all []Entry) *Entry {
	saved := s.grubenv("saved_entry")
	if i := slices.IndexFunc(all, func(e Entry) bool { return e.ID == saved }); i >= 0 {
		return &all[i]
	}
	if some := slices.DeleteFunc(slices.Clone(all), func(e Entry) bool { return strings.Contains(e.ID, "-0-rescue") }); len(some) > 0 {
		all = some
	}
	e := slices.MaxFunc(all, func(a, b Entry) int { return compareVersions(a.ID, b.ID) })
	return &e
}

// compareVersions compares names as GRUB's blscfg orders them: numbers in them by value.
func compareVersions(a, b string) int {
	digits := func(s string) string { return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))] }
	for a != "" && b != "" {
		x, y := digits(a), digits(b)
		if x == "" || y == "" {
			if a[0] != b[0] {
				return int(a[0]) - int(b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		a, b = a[len(x):], b[len(y):]
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if len(x) != len(y) {
			return len(x) - len(y)
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return len(a) - len(b)
}
