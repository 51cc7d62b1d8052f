package bootloader

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// restored makes a tree that starts, with its disk behind two drivers.
func restored(t *testing.T) (*System, string) {
	t.Helper()
	root, sys := t.TempDir(), t.TempDir()
	script := `cd "$1"
mkdir -p etc boot/grub boot/efi/EFI/BOOT usr/lib/modules/6.1.0-9-amd64 tree/usr/lib/modules/6.1.0-9-amd64
printf 'UUID=22-BB / ext4 defaults 0 1\nUUID=11-AA /boot/efi vfat defaults 0 1\n/dev/sdz1 /usb auto noauto 0 0\n/dev/sdy1 /gone ext4 nofail 0 0\n' > etc/fstab
printf 'menuentry x {\n\tsearch --fs-uuid --set=root 22-bb22-bb\n\tlinux /boot/vmlinuz-6.1.0-9-amd64 root=/dev/mapper/vg--0-root ro\n\tinitrd /boot/initrd.img-6.1.0-9-amd64\n}\n' > boot/grub/grub.cfg
echo kernel/drivers/virtio/virtio_pci.ko > usr/lib/modules/6.1.0-9-amd64/modules.builtin
: > boot/efi/EFI/BOOT/BOOTX64.EFI
: > tree/usr/lib/modules/6.1.0-9-amd64/virtio-blk.ko; : > tree/usr/lib/modules/6.1.0-9-amd64/dm-mod.ko.xz; : > tree/usr/lib/modules/6.1.0-9-amd64/ext4.ko; : > tree/init
(cd tree && find . | cpio -o -H newc 2>/dev/null | gzip) > boot/initrd.img-6.1.0-9-amd64
cd "$2"
mkdir -p devices/pci0/0000:00:05.0/virtio2/block/vdb block module/virtio_blk module/virtio_pci bus/d1 bus/d2
ln -s ../devices/pci0/0000:00:05.0/virtio2/block/vdb block/vdb
ln -s "$2/bus/d1" devices/pci0/0000:00:05.0/driver; ln -s "$2/module/virtio_pci" bus/d1/module
ln -s "$2/bus/d2" devices/pci0/0000:00:05.0/virtio2/driver; ln -s "$2/module/virtio_blk" bus/d2/module`
	if out, err := exec.Command("sh", "-ec", script, "sh", root, sys).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	l := &layout.Layout{
		Disks:       []layout.Disk{{Name: "vda", Table: &layout.Table{Partitions: []layout.Partition{{Device: "vda1"}, {Device: "vda2"}}}}},
		VolumeGroup: []layout.VolumeGroup{{Name: "vg-0", PVs: []layout.PhysicalVolume{{Device: "vda2"}}, LVs: []layout.LogicalVolume{{Name: "root"}}}},
		Filesystems: []layout.Filesystem{{Device: "vda1", UUID: "11-AA", Mounts: []layout.Mount{{Path: "/boot/efi"}}}, {Device: "vg-0/root", Type: "ext4", UUID: "22-bb", Mounts: []layout.Mount{{Path: "/"}}}, {Device: "x", UUID: "22-bb22-bb"}},
		Boot:        layout.Boot{Loader: layout.GRUB, Firmware: layout.UEFI, ESP: "vda1"},
	}
	return &System{Root: root, Layout: l, Devices: map[string]string{"vda": "vdb", "vda1": "vdb1", "vda2": "vdb2", "vg-0/root": "vg-0/root", "x": "x"}}, sys
}

// onNVMe puts the disk of restored behind another driver.
func onNVMe(t *testing.T, sys string) {
	t.Helper()
	link := filepath.Join(sys, "bus/d2/module")
	os.Remove(link)
	os.Mkdir(filepath.Join(sys, "module/nvme"), 0o755)
	if err := os.Symlink(filepath.Join(sys, "module/nvme"), link); err != nil {
		t.Fatal(err)
	}
}

