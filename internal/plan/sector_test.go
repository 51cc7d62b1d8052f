package plan

import (
	"fmt"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/commands"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// A FAT of any kind is made on a disk with other sectors by a command line that mkfs.fat
// takes, whatever becomes of the number of its clusters.
func TestFATSectors(t *testing.T) {
	for _, c := range []struct {
		bits     int
		from, to int64 // sectors
		cluster  int   // sectors
		size     quantity.Size
		want     int // bits
	}{
		{12, 4096, 512, 64, 698 * mib, 16}, // clusters of 256 KiB, and 64 KiB is the most
		{16, 4096, 512, 64, 9 * gib, 32},
		{12, 512, 4096, 8, 8 * mib, 12},
		{16, 512, 4096, 4, 16 * mib, 12}, // clusters of 2 KiB become 4 KiB
		{16, 512, 4096, 4, 33 * mib, 16}, // nearly as few as a FAT12 has
		{32, 512, 4096, 1, 256 * mib, 16},
		{32, 512, 4096, 1, 40 * mib, 16},
		{32, 512, 4096, 8, 600 * mib, 32},
		{32, 4096, 512, 1, 600 * mib, 32},
	} {
		t.Run(fmt.Sprintf("FAT%d of %v, %d to %d", c.bits, c.size, c.from, c.to), func(t *testing.T) {
			i := mk(t, int64(c.size), []string{"mkfs.fat", "-F", fmt.Sprint(c.bits), "-S", fmt.Sprint(c.from), "-s", fmt.Sprint(c.cluster)})
			f := &layout.Filesystem{Device: "sda1", Type: fstype.TypeVFAT, UUID: i.UUID, Size: quantity.Size(i.Size), Geometry: i.Geometry}
			if f.VFAT.Bits != c.bits {
				t.Fatalf("the source is %+v", f.VFAT)
			}
			fstype.Of(f.Type).ToSector(&f.Geometry, c.to, int64(c.size))
			run, err := commands.Mkfs(f, "FILE", c.size)
			if err != nil {
				t.Fatal(err)
			}
			if is := mk(t, int64(c.size), run...); is.VFAT == nil || is.VFAT.Bits != c.want || is.VFAT.SectorSize != c.to || is.UUID != i.UUID {
				t.Errorf("made %+v; want FAT%d", is.VFAT, c.want)
			}
		})
	}
}

// TestSectorTable: a GPT whose partitions may begin at sector 34, as sgdisk has it, is valid
// with larger sectors too.
func TestSectorTable(t *testing.T) {
	d := layout.Disk{Name: "sda", Size: 10 * gib, LogicalSector: 512, PhysicalSector: 512, Table: &layout.Table{Label: layout.GPT, GUID: "6d6b6364-7265-4c55-8b53-000000000001", FirstUsable: 34 * 512,
		Partitions: []layout.Partition{{Number: 1, Device: "sda1", Start: mib, Size: gib, Type: "0fc63daf-8483-4772-8e79-3d69d8477de4", GUID: "6d6b6364-7265-4c55-8b53-000000000002"}}}}
	toSector(&layout.Layout{}, &d, 4096)
	if d.Table.FirstUsable%4096 != 0 {
		t.Errorf("partitions from byte %d on", d.Table.FirstUsable)
	}
	if err := CheckTable(d.Table, d.LogicalSector, d.Size); err != nil {
		t.Error(err)
	}
}
