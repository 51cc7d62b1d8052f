package sysconf

import (
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// TestDMName: names of logical volumes below /dev/mapper, and back.
func TestDMName(t *testing.T) {
	for name, lv := range map[string]string{"vg-lv": "vg/lv", "my--vg-a--b": "my-vg/a-b", "luks": "", "vg-lv-real": ""} {
		if got := LVOfDM(name); got != lv {
			t.Errorf("LVOfDM(%s) = %q; want %q", name, got, lv)
		}
		if vg, v, ok := strings.Cut(lv, "/"); ok && DMName(vg, v) != name {
			t.Errorf("DMName(%s, %s) = %q; want %q", vg, v, DMName(vg, v), name)
		}
	}
}

// TestVolume: names that mean a logical volume without its being there.
func TestVolume(t *testing.T) {
	for spec, want := range map[string]string{
		"/dev/mapper/my--vg-a": "my-vg/a", "/dev/disk/by-id/dm-name-vg-lv": "vg/lv", "/dev/mapper/luks": "", "/dev/vg/lv": "", "/dev/disk/by-id/ata-A-B": "", "LABEL=mapper/vg-lv": "",
	} {
		if got := ParseRef(spec).Volume(); got != want {
			t.Errorf("Volume of %s = %q; want %q", spec, got, want)
		}
	}
}

// TestResolveArrays: names of arrays by mdadm.conf, their superblocks and the kernel.
func TestResolveArrays(t *testing.T) {
	l := &layout.Layout{Arrays: []layout.Array{
		{Name: "md127", Label: "host:home", UUID: "0000:1"}, {Name: "md126", Label: "old:5", UUID: "0000:2"}, {Name: "md3", Label: "host:9", UUID: "0000:3"}, {Name: "md9", UUID: "0000:4"},
	}}
	r := NewResolver(l, Options{Mdadm: ParseMdadm("ARRAY md7 UUID=0000:1\nARRAY var UUID=0000:2\nARRAY 8 UUID=0000:3\nARRAY <ignore> UUID=0000:4\n")})
	for spec, want := range map[string]string{
		"/dev/md7": "md127", "/dev/md/7": "md127", "/dev/md/home": "md127", "/dev/md/var": "md126", "/dev/md5": "md126", "/dev/md/5": "md126",
		"/dev/md8": "md3", "/dev/md/8": "md3", "/dev/md/9": "md3", "/dev/md9": "md9", "/dev/md3": "md3", "/dev/mdvar": "", "/dev/md/md7": "", "/dev/md4": "",
		"/dev/disk/by-id/md-name-host:home": "md127", "ID=md-uuid-0000:2": "md126",
	} {
		if got := r.Find(ParseRef(spec)); got.Device != want {
			t.Errorf("Find(%s) = %q; want %q", spec, got.Device, want)
		}
	}
}
