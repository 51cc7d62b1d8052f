package bootloader

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/templates"
)

// Loader is a boot loader of installed systems. Everything that is known of one is in its file; entries of
// the firmware's boot menu are in firmware.go.
type Loader interface {
	// Name is that of the layout.
	Name() string

	// Disks lists the disks from which a BIOS starts the loader.
	Disks(m Machine, l *layout.Layout) []string
	// Recognise reports whether the machine of l is started by the loader, and completes l.Boot, whose
	// firmware and EFI system partition are known.
	Recognise(m Machine, l *layout.Layout) bool
	// Problem returns why a restore can't install the loader again where it was; "" when it can.
	Problem(m Machine, l *layout.Layout) string
	// Tools are what Install runs or copies in the system.
	Tools(l *layout.Layout) []Tool
	// Modules is a directory that a system with the loader must have to be converted to a firmware, and the
	// package that has it.
	Modules(firmware string) (dir, pkg string)
	// ByHand are the commands that install the loader inside the restored system; found is set if the
	// firmware finds it without any. dev gives a disk's device.
	ByHand(l *layout.Layout, dev func(disk string) templates.Shell) (commands []templates.Shell, found bool)

	// Files are the loader's own files with kernel command lines. They are followed in each system,
	// whichever loader starts it: a system may have the files of two loaders.
	Files(s *System) []cmdlineFile
	// Configs are what the loader reads to start the system.
	Configs(s *System) []config
	// Unified are the unified kernel images that the loader starts, by their paths in the system.
	Unified(s *System) []string
	// First is the entry that starts the system by itself; its files need not exist.
	First(s *System) (*Entry, error)
	// Regenerate runs the command that regenerates the initramfs, if any, with what follows from that, and
	// regenerates the loader's configuration if that names a renamed device.
	Regenerate(ctx context.Context, s *System, initramfs []string, renamed map[string]string) error
	// Install installs the loader where the source machine had it.
	Install(ctx context.Context, s *System) error
	// Prove lists what keeps the loader from starting the system, besides what its entries name.
	Prove(s *System) []string
	// Expected are the changes of a system's files that Install and Regenerate make.
	Expected() []Expectation
}

// Expectation is a change that a restore makes: Pattern is a regular expression of paths.
type Expectation struct{ Name, Pattern string }

// loaders are all loaders, in the order in which they are looked for.
func loaders() []Loader { return []Loader{systemdBoot{}, extlinux{}, grub{}} }

// For gives the loader of a layout's name; one that knows nothing but grub.cfg for a name that is not known.
func For(name string) Loader {
	for _, l := range loaders() {
		if l.Name() == name {
			return l
		}
	}
	return unknown{}
}

func (s *System) loader() Loader { return For(s.Layout.Boot.Loader) }

// Machine is a machine whose boot loader is looked for.
type Machine struct {
	Files sysconf.Tree // of its system
	Dev   string       // the directory of its devices
	// EFIVars is the directory of its firmware's variables; "" for a system that does not run.
	EFIVars string
}

// first reads the first n bytes of a device, nil if it can't.
func (m Machine) first(dev string, n int) []byte {
	f, err := os.Open(filepath.Join(m.Dev, dev))
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err = io.ReadFull(f, b); err != nil {
		return nil
	}
	return b
}

// bootCode is the part of a disk's first sector before its signature.
const bootCode = 440

// Recognise gives the name of the loader that starts the machine, "" if that is not known, and completes l.Boot.
func Recognise(m Machine, l *layout.Layout) string {
	for _, x := range loaders() {
		if x.Recognise(m, l) {
			return x.Name()
		}
	}
	return ""
}

// StartsBIOS reports whether a BIOS starts a loader from one of the disks.
func StartsBIOS(m Machine, l *layout.Layout) bool {
	return slices.ContainsFunc(loaders(), func(x Loader) bool { return len(x.Disks(m, l)) > 0 })
}

// Tool is a program or file of the system; any of its Names will do. Those with a slash are paths.
type Tool struct {
	Names  []string
	Remedy string // how to get it, for people
}

// Find gives a tool's path, "" if the system has none.
func (t Tool) Find(files sysconf.Tree) string {
	for _, n := range t.Names {
		dirs := []string{"/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"}
		if strings.HasPrefix(n, "/") {
			dirs = []string{""}
		}
		for _, d := range dirs {
			if files.Exists(d + n) {
				return d + n
			}
		}
	}
	return ""
}

// tool finds a tool of the restored system.
func (s *System) tool(t Tool) (string, error) {
	name := t.Find(s.tree())
	if name == "" {
		return "", fmt.Errorf("cannot install the boot loader: the restored system has no %s", t.Names[0])
	}
	return name, nil
}

// defaults are what most loaders do.
type defaults struct{}

func (defaults) Tools(*layout.Layout) []Tool            { return nil }
func (defaults) Modules(string) (dir, pkg string)       { return "", "" }
func (defaults) Problem(Machine, *layout.Layout) string { return "" }
func (defaults) Disks(Machine, *layout.Layout) []string { return nil }
func (defaults) Unified(*System) []string               { return nil }
func (defaults) Regenerate(ctx context.Context, s *System, initramfs []string, _ map[string]string) error {
	if initramfs == nil {
		return nil
	}
	return s.chroot(ctx, initramfs...)
}

// unknown is the loader of a system of which nothing is known. What GRUB's configuration has about it, if it
// has one, is used.
type unknown struct{ grub }

func (unknown) Name() string                     { return "" }
func (unknown) Tools(*layout.Layout) []Tool      { return nil }
func (unknown) Modules(string) (dir, pkg string) { return "", "" }
func (unknown) Prove(*System) []string           { return nil }
func (unknown) Problem(Machine, *layout.Layout) string {
	var names []string
	for _, l := range loaders() {
		names = append(names, l.Name())
	}
	slices.Sort(names)
	return fmt.Sprintf("none of the boot loaders %s was found, and what starts this machine is not known", strings.Join(names, ", "))
}
func (unknown) Install(_ context.Context, s *System) error {
	return fmt.Errorf("cannot install a boot loader: the source machine's is not known; %s is mounted: install it there by hand", s.Root)
}
