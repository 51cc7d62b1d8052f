package media

import (
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// BIOSLoader is isolinux: the loader, its library, the modules of its menu, and
// the code for the first sector of a stick. PXELinux is the loader for network
// boot, "" if it was not found.
type BIOSLoader struct {
	ISOLinux, LDLinux, HybridMBR string
	// PartitionCode and DiskMBR are HybridMBR for an image in a partition and the
	// code that starts the active partition; "" if either was not found.
	PartitionCode, DiskMBR string
	Modules                []string // menu.c32 and what it needs, or none
	PXELinux               string
	Chain                  bool // chain.c32 is among the modules
}

// UEFILoader is what goes into the EFI system partition: names in EFI/BOOT to
// files of the host.
type UEFILoader struct {
	Name   string // for people: "shim and GRUB, signed"
	Files  map[string]string
	Signed bool
	// Config is a grub.cfg to go beside the loaders, for those that look there.
	Config []byte
	// Net are the loaders for network boot: shim, if any, and GRUB, by the
	// names that shim looks for.
	Net map[string]string
}

var (
	syslinuxDirs = []string{"/usr/lib/ISOLINUX", "/usr/lib/PXELINUX", "/usr/share/syslinux", "/usr/lib/syslinux/bios", "/usr/lib/syslinux"}
	syslinuxMBR  = []string{"/usr/lib/syslinux/mbr", "/usr/share/syslinux", "/usr/lib/syslinux/bios", "/usr/lib/syslinux"}
	syslinuxC32  = []string{"/usr/lib/syslinux/modules/bios", "/usr/share/syslinux", "/usr/lib/syslinux/bios", "/usr/lib/syslinux"}
)

func isFile(p string) bool { st, err := os.Stat(p); return err == nil && st.Mode().IsRegular() }

// FindBIOS looks for isolinux below root, where distributions put it. The
// error names what is missing.
func FindBIOS(root string) (*BIOSLoader, error) {
	var errs []error
	first := func(name string, dirs []string) string {
		for _, d := range dirs {
			if p := root + d + "/" + name; isFile(p) {
				return p
			}
		}
		errs = append(errs, fmt.Errorf("cannot find %s in %s", name, strings.Join(dirs, ", ")))
		return ""
	}
	b := &BIOSLoader{ISOLinux: first("isolinux.bin", syslinuxDirs), HybridMBR: first("isohdpfx.bin", syslinuxDirs), LDLinux: first("ldlinux.c32", syslinuxC32)}
	if len(errs) > 0 {
		return nil, errs[0]
	}
	menu, util := first("menu.c32", syslinuxC32), first("libutil.c32", syslinuxC32)
	if menu != "" && util != "" {
		b.Modules = []string{menu, util}
	}
	if chain, com := first("chain.c32", syslinuxC32), first("libcom32.c32", syslinuxC32); chain != "" && com != "" && util != "" {
		b.Modules = append(b.Modules, chain, com)
		b.Chain = true
	}
	if pc, mbr := first("isohdppx.bin", syslinuxDirs), first("mbr.bin", syslinuxMBR); pc != "" && mbr != "" {
		b.PartitionCode, b.DiskMBR = pc, mbr
	}
	if b.PXELinux = first("lpxelinux.0", syslinuxDirs); b.PXELinux == "" {
		b.PXELinux = first("pxelinux.0", syslinuxDirs)
	}
	return b, nil
}

// startConfig finds the medium and continues with its grub.cfg: for loaders that
// look for a configuration beside themselves only.
const startConfig = "search --no-floppy --set=root --file %s\nset prefix=($root)/boot/grub\nconfigfile ($root)/boot/grub/grub.cfg\n"

// FindUEFI looks for the distribution's GRUB made for CDs, which reads
// /boot/grub/grub.cfg from the image: signed with shim, or unsigned. mark is a
// file that only this medium has.
func FindUEFI(root, mark string) (*UEFILoader, error) {
	const (
		shim     = "/usr/lib/shim/shimx64.efi.signed"
		signed   = "/usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed"
		net      = "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"
		unsigned = "/usr/lib/grub/x86_64-efi/monolithic/gcdx64.efi"
		plainNet = "/usr/lib/grub/x86_64-efi/monolithic/grubnetx64.efi"
		mok      = "/usr/lib/shim/mmx64.efi.signed"
	)
	const httpMod = "/usr/lib/grub/x86_64-efi/http.mod"
	u := &UEFILoader{Config: fmt.Appendf(nil, startConfig, mark), Net: map[string]string{}}
	has := func(p string) bool { return isFile(root + p) }
	switch {
	case has(shim) && has(signed):
		u.Name, u.Signed, u.Files = "shim and GRUB, signed", true, map[string]string{"BOOTX64.EFI": root + shim, "grubx64.efi": root + signed}
		if has(mok) {
			u.Files["mmx64.efi"] = root + mok
		}
		if has(net) {
			u.Net = map[string]string{"bootx64.efi": root + shim, "grubx64.efi": root + net}
		}
	case has(signed):
		u.Name, u.Files = "GRUB, signed, without shim", map[string]string{"BOOTX64.EFI": root + signed}
		if has(net) {
			u.Net["bootx64.efi"] = root + net
		}
	case has(unsigned):
		u.Name, u.Files = "GRUB, unsigned", map[string]string{"BOOTX64.EFI": root + unsigned}
		if has(plainNet) {
			u.Net["bootx64.efi"] = root + plainNet
		}
	default:
		// Fedora and its relatives have the signed loaders in the ESP.
		shims, err := filepath.Glob(root + "/boot/efi/EFI/*/shimx64.efi")
		if err != nil {
			return nil, err
		}
		for _, s := range shims {
			if g := filepath.Join(filepath.Dir(s), "gcdx64.efi"); isFile(g) {
				u.Name, u.Signed, u.Files = "shim and GRUB, signed", true, map[string]string{"BOOTX64.EFI": s, "grubx64.efi": g}
				return u, nil
			}
		}
		return nil, fmt.Errorf("cannot find a GRUB for UEFI media: looked for %s, %s with %s, /boot/efi/EFI/*/gcdx64.efi", unsigned, signed, shim)
	}
	// Debian's GRUB for the network has HTTP as a module only.
	if len(u.Net) > 0 && has(httpMod) {
		u.Net["grub/x86_64-efi/http.mod"] = root + httpMod
	}
	return u, nil
}

// FindMemtest looks for memtest86+ below root: its file for BIOS and for UEFI,
// "" for none.
func FindMemtest(root string) (bios, uefi string) {
	first := func(names ...string) string {
		i := slices.IndexFunc(names, func(n string) bool { return isFile(root + n) })
		if i < 0 {
			return ""
		}
		return root + names[i]
	}
	return first("/boot/memtest86+x64.bin", "/usr/lib/memtest86+/memtest86+x64.bin", "/boot/memtest86+.bin"), first("/boot/memtest86+x64.efi", "/usr/lib/memtest86+/memtest86+x64.efi")
}

// Signer gives who signed an EFI program, by the subject names in its
// certificate table, as far as they are readable text; "" when it is not
// signed. Section 5.9 of Microsoft's PE format.
func Signer(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	p, err := pe.NewFile(f)
	if err != nil {
		return "", nil // no EFI program, so not signed
	}
	o, ok := p.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || o.NumberOfRvaAndSizes <= pe.IMAGE_DIRECTORY_ENTRY_SECURITY {
		return "", nil
	}
	d := o.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_SECURITY]
	if d.Size < 8 || d.Size > 1<<20 {
		return "", nil
	}
	b := make([]byte, d.Size)
	if _, err := f.ReadAt(b, int64(d.VirtualAddress)); err != nil {
		return "", errors.New("its certificate table lies outside of the file")
	}
	if binary.LittleEndian.Uint16(b[6:]) != 2 { // PKCS#7
		return "unknown", nil
	}
	// commonName is 2.5.4.3: 06 03 55 04 03, then a string.
	name := "unknown"
	for i := 0; i+7 < len(b); i++ {
		if string(b[i:i+5]) == "\x06\x03\x55\x04\x03" {
			if n := int(b[i+6]); i+7+n <= len(b) && n < 0x80 {
				name = string(b[i+7 : i+7+n])
			}
		}
	}
	return name, nil
}
