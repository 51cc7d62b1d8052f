package bootloader

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// TestStaleCopies: an initramfs with all drivers is regenerated if its own copy of a
// file names a device as the old machine did, and not if it names what lasts.
func TestStaleCopies(t *testing.T) {
	for name, c := range map[string]struct {
		file, text string
		stale      bool
	}{
		"no copies":                  {"etc/hostname", "/dev/vda3\n", false},
		"Debian's crypttab, UUID":    {"cryptroot/crypttab", "secret UUID=44444444-0000-4000-8000-000000000004 none luks\n", false},
		"Debian's crypttab":          {"cryptroot/crypttab", "secret /dev/vda3 none luks\n", true},
		"a comment":                  {"cryptroot/crypttab", "# secret /dev/vda3 none luks\n", false},
		"another partition":          {"cryptroot/crypttab", "x /dev/vda33 none luks\n", false},
		"same name here":             {"etc/crypttab", "x /dev/vg-0/root none luks\n", false},
		"dracut's crypttab":          {"etc/crypttab", "secret /dev/disk/by-id/virtio-old-part3 none luks\n", true},
		"older Debian":               {"conf/conf.d/cryptroot", "target=secret,source=/dev/vda3,key=none\n", true},
		"older Debian, UUID":         {"conf/conf.d/cryptroot", "target=secret,source=UUID=44444444-0000-4000-8000-000000000004,key=none\n", false},
		"mdadm, DEVICE":              {"etc/mdadm/mdadm.conf", "DEVICE /dev/vda3\nARRAY /dev/md0 UUID=1:2:3:4\n", true},
		"mdadm, any device":          {"etc/mdadm.conf", "DEVICE partitions\nARRAY /dev/md0 UUID=1:2:3:4\n", false},
		"resume":                     {"conf/conf.d/resume", "RESUME=/dev/vda4\n", true},
		"resume by UUID":             {"conf/conf.d/resume", "RESUME=UUID=33333333-0000-4000-8000-000000000003\n", false},
		"dracut's command line":      {"etc/cmdline.d/95resume.conf", " resume=/dev/disk/by-path/pci-0-part4\n", true},
		"dracut's command line, VG":  {"etc/cmdline.d/90lvm.conf", " rd.lvm.lv=vg-0/root\n", false},
		"LVM's devices by disk":      {"etc/lvm/devices/system.devices", "VERSION=1.1.1\nIDTYPE=sys_wwid IDNAME=naa.1 DEVNAME=/dev/vda2 PVID=pppppp0001 PART=2\n", true},
		"LVM's devices by name":      {"etc/lvm/devices/system.devices", "IDTYPE=devname IDNAME=/dev/vda2 DEVNAME=/dev/vda2 PVID=pppppp0001\n", false},
		"LVM's device of another VG": {"etc/lvm/devices/system.devices", "IDTYPE=sys_wwid IDNAME=naa.1 DEVNAME=/dev/vda2 PVID=other\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := restored(t)
			l := s.Layout
			parts := &l.Disks[0].Table.Partitions
			*parts = append(*parts, layout.Partition{Device: "vda3"}, layout.Partition{Device: "vda4"})
			l.VolumeGroup[0].PVs[0].UUID = "pppppp-0001"
			l.Crypts = []layout.Crypt{{Name: "secret", Device: "vda3", UUID: "44444444-0000-4000-8000-000000000004"}}
			l.Swap = []layout.Swap{{Device: "vda4", UUID: "33333333-0000-4000-8000-000000000003"}}
			l.Links = map[string][]string{"vda3": {"by-id/virtio-old-part3"}, "vda4": {"by-path/pci-0-part4"}}
			l.Boot.Targets = []string{"x86_64-efi"}
			for o, n := range map[string]string{"vda3": "vdb3", "vda4": "vdb4", "mapper/secret": "mapper/secret"} {
				s.Devices[o] = n
			}
			const initrd = "/boot/initrd.img-6.1.0-9-amd64"
			script := `cd "$1/tree"; mkdir -p "$(dirname "$2")" ../usr/sbin; cp /dev/stdin "$2"; find . | cpio -o -H newc 2>/dev/null | gzip > "..$3"; touch ../usr/sbin/grub-install ../usr/sbin/update-initramfs`
			cmd := exec.Command("sh", "-ec", script, "sh", s.Root, c.file, initrd)
			cmd.Stdin = strings.NewReader(c.text)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
			rec := &tool.Recorder{Answers: map[string]string{"grub-install": "", "update-initramfs": ""}}
			s.Run, s.Report = rec, progress.None{}
			if err := s.install(context.Background(), s.renamed()); err != nil {
				t.Fatal(err)
			}
			got := slices.ContainsFunc(rec.Calls, func(call string) bool { return strings.Contains(call, "update-initramfs") })
			if got != c.stale {
				t.Errorf("regenerated: %v; the copies that are stale: %q", got, s.staleCopies())
			}
		})
	}
}

// TestEnterStaysInside: a link of the restored system in the place of a directory of
// the kernel's file systems is followed in the system, as in the chroot.
func TestEnterStaysInside(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("bind mounts need root")
	}
	outside, root := t.TempDir(), t.TempDir()
	err := os.MkdirAll(filepath.Join(root, outside), 0o755)
	if err == nil {
		err = os.Symlink(outside, filepath.Join(root, "dev"))
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &System{Root: root, Layout: &layout.Layout{}, Report: progress.None{}}
	leave, err := s.Enter()
	t.Cleanup(func() {
		if err := leave(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.ReadDir(outside); err != nil || len(st) != 0 {
		t.Errorf("outside of the target are %d names, %v", len(st), err)
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), " "+outside) {
		t.Errorf("something is mounted on %s", outside)
	}
	if !strings.Contains(string(b), " "+filepath.Join(root, outside)+" ") {
		t.Errorf("/dev is not bound to %s of the target:\n%s", outside, b)
	}
}
