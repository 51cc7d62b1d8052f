package bootloader

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

func followed() *layout.Layout {
	return &layout.Layout{
		Disks:       []layout.Disk{{Name: "sda", Table: &layout.Table{Label: layout.MBR, Signature: "0x6d6b6364", Partitions: []layout.Partition{{Number: 1, Device: "sda1"}, {Number: 2, Device: "sda2"}}}}},
		Filesystems: []layout.Filesystem{{Device: "sda1", Type: "ext4", UUID: "11111111-2222-3333-4444-555555555555", Mounts: []layout.Mount{{Path: "/"}}}},
		Swap:        []layout.Swap{{Device: "sda2", UUID: "99999999-2222-3333-4444-555555555555"}},
		VolumeGroup: []layout.VolumeGroup{{Name: "vg0", PVs: []layout.PhysicalVolume{{Device: "sda5", UUID: "abcdef-0123-4567-89ab-cdef-0123-456789"}}}},
	}
}

func TestFollowCmdline(t *testing.T) {
	l := followed()
	renamed := map[string]string{"sda1": "nvme0n1p1", "sda2": "nvme0n1p2"}
	in := "GRUB_CMDLINE_LINUX=\"root=/dev/sda1 resume=/dev/sda2 quiet\"\nRESUME=/dev/sda2\nroot=/dev/sda11 root=PARTUUID=6d6b6364-01 root=UUID=11111111-2222-3333-4444-555555555555\n"
	want := "GRUB_CMDLINE_LINUX=\"root=UUID=11111111-2222-3333-4444-555555555555 resume=UUID=99999999-2222-3333-4444-555555555555 quiet\"\nRESUME=UUID=99999999-2222-3333-4444-555555555555\nroot=/dev/sda11 root=PARTUUID=6d6b6364-01 root=UUID=11111111-2222-3333-4444-555555555555\n"
	got, notes := FollowCmdline(in, sysconf.Shell, renames(l, renamed))
	if got != want || len(notes) != 3 {
		t.Errorf("%s%q", got, notes)
	}
	// A GPT where there was an MBR: partitions are not called that any more.
	l.PartUUIDs = map[string]string{"6d6b6364-01": "sda1"}
	if got, _ := FollowCmdline("root=PARTUUID=6D6B6364-01 ro", sysconf.Plain, renames(l, nil)); got != "root=UUID=11111111-2222-3333-4444-555555555555 ro" {
		t.Error(got)
	}
	if same, notes := FollowCmdline(in, sysconf.Shell, renames(l, nil)); len(notes) != 1 || !strings.Contains(same, "root=/dev/sda1 ") {
		t.Errorf("nothing renamed: %s%q", same, notes)
	}
}

