package rescue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/efivar"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/kernelcfg"
	"github.com/mkcdrec/mkcdrec/templates"
)

// efiLoaders are the loaders of installed systems, by their paths in an ESP;
// the machine's own comes first.
var efiLoaders = []string{"/EFI/debian/shimx64.efi", "/EFI/ubuntu/shimx64.efi", "/EFI/fedora/shimx64.efi", "/EFI/redhat/shimx64.efi", "/EFI/centos/shimx64.efi", "/EFI/rocky/shimx64.efi", "/EFI/almalinux/shimx64.efi", "/EFI/opensuse/shim.efi", "/EFI/sles/shim.efi",
	"/EFI/debian/grubx64.efi", "/EFI/ubuntu/grubx64.efi", "/EFI/fedora/grubx64.efi", "/EFI/arch/grubx64.efi", "/EFI/GRUB/grubx64.efi", "/EFI/systemd/systemd-bootx64.efi", "/EFI/Microsoft/Boot/bootmgfw.efi"}

// MenuTimeout is after how many seconds the menu starts its default entry.
const MenuTimeout = 20

// menu is what the boot menus of any medium have in common.
func (s *System) menu() (templates.Menu, error) {
	b, p, info := s.by, s.machine, s.Info
	line, left, err := b.Config.Cmdline(p.Layout)
	if err != nil {
		return templates.Menu{}, err
	}
	for _, l := range left {
		b.Report.Warn("%s", l)
	}
	m := templates.Menu{Heading: "mkcdrec rescue medium for " + info.Host, Title: fmt.Sprintf("%s, kernel %s, made %s", info.Host, info.Kernel, info.Created.Format("2006-01-02 15:04 UTC")),
		Append: line + " mkcdrec.medium=" + info.MediumID, Kernel: "/boot/vmlinuz", Initrd: "/boot/initrd.img", Serial: serial(p.Layout.Kernel.Consoles), Timeout: MenuTimeout, Default: b.Config.Default}
	for _, e := range p.Layout.Boot.NVRAM {
		if l := strings.ReplaceAll(e.Path, `\`, "/"); e.Active && strings.HasPrefix(strings.ToUpper(l), "/EFI/") && templates.LoaderWord(l) == nil && !strings.Contains(l, " ") && !strings.Contains(strings.ToUpper(l), "/EFI/BOOT/") {
			m.Loaders = append(m.Loaders, l)
		}
	}
	m.Loaders = append(m.Loaders, efiLoaders...)
	if m.Serial == nil {
		m.Serial = &templates.Serial{Port: 0, Speed: 115200}
	}
	if m.Default == "" {
		m.Default = "local"
		if strings.Contains(m.Append, "mkcdrec.auto=") {
			m.Default = "rescue"
		}
	}
	return m, nil
}

// Image writes the ISO image. extra, if not nil, adds to it.
func (s *System) Image(ctx context.Context, iso string, extra func(*media.ISO)) error {
	img, err := s.image()
	if err != nil {
		return err
	}
	if err := s.extraTree(ctx, img); err != nil {
		return err
	}
	if extra != nil {
		extra(img)
	}
	if err := img.Write(iso); err != nil {
		return err
	}
	return s.by.private(iso)
}

// image is what the ISO image has, without the second system.
func (s *System) image() (*media.ISO, error) {
	b, p, info := s.by, s.machine, s.Info
	mark := "/" + rescue.ISOMark + "-" + info.MediumID
	l := FindLoaders(b.Executable, filepath.Dir(s.Initrd), mark, false)
	max, err := b.Config.Size()
	if err != nil {
		return nil, err
	}
	img := &media.ISO{Label: rescue.VolumeLabel, Files: map[string]string{"boot/vmlinuz": s.Kernel.Image, "boot/initrd.img": s.Initrd}, Content: map[string][]byte{}, BIOS: l.BIOS, UEFI: l.UEFI, Time: info.Created, Max: max}
	if s.comfort != "" {
		img.Files[initramfs.ComfortFile] = s.comfort
	}
	if err := b.starts(p, s.Kernel, l); err != nil {
		return nil, err
	}
	m, err := s.menu()
	if err != nil {
		return nil, err
	}
	m.Boxed = l.BIOS != nil && len(l.BIOS.Modules) > 0
	m.Mark = mark
	if l.BIOS != nil && l.BIOS.Chain {
		m.Chain = chain(p.Layout)
		m.NoLocal = m.Chain == ""
		m.LocalConfig = "/isolinux/local.cfg"
	}
	addMemtest(img, &m)
	addIDs(img)
	cfg, err := templates.ISOLinux(m)
	if err != nil {
		return nil, err
	}
	grub, err := templates.GRUB(m)
	if err != nil {
		return nil, err
	}
	img.Content[rescue.ISOMark] = []byte(info.MediumID + "\n")
	img.Content[mark] = []byte(m.Title + "\n")
	img.Content[".disk/info"] = []byte(m.Heading + ", " + m.Title + "\n")
	if img.BIOS != nil {
		img.Content["isolinux/isolinux.cfg"] = cfg
		if m.Chain != "" {
			if img.Content["isolinux/local.cfg"], err = templates.SyslinuxLocal(m); err != nil {
				return nil, err
			}
		}
	}
	img.Content["boot/grub/grub.cfg"] = grub
	b.Report.Note("loaders: BIOS %s, UEFI %s", l.BIOSFrom, l.UEFIFrom)
	return img, nil
}

// addIDs puts the names of devices for lspci and lsusb onto the medium, if this machine has
// them: 2 MB that are not in memory.
func addIDs(img *media.ISO) {
	for _, n := range []string{"pci.ids", "usb.ids"} {
		for _, d := range []string{"/usr/share/misc/", "/usr/share/hwdata/", "/var/lib/usbutils/"} {
			if st, err := os.Stat(d + n); err == nil && st.Mode().IsRegular() {
				img.Files["boot/"+n] = d + n
				break
			}
		}
	}
}

// addMemtest puts memtest86+ onto the medium, if this machine has it.
func addMemtest(img *media.ISO, m *templates.Menu) {
	bios, uefi := media.FindMemtest("")
	if bios != "" {
		img.Files["boot/memtest.bin"], m.BIOSMemtest = bios, "/boot/memtest.bin"
	}
	if uefi != "" {
		img.Files["boot/memtest.efi"], m.UEFIMemtest = uefi, "/boot/memtest.efi"
	}
}

// starts warns of machines that a medium with these loaders does not start on. That it
// does not start on this one is an error.
func (b *Maker) starts(p *Machine, k *kernelcfg.Kernel, l Loaders) error {
	if l.BIOS == nil {
		b.Report.Warn("the medium will not start on BIOS machines: %v", l.BIOSErr)
	}
	if l.UEFI == nil {
		b.Report.Warn("the medium will not start on UEFI machines: %v", l.UEFIErr)
	}
	if p.Layout.Boot.Firmware == "bios" && l.BIOS == nil || p.Layout.Boot.Firmware == "uefi" && l.UEFI == nil {
		return fmt.Errorf("cannot make a medium that starts on this machine (%s): %w", p.Layout.Boot.Firmware, errors.Join(l.BIOSErr, l.UEFIErr))
	}
	if why := l.SecureBoot(k.Image); l.UEFI != nil && why != "" {
		if efivar.SecureBoot(efivar.Dir) {
			b.Report.Warn("the medium will not start on this machine while Secure Boot is on: %s; %s", why, SecureBootRemedy)
		} else {
			b.Report.Note("not for Secure Boot: %s", why)
		}
	}
	return nil
}

// private gives a file to its owner alone, and warns where the file system has no
// permissions, as on a stick with FAT.
func (b *Maker) private(file string) error {
	if err := os.Chmod(file, 0o600); err != nil {
		return err
	}
	st, err := os.Stat(file)
	if err != nil {
		return err
	}
	if w := set.Readable(file, st.Mode()); w != "" {
		b.Report.Warn("%s", w)
	}
	return nil
}

// chain names the disk that a BIOS machine starts from, as chain.c32 finds it
// again: by the id of its partition table.
func chain(l *layout.Layout) string {
	for _, d := range l.Boot.Disks {
		i := slices.IndexFunc(l.Disks, func(x layout.Disk) bool { return x.Name == d })
		if i < 0 || l.Disks[i].Table == nil {
			continue
		}
		switch t := l.Disks[i].Table; {
		case t.GUID != "":
			return "guid=" + t.GUID
		case t.Signature != "":
			return "mbr=" + t.Signature
		}
	}
	return ""
}

// serial reads the last serial console, "ttyS0,115200n8".
func serial(consoles []string) *templates.Serial {
	for _, c := range slices.Backward(consoles) {
		rest, ok := strings.CutPrefix(c, "ttyS")
		if !ok {
			continue
		}
		port, opts, _ := strings.Cut(rest, ",")
		n, err := strconv.Atoi(port)
		if err != nil || n < 0 || n > 3 {
			continue
		}
		digits := opts
		if i := strings.IndexFunc(opts, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
			digits = opts[:i]
		}
		speed, err := strconv.Atoi(digits)
		if err != nil || speed < 300 {
			speed = 115200
		}
		return &templates.Serial{Port: n, Speed: speed}
	}
	return nil
}
