//go:build vmtest

package vmtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestClone clones disks in the rescue system, boots what it made, without the source,
// and compares. docs/CLONING.md has the table.
func TestClone(t *testing.T) {
	t.Parallel()
	const blocks = "copy the used blocks of "
	unique := `test -z "$(blkid -s UUID -o value | sort | uniq -d)" && test -z "$(blkid -s PTUUID -o value | sort | uniq -d)"`
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
		"luks_same":     {Kind: UEFILUKS, Before: linearVolumes, CloneSays: blocks + "vg0/root"},
		"luks_smaller":  {Kind: BIOSLUKS, Before: linearVolumes, TargetSize: machines[BIOSLUKS].smaller, CloneSays: "/ is copied as files: it gets"},
		"luks_larger":   {Kind: BIOSLUKS, Before: linearVolumes, TargetSize: machines[BIOSLUKS].larger, CloneSays: "grow ext4 on /dev/vg0/root"},
		"luks_4kn":      {Kind: UEFILUKS, Before: largeBlocks, TargetSize: machines[UEFILUKS].larger, TargetSector: 4096, CloneSays: "/home is copied as files: the target has larger sectors", Wished: sectors},
		"btrfs_same":    {Kind: UEFIBtrfs, Before: oneDevice, CloneSays: blocks},
		"btrfs_larger":  {Kind: BIOSBtrfs, Before: oneDevice, TargetSize: machines[BIOSBtrfs].larger, CloneSays: "grow btrfs"},
		"btrfs_smaller": {Kind: BIOSBtrfs, Before: oneDevice, TargetSize: machines[BIOSBtrfs].smaller, Renewed: true, CloneRefused: "it gets .* use --identity new", CloneWith: "--identity new", CloneSays: "/ is copied as files", Wished: unique},
		"btrfs_4kn":     {Kind: UEFIBtrfs, Before: oneDevice, TargetSize: machines[UEFIBtrfs].larger, TargetSector: 4096, CloneSays: "grow btrfs", Wished: sectors},
		"btrfs_raid1": {Kind: BIOSBtrfs, Renewed: true, CloneRefused: "it is on several devices.* use --identity new", CloneWith: "--identity new", CloneSays: "/ is copied as files",
			Wished: "btrfs filesystem show / | grep -c devid | grep -x 2 && blkid -t TYPE=btrfs -s UUID -o value | sort | uniq -c | grep -c ' 2 ' | grep -x 2"},
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
			if name != "plain_smaller" {
				long(t)
			}
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

// TestCloneNTFS clones a data disk with an NTFS onto disks of other sizes. Where it does not
// fit, or the sectors are larger, that is refused, and the disk is not touched.
func TestCloneNTFS(t *testing.T) {
	long(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	dir := workDir(t)
	iso := filepath.Join(dir, "rescue.iso")
	rescueISO(ctx, t, "linux-image-cloud-amd64", iso, "--append", consoles)
	files := map[string][]byte{"one": make([]byte, 1234567), "two": make([]byte, 5000000), "empty": nil, "zero": make([]byte, 300000)}
	for _, name := range []string{"one", "two"} {
		rand.Read(files[name])
	}
	source := filepath.Join(dir, "source.img")
	if err := ntfsDisk(ctx, source, files); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	m := Machine{Name: "clone-ntfs", Memory: 768, Log: filepath.Join(dir, "clone.log"), CDROM: iso, Disks: []Disk{{File: source, Serial: "NTFSSOURCE"}}}
	file := func(serial string) string { return filepath.Join(dir, serial+".img") }
	for _, d := range ntfsTargets {
		if err := command(ctx, "truncate", "-s", d.size, file(d.serial)); err != nil {
			t.Fatal(err)
		}
		m.Disks = append(m.Disks, Disk{File: file(d.serial), Serial: d.serial, Sector: d.sector})
	}
	vm, err := Start(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	if err := vm.Menu("r", bootLimit); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Expect(`rescue system ready(?s:.*)# `, bootLimit); err != nil {
		t.Fatal(err)
	}
	for _, d := range ntfsTargets {
		words := "clonedsk /dev/" + diskNames(m.Disks[:1]) + " " + diskNames([]Disk{{Serial: d.serial}}) + " --yes --confirm " + d.serial + " 2>&1"
		want := `copy the used blocks of vd.1`
		if d.refused != "" {
			words, want = words+"; test $? = 4", d.refused
		}
		if err := says(vm, want, words); err != nil {
			t.Errorf("%s: %v", d.serial, err)
		}
	}
	if err := vm.Send("poweroff\n"); err != nil {
		t.Fatal(err)
	}
	if err := vm.Wait(bootLimit); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(source); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the source was changed: %v", err)
	}
	for _, d := range ntfsTargets {
		if d.refused == "" {
			if err := checkNTFS(ctx, file(d.serial), files); err != nil {
				t.Error(err)
			}
		} else if b, err := os.ReadFile(file(d.serial)); err != nil || bytes.Count(b, []byte{0}) < len(b) {
			t.Errorf("%s was refused, and written to: %v", d.serial, err)
		}
	}
}
