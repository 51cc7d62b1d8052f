package bootloader

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

func lay() *layout.Layout {
	return &layout.Layout{
		Disks:       []layout.Disk{{Name: "vda", Table: &layout.Table{Partitions: []layout.Partition{{Device: "vda1", GUID: "AAAA", Name: "boot"}, {Device: "vda2"}}}}},
		Filesystems: []layout.Filesystem{{Device: "vda1", UUID: "11-AA", Label: "boot", Mounts: []layout.Mount{{Path: "/boot/efi"}}}, {Device: "vg-0/root", UUID: "22-bb"}},
		Swap:        []layout.Swap{{Device: "vda2", UUID: "33-cc"}},
		Boot:        layout.Boot{Loader: layout.GRUB, Firmware: layout.BIOS, Disks: []string{"vda"}, Targets: []string{"i386-pc"}},
	}
}

// renames is a resolver for a layout that was restored as a whole, with other names
// for some devices.
func renames(l *layout.Layout, renamed map[string]string) *sysconf.Resolver {
	devices := map[string]string{}
	put := func(dev string) { devices[dev] = dev }
	for _, d := range l.Disks {
		put(d.Name)
		if d.Table != nil {
			for _, p := range d.Table.Partitions {
				put(p.Device)
			}
		}
	}
	for _, f := range l.Filesystems {
		for _, d := range f.Devs() {
			put(d)
		}
	}
	for _, w := range l.Swap {
		put(w.Device)
	}
	for i := range l.Crypts {
		put(l.Crypts[i].Device)
		put(l.Crypts[i].Mapper())
	}
	for _, a := range l.Arrays {
		put(a.Name)
	}
	for o, n := range renamed {
		devices[o] = n
	}
	return sysconf.NewResolver(l, sysconf.Options{Devices: devices})
}

func TestCheckFstab(t *testing.T) {
	in := `# comment /dev/vdz
UUID=11-aa /boot ext4 defaults 0 2
LABEL=boot /b ext4 defaults 0 2
PARTUUID=aaaa /c ext4 defaults 0 2
/dev/mapper/vg--0-root / ext4 defaults 0 1
/dev/vg-0/root /again ext4 defaults 0 1
/dev/vda2	none	swap sw 0 0
UUID=dead /old ext4 noauto 0 0
/dev/sr0 /cdrom iso9660 ro,noauto 0 0
host:/x /n nfs defaults 0 0
tmpfs /tmp tmpfs defaults 0 0
`
	out, notes, missing := CheckFstab(in, renames(lay(), map[string]string{"vda": "sda", "vda1": "sda1", "vda2": "sda2"}))
	if want := strings.Replace(in, "/dev/vda2\t", "UUID=33-cc\t", 1); out != want {
		t.Errorf("fstab is\n%s\nwant\n%s", out, want)
	}
	if len(notes) != 1 || len(missing) != 1 || !strings.Contains(missing[0], "line 8: UUID=dead") {
		t.Errorf("notes %q, missing %q", notes, missing)
	}
	if out, notes, _ := CheckFstab(in, renames(lay(), nil)); out != in || len(notes) > 0 {
		t.Errorf("without renamed devices the text changed: %q", notes)
	}
}

func TestConvertFstab(t *testing.T) {
	in := "# /home\nUUID=1 / ext4 errors=remount-ro,noatime,x-systemd.growfs 0 1\nUUID=2\t/home\txfs\tdefaults,logbsize=256k,usrquota 0 0\nUUID=3 /srv ext4 defaults 0 2\nUUID=4 /with\\040blank ext4 data=journal"
	out, notes := ConvertFstab(in, map[string]string{"/": "xfs", "/home": "ext4", "/with blank": "xfs", "/srv": "ext4", "/none": "xfs"})
	want := "# /home\nUUID=1 / xfs noatime,x-systemd.growfs 0 0\nUUID=2\t/home\text4\tdefaults,usrquota 0 2\nUUID=3 /srv ext4 defaults 0 2\nUUID=4 /with\\040blank xfs defaults 0 0"
	if out != want {
		t.Errorf("fstab is\n%s\nwant\n%s", out, want)
	}
	if len(notes) != 3 || notes[0] != "/ is xfs now, was ext4, options removed: errors=remount-ro" {
		t.Errorf("notes %q", notes)
	}
}

func TestCheckKernel(t *testing.T) {
	l := lay()
	l.Filesystems[0].UUID = "52477784-d7b7-4090-885e-3d75790b7056"
	cfg := `if [ x$feature_platform_search_hint = xy ]; then
  search --no-floppy --fs-uuid --set=root --hint-bios=hd0,gpt2 --hint='hd0,gpt2'  52477784-D7B7-4090-885e-3d75790b7056
else
  search --no-floppy --fs-uuid --set=root 00000000-1111-2222-3333-444444444444
fi
linux /vmlinuz root=UUID=00000000-1111-2222-3333-444444444444 ro
linux /vmlinuz root=/dev/mapper/vg--0-root ro
search --fs-uuid --set=root 1234-ABCD
`
	got := CheckKernel(cfg, sysconf.GRUB, renames(l, nil))
	if len(got) != 3 || !strings.Contains(got[0], "00000000-1111") || !strings.Contains(got[1], "root=UUID=00000000") || !strings.Contains(got[2], "1234-ABCD") {
		t.Errorf("CheckKernel = %q", got)
	}
}

