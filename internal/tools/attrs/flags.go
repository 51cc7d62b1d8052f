package attrs

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// flagLetters are the flags of FS_IOC_GETFLAGS in the order in which lsattr prints them.
var flagLetters = []struct {
	letter byte
	bit    uint32
}{{'s', 0x1}, {'u', 0x2}, {'S', 0x8}, {'D', 0x10000}, {'i', 0x10}, {'a', 0x20}, {'d', 0x40}, {'A', 0x80}, {'c', 0x4}, {'B', 0x100}, {'Z', 0x200}, {'X', 0x400}, {'E', 0x800}, {'j', 0x4000}, {'I', 0x1000}, {'t', 0x8000}, {'T', 0x20000}, {'e', 0x80000}, {'C', 0x800000}, {'x', 0x2000000}, {'F', 0x40000000}, {'N', 0x10000000}, {'P', 0x20000000}, {'V', 0x100000}, {'m', 0x400000}}

// flagBit is the flag of a letter, 0 for an unknown one.
func flagBit(letter rune) uint32 {
	for _, l := range flagLetters {
		if rune(l.letter) == letter {
			return l.bit
		}
	}
	return 0
}

func fileFlags(p string) (uint32, error) {
	f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	return uint32(n), err
}

// showFlags prints the flags of a file or directory.
func showFlags(e *tools.Env, p string) {
	st, err := os.Lstat(p)
	if err == nil && !st.Mode().IsRegular() && !st.IsDir() {
		return
	}
	f := uint32(0)
	if err == nil {
		f, err = fileFlags(p)
	}
	if err != nil {
		e.Warn("%s While reading flags on %s", tools.Cause(err), p)
		return
	}
	s := strings.Map(func(c rune) rune {
		if f&flagBit(c) != 0 {
			return c
		}
		return '-'
	}, "suSDiadAcEjItTeCxFNPVm")
	e.Printf("%s %s\n", s, p)
}

// lsattrTree is lsattr -R: what is in a directory, and then each directory in it by itself.
func lsattrTree(e *tools.Env, p string) {
	st, err := os.Lstat(p)
	if err != nil {
		e.Warn("%s while trying to stat %s", tools.Cause(err), p)
		return
	}
	if !st.IsDir() {
		showFlags(e, p)
		return
	}
	es, err := os.ReadDir(p)
	if err != nil {
		e.Warn("%s: %s", p, tools.Cause(err))
	}
	for _, x := range es {
		if !e.On("a") && x.Name()[0] == '.' {
			continue
		}
		q := p + "/" + x.Name()
		if showFlags(e, q); x.IsDir() {
			e.Printf("\n%s:\n", q)
			lsattrTree(e, q)
			e.Printf("\n")
		}
	}
}

func lsattr(e *tools.Env) error {
	args := e.Args
	if len(args) == 0 {
		args = []string{"."}
	}
	for _, a := range args {
		if e.On("R") {
			lsattrTree(e, a)
			continue
		}
		st, err := os.Stat(a)
		if err != nil {
			e.Warn("%s while trying to stat %s", tools.Cause(err), a)
			continue
		}
		if !st.IsDir() || e.On("d") {
			showFlags(e, a)
			continue
		}
		es, err := os.ReadDir(a)
		if err != nil {
			e.Warn("%s: %s", a, tools.Cause(err))
		}
		for _, x := range es {
			if e.On("a") || x.Name()[0] != '.' {
				showFlags(e, a+"/"+x.Name())
			}
		}
	}
	return nil
}

// flagChange is what is added to a file's flags and removed from them, or with set what replaces them.
type flagChange struct {
	add, remove, exact uint32
	set                bool
}

// word reads "+ai", "-i" or "=e".
func (c *flagChange) word(a string) error {
	for _, l := range a[1:] {
		bit := flagBit(l)
		if bit == 0 {
			return tools.Usage("unknown flag '%c'", l)
		}
		switch a[0] {
		case '+':
			c.add |= bit
		case '-':
			c.remove |= bit
		default:
			c.exact, c.set = c.exact|bit, true
		}
	}
	return nil
}

func (c *flagChange) apply(p string) error {
	old, err := fileFlags(p)
	if err != nil {
		return err
	}
	f := old&^c.remove | c.add
	if c.set {
		f = c.exact
	}
	h, err := os.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer h.Close()
	return unix.IoctlSetPointerInt(int(h.Fd()), unix.FS_IOC_SETFLAGS, int(f))
}

func chattr(e *tools.Env) error {
	var c flagChange
	rec, op := false, false
	var files []string
	for _, a := range e.Args {
		if len(a) > 1 && strings.IndexByte("+-=", a[0]) >= 0 && len(files) == 0 {
			if a == "-R" || a == "-f" || a == "-V" {
				rec = rec || a == "-R"
				continue
			}
			if err := c.word(a); err != nil {
				return err
			}
			op = true
			continue
		}
		files = append(files, a)
	}
	if !op || len(files) == 0 {
		return tools.Usage("must use '-v', =, - or +")
	}
	e.Args = files
	if rec {
		o, _, err := tools.Parse("R", []string{"-R"})
		if err != nil {
			return err
		}
		e.Options = o
	}
	tree(e, c.apply)
	return nil
}
