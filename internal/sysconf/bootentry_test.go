package sysconf

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParseBLS(t *testing.T) {
	const text = "title x\n linux\t/vmlinuz-6.1 \r\n# linux /no\ninitrd /ucode.img\ninitrd /a b $tuned_initrd\noptions root=UUID=1 $kernelopts\noptions quiet\n"
	want := BootEntry{Linux: "/vmlinuz-6.1", Initrd: []string{"/ucode.img", "/a", "b"}, Options: "root=UUID=1 ro x=y quiet"}
	if got := ParseBLS(text, "ro x=y"); !reflect.DeepEqual(got, want) {
		t.Errorf("ParseBLS = %+v; want %+v", got, want)
	}
	if got := ParseBLS("efi /x.efi\noptions a\n", ""); got.Linux != "" {
		t.Errorf("an EFI program is %+v", got)
	}
}

func TestParseGRUBEntry(t *testing.T) {
	const cfg = "set r=root=/dev/a\nmenuentry 'a b' {\n linux (hd0,1)/v $r $none \"x=a b\" ro\n initrd /i (hd0)/j\n}\n\nmenuentry b {\n linuxefi /w\n initrdefi /k $x\n}\nsubmenu c { }\n"
	want := &BootEntry{Linux: "/v", Initrd: []string{"/i", "/j"}, Options: `root=/dev/a "x=a b" ro`}
	if got := ParseGRUBEntry(cfg); !reflect.DeepEqual(got, want) {
		t.Errorf("ParseGRUBEntry = %+v; want %+v", got, want)
	}
	if got := ParseGRUBEntry("menuentry x { chainloader /y }"); got != nil {
		t.Errorf("an entry without a kernel is %+v", got)
	}
	if got, want := GRUBInitrds(cfg), []string{"/i", "/k"}; !slices.Equal(got, want) {
		t.Errorf("GRUBInitrds = %q; want %q", got, want)
	}
	if got, want := FirstGRUBEntry(cfg), cfg[:strings.Index(cfg, "menuentry b")]; got != want {
		t.Errorf("FirstGRUBEntry = %q; want %q", got, want)
	}
}

func TestGrubenvValue(t *testing.T) {
	const text = "# GRUB Environment Block\nsaved_entry=a\nsaved_entry=b\nkernelopts=root=/dev/x y=\\\\z \n####"
	for name, want := range map[string]string{"saved_entry": "b", "kernelopts": `root=/dev/x y=\z `, "saved": "", "none": ""} {
		if got := GrubenvValue(text, name); got != want {
			t.Errorf("GrubenvValue(%s) = %q; want %q", name, got, want)
		}
	}
}

// FuzzBootEntry: what starts a system is read from any text, with a bounded memory, and
// the same from what is written of it.
func FuzzBootEntry(f *testing.F) {
	f.Add("set a=root=/dev/sda1\nmenuentry 'x' --class y {\n\tlinux ($root)/vmlinuz $a ro \"x y\"\n\tinitrd /initrd $b\n}\n", "ro")
	f.Add("set a="+strings.Repeat("x", 5000)+"\nlinux /v "+strings.Repeat("$a", 5000)+"\n", "x")
	seeds(f, func(name string) bool { return name == "grub.cfg" || strings.HasSuffix(name, ".conf") }, func(text string) { f.Add(text, "ro") })
	f.Fuzz(func(t *testing.T, text, kernelopts string) {
		bls := ParseBLS(text, kernelopts)
		GRUBInitrds(text)
		for _, e := range []*BootEntry{ParseGRUBEntry(FirstGRUBEntry(text)), &bls} {
			if e == nil {
				continue
			}
			n := len(e.Linux) + len(e.Options)
			for _, i := range e.Initrd {
				n += len(i)
			}
			if n > 8*len(text)+maxExpanded {
				t.Errorf("%d bytes of text give an entry of %d", len(text), n)
			}
			if e.Linux == "" || strings.ContainsAny(e.Linux+strings.Join(e.Initrd, ""), "(\n") || slices.Contains(e.Initrd, "") {
				continue
			}
			again := ParseGRUBEntry(e.Text())
			if again == nil || again.Linux != e.Linux || !slices.Equal(again.Initrd, e.Initrd) {
				t.Fatalf("%+v of %q is written as %q, and read as %#v", e, text, e.Text(), again)
			}
		}
	})
}
