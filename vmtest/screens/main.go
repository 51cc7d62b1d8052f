// Command screens takes the pictures in docs/: the boot menus and the ready
// screen of a medium of this tree, started in QEMU. `make screenshots` runs it.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/mkcdrec/mkcdrec/vmtest"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "screens:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "screens-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	k, err := vmtest.FetchKernel(ctx, "linux-image-amd64")
	if err != nil {
		return err
	}
	iso := filepath.Join(dir, "r.iso")
	if err := vmtest.Command(ctx, "bin/mkcdrec", "-q", "rescue", "-o", iso, "--kernel", k.Image, "--modules", k.Modules, "--append", "console=tty0 console=ttyS0,115200 quiet"); err != nil {
		return err
	}
	for _, firmware := range []string{"bios", "uefi"} {
		m := vmtest.Machine{Name: firmware, IDECD: iso, Display: filepath.Join(dir, firmware+".qmp")}
		if firmware == "uefi" {
			if m.UEFI, err = vmtest.NVRAM(filepath.Join(dir, "vars")); err != nil {
				return err
			}
		}
		if err := shoot(ctx, m, firmware); err != nil {
			return err
		}
	}
	return nil
}

func shoot(ctx context.Context, m vmtest.Machine, firmware string) error {
	vm, err := vmtest.Start(ctx, m)
	if err != nil {
		return err
	}
	defer vm.Kill()
	if _, err := vm.Expect(`Rescue system with safe`, 2*time.Minute); err != nil {
		return err
	}
	if _, err := vm.Expect(`(?i)automatic|seconds|\d+s`, 2*time.Minute); err != nil {
		return err
	}
	time.Sleep(time.Second) // the screen is drawn after the serial line
	if err := vm.Screenshot("docs/menu-" + firmware + ".png"); err != nil {
		return err
	}
	if firmware != "bios" {
		return nil
	}
	if err := vm.Send("r"); err != nil {
		return err
	}
	if _, err := vm.Expect(`rescue system ready(?s:.*)# `, 3*time.Minute); err != nil {
		return err
	}
	time.Sleep(time.Second)
	return vm.Screenshot("docs/ready.png")
}
