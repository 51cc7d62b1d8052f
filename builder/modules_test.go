package builder

import (
	"slices"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
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
