package rescue

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/templates"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestMenusGolden compares the boot menus of a medium and of a tree for network boot with
// what they were; run with -update after a change that is meant.
func TestMenusGolden(t *testing.T) {
	l := &layout.Layout{Version: layout.Version, Hostname: "host", Boot: layout.Boot{Firmware: layout.BIOS, Disks: []string{"sda"}, NVRAM: []layout.NVRAMEntry{{Active: true, Path: `\EFI\own\x.efi`}}},
		Disks: []layout.Disk{{Name: "sda", Table: &layout.Table{Label: layout.GPT, GUID: "11111111-2222-3333-4444-555555555555"}}}}
	l.Kernel.Cmdline, l.Kernel.Consoles = "root=/dev/sda1 quiet console=ttyS1,9600 memmap=64M$0x10000000", []string{"tty0", "ttyS1,9600"}
	b := &Maker{Report: progress.None{}, Config: Config{Append: "net.ifnames=0"}}
	s := &System{by: b, machine: &Machine{Layout: l}, Info: &rescue.Info{Host: "host", Kernel: "6.1.0-test", MediumID: "01234567-89ab-cdef-0123-456789abcdef", Created: time.Unix(1_700_000_000, 0).UTC()}}
	m, err := s.menu()
	if err != nil {
		t.Fatal(err)
	}
	m.Boxed, m.Mark, m.Chain, m.LocalConfig = true, "/mark", chain(l), "/isolinux/local.cfg"
	m.BIOSMemtest, m.UEFIMemtest = "/boot/memtest.bin", "/boot/memtest.efi"
	got := map[string][]byte{}
	add := func(name string, b []byte, err error) {
		if got[name] = b; err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	for name, f := range map[string]func(templates.Menu) ([]byte, error){"isolinux.cfg": templates.ISOLinux, "local.cfg": templates.SyslinuxLocal, "grub.cfg": templates.GRUB} {
		text, err := f(m)
		add(name, text, err)
	}
	if m, err = s.netMenu(PXEOptions{Source: "http://192.0.2.1/set", Host: "other"}); err != nil {
		t.Fatal(err)
	}
	n := netTree{base: "http://192.0.2.1/tree", menu: m, files: map[string]string{}, content: got, text: templates.Netboot{URL: "http://192.0.2.1/tree", Title: m.Title}}
	add("network boot", nil, n.pxelinux(&media.BIOSLoader{PXELinux: "/lpxelinux.0", LDLinux: "/ldlinux.c32", Modules: []string{"/menu.c32"}, Chain: true}))
	add("network boot", nil, n.grub(&media.UEFILoader{Net: map[string]string{"bootx64.efi": "/x"}}))
	add("network boot", nil, n.ipxe())
	delete(got, "network boot")
	if len(got) != 8 {
		t.Errorf("%d menus and texts; want 8", len(got))
	}
	for name, text := range got {
		golden := filepath.Join("testdata", filepath.Clean(name)+".golden")
		if *update {
			if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(golden, text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(golden); err != nil || string(want) != string(text) {
			t.Errorf("%s = %s; want what is in %s (%v)", name, text, golden, err)
		}
	}
}
