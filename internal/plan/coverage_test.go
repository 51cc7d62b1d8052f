package plan

import (
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/coverage"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// covered accounts for the disks of a layout: the ranges of each are its bytes, every
// partition begins and ends where ranges do, and what is saved as files is no larger than
// the copies of the file systems that are.
func covered(t *testing.T, l *layout.Layout) *coverage.Report {
	t.Helper()
	r, err := coverage.Of(l, coverage.Marks{})
	if err != nil {
		t.Fatalf("coverage.Of: %v", err)
	}
	for i, d := range l.Disks {
		at, edges := quantity.Size(0), map[quantity.Size]bool{}
		for _, x := range r.Disks[i].Ranges {
			if x.Start != at {
				t.Fatalf("%s: range at %d; want %d", d.Name, x.Start, at)
			}
			edges[at] = true
			at += x.Size
		}
		edges[at] = true
		if at != d.Size {
			t.Errorf("%s: %d bytes; want %d", d.Name, at, d.Size)
		}
		for _, p := range tableOf(&d) {
			if !p.Extended() && (!edges[p.Start] || !edges[p.Start+p.Size]) {
				t.Errorf("%s: no range begins or ends with it", p.Device)
			}
		}
	}
	return r
}

func tableOf(d *layout.Disk) []layout.Partition {
	if d.Table == nil {
		return nil
	}
	return d.Table.Partitions
}

// saved is how many bytes of disks are in a state because of a device.
func saved(r *coverage.Report, s coverage.State, dev string) (n quantity.Size) {
	for _, d := range r.Disks {
		for _, x := range d.Ranges {
			if x.State == s && x.Device == dev {
				n += x.Size
			}
		}
	}
	return n
}

// TestCoverage: the sums add up for every machine that plans are tested with. File systems
// on partitions and on volumes outside of pools have exactly their bytes on disks.
func TestCoverage(t *testing.T) {
	for seed := range uint64(300) {
		l := randomMachine(rand.New(rand.NewPCG(seed, 18)))
		r := covered(t, l)
		for i := range l.Filesystems {
			f := &l.Filesystems[i]
			if g := l.Group(f.Device); g != nil && slices.ContainsFunc(g.LVs, func(v layout.LogicalVolume) bool { return v.Pool != "" && g.Name+"/"+v.Name == f.Device }) {
				continue
			}
			if c := l.Crypt(f.Device); c != nil && strings.Contains(c.Device, "/") {
				continue // it may be in a pool
			}
			if got := saved(r, coverage.Files, f.Device); got != f.Size {
				t.Errorf("seed %d: %s (%s) has %d bytes of files on disks; want %d", seed, f.Device, f.Type, got, f.Size)
			}
		}
		if t.Failed() {
			return
		}
	}
	for _, level := range []string{"raid0", "raid1", "raid5", "raid6", "raid10", "linear"} {
		l := raid(4, level, 512*quantity.KiB)
		r := covered(t, l)
		if got, a := saved(r, coverage.Files, "md0"), l.Arrays[0].Size; got < a || level == "raid1" && got != 4*a {
			t.Errorf("%s: %d bytes of files on disks; want at least the %d of the array", level, got, a)
		}
	}
	for i, l := range []*layout.Layout{plain(), lvm(), raid1(), twoDisks(), oddGroup(t), raidGroup(t), wanted()} {
		for i := range l.VolumeGroup {
			l.VolumeGroup[i].Snapshots = []string{"snap"} // of odd.vg
		}
		r := covered(t, l)
		for _, d := range r.Disks {
			for _, x := range d.Ranges {
				if x.State == coverage.NotCovered {
					t.Errorf("machine %d: %s is not covered: %+v", i, d.Name, x)
				}
			}
		}
		for _, f := range l.Filesystems {
			if got := saved(r, coverage.Files, f.Device); l.Group(f.Device) != nil && !strings.Contains(f.Device, "thin") && got < f.Size {
				t.Errorf("machine %d: %s has %d bytes of files on disks; want at least %d", i, f.Device, got, f.Size)
			}
		}
	}
}

// FuzzCoverage: no text of a volume group, which comes from a set, makes a report panic or
// not end: it accounts for the disks, or names the place.
func FuzzCoverage(f *testing.F) {
	odd, err := os.ReadFile("testdata/odd.vg")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(odd))
	f.Add(lvm().VolumeGroup[0].Config)
	f.Fuzz(func(t *testing.T, text string) {
		l := twoDisks()
		l.VolumeGroup[0].Config = text
		if r, err := coverage.Of(l, coverage.Marks{}); err == nil {
			if err := r.Check(); err != nil {
				t.Error(err)
			}
		}
	})
}
