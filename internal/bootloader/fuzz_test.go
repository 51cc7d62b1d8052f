package bootloader

import (
	"os"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// edits are the changes of files of a restored system, by name: what each makes of a
// text, and how many notes and faults it has.
func edits(s *System, r *sysconf.Resolver) map[string]func(string) (string, int) {
	two := func(f func(string) (string, []string)) func(string) (string, int) {
		return func(text string) (string, int) { out, notes := f(text); return out, len(notes) }
	}
	three := func(f func(string) (string, []string, []string)) func(string) (string, int) {
		return func(text string) (string, int) { out, notes, _ := f(text); return out, len(notes) }
	}
	all := map[string]func(string) (string, int){
		"fstab":  three(func(t string) (string, []string, []string) { return CheckFstab(t, r) }),
		"nofail": two(func(t string) (string, []string) { return NoFail(t, r) }),
		"types": two(func(t string) (string, []string) {
			return ConvertFstab(t, map[string]string{"/": "xfs", "/srv": "ext4"})
		}),
		"subvolumes": two(func(t string) (string, []string) {
			return FollowSubvolumes(t, func(string) (string, bool) { return "@", false })
		}),
		"crypttab": three(func(t string) (string, []string, []string) {
			return CheckCrypttab(t, r, func(string) bool { return false })
		}),
		"mdadm.conf":  two(func(t string) (string, []string) { return FollowArrays(t, s.Layout, r) }),
		"lvm devices": two(func(t string) (string, []string) { return FollowLVMDevices(t, s.Layout, s.Devices) }),
		"device.map":  two(func(t string) (string, []string) { return s.followPaths(t, r) }),
		"debconf":     three(func(t string) (string, []string, []string) { return s.followDebconf(t, r) }),
		"network cards": three(func(t string) (string, []string, []string) {
			return changeCards(t, []string{"52:54:00:00:00:01"}, []string{"52:54:00:00:00:02"})
		}),
		"mount unit": three(func(t string) (string, []string, []string) {
			out, notes, wrong, _ := s.followUnit("/etc/systemd/system/home.mount", t, r)
			return out, notes, wrong
		}),
		"swap unit": three(func(t string) (string, []string, []string) {
			out, notes, wrong, _ := s.followUnit("/etc/systemd/system/x.swap", t, r)
			return out, notes, wrong
		}),
	}
	for name, f := range map[string]sysconf.Format{"plain": sysconf.Plain, "shell": sysconf.Shell, "GRUB": sysconf.GRUB, "grubenv": sysconf.Grubenv, "syslinux": sysconf.Syslinux, "BLS": sysconf.BLS} {
		all["command line, "+name] = two(func(t string) (string, []string) { return FollowCmdline(t, f, r) })
	}
	return all
}

// FuzzEdits: a text without anything to change stays as it is, what was changed once
// is right, and a change adds a bounded number of bytes to a line.
func FuzzEdits(f *testing.F) {
	for _, text := range []string{
		"/dev/sda1 / ext4 defaults 0 1\nUUID=2-2 /srv/my\\040data ext4 x 0 2\n/dev/sda2 none swap sw 0 0\nLABEL=My\\040Data /srv btrfs subvolid=256,device=/dev/sda1 0 0\n",
		"cr /dev/sda1 none luks\nx /dev/sdb /key\n",
		"DEVICE /dev/sda1\nARRAY /dev/md0 UUID=1:2\n",
		"IDTYPE=sys_wwid IDNAME=x DEVNAME=/dev/sda3 PVID=pv1\n# HASH=1\n",
		"(hd0)\t/dev/disk/by-id/ata-OLD_S1\n",
		"Name: grub-pc/install_devices\nValue: /dev/disk/by-id/ata-OLD_S1, /dev/disk/by-id/ata-DATA\n\n",
		"HWADDR=52:54:00:00:00:01\nMACADDR=52-54-00-00-00-01\n",
		"[Mount]\nWhat=/dev/sda1\nWhere=/home\nOptions=noatime\n[Swap]\nWhat=/dev/sda2\n",
		"[Mount]\nWhat=/dev/disk/by-label/My\\x20Data\n",
		"GRUB_CMDLINE_LINUX=\"root=/dev/sda1 resume=/dev/sda2\"\n",
		"menuentry 'x' {\n search --fs-uuid --set=root 2-2\n linux /vmlinuz root=/dev/sda1 ro\n initrd /initrd\n}\n",
		"title x\nlinux /vmlinuz\noptions root=/dev/sda1 $kernelopts\n",
	} {
		f.Add(text)
	}
	s := movedSystem(f.TempDir(), f.TempDir())
	s.Layout.Arrays = []layout.Array{{Name: "md1", UUID: "9:9", Metadata: "1.2", New: true}}
	s.Layout.Moved = map[string]string{"md0": "sda1"}
	all := edits(s, s.resolver(false))
	f.Fuzz(func(t *testing.T, text string) {
		for name, edit := range all {
			out, n := edit(text)
			if n == 0 && out != text {
				t.Errorf("%s: %q becomes %q without a note", name, text, out)
			}
			if most := len(text) + (n+1)*(len(text)/16+512); len(out) > most {
				t.Errorf("%s: %d bytes become %d with %d notes", name, len(text), len(out), n)
			}
			again, m := edit(out)
			if m != 0 || again != out {
				t.Errorf("%s: %q becomes %q, and then %q", name, text, out, again)
			}
		}
	})
}

// FuzzEntry: versions and filters are compared, whatever is in them; entries are read in sysconf.
func FuzzEntry(f *testing.F) {
	f.Add("set a=root=/dev/sda1\nmenuentry 'x' --class y {\n\tlinux ($root)/vmlinuz $a ro \"x y\"\n\tinitrd /initrd $b\n}\n", "6.1.0-10", "filter = [ \"a|/dev/sd.*|\", \"r/.*/\" ]")
	f.Add("set a="+strings.Repeat("x", 5000)+"\nlinux /v "+strings.Repeat("$a", 5000)+"\n", "6.1.0-9", `global_filter="r|.*|"`)
	f.Fuzz(func(t *testing.T, cfg, version, lvm string) {
		if a, b := compareVersions(cfg, version), compareVersions(version, cfg); (a < 0) != (b > 0) || compareVersions(version, version) != 0 {
			t.Errorf("%q and %q: %d and %d", cfg, version, a, b)
		}
		for _, x := range lvmFilters(lvm) {
			x.accepts([]string{"/dev/sda1", version})
		}
	})
}

// FuzzUnified: a unified kernel image of another system, whatever is in the file.
func FuzzUnified(f *testing.F) {
	f.Add([]byte("MZ"))
	dos := make([]byte, 0x200)
	copy(dos, "MZ")
	dos[0x3c] = 0x40
	copy(dos[0x40:], "PE\x00\x00\x64\x86\x01\x00")
	copy(dos[0x58:], ".cmdline")
	f.Add(dos)
	s := movedSystem(f.TempDir(), f.TempDir())
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(s.Root+"/x.efi", b, 0o600); err != nil {
			t.Fatal(err)
		}
		s.checkUnified("/x.efi", s.sys)
	})
}

// FuzzSyslinuxConfig: a configuration whose files include one another is read to an end.
func FuzzSyslinuxConfig(f *testing.F) {
	f.Add("default two\nui menu.c32\nappend x\nlabel one\nlinux a\nlabel two\nkernel /b\ninitrd i,j\nappend initrd=k root=/dev/x\ninclude b\nmenu include c x\nmenu default\n")
	f.Fuzz(func(t *testing.T, text string) {
		c := &syslinuxConfig{dir: "/", read: func(string) string { return text }, lines: 1000}
		c.parse("/extlinux.conf")
		if e := c.chosen(); e != nil {
			e.Text()
		}
	})
}
