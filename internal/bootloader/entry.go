package bootloader

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

// Entry is what a boot loader starts a Linux system with.
type Entry struct {
	ID      string   // name of its file, of the Boot Loader Specification; "" in a grub.cfg
	Linux   string   // the kernel, a path
	Initrd  []string // paths, in the order in which they are loaded
	Options string   // kernel command line
}

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

// text is the entry as lines of a grub.cfg.
func (e *Entry) text() string {
	out := "linux " + e.Linux + grubWords(e.Options) + "\n"
	if len(e.Initrd) > 0 {
		out += "initrd " + strings.Join(e.Initrd, " ") + "\n"
	}
	return out
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

// maxExpanded is how many bytes the values of variables add to what is read, together:
// much more than a kernel command line can have, which is 4096 at most.
const maxExpanded = 256 << 10

// expansion keeps a text that refers to a long value many times from growing.
type expansion struct{ left int }

// value gives v, or "" when there is no room for it any more.
func (x *expansion) value(v string) string {
	if len(v) > x.left {
		return ""
	}
	x.left -= len(v)
	return v
}