// root makes a restored tree with the programs given.
func root(t *testing.T, progs ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"/etc", "/usr/sbin", "/boot/grub"} {
		if err := os.MkdirAll(dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range progs {
		if err := os.WriteFile(dir+"/usr/sbin/"+p, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/boot/grub/grub.cfg", []byte("linux /vmlinuz root=/dev/vda9"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFirstDisk(t *testing.T) {
	for _, c := range []struct {
		devices map[string]string
		want    string
	}{
		{map[string]string{"vda": "vdb", "vdb": "vdc"}, "vdb"},
		{map[string]string{"vda": "sdaa", "vdb": "sdz"}, "sdz"},
		{map[string]string{"vda": "nvme10n1", "vdb": "nvme9n1"}, "nvme9n1"},
		{map[string]string{"vdb": "sdb"}, "sdb"},
		{nil, ""},
	} {
		s := &System{Layout: &layout.Layout{Disks: []layout.Disk{{Name: "vda"}, {Name: "vdb"}}}, Devices: c.devices}
		if got := s.firstDisk(); got != c.want {
			t.Errorf("first of %v = %q; want %q", c.devices, got, c.want)
		}
	}
}

func TestInstall(t *testing.T) {
	for _, c := range []struct {
		name    string
		progs   []string
		devices map[string]string
		change  func(*layout.Layout)
		want    string
	}{
		{"same names", []string{"grub-install"}, map[string]string{"vda": "vda"}, nil, "[grub-install --target=i386-pc /dev/vda]"},
		{"Fedora's name", []string{"grub2-install"}, map[string]string{"vda": "vda"}, nil, "[grub2-install --target=i386-pc /dev/vda]"},
		{"other bus", []string{"grub-install", "update-initramfs"}, map[string]string{"vda": "nvme0n1"}, nil, "[update-initramfs -u -k all grub-mkconfig -o /boot/grub/grub.cfg grub-install --target=i386-pc /dev/nvme0n1]"},
		{"UEFI", []string{"grub-install"}, map[string]string{"vda": "vda"}, func(l *layout.Layout) {
			l.Boot = layout.Boot{Loader: layout.GRUB, Firmware: layout.UEFI, ESP: "vda1", Targets: []string{"x86_64-efi"}, ESPFiles: []string{"/EFI/BOOT/grubx64.efi", "/EFI/debian/grubx64.efi"}}
		}, "[grub-install --target=x86_64-efi --efi-directory=/boot/efi --bootloader-id=debian grub-install --target=x86_64-efi --efi-directory=/boot/efi --removable --no-nvram]"},
		{"no grub-install", nil, map[string]string{"vda": "vda"}, nil, "!no grub-install"},
		{"unknown loader", []string{"grub-install"}, map[string]string{"vda": "vda"}, func(l *layout.Layout) { l.Boot.Loader = "" }, "!not known"},
		{"nowhere to put it", []string{"grub-install"}, map[string]string{"vda": "vda"}, func(l *layout.Layout) { l.Boot.Disks = nil }, "!names neither"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := lay()
			if c.change != nil {
				c.change(l)
			}
			rec := &tool.Recorder{Answers: map[string]string{"grub-install": "", "grub2-install": "", "update-initramfs": "", "grub-mkconfig": ""}}
			dir := root(t, c.progs...)
			s := &System{Root: dir, Layout: l, Devices: c.devices, Run: rec, Report: progress.None{}}
			err := s.install(context.Background(), s.renamed())
			if want, bad := strings.CutPrefix(c.want, "!"); bad {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("install = %v; want %q", err, want)
				}
				return
			}
			var got []string
			for _, call := range rec.Calls {
				got = append(got, strings.TrimPrefix(call, "chroot "+dir+" "))
			}
			// grub.cfg names /dev/vda9, so a renamed vda regenerates it.
			if g := fmt.Sprint(got); err != nil || g != c.want {
				t.Errorf("install ran %s, %v; want %s", g, err, c.want)
			}
		})
	}
}

// TestNameByUUID: a name that leads to a device stays, whoever made it; that of a
// device that is gone does not.
func TestNameByUUID(t *testing.T) {
	dev := t.TempDir()
	if err := os.WriteFile(dev+"/vdc2", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		device string
		made   bool
	}{{"gone", true}, {"vdc2", true}, {"vdb2", false}} {
		made, err := NameByUUID(dev, c.device, "11-AA")
		if err != nil || made != c.made {
			t.Errorf("NameByUUID(%s) = %v, %v", c.device, made, err)
		}
	}
	if to, err := os.Readlink(dev + "/disk/by-uuid/11-AA"); err != nil || to != "../../vdc2" {
		t.Errorf("the name leads to %q (%v)", to, err)
	}
	if err := os.WriteFile(dev+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := NameByUUID(dev+"/file", "vda1", "1"); err == nil {
		t.Error("a /dev that is a file: no error")
	}
}

func TestKernelNames(t *testing.T) {
	l := &layout.Layout{Disks: []layout.Disk{{Name: "sda", Table: &layout.Table{Partitions: []layout.Partition{{Device: "sda2"}}}}}}
	s := &System{Layout: l, Devices: map[string]string{"sda": "vdc", "sda2": "vdc2", "md0": "md0"}}
	got := s.kernelNames("linux /v root=/dev/vdc2 ro\nlinux /v root=/dev/vdc2\nlinux /v root=/dev/md0\nlinux /v root=UUID=1 resume=/dev/vdc3\n")
	if fmt.Sprint(got) != "[root=/dev/vdc2]" {
		t.Errorf("kernelNames = %q", got)
	}
}
