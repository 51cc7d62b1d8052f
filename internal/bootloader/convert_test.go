package bootloader

import (
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

func TestFollowArrays(t *testing.T) {
	const old = "HOMEHOST <system>\nARRAY /dev/md0 metadata=1.2 UUID=11111111:00000000:00000000:00000001\nARRAY /dev/md/data metadata=1.2 UUID=11111111:00000000:00000000:00000002 name=h:data\nARRAY /dev/md9 uuid=99999999:00000000:00000000:00000009"
	l := &layout.Layout{Moved: map[string]string{"md0": "sda1", "md/root": "sda1"}, Arrays: []layout.Array{
		{Name: "md1", UUID: "11111111:00000000:00000000:00000002"},
		{Name: "md2", UUID: "22222222:00000000:00000000:00000003", Metadata: "1.2", New: true},
	}}
	want := "HOMEHOST <system>\n# not restored: ARRAY /dev/md0 metadata=1.2 UUID=11111111:00000000:00000000:00000001\nARRAY /dev/md/data metadata=1.2 UUID=11111111:00000000:00000000:00000002 name=h:data\n" +
		"ARRAY /dev/md9 uuid=99999999:00000000:00000000:00000009\nARRAY /dev/md2 metadata=1.2 UUID=22222222:00000000:00000000:00000003\n"
	got, notes := FollowArrays(old, l, renames(l, nil))
	if got != want || len(notes) != 2 {
		t.Errorf("%s%q", got, notes)
	}
	if again, notes := FollowArrays(got, l, renames(l, nil)); again != got || len(notes) != 0 {
		t.Errorf("a second time: %s%q", again, notes)
	}
	if same, notes := FollowArrays(old, &layout.Layout{}, renames(&layout.Layout{}, nil)); same != old || len(notes) != 0 {
		t.Errorf("nothing moved: %s%q", same, notes)
	}
}

// TestFollowDevices: a DEVICE line with a name of the old machine would hide arrays,
// and becomes a comment, with its continuation lines; one with names that are right
// stays, byte for byte.
func TestFollowDevices(t *testing.T) {
	l := &layout.Layout{Disks: []layout.Disk{{Name: "sda", Table: &layout.Table{Partitions: []layout.Partition{{Device: "sda1"}, {Device: "sda2", GUID: "AA"}}}}, {Name: "sdb"}}}
	r := renames(l, map[string]string{"sda": "vda", "sda1": "vda1", "sda2": "vda2"})
	for in, want := range map[string]string{
		"DEVICE /dev/sda1 /dev/sdb\n":                      "# names of the old machine: DEVICE /dev/sda1 /dev/sdb\n",
		"dev /dev/sdb\n  /dev/sda2 # x\nMAILADDR root\n":   "# names of the old machine: dev /dev/sdb\n# names of the old machine:   /dev/sda2 # x\nMAILADDR root\n",
		"DEVICE /dev/disk/by-id/gone-part1\nMAILADDR root": "# names of the old machine: DEVICE /dev/disk/by-id/gone-part1\nMAILADDR root",
		"DEVICE partitions\n":                              "",
		"DEVICE containers /dev/sd*\n":                     "",
		"DEVICE\t/dev/sdb\n":                               "",
		"DEVICE /dev/disk/by-partuuid/aa\r\n":              "",
		"# DEVICE /dev/sda1\n":                             "",
	} {
		notes := 1
		if want == "" {
			want, notes = in, 0
		}
		got, said := FollowArrays(in, l, r)
		if got != want || len(said) != notes {
			t.Errorf("%q is %q %q; want %q", in, got, said, want)
		}
		if again, said := FollowArrays(got, l, r); again != got || len(said) != 0 {
			t.Errorf("%q a second time: %q %q", in, again, said)
		}
	}
}

// TestGRUBOnESP: GRUB comes onto an EFI system partition that it was found on, and onto the
// new one of a plan for other firmware, which knows no targets.
func TestGRUBOnESP(t *testing.T) {
	for _, c := range []struct {
		name string
		b    layout.Boot
		want bool
	}{
		{"found", layout.Boot{Firmware: layout.UEFI, ESP: "vda1", Targets: []string{"x86_64-efi"}, ESPFiles: []string{"/EFI/debian/grubx64.efi"}}, true},
		{"converted to UEFI", layout.Boot{Firmware: layout.UEFI, ESP: "vda1"}, true},
		{"converted to BIOS", layout.Boot{Firmware: layout.BIOS, ESP: "vda1", Disks: []string{"vda"}}, false},
		{"another loader's files", layout.Boot{Firmware: layout.UEFI, ESP: "vda1", ESPFiles: []string{"/EFI/BOOT/BOOTX64.EFI"}}, false},
	} {
		if got := grubOnESP(&c.b); got != c.want {
			t.Errorf("%s: grubOnESP(%+v) = %v; want %v", c.name, c.b, got, c.want)
		}
	}
}
