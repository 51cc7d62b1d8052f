package media

import (
	"fmt"
	"os"
	"strings"
)

// FindBIOS looks for isolinux below root, where distributions put it. The
// error names what is missing and the package that has it.
func FindBIOS(root string) (*BIOSLoader, error) {
	first := func(name string, dirs ...string) (string, error) {
		for _, d := range dirs {
			p := root + d + "/" + name
			if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
				return p, nil
			}
		}
		return "", fmt.Errorf("cannot find %s in %s", name, strings.Join(dirs, ", "))
	}
	var b BIOSLoader
	var err error
	if b.ISOLinux, err = first("isolinux.bin", "/usr/lib/ISOLINUX", "/usr/share/syslinux", "/usr/lib/syslinux/bios", "/usr/lib/syslinux"); err != nil {
		return nil, err
	}
	if b.HybridMBR, err = first("isohdpfx.bin", "/usr/lib/ISOLINUX", "/usr/share/syslinux", "/usr/lib/syslinux/bios", "/usr/lib/syslinux"); err != nil {
		return nil, err
	}
	b.LDLinux, err = first("ldlinux.c32", "/usr/lib/syslinux/modules/bios", "/usr/share/syslinux", "/usr/lib/syslinux/bios", "/usr/lib/syslinux")
	if err != nil {
		return nil, err
	}
	return &b, nil
}

// FindUEFI looks for the distribution's GRUB made for CDs, which reads
// /boot/grub/grub.cfg from the image: signed with shim, or unsigned.
func FindUEFI(root string) (*UEFILoader, error) {
	has := func(p string) bool { st, err := os.Stat(root + p); return err == nil && st.Mode().IsRegular() }
	const (
		shim     = "/usr/lib/shim/shimx64.efi.signed"
		signed   = "/usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed"
		unsigned = "/usr/lib/grub/x86_64-efi/monolithic/gcdx64.efi"
	)
	switch {
	case has(shim) && has(signed):
		return &UEFILoader{"shim and GRUB, signed", map[string]string{"BOOTX64.EFI": root + shim, "grubx64.efi": root + signed}}, nil
	case has(signed):
		return &UEFILoader{"GRUB, signed, without shim", map[string]string{"BOOTX64.EFI": root + signed}}, nil
	case has(unsigned):
		return &UEFILoader{"GRUB, unsigned", map[string]string{"BOOTX64.EFI": root + unsigned}}, nil
	}
	return nil, fmt.Errorf("cannot find a GRUB for UEFI media: looked for %s, %s with %s", unsigned, signed, shim)
}
