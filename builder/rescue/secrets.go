package rescue

import (
	"errors"
	"fmt"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/templates"
)

// publicLayout gives a layout for where anybody may read it: a rescue system and
// what is served for network boot. Passwords in fstab, in mount options and in the
// kernel command line are left out.
func publicLayout(l *layout.Layout) *layout.Layout {
	out := *l
	out.Fstab = sysconf.RedactFstab(l.Fstab)
	out.Kernel.Cmdline = sysconf.RedactCmdline(l.Kernel.Cmdline)
	out.Filesystems = make([]layout.Filesystem, len(l.Filesystems))
	for i, f := range l.Filesystems {
		mounts := f.Mounts
		f.Mounts = make([]layout.Mount, len(mounts))
		for j, m := range mounts {
			m.Options = sysconf.RedactFstab(m.Options)
			f.Mounts[j] = m
		}
		out.Filesystems[i] = f
	}
	return &out
}

// menuWords is room in a kernel command line for the words that a menu's entries
// add to it: the medium's id, consoles, the place of a set, what loaders add.
const menuWords = 512

// Cmdline is the kernel command line of the medium. Words of the machine's own line
// that are secret, or that a boot loader can't express, are left out: left has
// which and why. In the configuration they are errors.
func (c *Config) Cmdline(l *layout.Layout) (line string, left []string, err error) {
	w, left := c.carriedWords(l)
	if len(l.Kernel.Consoles) == 0 {
		w = append(w, "console=tty0")
	}
	own := templates.KernelWords(c.Append)
	if _, secret := sysconf.DropSecrets(c.Append); len(secret) > 0 {
		return "", nil, fmt.Errorf("cannot use rescue.append: %s has a password, which everyone who gets at the medium could read", strings.Join(secret, ", "))
	}
	var errs []error
	for _, o := range own {
		errs = append(errs, templates.LoaderWord(o))
	}
	if err := errors.Join(errs...); err != nil {
		return "", nil, fmt.Errorf("cannot use rescue.append: %w", err)
	}
	// A rootfs without the limit of half the memory; init checks that all of
	// it was unpacked, and panic= is for the case that it can't even start.
	w = append(append(w, "rootfstype=ramfs", "panic=60"), own...)
	line = strings.Join(w, " ")
	if max := templates.MaxKernelLine - menuWords; len(line) > max {
		return "", nil, fmt.Errorf("cannot use rescue.append: the kernel command line would have %d bytes, and has room for %d", len(line), max)
	}
	return line, left, nil
}

// carriedWords are the words of the machine's own kernel command line that the
// rescue system's has, too; left are messages about the others.
func (c *Config) carriedWords(l *layout.Layout) (words, left []string) {
	line, secret := sysconf.DropSecrets(rescue.CarryOver(l.Kernel.Cmdline))
	if len(secret) > 0 {
		left = append(left, "left out of the medium's kernel command line, because of a password: "+strings.Join(secret, ", "))
	}
	room := templates.MaxKernelLine - menuWords - len(c.Append) - len(" console=tty0 rootfstype=ramfs panic=60 ")
	for _, w := range templates.KernelWords(line) {
		err := templates.LoaderWord(w)
		if err == nil && len(w)+1 > room {
			err = fmt.Errorf("there is no room for %q", w)
		}
		if err != nil {
			left = append(left, fmt.Sprintf("left out of the medium's kernel command line: %v", err))
			continue
		}
		room -= len(w) + 1
		words = append(words, w)
	}
	return words, left
}

// publicWord checks a word that goes into boot menus, what for.
func publicWord(what, word string) error {
	if len(templates.KernelWords(word)) != 1 || len(strings.Fields(word)) != 1 {
		return fmt.Errorf("cannot use %s %q: want one word", what, word)
	}
	if _, secret := sysconf.DropSecrets("x=" + word); len(secret) > 0 {
		return fmt.Errorf("cannot use %s %s: it has a password, which everyone on the network could read", what, sysconf.RedactURL(word))
	}
	if err := templates.LoaderWord(word); err != nil {
		return fmt.Errorf("cannot use %s: %w", what, err)
	}
	return nil
}
