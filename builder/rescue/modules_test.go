package rescue

import (
	"slices"
	"testing"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/kernelcfg"
)

// TestGroupModules: restore mount --ro reads what writes through snapshots, so that also
// the smallest set of modules has the driver; a plain group needs nothing.
func TestGroupModules(t *testing.T) {
	root := layout.LogicalVolume{Name: "root"}
	pool := layout.LogicalVolume{Name: "pool", Type: layout.TypeThinPool, ThinPool: &layout.ThinPool{}}
	raid := layout.LogicalVolume{Name: "mix", Type: "raid1"}
	for name, c := range map[string]struct {
		g    layout.VolumeGroup
		want []string
	}{
		"plain":     {layout.VolumeGroup{LVs: []layout.LogicalVolume{root}}, nil},
		"thin":      {layout.VolumeGroup{LVs: []layout.LogicalVolume{root, pool}}, []string{"dm_thin_pool", "dm_snapshot"}},
		"raid":      {layout.VolumeGroup{LVs: []layout.LogicalVolume{raid}}, []string{"dm_raid", "dm_mirror", "raid0", "raid1", "raid10", "raid456", "dm_snapshot"}},
		"snapshots": {layout.VolumeGroup{LVs: []layout.LogicalVolume{root}, Snapshots: []string{"snap"}}, []string{"dm_snapshot"}},
		"caches":    {layout.VolumeGroup{LVs: []layout.LogicalVolume{root}, Caches: []string{"root"}}, []string{"dm_snapshot"}},
	} {
		if got := groupModules(&c.g); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v; want %v", name, got, c.want)
		}
	}
}

// TestNeeds: what a restore of a layout needs, by words.
func TestNeeds(t *testing.T) {
	p := &Machine{Layout: &layout.Layout{Boot: layout.Boot{Firmware: layout.UEFI}, Filesystems: []layout.Filesystem{{Type: fstype.TypeExt4}}}}
	p.Layout.Arrays = []layout.Array{{Name: "md0", Level: "raid1"}}
	p.Layout.Crypts = []layout.Crypt{{Name: "c"}}
	p.Layout.VolumeGroup = []layout.VolumeGroup{{Name: "vg0", LVs: []layout.LogicalVolume{{ThinPool: &layout.ThinPool{}}}}}
	if got, want := p.needs(), []string{"ext4", "luks", "lvm", "md", "raid1", "thin", "uefi"}; !slices.Equal(got, want) {
		t.Errorf("needs = %q; want %q", got, want)
	}
	if got := len(p.Requirements()); got <= len(kernelcfg.Base) {
		t.Errorf("%d requirements; want more than the %d of any machine", got, len(kernelcfg.Base))
	}
	b := &Maker{Config: Config{Programs: "needed", Carry: []string{"nano"}}}
	p.Carry = []initramfs.Program{{Name: "beside"}}
	var names []string
	for _, x := range b.Programs(p) {
		names = append(names, x.Name)
	}
	for _, want := range []string{"mke2fs", "cryptsetup", "lvm", "mdadm", "nano", "beside"} {
		if !slices.Contains(names, want) {
			t.Errorf("programs %q; want %s among them", names, want)
		}
	}
}
