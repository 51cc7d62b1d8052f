// Package storage opens, mounts and closes what a machine's storage consists of: RAID
// arrays, LUKS devices, volume groups and file systems. It makes and formats nothing. With
// ReadOnly not one bit of a disk changes.
package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// NoUdev is the environment for LVM, dmsetup and cryptsetup; see tool.NoUdev.
var NoUdev = []string{tool.NoUdev + "=1"}

// LVM runs lvm(8) with these arguments, and gives its standard output.
func LVM(ctx context.Context, run tool.Runner, args ...string) ([]byte, error) {
	return run.Run(ctx, tool.Cmd{Args: append([]string{"lvm"}, args...), Env: NoUdev})
}

// Mdadm runs mdadm(8) without udev: the kernel makes the device node.
func Mdadm(ctx context.Context, run tool.Runner, args ...string) error {
	_, err := run.Run(ctx, tool.Cmd{Args: append([]string{"mdadm"}, args...), Env: []string{"MDADM_NO_UDEV=1"}})
	return err
}

// ArrayRuns reports whether there is an array of that name; the kernel keeps the
// name of a stopped one for a while.
func ArrayRuns(run tool.Runner, name string) bool {
	b, err := os.ReadFile(kernel.Of(run).Path("/sys/block/" + name + "/md/array_state"))
	return err == nil && strings.TrimSpace(string(b)) != "clear"
}

// StopArray stops an array, if it runs.
func StopArray(ctx context.Context, run tool.Runner, name string) error {
	if !ArrayRuns(run, name) {
		return nil
	}
	if err := Mdadm(ctx, run, "--stop", "/dev/"+name); err != nil {
		return fmt.Errorf("cannot stop the RAID array %s: %w", name, err)
	}
	return nil
}

// CryptIsOpen reports whether there is an open LUKS device of that name.
func CryptIsOpen(run tool.Runner, name string) bool {
	_, err := os.Stat(kernel.Of(run).Path("/dev/" + layout.MapperPrefix + name))
	return err == nil
}

// Cryptsetup runs cryptsetup(8) without udev. It gets the key from standard input.
func Cryptsetup(ctx context.Context, run tool.Runner, key []byte, args ...string) error {
	_, err := run.Run(ctx, tool.Cmd{Args: append([]string{"cryptsetup"}, args...), Stdin: bytes.NewReader(key), Env: NoUdev})
	return err
}

// CloseCrypt closes a LUKS device, if it is open.
func CloseCrypt(ctx context.Context, run tool.Runner, name string) error {
	if !CryptIsOpen(run, name) {
		return nil
	}
	if err := Cryptsetup(ctx, run, nil, "close", name); err != nil {
		return fmt.Errorf("cannot close the LUKS device %s: %w", name, err)
	}
	return nil
}

// volume is an active logical volume: the kernel's name of it and device-mapper's.
type volume struct{ kernel, name string }

// CloseGroup deactivates those of a group's volumes that are own, and removes its overlays
// that are; own gets the kernel's name of a device. Where another group of the same name is
// on other disks, or LVM does not find the group any more, they are removed one by one.
func CloseGroup(ctx context.Context, run tool.Runner, name string, own func(dev string) bool) error {
	g := group{run, name}
	all, err := g.volumes()
	if err != nil {
		return err
	}
	over, err := g.overlays() // of restore mount --ro
	if err != nil {
		return err
	}
	over = slices.DeleteFunc(over, func(o overlay) bool { return !own(o.kernel) })
	mine := slices.DeleteFunc(slices.Clone(all), func(v volume) bool { return !own(v.kernel) })
	switch {
	case len(mine) == 0:
	case len(mine) < len(all):
		err = g.drop(ctx, func(v volume) bool { return own(v.kernel) })
	default:
		args := []string{"vgchange", "-an"}
		if len(over) > 0 {
			args = append(args, onlyOverlays(over)...)
		}
		if _, err = g.lvm(ctx, append(args, name)...); err == nil {
			break
		}
		if drop := g.drop(ctx, func(v volume) bool { return own(v.kernel) }); drop != nil {
			err = errors.Join(err, drop)
			break
		}
		err = os.RemoveAll(g.path("/dev/" + name)) // the names that LVM made here without udev
	}
	if err != nil {
		return err
	}
	return g.uncover(ctx, over)
}
