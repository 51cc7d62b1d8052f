package sysconf

import (
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// upper writes each name that it visits in capitals and brackets.
func upper(k KernelRef) (string, bool) { return "<" + strings.ToUpper(k.Text) + ">", true }

func TestVisitKernelRefs(t *testing.T) {
	for _, c := range []struct {
		name     string
		f        Format
		in, want string
	}{
		{"plain", Plain, `root=UUID=a ro "resume=LABEL=x y" splash`, `root=<UUID=A> ro "resume=<LABEL=X Y>" splash`},
		{"prefixes", Plain, "root=block:/dev/a cryptdevice=/dev/b:n:o cryptopts=target=t,source=/dev/c,lvm=x rootflags=subvol=a,device=/dev/d", "root=block:</DEV/A> cryptdevice=</DEV/B>:n:o cryptopts=target=t,source=</DEV/C>,lvm=x rootflags=subvol=a,device=</DEV/D>"},
		{"dracut", Plain, "rd.luks.uuid=luks-ab rd.luks.name=cd=n rd.md.uuid=e rd.lvm.lv=v/l rd.lvm.vg=v rd.luks.options=ef=discard", "rd.luks.uuid=<LUKS-AB> rd.luks.name=<CD>=n rd.md.uuid=<E> rd.lvm.lv=<V/L> rd.lvm.vg=<V> rd.luks.options=<EF>=discard"},
		{"shell", Shell, "A=`x` # root=/dev/n\nGRUB_CMDLINE_LINUX=\"root=/dev/a \\\"x y\\\" resume=$R\"\nexport B='root=/dev/b'; C=root=/dev/c\nkernel_cmdline+=\" rd.lvm.vg=v \"\nRESUME=/dev/d\n",
			"A=`x` # root=/dev/n\nGRUB_CMDLINE_LINUX=\"root=</DEV/A> \\\"x y\\\" resume=$R\"\nexport B='root=</DEV/B>'; C=root=\\</DEV/C\\>\nkernel_cmdline+=\" rd.lvm.vg=<V> \"\nRESUME=\\</DEV/D\\>\n"},
		{"GRUB", GRUB, "menuentry 'root=/dev/n' {\n  linux /v root=/dev/a 'resume=/dev/b' \"root=LABEL=x y\" root=$r \\\n    boot=UUID=c\n search --fs-uuid --set=root --hint-bios=hd0 --hint hd1 ab # x\n}\nsearch -l 'my label'\nset kernelopts=\"root=/dev/d ro\"\nset x=\"root=/dev/n\"\n",
			"menuentry 'root=/dev/n' {\n  linux /v root=\\</DEV/A\\> 'resume=</DEV/B>' \"root=<LABEL=X Y>\" root=$r \\\n    boot=\\<UUID=C\\>\n search --fs-uuid --set=root --hint-bios=hd0 --hint hd1 \\<AB\\> # x\n}\nsearch -l '<MY LABEL>'\nset kernelopts=\"root=<</DEV/D> ro\"\nset x=\"root=/dev/n\"\n"},
		{"entries", BLS, "title root=/dev/n\n options\troot=/dev/a ro\r\nOPTIONS root=/dev/b\nlinux /v root=/dev/n", "title root=/dev/n\n options\troot=</DEV/A> ro\r\nOPTIONS root=</DEV/B>\nlinux /v root=/dev/n"},
		{"grubenv", Grubenv, "# GRUB\nkernelopts=root=/dev/a x=\\\\y\nsaved_entry=root=/dev/n\n####", "# GRUB\nkernelopts=root=</DEV/A> x=\\\\y\nsaved_entry=root=/dev/n\n####"},
		{"syslinux", Syslinux, "LABEL x\n  APPEND root=/dev/a initrd=x\n", "LABEL x\n  APPEND root=</DEV/A> initrd=x\n"},
	} {
		want := strings.ReplaceAll(c.want, "<<", "<")
		if got := VisitKernelRefs(c.in, c.f, upper); got != want {
			t.Errorf("%s:\n%q; want\n%q", c.name, got, want)
		}
		if got := VisitKernelRefs(c.in, c.f, func(KernelRef) (string, bool) { return "", false }); got != c.in {
			t.Errorf("%s: nothing replaced: %q; want %q", c.name, got, c.in)
		}
	}
}

// TestScript: words as a shell has them.
func TestScript(t *testing.T) {
	s := ParseScript("a 'b c'd\"e \\\" f\"\\ g # x\nN=\"1 $X\" M+='2' ; then c;d{e\\\nf\n", false)
	var got []string
	for _, c := range s.Commands {
		for _, w := range c.Words {
			got = append(got, w.Text)
		}
		got = append(got, "|")
	}
	if want := []string{"a", `b cde " f g`, "|", "N=1 $X", "M+=2", "|", "then", "|", "c", "|", "d{ef", "|"}; !slices.Equal(got, want) {
		t.Errorf("%q; want %q", got, want)
	}
	if n, at, ok := s.Commands[1].Words[1].Assignment(); n != "M" || at != 3 || !ok {
		t.Error(n, at, ok)
	}
}

func TestFitGrubenv(t *testing.T) {
	if got, ok := FitGrubenv("a=b\n##"); !ok || len(got) != grubenvSize || !strings.HasPrefix(got, "a=b\n###") {
		t.Errorf("%d %v", len(got), ok)
	}
	if _, ok := FitGrubenv(strings.Repeat("x", grubenvSize+1)); ok {
		t.Error("a block that is too long fits")
	}
}

func FuzzKernelRefs(f *testing.F) {
	f.Add("menuentry x {\n linux /v root=UUID=1 'a b'\n search --fs-uuid 2\n}\n", "UUID=3-3")
	f.Add("X=\"root=/dev/sda1 \\\"y\\\"\"\n options root=LABEL=a\nkernelopts=root=/dev/x\n", "UUID=4")
	seeds(f, func(string) bool { return true }, func(text string) { f.Add(text, "UUID=5") })
	r := NewResolver(&layout.Layout{Filesystems: []layout.Filesystem{{Device: "a/b", Type: "ext4", UUID: "1"}}}, Options{Devices: map[string]string{"a/b": "a/b"}})
	f.Fuzz(func(t *testing.T, text, name string) {
		plain := !strings.ContainsFunc(name, func(c rune) bool {
			return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/-_.", c)
		})
		for _, form := range []Format{Plain, Shell, GRUB, BLS, Grubenv, Syslinux} {
			n := 0
			if got := VisitKernelRefs(text, form, func(k KernelRef) (string, bool) { n++; r.Kernel(k); return "", false }); got != text {
				t.Fatalf("format %d: %q is printed as %q", form, text, got)
			}
			if n == 0 || !plain || name == "" {
				continue
			}
			to := "UUID=" + name
			out := VisitKernelRefs(text, form, func(k KernelRef) (string, bool) { return to, k.Form == Spec })
			k := 0
			VisitKernelRefs(out, form, func(q KernelRef) (string, bool) {
				if k++; q.Form == Spec && q.Text != to {
					t.Fatalf("format %d: %q becomes %q, in which a name is %q", form, text, out, q.Text)
				}
				return "", false
			})
			if k != n {
				t.Fatalf("format %d: %q with %d names becomes %q with %d", form, text, n, out, k)
			}
		}
	})
}

// TestDirect: which command lines are for a kernel without an initramfs.
func TestDirect(t *testing.T) {
	for _, c := range []struct {
		f    Format
		in   string
		want string // names of those
	}{
		{GRUB, "menuentry a {\nlinux /v root=/dev/a\ninitrd /i\n}\nmenuentry b {\nlinux /v root=/dev/b\n}\nmenuentry c {\nlinux /v root=/dev/c\nechos\ninitrdefi /i\n}\n", "/dev/b"},
		// Ubuntu's images for clouds start without an initramfs first.
		{GRUB, "if [ \"$initrdfail\" = 1 ]; then\n linux /v root=/dev/a\n initrd /i\nelse\n linux /v root=/dev/b\nfi\n", "/dev/b"},
		{GRUB, "if [ x ]; then\n linux /v root=/dev/b\nelse\n linux /v root=/dev/a\n initrd /i\nfi\n", "/dev/b"},
		{GRUB, "linux /v root=/dev/a\ninitrd\n", "/dev/a"},
		{BLS, "linux /v\noptions root=/dev/a\n", "/dev/a"},
		{BLS, "linux /v\ninitrd /i\noptions root=/dev/a\n", ""},
		{BLS, "efi /EFI/Linux/a.efi\noptions root=/dev/a\n", ""},
		{Syslinux, "APPEND root=/dev/a\nLABEL x\nKERNEL menu.c32\nAPPEND root=/dev/b\nLABEL y\nKERNEL /v\nAPPEND root=/dev/c\n", "/dev/c"},
		{Plain, "root=/dev/a", ""},
		{Shell, "GRUB_CMDLINE_LINUX=root=/dev/a", ""},
	} {
		var got []string
		VisitKernelRefs(c.in, c.f, func(k KernelRef) (string, bool) {
			if k.Direct {
				got = append(got, k.Text)
			}
			return "", false
		})
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q: %q; want %q", c.in, got, c.want)
		}
	}
}
