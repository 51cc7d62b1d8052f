package templates

import (
	"strings"
	"testing"
)

// TestMenus: every loader's menu has the entries, each with a key of its own,
// and the wanted default.
func TestMenus(t *testing.T) {
	m := Menu{Heading: "mkcdrec", Title: "host, it's a kernel", Append: "console=tty0 panic=60", Kernel: "/boot/vmlinuz", Initrd: "/boot/initrd.img", Serial: &Serial{1, 9600}, Timeout: 20, Default: "local", Boxed: true, Mark: "/.mk", Loaders: []string{"/EFI/debian/shimx64.efi"}, BIOSMemtest: "/boot/memtest.bin"}
	seen := map[string]string{}
	for _, e := range m.entries(true) {
		if old := seen[e.Key()]; old != "" {
			t.Errorf("entries %s and %s have the same key %s", old, e.ID, e.Key())
		}
		seen[e.Key()] = e.ID
		if len(e.Plain()) > 70 || len(e.Help) > 78 {
			t.Errorf("entry %s does not fit the screen", e.ID)
		}
	}
	for name, c := range map[string]struct {
		f    func(Menu) ([]byte, error)
		want []string
		not  []string
	}{
		"isolinux": {ISOLinux, []string{"UI menu.c32", "SERIAL 1 9600", "DEFAULT local", "TIMEOUT 200", "LOCALBOOT -1", "LABEL rescue", "console=ttyS1,9600", "nomodeset", "mkcdrec.check", "/boot/memtest.bin"}, nil},
		"grub":     {GRUB, []string{"--unit=1 --speed=9600", "set default=local", "set timeout=20", "--file /.mk", "--id rescue --hotkey=r", "/EFI/debian/shimx64.efi", `'host, it'"'"'s a kernel'`}, []string{"memtest"}},
		"ipxe":     {IPXE, []string{"--default local", "--key r rescue", "sanboot"}, []string{"memtest"}},
	} {
		b, err := c.f(m)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range c.want {
			if !strings.Contains(string(b), w) {
				t.Errorf("%s: no %q in\n%s", name, w, b)
			}
		}
		for _, w := range c.not {
			if strings.Contains(string(b), w) {
				t.Errorf("%s: %q should not be in\n%s", name, w, b)
			}
		}
	}
	m.Boxed, m.NoCheck = false, true
	if b, err := ISOLinux(m); err != nil || !strings.Contains(string(b), "PROMPT 1") || strings.Contains(string(b), "mkcdrec.check") {
		t.Errorf("isolinux without menu.c32: %v\n%s", err, b)
	}
}

// TestRestoreText: each kind of boot loader has its last step.
func TestRestoreText(t *testing.T) {
	for _, c := range []struct {
		h    ByHand
		want string
	}{
		{ByHand{Loader: []Shell{"grub-install --target=i386-pc /dev/sda"}}, "6. Install the boot loader:\n     grub-install --target=i386-pc /dev/sda\n\nSHA256SUMS"},
		{ByHand{Removable: "systemd-boot"}, "6. Install the boot loader:\n     Nothing to do: systemd-boot is among the files"},
		{ByHand{}, "6. Install the boot loader:\n     The boot loader is not known"},
	} {
		b, err := RestoreText(c.h)
		if err != nil || !strings.Contains(string(b), c.want) {
			t.Errorf("no %q in (%v)\n%s", c.want, err, b)
		}
	}
}
