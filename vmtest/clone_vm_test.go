//go:build vmtest

package vmtest

import (
	"strings"
	"testing"
)

// TestClone clones disks in the rescue system, boots what it made, without the source,
// and compares.
func TestClone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]Circle{
		"plain_smaller": {Kind: BIOSPlain, TargetSize: "3G", CloneSays: "/ is copied as files: it gets"},
		"lvm_same":      {Kind: UEFILVM, CloneSays: "copy the used blocks of vg0/root"},
		"lvm_larger":    {Kind: BIOSLVM, TargetSize: "12G", CloneSays: "grow xfs"},
		"lvm_renewed": {Kind: BIOSLVM, Renewed: true, CloneWith: "--identity new --hostname lab-01", CloneSays: "vg0_2", Wished: strings.Join([]string{
			"test $(hostname) = lab-01 && grep lab-01 /etc/hosts && ! grep " + BIOSLVM + " /etc/hosts",
			"findmnt -n -o SOURCE / | grep vg0_2 && findmnt -n -o SOURCE /home | grep vg0_2 && vgs --noheadings -o vg_name | sort | xargs | grep -x 'vg0 vg0_2'",
			"test -z \"$(blkid -s UUID -o value | sort | uniq -d)\" && test -z \"$(blkid -s PTUUID -o value | sort | uniq -d)\"",
			"! grep -r -e $(blkid -s UUID -o value /dev/vg0/root) -e $(blkid -s UUID -o value /dev/vg0/home) /etc/fstab /boot/grub/grub.cfg",
			"swapon --show --noheadings | grep .",
			"ls /etc/ssh/ssh_host_* 2>/dev/null; grep -v 0000 /etc/machine-id",
		}, " && ")},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "plain_smaller" {
				long(t)
			}
			c.Cloned = true
			runCircle(t, c)
		})
	}
}
