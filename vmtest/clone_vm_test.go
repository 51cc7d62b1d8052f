//go:build vmtest

package vmtest

import (
	"strings"
	"testing"
)

// What Before does to machines of some kinds, so that their disks can be cloned.
const (
	// linearVolumes puts plain volumes in the place of thin ones, which clonedsk refuses.
	linearVolumes = "umount /home /srv && lvremove -q -y vg0/home vg0/srv vg0/pool && lvcreate -q -y -W n -L 700m -n home vg0 && lvcreate -q -y -W n -L 500m -n srv vg0 && " +
		"mkfs.xfs -q -f -L home /dev/vg0/home && mkfs.ext4 -q -F -b 4096 -L srv /dev/vg0/srv && udevadm settle && systemctl daemon-reload && mount -a && findmnt /home && findmnt /srv"
	// largeBlocks gives the small file systems of such a machine blocks of 4 KiB: those of
	// 1 KiB can't be on a disk with larger sectors.
	largeBlocks = linearVolumes + " && cp -ax /boot /data /root/ && umount /boot/efi /boot /data && mkfs.ext4 -q -F -b 4096 -L boot -U $(blkid -s UUID -o value ${A}2) ${A}2 && mkfs.ext4 -q -F -b 4096 -L data /dev/mapper/data && " +
		"udevadm settle && mount /boot && mkdir /boot/efi && mount -a && cp -ax /root/boot/. /boot/ && cp -ax /root/data/. /data/ && rm -r /root/boot /root/data && findmnt /boot/efi && findmnt /data"
	// linearMirrors puts plain volumes in the place of mirrored ones, which clonedsk refuses.
	linearMirrors = "umount /srv/mirror /srv/oldmirror && lvremove -q -y vg1/mirror vg1/oldmirror && lvcreate -q -y -W n -L 100m -n mirror vg1 && lvcreate -q -y -W n -L 40m -n oldmirror vg1 && " +
		"mkfs.ext4 -q -F -L mirror /dev/vg1/mirror && mkfs.ext4 -q -F -L oldmirror /dev/vg1/oldmirror && udevadm settle && systemctl daemon-reload && mount -a && findmnt /srv/mirror && findmnt /srv/oldmirror"
	// oneDevice has / on the first disk only, and removes its partition on the second.
	oneDevice = "btrfs balance start -f -dconvert=single -mconvert=dup / && btrfs device remove ${B}2 / && sfdisk -q --no-reread --no-tell-kernel --delete $B 2 && partx -d --nr 2 $B; udevadm settle; test ! -e ${B}2 && btrfs filesystem show / && btrfs filesystem show / | grep -c devid | grep -x 1"
	// noWindows removes the NTFS, which can't be on a disk with larger sectors.
	noWindows = "wipefs -q -a ${A}4 && sfdisk -q --no-reread --no-tell-kernel --delete $A 4 && partx -d --nr 4 $A; udevadm settle; test ! -e ${A}4 && sfdisk -d $A"
)