// A swap file lies elsewhere after a restore, and hibernation has to know where;
// filefrag(8) says it, too.
func TestFollowOffset(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(root+"/swapfile", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &System{Root: root, Layout: followed()}
	const in = "GRUB_CMDLINE_LINUX=\"resume=UUID=11111111-2222-3333-4444-555555555555 resume_offset=34816 quiet\"\n"
	if out, notes, wrong := s.followOffset(in); out != in || notes != nil || len(wrong) != 1 || !strings.Contains(wrong[0], "there are 0 swap files") {
		t.Errorf("%s%q%q", out, notes, wrong)
	}
	s.Layout.SwapFiles = []layout.SwapFile{{Path: "/swapfile", Mount: "/", Size: 1 << 20}}
	frag, err := exec.Command("filefrag", "-s", "-v", "-b4096", root+"/swapfile").CombinedOutput()
	if err != nil {
		t.Skipf("filefrag can't say where a file is here: %v %s", err, frag)
	}
	g := regexp.MustCompile(`(?m)^ +0: +0\.\. +\d+: +(\d+)\.\.`).FindStringSubmatch(string(frag))
	if g == nil {
		t.Fatalf("%s", frag)
	}
	want := strings.Replace(in, "34816", g[1], 1)
	if out, notes, wrong := s.followOffset(in); out != want || len(notes) != 1 || wrong != nil {
		t.Errorf("%s%q%q; want %s", out, notes, wrong, want)
	}
	if out, notes, wrong := s.followOffset(want); out != want || notes != nil || wrong != nil {
		t.Errorf("%s%q%q", out, notes, wrong)
	}
	if out, _, _ := s.followOffset("root=/dev/sda1\n"); out != "root=/dev/sda1\n" {
		t.Error(out)
	}
}

func TestFollowLVMDevices(t *testing.T) {
	in := "# LVM uses devices listed in this file.\n# HASH=3524113\nVERSION=1.1.2\nIDTYPE=sys_wwid IDNAME=naa.5000 DEVNAME=/dev/sda5 PVID=abcdef0123456789abcdef0123456789 PART=5\nIDTYPE=sys_serial IDNAME=X DEVNAME=/dev/sdz PVID=zzzzzz0123456789abcdef0123456789\n"
	want := "# LVM uses devices listed in this file.\nVERSION=1.1.2\nIDTYPE=devname IDNAME=/dev/vda5 DEVNAME=/dev/vda5 PVID=abcdef0123456789abcdef0123456789\nIDTYPE=sys_serial IDNAME=X DEVNAME=/dev/sdz PVID=zzzzzz0123456789abcdef0123456789\n"
	got, notes := FollowLVMDevices(in, followed(), map[string]string{"sda5": "vda5"})
	if got != want || len(notes) != 1 {
		t.Errorf("%s%q", got, notes)
	}
	if same, notes := FollowLVMDevices(in, followed(), nil); same != in || notes != nil {
		t.Errorf("%s%q", same, notes)
	}
}

// TestMBRPartUUID: fstab may name a partition of an MBR by signature and number.
func TestMBRPartUUID(t *testing.T) {
	const fstab = "PARTUUID=6d6b6364-01 / ext4 defaults 0 1\n"
	if out, _, missing := CheckFstab(fstab, renames(followed(), nil)); out != fstab || len(missing) != 0 {
		t.Errorf("%s%q", out, missing)
	}
	l := followed()
	l.Disks[0].Table = &layout.Table{Label: layout.GPT, Partitions: []layout.Partition{{Number: 1, Device: "sda1", GUID: "AAAAAAAA-2222-3333-4444-555555555555"}}}
	if _, _, missing := CheckFstab(fstab, renames(l, nil)); len(missing) != 1 {
		t.Errorf("%q", missing)
	}
	l.PartUUIDs = map[string]string{"6d6b6364-01": "sda1"}
	if out, notes, missing := CheckFstab(fstab, renames(l, nil)); out != "UUID=11111111-2222-3333-4444-555555555555 / ext4 defaults 0 1\n" || len(notes) != 1 || len(missing) != 0 {
		t.Errorf("%s%q %q", out, notes, missing)
	}
}

// TestBootEntries: entries of the Boot Loader Specification, kernelopts in GRUB's
// environment block, and the block itself.
func TestBootEntries(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		f := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	env := "# GRUB Environment Block\nsaved_entry=a\nkernelopts=root=/dev/sda1 ro resume=/dev/sda2\n"
	put("boot/grub2/grubenv", env+strings.Repeat("#", 1024-len(env)))
	put("boot/grub2/grub.cfg", "insmod blscfg\nblscfg\n")
	put("boot/loader/entries/a.conf", "title A\nversion 6.1\nlinux /vmlinuz-6.1\ninitrd /initramfs-6.1.img $tuned_initrd\noptions $kernelopts quiet\n")
	put("etc/fstab", "UUID=11111111-2222-3333-4444-555555555555 / ext4 defaults 0 1\n")
	put("etc/initramfs-tools/conf.d/resume", "RESUME=/dev/sda2\n")
	s := &System{Root: root, Layout: followed(), Devices: map[string]string{"sda": "vda", "sda1": "vda1", "sda2": "vda2"}, Report: progress.None{}}
	if got, want := s.bootEntries("boot", ""), "linux /vmlinuz-6.1 'root=/dev/sda1' 'ro' 'resume=/dev/sda2' 'quiet'\ninitrd /initramfs-6.1.img\n"; got != want {
		t.Errorf("%q; want %q", got, want)
	}
	proof := strings.Join(s.Proof(t.TempDir()), "\n")
	for _, want := range []string{"root=/dev/sda1 is not among", "resume=/dev/sda2 is not among", "/initramfs-6.1.img, which the boot loader loads, is missing"} {
		if !strings.Contains(proof, want) {
			t.Errorf("the proof does not say %q:\n%s", want, proof)
		}
	}
	if err := s.follow(s.resolver(false)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(root + "/boot/grub2/grubenv")
	if err != nil || len(b) != 1024 || !strings.Contains(string(b), "kernelopts=root=UUID=11111111-2222-3333-4444-555555555555 ro resume=UUID=99999999-2222-3333-4444-555555555555\n#") {
		t.Errorf("%v %q", err, b)
	}
	// Every file of conf.d is read, but for hidden ones.
	if names, err := filepath.Glob(root + "/etc/initramfs-tools/conf.d/[^.]*"); err != nil || len(names) != 1 {
		t.Errorf("%v %v", names, err)
	}
	if b, err := os.ReadFile(root + "/etc/initramfs-tools/conf.d/resume"); err != nil || string(b) != "RESUME=UUID=99999999-2222-3333-4444-555555555555\n" {
		t.Errorf("%v %q", err, b)
	}
	if proof := strings.Join(s.Proof(t.TempDir()), "\n"); strings.Contains(proof, "root=") || strings.Contains(proof, "resume=") {
		t.Error(proof)
	}
}
