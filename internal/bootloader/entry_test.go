package bootloader

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// FirstEntry finds what boots by itself, as GRUB and systemd-boot do.
func TestFirstEntry(t *testing.T) {
	const bls = "/boot/loader/entries/0123456789abcdef-"
	for _, c := range []struct {
		name, loader string
		files        map[string]string
		want         Entry
		fails        string
	}{
		{name: "Debian", files: map[string]string{
			"/boot/grub/grub.cfg": "set default=0\nset vt_handoff=vt.handoff=7\nif [ x$feature = xy ]; then search --fs-uuid x; fi\nmenuentry 'Debian GNU/Linux' --class debian {\n\tinsmod ext2\n\tlinux /boot/vmlinuz-6.1.0 root=UUID=ab ro quiet 'x=a b' $vt_handoff $none\n\tinitrd /boot/microcode.img /boot/initrd.img-6.1.0\n}\nsubmenu 'Advanced' {\n menuentry 'old' {\n linux /boot/vmlinuz-5 root=/dev/sdz1\n}\n}\n",
			"/boot/vmlinuz-6.1.0": "k", "/boot/initrd.img-6.1.0": "i", "/boot/microcode.img": "m", "/boot/vmlinuz-5": "k"},
			want: Entry{Linux: "/boot/vmlinuz-6.1.0", Initrd: []string{"/boot/microcode.img", "/boot/initrd.img-6.1.0"}, Options: `root=UUID=ab ro quiet "x=a b" vt.handoff=7`}},
		{name: "a /boot of its own, device named", files: map[string]string{
			"/boot/grub2/grub.cfg": "menuentry x {\nlinux16 ($root)/vmlinuz root=/dev/vg0/root\ninitrd16 ($root)/initrd\n}\n",
			"/boot/vmlinuz":        "k", "/boot/initrd": "i"},
			want: Entry{Linux: "/boot/vmlinuz", Initrd: []string{"/boot/initrd"}, Options: "root=/dev/vg0/root"}},
		{name: "Fedora: the newest, by numbers", files: map[string]string{
			"/boot/grub2/grub.cfg": "insmod blscfg\nblscfg\n", "/boot/grub2/grubenv": "# GRUB\nkernelopts=root=UUID=cd ro\n",
			bls + "0-rescue.conf": "linux /vmlinuz-0-rescue\noptions x\n",
			bls + "6.9.1.conf":    "linux /vmlinuz-6.9\noptions old\n",
			bls + "6.10.1.conf":   "title x\nlinux /vmlinuz-6.10\ninitrd /initramfs-6.10.img $tuned_initrd\noptions $kernelopts rhgb\n",
			"/boot/vmlinuz-6.9":   "k", "/boot/vmlinuz-6.10": "k", "/boot/initramfs-6.10.img": "i", "/boot/vmlinuz-0-rescue": "k"},
			want: Entry{ID: "0123456789abcdef-6.10.1", Linux: "/boot/vmlinuz-6.10", Initrd: []string{"/boot/initramfs-6.10.img"}, Options: "root=UUID=cd ro rhgb"}},
		{name: "Fedora: the saved one", files: map[string]string{
			"/boot/grub2/grub.cfg": "blscfg\n", "/boot/grub2/grubenv": "saved_entry=0123456789abcdef-6.9.1\n",
			bls + "6.9.1.conf": "linux /vmlinuz-6.9\noptions old\n", bls + "6.10.1.conf": "linux /vmlinuz-6.10\n", "/boot/vmlinuz-6.9": "k"},
			want: Entry{ID: "0123456789abcdef-6.9.1", Linux: "/boot/vmlinuz-6.9", Options: "old"}},
		{name: "systemd-boot", loader: layout.SystemdBoot, files: map[string]string{
			"/boot/loader/entries/arch.conf": "linux /vmlinuz-linux\ninitrd /ucode.img\ninitrd /initramfs.img\noptions root=LABEL=a\noptions rw\n", "/boot/vmlinuz-linux": "k", "/boot/ucode.img": "u", "/boot/initramfs.img": "i"},
			want: Entry{ID: "arch", Linux: "/boot/vmlinuz-linux", Initrd: []string{"/boot/ucode.img", "/boot/initramfs.img"}, Options: "root=LABEL=a rw"}},
		{name: "a file is missing", files: map[string]string{"/boot/grub/grub.cfg": "menuentry x {\nlinux /vmlinuz a\ninitrd /gone\n}\n", "/vmlinuz": "k"}, fails: "/gone is missing"},
		{name: "another system first", files: map[string]string{"/boot/grub/grub.cfg": "menuentry x {\nchainloader +1\n}\nmenuentry y {\nlinux /vmlinuz\n}\n", "/vmlinuz": "k"}, fails: "starts no Linux kernel"},
		{name: "no loader", fails: "no grub.cfg"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for n, text := range c.files {
				n = filepath.Join(root, n)
				if err := os.MkdirAll(filepath.Dir(n), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(n, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			s := &System{Root: root, Layout: &layout.Layout{Boot: layout.Boot{Loader: c.loader}}}
			e, err := s.FirstEntry()
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("%+v, %v; want the error %q", e, err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if e.ID != c.want.ID || e.Linux != c.want.Linux || !slices.Equal(e.Initrd, c.want.Initrd) || e.Options != c.want.Options {
				t.Errorf("%+v\nwant %+v", *e, c.want)
			}
		})
	}
}

func TestCompareVersions(t *testing.T) {
	for _, c := range [][2]string{{"a-5.9", "a-5.10"}, {"5.14.0-70", "5.14.0-427"}, {"5.14", "5.14.1"}, {"a", "b"}, {"1.08", "1.9"}} {
		if compareVersions(c[0], c[1]) >= 0 || compareVersions(c[1], c[0]) <= 0 || compareVersions(c[0], c[0]) != 0 {
			t.Errorf("%s is not older than %s", c[0], c[1])
		}
	}
}
