package set

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// groupText is the metadata of example's group.
const groupText = `vg0 {
id = "abcdef-0123-4567-89ab-cdef-0123-456789"
extent_size = 8192
physical_volumes {
pv0 {
id = "abcdef-0123-4567-89ab-cdef-0123-456789"
pe_start = 2048
pe_count = 1279
}
}
logical_volumes {
root {
status = ["READ", "WRITE", "VISIBLE"]
segment_count = 1
segment1 {
start_extent = 0
extent_count = 768
type = "striped"
stripe_count = 1
stripes = ["pv0", 0]
}
}
}
}
`

// example is a machine with something of each kind: LVM on LUKS, a RAID array, btrfs with
// subvolumes, a partition that is saved block by block, swap on a device and in a file.
func example() (*layout.Layout, *manifest.Manifest) {
	const id, lvm = "11111111-2222-3333-4444-555555555555", "abcdef-0123-4567-89ab-cdef-0123-456789"
	const mib = quantity.MiB
	ext := fstype.Geometry{Ext: &fstype.Ext{BlockSize: 4096, InodeSize: 256, Inodes: 196608, Reserved: 15728, Features: []string{"has_journal", "extent", "64bit"}, MaxMounts: -1, Errors: 2}}
	disk := func(name string, size quantity.Size, parts ...layout.Partition) layout.Disk {
		return layout.Disk{Name: name, Model: "DISK", Serial: "S-" + name, Size: size, LogicalSector: 512, PhysicalSector: 512, Table: &layout.Table{Label: layout.GPT, GUID: id, Partitions: parts}}
	}
	part := func(dev string, n int, start, size quantity.Size, typ string) layout.Partition {
		return layout.Partition{Number: n, Device: dev, Start: start, Size: size, Type: typ, GUID: id, Name: dev}
	}
	const linux, raid = "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "A19D880F-05FC-4D3B-A006-743F0F84911E"
	l := &layout.Layout{Version: layout.Version, Hostname: "host", Boot: layout.Boot{Firmware: layout.BIOS, Loader: layout.GRUB, Disks: []string{"sda"}},
		Disks: []layout.Disk{disk("sda", 8<<30, part("sda1", 1, mib, mib, layout.TypeBIOSBoot), part("sda2", 2, 2*mib, 512*mib, linux), part("sda3", 3, 514*mib, 6<<30, linux), part("sda4", 4, 6658*mib, 256*mib, linux)),
			disk("nvme0n1", 4<<30, part("nvme0n1p1", 1, mib, 2<<30, raid), part("nvme0n1p2", 2, 2049*mib, 1<<30, linux)), disk("sdb", 4<<30, part("sdb1", 1, mib, 2<<30, raid))},
		Crypts:      []layout.Crypt{{Name: "locked", Device: "sda3", UUID: id, Label: "a label", LUKS: &superblock.LUKS{Version: 2, Cipher: "aes-xts-plain64", Hash: "sha256", KeySize: 512, SectorSize: 4096, Offset: 16 << 20}}},
		VolumeGroup: []layout.VolumeGroup{{Name: "vg0", UUID: lvm, ExtentSize: 4 << 20, PVs: []layout.PhysicalVolume{{Device: "mapper/locked", UUID: lvm, Size: 5 << 30}}, LVs: []layout.LogicalVolume{{Name: "root", UUID: lvm, Size: 3 << 30}}, Config: groupText}},
		Arrays:      []layout.Array{{Name: "md0", Label: "host:0", UUID: "1:2:3:4", Level: "raid1", Metadata: "1.2", Devices: 2, Members: []layout.Member{{Device: "nvme0n1p1", Role: 0}, {Device: "sdb1", Role: 1}}, Data: mib, Part: 2047 * mib, Size: 2047 * mib}},
		Images:      []layout.Image{{Device: "sda4", Type: "ntfs", Size: 256 * mib, File: "sda4.img.zst"}},
		Swap:        []layout.Swap{{Device: "nvme0n1p2", UUID: id, Label: "swap", Size: 1 << 30, Active: true}},
		SwapFiles:   []layout.SwapFile{{Path: "/x/swap", Mount: "/", Size: 64 * mib, UUID: id}},
		Filesystems: []layout.Filesystem{{Device: "sda2", Type: fstype.TypeExt4, UUID: id, Label: "boot", Size: 512 * mib, Mounts: []layout.Mount{{Path: "/boot"}}, Geometry: ext},
			{Device: "vg0/root", Type: fstype.TypeExt4, UUID: id, Size: 3 << 30, Mounts: []layout.Mount{{Path: "/"}}, Geometry: ext},
			{Device: "md0", Type: fstype.TypeBtrfs, UUID: id, Size: 2047 * mib, Mounts: []layout.Mount{{Path: "/srv", Subvolume: "data"}}, Geometry: fstype.Geometry{Btrfs: &fstype.Btrfs{NodeSize: 16384, SectorSize: 4096, Checksum: "crc32c", Devices: 1}}, Subvolumes: []layout.Subvolume{{Path: "data", Default: true}, {Path: "old", ReadOnly: true}}}}}
	m := &manifest.Manifest{Version: manifest.Version, ID: id, Host: "host", Created: time.Unix(1_700_000_000, 0).UTC(), NotCovered: []string{"/odd: not supported"}, Archives: []manifest.Archive{
		{File: "vg0-root._.tar.zst", Device: "vg0/root", Type: fstype.TypeExt4, Mount: "/"}, {File: "sda2._boot.tar.zst", Device: "sda2", Type: fstype.TypeExt4, Mount: "/boot"}, {File: "md0._srv.tar.zst", Device: "md0", Type: fstype.TypeBtrfs, Mount: "/srv"}}}
	return l, m
}

// TestByHandGolden compares RESTORE.txt and restore.sh with what they were; run with
// -update after a change that is meant.
func TestByHandGolden(t *testing.T) {
	l, m := example()
	files, err := byHand(l, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"RESTORE.txt", "restore.sh"} {
		golden := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(golden, files[name], 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(golden); err != nil || string(want) != string(files[name]) {
			t.Errorf("%s = %s; want what is in %s (%v)", name, files[name], golden, err)
		}
	}
	if got := runByHand(t, files["restore.sh"], 3); len(got["pvcreate"]) != 1 || len(got["vgcfgrestore"]) != 1 || len(got["cryptsetup"]) != 2 || len(got["mdadm"]) != 1 {
		t.Errorf("restore.sh ran %q; want each device made once", got)
	}
	// What tar can't restore is reported, and the machine gets its boot loader.
	out, got, err := runFailing(t, files["restore.sh"], 3, "tar")
	var code *exec.ExitError
	if !errors.As(err, &code) || code.ExitCode() != 3 || len(got["chroot"]) != 1 || !strings.Contains(out, "NOT restored completely, see above: vg0-root._.tar.zst") {
		t.Errorf("restore.sh where tar fails: %v, chroot %q; want status 3 and the boot loader\n%s", err, got["chroot"], out)
	}
	if _, got, err := runFailing(t, files["restore.sh"], 3, "mount"); err == nil || len(got["tar"]) > 0 {
		t.Errorf("restore.sh where mount fails: %v, tar %q; want that it ends", err, got["tar"])
	}
}
