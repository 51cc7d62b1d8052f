//go:build vmtest

package vmtest

import "testing"

// TestClone clones disks in the rescue system, boots what it made, without the source,
// and compares.
func TestClone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]Circle{
		"plain_smaller": {Kind: BIOSPlain, TargetSize: "3G", CloneSays: "/ is copied as files: it gets"},
		"lvm_same":      {Kind: UEFILVM, CloneSays: "copy the used blocks of vg0/root"},
		"lvm_larger":    {Kind: BIOSLVM, TargetSize: "12G", CloneSays: "grow xfs"},
		"luks_same":     {Kind: BIOSLUKS, CloneSays: "copy the used blocks"},
		"btrfs_same":    {Kind: UEFIBtrfs, CloneSays: "btrfs"},
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
