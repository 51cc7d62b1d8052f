package rescue

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/loaders"
	"github.com/mkcdrec/mkcdrec/internal/media"
)

// Loaders are the boot loaders for a medium, with where they are from.
type Loaders struct {
	BIOS         *media.BIOSLoader
	BIOSFrom     string
	BIOSErr      error
	UEFI         *media.UEFILoader
	UEFIFrom     string
	UEFIErr      error
	fromPackUEFI bool
	Stub         string // systemd's EFI stub, "" for none
}

// FindLoaders finds boot loaders: the machine's own, if they can do everything;
// otherwise those of the executable's loader pack, unpacked below work; otherwise the
// machine's unsigned ones. mark is a file that only this medium has. With net,
// they have to start from the network.
func FindLoaders(executable, work, mark string, net bool) Loaders {
	var s Loaders
	s.BIOS, s.BIOSErr = media.FindBIOS("")
	s.UEFI, s.UEFIErr = media.FindUEFI("", mark)
	if s.BIOS != nil {
		s.BIOSFrom = "this machine's " + s.BIOS.ISOLinux
	}
	if s.UEFI != nil {
		s.UEFIFrom = "this machine's " + s.UEFI.Name
	}
	s.Stub = media.FindStub("")
	// Without chain.c32 the local disk can't be tried before the rescue system.
	bios := s.BIOS != nil && s.BIOS.Chain && (!net || s.BIOS.PXELinux != "")
	uefi := s.UEFI != nil && s.UEFI.Signed && (!net || s.UEFI.Net["grub/x86_64-efi/http.mod"] != "" && s.Stub != "")
	if bios && uefi {
		return s
	}
	if err := s.fromPack(executable, filepath.Join(work, "loaders"), mark, bios, uefi); err != nil {
		if s.BIOS == nil {
			s.BIOSErr = errors.Join(s.BIOSErr, err)
		}
		if s.UEFI == nil {
			s.UEFIErr = errors.Join(s.UEFIErr, err)
		}
	}
	return s
}

// fromPack takes what is missing from the loader pack of an executable, unpacked into dir;
// bios and uefi tell what the machine's own loaders can do.
func (s *Loaders) fromPack(executable, dir, mark string, bios, uefi bool) error {
	p, err := loaders.Open(executable)
	if err == nil {
		err = p.Extract(dir)
	}
	if err != nil {
		return err
	}
	if !bios {
		if l, err := media.FindBIOS(dir); err == nil {
			s.BIOS, s.BIOSFrom, s.BIOSErr = l, "the loader pack's isolinux", nil
		}
	}
	if s.Stub == "" {
		s.Stub = media.FindStub(dir)
	}
	if !uefi {
		if u, err := media.FindUEFI(dir, mark); err == nil {
			s.UEFI, s.UEFIErr, s.fromPackUEFI = u, nil, true
			s.UEFIFrom = "the loader pack's " + u.Name + " (Debian's)"
		}
	}
	return nil
}

// SecureBoot checks whether a medium with these loaders and this kernel starts
// with Secure Boot on: "" if it does, otherwise why not.
func (s Loaders) SecureBoot(kernel string) string {
	if s.UEFI == nil {
		return "there is no UEFI loader"
	}
	signer, err := media.Signer(kernel)
	switch {
	case !s.UEFI.Signed:
		return "the UEFI loader (" + s.UEFIFrom + ") is not signed"
	case err != nil:
		return "the kernel's signature can't be read: " + err.Error()
	case signer == "":
		return "the kernel " + kernel + " is not signed"
	case s.fromPackUEFI && distribution() != "debian":
		return fmt.Sprintf("the loader pack's shim and GRUB are Debian's and start only kernels that Debian signed, and this one is signed by %q", signer)
	}
	return ""
}

// SecureBootRemedy is what helps against what SecureBoot returns.
const SecureBootRemedy = "install the distribution's signed loaders (Debian: shim-signed and grub-efi-amd64-signed) and its signed kernel; until then Secure Boot has to be switched off in the firmware to start the medium"

// distribution is the ID of os-release(5): "debian", "fedora"; "" if unknown.
func distribution() string {
	for _, f := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for _, l := range strings.Split(string(b), "\n") {
			if v, ok := strings.CutPrefix(l, "ID="); ok {
				return strings.Trim(v, `"'`)
			}
		}
	}
	return ""
}
