package bootloader

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
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
: > tree/usr/lib/modules/6.1.0-9-amd64/virtio-blk.ko; : > tree/init
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
		Filesystems: []layout.Filesystem{{Device: "vda1", UUID: "11-AA", Mounts: []layout.Mount{{Path: "/boot/efi"}}}, {Device: "vg-0/root", UUID: "22-bb", Mounts: []layout.Mount{{Path: "/"}}}, {Device: "x", UUID: "22-bb22-bb"}},
		Boot:        layout.Boot{Loader: layout.GRUB, Firmware: layout.UEFI, ESP: "vda1"},
	}
	return &System{Root: root, Layout: l, Devices: map[string]string{"vda": "vdb", "vda1": "vdb1", "vda2": "vdb2", "vg-0/root": "vg-0/root"}}, sys
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
		}, "grub.cfg: it refers to UUID 0000-0001"},
		"root": {func(t *testing.T, s *System, root, _ string) {
			change(t, root+"/boot/grub/grub.cfg", "/dev/mapper/vg--0-root", "/dev/sda2")
		}, "grub.cfg: root=/dev/sda2 is not among"},
		"initrd": {func(t *testing.T, s *System, root, _ string) { os.Remove(root + "/boot/initrd.img-6.1.0-9-amd64") }, "which GRUB loads, is not there"},
		"cut":    {func(t *testing.T, s *System, root, _ string) { os.Truncate(root+"/boot/initrd.img-6.1.0-9-amd64", 60) }, "cannot read initramfs"},
		"driver": {func(t *testing.T, s *System, _, sys string) {
			link := filepath.Join(sys, "bus/d2/module")
			os.Remove(link)
			os.Mkdir(filepath.Join(sys, "module/nvme"), 0o755)
			if err := os.Symlink(filepath.Join(sys, "module/nvme"), link); err != nil {
				t.Fatal(err)
			}
		}, "has not the driver nvme of /dev/vdb"},
		"builtin": {func(t *testing.T, s *System, root, _ string) {
			change(t, root+"/usr/lib/modules/6.1.0-9-amd64/modules.builtin", "virtio_pci", "x")
		}, "has not the driver virtio_pci"},
		"loader": {func(t *testing.T, s *System, root, _ string) { os.Remove(root + "/boot/efi/EFI/BOOT/BOOTX64.EFI") }, "no loader in EFI/BOOT"},
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
