package probe

import (
	"os"
	"path/filepath"
	"testing"
	"unicode/utf16"

	"github.com/mkcdrec/mkcdrec/internal/efivar"
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
	const loaderInfo = efivar.Dir + "/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
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

// grubAt writes the messages of GRUB's boot.img into a first sector.
func grubAt(t *testing.T, dev string) {
	t.Helper()
	f, err := os.OpenFile(dev, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("GRUB \x00Geom\x00Hard Disk\x00Read\x00 Error\r\n\x00"), 0x180); err != nil {
		t.Fatal(err)
	}
}

// TestNoLoader: a boot loader that a restore can't install is recorded at the backup.
func TestNoLoader(t *testing.T) {
	for name, c := range map[string]struct {
		boot layout.Boot
		grub bool // in the boot sector of vda2
		root string
		only []string
		want string
	}{
		"GRUB in the MBR":           {boot: layout.Boot{Firmware: layout.BIOS, Loader: layout.GRUB, Disks: []string{"vda"}}, grub: true},
		"GRUB in a partition":       {boot: layout.Boot{Firmware: layout.BIOS, Loader: layout.GRUB}, grub: true, want: "GRUB is in the boot sector of the partition vda2, where it can't be installed again"},
		"GRUB nowhere":              {boot: layout.Boot{Firmware: layout.BIOS, Loader: layout.GRUB}, want: "GRUB's configuration is there, but no disk has GRUB in its first sector"},
		"nothing on BIOS":           {boot: layout.Boot{Firmware: layout.BIOS}, want: "none of the boot loaders extlinux, grub, systemd-boot was found, and what starts this machine is not known"},
		"UEFI without an ESP":       {boot: layout.Boot{Firmware: layout.UEFI, Loader: layout.GRUB}, want: "no EFI system partition is mounted, and what starts this machine is not known"},
		"an ESP without a loader":   {boot: layout.Boot{Firmware: layout.UEFI, Loader: layout.GRUB, ESP: "vda1"}, want: "the EFI system partition vda1 has no boot loader"},
		"UEFI":                      {boot: layout.Boot{Firmware: layout.UEFI, Loader: layout.SystemdBoot, ESP: "vda1", ESPFiles: []string{"/EFI/BOOT/BOOTX64.EFI"}}},
		"a container":               {boot: layout.Boot{Firmware: layout.BIOS}, root: "/srv"},
		"one disk is looked at":     {boot: layout.Boot{Firmware: layout.BIOS}, only: []string{"vda"}},
		"an ESP, with noefi passed": {boot: layout.Boot{Firmware: layout.BIOS, Loader: layout.GRUB, Targets: []string{"x86_64-efi"}}},
	} {
		t.Run(name, func(t *testing.T) {
			m := Machine{Root: t.TempDir(), Only: c.only}
			if err := os.Mkdir(m.Root+"/dev", 0o755); err != nil {
				t.Fatal(err)
			}
			for _, dev := range []string{"vda", "vda1", "vda2"} {
				// The name alone is content like any other.
				text := append(make([]byte, 0x120), "GRUB and Geom"...)
				if err := os.WriteFile(m.Root+"/dev/"+dev, append(text, make([]byte, 4096)...), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if c.grub {
				grubAt(t, m.Root+"/dev/vda2")
			}
			root := c.root
			if root == "" {
				root = "/"
			}
			l := &layout.Layout{Boot: c.boot,
				Disks:       []layout.Disk{{Name: "vda", Table: &layout.Table{Label: layout.MBR, Partitions: []layout.Partition{{Number: 1, Device: "vda1"}, {Number: 2, Device: "vda2"}}}}},
				Filesystems: []layout.Filesystem{{Device: "vda2", Type: "ext4", Mounts: []layout.Mount{{Path: root}}}}}
			m.noLoader(l)
			got := ""
			for _, u := range l.Unsupported {
				if u.Device != "boot-loader" {
					t.Errorf("it can't be excluded by its name: %+v", u)
				}
				got += u.Reason
			}
			if got != c.want {
				t.Errorf("%q; want %q", got, c.want)
			}
		})
	}
}