// TestClone clones disks in the rescue system, boots what it made, without the source,
// and compares. docs/CLONING.md has the table.
func TestClone(t *testing.T) {
	long(t)
	const blocks = "copy the used blocks of "
	unique := `test -z "$(blkid -s UUID -o value | sort | uniq -d)" && test -z "$(blkid -s PTUUID -o value | sort | uniq -d)"`
	// The source is not attached: each of its two btrfs is on two devices.
	pairs := "btrfs filesystem show / | grep -c devid | grep -x 2 && blkid -t TYPE=btrfs -s UUID -o value | sort | uniq -c | grep -c ' 2 ' | grep -x 2"
	// On LUKS with sectors of 4096 bytes XFS has such sectors, too: its blocks can be copied.
	sectors := "blockdev --getss /dev/vda | grep -x 4096"
	for name, c := range map[string]Circle{
		"plain_smaller": {Kind: BIOSPlain, TargetSize: "3G", CloneSays: "/ is copied as files: it gets"},
		"plain_same":    {Kind: UEFIPlain, CloneSays: blocks + "vd.4"},
		"plain_larger":  {Kind: BIOSPlain, TargetSize: machines[BIOSPlain].larger, CloneSays: "grow ext4"},
		"plain_4kn":     {Kind: UEFIPlain, Before: noWindows, TargetSize: machines[UEFIPlain].larger, TargetSector: 4096, CloneSays: blocks + "vd.2(?s:.*)grow ext4", Wished: sectors},
		"lvm_same":      {Kind: UEFILVM, CloneSays: blocks + "vg0/root"},
		"lvm_smaller":   {Kind: BIOSLVM, TargetSize: machines[BIOSLVM].smaller, CloneSays: "/home is copied as files: it gets"},
		"lvm_larger":    {Kind: BIOSLVM, TargetSize: machines[BIOSLVM].larger, CloneSays: "grow xfs"},
		"lvm_4kn":       {Kind: UEFILVM, TargetSize: machines[UEFILVM].larger, TargetSector: 4096, CloneSays: "/home is copied as files: the target has larger sectors", Wished: sectors},
		"luks_same":     {Kind: BIOSLUKS, Before: linearVolumes, CloneSays: blocks + "vg0/root"},
		"luks_smaller":  {Kind: BIOSLUKS, Before: linearVolumes, TargetSize: machines[BIOSLUKS].smaller, CloneSays: "/ is copied as files: it gets"},
		"luks_larger":   {Kind: BIOSLUKS, Before: linearVolumes, TargetSize: machines[BIOSLUKS].larger, CloneSays: "grow ext4 on /dev/vg0/root"},
		"luks_4kn":      {Kind: UEFILUKS, Before: largeBlocks, TargetSize: machines[UEFILUKS].larger, TargetSector: 4096, CloneSays: blocks + "vg0/home", Wished: sectors},
		"btrfs_same":    {Kind: UEFIBtrfs, Before: oneDevice, CloneSays: blocks},
		"btrfs_larger":  {Kind: BIOSBtrfs, Before: oneDevice, TargetSize: machines[BIOSBtrfs].larger, CloneSays: "grow btrfs"},
		"btrfs_smaller": {Kind: BIOSBtrfs, Before: oneDevice, TargetSize: machines[BIOSBtrfs].smaller, Renewed: true, CloneRefused: "it gets .* use --identity new", CloneWith: "--identity new", CloneSays: "/ is copied as files", Wished: unique},
		"btrfs_4kn":     {Kind: UEFIBtrfs, Before: oneDevice, TargetSize: machines[UEFIBtrfs].larger, TargetSector: 4096, CloneSays: "grow btrfs", Wished: sectors},
		"btrfs_raid1": {Kind: BIOSBtrfs, Renewed: true, CloneRefused: "it is on several devices.* use --identity new", CloneWith: "--identity new", CloneSays: "/ is copied as files",
			Wished: pairs},
		"md_same":    {Kind: BIOSMD, Before: linearMirrors, CloneSays: blocks + "md"},
		"md_larger":  {Kind: BIOSMD, Before: linearMirrors, TargetSize: machines[BIOSMD].larger, CloneSays: blocks + "md"},
		"plain_live": {Kind: BIOSPlain, Live: true, CloneWith: "--live --freeze", CloneSays: "/ is frozen while it is copied"},
		"lvm_live":   {Kind: UEFILVM, Live: true, Renewed: true, CloneWith: "--live --identity new", CloneSays: "/ is copied as files: it gets a new UUID; they are read from a snapshot of its volume"},
		"btrfs_live": {Kind: BIOSBtrfs, Live: true, Renewed: true, CloneWith: "--live --identity new", CloneSays: "they are read from a snapshot of its subvolumes", Wished: pairs},
		"lvm_renewed": {Kind: BIOSLVM, Renewed: true, CloneWith: "--identity new --hostname lab-01", CloneSays: "vg0_2", Wished: strings.Join([]string{
			"test $(hostname) = lab-01 && grep lab-01 /etc/hosts && ! grep " + BIOSLVM + " /etc/hosts",
			"findmnt -n -o SOURCE / | grep vg0_2 && findmnt -n -o SOURCE /home | grep vg0_2 && vgs --noheadings -o vg_name | sort | xargs | grep -x 'vg0 vg0_2'",
			unique,
			"! grep -r -e $(blkid -s UUID -o value /dev/vg0/root) -e $(blkid -s UUID -o value /dev/vg0/home) /etc/fstab /boot/grub/grub.cfg",
			"swapon --show --noheadings | grep .",
			"ls /etc/ssh/ssh_host_* 2>/dev/null; grep -v 0000 /etc/machine-id",
		}, " && ")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.Cloned = true
			runCircle(t, c)
		})
	}
}

// TestClonezilla restores an image directory, which partclone's programs made of a disk that
// boots, with clonedsk, boots it and compares.
func TestClonezilla(t *testing.T) {
	long(t)
	runCircle(t, Circle{Kind: BIOSPlain, Cloned: true, Clonezilla: true, CloneSays: "Image of Clonezilla in"})
}