// TestProof: a system that starts has no problems, and each fault is named.
func TestProof(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, s *System, root, sys string)
		want  string
	}{
		"good":  {func(*testing.T, *System, string, string) {}, ""},
		"fstab": {func(t *testing.T, s *System, root, _ string) { change(t, root+"/etc/fstab", "22-BB", "dead") }, "/etc/fstab: line 1: UUID=dead"},
		"grub": {func(t *testing.T, s *System, root, _ string) {
			change(t, root+"/boot/grub/grub.cfg", "22-bb22-bb", "0000-0001")
		}, "grub.cfg: search refers to 0000-0001"},
		"root": {func(t *testing.T, s *System, root, _ string) {
			change(t, root+"/boot/grub/grub.cfg", "/dev/mapper/vg--0-root", "/dev/sda2")
		}, "grub.cfg: root=/dev/sda2 is not among"},
		"file system": {func(t *testing.T, s *System, _, _ string) { s.Layout.Filesystems[1].Type = "xfs" }, "lacks the module xfs, which / needs"},
		"checksum": {func(t *testing.T, s *System, _, _ string) {
			s.Layout.Filesystems[1].Type, s.Layout.Filesystems[1].Btrfs = "btrfs", &fstype.Btrfs{Checksum: "xxhash"}
		}, "lacks the module xxhash_generic"},
		"LUKS": {func(t *testing.T, s *System, _, _ string) {
			s.Layout.Crypts = []layout.Crypt{{Name: "c", Device: "vda2"}}
			s.Layout.VolumeGroup[0].PVs[0].Device = "mapper/c"
		}, "has no cryptsetup, and / is on LUKS"},
		"crypttab": {func(t *testing.T, s *System, root, _ string) {
			if err := os.WriteFile(root+"/etc/crypttab", []byte("c UUID=11111111-0000-4000-8000-000000000001 none luks\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "/etc/crypttab: line 1: UUID=11111111"},
		"initrd": {func(t *testing.T, s *System, root, _ string) { os.Remove(root + "/boot/initrd.img-6.1.0-9-amd64") }, "which the boot loader loads, is missing"},
		"cut":    {func(t *testing.T, s *System, root, _ string) { os.Truncate(root+"/boot/initrd.img-6.1.0-9-amd64", 60) }, "cannot read initramfs"},
		"driver": {func(t *testing.T, s *System, _, sys string) {
			onNVMe(t, sys)
		}, "lacks the driver nvme of /dev/vdb"},
		"builtin": {func(t *testing.T, s *System, root, _ string) {
			change(t, root+"/usr/lib/modules/6.1.0-9-amd64/modules.builtin", "virtio_pci", "x")
		}, "lacks the driver virtio_pci"},
		"loader": {func(t *testing.T, s *System, root, _ string) { os.Remove(root + "/boot/efi/EFI/BOOT/BOOTX64.EFI") }, "no loader in EFI/BOOT"},
		"swap file": {func(_ *testing.T, s *System, _, _ string) {
			s.Layout.SwapFiles = []layout.SwapFile{{Path: "/swapfile", Mount: "/", Size: 1 << 20}}
		}, "the swap file /swapfile is missing"},
		"mbr": {func(t *testing.T, s *System, _, _ string) {
			s.Layout.Boot.Firmware, s.Layout.Boot.Disks = layout.BIOS, []string{"none"}
		}, "no disk has GRUB"},
	} {
		t.Run(name, func(t *testing.T) {
			s, sys := restored(t)
			c.spoil(t, s, s.Root, sys)
			got := strings.Join(s.Proof(sys), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("%q; want %q", got, c.want)
			}
		})
	}
}

func change(t *testing.T, file, old, new string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(b), old) {
		t.Fatal(err, string(b))
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(b), old, new, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestCheckCrypttab(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(root+"/key", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := &layout.Layout{
		Disks:  []layout.Disk{{Name: "vda", Table: &layout.Table{Partitions: []layout.Partition{{Device: "vda3", GUID: "AA"}, {Device: "vda4"}}}}},
		Crypts: []layout.Crypt{{Name: "secret", Device: "vda3", UUID: "1111-2222"}, {Name: "onlv", Device: "vg-0/x", UUID: "33"}},
	}
	text := "# none\nsecret UUID=1111-2222 /key luks\nb /dev/vda3\t/gone\nswap /dev/vda4 /dev/urandom swap\nc UUID=dead none luks\nd UUID=dead2 none luks,nofail\ne /dev/mapper/vg--0-x none\nf PARTUUID=aa none\ng /var/image none"
	out, notes, missing := CheckCrypttab(text, renames(l, map[string]string{"vda3": "sda3", "vda4": "sda4"}), sysconf.In(root).Exists)
	want := strings.NewReplacer("/dev/vda3\t", "UUID=1111-2222\t", "/dev/vda4", "/dev/sda4").Replace(text)
	if out != want || len(notes) != 2 || strings.Join(missing, "; ") != "line 3: the key file /gone (b) is missing; line 5: UUID=dead (c) is not among what was restored" {
		t.Errorf("%s\n%v\n%v", out, notes, missing)
	}
	_, _, missing = CheckCrypttab("b UUID=33 /gone luks\n", renames(l, nil), sysconf.In(root).Exists)
	if len(missing) != 1 || !strings.Contains(missing[0], "the key file /gone (b) is missing") {
		t.Error(missing)
	}
}

func TestFollowSubvolumes(t *testing.T) {
	at := func(m string) (string, bool) { return map[string]string{"/": "@", "/a b": "@a b"}[m], m == "/copied" }
	in := "UUID=1 / btrfs subvolid=256,subvol=/@ 0 0\nUUID=1 /a\\040b btrfs subvolid=257,nodev\t0 0\nUUID=1 /x btrfs subvolid=999 0 0\nUUID=3 /copied btrfs subvolid=260,subvol=@c 0 0\nUUID=1 /top btrfs subvolid=5 0 0\n# UUID=1 / btrfs subvolid=256 0 0\nUUID=2 /e ext4 subvolid=1 0 0\n"
	want := "UUID=1 / btrfs subvol=/@ 0 0\nUUID=1 /a\\040b btrfs subvol=@a\\040b,nodev\t0 0\nUUID=1 /x btrfs subvolid=999 0 0\nUUID=3 /copied btrfs subvolid=260,subvol=@c 0 0\nUUID=1 /top btrfs subvolid=5 0 0\n# UUID=1 / btrfs subvolid=256 0 0\nUUID=2 /e ext4 subvolid=1 0 0\n"
	out, notes := FollowSubvolumes(in, at)
	if out != want || len(notes) != 2 {
		t.Errorf("%s\n%v", out, notes)
	}
}

func TestNoFail(t *testing.T) {
	l := &layout.Layout{
		Disks:       []layout.Disk{{Name: "vdb", Table: &layout.Table{Partitions: []layout.Partition{{Device: "vdb2", GUID: "AB-CD"}}}}},
		Filesystems: []layout.Filesystem{{Device: "vda1", UUID: "1-1"}, {Device: "vdb1", UUID: "2-A", Label: "data"}, {Device: "vdb2"}, {Device: "v-g/x"}},
		Swap:        []layout.Swap{{Device: "vdb3", UUID: "3"}},
	}
	in := "UUID=1-1 / ext4 defaults 0 1\nUUID=2-a /data ext4 defaults 0 2\n# LABEL=data / ext4 x 0 0\nLABEL=data /d ext4 noauto 0 0\nPARTUUID=ab-cd  /rw  xfs  rw 0 0\n/dev/mapper/v--g-x /x xfs ro\nUUID=3 none swap sw 0 0\nproc /proc proc defaults 0 0\n"
	want := strings.NewReplacer("/data ext4 defaults", "/data ext4 defaults,nofail", "xfs  rw", "xfs  rw,nofail", "xfs ro", "xfs ro,nofail", "swap sw", "swap sw,nofail").Replace(in)
	out, notes := NoFail(in, sysconf.NewResolver(l, sysconf.Options{Devices: map[string]string{"vda1": "sda1"}}))
	if out != want || len(notes) != 4 {
		t.Errorf("%s\n%v", out, notes)
	}
}

func TestAddNew(t *testing.T) {
	l := &layout.Layout{Filesystems: []layout.Filesystem{{Device: "a", UUID: "1"}, {Device: "b", Type: "vfat", UUID: "AB-CD", New: true, Mounts: []layout.Mount{{Path: "/boot/efi", Options: "umask=0077"}}}}}
	out, notes := AddNew("UUID=1 / ext4 defaults 0 1\n# x /boot/efi vfat x 0 0", l)
	if !strings.HasSuffix(out, "0 0\nUUID=AB-CD\t/boot/efi\tvfat\tumask=0077\t0\t1\n") || len(notes) != 1 {
		t.Errorf("%q %v", out, notes)
	}
	if again, notes := AddNew(out, l); again != out || len(notes) != 0 {
		t.Errorf("it is added twice: %q", again)
	}
}
