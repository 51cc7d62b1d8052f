package repair

import (
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// TestExpectedAt: what only a system with systemd-boot has recreated is a
// difference on every other one.
func TestExpectedAt(t *testing.T) {
	withGRUB, withOther := expectations(layout.GRUB), expectations(layout.SystemdBoot)
	for _, c := range []struct {
		path                string
		withGRUB, withOther bool // is it expected
	}{
		{"/boot/grub/grub.cfg", true, true},
		{"/boot/efi/EFI/debian/grubx64.efi", true, true},
		{"/etc/fstab", true, true},
		{"/etc/default/grub.d/.x.cfg.before-restore", true, true},
		{"/etc/initramfs-tools/conf.d/resume", true, true},
		{"/boot/loader/entries/a.conf", true, true},
		{"/etc/grub.d/40_custom", true, true},
		{"/etc/grub.d/42_other", false, false},
		{"/var/cache/debconf/config.dat", true, true},
		{"/var/cache/debconf/passwords.dat", false, false},
		{"/etc/systemd/system/local-fs.target.wants/srv.mount", true, true},
		{"/etc/systemd/system/x.service", false, false},
		{"/etc/netplan", true, true},
		{"/etc/passwd", false, false},
		{"/var/lib/mkcdrec/restored.json", true, true},
		{"/boot/mkcdrec-restored.json", true, true},
		{"/var/lib/mkcdrec/other", false, false},
		{"/boot/vmlinuz-6.1", false, false},
		{"/usr/lib/modules/6.1/modules.dep", false, true},
		{"/usr/lib/modules/6.1/kernel/fs/ext4.ko", false, false},
		{"/efi/loader/entries/a.conf", false, true},
		{"/boot/0123456789abcdef0123456789abcdef/6.1/initrd", false, true},
	} {
		grub, other := expectedAt(c.path, withGRUB), expectedAt(c.path, withOther)
		if (grub != "") != c.withGRUB || (other != "") != c.withOther {
			t.Errorf("%s: %q with GRUB, %q with systemd-boot", c.path, grub, other)
		}
	}
}
