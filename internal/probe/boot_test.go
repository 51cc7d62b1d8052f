package probe

import (
	"os"
	"path/filepath"
	"testing"
	"unicode/utf16"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// TestBootLoader: the loader that started the machine is known by what it left in
// the firmware; where it left nothing, by what is installed.
func TestBootLoader(t *testing.T) {
	info := func(name string) string {
		b := "\x06\x00\x00\x00"
		for _, c := range utf16.Encode([]rune(name + "\x00")) {
			b += string([]byte{byte(c), byte(c >> 8)})
		}
		return b
	}
	const sd, grub = "boot/efi/EFI/systemd/systemd-bootx64.efi", "boot/grub/grub.cfg"
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"GRUB":                              {map[string]string{grub: "", "boot/efi/EFI/debian/grubx64.efi": ""}, layout.GRUB},
		"systemd-boot":                      {map[string]string{sd: "", loaderInfo: info("systemd-boot 252.39-1~deb12u1")}, layout.SystemdBoot},
		"systemd-boot, GRUB there too":      {map[string]string{sd: "", grub: "", loaderInfo: info("systemd-boot 257")}, layout.SystemdBoot},
		"GRUB, systemd-boot there too":      {map[string]string{sd: "", grub: "", loaderInfo: info("GRUB 2.12")}, layout.GRUB},
		"systemd-boot, which left no name":  {map[string]string{sd: ""}, layout.SystemdBoot},
		"both, and none left its name":      {map[string]string{sd: "", grub: ""}, layout.GRUB},
		"neither":                           {map[string]string{"boot/efi/EFI/BOOT/BOOTX64.EFI": ""}, ""},
		"a variable that is cut off":        {map[string]string{"boot/efi/x": "", loaderInfo: "\x06\x00"}, ""},
		"a name that does not end, and odd": {map[string]string{sd: "", loaderInfo: info("systemd-boot")[:20] + "x"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := Machine{Root: t.TempDir()}
			c.files["sys/firmware/efi/fw_platform_size"] = "64"
			for f, text := range c.files {
				f = filepath.Join(m.Root, f)
				if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			l := &layout.Layout{
				Disks:       []layout.Disk{{Name: "vda", Table: &layout.Table{Label: layout.GPT, Partitions: []layout.Partition{{Number: 1, Device: "vda1", Type: layout.TypeESP}}}}},
				Filesystems: []layout.Filesystem{{Device: "vda1", Type: "vfat", Mounts: []layout.Mount{{Path: "/boot/efi"}}}},
			}
			m.boot(l)
			if l.Boot.Loader != c.want || l.Boot.ESP != "vda1" || l.Boot.Firmware != layout.UEFI {
				t.Errorf("%+v; want loader %q", l.Boot, c.want)
			}
		})
	}
}
